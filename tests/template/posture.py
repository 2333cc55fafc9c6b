"""Rules of posture that look at several resources: reasons for wildcards, policies of buckets, the list of services."""

from __future__ import annotations

import re

from checks import bucket_of, check
from mistakes import training_jobs

# The architecture, as resources: a reviewer finds each of them.
ARCHITECTURE = (
    "AWS::IoT::TopicRule",
    "AWS::IoT::TopicRuleDestination",
    "AWS::IoT::Policy",
    "AWS::IoT::ThingType",
    "AWS::MSK::Cluster",
    "AWS::MSK::Topic",
    "AWS::S3::Bucket",
    "AWS::Glue::Database",
    "AWS::Glue::Table",
    "AWS::Athena::WorkGroup",
    "AWS::ECR::Repository",
    "AWS::ECS::Cluster",
    "AWS::ECS::Service",
    "AWS::ECS::TaskDefinition",
    "AWS::EMRServerless::Application",
    "AWS::SageMaker::NotebookInstance",
    "AWS::StepFunctions::StateMachine",
    "AWS::Scheduler::Schedule",
    "AWS::SNS::Topic",
    "AWS::CloudWatch::Alarm",
    "AWS::CloudWatch::Dashboard",
    "AWS::QuickSight::DataSource",
    "AWS::QuickSight::DataSet",
    "AWS::QuickSight::Dashboard",
)


@check(*ARCHITECTURE)
def architecture_is_complete(stack):
    """With everything asked for, each service of the architecture is in the stack."""
    if "full" in stack.tags:
        yield from (f"no {wanted}" for wanted in ARCHITECTURE if not stack.of(wanted))


@check("AWS::IAM::Role", "AWS::IAM::ManagedPolicy")
def wildcards_have_a_reason(stack):
    """A statement on `*`, or with `*` in an action, has a Sid and a reason in Metadata.Wildcards; none is left over."""
    for name, resource in stack.of("AWS::IAM::Role", "AWS::IAM::ManagedPolicy").items():
        reasons, used = resource.get("Metadata", {}).get("Wildcards", {}), set()
        properties = resource["Properties"]
        documents = [
            policy["PolicyDocument"]
            for policy in [*properties.get("Policies", []), properties]
            if "PolicyDocument" in policy
        ]
        for statement in (s for document in documents for s in document["Statement"] if s["Effect"] == "Allow"):
            if "*" in statement.get("Resource", ["*"]) or any(
                "*" in action for action in statement.get("Action", ["*"])
            ):
                used.add(statement.get("Sid"))
                if len(reasons.get(statement.get("Sid"), "")) < 15:
                    yield f"{name}: {statement.get('Sid') or 'a statement without Sid'} has a wildcard and no reason"
        yield from (f"{name}: the reason for {left} is for nothing" for left in sorted(set(reasons) - used))


@check("AWS::S3::Bucket", "AWS::S3::BucketPolicy")
def buckets_have_a_policy(stack):
    """Every bucket has a policy, and none allows something to everybody."""
    policies = stack.properties("AWS::S3::BucketPolicy")
    for bucket in stack.of("AWS::S3::Bucket"):
        if not any(bucket_of(policy["Bucket"]) == bucket for _, policy in policies):
            yield f"{bucket} has no policy"
    for name, policy in policies:
        for statement in policy["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Allow" and statement["Principal"] in ("*", {"AWS": ["*"]}):
                yield f"{name} allows everybody something"


@check("AWS::Athena::NamedQuery")
def saved_queries_are_bounded(stack):
    """A saved query reads a view, of few days, within the work group that cuts off, and shows no more than a page."""
    groups = {f"<{name}>" for name in stack.of("AWS::Athena::WorkGroup")}
    for name, query in stack.properties("AWS::Athena::NamedQuery"):
        text, group = query["QueryString"], query.get("WorkGroup")
        if group not in groups:
            yield f"{name} is of the work group {group}"
        if not re.match(r"SELECT\b", text) or not re.search(r"\bLIMIT \d{1,3}\s*$", text):
            yield f"{name} is no SELECT of a page"
        if not re.search(r"\bFROM (outliers|readings|dead_letters)\n", text) or "dt IS NULL OR dt >=" not in text:
            yield f"{name} reads more than some days of a view"


@check("AWS::EMRServerless::Application", "AWS::IAM::Role")
def every_service_has_a_role_of_its_own(stack):
    """No role is taken by two services: what one of them needs the other would have as well."""
    for name, role in stack.properties("AWS::IAM::Role"):
        trusted = {
            who for s in role["AssumeRolePolicyDocument"]["Statement"] for who in s["Principal"].get("Service", [])
        }
        if len(trusted) != 1:
            yield f"{name} is taken by {sorted(trusted)}"


@check("AWS::StepFunctions::StateMachine")
def training_is_encrypted_and_alone(stack):
    """A training job encrypts its volume and what it makes by the stack's key, and has no network."""
    for name, job in training_jobs(stack):
        keys = (job["ResourceConfig"].get("VolumeKmsKeyId"), job["OutputDataConfig"].get("KmsKeyId"))
        if keys != ("${KmsKeyArn}", "${KmsKeyArn}"):
            yield f"{name}: its keys are {keys}"
        if job.get("EnableNetworkIsolation") is not True:
            yield f"{name}: it may reach out"


@check("AWS::StepFunctions::StateMachine")
def workflow_gets_what_it_asks_for(stack):
    """Every `${Name}` of training.asl.json is given by the template, and nothing that it does not ask for."""
    asked = set(re.findall(r"\$\{(\w+)\}", stack.files.get("training.asl.json", "")))
    for name, machine in stack.properties("AWS::StepFunctions::StateMachine") if asked else ():
        given = set(machine.get("DefinitionSubstitutions", {}))
        if asked != given:
            yield f"{name}: not given {sorted(asked - given)}, not asked for {sorted(given - asked)}"
