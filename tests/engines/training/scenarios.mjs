// What a training may meet, and what must come of it. The definition itself says which steps, retriers and catchers
// there are, so a new one is put to the test without a word here.

import { isDeepStrictEqual } from 'node:util';
import { execute, statesOf } from './execution.mjs';
import { PASSING, VALUES } from './services.mjs';

/** By which words a notice names the step that failed. */
const WORDS = {
  'Close days': 'closing days',
  Prepare: 'preparing the sample',
  'Prepare by Spark': 'preparing the sample',
  Train: 'training',
  Evaluate: 'comparing the models',
  Outcome: 'comparing the models',
  'Score a shard': 'scoring again',
  'Put in force': 'scoring again',
};

/** How long a step must be able to take, in seconds. */
const LONGEST = {
  'Close days': 12600,
  'Put in force': 12600,
  Prepare: 12600,
  'Prepare by Spark': 13800,
  Evaluate: 12600,
  'Score a shard': 39600,
};

const STOPPED = (Secondary) => ({ result: { TrainingJobStatus: 'Stopped', SecondaryStatus: Secondary } });
const FAILED = (cause) => ({ error: 'States.TaskFailed', cause: JSON.stringify(cause) });
const TAKEN_AWAY = FAILED({
  StopCode: 'SpotInterruption',
  StoppedReason: 'Your Spot Task was interrupted.',
  TaskArn: 'arn:aws:ecs:task/1',
});
/** How a job on spot capacity ends without a model, through no fault of its own. */
const NO_SPOT = {
  'ends as stopped': { takes: 28800, ...STOPPED('MaxWaitTimeExceeded') },
  'ends as failed': { takes: 28800, ...FAILED({ TrainingJobStatus: 'Stopped', SecondaryStatus: 'MaxWaitTimeExceeded' }) },
  'is taken away': STOPPED('Interrupted'),
  'is not there': FAILED({ FailureReason: 'CapacityError: Unable to provision requested ML compute capacity.' }),
  'is on a machine at fault': FAILED({ FailureReason: 'InternalServerError: We encountered an internal error.' }),
  'is not allowed': { error: 'SageMaker.ResourceLimitExceededException', cause: 'The limit for spot instances is 0.' },
};

/**
 * Runs every scenario on a definition, with each way to prepare, until `enough` says so of the faults; those that are about
 * the step `first` are the first. Gives the faults.
 */
export async function put({ machines, models, covered, first }, enough) {
  const all = machines.flatMap((machine) => [...scenarios(machine)].map((scenario) => [machine, ...scenario]));
  const isAbout = ([, name]) => Number(first !== undefined && name.startsWith(`${first} `));
  const faults = [];
  for (const [machine, name, options, judge] of all.sort((a, b) => isAbout(b) - isAbout(a))) {
    const ended = await execute(machine, models, options);
    covered?.(machine.definition, ended.events);
    const found = [...ended.world.faults, ...judged(judge, ended)];
    faults.push(...found.map((fault) => `${name} [${machine.values.PrepareWith}]: ${fault}`));
    if (enough(faults)) break;
  }
  return faults;
}

/** What a judge finds. A definition that is far off may leave nothing to look at, which is a fault as well. */
function judged(judge, ended) {
  try {
    return judge(ended);
  } catch (thrown) {
    return [`can't be judged: ${thrown.message}`];
  }
}

function* scenarios(machine) {
  yield* goingWell(machine);
  yield* inputs();
  yield* withoutSpot();
  yield* failures(machine);
  yield* retries(machine);
  yield* times(machine);
}

// ---- what is expected

const unless = (holds, fault) => (holds ? [] : [fault]);
const callsOf = (ended, step) => ended.world.calls.filter((call) => call.step === step);

/** It ended well, and said so once: with the new model in force, or not. */
function well(ended, inForce = true) {
  const subjects = ended.world.notices.map((notice) => notice.Subject);
  const wanted = { model: 'm-0123456789ab', in_force: inForce };
  return [
    ...unless(
      isDeepStrictEqual(ended.output, wanted),
      `ended with ${JSON.stringify(ended.output)}, ${ended.error}: ${ended.cause}`,
    ),
    ...unless(Boolean(ended.world.inForce) === inForce, `in force: ${ended.world.inForce}`),
    ...unless(subjects.join() === `vitals: a new model is ${inForce ? 'in force' : 'kept'}`, `told ${JSON.stringify(subjects)}`),
  ];
}

