"""Traps that schemas don't show, as far as a template can show them: each with the rules that fail on a template in it.

As with mistakes.py, a rule is a check of Python or of rules/*.guard, and each has a mutation that makes it fail.
"""

from __future__ import annotations

import base64
import json
import re

from checks import allowing, bucket_of, check, mentioned, resources_for
from mistakes import kafka_actions, training_jobs

TRAPS = {
    "IoT tests the roles of rule and destination at once": ["roles_have_their_policies_inside"],
    "rule, destination and services need brokers and image": ["second_pass_brings_what_needs_brokers_or_image"],
    "interfaces of a destination are tagged": ["destination_role_tags_its_interfaces"],
    "get_secret needs a role": ["secret_role_may_read_the_secret"],
    "thing variables resolve for the thing's own client only": ["iot_policy_connects_as_its_thing"],
    "Basic Ingest names the rule in the topic": ["devices_publish_to_the_rule_that_is_there"],
    "topics are made one at a time": ["topics_are_made_one_after_another"],
    "a topic's Configs is base64 of texts": ["topic_settings_are_texts"],
    "arrival time is the log's own": ["topics_stamp_arrival"],
    "two replicas, both needed, stop at one broker down": ["topics_survive_a_broker"],
    "topics are retained": ["data_keys_and_logs_are_retained"],
    "brokers are a multiple of the subnets": ["brokers_are_a_multiple_of_the_subnets"],
    "t3.small runs on 3.x only": ["msk_small_brokers_run_kafka_3"],
    "MSK takes a key by id, not by alias": ["secrets_have_a_key"],
    "broker log group first": ["broker_log_group_is_of_this_stack"],
    "an endpoint service that takes no connections": ["endpoints_are_of_services_that_take_connections"],
    "no NAT: tasks reach what they need by endpoints": [
        "needed_endpoints_are_there",
        "endpoints_answer_by_private_dns",
    ],
    "443 from where the tasks are": ["endpoints_let_in_443"],
    "layers of images come from buckets of the service": ["s3_endpoint_keeps_its_policy"],
    "a notebook without internet needs a subnet": ["notebooks_are_in_the_network"],
    "service-linked roles exist already": ["service_linked_roles_are_left_to_the_program"],
    "a service can wait for hours": ["services_give_up", "tasks_name_an_image_by_digest"],
    "a task's processor is its image's": ["tasks_name_their_processor"],
    "scaling owns a service's number": ["scaled_services_leave_their_number_alone"],
    "no predefined metric of lag": ["scaling_follows_the_lag"],
    "workers without a partition are idle": ["scaling_stays_within_the_partitions"],
    "access logs need a bucket that takes them": ["access_logs_go_to_a_bucket_that_takes_them"],
    "aborted uploads in a rule of their own": ["s3_aborted_uploads_have_a_rule_of_their_own"],
    "old versions and delete markers pile up": ["s3_noncurrent_versions_expire", "s3_delete_markers_expire"],
    "managed results exclude others": ["athena_results_go_to_one_place"],
    "Glue names are lower case": ["glue_names_are_lower_case"],
    "EMR Serverless keeps logs unless told otherwise": ["emr_logs_have_a_key"],
    "a workflow's log delivery has eight actions": ["workflow_may_deliver_logs"],
    "a workflow's log group has its prefix": ["workflow_log_group_is_vended"],
    "payloads in a workflow's logs": ["states_log_without_data"],
    "a log group's key names its group": ["key_serves_logs_of_ours_only"],
    "alarms for an encrypted topic vanish": ["key_lets_alarms_through"],
    "a schedule's name and input": ["schedules_have_names_and_input_as_they_must"],
    "retained resources with fixed names": ["retained_resources_have_generated_names"],
    "spot waits and runs": ["spot_training_waits_as_long_as_it_runs"],
    "checkpoints of jobs mix": ["checkpoints_have_a_prefix_each"],
    "hyperparameters are texts": ["hyperparameters_are_short_texts"],
    "metrics of a job are 40, patterns 500 characters": ["metric_patterns_are_few_and_short"],
    "without a network, files come in File mode": ["isolated_training_reads_files"],
    "QuickSight's role needs buckets, key and Athena": ["quicksight_role_may_ask"],
    "QuickSight needs a subscription": ["quicksight_comes_when_asked_for"],
    "AthenaParameters.RoleArn must trust QuickSight": ["quicksight_role_trusts_quicksight"],
    "lag is absent before the first commit": ["lag_alarms_bear_silence", "silence_of_the_pipeline_is_an_alarm"],
    "a metric is its dimensions": ["alarms_watch_metrics_that_are_there"],
}

