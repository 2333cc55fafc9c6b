"""Workers of `vitals ingest` on Kafka: how they share a topic, come and go, and wait, what bad records do, and metrics."""

import json
import random
import signal
import time
import urllib.error
import urllib.request

from lab import check, equal, test
from proxy import Proxy
from readings import BAD, packet
from test_kafka import SESSION_S, STAMPED, Topic, says
from test_s3 import Lake

# What is promised of SIGTERM.
GOODBYE_S = 10


def terminate(process, how=signal.SIGTERM, code=0):
    """Asks a worker to end: it has to do so, and within seconds."""
    begun = time.monotonic()
    process.child.send_signal(how)
    equal(process.ended(), code, f"exit code after {how.name}: {process.text()[-1000:]}")
    took = time.monotonic() - begun
    check(took <= GOODBYE_S, f"{process.name} ends within {GOODBYE_S} s of {how.name}: {took:.1f} s")


def members(kafka, group):
    """The partitions of each member of a group."""
    from kafka import done
    from confluent_kafka import KafkaException
    try:
        described = done(kafka.admin.describe_consumer_groups([group]))[0]
    except KafkaException:
        # A group has no coordinator before its first member is there.
        return {}
    found = {member.member_id: {place.partition for place in member.assignment.topic_partitions}
             for member in described.members}
    return dict(sorted(found.items()))


def gone(kafka, group: str) -> bool:
    """Whether a group could be deleted, which takes one that nobody is in."""
    from confluent_kafka import KafkaException

    try:
        kafka.delete_group(group)
    except KafkaException as error:
        check("NON_EMPTY_GROUP" in str(error), str(error))
        return False
    return True


@test("kafka", "confluent")
def workers_share_a_topic(lab):
    """Workers share partitions; one that ends stores what it has, another takes over, and nothing hangs on the offsets."""
    kafka = lab.start_engine("kafka")
    topic = Topic(lab, kafka, "shared", 4)
    sent = lab.folder / "sent.ndjson"
    argv = ["simulate", "--to", f"kafka://{kafka.bootstrap}/shared", "--devices", "40", "--interval", "1", "--batch", "1"]
    seconds = 15 if lab.quick else 40
    fleet = lab.start("simulate", [lab.program, *argv, "--duration", seconds, "--sent", sent])
    # Windows that don't end by themselves: what is stored then is stored because a slice had to be closed.
    first, second = topic.worker("--window", "1h"), topic.worker("--window", "1h")
    shared = lambda: sorted(len(places) for places in members(kafka, "shared").values()) == [2, 2]
    lab.wait_until(shared, "each of two workers has two partitions", every_s=0.3, alive=first)
    lab.wait_until(lambda: kafka_has(kafka, 200), "records in the topic", every_s=0.3, alive=fleet)
    terminate(first)
    check(lab.count(topic.lake) > 0, "the one that ended has stored what it had")
    lab.wait_until(lambda: [len(p) for p in members(kafka, "shared").values()] == [4], "the other has all partitions",
                   every_s=0.3, alive=second)
    third = topic.worker("--window", "1h")
    lab.wait_until(shared, "the one that came has two partitions", every_s=0.3, alive=third)
    equal(fleet.ended(120), 0, f"exit code of the fleet: {fleet.text()[-500:]}")
    terminate(second)
    terminate(third, signal.SIGINT)
    committed = {place[1]: offset for place, offset in kafka.committed("shared").items()}
    check(any(offset > 0 for offset in committed.values()), f"offsets are committed for who watches the lag: {committed}")

    # Who ends has left the group: whoever comes next need not wait until a session is over.
    equal(members(kafka, "shared"), {}, "members of the group after the last worker has ended")
    check(gone(kafka, "shared"), "the group is empty and deleted")
    equal(set(kafka.committed("shared").values()) - {-1001}, set(), "offsets of the group after it was deleted")
    topic.ingest()
    found = lab.json("verify", "--lake", topic.lake, "--sent", sent)
    check(found["kept"], f"every promise was kept: {json.dumps(found)[:1500]}")
    readings = sum(1 for _ in open(sent, encoding="utf-8"))
    equal(lab.count(topic.lake), readings, "readings, each once")


def kafka_has(kafka, count, topic="shared"):
    return sum(end for _, end in kafka.ends(topic).values()) >= count


