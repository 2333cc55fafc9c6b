"""The mutations of the checks in Python: at least one for each. Those of rules/*.guard are in broken.py."""

from __future__ import annotations

from broken import (
    ALARM,
    BUCKET,
    CLIENT,
    ENDPOINT,
    GROUP,
    KAFKA,
    LOGS,
    MSK,
    PAYLOAD,
    ROLE,
    RULE,
    SERVICE,
    SETTINGS,
    STATES,
    TABLE,
    TASK,
    WORK,
    logged,
)
from mutations import (
    NothingToChange,
    add,
    attribute,
    drop,
    each,
    file,
    forbid,
    job,
    labelled,
    machine,
    put,
    remove,
    state,
    topic_setting,
    trips,
    with_action,
    with_machine,
)

DESTINATION, TOPIC, SECRET = "AWS::IoT::TopicRuleDestination", "AWS::MSK::Topic", "AWS::SecretsManager::Secret"
SCHEDULE, TARGET, POLICY = (
    "AWS::Scheduler::Schedule",
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
)
COLUMNS = "TableInput/StorageDescriptor/Columns"
SOURCE = "AWS::QuickSight::DataSource"

partitioned = lambda table: "PartitionKeys" in table["TableInput"]
of_a_service = lambda target: target.get("ServiceNamespace") == "ecs"


def columns(edit):
    """An edit of each column of a table."""
    return lambda table: [edit(column) for column in table["TableInput"]["StorageDescriptor"]["Columns"]]


# ---- mistakes.py
trips(
    "partition_keys_are_no_columns",
    put(TABLE, "TableInput/PartitionKeys", [{"Name": "device_id", "Type": "string"}], partitioned),
    also=("tables_are_partitioned_by_day_only",),
)
trips(
    "tables_are_partitioned_by_day_only",
    each(
        TABLE,
        lambda t: t["TableInput"]["PartitionKeys"].append({"Name": "device", "Type": "string"}),
        "by device",
        partitioned,
    ),
)
trips(
    "partitions_are_not_looked_for",
    file("queries/repair.sql", "msck repair table vitals.readings_days", "a statement repairs"),
)
trips(
    "vitals_are_numbers",
    each(
        TABLE,
        columns(lambda c: c.update(Name="blood_pressure", Type="string") if c["Name"] == "systolic" else None),
        "blood_pressure as text",
    ),
)
trips(
    "vitals_are_numbers",
    each(
        TABLE, columns(lambda c: c.update(Type="string") if c["Name"] == "heart_rate" else None), "heart_rate as text"
    ),
)
trips("rule_goes_through_a_destination", put(RULE, KAFKA + "/DestinationArn", "<KafkaCluster.Arn>"))


@labelled("GetAtt of bootstrap brokers")
def asks_for_brokers(stack):
    cluster = next(name for name, resource in stack.raw["Resources"].items() if resource["Type"] == MSK)
    stack.raw["Outputs"]["Brokers"] = {"Value": {"Fn::Sub": f"kafka://${{{cluster}.BootstrapBrokerStringSaslScram}}"}}


trips("brokers_are_no_attribute", asks_for_brokers)
trips(
    "kafka_action_has_its_properties_only",
    each(
        RULE,
        lambda r: [
            a["Kafka"].update(BootstrapServers=a["Kafka"]["ClientProperties"]["bootstrap.servers"])
            for a in r[PAYLOAD]["Actions"]
        ],
        "BootstrapServers beside ClientProperties",
    ),
)
trips(
    "kafka_action_has_its_properties_only",
    drop(RULE, CLIENT + "/bootstrap.servers"),
    also=("iot_rule_logs_in_to_kafka",),
)
trips("scram_secret_is_one_that_msk_takes", put(SECRET, "Name", "vitals/iot"))
trips("scram_secret_is_one_that_msk_takes", put(SECRET, "GenerateSecretString/GenerateStringKey", "pass"))
trips("scram_secret_is_one_that_msk_takes", drop(SECRET, "KmsKeyId"), also=("secrets_have_a_key",))
trips("destination_role_may_make_interfaces", forbid("ec2:CreateNetworkInterface"))
trips("destination_role_may_make_interfaces", forbid("ec2:DescribeVpcAttribute"))
trips(
    "destination_role_may_make_interfaces",
    drop(DESTINATION, "VpcProperties/RoleArn"),
    also=("iot_destination_is_complete",),
)
trips(
    "rule_writes_to_a_topic_that_is_made",
    remove(TOPIC),
    also=("scaling_stays_within_the_partitions", "architecture_is_complete"),
)
trips("rule_writes_to_a_topic_that_is_made", put(RULE, KAFKA + "/Topic", "somebody-elses"))
trips("zones_are_chosen_not_counted", put("AWS::EC2::Subnet", "AvailabilityZone", "<zone a by the order of a list>"))
trips("zones_are_chosen_not_counted", drop("AWS::EC2::Subnet", "AvailabilityZone"))
STREAM = "frame.writeStream.format('parquet'){}.start(path).awaitTermination()"
trips("streams_in_a_workflow_end", file("spark/endless.py", STREAM.format(""), "a stream without a trigger"))
trips(
    "streams_in_a_workflow_end",
    file(
        "spark/endless.py", STREAM.format(".trigger(processingTime='1 minute')"), "a stream that is triggered for ever"
    ),
)
trips(
    "images_are_there_before_they_are_named",
    put(TASK, "ContainerDefinitions/*/Image", "<ComputeRepository.RepositoryUri>:latest"),
    also=("tasks_name_an_image_by_digest",),
)
trips(
    "images_are_there_before_they_are_named",
    put(STATES, "DefinitionSubstitutions/TrainingImage", "<ComputeRepository.RepositoryUri>:train"),
)


