"""A topic of Kafka as `vitals ingest` finds it: made anew, with records gone, with others' times, without keys, not there."""

import datetime
import signal
import time

from lab import check, equal, test
from readings import now_ms, packet

STAMPED = {"message.timestamp.type": "LogAppendTime"}
# Who is gone is missed after 6 s, not 45.
SESSION_S = 6
SHORT_SESSION = ("--kafka-set", f"session.timeout.ms={SESSION_S * 1000}", "--kafka-set", "heartbeat.interval.ms=1000")


class Topic:
    """A topic, the group and the lake named after it, and what is sent into it: readings that are numbered on."""

    def __init__(self, lab, kafka, name, partitions=1, config=None):
        self.lab, self.kafka, self.name, self.sent = lab, kafka, name, 0
        self.lake = lab.folder / f"lake-{name}"
        kafka.create_topic(name, partitions, STAMPED if config is None else config)

    @property
    def arguments(self):
        return ["ingest", "--from", f"kafka://{self.kafka.bootstrap}/{self.name}", "--group", self.name, "--lake", self.lake]

    def send(self, count, keyed=True):
        """So many readings more, of 20 devices; where records have no key, packets say whose they are."""
        records = []
        for seq in range(self.sent, self.sent + count):
            device = f"bed_{seq % 20}"
            records.append((device, packet(seq)) if keyed else (None, packet(seq, device_id=device)))
        self.sent += count
        return self.kafka.produce(self.name, records)

    def ingest(self, *more, ok=(0,)):
        """Stores what there is."""
        return self.lab.vitals(*self.arguments, "--until-end", *more, ok=ok)

    def worker(self, *more):
        """Starts a worker, and waits until it has joined its group."""
        argv = [self.lab.program, *self.arguments, *SHORT_SESSION, *more]
        process = self.lab.start("worker", argv)
        self.lab.wait_until(lambda: "as a worker of" in process.text(), "the worker has begun", alive=process)
        return process

    def seqs(self):
        """The numbers of the readings that the lake has."""
        if not any((self.lake / "landing").rglob("*.parquet")):
            return []
        return [row["seq"] for row in self.lab.query(self.lake, "SELECT seq FROM readings ORDER BY seq")]

    def holds(self, *ranges):
        """Fails unless the lake has exactly the readings with these numbers, each once."""
        equal(self.seqs(), [seq for numbers in ranges for seq in numbers], f"numbers of the readings of `{self.name}`")

    def verified(self):
        """What `vitals verify` finds; a broken promise fails."""
        return self.lab.json("verify", "--lake", self.lake)


def says(text, *words):
    """Fails where something is not said."""
    for word in words:
        check(word in text, f"`{word}` is said in {text[-2000:]!r}")


@test("kafka", "confluent")
def topic_made_anew(lab):
    """A topic that was deleted and made anew is not taken for the one that the lake has, however long it is; a new chain takes it."""
    kafka = lab.start_engine("kafka")
    topic = Topic(lab, kafka, "anew", 2)
    topic.send(40)
    topic.ingest()
    kafka.delete_topic("anew")
    kafka.create_topic("anew", 2, STAMPED)
    # Shorter than what the lake holds, and longer.
    for count in (10, 100):
        topic.send(count)
        says(topic.ingest(ok=(1,)).stderr, "`kafka-anew` partition", "deleted and made anew", "--chain")
        topic.holds(range(40))
    topic.ingest("--chain", "anew-2")
    topic.holds(range(150))
    says(topic.ingest(ok=(1,)).stderr, "deleted and made anew")
    equal(topic.verified()["kept"], True, "every promise was kept")


@test("kafka", "confluent")
def topic_made_anew_while_a_worker_hangs(lab):
    """A worker that hangs while its topic is deleted, made anew and filled stores nothing of the new one under old offsets."""
    kafka = lab.start_engine("kafka")
    topic = Topic(lab, kafka, "beneath")
    topic.send(60)
    # Nobody takes its partition away meanwhile, which would have it look anew.
    worker = topic.worker("--window", "1", "--kafka-set", "session.timeout.ms=45000")
    lab.wait_until_stored(topic.lake, 60)
    worker.child.send_signal(signal.SIGSTOP)
    kafka.delete_topic("beneath")
    kafka.create_topic("beneath", 1, STAMPED)
    topic.send(100)
    worker.child.send_signal(signal.SIGCONT)
    equal(worker.ended(), 1, f"exit code of the worker: {worker.text()[-1000:]}")
    says(worker.text(), "`kafka-beneath` partition 0", "made anew", "--chain")
    topic.holds(range(60))
    topic.ingest("--chain", "beneath-2")
    topic.holds(range(160))


