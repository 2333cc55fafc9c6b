"""`vitals train` and `vitals report` on a stack: the state machine by somebody else's interpreter behind its API, the rest by
moto and the stand-ins of cloud.py. See training/api.mjs for what that can't show."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import urllib.request

from lab import check, equal, test
from test_conformance import MINUTE_MS, iso, now_ms, write_readings
from test_stack import Desk, last_lines
from test_training import DEFINITION, beside

DAY_MS = 86_400_000
STEPS = ["closing days", "preparing the sample", "training", "comparing the models", "scoring again", "putting the model in force"]


class Trainer(Desk):
    """A desk at a deployed stack, with the APIs of a training."""

    def __init__(self, lab, scripts):
        super().__init__(lab)
        self.deploy()
        engine, port = lab.engine("stepfunctions"), lab.free_port()
        self.process = lab.start("training-api", [engine["node"], scripts / "api.mjs", DEFINITION, engine["models"], port])
        lab.wait_for_port(port, self.process)
        self.api = f"http://127.0.0.1:{port}"
        for service in ("SFN", "SAGEMAKER", "CLOUDWATCH", "CLOUDWATCH_LOGS"):
            self.env[f"AWS_ENDPOINT_URL_{service}"] = self.api
        # Who plays CloudFormation passes on no headers, which objects have.
        self.env["AWS_ENDPOINT_URL_S3"] = self.cloud.moto.geturl()
        self.lake = self.stack().outputs["LakeUri"]

    def meets(self, **script):
        """What the next trainings meet, and how fast they go on; forgets what was asked so far."""
        request = urllib.request.Request(f"{self.api}/script", json.dumps({"pace": 30, **script}).encode(), method="PUT")
        urllib.request.urlopen(request).close()

    def asked(self, operation: str) -> list:
        with urllib.request.urlopen(f"{self.api}/asked") as answer:
            return [given for name, given in json.load(answer) if name == operation]

    def schedule(self) -> dict:
        """The schedule, as Scheduler has it."""
        name = self.stack().outputs["TrainingScheduleName"]
        signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/scheduler/aws4_request, SignedHeaders=host, Signature=none"}
        status, _, answer = self.cloud.forward("GET", f"/schedules/{name}", signed, b"")
        equal(status, 200, "asking for the schedule")
        return json.loads(answer)


@contextlib.contextmanager
def trainer(lab):
    with beside(lab.engine("stepfunctions")["folder"]) as scripts:
        yield Trainer(lab, scripts)


def learnt(desk) -> str:
    """Puts readings and a model of its own into the stack's lake, and gives the model's name."""
    first = (now_ms() - 3 * DAY_MS) // DAY_MS * DAY_MS
    file = write_readings(desk.lab.folder / "a.csv", ["device_1", "device_2"], first, first + 2 * DAY_MS, 30 * MINUTE_MS)
    desk.vitals("import", file, "--lake", desk.lake)
    desk.vitals("train", "--lake", desk.lake, "--target", "local")
    shown = desk.vitals("models", "list", "--lake", desk.lake).stdout
    return re.search(r"^ (m-\w+) +yes", shown, re.M).group(1)


@test("moto", "stepfunctions", limit_s=600)
def train_on_aws(lab):
    """`vitals train` starts the stack's state machine with what was asked for, shows its steps, and then the model's card."""
    with trainer(lab) as desk:
        model = learnt(desk)
        desk.meets(script={"model": model})
        plan = desk.vitals("train", "--dry-run").stdout
        check("in the stack `vitals`" in plan and '{"alarm_budget":0.25}' in plan and "cron(0 3 ? * MON *)" in plan, plan)
        equal(desk.asked("StartExecution"), [], "what a plan starts")

        done = desk.vitals("train", "--since", "2026-01-31", "--alarms-per-device-day", "0.5")
        [started] = desk.asked("StartExecution")
        wanted = {"since": "2026-01-31T00:00:00.000Z", "alarm_budget": 0.5}
        equal(json.loads(started["input"]), wanted, "the input")
        card = json.loads(done.stdout)
        equal(card["alarms_per_device_day"], 0.25, "the budget in the card of the model in the lake")
        positions = [done.stderr.find(f"  {step}: done in ") for step in STEPS]
        check(-1 not in positions and positions == sorted(positions), done.stderr)
        check(f"started arn:aws:states:us-east-1:123456789012:execution:vitals-training:{started['name']}" in done.stderr, done.stderr)
        check("console.aws.amazon.com/states" in done.stderr and f"{model} is in force" in done.stderr, done.stderr)
        check("scoring again: 4 of 4 shares" in done.stderr and "recall 0.534" in done.stderr, done.stderr)

        # One that finds less: kept, and told how it can be put in force.
        desk.meets(script={"model": model, "worse": True})
        kept = desk.vitals("train")
        check("not in force" in kept.stderr and f"vitals models promote {model} --lake {desk.lake}" in kept.stderr, kept.stderr)
        desk.meets(script={"model": model, "worse": True})
        check(f"{model} is in force" in desk.vitals("train", "--promote", "always").stderr, "promoted all the same")
        # A question that is refused for the moment is asked again; a model that is not in the lake costs its card only.
        desk.meets(refuse={name: [["ThrottlingException", "Rate exceeded"]] * 2 for name in ("GetExecutionHistory", "StartExecution")})
        done = desk.vitals("train", "--promote", "never")
        check("card can't be read" in done.stderr and '"in_force":false' in done.stdout, done.stdout + done.stderr)
        check("as was asked for" in done.stderr, done.stderr)
        names = {given["name"] for given in desk.asked("StartExecution")}
        equal((len(desk.asked("StartExecution")), len(names)), (3, 1), "tries at starting, and names")


@test("moto", "stepfunctions", limit_s=600)
def train_on_aws_left(lab):
    """A training that is left goes on: another is not started beside it unawares; it is followed again, or stopped."""
    with trainer(lab) as desk:
        desk.meets(pace=5)
        arn = desk.vitals("train", "--detach").stdout.strip()
        check(arn.startswith("arn:aws:states:us-east-1:123456789012:execution:vitals-training:vitals-"), arn)
        refused = desk.vitals("train", ok=(1,))
        check(f"vitals train --follow {arn}" in refused.stderr and "--force" in refused.stderr, refused.stderr)
        equal(len(desk.asked("StartExecution")), 1, "trainings that were started")
        # From a folder that knows of no stack.
        following = lab.start("follow", [lab.program, "train", "--follow", arn], env=desk.env, cwd=lab.folder)
        lab.wait_until(lambda: "closing days" in following.text(), "its first step is shown", alive=following)
        equal(following.stop(signal.SIGINT), 130, "exit code after Ctrl-C")
        check("goes on in AWS" in following.text() and f"--stop {arn}" in following.text(), following.text())
        desk.vitals("train", "--stop", arn)
        stopped = desk.vitals("train", "--follow", arn, ok=(1,))
        check("was stopped" in stopped.stderr and "by `vitals train --stop`" in stopped.stderr, stopped.stderr)
        said = desk.vitals("train", "--follow", f"{arn}0", ok=(3,)).stderr
        check("there is no training" in said, said)
        desk.meets()
        desk.vitals("train", "--detach")
        desk.vitals("train", "--force")


@test("moto", "stepfunctions", limit_s=600)
def train_on_aws_failures(lab):
    """The last words of a training that failed are why, in words, and what helps; whoever may not start it is told what lacks."""
    with trainer(lab) as desk:
        task = "arn:aws:ecs:us-east-1:123456789012:task/vitals/0f3a"
        stopped = json.dumps({"StoppedReason": "Essential container in task exited", "TaskArn": task})
        none = {"error": "States.TaskFailed", "cause": json.dumps({"FailureReason": "CapacityError: none at all"})}
        log = {"level": "ERROR", "fields": {"message": "training a model: there are no readings with vitals to learn from"}}
        for script, logs, why, hint in (
            ({"Train": [none, none]}, {}, "at training", "AWS had no machine to spare"),
            ({"Prepare": [{"error": "States.TaskFailed", "cause": stopped}] * 9}, {"compact": [json.dumps(log)]},
             "no readings with vitals to learn from", "`vitals status` says whether readings arrive"),
            ({"Close days": [{"error": "ECS.ThrottlingException", "cause": "Rate exceeded"}] * 99}, {}, "closing days", "later"),
            ({"Evaluate": [{"hang": True}]}, {}, "it took longer than it may", "JobCpu"),
            ({"Score a shard": [{"error": "States.TaskFailed", "cause": stopped}] * 99}, {}, "more is in the log of", None),
        ):
            desk.meets(script=script, logs=logs, pace=300)
            failed = desk.vitals("train", ok=(1,))
            *_, error, last = last_lines(failed.stderr, 2)
            found = last if hint is None else error
            check(found.startswith("error: the training failed at ") and why in found, failed.stderr)
            check(hint is None or last.startswith("hint: ") and hint in last, failed.stderr)
            equal(failed.stdout, "", "what stands on standard output")

        denied = ["AccessDeniedException", "User: arn:aws:iam::123456789012:user/me is not authorized"]
        desk.meets(refuse={"StartExecution": [denied]})
        said = desk.vitals("train", ok=(1,)).stderr
        check("`states:StartExecution`" in said, said)
        desk.meets(refuse={"DescribeExecution": [["ExpiredTokenException", "The security token included in the request is expired"]]})
        said = desk.vitals("train", ok=(5,)).stderr
        check("the training goes on" in said and "--follow arn:" in said and "aws sso login" in said, said)
        # What is only nice to know costs no training.
        desk.meets(refuse={"DescribeTrainingJob": [denied] * 9})
        said = desk.vitals("train", "--force").stderr
        equal(said.count("sagemaker:DescribeTrainingJob"), 1, "that the job can't be asked about is told once")


@test("moto", "stepfunctions", limit_s=300)
def train_schedule(lab):
    """`--every` changes when trainings are started by the clock, and keeps everything else of the schedule."""
    with trainer(lab) as desk:
        before = desk.schedule()
        planned = desk.vitals("train", "--every", "7d", "--dry-run").stdout
        equal(planned, "schedule  cron(0 3 ? * MON *) → rate(7 days)\n", "what would change")
        equal(desk.schedule(), before, "what a plan changes")
        said = desk.vitals("train", "--every", "12h", "--since", "30d").stderr
        check("--set 'TrainingSchedule=rate(12 hours)'" in said, said)
        every = desk.schedule()
        equal((every["ScheduleExpression"], every["State"]), ("rate(12 hours)", "ENABLED"), "the schedule")
        equal(json.loads(every["Target"]["Input"]), {"alarm_budget": 0.25, "since": "30d"}, "its input")
        for kept in ("Description", "FlexibleTimeWindow", "GroupName"):
            equal(every[kept], before[kept], kept)
        for kept in ("Arn", "RoleArn", "RetryPolicy"):
            equal(every["Target"][kept], before["Target"][kept], kept)
        desk.vitals("train", "--every", "off")
        off = desk.schedule()
        equal((off["ScheduleExpression"], off["State"]), ("rate(12 hours)", "DISABLED"), "the schedule, off")
        equal(off["Target"], every["Target"], "its target")
        desk.vitals("train", "--every", "90s", ok=(2,))
        said = desk.vitals("train", "--every", "off", "--target", "local", ok=(2,)).stderr
        check("on this machine nothing is scheduled" in said, said)


@test("moto", "stepfunctions", limit_s=300)
def report_on_aws(lab):
    """`vitals report` shows the lake of the stack that the folder's vitals.toml names."""
    with trainer(lab) as desk:
        learnt(desk)
        page = desk.folder / "vitals-report.html"
        equal(desk.vitals("report").stdout, "vitals-report.html\n", "where the page is")
        text = page.read_text()
        check("device_1" in text and desk.lake in text, "the page has the stack's devices")
        page.unlink()
        desk.vitals("report", "--target", "local", ok=(3,))
        desk.vitals("report", "--stack", "other", ok=(3,))
        # Named in another folder.
        lab.run([lab.program, "report", "--target", "aws"], env=desk.env, cwd=lab.folder)
        check((lab.folder / "vitals-report.html").exists(), "the page of a folder without settings")
