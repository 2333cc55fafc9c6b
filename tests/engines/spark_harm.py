"""Spark's job of compaction with a broken rule, on a lake in which nothing may come of it.

    spark-submit --py-files vitals_program.py,compact.py spark_harm.py HARM [what compact.py takes]

HARM is what goes wrong while rows are sorted. Says as JSON what the program said to it, or that nobody noticed.
"""

import json
import sys

import compact
from pyspark.sql import functions as f

HARM = sys.argv.pop(1)


class Harmed(compact.Job):
    """A job that sorts readings badly."""

    def sort(self, plan, table, rows, order):
        if table != "readings":
            return super().sort(plan, table, rows, order)
        one = rows.orderBy("device_id", "ts").limit(1)
        if HARM == "a row is missing":
            rows = rows.exceptAll(one)
        elif HARM == "a row is there twice":
            rows = rows.unionByName(one)
        elif HARM == "a value is another":
            rows = rows.withColumn("spo2", f.when(f.col("seq") == 7, 96.5).otherwise(f.col("spo2")))
        elif HARM == "rows are not sorted":
            order = ["arrived_at"]
        elif HARM == "a type is another":
            rows = rows.withColumn("heart_rate", f.col("heart_rate").cast("float"))
        elif HARM == "times are Spark's own":
            self.spark.conf.set("spark.sql.parquet.outputTimestampType", "INT96")
        elif HARM == "what the day has already is forgotten":
            rows = rows.where("held = 1")
        elif HARM == "the range of offsets is forgotten":
            rows = rows.unionByName(one.withColumn("offset", f.lit(10**9).cast("bigint")))
        else:
            raise SystemExit(f"no such harm: {HARM}")
        return super().sort(plan, table, rows, order)


compact.Job = Harmed
try:
    compact.main()
    print(json.dumps({"harm": HARM, "noticed": False}), flush=True)
except Exception as noticed:
    print(json.dumps({"harm": HARM, "noticed": True, "by": str(noticed)[:200]}), flush=True)