DELIVERY = (
    "CreateLogDelivery",
    "GetLogDelivery",
    "UpdateLogDelivery",
    "DeleteLogDelivery",
    "ListLogDeliveries",
    "PutResourcePolicy",
    "DescribeResourcePolicies",
    "DescribeLogGroups",
)
# The dimensions with which each metric is published.
DIMENSIONS = {
    ("AWS/Kafka", r"(Max|Sum)OffsetLag|EstimatedMaxTimeLag"): {"Cluster Name", "Consumer Group", "Topic"},
    ("AWS/Kafka", "KafkaDataLogsDiskUsed|CpuUser|UnderReplicatedPartitions|CPUCreditBalance"): {
        "Cluster Name",
        "Broker ID",
    },
    ("AWS/Kafka", "OfflinePartitionsCount|ActiveControllerCount"): {"Cluster Name"},
    ("AWS/IoT", "Success|Failure|ErrorActionSuccess|ErrorActionFailure"): {"RuleName", "ActionType"},
    ("AWS/IoT", "TopicMatch|ParseError|RuleMessageThrottled"): {"RuleName"},
    ("AWS/IoT", r"PublishIn\.\w+|Connect\.\w+"): {"Protocol"},
    ("AWS/EMRServerless", "RunningJobs|SuccessJobs|FailedJobs|CPUAllocated"): {"ApplicationId"},
    ("AWS/States", "ExecutionsFailed|ExecutionsTimedOut|ExecutionsAborted|ExecutionsSucceeded"): {"StateMachineArn"},
    ("AWS/ECS", "CPUUtilization|MemoryUtilization"): {"ClusterName", "ServiceName"},
}


@check("AWS::IAM::Role")
def roles_have_their_policies_inside(stack):
    """Policies are in their role or made before it: what is attached afterwards is too late for who tests it."""
    for name in stack.of("AWS::IAM::Policy", "AWS::IAM::RolePolicy"):
        yield f"{name} is attached afterwards"
    for name, policy in stack.properties("AWS::IAM::ManagedPolicy"):
        if policy.get("Roles"):
            yield f"{name} attaches itself to {policy['Roles']}"
    for service in ("iot.amazonaws.com", "states.amazonaws.com", "scheduler.amazonaws.com"):
        yield from (f"{name} allows nothing" for name, found in stack.roles(service).items() if not found)


@check("AWS::IoT::TopicRule", "AWS::IoT::TopicRuleDestination", "AWS::ECS::Service", "AWS::ECS::TaskDefinition")
def second_pass_brings_what_needs_brokers_or_image(stack):
    """Rule, destination, services and tasks exist from the second pass on, when there are brokers and an image."""
    waits = ("AWS::IoT::TopicRule", "AWS::IoT::TopicRuleDestination", "AWS::ECS::Service", "AWS::ECS::TaskDefinition")
    if "first" in stack.tags:
        yield from (f"{name} is in the first pass already" for name in stack.of(*waits))


@check("AWS::IoT::TopicRuleDestination", "AWS::IAM::Role")
def destination_role_tags_its_interfaces(stack):
    """The destination's role may tag what it creates, and give permission on interfaces with that tag only."""
    for name, destination in stack.properties("AWS::IoT::TopicRuleDestination"):
        for role in mentioned(destination["VpcProperties"].get("RoleArn", "")):
            found = stack.allowed_by({role})
            tagged = [str(s.get("Condition", "")) for s in allowing(found, "ec2:CreateTags")]
            if not any("VPCDestinationENI" in condition for condition in tagged):
                yield f"{role} may not ec2:CreateTags with VPCDestinationENI"
            for statement in allowing(found, "ec2:CreateNetworkInterfacePermission"):
                if "VPCDestinationENI" not in str(statement.get("Condition", "")):
                    yield f"{role} gives permission on any interface"


@check("AWS::IoT::TopicRule", "AWS::IAM::Role")
def secret_role_may_read_the_secret(stack):
    """The role that get_secret names is one that IoT Core takes, and may read the secret and use its key."""
    for name, action in kafka_actions(stack):
        used = {role for text in action["ClientProperties"].values() for role in mentioned(text)}
        roles = {role: found for role, found in stack.roles("iot.amazonaws.com").items() if role in used}
        if not roles:
            yield f"{name}: get_secret names no role that IoT Core takes"
        for role, found in roles.items():
            for needed in ("secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret", "kms:Decrypt"):
                if not allowing(found, needed):
                    yield f"{role} may not {needed}"


