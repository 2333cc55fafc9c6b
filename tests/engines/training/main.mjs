// The state machine of training, executed by an interpreter of somebody else's.
//
//     node main.mjs <training.asl.json> <folder of service models> [--quick]
//
// Runs it through success and each failure, with stand-ins for the services, and shows that a broken one is found out.
// Exit code 1 names what is wrong. Needs `asl-validator` and `aws-local-stepfunctions` beside it.
//
// What the interpreter does not do as AWS does, and is therefore looked up rather than executed, or not known from here:
// it lets nobody catch the failure of an intrinsic function; a rule `IsPresent: false` never holds (hence `Not`); no
// service shows how it names its errors: those in the definition are from AWS's documentation and from what others retry.

import './clock.mjs';
import { readFileSync } from 'node:fs';
import validate from 'asl-validator';
import { faultsOfText } from './checks.mjs';
import { coverage } from './coverage.mjs';
import { filledIn } from './execution.mjs';
import { mutations } from './mutations.mjs';
import { put } from './scenarios.mjs';
import { serviceModel } from './service_model.mjs';

const [file, folder, quick] = process.argv.slice(2);
if (!file || !folder) {
  console.error('usage: node main.mjs <training.asl.json> <folder of service models> [--quick]');
  process.exit(2);
}
const text = readFileSync(file, 'utf8');
const models = Object.fromEntries(['ecs', 'emr-serverless', 'sagemaker', 's3', 'sns'].map((name) => [name, serviceModel(folder, name)]));

/** Looks a definition over and runs it through everything, until `enough` says so of the faults found. */
async function faultsOf(definition, enough, { covered, first } = {}) {
  const machines = ['ecs', 'spark'].map((PrepareWith) => filledIn(definition, { PrepareWith }));
  const faults = faultsOfText(definition, machines[0]);
  return enough(faults) ? faults : [...faults, ...await put({ machines, models, covered, first }, enough)];
}

/** Whether it is a state machine at all. */
function validity(definition) {
  const valid = validate(filledIn(definition).definition, { checkPaths: true, checkArn: true });
  return valid.isValid ? [] : [`asl-validator: ${valid.errorsText('; ')}`];
}

const { add, missing, wanted } = coverage(JSON.parse(text));
const [faults, began] = [validity(text), performance.now()];
let executions = 0;
faults.push(...await faultsOf(text, () => false, { covered: (...ran) => { executions += 1; add(...ran); } }));
faults.push(...missing().map((part) => `never exercised: ${part}`));
const bytes = Buffer.byteLength(JSON.stringify(JSON.parse(text)));
console.log(`${executions} executions, ${wanted} states, ways, retriers and catchers exercised, ${bytes} bytes`);

if (validity(text.replace('"Next": "Train"', '"Next": "Trian"')).length === 0) faults.push('not found out: a state that is not there');

let broken = 1;
for (const [name, fault, spoilt, first] of faults.length ? [] : mutations(text, quick ? 4 : 1)) {
  const isFound = (some) => some.some((one) => fault.test(one));
  const found = await faultsOf(spoilt, isFound, { first });
  broken += 1;
  if (!isFound(found)) faults.push(`not found out: ${name} (found: ${found[0] ?? 'nothing'})`);
}
console.log(`${broken} broken definitions found out, ${((performance.now() - began) / 1000).toFixed(1)} s in all`);
faults.forEach((fault) => console.error(`fault: ${fault}`));
process.exit(faults.length ? 1 : 0);
