"""Spark's jobs on a real Spark and a real Kafka: the lake after them is the lake after the workers and `vitals compact`."""

import contextlib
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

from lab import check, equal, test
from proxy import Proxy
from readings import BAD, now_ms, packet
from spark import JOBS, finished
from test_kafka import Topic
from test_s3 import Lake

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
# All that there is of a reading; a record is known by its own number.
READINGS = "SELECT * FROM readings ORDER BY device_id, ts, seq, arrived_at"
OUTLIERS = "SELECT * FROM outliers ORDER BY device_id, ts, seq, arrived_at"
# But for `first`: where files end is nobody's promise.
DEAD = '''SELECT device_id, arrived_at, reason, payload, chain, "partition", "offset", item, dt FROM dead_letters
          ORDER BY chain, "partition", "offset", item'''


def shown(lab, lake):
    """Every row of every view."""
    return {name: lab.query(lake, sql) for name, sql in (("readings", READINGS), ("outliers", OUTLIERS), ("dead", DEAD))}


def same(found, expected, what):
    """Fails where two lakes show something else, and says what."""
    for view, rows in expected.items():
        if found[view] != rows:
            pairs = [pair for pair in zip(found[view], rows) if pair[0] != pair[1]][:1]
            check(False, f"{what}: {len(found[view])} {view}, expected {len(rows)}; first that differ: {pairs}")


def log(kafka, topic):
    """Where Spark's job finds a topic."""
    return f"kafka://{kafka.bootstrap}/{topic}"


def children(lab, *words):
    """The processes of a test, at any depth, whose command has all these words."""
    found, parents, ours = [], {}, {process.pid for process in lab.processes}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(folder.name)
            parents[pid] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if all(word in command for word in words):
                found.append(pid)

    def is_ours(pid):
        while pid in parents and pid not in ours:
            pid = parents[pid]
        return pid in ours

    return [pid for pid in found if is_ours(pid)]


def files(lake, partition=None):
    """How many landing files there are."""
    folder = "*" if partition is None else f"{partition:05}"
    return len(list((lake / "landing").glob(f"*/{folder}/*.parquet")))


# ---- ingest


@test("spark", "kafka", "confluent")
def spark_ingest(lab):
    """Spark's tasks store what the workers store, bad packets included; two jobs at once, and one that finds nothing to do."""
    kafka, spark = lab.start_engine("kafka"), lab.start_engine("spark")
    topic = Topic(lab, kafka, "fleet", 3)
    theirs = lab.folder / "by-workers"
    ingest = ("ingest.py", "--from", log(kafka, "fleet"), "--lake", topic.lake)

    def send(count):
        topic.send(count)
        kafka.produce("fleet", [(f"bed_{n}", payload) for n, (payload, _) in enumerate(BAD)])
        kafka.produce("fleet", [("bed_1", json.dumps({"readings": [json.loads(packet(10**6)), {"heart_rate": 1}]}))])

    send(3_000)
    said = spark.run(*ingest)
    equal([(one["partitions"], one["offsets"]) for one in said], [(3, 3_001 + len(BAD))], "what the job says that it did")
    send(500)
    # Both find the same to do; a file of each partition is small, so that both are at it for a while.
    both = [spark.submit(*ingest, "--slice-rows", "20") for _ in range(2)]
    for job in both:
        finished(job)
    equal(spark.run(*ingest)[0]["partitions"], 0, "partitions that a job finds to do when all is done")
    lab.vitals("ingest", "--from", log(kafka, "fleet"), "--lake", theirs, "--until-end")
    same(shown(lab, topic.lake), shown(lab, theirs), "after two jobs at once")
    check(len(shown(lab, theirs)["dead"]) >= 2 * len(BAD), "bad packets are among them")
    equal(topic.verified()["kept"], True, "every promise was kept")
    # What goes to the program goes through; what it says of it ends the job.
    job = spark.submit(*ingest, "--slice-rows", "none")
    equal(job.ended(300), 1, "exit code of a job with a flag that is none")
    check("--slice-rows" in job.text(), job.text()[-2000:])


