"""The mistakes that are usual in templates of such pipelines: each with the rules that fail on a template having it.

A rule is here, in traps.py, or in rules/*.guard. Every one has a mutation in mutations.py that makes it fail.
"""

from __future__ import annotations

import re

from checks import allowing, bucket_of, check, mentioned, resources_for, texts, walk, within

MISTAKES = {
    "device_id both column and partition": ["partition_keys_are_no_columns"],
    "partition by device (small files, never archived)": ["tables_are_partitioned_by_day_only"],
    "MSCK REPAIR": ["partitions_are_not_looked_for"],
    "blood_pressure as text": ["vitals_are_numbers"],
    "hyphens in the rule name": ["iot_rule_name"],
    "DestinationArn = cluster": ["rule_goes_through_a_destination"],
    "GetAtt for brokers": ["brokers_are_no_attribute"],
    "BootstrapServers as an action property": ["kafka_action_has_its_properties_only"],
    "no secret": ["msk_secret_is_associated", "scram_secret_is_one_that_msk_takes"],
    "no key": ["iot_rule_key_is_the_device"],
    "no network role": ["destination_role_may_make_interfaces"],
    "no topic": ["rule_writes_to_a_topic_that_is_made"],
    "no error action": ["iot_rule_error_action"],
    "dead Kafka version": ["msk_version_is_alive"],
    "excluded zone": ["zones_are_chosen_not_counted"],
    "a never-ending streaming step before training": ["streams_in_a_workflow_end"],
    "training image in the user's own account that nobody pushed": ["images_are_there_before_they_are_named"],
    "fixed training job name": ["training_jobs_have_a_name_each"],
    "policies without ListBucket (on the bucket ARN)": ["readers_may_list_the_bucket"],
    "policies without Abort/ListMultipart": ["writers_may_end_uploads"],
    "policies without PassRole": ["workflow_may_pass_the_roles"],
    "policies without events rules": ["workflow_may_wait_for_events"],
    "query results inside the data prefix": ["results_lie_outside_the_data"],
    "training on the whole bucket": ["training_reads_what_was_prepared_for_it"],
    "no Retry": ["tasks_are_tried_again"],
    "no Catch": ["failures_are_caught"],
    "no TimeoutSeconds": ["tasks_have_a_time_limit"],
    "non-empty buckets blocking deletion": [
        "data_keys_and_logs_are_retained",
        "images_can_be_deleted",
        "athena_work_group_can_be_deleted",
    ],
}

VITALS = {"heart_rate", "systolic", "diastolic", "temperature", "spo2", "respiratory_rate"}
INTERFACES = (
    "CreateNetworkInterface",
    "DescribeNetworkInterfaces",
    "CreateNetworkInterfacePermission",
    "DeleteNetworkInterface",
    "DescribeSubnets",
    "DescribeVpcs",
    "DescribeVpcAttribute",
    "DescribeSecurityGroups",
)
# What a `.sync` step of a workflow needs, by the call that begins it: calls, events rule, and who is passed a role.
WAITING = {
    "sagemaker:CreateTrainingJob": (
        ("sagemaker:DescribeTrainingJob", "sagemaker:StopTrainingJob", "sagemaker:AddTags"),
        "StepFunctionsGetEventsForSageMakerTrainingJobsRule",
        "sagemaker.amazonaws.com",
    ),
    "emr-serverless:StartJobRun": (
        ("emr-serverless:GetJobRun", "emr-serverless:CancelJobRun"),
        "StepFunctionsGetEventsForEMRServerlessJobRule",
        "emr-serverless.amazonaws.com",
    ),
    "ecs:RunTask": (
        ("ecs:StopTask", "ecs:DescribeTasks"),
        "StepFunctionsGetEventsForECSTaskRule",
        "ecs-tasks.amazonaws.com",
    ),
}


def tables(stack):
    """Pairs of a table's logical name and its input."""
    return [(name, table["TableInput"]) for name, table in stack.properties("AWS::Glue::Table")]


@check("AWS::Glue::Table")
def partition_keys_are_no_columns(stack):
    """A partition key is not a column of the same table as well: Hive refuses such a table."""
    for name, table in tables(stack):
        columns = {column["Name"] for column in table["StorageDescriptor"]["Columns"]}
        for key in table.get("PartitionKeys", []):
            if key["Name"] in columns:
                yield f"{name}: {key['Name']} is a column and a partition key"


@check("AWS::Glue::Table")
def tables_are_partitioned_by_day_only(stack):
    """Tables are partitioned by day: by device, files would be small, and small objects are never archived."""
    for name, table in tables(stack):
        for key in table.get("PartitionKeys", []):
            if key["Name"] != "dt":
                yield f"{name} is partitioned by {key['Name']}"