/** It failed with an error, and said once why, in these words. */
function badly(ended, error, ...words) {
  const [notice] = ended.world.notices;
  return [
    ...unless(ended.error === error, `ended with ${ended.error} (${ended.cause}), not ${error}`),
    ...unless(ended.world.notices.length === 1 && notice.Subject === 'vitals: training has failed', 'told no failure'),
    ...words.flatMap((word) =>
      unless(
        ended.cause?.includes(word) && notice?.Message.includes(word),
        `says nothing of \`${word}\`: ${ended.cause}; told: ${notice?.Message}`,
      ),
    ),
  ];
}

// ---- scenarios

/** The command lines of the tasks, word for word. */
function commands(ended, { since = '1970-01-01', until, shards = 4 } = {}) {
  const [lake, artifacts] = [`--lake=s3://${VALUES.DataBucket}`, `s3://${VALUES.ArtifactsBucket}`];
  const command = (step) => callsOf(ended, step).map((call) => call.parameters.Overrides.ContainerOverrides[0].Command);
  const run = ended.world.sample.slice(0, -'sample/'.length);
  const job = callsOf(ended, 'Train')[0].parameters.TrainingJobName;
  const [spark] = callsOf(ended, 'Prepare by Spark').map((call) => call.parameters.JobDriver.SparkSubmit.EntryPointArguments);
  // Where no end is asked for, it is the moment at which the execution began.
  const said = (spark ?? command('Prepare')[0]).at(-1).replace('--until=', '');
  const span = [`--since=${since}`, `--until=${said}`];
  const expected = {
    ...(spark ? {} : { 'Close days': [['compact', lake]], Prepare: [['train', lake, `--prepare=${run}sample/`, ...span]] }),
    Evaluate: [
      [
        'models',
        'adopt',
        `${artifacts}/${VALUES.ModelsPrefix}/${job}/output/model.tar.gz`,
        lake,
        `--sample=${run}sample/`,
        '--promote=never',
        `--outcome=${run}outcome.json`,
      ],
    ],
    'Score a shard': Array.from({ length: shards }, (_, k) => [
      'score',
      lake,
      '--candidate=m-0123456789ab',
      `--job=${job}`,
      `--shard=${k + 1}/${shards}`,
    ]),
    'Put in force': [['models', 'promote', 'm-0123456789ab', lake, `--job=${job}`]],
  };
  return [
    ...Object.entries(expected).flatMap(([step, lines]) =>
      unless(isDeepStrictEqual(command(step), lines), `${step} runs ${JSON.stringify(command(step))}`),
    ),
    ...unless(!spark || isDeepStrictEqual(spark, [lake, `--sample=${run}sample/`, ...span]), `Spark is given ${spark}`),
    ...unless(until ? said === until : Math.abs(Date.parse(said) - ended.events[0].timestamp) < 60_000, `prepares until ${said}`),
    ...unless(/^s3:\/\/[^/]+\/training\/[0-9a-f-]{36}\/$/.test(run), `the sample is at ${ended.world.sample}`),
  ];
}

function* goingWell() {
  const learning = (ended, wanted) => {
    const hyper = callsOf(ended, 'Train')[0]?.parameters.HyperParameters;
    return unless(isDeepStrictEqual(hyper, wanted), `learns with ${JSON.stringify(hyper)}`);
  };
  yield [
    'nothing asked for',
    {},
    (ended) => [...well(ended), ...commands(ended), ...learning(ended, { alarms_per_device_day: '0.25', seed: '1' })],
  ];
  const all = {
    since: '2026-01-31',
    until: '2026-02-28T05:00:00Z',
    promote: 'yes',
    seed: 42,
    alarm_budget: 0.1,
    shards: 2,
    hyperparameters: { since: '2026-02-01' },
  };
  yield [
    'everything asked for',
    { input: all },
    (ended) => [
      ...well(ended),
      ...commands(ended, all),
      ...learning(ended, { alarms_per_device_day: '0.1', seed: '42', since: '2026-02-01' }),
    ],
  ];
  yield [
    'a seed among the hyperparameters',
    { input: { hyperparameters: { seed: '7' } } },
    (ended) => [...well(ended), ...learning(ended, { alarms_per_device_day: '0.25', seed: '7' })],
  ];
  yield [
    'a time that looks like a flag',
    { input: { since: '--now' } },
    (ended) => [...well(ended), ...commands(ended, { since: '--now' })],
  ];
  yield [
    'not to be promoted',
    { input: { promote: 'no' } },
    (ended) => [...well(ended, false), ...unless(!ended.world.shards, 'scores all the same')],
  ];
  yield [
    'a model that is worse',
    { script: { worse: true } },
    (ended) => [
      ...well(ended, false),
      ...unless(ended.world.notices[0]?.Message.includes('one in force: false'), 'the notice does not say so'),
    ],
  ];
  yield [
    'a model that is worse, to be promoted all the same',
    { input: { promote: 'always' }, script: { worse: true } },
    (ended) => [...well(ended), ...commands(ended)],
  ];
  yield [
    'many shards',
    { input: { shards: 25 } },
    (ended) => [
      ...well(ended),
      ...commands(ended, { shards: 25 }),
      ...unless(ended.world.most === 10, `${ended.world.most} tasks at once, not 10`),
    ],
  ];
}

