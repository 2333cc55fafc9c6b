// The APIs by which a training is started and followed, before the interpreter: what Step Functions would answer of an
// execution of the real definition, and what SageMaker, CloudWatch and its logs would of its job and tasks.
//
//     node api.mjs <training.asl.json> <folder of service models> <port>
//
// An execution runs to its end at once, on a clock that jumps, and its events are told a few at a time, so that who follows
// it sees it go on. PUT /script sets what the next executions meet: `script` by step as in scenarios.mjs, `pace` in events a
// question, `logs` by the first part of a log's name, `refuse` by operation: a list of [code, message], one for each of the
// next calls. GET /asked tells what was asked.
//
// The shapes are those of the services' API models. What this can't show: how AWS orders and batches events, and its texts.

import { seconds } from './clock.mjs';
import { createServer } from 'node:http';
import { readFileSync } from 'node:fs';
import { execute, filledIn, statesOf } from './execution.mjs';
import { serviceModel } from './service_model.mjs';

const [file, folder, port] = process.argv.slice(2);
const machine = filledIn(readFileSync(file, 'utf8'));
const states = Object.fromEntries(statesOf(machine.definition));
const models = Object.fromEntries(
  ['ecs', 'emr-serverless', 'sagemaker', 's3', 'sns'].map((name) => [name, serviceModel(folder, name)]),
);
const REGION = 'us-east-1';
// The most events in a page: few, so that there are pages.
const PAGE = 7;
const FIGURES = { trees: 240, recall: 0.534, devices: 812 };

let world = { script: {}, pace: 9, logs: {}, refuse: {} };
const asked = [];
const executions = new Map();
const json = JSON.stringify;

// ---- an execution, as Step Functions tells it

/** The history of an execution that has ended, by the interpreter's events and the calls that were made. */
function historyOf(ended) {
  const history = [];
  const calls = {};
  for (const call of ended.world.calls) (calls[call.step] ??= []).push(call);
  // The last event on each way: within a share of a map there is one of its own.
  const last = new Map();
  const add = (way, type, at, details = {}, after = last.get(way) ?? 0) => {
    const event = { id: history.length + 1, previousEventId: after, type, timestamp: at / 1000, ...details };
    history.push(event);
    last.set(way, event.id);
    return event.id;
  };
  const failed = new Set();
  const schedule = (way, name, at) => {
    const [, resourceType, resource] = /^arn:aws:states:::(.*):(\w+(?:\.sync)?)$/.exec(states[name].Resource) ?? [];
    const parameters = json(calls[name]?.shift()?.parameters ?? {});
    add(way, 'TaskScheduled', at, { taskScheduledEventDetails: { resourceType, resource, region: REGION, parameters } });
    add(way, 'TaskStarted', at, { taskStartedEventDetails: { resourceType, resource } });
  };
  for (const event of ended.events) {
    const { state, timestamp: at } = event;
    // Maps follow each other, so a share is known by its number.
    const way = event.index === undefined ? 'main' : `share ${event.index}`;
    switch (event.type) {
      case 'ExecutionStarted':
        add(way, event.type, at, { executionStartedEventDetails: { input: json(event.input) } });
        break;
      case 'ExecutionSucceeded':
        add('main', event.type, at, { executionSucceededEventDetails: { output: json(event.output) } });
        break;
      case 'ExecutionFailed':
        add('main', event.type, at, { executionFailedEventDetails: { error: event.Error, cause: event.Cause } });
        break;
      case 'StateEntered':
        failed.delete(way);
        add(way, `${state.type}StateEntered`, at, { stateEnteredEventDetails: { name: state.name, input: json(state.input) } });
        if (state.type === 'Task') schedule(way, state.name, at);
        if (state.type === 'Map') {
          const length = ended.events.filter((one) => one.type === 'MapIterationStarted' && one.parentState.name === state.name).length;
          add(way, 'MapStateStarted', at, { mapStateStartedEventDetails: { length } });
        }
        break;
      case 'MapIterationStarted':
        add(way, event.type, at, { mapIterationStartedEventDetails: { name: event.parentState.name, index: event.index } }, last.get('main'));
        break;
      case 'MapIterationSucceeded':
        add(way, event.type, at, { mapIterationSucceededEventDetails: { name: event.parentState.name, index: event.index } });
        break;
      case 'StateFailed':
        if (state.type !== 'Task') break;
        failed.add(way);
        if (event.Error === 'States.Timeout') add(way, 'TaskTimedOut', at, { taskTimedOutEventDetails: { resourceType: 'x', resource: 'x', error: event.Error } });
        else add(way, 'TaskFailed', at, { taskFailedEventDetails: { resourceType: 'x', resource: 'x', error: event.Error, cause: event.Cause } });
        break;
      case 'StateRetried':
        failed.delete(way);
        schedule(way, state.name, at);
        break;
      case 'StateExited':
        if (state.type === 'Task' && !failed.has(way)) add(way, 'TaskSucceeded', at, { taskSucceededEventDetails: { resourceType: 'x', resource: 'x' } });
        add(way, `${state.type}StateExited`, at, { stateExitedEventDetails: { name: state.name, output: json(state.output) } });
        break;
    }
  }
  return history;
}

const started = Date.now();

async function start({ stateMachineArn, name, input = '{}' }) {
  const arn = `${stateMachineArn.replace(':stateMachine:', ':execution:')}:${name}`;
  const there = executions.get(arn);
  if (there) {
    if (there.input !== input || there.told >= there.history.length) throw refusal('ExecutionAlreadyExists', `Execution Already Exists: '${arn}'`);
    return { executionArn: arn, startDate: there.began / 1000 };
  }
  Date.now = () => started + seconds() * 1000;
  const ended = await execute(machine, models, { input: JSON.parse(input), script: world.script, name });
  const history = historyOf(ended);
  executions.set(arn, { arn, name, input, ended, history, told: 0, began: started, pace: world.pace, logs: world.logs });
  return { executionArn: arn, startDate: started / 1000 };
}

