// A clock that jumps. The interpreter waits by `setTimeout`: for a retry, for a step that takes too long. Here a timer
// fires as soon as nothing else is left to do, in the order of the moments they are set for, so hours pass in no time.

/** Node has this from 22 on; the interpreter relies on it. */
Promise.withResolvers ??= () => {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
};

// Chance that is the same in each run: the interpreter draws names and pauses by it.
let drawn = 1;
Math.random = () => {
  drawn = (Math.imul(drawn, 1664525) + 1013904223) >>> 0;
  return drawn / 2 ** 32;
};

let now = 0;
let order = 0;
let timers = [];
globalThis.setTimeout = (run, ms = 0) => {
  const timer = { at: now + ms, order: order++, run };
  timers.push(timer);
  return timer;
};
globalThis.clearTimeout = (timer) => {
  timers = timers.filter((other) => other !== timer);
};

/** Seconds since the clock was last set to zero. */
export const seconds = () => now / 1000;

/** Waits, on this clock. */
export const sleep = (s) =>
  new Promise((resolve) => {
    setTimeout(resolve, s * 1000);
  });

/** Runs something from the moment zero on, and gives what it gives. */
export async function running(begin) {
  [now, timers] = [0, []];
  let done = false;
  const promise = begin().finally(() => {
    done = true;
  });
  promise.catch(() => {});
  for (let idle = 0; !done;) {
    // Everything that can go on without time passing does so before this returns.
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
    if (done) break;
    const next = timers.reduce((a, b) => (!a || b.at < a.at || (b.at === a.at && b.order < a.order) ? b : a), null);
    if (next) {
      clearTimeout(next);
      [now, idle] = [next.at, 0];
      next.run();
    } else if (++idle > 1000) {
      throw new Error('the execution waits for nothing');
    }
  }
  return promise;
}