@check()
def partitions_are_not_looked_for(stack):
    """No statement repairs partitions: each is registered with the location of the run in force."""
    for path, text in [*texts(stack.raw), *((name, text) for name, text in stack.files.items())]:
        if re.search(r"\bMSCK\s+REPAIR\b", text, re.IGNORECASE):
            yield f"MSCK REPAIR in {path}"


@check("AWS::Glue::Table")
def vitals_are_numbers(stack):
    """Vitals are columns of type double, blood pressure two of them."""
    found = set()
    for name, table in tables(stack):
        for column in table["StorageDescriptor"]["Columns"]:
            if column["Name"] in VITALS:
                found.add(column["Name"])
                if column["Type"] != "double":
                    yield f"{name}: {column['Name']} is a {column['Type']}"
            if column["Name"] == "blood_pressure":
                yield f"{name} has blood_pressure as one column"
    if tables(stack) and found != VITALS:
        yield f"no table has {sorted(VITALS - found)}"


def kafka_actions(stack):
    """Pairs of a rule's logical name and one of its Kafka actions."""
    for name, rule in stack.properties("AWS::IoT::TopicRule"):
        for action in rule["TopicRulePayload"]["Actions"]:
            if "Kafka" in action:
                yield name, action["Kafka"]


@check("AWS::IoT::TopicRule", "AWS::IoT::TopicRuleDestination")
def rule_goes_through_a_destination(stack):
    """A rule's DestinationArn is a destination (of this stack, or given), never the cluster."""
    for name, action in kafka_actions(stack):
        to = action.get("DestinationArn", "")
        made_here = any(stack.resources[n]["Type"] == "AWS::IoT::TopicRuleDestination" for n in mentioned(to))
        if not made_here and not re.fullmatch(r"arn:aws:iot:[^:]+:\d+:ruledestination/vpc/.+", to):
            yield f"{name}: DestinationArn is `{to}`"


@check("AWS::MSK::Cluster")
def brokers_are_no_attribute(stack):
    """Nothing asks the cluster for its brokers: CloudFormation has Arn and CurrentVersion only."""
    clusters = {name for name, r in stack.raw["Resources"].items() if r["Type"] == "AWS::MSK::Cluster"}
    for path, node in walk(stack.raw):
        asked = []
        if isinstance(node, dict) and "Fn::GetAtt" in node:
            asked = [node["Fn::GetAtt"]]
        elif isinstance(node, str):
            asked = [found.split(".", 1) for found in re.findall(r"\$\{(\w+\.[\w.]+)\}", node)]
        for resource, attribute in asked:
            if resource in clusters and attribute not in ("Arn", "CurrentVersion"):
                yield f"{'.'.join(map(str, path))} asks for {resource}.{attribute}"


@check("AWS::IoT::TopicRule")
def kafka_action_has_its_properties_only(stack):
    """A Kafka action names its brokers in ClientProperties, as bootstrap.servers."""
    known = {"DestinationArn", "Topic", "ClientProperties", "Key", "Partition", "Headers"}
    for name, action in kafka_actions(stack):
        if set(action) - known:
            yield f"{name}: a Kafka action has no {sorted(set(action) - known)}"
        if not action.get("ClientProperties", {}).get("bootstrap.servers"):
            yield f"{name}: no bootstrap.servers in ClientProperties"


@check("AWS::SecretsManager::Secret", "AWS::MSK::BatchScramSecret")
def scram_secret_is_one_that_msk_takes(stack):
    """A secret for SCRAM is named AmazonMSK_…, has a customer's key, and makes a password beside a user's name."""
    for name, association in stack.properties("AWS::MSK::BatchScramSecret"):
        for secret in mentioned(association["SecretArnList"]):
            found = stack.resources[secret]["Properties"]
            made = found.get("GenerateSecretString", {})
            if not found.get("Name", "").startswith("AmazonMSK_"):
                yield f"{name}: {secret} is not named AmazonMSK_…"
            if not mentioned(found.get("KmsKeyId", "")):
                yield f"{name}: {secret} has no key of this stack"
            if '"username"' not in made.get("SecretStringTemplate", "") or made.get("GenerateStringKey") != "password":
                yield f"{name}: {secret} is not made of username and password"