@test("kafka", "confluent")
def topic_goes_while_it_is_read(lab):
    """A worker whose topic is deleted says so and ends; the lake keeps what it has."""
    kafka = lab.start_engine("kafka")
    topic = Topic(lab, kafka, "gone", 2)
    topic.send(40)
    # How long a topic that brokers don't know may be one that they don't know yet.
    worker = topic.worker("--window", "1", "--kafka-set", "topic.metadata.propagation.max.ms=3000")
    lab.wait_until_stored(topic.lake, 40)
    kafka.delete_topic("gone")
    equal(worker.ended(), 1, f"exit code of the worker: {worker.text()[-1000:]}")
    says(worker.text(), "topic `gone` is gone", "stored 40 readings")
    topic.holds(range(40))


@test("kafka", "confluent")
def records_gone_before_they_were_read(lab):
    """What retention took before it was read is told and noted in the lake as a gap, and nothing else is missing."""
    kafka = lab.start_engine("kafka")
    topic = Topic(lab, kafka, "short")
    topic.send(100)
    topic.ingest()
    topic.send(50)
    kafka.delete_records("short", {0: 120})
    said = topic.ingest().stderr
    says(said, "no longer has these records", "first=100", "next=120")
    topic.holds(range(100), range(120, 150))
    # A topic that begins late has lost nothing that anybody was promised.
    late = Topic(lab, kafka, "late")
    late.send(30)
    kafka.delete_records("late", {0: 10})
    check("no longer has" not in late.ingest().stderr, "nothing is said of records before the first one")
    late.holds(range(10, 30))

    # The same under a worker's hands.
    worker = topic.worker("--window", "1")
    topic.send(10)
    lab.wait_until_stored(topic.lake, 140)
    worker.child.send_signal(signal.SIGSTOP)
    topic.send(60)
    kafka.delete_records("short", {0: 200})
    worker.child.send_signal(signal.SIGCONT)
    lab.wait_until(lambda: topic.sent - 1 in topic.seqs(), "what comes after the gap is stored", alive=worker)
    lab.end_up(worker)
    says(worker.text(), "retention has taken records", "first=160", "next=200")
    topic.holds(range(100), range(120, 160), range(200, 220))
    for lake, lost in ((topic, 60), (late, 0)):
        found = lake.verified()
        equal((found["kept"], found["chains"]["gap"]["count"]), (True, lost), f"kept, and gaps of `{lake.name}`")
    says(lab.vitals("verify", "--lake", topic.lake).stdout, "log records gone before they could be read", "from 100 to 120")
    page = lab.folder / "report.html"
    lab.vitals("report", "--lake", topic.lake, "--out", page)
    says(page.read_text(), '"gap_records":60')