def fixed_name(arguments):
    arguments.pop("TrainingJobName.$", None)
    arguments["TrainingJobName"] = "vitals-training"


trips("training_jobs_have_a_name_each", job(fixed_name, "a fixed job name"))
trips("readers_may_list_the_bucket", forbid("s3:ListBucket"))
trips(
    "readers_may_list_the_bucket",
    with_action("s3:ListBucket", lambda s: s.update(Resource=[r + "/*" for r in s["Resource"]]), "on objects"),
)
trips("writers_may_end_uploads", forbid("s3:AbortMultipartUpload"))
trips("writers_may_end_uploads", forbid("s3:ListMultipartUploadParts"))
trips("workflow_may_pass_the_roles", forbid("iam:PassRole", "states.amazonaws.com"))
trips(
    "workflow_may_pass_the_roles",
    with_action(
        "iam:PassRole",
        lambda s: s["Condition"]["StringEquals"].update({"iam:PassedToService": "ec2.amazonaws.com"}),
        "to another service",
        "states.amazonaws.com",
    ),
)
trips("workflow_may_wait_for_events", forbid("events:PutRule"))
trips("workflow_may_wait_for_events", forbid("sagemaker:StopTrainingJob"))
trips(
    "workflow_may_wait_for_events",
    with_action(
        "events:PutTargets",
        lambda s: s.update(Resource=["arn:aws:events:us-east-1:111122223333:rule/another"]),
        "on another rule",
    ),
)
trips(
    "results_lie_outside_the_data",
    each(
        WORK,
        lambda w: w[SETTINGS]["ResultConfiguration"].update(OutputLocation="s3://<LakeBucket>/readings/results/"),
        "results among the readings",
    ),
)
trips(
    "results_lie_outside_the_data",
    each(
        WORK,
        lambda w: w[SETTINGS]["ResultConfiguration"].update(OutputLocation="s3://<LakeBucket>/"),
        "results at the root of the lake",
    ),
)
trips(
    "training_reads_what_was_prepared_for_it",
    job(
        lambda a: [c["DataSource"].update(S3DataSource={"S3Uri": "s3://${DataBucket}/"}) for c in a["InputDataConfig"]],
        "the channel is the bucket",
    ),
)


@labelled("the job's role may read a whole bucket")
def reads_all(stack):
    named = str([s.get("DefinitionSubstitutions") for _, s in stack.properties(STATES)])
    for name, role in stack.properties(ROLE):
        if f"<{name}.Arn>" in named and "sagemaker.amazonaws.com" in str(role["AssumeRolePolicyDocument"]):
            for statement in role["Policies"][0]["PolicyDocument"]["Statement"]:
                if "s3:GetObject" in statement["Action"]:
                    statement["Resource"] = ["<LakeArtifactsBucket.Arn>/*"]
                    return
    raise NothingToChange("no role of a training job")


trips("training_reads_what_was_prepared_for_it", reads_all)
trips("tasks_are_tried_again", state(lambda s: s.pop("Retry", None), "no Retry"))
trips("failures_are_caught", state(lambda s: s.pop("Catch", None), "no Catch"))
trips(
    "tasks_have_a_time_limit",
    state(lambda s: [s.pop(k, None) for k in ("TimeoutSeconds", "TimeoutSecondsPath")], "tasks without limit"),
)
trips("tasks_have_a_time_limit", machine(lambda m: m.pop("TimeoutSeconds", None), "a workflow without limit"))