@check("AWS::IoT::Policy", "AWS::IoT::TopicRule")
def devices_publish_to_the_rule_that_is_there(stack):
    """The rule in the topic that devices may publish on is the rule of this stack."""
    rules = {rule["RuleName"] for _, rule in stack.properties("AWS::IoT::TopicRule")}
    for name, policy in stack.properties("AWS::IoT::Policy"):
        named = set(re.findall(r"\$aws/rules/([^/]+)/", json.dumps(policy)))
        if rules and named != rules:
            yield f"{name} is for {sorted(named)}, the stack has {sorted(rules)}"


@check("AWS::MSK::Topic", "AWS::MSK::Cluster")
def topics_are_made_one_after_another(stack):
    """Each topic but the first waits for another one."""
    made = stack.of("AWS::MSK::Topic")
    free = [name for name, topic in made.items() if not set(topic["DependsOn"]) & set(made)]
    if len(free) > 1:
        yield f"{free} wait for no other topic"
    waited = [on for topic in made.values() for on in topic["DependsOn"] if on in made]
    if len(waited) != len(set(waited)):
        yield f"several topics wait for the same one: {waited}"


def settings(topic: dict) -> dict:
    """A topic's settings; empty where they are none."""
    try:
        found = json.loads(base64.b64decode(topic.get("Configs", ""), validate=True))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@check("AWS::MSK::Topic")
def topic_settings_are_texts(stack):
    """A topic's Configs is base64 of a JSON object whose values are texts."""
    for name, topic in stack.properties("AWS::MSK::Topic"):
        found = settings(topic)
        if not found or not all(isinstance(value, str) for value in found.values()):
            yield f"{name}: {found or topic.get('Configs')}"


@check("AWS::MSK::Topic")
def topics_stamp_arrival(stack):
    """The topic's time is that of arrival, and it keeps records for a week and longer: workers may be away so long."""
    for name, topic in stack.properties("AWS::MSK::Topic"):
        found = settings(topic)
        if found.get("message.timestamp.type") != "LogAppendTime":
            yield f"{name}: message.timestamp.type is {found.get('message.timestamp.type')}"
        if not str(found.get("retention.ms", "")).isdigit() or int(found["retention.ms"]) < 7 * 86_400_000:
            yield f"{name}: retention.ms is {found.get('retention.ms')}"


@check("AWS::MSK::Topic")
def topics_survive_a_broker(stack):
    """A topic takes writes with one broker down: fewer replicas must be in sync than there are."""
    for name, topic in stack.properties("AWS::MSK::Topic"):
        needed = int(settings(topic).get("min.insync.replicas", 0))
        if not 1 <= needed < int(topic["ReplicationFactor"]):
            yield f"{name}: {needed or 'unknown'} of {topic['ReplicationFactor']} replicas must be in sync"


@check("AWS::MSK::Cluster")
def brokers_are_a_multiple_of_the_subnets(stack):
    """There are as many brokers in each subnet."""
    for name, cluster in stack.properties("AWS::MSK::Cluster"):
        brokers, subnets = int(cluster["NumberOfBrokerNodes"]), cluster["BrokerNodeGroupInfo"]["ClientSubnets"]
        if not subnets or brokers % len(subnets):
            yield f"{name}: {brokers} brokers in {len(subnets)} subnets"


@check("AWS::MSK::Cluster", "AWS::Logs::LogGroup")
def broker_log_group_is_of_this_stack(stack):
    """The brokers' log group is a resource, so that it is there before them."""
    for name, cluster in stack.properties("AWS::MSK::Cluster"):
        group = cluster.get("LoggingInfo", {}).get("BrokerLogs", {}).get("CloudWatchLogs", {}).get("LogGroup", "")
        if not mentioned(group) & set(stack.of("AWS::Logs::LogGroup")):
            yield f"{name}: its log group is `{group}`"


@check("AWS::EC2::VPCEndpoint", "AWS::EC2::VPC")
def needed_endpoints_are_there(stack):
    """In a network of our own, without NAT, there is an endpoint for each service that tasks call."""
    if not stack.of("AWS::EC2::VPC") or stack.of("AWS::EC2::NatGateway"):
        return
    services = {
        e["ServiceName"].rsplit(".", 1)[1]: e["ServiceName"] for _, e in stack.properties("AWS::EC2::VPCEndpoint")
    }
    needed = {"api": "ecr.api", "dkr": "ecr.dkr", "logs": "logs", "s3": "s3"}
    if '"Secrets"' in json.dumps(stack.of("AWS::ECS::TaskDefinition")):
        needed["secretsmanager"] = "secretsmanager"
    for last, service in needed.items():
        if not services.get(last, "").endswith(f".{service}"):
            yield f"no endpoint for {service}"


