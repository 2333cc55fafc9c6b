// One execution of a definition by the interpreter, with stand-ins for the services.

import { running, seconds } from './clock.mjs';
import { VALUES, World } from './services.mjs';
import { StateMachine } from 'aws-local-stepfunctions';

let executions = 0;

/**
 * Executes a definition, whose placeholders are filled in, and gives what came of it: `output`, or `error` and `cause`; how
 * long it took; what the world has seen; and the events.
 */
export async function execute(machine, models, { input = {}, script = {}, name = `execution-${++executions}` } = {}) {
  const world = new World(models, machine.values, structuredClone(script), name);
  const handlers = Object.fromEntries(
    [...statesOf(machine.definition)]
      .filter(([, state]) => state.Type === 'Task')
      .map(([step, state]) => [step, world.handler(step, state.Resource)]),
  );
  const events = [];
  const ended = { world, events };
  await running(async () => {
    const execution = new StateMachine(machine.definition, { validationOptions: { noValidate: true } }).run(input, {
      overrides: { taskResourceLocalHandlers: handlers },
      context: { Execution: { Id: `arn:aws:states:eu-west-1:123456789012:execution:vitals:${name}`, Name: name } },
    });
    const listening = (async () => {
      for await (const event of execution.eventLogs) events.push(event);
    })();
    try {
      ended.output = await execution.result;
    } catch (thrown) {
      const cause = thrown.cause ?? thrown;
      Object.assign(ended, { error: cause.name, cause: cause.message });
    }
    ended.took = seconds();
    await listening;
  });
  return ended;
}

/** A definition with values in place of its placeholders. */
export function filledIn(text, more = {}) {
  const values = { ...VALUES, ...more };
  const missing = [];
  const filled = text.replace(/\$\{(\w+)\}/g, (_, name) => values[name] ?? (missing.push(name), ''));
  return { definition: JSON.parse(filled), values, missing };
}

/** Every state of a definition by its name, those within others too. */
export function* statesOf(definition) {
  for (const [name, state] of Object.entries(definition.States)) {
    yield [name, state];
    if (state.ItemProcessor) yield* statesOf(state.ItemProcessor);
  }
}