@test("kafka", "confluent")
def worker_ends_while_kafka_hangs(lab):
    """SIGTERM ends a worker within 10 s while all brokers hang, and nothing is lost: it waits neither for their goodbye, nor
    for ever to hear whether the topic is still the one that it read."""
    kafka = lab.start_engine("kafka", brokers=3)
    topic = Topic(lab, kafka, "hanging", 6)
    topic.send(100)
    worker = topic.worker("--window", "1h")
    lab.wait_until(lambda: [len(p) for p in members(kafka, "hanging").values()] == [6], "the worker has all partitions",
                   every_s=0.3, alive=worker)
    time.sleep(1)
    for broker in kafka.brokers:
        broker.pause()
    # What nobody says is still of this topic is not stored; the log has it.
    terminate(worker, code=1)
    says(worker.text(), "could not be stored", "the log still has the rest")
    for broker in kafka.brokers:
        broker.resume()
    topic.send(20)
    topic.ingest()
    topic.holds(range(120))


@test("kafka", "confluent", "moto")
def worker_while_the_store_is_away(lab):
    """While its store is away a worker says so and keeps its place in the group; then it goes on where it was."""
    kafka, s3 = lab.start_engine("kafka"), lab.start_engine("moto")
    proxy = Proxy(lab, s3.endpoint)
    topic = Topic(lab, kafka, "patient", 2)
    there = Lake(lab, f"{s3.url}/lake", s3.env_at(proxy.endpoint))
    argv = ["ingest", "--from", f"kafka://{kafka.bootstrap}/patient", "--group", "patient", "--window", "1"]
    session = ["--kafka-set", f"session.timeout.ms={SESSION_S * 1000}", "--kafka-set", "heartbeat.interval.ms=1000"]
    worker = lab.start("worker", [lab.program, *argv, *session, "--lake", there.place], env=there.env)
    count = lambda: there.sql("SELECT count(*) AS n FROM readings")[0]["n"] if stored() else 0
    stored = lambda: any(key.endswith(".parquet") for key in s3.keys("lake/landing"))
    topic.send(50)
    lab.wait_until(lambda: count() == 50, "the first are stored", every_s=0.3, alive=worker)
    before = members(kafka, "patient")
    proxy.down()
    topic.send(50)
    # Longer than a session: who does nothing but wait for the store would lose its place.
    away_s = SESSION_S + 3 if lab.quick else 20
    begun = time.monotonic()
    lab.wait_until(lambda: "the store has not answered for" in worker.text(), "it says that the store is away", alive=worker)
    while time.monotonic() - begun < away_s:
        equal(members(kafka, "patient"), before, "who has which partitions while the store is away")
        topic.send(1)
        time.sleep(0.5)
    proxy.up()
    lab.wait_until(lambda: count() == topic.sent, "everything is stored", every_s=0.5, alive=worker)
    equal(members(kafka, "patient"), before, "who has which partitions after it")
    terminate(worker)
    equal([row["seq"] for row in there.sql("SELECT seq FROM readings ORDER BY seq")], list(range(topic.sent)), "readings")
    equal(there.json("verify")["kept"], True, "every promise was kept")


@test("kafka", "confluent")
def bad_records(lab):
    """`--on-bad fail` stops before a bad record and names it, `keep` goes on; random bytes are dead letters, all of them."""
    kafka = lab.start_engine("kafka")
    topic = Topic(lab, kafka, "spoilt")
    topic.send(30)
    kafka.produce("spoilt", [("bed_1", b"\xff\x00")])
    topic.send(10)
    for _ in range(2):
        said = topic.ingest("--on-bad", "fail", ok=(1,)).stderr
        says(said, "record 30 of partition 0 can't be read", "--on-bad keep")
        topic.holds(range(30))
    topic.ingest("--on-bad", "keep")
    topic.holds(range(40))
    dead = lab.query(topic.lake, 'SELECT "partition", "offset", reason FROM dead_letters')
    equal(dead, [{"partition": 0, "offset": 30, "reason": "not_utf8"}], "dead letters")

    noisy, chance = Topic(lab, kafka, "noisy", 4), random.Random(11)
    records, noise = [], {}
    for seq in range(5_000 if lab.quick else 100_000):
        if chance.random() < 0.01:
            noise[seq] = chance.randbytes(chance.randrange(400))
        # The key is the device's; who can write to the topic can write anything beside it.
        records.append((f"bed_{seq % 50}", noise.get(seq) if seq in noise else packet(seq)))
    places = kafka.produce("noisy", records)
    noisy.ingest()
    noisy.holds([seq for seq in range(len(records)) if seq not in noise])
    dead = lab.query(noisy.lake, 'SELECT "partition", "offset" FROM dead_letters')
    equal(sorted((row["partition"], row["offset"]) for row in dead), sorted(places[seq] for seq in noise), "dead letters")
    equal(noisy.verified()["kept"], True, "every promise was kept")