@check("AWS::EC2::VPCEndpoint", "AWS::EC2::SecurityGroup", "AWS::EC2::SecurityGroupIngress")
def endpoints_let_in_443(stack):
    """The security group of the interface endpoints takes HTTPS."""
    open_groups = set()
    for name, group in stack.properties("AWS::EC2::SecurityGroup"):
        if any(str(rule.get("FromPort")) == "443" for rule in group.get("SecurityGroupIngress", [])):
            open_groups.add(name)
    for _, rule in stack.properties("AWS::EC2::SecurityGroupIngress"):
        if str(rule.get("FromPort")) == "443":
            open_groups |= mentioned(rule["GroupId"])
    for name, endpoint in stack.properties("AWS::EC2::VPCEndpoint"):
        if endpoint.get("VpcEndpointType") == "Interface" and not mentioned(endpoint["SecurityGroupIds"]) & open_groups:
            yield f"{name} takes nothing on 443"


def scaled(stack):
    """Triples of a scalable target's logical name, its properties, and the service that it scales."""
    services = set(stack.of("AWS::ECS::Service"))
    for name, target in stack.properties("AWS::ApplicationAutoScaling::ScalableTarget"):
        for service in mentioned(target["ResourceId"]) & services:
            yield name, target, service


@check("AWS::ECS::Service", "AWS::ApplicationAutoScaling::ScalableTarget")
def scaled_services_leave_their_number_alone(stack):
    """A service that is scaled has no DesiredCount: each deployment would set it back."""
    if stack.of("AWS::ECS::Service") and not any(scaled(stack)):
        yield "no service is scaled"
    for _, _, service in scaled(stack):
        if "DesiredCount" in stack.resources[service]["Properties"]:
            yield f"{service} has a DesiredCount"


@check("AWS::ApplicationAutoScaling::ScalingPolicy", "AWS::CloudWatch::Alarm")
def scaling_follows_the_lag(stack):
    """Services are scaled by the lag of their group, in steps or by a metric that is written out."""
    of_services = {name for name, _, _ in scaled(stack)}
    for name, policy in stack.properties("AWS::ApplicationAutoScaling::ScalingPolicy"):
        if not mentioned(policy["ScalingTargetId"]) & of_services:
            continue
        if "PredefinedMetricSpecification" in json.dumps(policy):
            yield f"{name} follows a metric that knows no lag"
        if policy["PolicyType"] == "StepScaling":
            alarms = [
                a for _, a in stack.properties("AWS::CloudWatch::Alarm") if name in mentioned(a.get("AlarmActions", []))
            ]
            if not alarms or not all(
                "Lag" in a.get("MetricName", "") and a["TreatMissingData"] == "ignore" for a in alarms
            ):
                yield f"{name}: no alarm of lag that ignores missing data sets it off"
        elif not re.search("Lag", json.dumps(policy)):
            yield f"{name} does not follow the lag"


@check("AWS::ApplicationAutoScaling::ScalableTarget", "AWS::MSK::Topic")
def scaling_stays_within_the_partitions(stack):
    """There is one worker at least, and no more than a topic has partitions."""
    partitions = [int(topic["PartitionCount"]) for _, topic in stack.properties("AWS::MSK::Topic")]
    for name, target, _ in scaled(stack):
        if not 1 <= int(target["MinCapacity"]) <= int(target["MaxCapacity"]) <= max(partitions, default=0):
            yield f"{name}: {target['MinCapacity']} to {target['MaxCapacity']} workers, {partitions} partitions"