@test("kafka", "confluent")
def topic_with_producers_times(lab):
    """A topic with its producers' times is refused, with what to do; `--accept-create-time` takes them, if not ahead."""
    kafka = lab.start_engine("kafka")
    topic = Topic(lab, kafka, "created", 1, {"message.timestamp.type": "CreateTime"})
    minute, begun = 60_000, now_ms()
    # The third comes later than its time says; the second comes after the first, whatever its time says.
    times = [begun - 60 * minute, begun - 90 * minute, begun + 30 * minute]
    kafka.produce("created", [("bed_1", packet(seq), at) for seq, at in enumerate(times)])
    topic.sent = 3
    refused = topic.ingest(ok=(1,)).stderr
    says(refused, "CreateTime", "message.timestamp.type=LogAppendTime", "--accept-create-time")
    topic.holds()
    topic.ingest("--accept-create-time")
    rows = lab.query(topic.lake, "SELECT arrived_at FROM readings ORDER BY seq")
    arrived = [datetime.datetime.fromisoformat(row["arrived_at"].replace("Z", "+00:00")).timestamp() for row in rows]
    equal([round(at * 1000) for at in arrived[:2]], [times[0]] * 2, "arrival of the first two")
    check(begun - 1 <= arrived[2] * 1000 <= now_ms(), f"the third arrived when it came: {arrived[2] * 1000 - begun:.0f} ms")

    # As the hint has it; and back under a worker's hands, who can't ask again at each record but sees it there.
    set_stamped(kafka, "created", "LogAppendTime")
    worker = topic.worker("--window", "1")
    topic.send(5)
    lab.wait_until_stored(topic.lake, 8)
    set_stamped(kafka, "created", "CreateTime")
    topic.send(5)
    equal(worker.ended(), 1, "exit code of a worker whose topic takes to producers' times")
    says(worker.text(), "--accept-create-time")
    topic.holds(range(8))
    equal(topic.verified()["kept"], True, "every promise was kept")


def set_stamped(kafka, topic, by):
    """Changes whose clock stamps a topic's records."""
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
    from kafka import done
    entry = ConfigEntry("message.timestamp.type", by, incremental_operation=AlterConfigOpType.SET)
    done(kafka.admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])]))


@test("kafka", "confluent")
def order_that_is_not_known(lab):
    """Records without a key, and those after partitions were added, are stored; scoring stops there and says what helps."""
    kafka = lab.start_engine("kafka")
    keyless, grown, single = Topic(lab, kafka, "keyless", 2), Topic(lab, kafka, "grown", 2), Topic(lab, kafka, "single")
    keyless.send(60, keyed=False)
    says(keyless.ingest("--score", ok=(1,)).stderr, "have no key", "hint: key records by device", "vitals compact")
    keyless.holds(range(60))
    # Of one partition the order is known.
    single.send(60, keyed=False)
    says(single.ingest("--score").stderr, "scored 60 readings")
    grown.send(60)
    says(grown.ingest("--score").stderr, "scored 60 readings")
    kafka.add_partitions("grown", 6)
    grown.send(60)
    said = grown.ingest("--score", ok=(1,)).stderr
    says(said, "`kafka-grown` had 2 partitions and has 6", "stored 60 readings", "vitals score --again")
    grown.holds(range(120))
    # What the hints say helps.
    for topic, again in ((keyless, ()), (grown, ("--again",))):
        says(lab.vitals("compact", "--now", "--lake", topic.lake).stderr, "warning", "closed")
        says(lab.vitals("score", *again, "--lake", topic.lake).stderr, f"{topic.sent} readings scored")
        topic.send(40)
        says(topic.ingest("--score").stderr, "scored 40 readings")
        topic.holds(range(topic.sent))


@test("kafka", "confluent")
def topic_that_is_not_there(lab):
    """A topic that is not there is made, with the partitions asked for, so that brokers stamp arrival."""
    kafka = lab.start_engine("kafka")
    argv = ["ingest", "--lake", lab.folder / "lake", "--until-end", "--from"]
    lab.vitals(*argv, f"kafka://{kafka.bootstrap}/made", "--kafka-partitions", 3)
    equal(sorted(kafka.leaders("made")), [0, 1, 2], "partitions of the topic that was made")
    from confluent_kafka.admin import ConfigResource, ResourceType
    from kafka import done
    described = done(kafka.admin.describe_configs([ConfigResource(ResourceType.TOPIC, "made")]))[0]
    equal(described["message.timestamp.type"].value, "LogAppendTime", "who stamps the records of the topic that was made")
    said = lab.vitals(*argv, f"kafka://{kafka.bootstrap}/more", "--kafka-replication", 3, ok=(1,)).stderr
    says(said, "too few brokers", "--kafka-replication")
    equal(kafka.leaders("more"), {}, "partitions of a topic that can't be made")
    begun = time.monotonic()
    said = lab.vitals(*argv, f"kafka://127.0.0.1:{lab.free_port()}/made", ok=(1,)).stderr
    says(said, "can't reach Kafka at 127.0.0.1")
    check(time.monotonic() - begun < 30, "where nobody answers, that is said within seconds")
