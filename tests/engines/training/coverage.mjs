// What of a definition has been exercised: each state, each way out of a choice, each retrier and each catcher.

import { statesOf } from './execution.mjs';

/** Gathers over executions. `add` takes a definition and the events of an execution of it, `missing` what is left. */
export function coverage(definition) {
  const wanted = new Set(parts(definition).values());
  const seen = new Set();
  return {
    wanted: wanted.size,
    add(executed, events) {
      const names = parts(executed);
      const see = (part) => seen.add(names.get(part));
      const states = Object.fromEntries(statesOf(executed));
      let left = null;
      for (const event of events) {
        const name = event.state?.name;
        if (event.type === 'StateEntered') {
          see(states[name]);
          if (left?.Type === 'Choice') seen.add(`way from ${left.name} to ${name}`);
          left = null;
        }
        if (event.type === 'StateExited') left = { ...states[name], name };
        if (event.type === 'StateRetried') see(event.retry.retrier);
        if (event.type === 'StateCaught') see(event.catch.catcher);
      }
    },
    missing: () => [...wanted].filter((name) => !seen.has(name)),
  };
}

/** Everything that is to be exercised, with a name for each. */
function parts(definition) {
  const found = new Map();
  for (const [name, state] of statesOf(definition)) {
    found.set(state, `state ${name}`);
    (state.Retry ?? []).forEach((retrier, k) => found.set(retrier, `retrier ${k + 1} of ${name}`));
    (state.Catch ?? []).forEach((catcher, k) => found.set(catcher, `catcher ${k + 1} of ${name}`));
    const ways = [...(state.Choices ?? []).map((rule) => rule.Next), ...(state.Default ? [state.Default] : [])];
    for (const way of ways) found.set({}, `way from ${name} to ${way}`);
  }
  return found;
}
