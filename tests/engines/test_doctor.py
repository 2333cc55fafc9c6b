"""`vitals doctor`: what it finds on this machine, and in a stand-in of AWS."""

import contextlib
import json
import os
import socket

from lab import check, equal, test
from test_stack import Desk
from test_devices import Cloud, a_stranger_to_aws


def doctor(lab, *args, env=None, ok=(0, 1), cwd=None):
    """The exit code, and each finding by its name."""
    done = lab.run([lab.program, "doctor", "--output", "json", *args], ok=ok, env=env or {**os.environ}, cwd=cwd or lab.folder)
    answer = json.loads(done.stdout)
    worst = max((finding["verdict"] for finding in answer["machine"] + answer["aws"]), key=["ok", "warn", "fail"].index)
    equal(answer["verdict"], worst, "the verdict is the worst of all")
    equal(done.returncode, 1 if worst == "fail" else 0, "the exit code tells whether something failed")
    for finding in answer["machine"] + answer["aws"]:
        check(finding["verdict"] == "ok" or finding["todo"] or finding["found"], f"{finding} says what is wrong")
    return {finding["name"]: finding for finding in answer["machine"] + answer["aws"]}


@contextlib.contextmanager
def listening(port):
    """Somebody listens on a port of this machine."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Where somebody else does already, that is as good.
        with contextlib.suppress(OSError):
            server.bind(("127.0.0.1", port))
            server.listen()
        yield


@test()
def doctor_of_this_machine(lab):
    """A lake that can't be, a configuration that is wrong and a port that is taken are found, each with what to do."""
    found = doctor(lab, "--local")
    for name in ("program", "config", "lake", "disk", "temporary", "broker"):
        check(name in found, f"{name} is looked at")
    equal((found["lake"]["verdict"], found["config"]["found"]), ("ok", "no file"), "a folder where nothing is yet")
    check(not (lab.folder / ".vitals").exists(), "asking makes no lake")

    (lab.folder / "file").write_text("no folder")
    found = doctor(lab, "--local", "--lake", lab.folder / "file", ok=(1,))
    equal(found["lake"]["verdict"], "fail", "a lake that is a file")

    (lab.folder / "vitals.toml").write_text("lakes = 3\n")
    found = doctor(lab, "--local", ok=(1,))
    check(found["config"]["verdict"] == "fail" and "vitals.toml:1" in found["config"]["found"], f"{found['config']}")
    (lab.folder / "vitals.toml").write_text("lake = \"here\"\n")
    found = doctor(lab, "--local")
    check("vitals.toml" in found["config"]["found"] and "`here`" in found["lake"]["found"], f"{found}")

    with listening(1883):
        equal(doctor(lab, "--local")["broker"]["verdict"], "warn", "a port that is taken")


@test("moto")
def doctor_of_aws(lab):
    """Who we are, the clock and the stack are told; what the stand-in can't be asked is a warning, not a failure."""
    nobody = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    nobody.update(AWS_EC2_METADATA_DISABLED="true", AWS_CONFIG_FILE="/dev/null", AWS_SHARED_CREDENTIALS_FILE="/dev/null")
    found = doctor(lab, env={**nobody, "AWS_REGION": "eu-central-1"})
    equal(found["credentials"]["verdict"], "warn", "no credentials, where none are needed")
    found = doctor(lab, "--target", "aws", env={**nobody, "AWS_REGION": "eu-central-1"}, ok=(1,))
    equal(found["credentials"]["verdict"], "fail", "no credentials, where they are needed")
    equal(doctor(lab, "--target", "aws", env=nobody, ok=(1,))["region"]["verdict"], "fail", "no region")

    cloud = Cloud(lab)
    found = doctor(lab, "--target", "aws", env=cloud.env())
    check("123456789012" in found["credentials"]["found"], f"{found['credentials']}")
    equal(found["clock"]["verdict"], "ok", "a clock that is right, as the stand-in has the same")
    check("not deployed" in found["stack"]["found"], f"{found['stack']}")
    cloud.make_stack()
    found = doctor(lab, "--target", "aws", env=cloud.env())
    check("CREATE_COMPLETE" in found["stack"]["found"], f"{found['stack']}")
    check(all(found[name]["todo"] or found[name]["found"] for name in ("permissions", "kafka", "quotas", "ports", "rule")),
          f"{found}")

    with a_stranger_to_aws() as env:
        found = doctor(lab, "--target", "aws", env=env, ok=(1,))
    check("aws sso login" in found["credentials"]["todo"], f"{found['credentials']}")


@test("moto")
def doctor_of_a_stack(lab):
    """Of a stack that is well all is well; of one that is not, what is wrong is found, each with what to do."""
    desk = Desk(lab)
    desk.deploy()
    look = lambda **options: doctor(lab, "--target", "aws", env=desk.env, cwd=desk.folder, **options)
    with listening(8883):
        found = look()
    for name in ("credentials", "clock", "permissions", "stack", "quotas", "kafka", "ports", "rule"):
        equal(found[name]["verdict"], "ok", f"{found[name]}")
    check("1000 vCPU (the stack uses up to" in found["quotas"]["found"], f"{found['quotas']}")

    desk.cloud.destination, desk.cloud.processors, desk.cloud.kafka_versions = "ERROR", 2.0, ["4.1.x.kraft"]
    desk.cloud.denied = {"kafka:CreateClusterV2"}
    found = look(ok=(1,))
    for name, verdict, word in (("rule", "fail", "ERROR"), ("quotas", "warn", "fargate 2 vCPU"),
                                ("kafka", "fail", "no version 3.9.x"), ("permissions", "fail", "kafka:CreateClusterV2")):
        check(found[name]["verdict"] == verdict and word in found[name]["found"] and found[name]["todo"], f"{found[name]}")
