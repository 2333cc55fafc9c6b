// The state machine of training, executed by an interpreter of somebody else's.
//
//     node main.mjs <training.asl.json> <folder of service models> [--quick]
//     node main.mjs <training.asl.json> <folder of service models> --commands
//
// Runs it through success and each failure, with stand-ins for the services, and shows that a broken one is found out.
// Exit code 1 names what is wrong. `--quick` breaks fewer parts of it; `--commands` prints the command lines of the tasks
// only, as JSON. Needs `asl-validator` and `aws-local-stepfunctions` beside it.
//
// What an execution here does not show:
// - The interpreter lets nobody catch that an intrinsic function failed, so the input is looked over by rules before any
//   function is given it. To it a null is nothing, and a rule `IsPresent: false` never holds, hence `Not`.
// - HeartbeatSeconds is for activities and callbacks: a step that waits for a job (`.sync`) has no heartbeat.
// - Which parameters of its services Step Functions passes on: all that the services know are let through here.
// - How AWS names the errors of its services: those in the definition are the ones that it documents and others retry.
// - Whether a job that was stopped comes to the step as its result or as its failure: both are tried.

import './clock.mjs';
import { readFileSync } from 'node:fs';
import validate from 'asl-validator';
import { faultsOfText } from './checks.mjs';
import { coverage } from './coverage.mjs';
import { execute, filledIn } from './execution.mjs';
import { mutations } from './mutations.mjs';
import { put } from './scenarios.mjs';
import { serviceModel } from './service_model.mjs';

const [file, folder, mode] = process.argv.slice(2);
if (!file || !folder) {
  console.error('usage: node main.mjs <training.asl.json> <folder of service models> [--quick | --commands]');
  process.exit(2);
}
const text = readFileSync(file, 'utf8');
const models = Object.fromEntries(
  ['ecs', 'emr-serverless', 'sagemaker', 's3', 'sns'].map((name) => [name, serviceModel(folder, name)]),
);

/** Looks a definition over and runs it through everything, until `enough` says so of the faults found. */
async function faultsOf(definition, enough, { covered, first } = {}) {
  const machines = ['ecs', 'spark'].map((PrepareWith) => filledIn(definition, { PrepareWith }));
  const faults = faultsOfText(definition, machines[0]);
  return enough(faults) ? faults : [...faults, ...(await put({ machines, models, covered, first }, enough))];
}

/** Whether it is a state machine at all. */
function validity(definition) {
  const valid = validate(filledIn(definition).definition, { checkPaths: true, checkArn: true });
  return valid.isValid ? [] : [`asl-validator: ${valid.errorsText('; ')}`];
}

if (mode === '--commands') {
  const { world } = await execute(filledIn(text), models);
  const commands = world.calls.flatMap((call) => call.parameters.Overrides?.ContainerOverrides.map((one) => one.Command) ?? []);
  console.log(JSON.stringify(commands));
  process.exit(0);
}

const { add, missing, wanted } = coverage(JSON.parse(text));
const [faults, began] = [validity(text), performance.now()];
let executions = 0;
faults.push(
  ...(await faultsOf(text, () => false, {
    covered: (...ran) => {
      executions += 1;
      add(...ran);
    },
  })),
);
faults.push(...missing().map((part) => `never exercised: ${part}`));
const bytes = Buffer.byteLength(JSON.stringify(JSON.parse(text)));
console.log(`${executions} executions, ${wanted} states, ways, retriers and catchers exercised, ${bytes} bytes`);

if (validity(text.replace('"Next": "Train"', '"Next": "Trian"')).length === 0)
  faults.push('not found out: a state that is not there');

let broken = 1;
for (const [name, fault, spoilt, first] of faults.length ? [] : mutations(text, mode === '--quick' ? 8 : 1)) {
  const isFound = (some) => some.some((one) => fault.test(one));
  const found = await faultsOf(spoilt, isFound, { first });
  broken += 1;
  if (!isFound(found)) faults.push(`not found out: ${name} (found: ${found[0] ?? 'nothing'})`);
}
console.log(`${broken} broken definitions found out, ${((performance.now() - began) / 1000).toFixed(1)} s in all`);
faults.forEach((fault) => console.error(`fault: ${fault}`));
process.exit(faults.length ? 1 : 0);