@check("AWS::S3::Bucket", "AWS::S3::BucketPolicy")
def access_logs_go_to_a_bucket_that_takes_them(stack):
    """Every bucket logs access, but the one that the logs go to: under S3's key, open to the log service only."""
    buckets = dict(stack.properties("AWS::S3::Bucket"))
    target = lambda bucket: mentioned(bucket.get("LoggingConfiguration", {}).get("DestinationBucketName", ""))
    targets = set().union(*map(target, buckets.values())) if buckets else set()
    for name, bucket in buckets.items():
        if name not in targets and not target(bucket):
            yield f"{name} logs no access"
        if name in targets and target(bucket):
            yield f"{name} takes logs and logs itself"
        if name in targets and "aws:kms" in json.dumps(bucket.get("BucketEncryption", {})):
            yield f"{name} takes logs and is encrypted by a key that the log service can't use"
    for name in targets:
        policies = [p for _, p in stack.properties("AWS::S3::BucketPolicy") if bucket_of(p["Bucket"]) == name]
        told = [
            s
            for p in policies
            for s in p["PolicyDocument"]["Statement"]
            if "logging.s3.amazonaws.com" in str(s["Principal"])
        ]
        if not told or not all("aws:SourceArn" in str(s) and "aws:SourceAccount" in str(s) for s in told):
            yield f"{name}: no policy for the log service, for this account's buckets only"


@check("AWS::IAM::Role", "AWS::StepFunctions::StateMachine")
def workflow_may_deliver_logs(stack):
    """The workflow's role may set up the delivery of its logs, which can be named by `*` only."""
    for name, machine in stack.properties("AWS::StepFunctions::StateMachine"):
        for role in mentioned(machine["RoleArn"]):
            found = stack.allowed_by({role})
            for action in DELIVERY:
                if "*" not in resources_for(found, f"logs:{action}"):
                    yield f"{role} may not logs:{action} on *"


@check("AWS::StepFunctions::StateMachine", "AWS::Logs::LogGroup")
def workflow_log_group_is_vended(stack):
    """A workflow logs to a group named /aws/vendedlogs/states/…: policies for others outgrow their limit."""
    for name, machine in stack.properties("AWS::StepFunctions::StateMachine"):
        for group in mentioned(machine.get("LoggingConfiguration", {})) & set(stack.of("AWS::Logs::LogGroup")):
            called = stack.resources[group]["Properties"].get("LogGroupName", "")
            if not called.startswith("/aws/vendedlogs/states/"):
                yield f"{name}: its log group is {called or 'without a name'}"


@check("AWS::Scheduler::Schedule")
def schedules_have_names_and_input_as_they_must(stack):
    """A schedule's name has 64 characters at most, its input is JSON, and its role may start what it starts."""
    for name, schedule in stack.properties("AWS::Scheduler::Schedule"):
        if len(schedule.get("Name", "")) > 64:
            yield f"{name}: {schedule['Name']} is too long"
        try:
            json.loads(schedule["Target"].get("Input", "{}"))
        except (TypeError, ValueError):
            yield f"{name}: its input is no JSON"
        for role in mentioned(schedule["Target"].get("RoleArn", "")):
            found = stack.allowed_by({role})
            if not allowing(found, "states:StartExecution") and not allowing(found, "ecs:RunTask"):
                yield f"{name}: {role} may start nothing"


NAMES = ("BucketName", "LogGroupName", "AliasName", "Name", "ClusterName")


@check("AWS::S3::Bucket", "AWS::Logs::LogGroup", "AWS::KMS::Key")
def retained_resources_have_generated_names(stack):
    """What stays behind has a generated name, or one with the stack's id: else it blocks the next stack."""
    for name, resource in stack.resources.items():
        if resource.get("DeletionPolicy", "Delete") == "Delete":
            continue
        for key in NAMES:
            called = resource["Properties"].get(key)
            if isinstance(called, str) and not re.search(r"0a1b2c3d|e9f8|0242ac120002|<", called):
                yield f"{name} stays behind and is always called {called}"


@check("AWS::StepFunctions::StateMachine")
def spot_training_waits_as_long_as_it_runs(stack):
    """Where training runs on spot, it may wait at least as long as it may run."""
    for name, job in training_jobs(stack):
        limits = {key: value for key, value in job.items() if key.startswith("StoppingCondition")}
        numbers = dict(re.findall(r'"(Max\w+InSeconds)": (\d+)', stack.spelt_out(limits)))
        runs, waits = int(numbers.get("MaxRuntimeInSeconds", 0)), int(numbers.get("MaxWaitTimeInSeconds", 0))
        spot = any(job.get(key) for key in ("EnableManagedSpotTraining", "EnableManagedSpotTraining.$"))
        if not runs or (spot and waits < runs):
            yield f"{name}: runs {runs} s, waits {waits} s"


@check("AWS::StepFunctions::StateMachine")
def checkpoints_have_a_prefix_each(stack):
    """A job's checkpoints have a prefix of their own: the folder is synchronised both ways."""
    for name, job in training_jobs(stack):
        where = stack.spelt_out(job.get("CheckpointConfig", {}))
        if "S3Uri" in where and not re.search(r"Execution\.Name|UUID", where):
            yield f"{name}: {where}"