class Scraped:
    """The metrics of a worker, as Prometheus's own parser reads them."""

    def __init__(self, lab, port):
        lab.engine("prometheus")
        from prometheus_client.parser import text_string_to_metric_families
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            self.kind, self.text = answer.headers["Content-Type"], answer.read().decode()
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def by(self, name, label):
        """The values of a metric by one of its labels."""
        return {sample.labels[label]: sample.value for sample in self.samples if sample.name == f"vitals_ingest_{name}"}

    def one(self, name):
        found = [sample.value for sample in self.samples if sample.name == f"vitals_ingest_{name}"]
        equal(len(found), 1, f"values of {name}")
        return found[0]


@test("kafka", "confluent", "prometheus")
def worker_metrics(lab):
    """`--metrics` serves what Prometheus reads: counts that are right, a lag that goes to none; only to this machine."""
    kafka = lab.start_engine("kafka")
    topic = Topic(lab, kafka, "metered", 3)
    topic.send(200)
    kafka.produce("metered", [("bed_1", payload) for payload, _ in BAD])
    port = lab.free_port()
    worker = topic.worker("--window", "2", "--metrics", f"127.0.0.1:{port}")
    says(worker.text(), f"metrics on http://127.0.0.1:{port}/metrics")
    scrape = lambda: Scraped(lab, port)
    lab.wait_until(lambda: scrape().one("readings_total") == 200, "it has stored all readings", every_s=0.3, alive=worker)
    found = scrape()
    equal(found.kind, "text/plain; version=0.0.4; charset=utf-8", "Content-Type")
    undescribed = [name for name, family in found.families.items() if family.type == "unknown" or not family.documentation]
    equal(undescribed, [], "metrics without a type or a description")
    check(all(family.type != "counter" or sample.name.endswith("_total") for family in found.families.values()
              for sample in family.samples), "counters are named so")
    reasons = found.by("dead_letters_total", "reason")
    equal({reason: n for reason, n in reasons.items() if n}, {reason: 1 for _, reason in BAD}, "dead letters by reason")
    buckets = [sample.value for sample in found.samples if sample.name.endswith("put_seconds_bucket")]
    equal(buckets, sorted(buckets), "counts of a histogram's buckets")
    equal(buckets[-1], found.one("put_seconds_count"), "all that was written")
    check(found.one("files_total") >= 3 and found.one("rebalances_total") >= 1, f"files and rebalances in {found.text}")
    equal(found.one("partitions"), 3, "partitions")
    lag = lambda: scrape().by("lag_records", "partition")
    lab.wait_until(lambda: lag() == {"0": 0, "1": 0, "2": 0}, "no partition lags", every_s=0.5, alive=worker)
    # Ends are asked for every 10 s: who hangs until then finds records that it has not read.
    worker.child.send_signal(signal.SIGSTOP)
    topic.send(300)
    time.sleep(1)
    worker.child.send_signal(signal.SIGCONT)
    lab.wait_until(lambda: scrape().one("readings_total") == 500, "it has stored what came since", every_s=0.3, alive=worker)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
        equal((answer.status, answer.read()), (200, b"ok\n"), "health")
    for path, method, status in (("/", "GET", 404), ("/metrics", "POST", 405)):
        try:
            urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method), timeout=10)
            check(False, f"{method} {path} is answered")
        except urllib.error.HTTPError as error:
            equal(error.code, status, f"answer to {method} {path}")
    taken = lab.vitals(*topic.arguments, "--metrics", f"127.0.0.1:{port}", ok=(2,)).stderr
    says(taken, f"can't serve metrics on 127.0.0.1:{port}")
    for address in (f"0.0.0.0:{lab.free_port()}", "192.0.2.1:9464"):
        said = lab.vitals(*topic.arguments, "--metrics", address, ok=(2,)).stderr
        says(said, f"can't serve metrics on {address}", "open to others")
    terminate(worker)
