"""Closed days of the lake, sorted by many machines; then the sample that a training learns from.

    spark-submit --files vitals --py-files vitals_program.py \\
        compact.py --lake s3://BUCKET/PREFIX --sample s3://BUCKET/PREFIX [--since WHEN] [--until WHEN]

What Spark is for: bringing the readings of a device together and sorting them, which takes a shuffle among all machines.
What it is not for: rules. Which day is closed and what goes into it says `vitals compact --plan`; which of two readings that
were sent twice stays, and what a file of a closed day looks like, says the program in the tasks, which makes a part of a
closed day from each sorted file. `vitals compact --commit` then checks that what came out is what went in, and puts it in
force in one step. Sorted files lie beside the lake, in `--work`, and are removed.

Two of these jobs, or a `vitals compact`, may be at the same day: one of them puts it in force, the others see that and go on
with the next one.
"""

import argparse
import json
import os
import re
import uuid

from pyspark.sql import SparkSession
from pyspark.sql import functions as f
from vitals_program import Program

# A record's place in the log. Rows of closed days have none, as the program has it.
ORIGIN = ["chain", "partition", "first", "offset", "item"]
NO_ORIGIN = {"chain": ("", "string"), "partition": (0, "int"), "first": (0, "bigint"), "offset": (-1, "bigint"), "item": (0, "int")}
# Of the rows of a device and time those of closed days come first, as they are there; then those of the log, in its order.
BY_DEVICE = ["device_id", "ts", "chain", "partition", "offset", "item", "part", "row"]
AS_LANDED = ["held", "part", "chain", "partition", "first", "row"]
SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MILLIS",
    "spark.sql.parquet.compression.codec": "zstd",
    # Times are what they are in the files, however long ago.
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
}
# A day that somebody else closes first is planned anew, so often.
RACES = 20
# So many samples are put together at a time: each is in memory but for what others leave of it.
TOGETHER = 16
# Files are counted by at most so many tasks.
COUNTERS = 1000


