// Stand-ins for the services that a training calls. Each holds the call's parameters against the service's own model and
// against what the call is for, does what the call would do as far as later steps see it, and can be told to fail, to be
// slow, or never to end. What is wrong with a call is a fault of the definition.

import { faultsOfCall } from './service_model.mjs';
import { seconds, sleep } from './clock.mjs';

/** What the template puts in place of `${…}`: these names are agreed with it. */
export const VALUES = {
  EmrApplicationId: '00f1abcde2fghi0j',
  EmrJobRoleArn: 'arn:aws:iam::123456789012:role/vitals-emr',
  ArtifactsBucket: 'vitals-artifacts-123456789012',
  DataBucket: 'vitals-data-123456789012',
  SageMakerRoleArn: 'arn:aws:iam::123456789012:role/vitals-sagemaker',
  TrainingImage: `123456789012.dkr.ecr.eu-west-1.amazonaws.com/vitals@sha256:${'0'.repeat(64)}`,
  TrainingInstanceType: 'ml.m5.xlarge',
  KmsKeyArn: 'arn:aws:kms:eu-west-1:123456789012:key/12345678-1234-1234-1234-123456789012',
  EcsClusterArn: 'arn:aws:ecs:eu-west-1:123456789012:cluster/vitals',
  CompactTaskDefinitionArn: 'arn:aws:ecs:eu-west-1:123456789012:task-definition/vitals-compact:3',
  RescoreTaskDefinitionArn: 'arn:aws:ecs:eu-west-1:123456789012:task-definition/vitals-rescore:3',
  TaskSubnets: 'subnet-0123456789abcdef0,subnet-0123456789abcdef1',
  TaskSecurityGroup: 'sg-0123456789abcdef0',
  AlarmTopicArn: 'arn:aws:sns:eu-west-1:123456789012:vitals-alarms',
  ModelsPrefix: 'models/trained',
  PrepareWith: 'ecs',
};

/** What a trainer prints of what it has learnt: one line for each figure, and the figures that are wanted. */
const PRINTED = {
  trees: '240',
  pr_auc: '0.291',
  recall: '0.534',
  alarms_per_device_day: '0.2',
  threshold: '3.21e0',
  rows: '3999871',
  devices: '812',
};

/** By which errors a service, or the way to it, says that the same call may go well a little later. */
export const PASSING = {
  'ecs:runTask.sync': ['ECS.AmazonECSException', 'ECS.ServerException', 'ECS.ThrottlingException'],
  'emr-serverless:startJobRun.sync': [
    'EMRServerless.AWSEMRServerlessException',
    'EMRServerless.InternalServerException',
    'EMRServerless.ThrottlingException',
  ],
  'sagemaker:createTrainingJob.sync': [
    'SageMaker.AmazonSageMakerException',
    'SageMaker.ThrottlingException',
    'ThrottlingException',
  ],
  'aws-sdk:s3:getObject': ['S3.S3Exception', 'S3.SdkClientException'],
  'sns:publish': ['SNS.AmazonSNSException', 'SNS.InternalErrorException', 'SNS.ThrottledException'],
};

/** How long jobs take where nothing else is said, in seconds. */
const USUAL = { 'ecs:runTask.sync': 900, 'emr-serverless:startJobRun.sync': 1800, 'sagemaker:createTrainingJob.sync': 3600 };

/** An error as a step sees it. */
export class ServiceError extends Error {
  constructor(name, cause) {
    super(cause);
    this.name = name;
    // A step that ran out of time has no cause.
    if (cause === undefined) this.message = undefined;
  }
}

// What goes on from one execution to the next.
const jobNames = new Set();
const objects = new Map();
const checkpointsOf = new Map();

