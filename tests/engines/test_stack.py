"""The stack's life as who deploys it sees it, on stand-ins for AWS: see cloud.py for what they can't show."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import s3
from cloud import Cloud
from lab import check, equal, test
from test_image import small_program

DIGEST = "sha256:" + "a" * 64
IMAGE = ("--image", DIGEST)


class Desk:
    """A folder in which somebody deploys, and the cloud to deploy to."""

    def __init__(self, lab):
        self.lab, self.cloud = lab, Cloud(lab, lab.start_engine("moto"))
        self.folder = lab.folder / "desk"
        self.folder.mkdir()
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "VITALS_"))}
        self.env = {**clean, **self.cloud.env()}

    def vitals(self, *args, ok=(0,), env=None, **options):
        """Runs `vitals` there, without a terminal."""
        argv = [self.lab.program, *args]
        return self.lab.run(argv, ok=ok, env=env or self.env, cwd=self.folder, stdin=-3, **options)

    def deploy(self, *args, ok=(0,)):
        return self.vitals("deploy", "--yes", *IMAGE, *args, ok=ok)

    def stack(self, name: str = "vitals"):
        return self.cloud.stacks.get(name)

    def s3(self, method: str, path: str, body: bytes = b"", ok=(200,)):
        """A request to the S3 in which the stack's buckets would be."""
        status, _, answer = self.cloud.forward(method, f"/{path}", s3.SIGNED, body)
        check(status in ok, f"{method} {path}: {status} {answer!r}")
        return answer

    def start(self, *args):
        """Starts a command that is to be interrupted."""
        return self.lab.start("vitals", [self.lab.program, *args], env=self.env, cwd=self.folder)


def last_lines(text: str, count: int) -> list:
    return text.strip().splitlines()[-count:]