@check("AWS::IoT::TopicRuleDestination", "AWS::IAM::Role")
def destination_role_may_make_interfaces(stack):
    """The destination has a role that IoT Core takes, with every action on network interfaces that it needs."""
    for name, destination in stack.properties("AWS::IoT::TopicRuleDestination"):
        roles = stack.roles("iot.amazonaws.com")
        role = next(iter(mentioned(destination["VpcProperties"].get("RoleArn", "")) & set(roles)), None)
        if role is None:
            yield f"{name} has no role of this stack that IoT Core may take"
            continue
        for action in INTERFACES:
            if not allowing(roles[role], f"ec2:{action}"):
                yield f"{role} may not ec2:{action}"


@check("AWS::IoT::TopicRule", "AWS::MSK::Topic")
def rule_writes_to_a_topic_that_is_made(stack):
    """The topic that the rule writes to is a resource: MSK makes none by itself."""
    made = {topic["TopicName"] for _, topic in stack.properties("AWS::MSK::Topic")}
    for name, action in kafka_actions(stack):
        topic = action.get("Topic", "")
        by_reference = any(stack.resources[n]["Type"] == "AWS::MSK::Topic" for n in mentioned(topic))
        if topic not in made and not by_reference:
            yield f"{name} writes to `{topic}`; topics are {sorted(made)}"


@check("AWS::EC2::Subnet")
def zones_are_chosen_not_counted(stack):
    """Zones of subnets are given, as some may hold no brokers: not the first ones of a list."""
    for name, subnet in stack.properties("AWS::EC2::Subnet"):
        zone = subnet.get("AvailabilityZone") or subnet.get("AvailabilityZoneId") or "chosen by the service"
        if "list" in zone or "service" in zone or zone == "use1-az3":
            yield f"{name}: its zone is {zone}"


@check()
def streams_in_a_workflow_end(stack):
    """A streaming query ends when it has read what there was: a step after one that runs for ever is never reached."""
    for name, text in stack.files.items():
        triggers = re.findall(r"\.trigger\(([^)]*)\)", text)
        ending = [trigger for trigger in triggers if re.match(r"\s*availableNow\s*=\s*True", trigger)]
        if len(ending) < max(len(triggers), len(re.findall(r"\bwriteStream\b", text))):
            yield f"{name}: a stream without trigger(availableNow=True) never ends"


@check("AWS::ECS::TaskDefinition", "AWS::ECR::Repository", "AWS::StepFunctions::StateMachine")
def images_are_there_before_they_are_named(stack):
    """An image of the stack's own repository is named by the digest that was pushed, or not at all."""
    repositories = set(stack.of("AWS::ECR::Repository"))
    for path, text in texts(stack.resources):
        for repository in repositories:
            for rest in re.findall(rf"<{repository}\.RepositoryUri>(.*)", text):
                if not re.match(r"@sha256:[0-9a-f]{64}\b", rest):
                    yield f"{'.'.join(map(str, path))} names an image that may not be there: {text}"


def training_jobs(stack):
    """Pairs of a state's name and the arguments with which it begins a training job."""
    for name, state in stack.tasks_of_machine().items():
        if "createTrainingJob" in state["Resource"]:
            yield name, {**state.get("Parameters", {}), **state.get("Arguments", {})}


@check("AWS::StepFunctions::StateMachine")
def training_jobs_have_a_name_each(stack):
    """A training job's name is made anew for each run: names are unique for ever."""
    for name, job in training_jobs(stack):
        made = job.get("TrainingJobName.$") or job.get("TrainingJobName", "")
        if not re.search(r"States\.UUID\(\)|\$uuid\(\)|Execution\.Name", made):
            yield f"{name}: TrainingJobName is `{made}`"


def objects_of(found, action):
    """The buckets in whose objects a role may do something, as marks or names."""
    return {bucket_of(r) for r in resources_for(found, action) if "/" in r.replace("s3://", "") and r != "*"}


@check("AWS::IAM::Role")
def readers_may_list_the_bucket(stack):
    """Who may read objects may list their bucket, by the bucket's own ARN: else a key that is not there is a 403."""
    for name, found in stack.roles().items():
        listed = {bucket_of(r) for r in resources_for(found, "s3:ListBucket") if "/" not in r}
        for bucket in sorted(objects_of(found, "s3:GetObject") - listed):
            yield f"{name} reads in {bucket} and may not list it"
        for resource in resources_for(found, "s3:ListBucket"):
            if "/" in resource:
                yield f"{name}: s3:ListBucket is for a bucket, not for {resource}"


@check("AWS::IAM::Role")
def writers_may_end_uploads(stack):
    """Who reads and writes objects may abort uploads and list their parts; files of landing alone are one PUT each."""
    for name, found in stack.roles().items():
        if all("/landing/" in resource for resource in resources_for(found, "s3:PutObject")):
            continue
        for bucket in sorted(objects_of(found, "s3:PutObject") & objects_of(found, "s3:GetObject")):
            for action in ("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"):
                if bucket not in objects_of(found, action):
                    yield f"{name} writes in {bucket} and may not {action}"