function* inputs() {
  const bad = [
    [],
    ['x'],
    'x',
    5,
    null,
    true,
    { since: 5 },
    { since: null },
    { until: 5 },
    { alarm_budget: '0.1' },
    { alarm_budget: 0 },
    { alarm_budget: 100.5 },
    { seed: '1' },
    { seed: -1 },
    { seed: 1.5 },
    { promote: 'maybe' },
    { promote: true },
    { promte: 'no' },
    { since: '30d', devices: 'all' },
    { shards: '4' },
    { shards: 0 },
    { shards: 101 },
    { shards: 1.5 },
    ...['x', 5, null, true, [], ['a'], { seed: 6 }, { seed: {} }].map((hyperparameters) => ({ hyperparameters })),
  ];
  for (const input of bad) {
    yield [
      `input ${JSON.stringify(input)}`,
      { input },
      (ended) => [
        ...badly(ended, 'BadInput', 'reading the input', 'hyperparameters (object of texts)'),
        ...unless(ended.world.calls.length === 1, 'something was begun'),
      ],
    ];
  }
  for (const input of [
    { alarm_budget: 0.001 },
    { alarm_budget: 100 },
    { seed: 0 },
    { until: '30d' },
    { shards: 1 },
    { shards: 100 },
  ]) {
    yield [`input ${JSON.stringify(input)}`, { input }, (ended) => well(ended)];
  }
}

/** Spot capacity that never came, or went: once more, on demand, and that only once. */
function* withoutSpot() {
  const spots = (ended) =>
    callsOf(ended, 'Train')
      .map((call) => call.parameters.EnableManagedSpotTraining)
      .join();
  for (const [how, outcome] of Object.entries(NO_SPOT)) {
    yield [
      `spot capacity ${how}`,
      { script: { Train: [outcome] } },
      (ended) => [...well(ended), ...unless(spots(ended) === 'true,false', `trained with spot ${spots(ended)}`)],
    ];
  }
  const none = FAILED({ FailureReason: 'CapacityError: none at all' });
  yield [
    'no capacity at all',
    { script: { Train: [none, none] } },
    (ended) => [
      ...badly(ended, 'States.TaskFailed', 'failed at training', 'CapacityError: none at all'),
      ...unless(spots(ended) === 'true,false', spots(ended)),
    ],
  ];
  for (const how of ['Stopped', 'MaxRuntimeExceeded']) {
    yield [
      `a job that ends as ${how}`,
      { script: { Train: [STOPPED(how)] } },
      (ended) => [
        ...badly(ended, 'TrainingStopped', 'failed at training', how),
        ...unless(spots(ended) === 'true', spots(ended)),
      ],
    ];
  }
}

/** Whatever fails, and however it says so, is told in words. */
function* failures(machine) {
  const steps = [...reached(machine)];
  for (const [step, state] of steps) {
    if (step === 'Tell') continue;
    yield [
      `${step} fails with an error that nobody knows`,
      { script: { [step]: Array(99).fill({ error: 'Surprise', cause: 'of some kind' }) } },
      (ended) => badly(ended, 'Surprise', `failed at ${WORDS[step]}`, 'of some kind'),
    ];
    yield [
      `${step} fails without a cause`,
      { script: { [step]: Array(99).fill({ error: 'Surprise' }) } },
      (ended) => badly(ended, 'Surprise', `failed at ${WORDS[step]}`, 'no more is known'),
    ];
    const reason = reasonOf(state.Resource);
    if (!reason) continue;
    yield [
      `${step} fails with a reason`,
      { script: { [step]: Array(99).fill(FAILED(reason)) } },
      (ended) => [
        ...badly(ended, 'States.TaskFailed', `failed at ${WORDS[step]}`, 'the disk is full'),
        ...unless(!ended.cause?.includes('{'), `says ${ended.cause}`),
      ],
    ];
  }
  const silent = Array(99).fill({ error: 'SNS.AuthorizationErrorException', cause: 'not allowed' });
  const untold = (word) => (ended) => [
    ...unless(ended.error === 'NotTold' && ended.cause?.includes(word), `ended with ${ended.error}: ${ended.cause}`),
    ...unless(callsOf(ended, 'Tell').length === 1, 'told more than once'),
  ];
  yield ['a success that can not be told', { script: { Tell: silent } }, untold('is in force')];
  yield [
    'a failure that can not be told',
    { script: { Tell: silent, Train: [{ error: 'Surprise', cause: 'of some kind' }] } },
    untold('of some kind'),
  ];
}