/** The world of one execution. `script` has, by step, what comes of its calls, one after the other. */
export class World {
  constructor(models, values, script, execution) {
    Object.assign(this, { models, values, script, execution });
    this.calls = [];
    this.faults = [];
    this.notices = [];
    this.running = 0;
    this.most = 0;
    // A lake whose first days are archived, and what earlier trainings have left behind.
    objects.set(`s3://${values.DataBucket}/readings/dt=2020-01-01/r/part-00000.parquet`, 'archived');
    objects.set(`s3://${values.ArtifactsBucket}/training/earlier/sample/sample.parquet`, 'earlier');
  }

  fault(step, what) {
    this.faults.push(`${step}: ${what}`);
  }

  expect(holds, step, what) {
    if (!holds) this.fault(step, what);
  }

  /** The stand-in for a step, by what it calls. */
  handler(step, resource) {
    const name = resource.replace('arn:aws:states:::', '');
    const [service, operation, act] =
      {
        'ecs:runTask.sync': ['ecs', 'RunTask', this.runTask],
        'emr-serverless:startJobRun.sync': ['emr-serverless', 'StartJobRun', this.startJobRun],
        'sagemaker:createTrainingJob.sync': ['sagemaker', 'CreateTrainingJob', this.createTrainingJob],
        'aws-sdk:s3:getObject': ['s3', 'GetObject', this.getObject],
        'sns:publish': ['sns', 'Publish', this.publish],
      }[name] ?? [];
    return async (parameters) => {
      const call = { step, name, parameters, at: seconds() };
      this.calls.push(call);
      this.most = Math.max(this.most, ++this.running);
      try {
        if (!act) {
          this.fault(step, `calls ${name}, which is none of the services of a training, or does not wait for its end`);
          return {};
        }
        faultsOfCall(this.models[service], operation, parameters).forEach((fault) => this.fault(step, fault));
        const outcome = this.script[step]?.shift() ?? {};
        if (outcome.hang) await new Promise(() => {});
        await sleep(outcome.takes ?? USUAL[name] ?? 1);
        if (outcome.error) throw new ServiceError(outcome.error, outcome.cause);
        return { ...act.call(this, step, parameters), ...outcome.result };
      } finally {
        this.running -= 1;
      }
    };
  }

  runTask(step, parameters) {
    const { values } = this;
    const { AwsvpcConfiguration: network } = parameters.NetworkConfiguration ?? {};
    this.expect(parameters.Cluster === values.EcsClusterArn, step, 'runs in another cluster');
    this.expect(parameters.LaunchType === 'FARGATE', step, 'does not run on Fargate');
    this.expect(network?.Subnets?.join() === values.TaskSubnets, step, 'runs in other subnets');
    this.expect(network?.SecurityGroups?.join() === values.TaskSecurityGroup, step, 'has another security group');
    this.expect(network?.AssignPublicIp === 'DISABLED', step, 'has a public address');
    const [container] = parameters.Overrides?.ContainerOverrides ?? [];
    this.expect(container?.Name === 'vitals', step, 'overrides no container `vitals`');
    const command = Array.isArray(container?.Command) ? container.Command : [];
    const flags = Object.fromEntries(command.filter((word) => word.startsWith('--')).map((flag) => flag.split(/=(.*)/s)));
    const words = command.filter((word) => !word.startsWith('--'));
    this.expect(flags['--lake'] === `s3://${values.DataBucket}`, step, 'works on another lake');
    const [definition, act] =
      {
        compact: [values.CompactTaskDefinitionArn, this.close],
        train: [values.CompactTaskDefinitionArn, this.prepare],
        'models adopt': [values.RescoreTaskDefinitionArn, this.adopt],
        score: [values.RescoreTaskDefinitionArn, this.score],
        'models promote': [values.RescoreTaskDefinitionArn, this.promote],
      }[words.slice(0, words[0] === 'models' ? 2 : 1).join(' ')] ?? [];
    this.expect(act, step, `runs an unknown command: ${command.join(' ')}`);
    this.expect(parameters.TaskDefinition === definition, step, 'runs another task');
    act?.call(this, step, flags, words);
    return { TaskArn: 'arn:aws:ecs:eu-west-1:123456789012:task/vitals/1', Containers: [{ ExitCode: 0 }] };
  }

