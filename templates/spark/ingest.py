"""A topic of Kafka into the lake, by many tasks at once.

    spark-submit --files vitals ingest.py --from kafka://HOST:PORT/TOPIC --lake s3://BUCKET/PREFIX [FLAG…]

The driver asks the program how far the lake has each partition and where the topic ends. Each task then has one partition
and the offsets that are missing, and runs `vitals ingest` for them: that reads Kafka itself, so what a packet means, how
records become files, and what makes a file count is written down once, there.

Spark may kill a task, try it again, or run it twice, and two jobs may be at the same topic: a partition's files are a chain
of which each link is written under a key that must be free. Whoever comes second to a link goes on behind it.

Every other flag goes to `vitals ingest`, such as `--kafka-protocol sasl_ssl --kafka-auth iam`. The program takes its memory
beside Spark's: `--memory` for each task (256MB), within spark.executor.memoryOverhead.
"""

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

from pyspark import SparkFiles, TaskContext
from pyspark.sql import SparkSession

NAME = "vitals"


def program(given):
    """The path of the program on this machine: the one given, or the one that came by --files."""
    path = given or SparkFiles.get(NAME)
    if not os.path.exists(path):
        raise SystemExit(f"there is no program `{path}`: give spark-submit `--files …/{NAME}`, or say `--vitals PATH`")
    if os.access(path, os.X_OK):
        return path
    # Files come without the right to be executed, into a folder that need not be ours.
    own = os.path.join(tempfile.mkdtemp(prefix="vitals-"), NAME)
    shutil.copyfile(path, own)
    os.chmod(own, 0o755)
    return own


def end_with_parent():
    """Has the program end when whoever started it does, however that ends."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def vitals(given, *arguments):
    """Runs the program, and gives what it says on standard output; on standard error it speaks for itself."""
    path = program(given)
    done = subprocess.run([path, *arguments], stdout=subprocess.PIPE, text=True, preexec_fn=end_with_parent)
    if done.returncode:
        raise RuntimeError(f"`vitals {arguments[0]}` ended with {done.returncode}; what it said is above")
    return done.stdout


def store(given, partition, until, arguments):
    """What a task does: one partition, up to an offset."""
    print(f"partition {partition} up to {until}, attempt {TaskContext.get().attemptNumber()}", file=sys.stderr)
    vitals(given, "ingest", "--partition", str(partition), "--until-offset", str(until), *arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="log", required=True, metavar="LOG", help="kafka://HOST:PORT[,HOST:PORT…]/TOPIC")
    parser.add_argument("--lake", required=True, metavar="PLACE", help="s3://BUCKET/PREFIX, or a folder that all machines see")
    parser.add_argument("--vitals", metavar="PATH", help="the program, where it is on every machine and not sent along")
    parser.add_argument("--memory", default="256MB", metavar="SIZE", help="of the program, in each task (256MB)")
    # A group of its own: what it commits, for those who watch the lag, is not mixed with that of other workers.
    parser.add_argument("--group", default="spark-ingest", metavar="NAME", help="whose offsets are committed (spark-ingest)")
    args, more = parser.parse_known_args()
    spark = SparkSession.builder.appName("vitals-ingest").getOrCreate()
    arguments = ["--from", args.log, "--lake", args.lake, "--memory", args.memory, "--group", args.group, *more]
    given = args.vitals
    plan = json.loads(vitals(given, "ingest", "--plan", *arguments))
    ranges = [(found["partition"], found["until"]) for found in plan["ranges"]]
    if ranges:
        # The fullest first: they take longest.
        missing = {found["partition"]: found["until"] - found["first"] for found in plan["ranges"]}
        ranges.sort(key=lambda of: -missing[of[0]])
        tasks = spark.sparkContext.parallelize(ranges, len(ranges))
        tasks.foreach(lambda of: store(given, of[0], of[1], arguments))
    offsets = sum(found["until"] - found["first"] for found in plan["ranges"])
    print(json.dumps({"chain": plan["chain"], "partitions": len(ranges), "offsets": offsets}), flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
