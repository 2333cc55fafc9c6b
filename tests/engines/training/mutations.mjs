// Definitions that are broken on purpose. Each must be found out: a check that none of them trips is worth nothing.

import { statesOf } from './execution.mjs';

/** The usual mistakes: a name, what to do to a definition, and a word of the fault that must be found. */
const USUAL = [
  [
    'a job name that is always the same',
    /again, which is refused/,
    ({ Train }) => {
      delete Train.Parameters['TrainingJobName.$'];
      Train.Parameters.TrainingJobName = 'vitals-training';
    },
  ],
  [
    'learning from the whole lake',
    /not the prepared sample alone/,
    ({ Train }) => {
      const { S3DataSource: source } = Train.Parameters.InputDataConfig[0].DataSource;
      delete source['S3Uri.$'];
      source.S3Uri = 's3://${DataBucket}/';
    },
  ],
  [
    'learning from all samples there ever were',
    /not the prepared sample alone/,
    ({ Train }) => {
      const { S3DataSource: source } = Train.Parameters.InputDataConfig[0].DataSource;
      delete source['S3Uri.$'];
      source.S3Uri = 's3://${ArtifactsBucket}/training/';
    },
  ],
  [
    'checkpoints that all trainings share',
    /checkpoints of others/,
    ({ Train }) => {
      Train.Parameters.CheckpointConfig = { S3Uri: 's3://${ArtifactsBucket}/checkpoints/' };
    },
  ],
  [
    'a required parameter is missing',
    /OutputDataConfig lacks S3OutputPath/,
    ({ Train }) => {
      delete Train.Parameters.OutputDataConfig.S3OutputPath;
    },
  ],
  [
    'a parameter in the wrong spelling',
    /has trainingImage, which the service does not know/,
    ({ Train }) => {
      Train.Parameters.AlgorithmSpecification.trainingImage = '${TrainingImage}';
    },
  ],
  [
    'a number for a text',
    /must be a string/,
    ({ Train }) => {
      delete Train.Parameters['HyperParameters.$'];
      Train.Parameters.HyperParameters = { seed: 1 };
    },
  ],
  [
    'a mode that does not exist',
    /is none of 3 known values: Files/,
    ({ Train }) => {
      Train.Parameters.AlgorithmSpecification.TrainingInputMode = 'Files';
    },
  ],
  [
    'waiting less than it may run',
    /waits less than it may run/,
    ({ Merge }) => {
      Merge.Parameters.how.Stop.MaxWaitTimeInSeconds = 3600;
    },
  ],
  [
    'waiting for spot capacity on demand',
    /refused/,
    ({ 'On demand': pass }) => {
      pass.Result.Stop.MaxWaitTimeInSeconds = 28800;
    },
  ],
  [
    'a time-out before spot capacity may come',
    /States.Timeout/,
    ({ Train }) => {
      Train.TimeoutSeconds = 14400;
    },
  ],
  [
    'a machine that ends before its steps may',
    /ExecutionTimeoutError/,
    (_, definition) => {
      definition.TimeoutSeconds = 86400;
    },
  ],
  [
    'spot capacity for ever',
    /trained with spot true,true|waits for nothing/,
    ({ 'On demand': pass }) => {
      pass.Result.Spot = true;
    },
  ],
  [
    'a job that nobody waits for',
    /does not wait for its end/,
    ({ Train }) => {
      Train.Resource = Train.Resource.replace('.sync', '');
    },
  ],
  [
    'any number of tasks at once',
    /25 tasks at once/,
    ({ 'Score again': map }) => {
      map.MaxConcurrency = 0;
    },
  ],
  [
    'figures that the trainer does not print',
    /other figures than are printed/,
    ({ Train }) => {
      Train.Parameters.AlgorithmSpecification.MetricDefinitions[0].Regex = 'auprc: ([0-9.]+)';
    },
  ],
  [
    'a failure that nobody is told of',
    /told no failure/,
    ({ Prepare }) => {
      Prepare.Catch[0].Next = 'Failed';
    },
  ],
  [
    'a failure that counts as success',
    /ended with undefined/,
    ({ End }) => {
      End.Choices[0].BooleanEquals = false;
    },
  ],
  [
    'an argument that may become a flag',
    /Prepare runs/,
    ({ Prepare }) => {
      const [container] = Prepare.Parameters.Overrides.ContainerOverrides;
      container['Command.$'] = container['Command.$'].replace("States.Format('--since={}', $.in.since)", "'--since', $.in.since");
    },
  ],
  [
    'a placeholder that the template does not know',
    /is not agreed with the template/,
    ({ Train }) => {
      Train.Parameters.RoleArn = '${SagemakerRole}';
    },
  ],
  [
    'a model in force before the days are scored',
    /before the days are scored with it/,
    ({ Evaluate }) => {
      const [container] = Evaluate.Parameters.Overrides.ContainerOverrides;
      container['Command.$'] = container['Command.$'].replace('--promote=never', '--promote=better');
    },
  ],
];

