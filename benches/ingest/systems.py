"""Who takes part: each reads the same topic from its beginning to where it ended.

A system is made once, where it says what it lacks by `Missing`. `run` starts it on a folder of its own and gives its
usage; what it has stored there is then found by `files`, and counted by a query over `columns`.
"""

import json
import os
import time
import uuid
from pathlib import Path

import packages
from install import Missing
from measure import measured

HERE = Path(__file__).resolve().parent
CORES = 2

# What every lake's readings are compared by.
PLAIN = """device_id, epoch_ms(ts) AS ms, heart_rate, systolic, diastolic, temperature, spo2, respiratory_rate, seq,
           true AS good"""


class System:
    """What all have in common."""

    stores = True
    columns = PLAIN

    def __init__(self, bench):
        self.bench = bench
        self.topic, self.bootstrap = bench.topic, bench.cluster.bootstrap

    def start(self, *argv, **options):
        return self.bench.lab.start(self.name, argv, own_output=True, **options)

    def measured(self, *argv, began=None, stored=None, **options):
        begin = lambda: self.start(*argv, **options)
        return measured(begin, self.bench.broker_pid, began, stored, self.bench.limit_s)

    def files(self, folder):
        return sorted(folder.rglob("*.parquet"))


class Raw(System):
    """What librdkafka alone takes."""

    name, stores = "raw", False
    what = "kcat consumes all partitions in one process and drops every record: librdkafka's limit"

    def __init__(self, bench):
        super().__init__(bench)
        self.program = packages.kcat()

    def run(self, folder):
        # Its own queue is kept long: with a short one it waits for a second whenever that is full.
        more = ["-X", "queued.min.messages=1000000", "-X", "queued.max.messages.kbytes=262144"]
        argv = ["-C", "-b", self.bootstrap, "-t", self.topic, "-e", "-q", "-o", "beginning", "-f", ""]
        return self.measured(self.program, *argv, *more)


class Vitals(System):
    """The program of this repository."""

    name = "vitals"
    what = "`vitals ingest --until-end --window 1h`: checked, sorted, synced to the disk, exactly once"
    more = ()
    columns = PLAIN.replace("true AS good", "reason IS NULL AS good")

    def __init__(self, bench):
        super().__init__(bench)
        said = bench.lab.run([bench.lab.program, "ingest", "--help"], ok=(0, 2))
        if "--until-end" not in said.stdout:
            raise Missing(f"`{bench.lab.program} ingest` knows no `--until-end` yet")

    def run(self, folder):
        source = f"kafka://{self.bootstrap}/{self.topic}"
        argv = ["ingest", "--from", source, "--lake", folder, "--until-end", "--window", "1h", *self.more]
        return self.measured(self.bench.lab.program, *argv)

    def files(self, folder):
        # A chain's first link, without rows, is part of what the lake takes.
        return sorted((folder / "landing").rglob("*.parquet"))


class SmallVitals(Vitals):
    """The same with little memory."""

    name = "vitals-192MB"
    what = "the same with `--memory 192MB`"
    more = ("--memory", "192MB")


class Spark(System):
    """Spark's Structured Streaming."""

    name = "spark"
    what = (
        "Spark 3.5.7 Structured Streaming, availableNow, local[2], from_json with a schema, by day; ZSTD, times as "
        "milliseconds, parallel collector, 3 GB heap, no user interface"
    )

    def __init__(self, bench):
        super().__init__(bench)
        self.installed = packages.spark()

    def run(self, folder):
        spark = self.installed
        settings = {
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.parquet.compression.codec": "zstd",
            # Its default is INT96, which is larger and which others are giving up.
            "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MILLIS",
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.local.dir": folder / "scratch",
            "spark.driver.extraJavaOptions": "-XX:+UseParallelGC",
        }
        conf = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
        jars = ",".join(str(jar) for jar in sorted(spark["jars"].glob("*.jar")))
        argv = ["--master", f"local[{CORES}]", "--driver-memory", "3g", "--jars", jars, *conf, HERE / "spark_job.py"]
        python = str(spark["python"])
        env = {**os.environ, "JAVA_HOME": str(spark["java"]), "SPARK_HOME": str(spark["home"]),
               "PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": python, "SPARK_LOCAL_IP": "127.0.0.1"}
        # Java as the parent: it waits for Python, so that both are counted.
        submit = spark["home"] / "bin" / "spark-submit"
        return self.measured(submit, *argv, self.bootstrap, self.topic, folder, began="the stream begins", env=env,
                             cwd=folder)

    def files(self, folder):
        return sorted((folder / "lake").rglob("*.parquet"))