# ---- traps.py
trips(
    "roles_have_their_policies_inside",
    add({"Type": "AWS::IAM::Policy", "Properties": {"Roles": ["<DeviceNetworkRole>"]}}),
)
trips("roles_have_their_policies_inside", put("AWS::IAM::ManagedPolicy", "Roles", ["<DeviceNetworkRole>"]))
trips(
    "second_pass_brings_what_needs_brokers_or_image",
    add(
        {
            "Type": SERVICE,
            "Properties": {
                "DeploymentConfiguration": {"DeploymentCircuitBreaker": {"Enable": True, "Rollback": True}},
                "NetworkConfiguration": {
                    "AwsvpcConfiguration": {"AssignPublicIp": "DISABLED", "Subnets": ["a"], "SecurityGroups": ["b"]}
                },
            },
        }
    ),
    scenario="first",
    also=("scaled_services_leave_their_number_alone",),
)
trips("destination_role_tags_its_interfaces", forbid("ec2:CreateTags"))
trips(
    "destination_role_tags_its_interfaces",
    with_action("ec2:CreateNetworkInterfacePermission", lambda s: s.pop("Condition"), "on any interface"),
)
trips("secret_role_may_read_the_secret", forbid("secretsmanager:GetSecretValue"))
trips("secret_role_may_read_the_secret", forbid("kms:Decrypt", "iot.amazonaws.com"))
trips("devices_publish_to_the_rule_that_is_there", put(RULE, "RuleName", "another"))
trips(
    "topics_are_made_one_after_another",
    lambda stack: stack.resources.update(Added={**next(iter(stack.of(TOPIC).values())), "DependsOn": []}),
    "two topics at once",
)
trips("topic_settings_are_texts", topic_setting("max.message.bytes", 262144))
trips(
    "topic_settings_are_texts",
    put(TOPIC, "Configs", '{"retention.ms":"864000000"}'),
    also=("topics_stamp_arrival", "topics_survive_a_broker"),
)
trips("topics_stamp_arrival", topic_setting("message.timestamp.type", "CreateTime"))
trips("topics_stamp_arrival", topic_setting("retention.ms", "86400000"))
trips("topics_survive_a_broker", topic_setting("min.insync.replicas", "2"), scenario="demo")
trips("brokers_are_a_multiple_of_the_subnets", put(MSK, "NumberOfBrokerNodes", 4))
trips("broker_log_group_is_of_this_stack", put(MSK, "LoggingInfo/BrokerLogs/CloudWatchLogs/LogGroup", "/msk/vitals"))
trips("needed_endpoints_are_there", remove(ENDPOINT, lambda e: e["ServiceName"].endswith(".ecr.dkr")))
trips("needed_endpoints_are_there", remove(ENDPOINT, lambda e: e["ServiceName"].endswith(".s3")))
trips(
    "endpoints_let_in_443",
    each(
        GROUP,
        lambda g: [
            r.update(FromPort=9098, ToPort=9098) for r in g.get("SecurityGroupIngress", []) if r["FromPort"] == 443
        ],
        "443 is closed",
    ),
)
trips("scaled_services_leave_their_number_alone", put(SERVICE, "DesiredCount", 2, lambda s: "DesiredCount" not in s))
trips("scaled_services_leave_their_number_alone", remove(TARGET, of_a_service))
trips(
    "scaling_follows_the_lag",
    put(
        POLICY,
        "TargetTrackingScalingPolicyConfiguration",
        {
            "TargetValue": 60,
            "PredefinedMetricSpecification": {"PredefinedMetricType": "ECSServiceAverageCPUUtilization"},
        },
        lambda p: "CustomizedMetricSpecification" in str(p),
    ),
)
trips("scaling_stays_within_the_partitions", put(TARGET, "MaxCapacity", 5000, of_a_service))
trips("scaling_stays_within_the_partitions", put(TARGET, "MinCapacity", 0, of_a_service))
trips("access_logs_go_to_a_bucket_that_takes_them", drop(BUCKET, "LoggingConfiguration", logged))
trips(
    "access_logs_go_to_a_bucket_that_takes_them",
    put(
        BUCKET,
        "BucketEncryption/ServerSideEncryptionConfiguration/*/ServerSideEncryptionByDefault/SSEAlgorithm",
        "aws:kms",
        lambda b: not logged(b),
    ),
)
trips(
    "access_logs_go_to_a_bucket_that_takes_them",
    each(
        "AWS::S3::BucketPolicy",
        lambda p: [s.pop("Condition") for s in p["PolicyDocument"]["Statement"] if s["Effect"] == "Allow"],
        "logs of any account",
    ),
)
trips("workflow_may_deliver_logs", forbid("logs:UpdateLogDelivery"))
trips("workflow_log_group_is_vended", put(LOGS, "LogGroupName", "vitals/<LakeBucket>", lambda g: "LogGroupName" in g))
trips("schedules_have_names_and_input_as_they_must", put(SCHEDULE, "Name", "x" * 65))
trips("schedules_have_names_and_input_as_they_must", put(SCHEDULE, "Target/Input", "{run: now}"))
trips("schedules_have_names_and_input_as_they_must", forbid("states:StartExecution"))
trips("retained_resources_have_generated_names", put(BUCKET, "BucketName", "vitals-data"))
trips("retained_resources_have_generated_names", put(LOGS, "LogGroupName", "/aws/vendedlogs/states/vitals"))
trips(
    "spot_training_waits_as_long_as_it_runs",
    job(
        lambda a: (
            a.update(
                EnableManagedSpotTraining=True,
                StoppingCondition={"MaxRuntimeInSeconds": 7200, "MaxWaitTimeInSeconds": 3600},
            )
            or a.pop("StoppingCondition.$", None)
        ),
        "waits too short",
    ),
)
trips(
    "checkpoints_have_a_prefix_each",
    job(
        lambda a: a.update(CheckpointConfig={"S3Uri": "s3://${ArtifactsBucket}/training/checkpoints/"}),
        "checkpoints in one place",
    ),
)
trips("hyperparameters_are_short_texts", job(lambda a: a.update(HyperParameters={"trees": 100}), "a number"))
trips("quicksight_comes_when_asked_for", add({"Type": "AWS::QuickSight::DataSet"}), scenario="demo")
trips("quicksight_comes_when_asked_for", remove("AWS::QuickSight::DataSet"), also=("architecture_is_complete",))
trips(
    "metric_patterns_are_few_and_short",
    job(
        lambda a: a["AlgorithmSpecification"]["MetricDefinitions"].append({"Name": "x", "Regex": "x" * 501}),
        "a long pattern",
    ),
)
trips(
    "isolated_training_reads_files",
    job(lambda a: a["AlgorithmSpecification"].update(TrainingInputMode="FastFile"), "streamed without a network"),
)
trips("quicksight_role_may_ask", forbid("athena:StartQueryExecution"))
trips(
    "quicksight_role_trusts_quicksight",
    put(SOURCE, "DataSourceParameters/AthenaParameters/RoleArn", "<TrainSparkRole.Arn>"),
    also=("quicksight_role_may_ask",),
)
trips(
    "silence_of_the_pipeline_is_an_alarm",
    put(ALARM, "TreatMissingData", "missing", lambda a: a["TreatMissingData"] == "breaching"),
)
trips(
    "alarms_watch_metrics_that_are_there",
    each(
        ALARM,
        lambda a: a.update(
            Dimensions=[
                {**d, "Name": d["Name"].replace("Cluster Name", "ClusterName")} for d in a.get("Dimensions", [])
            ]
        ),
        "ClusterName",
    ),
)