@test("moto")
def stack_life(lab):
    """plan, deploy, deploy again, status, why, destroy and what is left: each says what is so, and leaves what it says."""
    desk = Desk(lab)
    planned = desk.vitals("plan", "--detailed-exitcode", ok=(6,))
    check("KafkaCluster" in planned.stdout and "to add" in planned.stderr, planned.stdout + planned.stderr)
    equal(desk.stack(), None, "what a plan leaves")
    small = desk.vitals("plan", "--size", "small", "--set", "CompactSchedule=cron(30 2 * * ? *)").stderr
    equal(last_lines(small, 1), ["next: vitals deploy --size small --set 'CompactSchedule=cron(30 2 * * ? *)'"], "what to do after a plan")
    answer = json.loads(desk.vitals("plan", "--output", "json").stdout)
    equal((answer["schema_version"], answer["pass"]), (1, "first"), "the plan as JSON")
    first = {change["resource"] for change in answer["changes"]}
    check("DeviceRule" not in first and "ComputeIngestService" not in first, "services wait for image and brokers")

    deployed = desk.deploy()
    stack = desk.stack()
    equal(stack.status, "CREATE_COMPLETE" if not stack.outputs else "UPDATE_COMPLETE", "the stack after both passes")
    check({"DeviceRule", "DeviceDestination", "ComputeIngestService", "ComputeScorerService"} <= set(stack.resources), "the second pass is made")
    equal(stack.values()["BootstrapBrokersScram"].split(",")[0], "b-1.vitals.kafka.us-east-1.amazonaws.com:9096", "brokers in one order")
    equal(stack.values()["Zones"].count(","), 1, "two zones for the demo")
    check("LakeUri" in deployed.stdout and "next: vitals devices add" in deployed.stderr, deployed.stdout + deployed.stderr)
    config = (desk.folder / "vitals.toml").read_text()
    check('target = "aws"' in config and 'stack = "vitals"' in config, config)
    denied = [s for s in stack.policy["Statement"] if s["Effect"] == "Deny"]
    check("LogicalResourceId/LakeBucket" in denied[0]["Resource"], "data are protected by the stack's policy")

    changes = desk.cloud.calls.count("ExecuteChangeSet")
    again = desk.deploy()
    check("no changes" in again.stderr, again.stderr)
    jobs = ["compact.py", "ingest.py", "vitals_program.py"]
    check(f"put {', '.join(jobs)}" in deployed.stderr and "Spark's jobs" not in again.stderr, "Spark's jobs are put there once")
    for job in jobs:
        there = desk.s3("GET", f"{stack.outputs['ArtifactsBucket']}/spark/{job}")
        equal(there, (Path(__file__).parents[2] / "templates" / "spark" / job).read_bytes(), f"Spark's {job}")
    equal(desk.cloud.calls.count("ExecuteChangeSet"), changes, "change sets executed when there is nothing to do")
    equal(desk.vitals("plan", "--detailed-exitcode").stdout.strip(), "No changes.", "the plan of what is there")

    stands = desk.vitals("status")
    check("2 brokers of Kafka 3.9.x, ACTIVE" in stands.stdout and "ENABLED" in stands.stdout, stands.stdout)
    equal(len(json.loads(desk.vitals("status", "--output", "json").stdout)["parts"]) > 5, True, "parts as JSON")
    check("nothing went wrong" in desk.vitals("why").stdout, "why, where nothing did")

    gone = desk.vitals("destroy", "--yes")
    equal(desk.stack(), None, "the stack after destroy")
    check("stays: LakeBucket" in gone.stderr and "--delete-data" in gone.stderr, gone.stderr)
    updated, deleted = desk.cloud.calls.index("UpdateStack"), desk.cloud.calls.index("DeleteStack", changes)
    check(updated < len(desk.cloud.calls) and updated > 0 and deleted != updated, "the second pass is taken back first")
    desk.vitals("status", ok=(3,))
    desk.vitals("destroy", "--yes", ok=(3,))

    # What was left goes too, where that is meant: every version of every object, then the buckets.
    bucket = "vitals-lakebucket-1a2b3c"
    desk.s3("PUT", bucket)
    desk.s3("PUT", f"{bucket}?versioning", b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
    for name in ("landing/a%20b%26c.parquet", "landing/d.parquet", "landing/d.parquet"):
        desk.s3("PUT", f"{bucket}/{name}", b"rows")
    desk.s3("DELETE", f"{bucket}/landing/d.parquet", ok=(204,))
    all_gone = desk.vitals("destroy", "--delete-data", "--confirm", "vitals")
    check("4 versions of objects deleted" in all_gone.stderr, all_gone.stderr)
    desk.s3("GET", bucket, ok=(404,))


@test("moto")
def stack_failure(lab):
    """The last words of a failed deployment are its first cause, what to do, and the command to go on with; `why` repeats."""
    desk = Desk(lab)
    desk.cloud.fail("KafkaCluster", "User: arn:aws:iam::123456789012:user/me is not authorized to perform: kafka:CreateClusterV2")
    failed = desk.deploy(ok=(1,))
    cause, fix, next_step = last_lines(failed.stderr, 3)
    check(cause.startswith("cause: KafkaCluster (AWS::MSK::Cluster) CREATE_FAILED: User:"), cause)
    check("permission" in fix and fix.startswith("fix: "), fix)
    equal(next_step, f"next: vitals deploy --image {DIGEST}", "what to do next: the same, to be copied")
    check("cancelled" not in "".join([cause, fix]), "what was only given up is no cause")
    told = desk.vitals("why", ok=(1,))
    check(cause in told.stdout and fix in told.stdout, told.stdout)
    desk.vitals("plan", ok=(1,))
    # The next deployment takes away what never came to be, and is not put off by being told to ask less often.
    desk.cloud.throttled = 3
    mended = desk.deploy()
    check("never came to be" in mended.stderr, mended.stderr)
    check("ComputeIngestService" in desk.stack().resources, "the stack that came to be in the end")
    # An update that fails, and whose rollback fails as well.
    desk.cloud.fail("ComputeLogs", "something of its own")
    desk.cloud.fail("rollback", "and again")
    failed = desk.deploy("--set", "LogRetentionDays=60", ok=(1,))
    check("cause: ComputeLogs" in failed.stderr and "fix:" not in failed.stderr, failed.stderr)
    equal(last_lines(failed.stderr, 1), [f"next: vitals deploy --set LogRetentionDays=60 --image {DIGEST} --region us-east-1"], "what to do next")
    equal(desk.stack().status, "UPDATE_ROLLBACK_FAILED", "a rollback that failed")
    mended = desk.deploy("--set", "LogRetentionDays=60")
    check("had failed" in mended.stderr, mended.stderr)
    equal(desk.stack().values()["LogRetentionDays"], "60", "what was wanted")
    equal(desk.stack().status, "UPDATE_COMPLETE", "in the end")


@test("moto")
def stack_guards(lab):
    """Nothing with data is replaced unless it is named; nothing is asked of nobody; names must be right."""
    desk = Desk(lab)
    desk.vitals("deploy", *IMAGE, ok=(2,))
    equal(desk.stack(), None, "what a deployment leaves that nobody agreed to")
    wrong = desk.deploy("--set", "BrokerCont=3", ok=(2,))
    check("did you mean `BrokerCount`" in wrong.stderr, wrong.stderr)
    desk.deploy()
    before = desk.stack().values()["TopicName"]
    refused = desk.deploy("--set", "TopicName=other", ok=(1,))
    check("KafkaTopic" in refused.stderr and "--replace KafkaTopic" in refused.stderr, refused.stderr)
    equal(desk.stack().values()["TopicName"], before, "the topic of a refused change")
    desk.deploy("--set", "TopicName=other", "--replace", "KafkaTopic")
    equal(desk.stack().values()["TopicName"], "other", "the topic of a change that was named")
    # What was set stays set.
    desk.deploy()
    equal(desk.stack().values()["TopicName"], "other", "a parameter that is not given")
    desk.vitals("destroy", ok=(2,))
    desk.vitals("destroy", "--confirm", "else", ok=(2,))
    desk.vitals("destroy", "--delete-data", "--yes", ok=(2,))
    check(desk.stack() is not None, "the stack after refused destructions")
    # Somebody looks at a change set first, for which this program need not run in a container.
    seen = desk.vitals("deploy", "--yes", "--no-execute", "--stack", "looked-at")
    check(seen.stdout.startswith("arn:aws:cloudformation"), seen.stdout + seen.stderr)
    made = desk.vitals("deploy", "--yes", *IMAGE, "--no-execute", "--set", "WorkerMaxCount=3")
    number = made.stdout.strip()
    check(number.startswith("arn:aws:cloudformation") and desk.stack().values()["WorkerMaxCount"] != "3", number)
    desk.vitals("deploy", "--yes", "--change-set", number)
    equal(desk.stack().values()["WorkerMaxCount"], "3", "what the change set said")
    desk.cloud.denied = {"kafka:CreateClusterV2"}
    denied = desk.deploy(ok=(1,))
    check("kafka:CreateClusterV2" in denied.stderr and "iam:CreateRole" not in denied.stderr, denied.stderr)
    nobody = {k: v for k, v in desk.env.items() if not k.startswith("AWS_ACC") and not k.startswith("AWS_SEC")}
    desk.vitals("plan", ok=(5,), env=nobody)
    nowhere = {k: v for k, v in desk.env.items() if k != "AWS_REGION"}
    # Where no vitals.toml names one either.
    lab.run([lab.program, "plan"], ok=(4,), env=nowhere, cwd=lab.folder)


@test("moto", "registry")
def stack_pushes_the_image(lab):
    """`vitals deploy` pushes the image between its passes, and the second one names it; what is there is not sent again."""
    desk, registry = Desk(lab), lab.start_engine("registry")
    desk.cloud.registry = f"{registry.host}/vitals"
    program = ("--linux-binary", small_program(lab))
    nothing = desk.vitals("deploy", "--yes", "--linux-binary", desk.folder / "none", ok=(3,))
    check("can't read" in nothing.stderr and desk.stack() is None, f"nothing is made first: {nothing.stderr}")
    desk.vitals("deploy", "--yes", *program)
    digest = desk.stack().values()["ImageDigest"]
    (tag,) = registry.tags("vitals")
    pulled = registry.pull("vitals", digest)
    equal((pulled.digest, pulled.config["architecture"]), (digest, "amd64"), "the image that the second pass names")
    equal(desk.stack().values()["ImageArchitecture"], "X86_64", "its processor, as ECS says it")
    check(tag.endswith(digest[7:19]), f"the tag {tag} is of the digest {digest}")
    check("ComputeIngestService" in desk.stack().resources, "the services are made")
    uploads = registry.uploads()
    desk.vitals("deploy", "--yes", *program)
    equal((registry.uploads(), desk.stack().values()["ImageDigest"]), (uploads, digest), "uploads, and digest, of a second run")
    desk.vitals("deploy", "--yes", "--linux-binary", small_program(lab, seed=2))
    check(desk.stack().values()["ImageDigest"] != digest, "another program is another image")


@test("moto")
def stack_interrupted(lab):
    """Ctrl-C leaves AWS at work and says how to follow; running the command again goes on from there."""
    desk = Desk(lab)
    desk.cloud.pause_s = 0.1
    running = desk.start("deploy", "--yes", *IMAGE)
    lab.wait_until(lambda: desk.stack() and desk.stack().status == "CREATE_IN_PROGRESS", "the stack is being made")
    equal(running.stop(signal.SIGINT), 130, "exit code after Ctrl-C")
    check("AWS goes on" in running.text() and "vitals status" in running.text(), running.text())
    equal(desk.stack().status, "CREATE_IN_PROGRESS", "what AWS does meanwhile")
    busy = desk.vitals("plan", ok=(1,))
    check("CREATE_IN_PROGRESS" in busy.stderr, busy.stderr)
    desk.cloud.pause_s = 0.0
    done = desk.deploy()
    check("following it" in done.stderr and "ComputeIngestService" in desk.stack().resources, done.stderr)
    # The same for taking it away.
    desk.cloud.fail("NetworkVpc", "The vpc has dependencies and cannot be deleted. (DependencyViolation)")
    failed = desk.vitals("destroy", "--yes", ok=(1,))
    check("fix:" in failed.stderr and "half an hour" in failed.stderr, failed.stderr)
    equal(desk.stack().status, "DELETE_FAILED", "a deletion that stopped")
    desk.vitals("destroy", "--yes")
    equal(desk.stack(), None, "the stack")
