"""What a careful user would write in an afternoon: librdkafka and Arrow, from Python, in as many processes as cores.

    script_job.py BOOTSTRAP TOPIC FOLDER PROCESSES

Each process takes its share of the partitions and reads each to where it ended at the start. A partition's packets are
gathered as they are, parsed by Arrow's JSON reader as one block, sorted by device and time, and written as one file.
There is no check of a packet beyond its types, one bad packet fails a block, and nothing is told of what a crash leaves.
"""

import multiprocessing
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq
from confluent_kafka import Consumer, KafkaError, TopicPartition

ROWS = 200_000  # of a file
TIME = pa.timestamp("ms", "UTC")
PACKET = pa.schema([
    ("device_id", pa.string()), ("timestamp", TIME), ("heart_rate", pa.float64()), ("blood_pressure", pa.string()),
    ("temperature", pa.float64()), ("spo2", pa.float64()), ("respiratory_rate", pa.float64()), ("seq", pa.int64()),
])


def consumer(bootstrap):
    # More in its queue than it hands over at once; and no second of waiting when that queue is full.
    return Consumer({
        "bootstrap.servers": bootstrap, "group.id": "script", "enable.auto.commit": False, "enable.partition.eof": True,
        "auto.offset.reset": "earliest", "queued.min.messages": 200_000, "queued.max.messages.kbytes": 131_072,
        "fetch.queue.backoff.ms": 10, "check.crcs": False,
    })


def table(messages):
    parse = pj.ParseOptions(explicit_schema=PACKET, unexpected_field_behavior="ignore")
    read = pj.ReadOptions(use_threads=False, block_size=64 << 20)
    text = b"\n".join([message.value() for message in messages])
    packets = pj.read_json(pa.BufferReader(text), read_options=read, parse_options=parse)
    pressure = pc.split_pattern(packets["blood_pressure"], "/")
    column = lambda number: pc.cast(pc.list_element(pressure, number), pa.float64())
    arrived = pa.array([message.timestamp()[1] for message in messages], pa.int64()).cast(TIME)
    offset = pa.array([message.offset() for message in messages], pa.int64())
    return pa.table({
        "device_id": packets["device_id"], "ts": packets["timestamp"], "heart_rate": packets["heart_rate"],
        "systolic": column(0), "diastolic": column(1), "temperature": packets["temperature"], "spo2": packets["spo2"],
        "respiratory_rate": packets["respiratory_rate"], "arrived_at": arrived, "seq": packets["seq"], "offset": offset,
    })


def write(messages, folder, partition):
    rows = table(messages).sort_by([("device_id", "ascending"), ("ts", "ascending")])
    deltas = {name: "DELTA_BINARY_PACKED" for name in ("ts", "arrived_at", "seq", "offset")}
    dictionaries = [name for name in rows.column_names if name not in deltas]
    path = Path(folder) / f"{partition:05}-{messages[0].offset():020}.parquet"
    pq.write_table(rows, path, compression="zstd", use_dictionary=dictionaries, column_encoding=deltas)


def work(bootstrap, topic, folder, partitions):
    reader, gathered = consumer(bootstrap), {partition: [] for partition in partitions}
    reader.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    open_ends = set(partitions)
    while open_ends:
        for message in reader.consume(10_000, timeout=1):
            partition = message.partition()
            if message.error():
                if message.error().code() != KafkaError._PARTITION_EOF:
                    raise RuntimeError(message.error().str())
                open_ends.discard(partition)
                continue
            gathered[partition].append(message)
            if len(gathered[partition]) >= ROWS:
                write(gathered[partition], folder, partition)
                gathered[partition] = []
    for partition, messages in gathered.items():
        if messages:
            write(messages, folder, partition)
    reader.close()


def main():
    bootstrap, topic, folder, processes = sys.argv[1:]
    reader = consumer(bootstrap)
    partitions = sorted(reader.list_topics(topic, timeout=10).topics[topic].partitions)
    reader.close()
    shares = [partitions[number :: int(processes)] for number in range(int(processes))]
    # Forking what has librdkafka's threads would not end well.
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(bootstrap, topic, folder, share)) for share in shares if share]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(any(worker.exitcode for worker in workers))


if __name__ == "__main__":
    main()
