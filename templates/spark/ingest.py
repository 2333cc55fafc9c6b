"""A topic of Kafka into the lake, by many tasks at once.

    spark-submit --files vitals --py-files vitals_program.py \\
        ingest.py --from kafka://HOST:PORT/TOPIC --lake s3://BUCKET/PREFIX [FLAG…]

The driver asks the program how far the lake has each partition and where the topic ends. Each task then has one partition
and the offsets that are missing, and runs `vitals ingest` for them: that reads Kafka itself, so what a packet means, how
records become files, and what makes a file count is written down once, there.

Spark may kill a task, try it again, or run it twice, and two jobs may be at the same topic: a partition's files are a chain
of which each link is written under a key that must be free. Whoever comes second to a link goes on behind it.

Every other flag goes to `vitals ingest`, such as `--kafka-protocol sasl_ssl --kafka-auth iam`. The program takes its memory
beside Spark's: `--memory` for each task (256MB), within spark.executor.memoryOverhead.
"""

import argparse
import json

from pyspark.sql import SparkSession
from vitals_program import Program


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
    program = Program(args.vitals)
    arguments = ["--from", args.log, "--lake", args.lake, "--memory", args.memory, "--group", args.group, *more]

    def store(found):
        """What a task does."""
        portion = ["--partition", str(found["partition"]), "--until-offset", str(found["until"])]
        program.run("ingest", *portion, *arguments)

    plan = json.loads(program.run("ingest", "--plan", *arguments))
    # The fullest first: they take longest.
    missing = sorted(plan["ranges"], key=lambda found: found["first"] - found["until"])
    if missing:
        spark.sparkContext.parallelize(missing, len(missing)).foreach(store)
    offsets = sum(found["until"] - found["first"] for found in missing)
    print(json.dumps({"chain": plan["chain"], "partitions": len(missing), "offsets": offsets}), flush=True)
    spark.stop()


if __name__ == "__main__":
    main()
