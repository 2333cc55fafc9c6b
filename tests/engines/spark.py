"""Apache Spark on this machine: the scripts of `templates/spark` as EMR Serverless runs them, by spark-submit."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from install import Missing, folder_once, run

# The line of EMR's 3.5; 3.5.6 is not to be had for it.
PYSPARK = "pyspark==3.5.7"


def java_home() -> Path:
    """The home of a Java 17, the newest that Spark 3.5 is made for; much newer ones lack what Hadoop calls."""
    homes = [Path(os.environ["JAVA_HOME"])] if "JAVA_HOME" in os.environ else []
    found = shutil.which("java")
    homes += [Path(found).resolve().parents[1]] if found else []
    homes += sorted(Path("/usr/lib/jvm").glob("*17*"))
    for home in homes:
        release = home / "release"
        if (home / "bin" / "java").exists() and release.exists() and 'JAVA_VERSION="17.' in release.read_text():
            return home
    raise Missing("there is no Java 17: JAVA_HOME names none, nor is one on PATH (Debian: openjdk-17-jre-headless)")


def install() -> dict:
    """Spark's home, a Python that has pyspark, and a Java."""
    java = java_home()
    version = f"python-{sys.version_info[0]}.{sys.version_info[1]}"
    with folder_once(f"{version}/{PYSPARK.replace('==', '-')}") as (folder, fresh):
        if fresh:
            run([sys.executable, "-m", "venv", folder], "making a Python environment (Debian: python3-venv)")
            # It comes as sources only, which are Python and jars: nothing is compiled.
            pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run([*pip, PYSPARK], f"installing {PYSPARK}")
    home = next((folder / "lib").glob("python*/site-packages/pyspark"))
    return {"home": home, "python": folder / "bin" / "python", "java": java}
