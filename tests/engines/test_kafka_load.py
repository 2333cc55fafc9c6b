"""A large backlog: how much memory a worker takes for it, and what bad records cost."""

import random
import re
import resource
import time
from pathlib import Path

from lab import check, equal, test
from test_kafka import STAMPED
from test_workers import Scraped

DEVICES = 5_000


def fill(kafka, topic, partitions, packets, noise=0.0):
    """Fills a topic in large batches; gives how many records are no readings, and the bytes of all."""
    kafka.create_topic(topic, partitions, STAMPED)
    producer, chance, bad = kafka.producer(compression_type="lz4", linger_ms=50, batch_size=1 << 20), random.Random(3), 0
    failed, size = [], 0
    told = lambda error, _message: failed.append(error.str()) if error else None
    # Vitals that wander as those of a body do: with ones that are all alike the good records would cost nearly nothing.
    text = ('{"timestamp":%d,"heart_rate":%d,"blood_pressure":"%d/%d","temperature":%.1f,"spo2":%d,"respiratory_rate":%d,'
            '"seq":%d}')
    began_ms, gauss = int(time.time() * 1000) - 86_400_000, [chance.gauss(0, 1) for _ in range(100_003)]
    for number in range(packets):
        g = lambda step: gauss[number * step % len(gauss)]
        value = text % (began_ms + number // DEVICES * 1000 + 50 * g(3), 72 + 9 * g(7), 120 + 11 * g(11), 76 + 8 * g(13),
                        36.7 + 0.3 * g(17), 97 + g(19), 15 + 2 * g(23), number)
        if noise and chance.random() < noise:
            value, bad = chance.randbytes(len(value)), bad + 1
        size += len(value)
        while True:
            try:
                producer.produce(topic, value, f"device_{number % DEVICES}", on_delivery=told)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1000 == 0:
            producer.poll(0)
    equal((producer.flush(120), failed[:1]), (0, []), "records without an answer, and those refused")
    return bad, size


def peak_mb(process):
    """The most resident memory that a running process has had."""
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return int(found.group(1)) / 1000


@test("kafka", "confluent", "prometheus", slow=True, limit_s=3600)
def backlog_in_little_memory(lab):
    """1 GB of backlog with `--memory 256MB`: the worker's resident memory stays below 400 MB, and all of it is stored."""
    kafka = lab.start_engine("kafka")
    packets = 10_000 if lab.quick else 8_000_000
    _, size = fill(kafka, "backlog", 8, packets)
    lake, port = lab.folder / "lake", lab.free_port()
    argv = ["ingest", "--from", f"kafka://{kafka.bootstrap}/backlog", "--memory", "256MB", "--metrics", f"127.0.0.1:{port}"]
    # Memory says when slices are closed: the window ends only where nothing comes any more.
    worker = lab.start("worker", [lab.program, *argv, "--window", "30", "--lake", lake])
    lab.wait_until(lambda: "metrics on" in worker.text(), "it serves metrics", alive=worker)
    lags, stored, peak, begun = [], 0, 0.0, time.monotonic()
    while stored < packets:
        time.sleep(0.5)
        peak = max(peak, peak_mb(worker))
        found = Scraped(lab, port)
        stored = found.one("readings_total")
        lag = found.by("lag_records", "partition")
        if len(lag) == 8:
            lags.append(sum(lag.values()))
        check(worker.running(), f"the worker goes on: {worker.text()[-1000:]}")
    took = time.monotonic() - begun
    print(f"     {packets} packets, {size / 1e6:.0f} MB, in {took:.1f} s; peak {peak:.0f} MB; lag at first {max(lags):.0f}",
          flush=True)
    lab.end_up(worker)
    equal(lab.count(lake), packets, "readings in the lake")
    equal((lab.quick or max(lags) > 0, lags[-1]), (True, 0), "whether there was a lag, and what is left of it")
    check(peak < 400, f"resident memory stays below 400 MB: {peak:.0f} MB")


@test("kafka", "confluent", slow=True, limit_s=3600)
def bad_records_cost_little(lab):
    """1 % of random bytes among good records: all of them are dead letters; what they cost of the rate is printed."""
    kafka = lab.start_engine("kafka")
    packets = 20_000 if lab.quick else 2_000_000
    bad = {topic: fill(kafka, topic, 8, packets, noise)[0] for topic, noise in (("clean", 0.0), ("spoilt", 0.01))}
    rounds = 1 if lab.quick else 5
    rates = {topic: [] for topic in bad}
    for number in range(rounds):
        for topic in sorted(bad, reverse=bool(number % 2)):
            lake = lab.folder / f"lake-{topic}-{number}"
            cpu, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
            lab.vitals("ingest", "--from", f"kafka://{kafka.bootstrap}/{topic}", "--until-end", "--lake", lake,
                       patience_s=900)
            took, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - cpu.ru_utime - cpu.ru_stime
            rates[topic].append((packets / took, used / packets * 1e6))
            found = lab.count(lake), lab.count(lake, "dead_letters")
            equal(found, (packets - bad[topic], bad[topic]), f"readings and dead letters of `{topic}`")
    middle = lambda topic, of: sorted(run[of] for run in rates[topic])[rounds // 2]
    for topic in sorted(bad):
        print(f"     {topic}: {middle(topic, 0):,.0f} records/s, {middle(topic, 1):.2f} CPU-s per million", flush=True)
    print(f"     spoilt by clean, medians of {rounds} runs: {middle('spoilt', 0) / middle('clean', 0):.3f} of the rate, "
          f"{middle('spoilt', 1) / middle('clean', 1):.3f} of the CPU time", flush=True)
