"""The state machine that trains on AWS, executed by an interpreter of somebody else's with stand-ins for the services."""

import shutil
import tempfile
from pathlib import Path

from lab import check, test

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


def interpreted(lab, *mode: str) -> str:
    """Runs the scripts, and gives what they said."""
    check(DEFINITION.exists(), f"there is no {DEFINITION}")
    engine = lab.engine("stepfunctions")
    # A module finds packages from where it lies, so the scripts are put beside them for the run.
    beside = Path(tempfile.mkdtemp(prefix="run-", dir=engine["folder"]))
    try:
        for script in SCRIPTS.glob("*.mjs"):
            shutil.copy(script, beside)
        argv = [engine["node"], beside / "main.mjs", DEFINITION, engine["models"], *mode]
        return lab.run(argv, patience_s=800).stdout
    finally:
        shutil.rmtree(beside, ignore_errors=True)