function found({ executionArn }) {
  const execution = executions.get(executionArn);
  if (!execution) throw refusal('ExecutionDoesNotExist', `Execution Does Not Exist: '${executionArn}'`);
  return execution;
}

function statusOf(execution) {
  if (execution.stopped) return 'ABORTED';
  if (execution.told < execution.history.length) return 'RUNNING';
  return execution.ended.error === undefined ? 'SUCCEEDED' : 'FAILED';
}

function describe(execution) {
  // It goes on by being asked about.
  if (!execution.stopped) execution.told = Math.min(execution.history.length, execution.told + execution.pace);
  const status = statusOf(execution);
  const { error, cause, output } = execution.ended;
  const stops = execution.began / 1000 + 60;
  return {
    executionArn: execution.arn, name: execution.name, status, startDate: execution.began / 1000, input: execution.input,
    ...(status === 'RUNNING' ? {} : { stopDate: execution.history[execution.told - 1]?.timestamp ?? stops }),
    ...(status === 'SUCCEEDED' ? { output: json(output) } : {}),
    ...(status === 'FAILED' ? { error, cause } : {}),
    ...(status === 'ABORTED' ? execution.stopped : {}),
  };
}

function historyPage(execution, { reverseOrder, nextToken, maxResults = 100 }) {
  const told = execution.history.slice(0, execution.told);
  const all = reverseOrder ? told.reverse() : told;
  const begin = nextToken ? Number(Buffer.from(nextToken, 'base64').toString()) : 0;
  const end = begin + Math.min(PAGE, maxResults);
  return { events: all.slice(begin, end), ...(end < all.length ? { nextToken: Buffer.from(`${end}`).toString('base64') } : {}) };
}

// ---- the operations

const OPERATIONS = {
  StartExecution: start,
  DescribeExecution: (body) => describe(found(body)),
  GetExecutionHistory: (body) => historyPage(found(body), body),
  ListExecutions: ({ statusFilter, maxResults = 100 }) => ({
    executions: [...executions.values()].reverse()
      .filter((one) => !statusFilter || statusOf(one) === statusFilter).slice(0, maxResults)
      .map((one) => ({ executionArn: one.arn, name: one.name, stateMachineArn: 'x', status: statusOf(one), startDate: one.began / 1000 })),
  }),
  StopExecution: (body) => {
    const { error, cause } = body;
    found(body).stopped = { error, cause };
    return { stopDate: Date.now() / 1000 };
  },
  DescribeTrainingJob: ({ TrainingJobName }) => {
    const [execution] = [...executions.values()].filter((one) => one.ended.world.calls.some((call) => call.parameters.TrainingJobName === TrainingJobName));
    if (!execution) throw refusal('ValidationException', 'Requested resource not found.');
    const over = execution.history.slice(0, execution.told).some((event) => event.stateExitedEventDetails?.name === 'Train');
    const figures = Object.entries(FIGURES).map(([MetricName, Value]) => ({ MetricName, Value, Timestamp: 1 }));
    return { TrainingJobName, SecondaryStatus: over ? 'Completed' : 'Training', ...(over ? { FinalMetricDataList: figures } : {}) };
  },
  GetLogEvents: ({ logStreamName }) => {
    const lines = Object.assign({}, ...[...executions.values()].map((one) => one.logs))[logStreamName.split('/')[0]];
    if (!lines) throw refusal('ResourceNotFoundException', 'The specified log stream does not exist.');
    return { events: lines.map((message, n) => ({ timestamp: n, message })) };
  },
  GetMetricData: () => '<GetMetricDataResponse><GetMetricDataResult><MetricDataResults><member><Id>trees</Id><Values><member>120.0</member><member>110.0</member></Values></member></MetricDataResults></GetMetricDataResult></GetMetricDataResponse>',
};

const refusal = (code, message) => Object.assign(new Error(message), { code });

async function answer(request, body) {
  if (request.method === 'PUT' && request.url === '/script') {
    world = { script: {}, pace: 9, logs: {}, refuse: {}, ...JSON.parse(body) };
    asked.length = 0;
    return [200, '{}'];
  }
  if (request.url === '/asked') return [200, json(asked)];
  const operation = request.headers['x-amz-target']?.split('.').at(-1) ?? new URLSearchParams(body).get('Action');
  const is = OPERATIONS[operation];
  if (!is) return [400, json({ __type: 'UnknownOperationException', message: `${operation}` })];
  const given = body.startsWith('{') ? JSON.parse(body) : Object.fromEntries(new URLSearchParams(body));
  asked.push([operation, given]);
  const refused = world.refuse[operation]?.shift();
  if (refused) return [400, json({ __type: refused[0], message: refused[1] })];
  try {
    const said = await is(given);
    return [200, typeof said === 'string' ? said : json(said)];
  } catch (thrown) {
    if (!thrown.code) console.error(thrown);
    return [thrown.code ? 400 : 500, json({ __type: thrown.code ?? 'InternalFailure', message: thrown.message })];
  }
}

createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', async () => {
    const [status, text] = await answer(request, Buffer.concat(parts).toString());
    response.writeHead(status, { 'content-type': text.startsWith('<') ? 'text/xml' : 'application/x-amz-json-1.0', 'x-amzn-requestid': 'x' });
    response.end(text);
  });
}).listen(Number(port), '127.0.0.1');