  startJobRun(step, parameters) {
    const { values } = this;
    const { EntryPoint, EntryPointArguments = [], SparkSubmitParameters = '' } = parameters.JobDriver?.SparkSubmit ?? {};
    this.expect(parameters.ApplicationId === values.EmrApplicationId, step, 'runs in another application');
    this.expect(parameters.ExecutionRoleArn === values.EmrJobRoleArn, step, 'runs in another role');
    this.expect(parameters.Name === 'vitals-prepare', step, 'has no name');
    // Or Spark goes on when the step has long given up.
    this.expect(parameters.ExecutionTimeoutMinutes * 60 < 14400, step, 'has no end of its own within that of the step');
    this.expect(EntryPoint === `s3://${values.ArtifactsBucket}/spark/compact.py`, step, 'runs another job');
    const sent = ['--files', 'vitals', '--py-files', 'vitals_program.py'];
    const wanted = sent.map((word) => (word.startsWith('--') ? word : `s3://${values.ArtifactsBucket}/spark/${word}`)).join(' ');
    this.expect(SparkSubmitParameters === wanted, step, 'lacks the program');
    const flags = Object.fromEntries(EntryPointArguments.map((flag) => flag.split(/=(.*)/s)));
    this.expect(flags['--lake'] === `s3://${values.DataBucket}`, step, 'works on another lake');
    this.close();
    this.prepare(step, { ...flags, '--prepare': flags['--sample'] });
    return { JobRunId: '00f1', State: 'SUCCESS' };
  }

  close() {
    this.closed = true;
  }

  prepare(step, flags) {
    this.sample = flags['--prepare'] ?? '';
    this.expect(this.closed, step, 'learns before the days are closed that are over');
    this.expect('--since' in flags && '--until' in flags, step, 'does not say from when to when');
    this.expect(
      [...objects.keys()].every((key) => !key.startsWith(this.sample)),
      step,
      'puts the sample where others are',
    );
    objects.set(`${this.sample}sample.parquet`, this.execution);
    objects.set(`${this.sample}manifest.json`, this.execution);
  }

  createTrainingJob(step, job) {
    const { values } = this;
    const name = job.TrainingJobName;
    this.expect(!jobNames.has(name), step, `uses the name ${name} again, which is refused for ever`);
    jobNames.add(name);
    const [input] = job.InputDataConfig ?? [];
    this.expect(input?.ChannelName === 'training', step, 'has no channel `training`');
    const from = input?.DataSource?.S3DataSource ?? {};
    const taken = [...objects].filter(([key]) => key.startsWith(from.S3Uri)).map(([, whose]) => whose);
    this.expect(
      taken.length === 2 && taken.every((whose) => whose === this.execution),
      step,
      `learns from ${from.S3Uri}, which is not the prepared sample alone`,
    );
    this.expect(from.S3DataDistributionType === 'FullyReplicated', step, 'gives an instance a share of the sample');
    this.expect(job.RoleArn === values.SageMakerRoleArn, step, 'runs in another role');
    this.expect(job.AlgorithmSpecification?.TrainingImage === values.TrainingImage, step, 'runs another image');
    this.expect(job.AlgorithmSpecification?.TrainingInputMode === 'File', step, 'does not read files');
    this.expect(job.EnableNetworkIsolation === true, step, 'is not isolated from networks');
    this.expect(job.ResourceConfig?.InstanceType === values.TrainingInstanceType, step, 'runs on another machine');
    this.expect(job.ResourceConfig?.InstanceCount === 1, step, 'runs on several machines');
    this.expect(job.ResourceConfig?.VolumeSizeInGB > 0, step, 'has no volume');
    this.expect(job.ResourceConfig?.VolumeKmsKeyId === values.KmsKeyArn, step, 'does not encrypt its volume');
    this.expect(job.OutputDataConfig?.KmsKeyId === values.KmsKeyArn, step, 'does not encrypt the model');
    const tags = Object.fromEntries((job.Tags ?? []).map((tag) => [tag.Key, tag.Value]));
    this.expect(tags.project === 'vitals' && tags.execution === this.execution, step, 'has no tags by which it is found');
    this.spot(step, job);
    this.metrics(step, job.AlgorithmSpecification?.MetricDefinitions ?? []);
    this.model = `${job.OutputDataConfig?.S3OutputPath}/${name}/output/model.tar.gz`;
    objects.set(this.model, this.execution);
    return { TrainingJobName: name, TrainingJobStatus: 'Completed', SecondaryStatus: 'Completed' };
  }

