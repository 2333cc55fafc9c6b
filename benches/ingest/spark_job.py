"""What Spark runs: a topic into Parquet by Structured Streaming, until what it held at the start is stored.

    spark-submit … spark_job.py BOOTSTRAP TOPIC FOLDER
"""

import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

PACKET = """device_id STRING, timestamp TIMESTAMP, heart_rate DOUBLE, blood_pressure STRING, temperature DOUBLE,
            spo2 DOUBLE, respiratory_rate DOUBLE, seq BIGINT"""

bootstrap, topic, folder = sys.argv[1:]
spark = SparkSession.builder.getOrCreate()
records = (
    spark.readStream.format("kafka")
    .option("kafka.bootstrap.servers", bootstrap)
    .option("subscribe", topic)
    .option("startingOffsets", "earliest")
    .load()
)
packet = f.from_json(f.col("value").cast("string"), PACKET).alias("packet")
pressure = f.split("packet.blood_pressure", "/")
readings = records.select(packet, "timestamp", "partition", "offset").select(
    "packet.device_id",
    f.col("packet.timestamp").alias("ts"),
    "packet.heart_rate",
    pressure[0].cast("double").alias("systolic"),
    pressure[1].cast("double").alias("diastolic"),
    "packet.temperature",
    "packet.spo2",
    "packet.respiratory_rate",
    f.col("timestamp").alias("arrived_at"),
    "packet.seq",
    "partition",
    "offset",
    f.to_date("packet.timestamp").alias("dt"),
)
print("the stream begins", flush=True)
query = (
    readings.writeStream.format("parquet")
    .option("path", f"{folder}/lake")
    .option("checkpointLocation", f"{folder}/checkpoint")
    .partitionBy("dt")
    .trigger(availableNow=True)
    .start()
)
query.awaitTermination()
spark.stop()
