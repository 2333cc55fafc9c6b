"""What stands in for AWS when a stack is deployed: moto for what it does well, and here what it lacks.

moto's CloudFormation makes every resource whatever its condition, gives no outputs to a stack that was made by a change
set, and has neither MSK's brokers nor topic rule destinations. So the life of a stack is played here, after the shapes of
CloudFormation's API model: the template is evaluated for its parameters, what changes follows from what differs, and what
happens comes as events, resource by resource. Of what the resources are only buckets, schedules and Glue's tables come to be, in moto: that
CloudFormation would make the others is not shown by this. All other calls (identity, zones, roles, S3, things) go to moto.

    cloud = Cloud(lab, moto)                   its `endpoint` is for AWS_ENDPOINT_URL
    cloud.fail("KafkaCluster", "no capacity")  the next time that resource is touched
    cloud.throttled = 2                        so many of the next questions are too many
    cloud.pause_s = 0.2                        between two events
    cloud.calls                                what was asked, in order
"""

from __future__ import annotations

import http.client
import http.server
import json
import sys
import threading
import time
import urllib.parse
import uuid
from pathlib import Path
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "template"))

import s3  # noqa: E402
from resolve import Resolver, Unresolved, text  # noqa: E402

REGION, ACCOUNT = "us-east-1", "123456789012"
VERSION = "2010-05-15"
BROKERS = {
    "bootstrapBrokerStringSaslScram": "b-2.vitals.kafka.us-east-1.amazonaws.com:9096,b-1.vitals.kafka.us-east-1.amazonaws.com:9096",
    "bootstrapBrokerStringSaslIam": "b-1.vitals.kafka.us-east-1.amazonaws.com:9098,b-2.vitals.kafka.us-east-1.amazonaws.com:9098",
}


class Refused(Exception):
    """What CloudFormation answers with a code and words."""

    def __init__(self, code: str, message: str, status: int = 400):
        super().__init__(message)
        self.code, self.status = code, status


DESTINATION = f"arn:aws:iot:{REGION}:{ACCOUNT}:ruledestination/vpc/0a1b2c3d-0000-4000-8000-000000000002"


class Deployed(Resolver):
    """A template whose resources exist: attributes and references have values."""

    # Where images go, if to a registry of the test.
    registry = ""

    def reference(self, name):
        found = super().reference(name)
        resource = self.template["Resources"].get(name, {})
        if resource.get("Type") == "AWS::Glue::Database":
            return self.value(resource["Properties"]["DatabaseInput"]["Name"])
        if resource.get("Type") == "AWS::StepFunctions::StateMachine":
            machine = self.value(resource["Properties"]["StateMachineName"])
            return f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:{machine}"
        return physical(self.parameters["AWS::StackName"], name) if found == f"<{name}>" else found

    def attribute(self, resource, name):
        self.reference(resource)
        stack = self.parameters["AWS::StackName"]
        if (resource, name) == ("KafkaCluster", "Arn"):
            return f"arn:aws:kafka:{REGION}:{ACCOUNT}:cluster/{stack}/0a1b2c3d-0000-4000-8000-000000000001-1"
        if (resource, name) == ("DeviceDestination", "Arn"):
            return DESTINATION
        if name == "Arn" or name.endswith("Arn"):
            return f"arn:aws:any:{REGION}:{ACCOUNT}:{physical(stack, resource)}"
        if name == "RepositoryUri":
            if self.registry:
                return self.registry
            return f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{physical(stack, resource).lower()}"
        return f"{physical(stack, resource)}-{name.lower()}"


def physical(stack: str, name: str) -> str:
    return f"{stack}-{name}-1a2b3c".lower()


