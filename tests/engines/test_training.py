"""The state machine that trains on AWS, executed by an interpreter of somebody else's with stand-ins for the services."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

from lab import check, equal, test

SCRIPTS = Path(__file__).resolve().parent / "training"
DEFINITION = SCRIPTS.parents[2] / "templates" / "training.asl.json"


@test("stepfunctions", limit_s=900)
def training(lab):
    """The state machine of training goes through success and every failure as it must, and a broken one is found out.

    The stand-ins hold each call against the services' own models. Whether AWS agrees with interpreter and stand-ins has not
    been tried.
    """
    said = interpreted(lab, *(["--quick"] if lab.quick else []))
    print("".join(f"     {line}\n" for line in said.splitlines()), end="")


@test("stepfunctions")
def training_commands(lab):
    """The program knows every command line that the state machine of training gives to a task."""
    commands = json.loads(interpreted(lab, "--commands"))
    kinds = {" ".join(word for word in command[:2] if not word.startswith("--")) for command in commands}
    equal(kinds, {"compact", "train", "models adopt", "score", "models promote"}, "commands of tasks")
    for command in commands:
        # Flags and their values are read in order, and what is not known is refused before help is given.
        lab.vitals(*command, "--help")
    # That it refuses what it does not know is what the above rests on.
    lab.vitals("compact", "--no-such-flag", "--help", ok=(2,))


def interpreted(lab, *mode: str) -> str:
    """Runs the scripts, and gives what they said."""
    check(DEFINITION.exists(), f"there is no {DEFINITION}")
    engine = lab.engine("stepfunctions")
    with beside(engine["folder"]) as scripts:
        return lab.run([engine["node"], scripts / "main.mjs", DEFINITION, engine["models"], *mode], patience_s=800).stdout


@contextlib.contextmanager
def beside(packages: Path):
    """The scripts in a folder beside their packages for as long as they are needed: a module finds packages from where it lies."""
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=packages))
    try:
        for script in SCRIPTS.glob("*.mjs"):
            shutil.copy(script, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
