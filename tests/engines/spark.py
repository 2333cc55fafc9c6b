"""Apache Spark on this machine: the scripts of `templates/spark` as EMR Serverless runs them, by spark-submit."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

from install import Missing, folder_once, from_debian, run
from kafka import COPY

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


def install_s3() -> Path:
    """A folder of jars by which Spark reads and writes S3 (EMR has its own)."""
    with folder_once("spark-s3-3.3.4") as (folder, fresh):
        if fresh:
            (folder / "pom.xml").write_text(POM)
            # Maven remembers what it could not have; -U asks again.
            maven = [from_debian("mvn", "maven"), "-q", "-B", "-U", COPY]
            run([*maven, "-DincludeScope=runtime", f"-DoutputDirectory={folder / 'lib'}"], "installing Hadoop's S3", cwd=folder)
    return folder / "lib"


# Hadoop's of the version that Spark has, without what Spark has already.
ALONE = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>vitals</groupId><artifactId>spark-s3</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.hadoop</groupId><artifactId>hadoop-aws</artifactId><version>3.3.4</version>{ALONE}</dependency>
    <dependency>
      <groupId>com.amazonaws</groupId><artifactId>aws-java-sdk-bundle</artifactId><version>1.12.262</version>{ALONE}
    </dependency>
  </dependencies>
</project>
"""


# Up sooner than with Java's own settings, and small: several of them run on one machine.
QUICK = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.shuffle.partitions": "2",
}
JOBS = Path(__file__).resolve().parents[2] / "templates" / "spark"


def start(lab, master: str = "local[2,4]") -> "Spark":
    """Spark in a lab: by default two tasks at a time, each of which is tried up to four times."""
    return Spark(lab, master)


class Spark:
    """Submits the jobs of `templates/spark`, with the program sent along."""

    def __init__(self, lab, master: str):
        self.lab, self.master, self.has = lab, master, lab.engine("spark")

    def cluster(self, workers: int) -> str:
        """Starts a cluster, and gives its address. Each worker has an address of its own: no task runs twice on a machine."""
        port, folder = self.lab.free_port(), self.lab.folder / "spark-work"
        master = self.serve("master", "127.0.0.1", "master.Master", "--port", port)
        self.lab.wait_for_port(port, master)
        address = f"spark://127.0.0.1:{port}"
        for number in range(workers):
            host = f"127.0.0.{number + 2}"
            worker = self.serve("worker", host, "worker.Worker", "--cores", 1, "--memory", "1g", "-d", folder / host, address)
            self.lab.wait_until(lambda: "Successfully registered" in worker.text(), "the worker is in the cluster", alive=worker)
        return address

    def serve(self, name, host, what, *arguments):
        """Starts a server of a cluster."""
        argv = [self.has["home"] / "bin" / "spark-class", f"org.apache.spark.deploy.{what}", "--host", host]
        argv += ["--webui-port", self.lab.free_port(), *arguments]
        own = {**self.environment(), "SPARK_LOCAL_IP": host, "SPARK_NO_DAEMONIZE": "1"}
        return self.lab.start(f"spark-{name}", argv, env={**os.environ, **own})

    def environment(self) -> dict:
        python = str(self.has["python"])
        return {"JAVA_HOME": str(self.has["java"]), "SPARK_HOME": str(self.has["home"]), "SPARK_LOCAL_IP": "127.0.0.1",
                "PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": python, "PYTHONDONTWRITEBYTECODE": "1"}

    def submit(self, script, *arguments, env: dict = {}, master: str = "", files=(), **settings):
        """Starts a job. Its standard output is a file of its own; settings are Spark's, with `_` for `.`."""
        folder = self.lab.folder / "spark"
        folder.mkdir(exist_ok=True)
        # By another name than it has here, if need be: jobs look for `vitals`.
        program = folder / "vitals"
        if not program.exists():
            os.link(self.lab.program, program) if same_device(self.lab.program, folder) else shutil.copy(self.lab.program, program)
        conf = {**QUICK, "spark.local.dir": str(folder), "spark.sql.warehouse.dir": str(folder / "warehouse"),
                **{name.replace("_", "."): str(value) for name, value in settings.items()}}
        script = JOBS / script if isinstance(script, str) else script
        python_files = [JOBS / "vitals_program.py", *files]
        argv = [
            self.has["home"] / "bin" / "spark-submit", "--master", master or self.master, "--driver-memory", "1g",
            "--files", program, "--py-files", ",".join(map(str, python_files)),
            *(part for name, value in conf.items() for part in ("--conf", f"{name}={value}")),
            script, *arguments,
        ]
        name = Path(script).stem
        return self.lab.start(f"spark-{name}", argv, own_output=True, env={**os.environ, **self.environment(), **env})

    def run(self, script, *arguments, ok: int = 0, **options) -> list:
        """Runs a job to its end, and gives the JSON that it has said, line by line."""
        return finished(self.submit(script, *arguments, **options), ok)


def finished(job, ok: int = 0) -> list:
    """Waits for the end of a job, and gives the JSON that it has said."""
    code = job.ended(600)
    if code != ok:
        raise RuntimeError(f"{job.name} ended with {code}: {job.text()[-6000:]}")
    return [json.loads(line) for line in job.out.read_text().splitlines() if line.startswith(("{", "["))]


def same_device(file: Path, folder: Path) -> bool:
    return os.stat(file).st_dev == os.stat(folder).st_dev