@test("spark", "kafka", "confluent")
def spark_ingest_killed(lab):
    """The program or Spark's worker killed in the middle of a task: the task is tried again, nothing is lost or doubled."""
    kafka, spark = lab.start_engine("kafka"), lab.start_engine("spark")
    topic = Topic(lab, kafka, "killed", 2)
    ingest = ("ingest.py", "--from", log(kafka, "killed"), "--lake", topic.lake, "--slice-rows", "50")
    for whom in (("ingest", "--partition"), ("pyspark.daemon",)):
        count = 5_000 if lab.quick else 20_000
        before = files(topic.lake)
        topic.send(count)
        job = spark.submit(*ingest)
        # Some of it is stored, most of it is not.
        lab.wait_until(lambda: files(topic.lake) > before + 3, "a task is at it", every_s=0.01, alive=job)
        killed = children(lab, *whom)
        check(killed, f"there is a process of {whom}")
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        check(files(topic.lake) < before + count // 50, "it was killed before it was done")
        finished(job)
        check(re.search(r"Lost task|Python worker|ended with -9", job.text()), "Spark says that a task was lost")
        topic.holds(range(topic.sent))
        equal(children(lab, "ingest", "--partition"), [], "programs that outlive their job")
    equal(topic.verified()["kept"], True, "every promise was kept")


@test("kafka", "confluent", "moto")
def spark_second_comer(lab):
    """A task that comes second to a key, of one that stores no more, goes on behind it until the lake has all of its range."""
    kafka, s3 = lab.start_engine("kafka"), lab.start_engine("moto")
    proxy = Proxy(lab, s3.endpoint)
    topic, count = Topic(lab, kafka, "second", 1), 5_000
    topic.send(count)
    first = lab.folder / "first"
    portion = ("--partition", "0", "--until-offset")
    source = ("ingest", "--from", log(kafka, "second"))
    lab.vitals(*source, *portion, "70", "--lake", first)
    equal(lab.count(first), 70, "readings of a range")
    plan = json.loads(lab.vitals(*source, "--plan", "--lake", first).stdout)
    equal(plan["ranges"], [{"partition": 0, "first": 70, "until": count}], "what is left to do")
    # What somebody else stores, who stores no more, while the task's own file is on its way.
    theirs = next((first / "landing").rglob("*.parquet")).read_bytes()
    key = f"lake/landing/kafka-second/00000/{0:020}.parquet"
    proxy.add("delay", times=1, method="PUT", path="/landing/", created=True, hook=lambda _: s3.put(key, theirs))
    lake = Lake(lab, f"{s3.url}/lake", s3.env_at(proxy.endpoint))
    said = lake.run(*source, *portion, count).stderr
    equal((s3.get(key) == theirs, proxy.counts["delay"]), (True, 1), "the file under the key is theirs, and the task met it")
    check("stored 0 readings" in said, said)
    equal(lake.sql("SELECT count(*) AS n, count(DISTINCT seq) AS different FROM readings")[0], {"n": count, "different": count},
          "readings")
    for wrong, what in (("--until-offset 5", "--partition"), ("--partition 1 --until-offset 5", "`--partition 1`: topic `second` has 1")):
        check(what in lab.vitals(*source, *wrong.split(), "--lake", first, ok=(2,)).stderr, what)


@test("spark", "kafka", "confluent", slow=True, limit_s=900)
def spark_ingest_speculation(lab):
    """A task that hangs is run a second time beside itself; when the first goes on it finds its work done."""
    kafka, spark = lab.start_engine("kafka"), lab.start_engine("spark")
    topic = Topic(lab, kafka, "hanging", 2)
    topic.send(40_000)
    cluster = spark.cluster(2)
    job = spark.submit(
        "ingest.py", "--from", log(kafka, "hanging"), "--lake", topic.lake, "--slice-rows", "500", master=cluster,
        spark_speculation="true", spark_speculation_interval="200ms", spark_speculation_multiplier="1.1",
        spark_speculation_quantile="0.1", spark_speculation_minTaskRuntime="1s", spark_executor_memory="512m",
    )
    program = lambda: children(lab, "ingest", "--partition 0 ")
    hanging = lab.wait_until(program, "a task is at partition 0", every_s=0.01, alive=job)
    lab.wait_until(lambda: files(topic.lake, 0) > 2, "it has stored something", every_s=0.01, alive=job)
    os.kill(hanging[0], signal.SIGSTOP)
    stopped_at = files(topic.lake, 0)
    lab.wait_until(lambda: set(program()) - set(hanging), "Spark runs it a second time", every_s=0.01, alive=job)
    lab.wait_until(lambda: files(topic.lake, 0) > stopped_at, "the second one stores what is left", every_s=0.01)
    with contextlib.suppress(ProcessLookupError):
        os.kill(hanging[0], signal.SIGCONT)
    finished(job)
    topic.holds(range(topic.sent))
    equal(topic.verified()["kept"], True, "every promise was kept")


# ---- compaction


def past(lab, kafka, topic, lake, days=3):
    """A lake of a topic whose records came on several days, up to yesterday: bad ones, late ones, ones that were sent twice."""
    kafka.create_topic(topic, 3, {"message.timestamp.type": "CreateTime"})
    today = now_ms() // DAY_MS * DAY_MS
    records, seq = [], 0
    for at in range(today - days * DAY_MS + HOUR_MS, today, 10 * 60_000):
        for device in range(12):
            seq += 1
            # One in the night has a fast heart: somebody has to be an outlier.
            rate = 190 if device == 3 and at // HOUR_MS % 24 in (2, 3) else 60 + (seq * 7) % 20
            # -0.0 is no 0.0; a time long ago is one like others.
            fields = {"heart_rate": rate, "temperature": [36.6, 0.0, -0.0][seq % 3] if device == 5 else 36.6}
            when = at - 26 * HOUR_MS if seq % 97 == 0 else at
            when = -5_000_000_000_000 + seq if seq % 500 == 0 else when
            record = (f"bed_{device}", packet(seq, ts_ms=when, **fields))
            records.append((*record, at))
            if seq % 41 == 0:
                # Sent twice: at once, an hour later, on the next day.
                later = [0, HOUR_MS, DAY_MS][seq // 41 % 3]
                records.append((*record, min(at + later, today - 1)))
    bad = [(f"bed_{n}", payload, today - (n % days) * DAY_MS - HOUR_MS) for n, (payload, _) in enumerate(BAD * 3)]
    kafka.produce(topic, sorted(records + bad, key=lambda record: record[2]))
    lab.vitals("ingest", "--from", log(kafka, topic), "--lake", lake, "--until-end", "--accept-create-time", "--slice-rows", "500")
    lab.vitals("score", "--lake", lake)


def copied(lab, lake, name):
    return shutil.copytree(lake, lab.folder / name)


def content(lab, lake):
    """What the closed days have, file by file: the rows of each run in their order, and where the log goes on."""
    newest = max((lake / "state").glob("*.json"))
    state = json.loads(newest.read_text())
    runs = {}
    for day, tables in state["days"].items():
        for table, run in tables.items():
            if table == "scored_by":
                runs[day, table] = run
                continue
            parts = sorted((lake / table / f"dt={day}" / run["run"]).glob("*.parquet"))
            equal([part.stat().st_size for part in parts], run["parts"], f"sizes of the parts of {table} of {day}")
            runs[day, table] = (run["rows"], run["min_ts"], run["max_ts"], [part.read_bytes() for part in parts])
    return {"upto": state["upto"], "cut": state["cut"], "runs": runs}


@test("spark", "kafka", "confluent", limit_s=900)
def spark_compact(lab):
    """Days that Spark sorts are those that `vitals compact` makes, to the bit; so is the sample; two jobs at once do no harm."""
    kafka, spark = lab.start_engine("kafka"), lab.start_engine("spark")
    lake = lab.folder / "lake"
    days = 1 if lab.quick else 3
    past(lab, kafka, "past", lake, days)
    before = shown(lab, lake)
    check(all(before.values()), f"there is something in every view: { {view: len(rows) for view, rows in before.items()} }")
    theirs, twice = copied(lab, lake, "by-compact"), copied(lab, lake, "by-two")
    lab.vitals("compact", "--lake", theirs)
    lab.vitals("train", "--prepare", lab.folder / "their-sample", "--lake", theirs)
    said = spark.run("compact.py", "--lake", lake, "--sample", lab.folder / "sample", "--since", "1970-01-01")
    equal(said.pop(), {"sample": str(lab.folder / "sample")}, "what the job says last")
    equal([one["committed"] for one in said], [True] * days, "days that the job has closed")
    check(sum(one["sent_twice"] for one in said) > 10, f"readings were sent twice: {said}")
    same(shown(lab, lake), shown(lab, theirs), "after the job")
    equal(content(lab, lake), content(lab, theirs), "what the closed days have")
    ours, sample = lab.folder / "sample", lab.folder / "their-sample"
    equal((ours / "sample.parquet").read_bytes(), (sample / "sample.parquet").read_bytes(), "what a training learns from")
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (ours, sample)]
    same_but = [{name: value for name, value in one.items() if name not in ("made_ms", "since_ms")} for one in manifests]
    equal(*same_but, "what the samples say of themselves")
    equal(list(lab.folder.glob("sample-work")), [], "what the job leaves beside the lake")
    equal(lab.json("verify", "--lake", lake)["kept"], True, "every promise was kept")

    if lab.quick:
        return
    both = [spark.submit("compact.py", "--lake", twice, "--work", lab.folder / f"work-{n}") for n in range(2)]
    done = [day for job in both for day in finished(job) if day["committed"]]
    equal(sorted(day["day"] for day in done), sorted(day["day"] for day in said), "days that two jobs have closed, each once")
    equal(content(lab, twice)["runs"], content(lab, theirs)["runs"], "what the closed days have after two jobs")


@test("spark", "spark_s3", "kafka", "confluent", "moto", slow=True, limit_s=900)
def spark_on_s3(lab):
    """With a lake in S3 both jobs do the same: Spark reads and sorts there, and the program in its tasks commits there."""
    kafka, spark, s3 = lab.start_engine("kafka"), lab.start_engine("spark"), lab.start_engine("moto")
    topic = Topic(lab, kafka, "far", 2)
    topic.send(3_000)
    kafka.produce("far", [("bed_1", payload) for payload, _ in BAD] + [("bed_2", packet(1, ts_ms=now_ms()))] * 3)
    there = Lake(lab, f"{s3.url}/wards", s3.env)
    spark.run("ingest.py", "--from", log(kafka, "far"), "--lake", there.place, env=s3.env)
    there.run("score")
    topic.ingest()
    lab.vitals("score", "--lake", topic.lake)
    same({"readings": there.sql(READINGS)}, {"readings": lab.query(topic.lake, READINGS)}, "after ingest")
    said = spark.run(
        "compact.py", "--lake", there.place, "--sample", f"{s3.url}/training/one/sample/", "--now", env=s3.env,
        spark_jars=",".join(map(str, sorted(lab.engine("spark_s3").glob("*.jar")))),
        spark_hadoop_fs_s3_impl="org.apache.hadoop.fs.s3a.S3AFileSystem", spark_hadoop_fs_s3a_endpoint=s3.endpoint,
        spark_hadoop_fs_s3a_path_style_access="true", spark_hadoop_fs_s3a_access_key="test",
        spark_hadoop_fs_s3a_secret_key="test",
    )
    lab.vitals("compact", "--now", "--lake", topic.lake)
    lab.vitals("train", "--prepare", lab.folder / "sample", "--lake", topic.lake)
    equal(said[0]["sent_twice"], 2, "readings that were sent twice")
    found = {name: there.sql(sql) for name, sql in (("readings", READINGS), ("outliers", OUTLIERS), ("dead", DEAD))}
    same(found, shown(lab, topic.lake), "after compaction")
    sample = s3.get("training/one/sample/sample.parquet")
    equal(sample, (lab.folder / "sample" / "sample.parquet").read_bytes(), "what a training learns from")
    left = [key for key in s3.keys() if not key.startswith(("wards/", "training/one/sample/"))]
    equal(left, [], "what the job leaves beside lake and sample")
    odd = [key for key in s3.keys("wards/") if any(part.startswith(("_", ".")) for part in key.split("/"))]
    equal(odd, [], "files in the lake that are none of it")
    equal(there.json("verify")["kept"], True, "every promise was kept")


@test("spark", "kafka", "confluent", slow=True, limit_s=900)
def spark_compact_killed(lab):
    """Programs and Spark's workers killed while they make days, then the whole job: the days are those of `vitals compact`."""
    kafka, spark = lab.start_engine("kafka"), lab.start_engine("spark")
    lake = lab.folder / "lake"
    past(lab, kafka, "killed", lake, days=2)
    theirs = copied(lab, lake, "by-compact")
    lab.vitals("compact", "--lake", theirs)
    compact = ("compact.py", "--lake", lake, "--work", lab.folder / "work")

    def kill(job, *words):
        pids = lab.wait_until(lambda: children(lab, *words), f"there is a process of {words}", every_s=0.005, alive=job)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # All of it, before anything is in force.
    job = spark.submit(*compact)
    lab.wait_until(lambda: children(lab, "compact", "--task"), "a task is at it", every_s=0.005, alive=job)
    job.kill()
    lab.wait_until(lambda: not children(lab, "pyspark") and not children(lab, "compact", "--task"), "nothing outlives the job")
    equal([path.name for path in (lake / "state").glob("*2.json")], [], "states of a job that was killed")
    job = spark.submit(*compact)
    kill(job, "compact", "--task")
    kill(job, "pyspark.daemon")
    kill(job, "compact", "--task")
    days = [one["day"] for one in finished(job) if one["committed"]]
    equal(len(days), 2, "days that the job has closed")
    check(re.search(r"Lost task|ended with -9", job.text()), "Spark says that a task was lost")
    equal(content(lab, lake), content(lab, theirs), "what the closed days have")


@test("spark", "kafka", "confluent", slow=True, limit_s=1800)
def spark_compact_harmed(lab):
    """A job that sorts badly is refused, whatever is wrong, and the lake is what it was; then a good one closes the day."""
    kafka, spark = lab.start_engine("kafka"), lab.start_engine("spark")
    lake = lab.folder / "lake"
    past(lab, kafka, "harmed", lake, days=1)
    before = shown(lab, lake)
    harms = {
        "a row is missing": "files have",
        "a row is there twice": "not in the order of the log",
        "a value is another": "but others",
        "rows are not sorted": "are not sorted",
        "a type is another": "Float32, not Float64",
        "times are Spark's own": "its column `ts`",
        "the range of offsets is forgotten": "files have",
    }
    for harm, why in harms.items():
        job = spark.submit(
            JOBS.parents[1] / "tests" / "engines" / "spark_harm.py", harm, "--lake", lake, "--work", lab.folder / "work",
            files=[JOBS / "compact.py"], master="local[2]",
        )
        equal([one for one in finished(job) if one.get("noticed") is not True], [], f"{harm}: what was not noticed")
        check(why in job.text(), f"{harm}: `{why}` is said in {job.text()[-3000:]}")
        same(shown(lab, lake), before, harm)
        check(not any((lake / "state").glob("*2.json")), f"{harm}: the state is what it was")
    said = spark.run("compact.py", "--lake", lake, "--work", lab.folder / "work")
    equal([one["committed"] for one in said], [True], "days that the job has closed")