@check("AWS::StepFunctions::StateMachine")
def hyperparameters_are_short_texts(stack):
    """Hyperparameters are 100 at most, texts of 256 characters at most."""
    for name, job in training_jobs(stack):
        found = job.get("HyperParameters", {})
        bad = [key for key, value in found.items() if not isinstance(value, str) or len(value) > 256 or len(key) > 256]
        if bad or len(found) > 100:
            yield f"{name}: {bad or len(found)}"


@check("AWS::StepFunctions::StateMachine")
def metric_patterns_are_few_and_short(stack):
    """A job has 40 metrics at most, each a pattern of 500 characters at most."""
    for name, job in training_jobs(stack):
        found = job["AlgorithmSpecification"].get("MetricDefinitions", [])
        if len(found) > 40 or any(len(metric["Regex"]) > 500 for metric in found):
            yield f"{name}: {len(found)} metrics"


@check("AWS::StepFunctions::StateMachine")
def isolated_training_reads_files(stack):
    """A job without a network gets its data as files: nothing else is sure to work there."""
    for name, job in training_jobs(stack):
        if job.get("EnableNetworkIsolation") and job["AlgorithmSpecification"].get("TrainingInputMode") != "File":
            yield f"{name}: {job['AlgorithmSpecification'].get('TrainingInputMode')}"


@check("AWS::QuickSight::DataSource", "AWS::IAM::Role")
def quicksight_role_may_ask(stack):
    """The role given to QuickSight may query, read the lake, write results, and use the key."""
    for name, source in stack.properties("AWS::QuickSight::DataSource"):
        found = stack.allowed_by(mentioned(source["DataSourceParameters"]["AthenaParameters"].get("RoleArn", "")))
        for action in ("athena:StartQueryExecution", "glue:GetTable", "s3:GetObject", "s3:PutObject", "kms:Decrypt"):
            if not allowing(found, action):
                yield f"{name}: its role may not {action}"


@check("AWS::QuickSight::DataSource", "AWS::QuickSight::DataSet", "AWS::QuickSight::Dashboard")
def quicksight_comes_when_asked_for(stack):
    """QuickSight's resources exist when a principal is given, and only then."""
    found = [name for name, resource in stack.resources.items() if resource["Type"].startswith("AWS::QuickSight::")]
    if "quicksight" not in stack.tags:
        yield from (f"{name} is there unasked" for name in found)
    elif len({stack.resources[name]["Type"] for name in found}) < 3:
        yield f"only {found}, asked for data source, data set and dashboard"


@check("AWS::QuickSight::DataSource", "AWS::IAM::Role")
def quicksight_role_trusts_quicksight(stack):
    """A role given for Athena is one that QuickSight may take."""
    for name, source in stack.properties("AWS::QuickSight::DataSource"):
        given = source["DataSourceParameters"]["AthenaParameters"].get("RoleArn", "")
        if given and not mentioned(given) & set(stack.roles("quicksight.amazonaws.com")):
            yield f"{name}: QuickSight may not take {given}"


@check("AWS::CloudWatch::Alarm")
def silence_of_the_pipeline_is_an_alarm(stack):
    """Beside the lag, which is absent when nobody reads, an alarm goes off when nothing comes."""
    alarms = stack.properties("AWS::CloudWatch::Alarm")
    if stack.of("AWS::IoT::TopicRule") and not any(a.get("TreatMissingData") == "breaching" for _, a in alarms):
        yield "no alarm takes missing data for a breach"


@check("AWS::CloudWatch::Alarm")
def alarms_watch_metrics_that_are_there(stack):
    """An alarm names a metric's dimensions as they are published: with others it never has any data."""
    for name, alarm in stack.properties("AWS::CloudWatch::Alarm"):
        watched = [alarm] if "MetricName" in alarm else []
        for query in alarm.get("Metrics", []):
            if "MetricStat" in query:
                watched.append(query["MetricStat"]["Metric"])
        for metric in watched:
            space, called = metric["Namespace"], metric["MetricName"]
            given = {dimension["Name"] for dimension in metric.get("Dimensions", [])}
            if not space.startswith("AWS/"):
                continue
            known = [d for (s, pattern), d in DIMENSIONS.items() if s == space and re.fullmatch(pattern, called)]
            if given not in known:
                yield f"{name}: {space} {called} by {sorted(given)}"
