"""What the bench needs of other people, beside what `tests/engines` knows: installed once, outside the checkout."""

import sys

from install import folder_once, from_debian, run
from kafka import COPY
from spark import PYSPARK, java_home

# The connector of Spark's own version; its jars without what they would draw in, which pyspark brings.
SPARK_JARS = [
    "org.apache.spark:spark-sql-kafka-0-10_2.12:3.5.7",
    "org.apache.spark:spark-token-provider-kafka-0-10_2.12:3.5.7",
    "org.apache.kafka:kafka-clients:3.4.1",
    "org.apache.commons:commons-pool2:2.11.1",
]

# Hadoop is there because Iceberg's Parquet writer and its catalog in a folder are made of it.
ICEBERG_JARS = [
    "org.apache.iceberg:iceberg-kafka-connect:1.10.1",
    "org.apache.iceberg:iceberg-parquet:1.10.1",
    "org.apache.hadoop:hadoop-client-runtime:3.4.1",
    "org.apache.kafka:connect-runtime:4.1.1",
    "org.slf4j:slf4j-simple:2.0.17",
]

# What a script is made of, and what counts and checks the rows of everybody.
TOOLS = ["confluent-kafka==2.16.1", "pyarrow==26.0.1", "duckdb==2.0.1"]

POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>bench</groupId><artifactId>jars</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
{dependencies}
</dependencies>
</project>
"""

DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>{}</dependency>"
ALONE = "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"


def jars(name, artifacts, alone=False):
    """A folder of jars from Maven's registry, by default with all that they need."""
    with folder_once(f"ingest/{name}") as (folder, fresh):
        if fresh:
            lines = [DEPENDENCY.format(*artifact.split(":"), ALONE if alone else "") for artifact in artifacts]
            (folder / "pom.xml").write_text(POM.format(dependencies="\n".join(lines)))
            # Maven remembers what it could not have; -U asks again.
            maven = [from_debian("mvn", "maven"), "-q", "-B", "-U", COPY]
            how = ["-DincludeScope=runtime", f"-DoutputDirectory={folder / 'lib'}"]
            run([*maven, *how], f"getting the jars of {name}", cwd=folder)
    return folder / "lib"


def python(name, requirements):
    """The Python of an environment with these packages."""
    with folder_once(f"ingest/python-{sys.version_info[0]}.{sys.version_info[1]}-{name}") as (folder, fresh):
        if fresh:
            run([sys.executable, "-m", "venv", folder], "making a Python environment (Debian: python3-venv)")
            pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run([*pip, *requirements], f"installing {' '.join(requirements)}")
    return folder / "bin" / "python"


def spark():
    """Spark's home, its Python, the connector's jars, and a Java."""
    interpreter = python("spark-3.5.7", [PYSPARK])
    home = next((interpreter.parents[1] / "lib").glob("python*/site-packages/pyspark"))
    connector = jars("spark-3.5.7-jars", SPARK_JARS, alone=True)
    return {"home": home, "python": interpreter, "jars": connector, "java": java_home()}


def connect():
    """The jars of Kafka Connect with Iceberg's sink, and a Java."""
    return {"jars": jars("iceberg-connect-1.10.1", ICEBERG_JARS), "java": java_home()}


def tools():
    """The Python that has TOOLS."""
    return python("tools-1", TOOLS)


def kcat():
    """The path of kcat."""
    return from_debian("kcat", "kcat")