def waiting(stack):
    """For each role of a workflow and what it begins: (role, its statements, calls, events rule, who gets a role)."""
    for name, found in stack.roles("states.amazonaws.com").items():
        for begins, (calls, rule, service) in WAITING.items():
            if allowing(found, begins):
                yield name, found, calls, rule, service


@check("AWS::IAM::Role", "AWS::StepFunctions::StateMachine")
def workflow_may_pass_the_roles(stack):
    """The workflow may pass a role to each service that it starts jobs in, and to that one only."""
    if stack.of("AWS::StepFunctions::StateMachine") and not list(waiting(stack)):
        yield "no role of the workflow begins anything"
    for name, found, _, _, service in waiting(stack):
        passing = allowing(found, "iam:PassRole")
        named = [s.get("Condition", {}).get("StringEquals", {}).get("iam:PassedToService", []) for s in passing]
        if not any(service in services for services in named):
            yield f"{name} may not pass a role to {service}"


@check("AWS::IAM::Role", "AWS::StepFunctions::StateMachine")
def workflow_may_wait_for_events(stack):
    """The workflow may look at and stop what it waits for, and has the rule of events by which it learns of the end."""
    for name, found, calls, rule, _ in waiting(stack):
        for call in calls:
            if not allowing(found, call):
                yield f"{name} may not {call}"
        for action in ("events:PutTargets", "events:PutRule", "events:DescribeRule"):
            if not any(resource.endswith(f":rule/{rule}") for resource in resources_for(found, action)):
                yield f"{name} may not {action} on {rule}"


@check("AWS::Athena::WorkGroup", "AWS::Glue::Table")
def results_lie_outside_the_data(stack):
    """Results of queries are not below a table's location, nor a table below theirs: a query would read them."""
    for name, group in stack.properties("AWS::Athena::WorkGroup"):
        results = group["WorkGroupConfiguration"].get("ResultConfiguration", {}).get("OutputLocation")
        for table, described in tables(stack):
            data = described["StorageDescriptor"].get("Location", "")
            if results and data and (results.startswith(data) or data.startswith(results)):
                yield f"{name}: {results} and table {table} at {data}"


@check("AWS::StepFunctions::StateMachine", "AWS::IAM::Role")
def training_reads_what_was_prepared_for_it(stack):
    """A training job's channel, and what its role may read, is a prefix: archived objects in it would fail the job."""
    for name, job in training_jobs(stack):
        for channel in job.get("InputDataConfig", []):
            where = stack.spelt_out(channel["DataSource"])
            if "${DataBucket}" in where or not re.search(r"\btraining/", where):
                yield f"{name}: its channel is {where}"
    for _, workflow in stack.properties("AWS::StepFunctions::StateMachine"):
        named = mentioned(workflow.get("DefinitionSubstitutions", {}))
        for name, found in stack.roles("sagemaker.amazonaws.com").items():
            for resource in resources_for(found, "s3:GetObject") if name in named else ():
                if re.fullmatch(r"[^/]+/\*|\*", resource):
                    yield f"{name} may read all of {resource}"


@check("AWS::StepFunctions::StateMachine")
def tasks_are_tried_again(stack):
    """Every task of the workflow has a Retry."""
    yield from (f"{name} has no Retry" for name, task in stack.tasks_of_machine().items() if not task.get("Retry"))


def uncaught(machine: dict):
    """The tasks of a machine whose failure nothing catches, neither they nor a state that they are within."""
    for name, state in machine.get("States", {}).items():
        if state.get("Catch"):
            continue
        if state.get("Type") == "Task":
            yield name
        for part in within(state):
            yield from uncaught(part)


@check("AWS::StepFunctions::StateMachine")
def failures_are_caught(stack):
    """Every task of the workflow has a Catch, or a state that it is within has."""
    yield from (f"nothing catches the failure of {name}" for name in uncaught(stack.machine()))


@check("AWS::StepFunctions::StateMachine")
def tasks_have_a_time_limit(stack):
    """Every task of the workflow has a TimeoutSeconds, and the workflow as well."""
    limits = ("TimeoutSeconds", "TimeoutSecondsPath")
    for name, task in stack.tasks_of_machine().items():
        if not any(task.get(limit) for limit in limits):
            yield f"{name} has no TimeoutSeconds"
    if stack.machine() and not stack.machine().get("TimeoutSeconds"):
        yield "the workflow has no TimeoutSeconds"