  spot(step, job) {
    const { MaxRuntimeInSeconds: longest, MaxWaitTimeInSeconds: wait } = job.StoppingCondition ?? {};
    this.expect(longest > 0, step, 'may run for ever');
    if (job.EnableManagedSpotTraining) this.expect(wait >= longest, step, 'waits less than it may run, which is refused');
    else this.expect(wait === undefined, step, 'waits for spot capacity that it does not ask for, which is refused');
    const kept = job.CheckpointConfig?.S3Uri;
    this.expect(kept, step, 'keeps nothing for the case of an interruption');
    this.expect((checkpointsOf.get(kept) ?? this.execution) === this.execution, step, 'goes on from checkpoints of others');
    checkpointsOf.set(kept, this.execution);
  }

  metrics(step, definitions) {
    const log = Object.entries(PRINTED)
      .map(([name, value]) => `metric ${name}=${value}\n`)
      .join('');
    const found = definitions.map(({ Name, Regex }) => [Name, new RegExp(Regex).exec(log)?.[1]]);
    this.expect(
      JSON.stringify(Object.fromEntries(found)) === JSON.stringify(PRINTED),
      step,
      `reads other figures than are printed: ${JSON.stringify(found)}`,
    );
  }

  adopt(step, flags, words) {
    this.expect(words[2] === this.model, step, `adopts ${words[2]}, not ${this.model}`);
    this.expect(flags['--sample'] === this.sample, step, 'compares on another sample than was learnt from');
    this.expect(flags['--promote'] === 'never', step, 'puts a model in force before the days are scored with it');
    this.outcome = { model: this.script.model ?? 'm-0123456789ab', not_worse: !this.script.worse, in_force: false };
    objects.set(flags['--outcome'], this.outcome);
  }

  score(step, flags) {
    this.expect(flags['--candidate'] === this.outcome.model, step, 'scores with another model');
    this.shards = [...(this.shards ?? []), `${flags['--job']} ${flags['--shard']}`];
  }

  promote(step, flags, words) {
    this.expect(words[2] === this.outcome.model, step, 'puts another model in force');
    this.expect(!this.inForce || this.inForce === words[2], step, 'changes the model twice');
    const of = Number(this.shards?.[0]?.split('/')[1]);
    const whole = Array.from({ length: of }, (_, k) => `${flags['--job']} ${k + 1}/${of}`);
    this.expect(
      whole.every((shard) => this.shards.includes(shard)),
      step,
      `not all shards were scored: ${this.shards}`,
    );
    this.inForce = words[2];
  }

  getObject(step, { Bucket, Key }) {
    const found = objects.get(`s3://${Bucket}/${Key}`);
    if (!found || found !== this.outcome) throw new ServiceError('S3.NoSuchKeyException', 'The specified key does not exist.');
    return { Body: JSON.stringify(found) };
  }

  publish(step, { TopicArn, Subject, Message }) {
    this.expect(TopicArn === this.values.AlarmTopicArn, step, 'tells it elsewhere');
    this.expect(Subject, step, 'has no subject');
    this.notices.push({ Subject, Message });
    return { MessageId: '1' };
  }
}