/** How a job that failed is described to the step. */
function reasonOf(resource) {
  if (resource.includes('sagemaker')) return { TrainingJobStatus: 'Failed', FailureReason: 'AlgorithmError: the disk is full' };
  if (resource.includes(':ecs:'))
    return { StoppedReason: 'the disk is full', TaskArn: 'arn:aws:ecs:task/1', Containers: [{ ExitCode: 1 }] };
  if (resource.includes('emr')) return { State: 'FAILED', StateDetails: 'Job failed: the disk is full' };
  return null;
}

/** The tasks that this machine comes by: it prepares in one way or the other. */
function* reached(machine) {
  const others = { ecs: ['Prepare by Spark'], spark: ['Close days', 'Prepare'] }[machine.values.PrepareWith];
  for (const [name, state] of statesOf(machine.definition))
    if (state.Type === 'Task' && !others.includes(name)) yield [name, state];
}

/** What passes is tried again: with pauses that grow and are drawn by chance, and not for ever. */
function* retries(machine) {
  for (const [step, state] of reached(machine)) {
    for (const error of PASSING[state.Resource.replace('arn:aws:states:::', '')] ?? []) {
      yield [
        `${step} meets ${error}`,
        { input: { shards: 1 }, script: { [step]: [{ error, cause: 'slow down' }] } },
        (ended) => [...well(ended), ...unless(callsOf(ended, step).length === 2, 'was not tried again')],
      ];
    }
    if (state.Resource.includes(':ecs:')) {
      yield [
        `${step} is taken away`,
        { input: { shards: 1 }, script: { [step]: [TAKEN_AWAY] } },
        (ended) => [...well(ended), ...unless(callsOf(ended, step).length === 2, 'was not tried again')],
      ];
    }
    for (const retrier of state.Retry ?? []) {
      const [error] = retrier.ErrorEquals;
      const endless = { takes: 10, error, cause: 'slow down' };
      yield [
        `${step} meets ${error} again and again`,
        { input: { shards: 1 }, script: { [step]: Array(99).fill(endless) } },
        (ended) => [
          ...pauses(callsOf(ended, step), retrier),
          ...(step === 'Tell' ? [] : badly(ended, error, WORDS[step], 'slow down')),
        ],
      ];
    }
  }
}

function pauses(calls, { IntervalSeconds: first, MaxAttempts: attempts, BackoffRate: rate }) {
  const drawn = calls.slice(1).map((call, k) => call.at - calls[k].at - 10);
  const longest = drawn.map((_, k) => first * rate ** k);
  return [
    ...unless(calls.length === attempts + 1, `${calls.length} calls for ${attempts} attempts after the first`),
    ...unless(rate > 1, 'pauses do not grow'),
    ...unless(
      drawn.every((pause, k) => pause <= longest[k] + 1e-6),
      `pauses of ${drawn} s exceed ${longest} s`,
    ),
    ...unless(
      drawn.some((pause, k) => pause < longest[k] * 0.95),
      `pauses of ${drawn} s are not drawn by chance`,
    ),
  ];
}

/** Nothing is waited for without end, and what takes long is waited for. */
function* times(machine) {
  for (const [step, state] of reached(machine)) {
    yield [
      `${step} never ends`,
      { input: { shards: 1 }, script: { [step]: [{ hang: true }] } },
      (ended) => [
        ...(step === 'Tell'
          ? unless(ended.error === 'NotTold', ended.error)
          : badly(ended, 'States.Timeout', `failed at ${WORDS[step]}`)),
        ...unless(ended.took >= state.TimeoutSeconds, 'was given up before its time'),
      ],
    ];
  }
  yield ['spot capacity that comes late', { script: { Train: [{ takes: 28790 }] } }, (ended) => well(ended)];
  const slow = Object.fromEntries(
    Object.entries(LONGEST).map(([step, takes]) => [
      step,
      [
        ...(step === 'Prepare by Spark'
          ? []
          : [
              { takes, ...TAKEN_AWAY },
              { takes, ...TAKEN_AWAY },
            ]),
        { takes },
      ],
    ]),
  );
  yield [
    'everything takes its longest',
    {
      input: { shards: 1 },
      script: { ...slow, Train: [NO_SPOT['ends as stopped'], { takes: 21600 }] },
    },
    (ended) => well(ended),
  ];
}