class Job:
    """A lake, the place to work in, and the program."""

    def __init__(self, spark, args):
        self.spark, self.args, self.program = spark, args, Program(args.vitals)
        for name, value in SETTINGS.items():
            spark.conf.set(name, value)

    def vitals(self, command, *arguments, say=None):
        return self.program.run(command, "--lake", self.args.lake, *arguments, say=say)

    def tasks(self, specs):
        """Has the program do each of these in tasks, and gives what it says."""
        program, lake = self.program, self.args.lake

        def do(spec):
            return json.loads(program.run("compact", "--task", "--lake", lake, say=json.dumps(spec)))

        return self.spark.sparkContext.parallelize(specs, len(specs)).map(do).collect() if specs else []

    # ---- what goes in

    def read(self, plan, kind):
        """The rows of the plan's files of a kind, with the place of each within its file; None where there are none."""
        files = [url(self.args.lake, file["key"]) for file in plan["files"] if file["kind"] == kind]
        if not files:
            return None
        rows = self.spark.read.parquet(*files)
        return rows.select(*rows.columns, f.col("_metadata.file_name").alias("file"), f.col("_metadata.row_index").alias("row"))

    def slices(self, plan, kind):
        """Of the log: the offsets that are taken."""
        rows = self.read(plan, kind)
        if rows is None:
            return None
        takes = [(take["chain"], take["partition"], take["from"], take["to"]) for take in plan["takes"]]
        takes = self.spark.createDataFrame(takes, "chain STRING, partition INT, from BIGINT, to BIGINT")
        taken = rows.join(f.broadcast(takes), ["chain", "partition"]).where("from <= offset AND offset < to")
        return taken.drop("from", "to", "file").withColumns({"held": f.lit(1), "part": f.lit(0)})

    def held(self, plan, kind, origin=False):
        """Of the day itself, where it is closed for a second time."""
        rows = self.read(plan, kind)
        if rows is None:
            return None
        part = f.regexp_extract("file", r"^part-(\d+)", 1).cast("int")
        rows = rows.withColumns({"held": f.lit(0), "part": part}).drop("file")
        if origin:
            return rows
        return rows.withColumns({name: f.lit(value).cast(kind) for name, (value, kind) in NO_ORIGIN.items()})

    def tables(self, plan):
        """Each table, its rows, and their order."""
        landing = self.slices(plan, "landing")
        readings = dead_letters = None
        if landing is not None:
            readings = landing.where("reason IS NULL").drop("reason", "payload")
            dead_letters = landing.where("reason IS NOT NULL")
        if dead_letters is not None:
            dead_letters = dead_letters.select("device_id", "arrived_at", "reason", "payload", *ORIGIN, "held", "part", "row")
        yield "readings", both(self.held(plan, "readings"), readings), BY_DEVICE
        yield "outliers", both(self.held(plan, "outliers"), self.slices(plan, "scored")), BY_DEVICE
        yield "dead_letters", both(self.held(plan, "dead_letters", origin=True), dead_letters), AS_LANDED

    # ---- what comes out

    def sort(self, plan, table, rows, order):
        """Writes rows sorted, and gives the keys of the files that have any, in their order."""
        kinds = {"readings": ("landing", "readings"), "outliers": ("scored", "outliers"), "dead_letters": ("dead_letters",)}
        size = sum(file["bytes"] for file in plan["files"] if file["kind"] in kinds[table])
        parts = max(1, -(-size // self.args.part_bytes))
        folder = f"{plan['run']}/{table}"
        # All rows of a device and time are in one file: of those that were sent twice one stays.
        apart = ["device_id", "ts"] if order is BY_DEVICE else order
        ordered = rows.repartitionByRange(parts, *apart).sortWithinPartitions(*order)
        place = url(self.args.work, folder)
        ordered.drop("held", "part", "row").write.mode("overwrite").parquet(place)
        names = self.spark.read.parquet(place).select("_metadata.file_name").distinct().collect()
        number = lambda name: int(re.match(r"part-(\d+)", name).group(1))
        return [f"{folder}/{name}" for name in sorted((row.file_name for row in names), key=number)]

    def close(self, plan):
        """Writes the runs of a day and has them put in force; false where somebody else was first."""
        sealed, dropped_in = [], []
        about = {"day": plan["day"], "run": plan["run"]}
        for table, rows, order in self.tables(plan):
            if rows is None:
                continue
            keys = self.sort(plan, table, rows, order)
            more = {"readings": {"before": plan["before"]}, "outliers": {"dropped_in": dropped_in}}.get(table, {})
            specs = [{"table": table, "part": part, "key": key, **about, **more} for part, key in enumerate(keys)]
            parts = self.tasks([{"seal": {"place": self.args.work, "staged": spec}} for spec in specs])
            sealed += parts
            if table == "readings":
                dropped_in = [part["part"] for part in parts if part["dropped"]]
        counters = min(len(plan["files"]), COUNTERS)
        counted = self.tasks([{"count": plan["files"][n::counters]} for n in range(counters)])
        work = {"plan": plan, "counted": [one for some in counted for one in some], "sealed": sealed}
        done = json.loads(self.vitals("compact", "--commit", "-", say=json.dumps(work)))
        print(json.dumps(done), flush=True)
        return done["committed"]

    def close_days(self):
        """Closes what can be closed, and gives the number of the lake's state then."""
        races = 0
        while races < RACES:
            plan = json.loads(self.vitals("compact", "--plan", *(["--now"] if self.args.now else [])))
            if plan["day"] is None:
                return plan["state"]
            try:
                races += not self.close(plan)
            finally:
                remove(self.spark, url(self.args.work, plan["run"]))
        raise RuntimeError("the lake changes too often")

    def sample(self, state):
        """Writes what a training learns from: each task takes some files, then samples are put together."""
        span = [f"--{name}={value}" for name in ("since", "until") if (value := getattr(self.args, name))]
        prepare = ("train", "--lake", self.args.lake, "--state", str(state), *span, "--prepare")
        program, work = self.program, f"{self.args.work}/sample-{uuid.uuid4().hex}"
        shares = int(self.spark.conf.get("spark.sql.shuffle.partitions"))

        def prepared(task):
            place, more = task
            program.run(*prepare, place, *more)
            return place

        tasks = [(f"{work}/0-{n}", ("--share", f"{n}/{shares}")) for n in range(1, shares + 1)]
        level = 0
        try:
            while True:
                places = self.spark.sparkContext.parallelize(tasks, len(tasks)).map(prepared).collect()
                if len(places) <= TOGETHER:
                    break
                level += 1
                groups = [places[n:n + TOGETHER] for n in range(0, len(places), TOGETHER)]
                tasks = [(f"{work}/{level}-{n}", merged(group)) for n, group in enumerate(groups)]
            print(json.dumps({"sample": program.run(*prepare, self.args.sample, *merged(places)).strip()}), flush=True)
        finally:
            remove(self.spark, url(work, ""))


def merged(places):
    return [part for place in places for part in ("--merge", place)]


def both(first, second):
    """The rows of both, where there are any."""
    return first.unionByName(second) if first is not None and second is not None else first if second is None else second


def url(place, key):
    """Where Spark finds something."""
    place = place.rstrip("/")
    return f"{place if '://' in place else 'file://' + place}/{key}"


def remove(spark, place):
    """Removes a folder and everything in it."""
    java = spark.sparkContext._jvm.org.apache.hadoop.fs
    path = java.Path(place)
    path.getFileSystem(spark.sparkContext._jsc.hadoopConfiguration()).delete(path, True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", required=True, metavar="PLACE", help="s3://BUCKET/PREFIX, or a folder that all machines see")
    parser.add_argument("--sample", metavar="PLACE", help="where to write what a training learns from")
    parser.add_argument("--since", metavar="WHEN", help="learn from readings since then, as `vitals train` has it")
    parser.add_argument("--until", metavar="WHEN", help="learn from readings until then")
    parser.add_argument("--work", metavar="PLACE", help="where sorted files lie meanwhile (beside the sample)")
    parser.add_argument("--now", action="store_true", help="also close the running day")
    parser.add_argument("--part-bytes", type=int, default=256 << 20, metavar="N", help="the size of a closed day's files")
    parser.add_argument("--vitals", metavar="PATH", help="the program, where it is on every machine and not sent along")
    args = parser.parse_args()
    own_work = not args.work
    if own_work:
        if not args.sample:
            parser.error("--work or --sample is needed")
        args.work = f"{args.sample.rstrip('/')}-work"
    for name in ("lake", "sample", "work"):
        place = getattr(args, name)
        # Tasks run in other folders.
        setattr(args, name, place if not place or "://" in place else os.path.abspath(place))
    job = Job(SparkSession.builder.appName("vitals-compact").getOrCreate(), args)
    state = job.close_days()
    if args.sample:
        job.sample(state)
    if own_work:
        remove(job.spark, url(args.work, ""))
    job.spark.stop()


if __name__ == "__main__":
    main()