class Stack:
    """One stack: what it is, and what has happened to it."""

    def __init__(self, name: str):
        self.name, self.status, self.reason = name, "REVIEW_IN_PROGRESS", ""
        self.id = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{name}/{uuid.uuid4()}"
        self.template, self.given, self.resources, self.outputs = {}, {}, {}, {}
        self.events, self.policy, self.left = [], None, {}

    def values(self) -> dict:
        """Every parameter that the template declares, given or by default."""
        declared = self.template.get("Parameters", {}).items()
        return {name: self.given.get(name, text(p.get("Default", ""))) for name, p in declared}

    def tell(self, resource: str, kind: str, status: str, reason: str = "", token: str = "") -> None:
        if resource == self.name:
            self.status, self.reason = status, reason
        self.events.insert(0, {
            "EventId": f"{resource}-{uuid.uuid4()}", "StackId": self.id, "StackName": self.name,
            "LogicalResourceId": resource, "PhysicalResourceId": self.id if resource == self.name else physical(self.name, resource),
            "ResourceType": kind, "Timestamp": now(), "ResourceStatus": status, "ResourceStatusReason": reason,
            "ClientRequestToken": token,
        })

    def of_stack(self, status: str, reason: str = "", token: str = "") -> None:
        self.tell(self.name, "AWS::CloudFormation::Stack", status, reason, token)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"


def evaluated(template: dict, given: dict, name: str, registry: str = ""):
    """Resources and outputs of a template under its parameters."""
    resolver = Deployed(template, given)
    resolver.registry = registry
    resolver.parameters.update({
        "AWS::StackName": name, "AWS::Region": REGION, "AWS::AccountId": ACCOUNT,
        "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{name}/x",
    })
    return resolver.resources(), {key: text(value) for key, value in resolver.outputs().items()}


