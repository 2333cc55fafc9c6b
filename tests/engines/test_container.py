"""The container of a SageMaker training job: the program alone in an empty root, run as `IMAGE train` is.

    VITALS_STATIC_BIN=…/vitals tests/engines/run --only container

An image has one file, the program, so that must be linked statically. Nothing here is SageMaker itself: the folders are
laid out as its documentation says.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path

from engines import Missing
from lab import check, equal, test
from test_s3 import Lake

DEVICES, STEPS = 200, 144


def static_program() -> Path:
    """The program that an image would hold."""
    given = os.environ.get("VITALS_STATIC_BIN")
    if not given:
        raise Missing("VITALS_STATIC_BIN names no statically linked vitals, and nothing else runs in an empty root")
    check(os.access(given, os.X_OK), f"VITALS_STATIC_BIN is {given}, which is no program")
    return Path(given).resolve()


def in_root(root: Path, *argv: str) -> list:
    """The command that runs another one in a root of its own."""
    chroot = shutil.which("chroot", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if not chroot:
        raise Missing("there is no chroot here")
    if os.geteuid() == 0:
        return [chroot, root, *argv]
    unshare = shutil.which("unshare")
    if not unshare:
        raise Missing("changing the root takes root, or unshare")
    return [unshare, "--map-root-user", chroot, root, *argv]


class Container:
    """An empty root with the program in it, and `/opt/ml` as a job finds it."""

    def __init__(self, lab, name: str, program: Path, sample: Path, hyperparameters: dict):
        self.lab, self.root = lab, lab.folder / name
        self.ml = self.root / "opt/ml"
        for folder in ("input/config", "input/data/training", "model", "checkpoints", "output"):
            (self.ml / folder).mkdir(parents=True)
        shutil.copy(program, self.root / "vitals")
        for file in sample.iterdir() if sample else ():
            if file.is_file():
                shutil.copy(file, self.ml / "input/data/training")
        channels = {"training": {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated",
                                 "RecordWrapperType": "None"}}
        self.write("input/config/inputdataconfig.json", json.dumps(channels))
        self.write("input/config/hyperparameters.json", json.dumps(hyperparameters))
        self.write("input/config/resourceconfig.json", json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}))

    def write(self, file: str, content: str) -> None:
        (self.ml / file).write_text(content)

    def argv(self) -> list:
        return in_root(self.root, "/vitals", "train")

    def run(self, ok=(0,)) -> subprocess.CompletedProcess:
        # No credentials, no home, no PATH: nothing but what the job was given.
        return self.lab.run(self.argv(), ok=ok, patience_s=240, env={})

    def model(self) -> bytes:
        return (self.ml / "model/model.bin").read_bytes()

    def failure(self) -> str:
        file = self.ml / "output/failure"
        return file.read_text() if file.exists() else ""


def readings(lab, devices: int) -> Path:
    """A file of devices that were well for three days, but for some hours of every fifth."""
    lines = ["device_id,timestamp,heart_rate,systolic,diastolic,temperature,spo2,respiratory_rate"]
    for device in range(devices):
        for step in range(STEPS):
            wave, level = (step * 7 + device * 13) % 11 - 5, device % 5 * 3
            level += 70 if device % 5 == 0 and 100 <= step < 106 else 0
            at = f"2024-03-{1 + step // 48:02}T{step % 48 // 2:02}:{step % 2 * 30:02}:00Z"
            lines.append(f"d{device},{at},{70 + level + wave},{120 + level - wave},{75 + wave},{36.6 + wave / 20:.1f},"
                         f"{97 + wave // 3},{15 + wave // 2}")
    file = lab.folder / "fleet.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def fleet(lab) -> tuple:
    """A lake of such devices, and a sample of it."""
    lake, sample = lab.folder / "lake", lab.folder / "sample"
    lab.vitals("import", readings(lab, DEVICES), "--lake", lake)
    lab.vitals("train", "--prepare", sample, "--lake", lake)
    return lake, sample


@test(slow=True, limit_s=900)
def container_trains_in_an_empty_root(lab):
    """A training job in an empty root gives the model that this machine trains, to the bit, and the lake adopts it.

    Interrupted by SIGTERM it leaves a checkpoint, and the next start goes on from there to the same model.
    """
    program = static_program()
    lake, sample = fleet(lab)
    lab.vitals("train", "--data", sample / "sample.parquet", "--out", lab.folder / "here", "--seed", "3", patience_s=600)
    expected = (lab.folder / "here/model.bin").read_bytes()

    job = Container(lab, "job", program, sample, {"seed": "3", "since": "", "until": ""})
    ran = job.run()
    equal(job.failure(), "", "the failure of a job that did not fail")
    check(job.model() == expected, "the container's model is not the one that was trained here")
    metrics = dict(re.findall(r"^metric ([a-z0-9_]+)=([0-9.eE+-]+)$", ran.stdout, re.MULTILINE))
    for name in ("devices", "rows", "trees", "threshold", "alarms_per_device_day", "pr_auc", "auroc", "recall", "top1"):
        check(name in metrics, f"no metric `{name}` in {ran.stdout}")
    equal((float(metrics["devices"]), float(metrics["rows"])), (DEVICES, DEVICES * STEPS), "devices and rows")

    # SageMaker packs the folder of the model.
    packed = lab.folder / "model.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(job.ml / "model", arcname=".")
    adopt = ("models", "adopt", packed, "--sample", sample, "--lake", lake, "--promote", "always", "--output", "json")
    outcome = json.loads(lab.vitals(*adopt, patience_s=240).stdout)
    check(outcome["in_force"] and outcome["comparison"]["champion"] == "builtin", f"the outcome is {outcome}")

    stopped = Container(lab, "stopped", program, sample, {"seed": "3"})
    process = lab.start("job", stopped.argv(), own_output=True, env={})
    lab.wait_until(lambda: "metric trees=" in process.text(), "trees grow", patience_s=240, alive=process)
    equal(process.stop(signal.SIGTERM), 130, "exit code after SIGTERM")
    equal([file.name for file in (stopped.ml / "checkpoints").iterdir()], ["trees.bin"], "checkpoints")
    equal((stopped.failure(), list((stopped.ml / "model").iterdir())), ("", []), "failure and model of half a job")
    resumed = stopped.run()
    check("going on from the" in resumed.stderr, f"it did not go on from the checkpoint: {resumed.stderr}")
    check(stopped.model() == expected, "the model of an interrupted job is not that of one that was not")


@test()
def container_says_why_it_failed(lab):
    """A job that can't be done ends with an exit code and the reason, in at most 1,024 characters, where they belong."""
    program = static_program()
    _, sample = fleet(lab)
    empty = Container(lab, "empty", program, None, {})
    cases = [
        (Container(lab, "unknown", program, sample, {"sed": "7"}), "`sed`: it is unknown"),
        (Container(lab, "unreadable", program, sample, {"seed": "many"}), "`seed`: `many` is not a whole number"),
        (Container(lab, "long", program, sample, {"é" * 2_000: "1"}), "é"),
        (empty, "has no Parquet file of readings: it is empty"),
        (Container(lab, "damaged", program, sample, {}), "sample.parquet"),
        (Container(lab, "piped", program, sample, {}), "piped"),
    ]
    whole = (sample / "sample.parquet").read_bytes()
    (cases[4][0].ml / "input/data/training/sample.parquet").write_bytes(whole[: len(whole) // 2])
    cases[5][0].write("input/config/inputdataconfig.json", json.dumps({"training": {"TrainingInputMode": "Pipe"}}))
    for job, why in cases:
        ran = job.run(ok=(1,))
        check(why in job.failure() and len(job.failure()) <= 1_024, f"{job.root.name}: `{job.failure()}` lacks `{why}`")
        check(job.failure() in ran.stderr, f"{job.root.name}: another reason on standard error: {ran.stderr}")
        equal(list((job.ml / "model").iterdir()), [], f"{job.root.name}: the model's folder")


@test("moto", limit_s=600)
def container_steps_through_s3(lab):
    """The steps of a training on AWS, with everything on S3, come to what `vitals train` does in a folder.

    Sample, job (here, in a folder of its own), adoption, verdicts by shares of the devices, promotion.
    """
    s3 = lab.start_engine("moto")
    file = readings(lab, 30)
    here = Lake(lab, lab.folder / "here")
    here.run("import", file)
    here.run("train", "--promote", "always")

    there = Lake(lab, f"{s3.url}/ward", s3.env)
    there.run("import", file)
    for _ in range(2):  # A step that is tried again.
        there.run("train", "--prepare", f"{s3.url}/training/1")
    equal(sorted(key for key in s3.keys() if key.startswith("training/")),
          ["training/1/manifest.json", "training/1/sample.parquet"], "what was prepared")
    job = lab.folder / "job"
    for folder in ("input/config", "input/data/training"):
        (job / folder).mkdir(parents=True)
    (job / "input/config/hyperparameters.json").write_text("{}")
    for name in ("manifest.json", "sample.parquet"):
        (job / "input/data/training" / name).write_bytes(s3.get(f"training/1/{name}"))
    lab.run([lab.program, "train"], patience_s=240, env={"VITALS_OPT_ML": str(job)})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(job / "model", arcname=".")
    equal(s3.put("models/job-1/output/model.tar.gz", packed.getvalue()), 200, "status of storing the model")

    adopt = ("models", "adopt", f"{s3.url}/models/job-1", "--sample", f"{s3.url}/training/1", "--promote", "never")
    there.run(*adopt, "--outcome", f"{s3.url}/training/1-outcome.json")
    outcome = json.loads(s3.get("training/1-outcome.json"))
    check(not outcome["in_force"] and outcome["comparison"], f"the outcome is {outcome}")
    before = there.answers()
    for shard in ("2/2", "1/2", "2/2"):
        there.run("score", "--candidate", outcome["model"], "--job", "job-1", "--shard", shard)
    equal(there.answers(), before, "answers before the promotion")
    there.run("models", "promote", outcome["model"], "--job", "job-1")
    found, expected = there.answers(), here.answers()
    check(expected["outliers"], "there are some outliers")
    for what in expected:
        equal(found[what], expected[what], what)
    check(not any("/jobs/" in key for key in s3.keys()), "nothing of the job is left")
    none = there.run("models", "adopt", f"{s3.url}/nowhere", "--sample", f"{s3.url}/training/1", ok=(3,))
    check("there is no model in" in none.stderr, none.stderr)