class Connect(System):
    """Kafka Connect with the sink of Apache Iceberg, whose tables are Parquet."""

    name = "connect"
    commit_s = 5
    what = (
        "Kafka Connect 4.1.1 standalone, 2 tasks, Iceberg's sink 1.10.1 (exactly once) into a table by day in a folder; "
        f"a commit every {commit_s} s, so the last may wait that long; 10,000 records a poll, 2 GB heap; the pressure "
        "stays a text, as it splits none"
    )
    columns = PLAIN.replace("systolic, diastolic", "split_part(blood_pressure, '/', 1)::DOUBLE AS systolic, "
                            "split_part(blood_pressure, '/', 2)::DOUBLE AS diastolic")
    fields = {
        "device_id": "string", "timestamp": "timestamptz", "heart_rate": "double", "blood_pressure": "string",
        "temperature": "double", "spo2": "double", "respiratory_rate": "double", "seq": "long",
        "arrived_at": "timestamptz", "partition": "int", "offset": "long",
    }

    def __init__(self, bench):
        super().__init__(bench)
        self.installed = packages.connect()
        self.columns = self.columns.replace("(ts)", '("timestamp")')

    def run(self, folder):
        number = f"{time.time_ns()}"
        control = f"control-{number}"
        self.bench.cluster.create_topic(control)
        self.table(folder)
        worker, sink = folder / "worker.properties", folder / "sink.properties"
        worker.write_text(self.worker(folder))
        sink.write_text(self.sink(folder, f"sink-{number}", control))
        # Its own script sets the same: the heap and G1 with short pauses.
        java = [self.installed["java"] / "bin" / "java", "-Xms256m", "-Xmx2g", "-XX:MaxGCPauseMillis=20"]
        program = "org.apache.kafka.connect.cli.ConnectStandalone"
        argv = [*java, "-cp", f"{self.installed['jars']}/*", program, worker, sink]
        stored = lambda: self.committed(folder) >= self.bench.records
        return self.measured(*argv, began="Successfully synced group", stored=stored)

    def worker(self, folder):
        port = self.bench.lab.free_port()
        return (
            f"bootstrap.servers={self.bootstrap}\n"
            "key.converter=org.apache.kafka.connect.storage.StringConverter\n"
            "value.converter=org.apache.kafka.connect.json.JsonConverter\n"
            "value.converter.schemas.enable=false\n"
            f"offset.storage.file.filename={folder}/offsets\n"
            # A task without records looks for the sink's messages that often: by default, and it delays a commit, 60 s.
            "offset.flush.interval.ms=1000\n"
            "plugin.discovery=service_load\n"
            f"listeners=HTTP://127.0.0.1:{port}\n"
            "consumer.max.poll.records=10000\n"
            "consumer.max.partition.fetch.bytes=4194304\n"
        )

    def sink(self, folder, name, control):
        return (
            f"name={name}\nconnector.class=org.apache.iceberg.connect.IcebergSinkConnector\ntasks.max={CORES}\n"
            f"topics={self.topic}\n"
            "iceberg.tables=vitals.readings\n"
            "iceberg.catalog.type=hadoop\n"
            f"iceberg.catalog.warehouse={folder}/lake\n"
            f"iceberg.control.topic={control}\n"
            f"iceberg.control.commit.interval-ms={self.commit_s * 1000}\n"
            "transforms=where\n"
            "transforms.where.type=org.apache.kafka.connect.transforms.InsertField$Value\n"
            "transforms.where.timestamp.field=arrived_at\n"
            "transforms.where.partition.field=partition\n"
            "transforms.where.offset.field=offset\n"
        )

    def table(self, folder):
        """An empty table by day. The sink would make one itself, but with times as texts and no partitions."""
        home = folder / "lake" / "vitals" / "readings"
        columns = [{"id": number, "name": name, "required": False, "type": kind}
                   for number, (name, kind) in enumerate(self.fields.items(), 1)]
        day = {"name": "dt", "transform": "day", "source-id": 2, "field-id": 1000}
        state = {
            "format-version": 2, "table-uuid": str(uuid.uuid4()), "location": str(home), "last-sequence-number": 0,
            "last-updated-ms": time.time_ns() // 1_000_000, "last-column-id": len(columns), "current-schema-id": 0,
            "schemas": [{"type": "struct", "schema-id": 0, "fields": columns}], "default-spec-id": 0,
            "partition-specs": [{"spec-id": 0, "fields": [day]}], "last-partition-id": 1000,
            "default-sort-order-id": 0, "sort-orders": [{"order-id": 0, "fields": []}],
            "properties": {"write.parquet.compression-codec": "zstd"}, "current-snapshot-id": -1, "refs": {},
            "snapshots": [], "statistics": [], "snapshot-log": [], "metadata-log": [],
        }
        (home / "metadata").mkdir(parents=True)
        (home / "metadata" / "v1.metadata.json").write_text(json.dumps(state))
        (home / "metadata" / "version-hint.text").write_text("1")

    def committed(self, folder):
        """Rows of the table as it is in force."""
        home = folder / "lake" / "vitals" / "readings" / "metadata"
        try:
            state = json.loads((home / f"v{(home / 'version-hint.text').read_text().strip()}.metadata.json").read_text())
        except (OSError, ValueError):
            return 0  # It is just being replaced.
        for snapshot in state["snapshots"]:
            if snapshot["snapshot-id"] == state["current-snapshot-id"]:
                return int(snapshot["summary"]["total-records"])
        return 0

    def files(self, folder):
        return sorted((folder / "lake").rglob("data/**/*.parquet"))


class Script(System):
    """A script of a careful user."""

    name = "script"
    what = (
        "a Python script on librdkafka (confluent-kafka 2.16.1) and Arrow (pyarrow 26), 2 processes (the peak is of "
        "one), 200,000 packets a file, sorted, ZSTD; no checks beyond types, nothing that survives a crash, one bad packet "
        "ends it"
    )

    def __init__(self, bench):
        super().__init__(bench)
        self.python = packages.tools()

    def run(self, folder):
        return self.measured(self.python, HERE / "script_job.py", self.bootstrap, self.topic, folder, CORES)


SYSTEMS = {system.name: system for system in (Raw, Vitals, SmallVitals, Spark, Connect, Script)}