# ---- posture.py
trips(
    "training_is_encrypted_and_alone",
    job(lambda a: a["ResourceConfig"].pop("VolumeKmsKeyId", None), "a volume without key"),
)
trips("training_is_encrypted_and_alone", job(lambda a: a.update(EnableNetworkIsolation=False), "a job with a network"))
trips("workflow_gets_what_it_asks_for", with_machine(drop(STATES, "DefinitionSubstitutions/TaskSubnets")))
trips("workflow_gets_what_it_asks_for", with_machine(put(STATES, "DefinitionSubstitutions/Unknown", "x")))
trips("architecture_is_complete", remove("AWS::CloudWatch::Dashboard"))
trips("wildcards_have_a_reason", attribute(ROLE, "Metadata", None))
trips(
    "wildcards_have_a_reason",
    with_action("s3:GetObject", lambda s: s.update(Action=s["Action"] + ["s3:Get*"]), "s3:Get*"),
)
trips("buckets_have_a_policy", remove("AWS::S3::BucketPolicy", lambda p: "logging.s3" not in str(p)))
trips(
    "buckets_have_a_policy",
    each(
        "AWS::S3::BucketPolicy",
        lambda p: p["PolicyDocument"]["Statement"].append(
            {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject"], "Resource": ["<LakeBucket.Arn>/*"]}
        ),
        "readable by all",
    ),
)
trips(
    "every_service_has_a_role_of_its_own",
    put(
        ROLE,
        "AssumeRolePolicyDocument/Statement/*/Principal/Service",
        ["ec2.amazonaws.com", "lambda.amazonaws.com"],
        lambda r: "vpc-flow-logs" in str(r),
    ),
)

SAVED = "AWS::Athena::NamedQuery"
trips("saved_queries_are_bounded", put(SAVED, "WorkGroup", "primary"))
trips("saved_queries_are_bounded", put(SAVED, "QueryString", "DROP TABLE landing"))
trips("saved_queries_are_bounded", put(SAVED, "QueryString", "SELECT *\nFROM readings\nWHERE dt IS NULL OR dt >= '2026-01-01'"))
trips("saved_queries_are_bounded", put(SAVED, "QueryString", "SELECT *\nFROM readings\nLIMIT 100"))