class Cloud:
    """The server, and the stacks in it."""

    def __init__(self, lab, moto):
        self.moto = urllib.parse.urlsplit(moto.endpoint)
        self.stacks, self.gone, self.sets, self.failures = {}, [], {}, {}
        self.registry, self.kafka_versions, self.processors = "", ["3.9.x", "4.1.x.kraft"], 1000.0
        self.calls, self.pause_s, self.lock = [], 0.0, threading.RLock()
        # What else an answer of moto's has, for who is answered by this thread.
        self.passed_on = threading.local()
        self.destination, self.working, self.denied, self.throttled = "ENABLED", [], set(), 0
        cloud = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, kind, answer = cloud.answer(self.command, self.path, dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(answer)))
                # By which S3's clients know what they have written.
                for name, value in cloud.passed_on.__dict__.pop("headers", {}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer)

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_PATCH = handle_any

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        # By name, since moto finds a template in its own S3 only there.
        self.endpoint = f"http://localhost:{self.server.server_address[1]}"

    def env(self) -> dict:
        """The environment of a program that is to take this for AWS."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        }

    def fail(self, resource: str, reason: str, times: int = 1) -> None:
        self.failures[resource] = [times, reason]

    def settle(self) -> None:
        """Waits until nothing is under way."""
        for thread in self.working:
            thread.join()

    # Answers

    def answer(self, method: str, path: str, headers: dict, body: bytes):
        form = dict(urllib.parse.parse_qsl(body.decode("utf-8", "replace"))) if method == "POST" else {}
        if form.get("Version") == VERSION:
            return self.cloudformation(form)
        if form.get("Action") == "SimulatePrincipalPolicy":
            return self.permissions(form)
        bare = urllib.parse.unquote(urllib.parse.urlsplit(path).path)
        target = next((v for k, v in headers.items() if k.lower() == "x-amz-target"), "")
        self.calls.append(target or f"{method} {bare}")
        for fits, found in (
            (bare.endswith("/bootstrap-brokers"), lambda: BROKERS),
            (bare.startswith("/api/v2/clusters/"), lambda: {"clusterInfo": {
                "state": "ACTIVE", "provisioned": {"numberOfBrokerNodes": 2, "currentBrokerSoftwareInfo": {"kafkaVersion": "3.9.x"}}}}),
            (method == "GET" and bare.startswith("/destinations/"), lambda: {"topicRuleDestination": {
                "arn": bare[len("/destinations/"):], "status": self.destination}}),
            (bare == "/v1/kafka-versions", lambda: {"kafkaVersions": [
                {"version": v, "status": "ACTIVE"} for v in self.kafka_versions]}),
            (target.endswith(".ListServiceQuotas"), lambda: {"Quotas": [
                {"QuotaName": f"{kind} vCPU resource count", "Value": self.processors} for kind in ("Fargate Spot", "Fargate On-Demand")]}),
            (method == "GET" and bare.startswith("/rules/"), lambda: {"rule": {"ruleName": bare[len("/rules/"):], "actions": [
                {"kafka": {"destinationArn": DESTINATION, "topic": "vitals", "clientProperties": {}}}]}}),
            (bare == "/endpoint", lambda: {"endpointAddress": "127.0.0.1"}),
            (bare.startswith("/policy-targets/"), lambda: {"targets": []}),
            (bare.startswith("/applications/"), lambda: {"application": {"state": "STOPPED"}}),
            (target.endswith(".ListExecutions"), lambda: {"executions": []}),
            (target.endswith(".DescribeServices"), lambda: {"services": [
                {"serviceName": name, "runningCount": 1, "desiredCount": 1} for name in json.loads(body)["services"]], "failures": []}),
        ):
            if fits:
                return 200, "application/json", json.dumps(found()).encode()
        return self.forward(method, path, headers, body)

    def permissions(self, form: dict):
        asked = [value for name, value in form.items() if name.startswith("ActionNames.")]
        decision = lambda action: "implicitDeny" if action in self.denied else "allowed"
        results = [{"EvalActionName": action, "EvalDecision": decision(action)} for action in asked]
        answer = {"SimulatePrincipalPolicyResponse": {"SimulatePrincipalPolicyResult": {"EvaluationResults": results, "IsTruncated": "false"}}}
        return 200, "text/xml", xml(answer).encode()

    def forward(self, method: str, path: str, headers: dict, body: bytes):
        connection = http.client.HTTPConnection(self.moto.hostname, self.moto.port, timeout=60)
        try:
            connection.request(method, path, body, {k: v for k, v in headers.items() if k.lower() != "connection"})
            answer = connection.getresponse()
            self.passed_on.headers = {name: answer.headers[name] for name in ("ETag", "Last-Modified") if answer.headers[name]}
            return answer.status, answer.headers.get("Content-Type") or "text/plain", answer.read()
        finally:
            connection.close()

    def cloudformation(self, form: dict):
        action = form["Action"]
        self.calls.append(action)
        if self.throttled > 0:
            self.throttled -= 1
            said = "<ErrorResponse><Error><Type>Sender</Type><Code>Throttling</Code><Message>Rate exceeded</Message></Error></ErrorResponse>"
            return 400, "text/xml", said.encode()
        try:
            with self.lock:
                result = getattr(self, f"do_{action}")(form)
        except Refused as refused:
            said = f"<ErrorResponse><Error><Type>Sender</Type><Code>{refused.code}</Code><Message>{escape(str(refused))}</Message></Error></ErrorResponse>"
            return refused.status, "text/xml", said.encode()
        said = f'<{action}Response xmlns="http://cloudformation.amazonaws.com/doc/{VERSION}/"><{action}Result>{xml(result)}</{action}Result></{action}Response>'
        return 200, "text/xml", said.encode()

    def stack(self, name_or_id: str) -> Stack:
        for stack in [*self.stacks.values(), *self.gone]:
            if name_or_id == stack.id or stack.name == name_or_id and stack.status != "DELETE_COMPLETE":
                return stack
        raise Refused("ValidationError", f"Stack with id {name_or_id} does not exist")

    def do_DescribeStacks(self, form):
        stack = self.stack(form["StackName"])
        return {"Stacks": [{
            "StackId": stack.id, "StackName": stack.name, "StackStatus": stack.status, "StackStatusReason": stack.reason,
            "CreationTime": now(),
            "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in stack.values().items()],
            "Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in stack.outputs.items()],
        }]}

    def do_DescribeStackEvents(self, form):
        events = self.stack(form["StackName"]).events
        begin = int(form.get("NextToken", 0))
        page = {"StackEvents": events[begin:begin + 100]}
        return {**page, "NextToken": str(begin + 100)} if len(events) > begin + 100 else page

    def do_ListStackResources(self, form):
        stack = self.stack(form["StackName"])
        return {"StackResourceSummaries": [{
            "LogicalResourceId": name, "PhysicalResourceId": physical(stack.name, name), "ResourceType": resource["Type"],
            "ResourceStatus": "CREATE_COMPLETE", "LastUpdatedTimestamp": now(),
        } for name, resource in {**stack.left, **stack.resources}.items()]}

    def do_ListStacks(self, _):
        return {"StackSummaries": [{
            "StackId": stack.id, "StackName": stack.name, "StackStatus": stack.status, "CreationTime": now(), "DeletionTime": now(),
        } for stack in self.gone]}

    def do_SetStackPolicy(self, form):
        self.stack(form["StackName"]).policy = json.loads(form["StackPolicyBody"])
        return {}

    def do_CreateChangeSet(self, form):
        name = form["StackName"]
        stack = self.stacks.get(name)
        if form["ChangeSetType"] == "CREATE":
            if stack is None:
                stack = self.stacks[name] = Stack(name)
                stack.of_stack("REVIEW_IN_PROGRESS")
        elif stack is None:
            raise Refused("ValidationError", f"Stack [{name}] does not exist")
        if stack.status.endswith("_IN_PROGRESS") and stack.status != "REVIEW_IN_PROGRESS":
            raise Refused("ValidationError", f"Stack:{stack.id} is in {stack.status} state and can not be updated.")
        template = self.template(form, stack)
        given = parameters(form, stack)
        number = {"id": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:changeSet/{form['ChangeSetName']}/{uuid.uuid4()}"}
        try:
            resources, outputs = evaluated(template, given, name, self.registry)
        except Unresolved as error:
            raise Refused("ValidationError", str(error)) from error
        changes = differences(stack.resources, resources)
        self.sets[number["id"]] = {
            "name": form["ChangeSetName"], "stack": stack, "template": template, "given": given, "resources": resources,
            "outputs": outputs, "changes": changes, "asked": 0,
        }
        return {"Id": number["id"], "StackId": stack.id}

    def template(self, form, stack):
        if form.get("UsePreviousTemplate") == "true":
            return stack.template
        body = form.get("TemplateBody")
        if body is None:
            path = urllib.parse.urlsplit(form["TemplateURL"]).path
            status, _, body = self.forward("GET", path, s3.SIGNED, b"")
            if status != 200:
                raise Refused("ValidationError", "S3 error: The specified key does not exist.")
        elif len(body.encode()) > 51_200:
            raise Refused("ValidationError", "at 'templateBody' failed to satisfy constraint: Member must have length less than or equal to 51200")
        return json.loads(body)

    def change_set(self, form):
        wanted = form["ChangeSetName"]
        for number, found in self.sets.items():
            if wanted in (number, found["name"]):
                return number, found
        raise Refused("ChangeSetNotFound", f"ChangeSet [{wanted}] does not exist", 404)

    def do_DescribeChangeSet(self, form):
        number, found = self.change_set(form)
        found["asked"] += 1
        answer = {"ChangeSetId": number, "ChangeSetName": found["name"], "StackId": found["stack"].id, "StackName": found["stack"].name}
        if found["asked"] == 1:
            return {**answer, "Status": "CREATE_IN_PROGRESS"}
        if not found["changes"]:
            reason = "The submitted information didn't contain changes. Submit different information to create a change set."
            return {**answer, "Status": "FAILED", "StatusReason": reason}
        begin = int(form.get("NextToken", 0))
        answer.update({"Status": "CREATE_COMPLETE", "ExecutionStatus": "AVAILABLE", "Changes": [
            {"Type": "Resource", "ResourceChange": change} for change in found["changes"][begin:begin + 50]]})
        return {**answer, "NextToken": str(begin + 50)} if len(found["changes"]) > begin + 50 else answer

    def do_DeleteChangeSet(self, form):
        number, _ = self.change_set(form)
        del self.sets[number]
        return {}

    def do_ExecuteChangeSet(self, form):
        _, found = self.change_set(form)
        stack, token = found["stack"], form.get("ClientRequestToken", "")
        self.begin(stack, found, "CREATE" if stack.status == "REVIEW_IN_PROGRESS" else "UPDATE", token)
        return {}

    def do_UpdateStack(self, form):
        stack = self.stack(form["StackName"])
        template, given = self.template(form, stack), parameters(form, stack)
        resources, outputs = evaluated(template, given, stack.name, self.registry)
        changes = differences(stack.resources, resources)
        if not changes:
            raise Refused("ValidationError", "No updates are to be performed.")
        found = {"template": template, "given": given, "resources": resources, "outputs": outputs, "changes": changes}
        self.begin(stack, found, "UPDATE", form.get("ClientRequestToken", ""))
        return {"StackId": stack.id}

    def do_ContinueUpdateRollback(self, form):
        stack, token = self.stack(form["StackName"]), form.get("ClientRequestToken", "")
        stack.of_stack("UPDATE_ROLLBACK_IN_PROGRESS", token=token)
        self.later(lambda: stack.of_stack("UPDATE_ROLLBACK_COMPLETE", token=token))
        return {}

    def do_DeleteStack(self, form):
        stack, token = self.stack(form["StackName"]), form.get("ClientRequestToken", "")
        if stack.status == "REVIEW_IN_PROGRESS":
            stack.of_stack("DELETE_COMPLETE", token=token)
            self.gone.append(self.stacks.pop(stack.name))
            return {}
        stack.of_stack("DELETE_IN_PROGRESS", "User Initiated", token)
        self.later(lambda: self.delete(stack, token))
        return {}

    # What happens

    def later(self, work) -> None:
        def run():
            time.sleep(self.pause_s)
            work()
        thread = threading.Thread(target=run, daemon=True)
        self.working.append(thread)
        thread.start()

    def begin(self, stack, found, verb: str, token: str) -> None:
        stack.of_stack(f"{verb}_IN_PROGRESS", "User Initiated", token)
        self.later(lambda: self.apply(stack, found, verb, token))

    def breaks(self, resource: str):
        times, reason = self.failures.get(resource, (0, ""))
        if times > 0:
            self.failures[resource][0] -= 1
            return reason
        return None

    def apply(self, stack, found, verb: str, token: str) -> None:
        with self.lock:
            # CloudFormation goes by what depends on what.
            made = ("AWS::S3::Bucket", "AWS::Glue::Database", "AWS::Glue::Table", "AWS::Scheduler::Schedule")
            added = [c for c in found["changes"] if c["Action"] == "Add" and c["ResourceType"] in made]
            for change in sorted(added, key=lambda change: made.index(change["ResourceType"])):
                self.make(stack.name, change["LogicalResourceId"], found["resources"][change["LogicalResourceId"]])
        stack_gives = {"Add": "CREATE", "Modify": "UPDATE", "Remove": "DELETE"}
        for place, change in enumerate(found["changes"]):
            name, kind, does = change["LogicalResourceId"], change["ResourceType"], stack_gives[change["Action"]]
            with self.lock:
                stack.tell(name, kind, f"{does}_IN_PROGRESS", token=token)
            time.sleep(self.pause_s)
            reason = self.breaks(name)
            with self.lock:
                if reason is None:
                    stack.tell(name, kind, f"{does}_COMPLETE", token=token)
                    continue
                # What was begun at the same time is given up, often before the one that failed is heard of.
                for other in found["changes"][place + 1:place + 3]:
                    stack.tell(other["LogicalResourceId"], other["ResourceType"], "CREATE_FAILED", "Resource creation cancelled", token)
                stack.tell(name, kind, f"{does}_FAILED", reason, token)
                return self.roll_back(stack, name, verb, token)
        with self.lock:
            stack.template, stack.given = found["template"], found["given"]
            stack.resources, stack.outputs = found["resources"], found["outputs"]
            stack.of_stack(f"{verb}_COMPLETE", token=token)

    def make(self, stack: str, name: str, resource: dict) -> None:
        """Makes what moto has: buckets, databases, tables and schedules."""
        kind, properties = resource["Type"], resource["Properties"]
        signed = lambda service: s3.SIGNED["Authorization"].replace("/s3/", f"/{service}/")
        if kind == "AWS::Scheduler::Schedule":
            headers = {"Authorization": signed("scheduler"), "Content-Type": "application/json"}
            status, _, answer = self.forward("POST", f"/schedules/{physical(stack, name)}", headers, json.dumps(properties).encode())
            assert status == 200 or b"Conflict" in answer, f"{name}: {answer!r}"
        if kind == "AWS::S3::Bucket":
            self.forward("PUT", f"/{physical(stack, name)}", s3.SIGNED, b"")
        if kind in ("AWS::Glue::Database", "AWS::Glue::Table"):
            what = kind.rsplit("::", 1)[1]
            asked = {"DatabaseInput": properties.get("DatabaseInput"), "DatabaseName": properties.get("DatabaseName"), "TableInput": properties.get("TableInput")}
            headers = {"Authorization": signed("glue"), "X-Amz-Target": f"AWSGlue.Create{what}", "Content-Type": "application/x-amz-json-1.1"}
            status, _, answer = self.forward("POST", "/", headers, json.dumps({k: v for k, v in asked.items() if v}).encode())
            assert status == 200 or b"AlreadyExists" in answer, f"{name}: {answer!r}"

    def roll_back(self, stack, name: str, verb: str, token: str) -> None:
        start = "ROLLBACK" if verb == "CREATE" else "UPDATE_ROLLBACK"
        stack.of_stack(f"{start}_IN_PROGRESS", f"The following resource(s) failed to {verb.lower()}: [{name}].", token)
        stuck = self.breaks("rollback")
        stack.of_stack(f"{start}_{'FAILED' if stuck else 'COMPLETE'}", stuck or "", token)

    def delete(self, stack, token: str) -> None:
        for name, resource in reversed(list(stack.resources.items())):
            stays = resource.get("DeletionPolicy", "Delete").startswith("Retain")
            reason = None if stays else self.breaks(name)
            with self.lock:
                if reason is not None:
                    stack.tell(name, resource["Type"], "DELETE_FAILED", reason, token)
                    stack.of_stack("DELETE_FAILED", f"The following resource(s) failed to delete: [{name}].", token)
                    return
                stack.tell(name, resource["Type"], "DELETE_SKIPPED" if stays else "DELETE_COMPLETE", token=token)
                (stack.left if stays else {})[name] = resource
                del stack.resources[name]
        with self.lock:
            stack.of_stack("DELETE_COMPLETE", token=token)
            self.gone.append(self.stacks.pop(stack.name))


def parameters(form: dict, stack: Stack) -> dict:
    """What a request gives for parameters, with those that keep their value."""
    given = {}
    for n in range(1, 400):
        name = form.get(f"Parameters.member.{n}.ParameterKey")
        if name is None:
            return given
        keeps = form.get(f"Parameters.member.{n}.UsePreviousValue") == "true"
        given[name] = stack.values()[name] if keeps else form.get(f"Parameters.member.{n}.ParameterValue", "")
    raise Refused("ValidationError", "too many parameters")


# Of these, a change replaces what is there. (The provider's schema calls them create-only.)
CREATE_ONLY = {
    ("AWS::MSK::Cluster", "ClusterName"), ("AWS::MSK::Topic", "TopicName"), ("AWS::KMS::Key", "KeySpec"),
    ("AWS::S3::Bucket", "BucketName"), ("AWS::EC2::VPC", "CidrBlock"), ("AWS::EC2::Subnet", "CidrBlock"),
}


def differences(old: dict, new: dict) -> list:
    """What a change set would say."""
    changes = []
    for name in [*new, *(name for name in old if name not in new)]:
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        kind = (after or before)["Type"]
        change = {"LogicalResourceId": name, "ResourceType": kind, "Action": "Modify" if before and after else "Add" if after else "Remove"}
        if before and after:
            both = {*before["Properties"], *after["Properties"]}
            changed = sorted(p for p in both if before["Properties"].get(p) != after["Properties"].get(p))
            change["Replacement"] = "True" if any((kind, p) in CREATE_ONLY for p in changed) else "False"
            change["PhysicalResourceId"] = physical("x", name)
            change["Details"] = [{"Target": {
                "Attribute": "Properties", "Name": p, "RequiresRecreation": "Always" if (kind, p) in CREATE_ONLY else "Never"}}
                for p in changed]
        changes.append(change)
    return changes


def xml(value) -> str:
    """A result in the form of the Query protocol."""
    if isinstance(value, dict):
        return "".join(f"<{key}>{xml(part)}</{key}>" for key, part in value.items() if part not in ("", None))
    if isinstance(value, list):
        return "".join(f"<member>{xml(part)}</member>" for part in value)
    return escape(str(value))