/**
 * Every broken definition: the usual mistakes, and each part taken away whose absence must be noticed. Each has a name, the
 * fault that must be found, the definition, and, where it is about one, the state. Of the parts every `step`th is taken.
 */
export function* mutations(text, step) {
  for (const [name, fault, spoil] of USUAL) yield [name, fault, spoilt(text, (states, definition) => spoil(states, definition))];
  const definition = JSON.parse(text);
  yield [
    'the machine without TimeoutSeconds',
    /./,
    spoilt(text, (_, machine) => {
      delete machine.TimeoutSeconds;
    }),
  ];
  let part = 0;
  for (const [name, state] of statesOf(definition)) {
    for (const [path, what] of parts(state))
      if (part++ % step === 0) yield [`${name} without ${what}`, /./, spoilt(text, (states) => remove(states[name], path)), name];
  }
}

/** The parts of a state that are taken away one by one: a path to each, and its name. */
function* parts(state) {
  for (const key of [
    'TimeoutSeconds',
    'Retry',
    'Catch',
    'ResultPath',
    'ResultSelector',
    'InputPath',
    'ItemsPath',
    'ItemSelector',
    'MaxConcurrency',
  ]) {
    if (key in state) yield [[key], key];
  }
  for (const [k, retrier] of (state.Retry ?? []).entries()) {
    if (state.Retry.length > 1) yield [['Retry', k], `retrier ${k + 1}`];
    for (const key of ['BackoffRate', 'JitterStrategy', 'MaxAttempts', 'IntervalSeconds'])
      yield [['Retry', k, key], `${key} of retrier ${k + 1}`];
    for (const [j, error] of retrier.ErrorEquals.entries())
      if (retrier.ErrorEquals.length > 1) yield [['Retry', k, 'ErrorEquals', j], `retrying ${error}`];
  }
  if (state.Type === 'Choice') yield* rules(state.Choices, ['Choices']);
  else yield* members(state.Parameters, ['Parameters']);
}

/** Each rule of a choice, and each of those that it is made of. */
function* rules(list, path) {
  for (const [k, rule] of list.entries()) {
    const here = [...path, k];
    if (list.length > 1) yield [here, `rule ${here.slice(1).join('.')}`];
    for (const key of ['And', 'Or']) if (rule[key]) yield* rules(rule[key], [...here, key]);
  }
}

/** Each member, at any depth. */
function* members(value, path) {
  if (value === null || typeof value !== 'object') return;
  for (const [key, item] of Object.entries(value)) {
    const here = [...path, Array.isArray(value) ? Number(key) : key];
    yield [here, here.slice(1).join('.')];
    yield* members(item, here);
  }
}

function remove(state, path) {
  const holder = path.slice(0, -1).reduce((value, key) => value[key], state);
  if (Array.isArray(holder)) holder.splice(path.at(-1), 1);
  else delete holder[path.at(-1)];
}

function spoilt(text, spoil) {
  const definition = JSON.parse(text);
  spoil(Object.fromEntries(statesOf(definition)), definition);
  return JSON.stringify(definition);
}
