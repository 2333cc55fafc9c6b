"""The frame itself: that real Kafka and the S3 stand-in do here what the other tests take for granted."""

import collections
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from certificates import Authority
from lab import check, equal, test
from proxy import Proxy
from readings import now_ms

# Kafka's own test vectors of its murmur2 (UtilsTest).
MURMUR2 = {
    "21": -973932308,
    "foobar": -790332482,
    "a-little-bit-long-string": -985981536,
    "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}


@test("kafka", "confluent")
def frame_kafka(lab):
    """A killed Kafka keeps its records, stamps their arrival, places keys as Java does, and deletes what it is to."""
    kafka = lab.start_engine("kafka")
    kafka.create_topic("vitals", 4, {"message.timestamp.type": "LogAppendTime"})
    begun = now_ms()
    records = [(key, f"packet {n}", 1_000) for n in range(100) for key in MURMUR2]
    placed = kafka.produce("vitals", records)
    kafka.brokers[0].kill()
    kafka.brokers[0].restart()

    found = kafka.read("vitals")
    place = lambda message: (message.partition(), message.offset())
    equal({place(m): (m.key().decode(), m.value().decode()) for m in found},
          {where: record[:2] for where, record in zip(placed, records)}, "records by partition and offset")
    for (partition, _), (key, *_) in zip(placed, records):
        equal(partition, (MURMUR2[key] & 0x7FFFFFFF) % 4, f"partition of {key}")
    check(all(begun <= m.timestamp()[1] <= now_ms() for m in found), "Kafka's time replaces the producer's")

    last = collections.Counter(partition for partition, _ in placed)
    partition = placed[0][0]
    kafka.delete_records("vitals", {partition: 3})
    equal(kafka.ends("vitals"), {n: (3 if n == partition else 0, last[n]) for n in range(4)}, "ends of the partitions")
    consumer = kafka.consumer(group="a-group")
    consumer.subscribe(["vitals"])
    arrived = lambda: (message := consumer.poll(1)) and not message.error() and message
    consumer.commit(lab.wait_until(arrived, "a record comes to a group"), asynchronous=False)
    consumer.close()
    check(kafka.committed("a-group"), "the group has committed offsets")
    kafka.delete_group("a-group")
    equal(kafka.committed("a-group"), {}, "offsets of a deleted group")
    kafka.delete_topic("vitals")
    kafka.create_topic("vitals", 1)
    equal(kafka.ends("vitals"), {0: (0, 0)}, "a topic made anew")


@test("kafka", "confluent", slow=True)
def frame_kafka_cluster(lab):
    """Three brokers take records with one away, by certificate and by password, and not from a stranger."""
    kafka = lab.start_engine("kafka", brokers=3, ssl=True, sasl=True)
    kafka.create_topic("vitals", 3)
    equal(set(kafka.leaders("vitals").values()), {1, 2, 3}, "leaders")
    kafka.brokers[0].kill()
    for listener in ("PLAINTEXT", "SSL", "SASL_SSL"):
        kafka.produce("vitals", [(f"{listener} {n}", "packet") for n in range(50)], listener)
    kafka.brokers[0].restart()
    for listener in ("SSL", "SASL_SSL"):
        equal(len(kafka.read("vitals", listener)), 150, f"records read by {listener}")
    stranger = Authority(lab, "stranger").issue("stranger", "client")
    certificate = {"ssl_certificate_location": str(stranger.certificate), "ssl_key_location": str(stranger.key)}
    for listener, changed in (("SASL_SSL", {"sasl_password": "wrong"}), ("SSL", certificate)):
        refused = raises(lambda: kafka.produce("vitals", [("k", "v")], listener, message_timeout_ms=5_000, **changed))
        check("timed out" in refused, f"a stranger at {listener}: {refused!r}")


def raises(action) -> str:
    """What the error says that an action ends with; empty if it ends with none."""
    try:
        action()
    except Exception as error:  # Whatever it is, the test looks at what it says.
        return f"{type(error).__name__}: {error}"
    return ""


@test("moto")
def frame_s3(lab):
    """The S3 stand-in creates an object once, also for many at a time who come through the proxy, and lists all."""
    s3 = lab.start_engine("moto")
    proxy = Proxy(lab, s3.endpoint)
    create = lambda key, body: s3.put(key, body, create=True, endpoint=proxy.endpoint)
    equal((create("a/b c", b"1"), create("a/b c", b"2")), (200, 412), "statuses")
    equal((s3.get("a/b c"), s3.get("a/b c", proxy.endpoint)), (b"1", b"1"), "what is stored")
    equal((s3.put("a/b c", b"3"), s3.get("a/b c"), s3.get("none")), (200, b"3", None), "what is stored over it")

    with ThreadPoolExecutor(16) as threads:
        statuses = list(threads.map(lambda n: create(f"raced/{n // 16}", str(n).encode()), range(320)))
    equal(collections.Counter(statuses), {200: 20, 412: 300}, "statuses of 16 who race for each of 20 objects")
    equal(s3.keys("raced/", page=7), sorted(f"raced/{n}" for n in range(20)), "a listing of more than one page")
    s3.delete("a/b c")
    equal(s3.keys("a"), [], "after deleting")


@test("moto")
def frame_proxy(lab):
    """Each fault of the proxy is what it says: what was not passed on is not there, and what lost its answer is."""
    s3 = lab.start_engine("moto")
    proxy = Proxy(lab, s3.endpoint)
    put = lambda key: s3.put(key, b"12345678", create=True, endpoint=proxy.endpoint)
    for kind, status in (("internal_error", 500), ("slow_down", 503), ("conflict", 409)):
        proxy.add(kind, times=1, method="PUT", path="lake/")
        equal((put(kind), s3.get(kind), put(kind)), (status, None, 200), kind)
    for kind, there in (("drop", None), ("lose_answer", b"12345678")):
        proxy.add(kind, times=1, path=kind)
        check(raises(lambda: put(kind)).startswith("RemoteDisconnected"), f"{kind} ends the connection")
        equal((s3.get(kind), put(kind)), (there, 412 if there else 200), kind)
    proxy.add("cut_answer", times=1, method="GET")
    check(raises(lambda: s3.get("drop", proxy.endpoint)).startswith("IncompleteRead"), "half of an answer")
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        connection.sendall(b"PUT /lake/half HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n1234")
        connection.shutdown(socket.SHUT_WR)
        equal((connection.recv(1), s3.get("half")), (b"", None), "a client that breaks off within an object")
    proxy.add("delay", times=1, seconds=0.5)
    begun = time.monotonic()
    equal(s3.get("drop", proxy.endpoint), b"12345678", "what comes late")
    check(time.monotonic() - begun >= 0.5, "it comes late")
    proxy.down()
    check(raises(lambda: put("down")).startswith("ConnectionRefusedError"), "nothing listens")
    proxy.up()
    proxy.add("conflict")
    equal((put("up"), s3.put("up", b"", endpoint=proxy.endpoint)), (409, 200), "a conflict is for those who create")
    proxy.calm()
    proxy.down(seconds=0.5)
    lab.wait_until(lambda: not raises(lambda: put("again")), "it is up again")
    equal(dict(proxy.counts), {"internal_error": 1, "slow_down": 1, "conflict": 2, "drop": 1, "lose_answer": 1,
                               "cut_answer": 1, "delay": 1, "down": 2, "passed": 8}, "what the proxy counted")


@test("moto")
def frame_proxy_seed(lab):
    """The same seed of the proxy gives the same faults, in the same order."""
    s3 = lab.start_engine("moto")
    runs = []
    for _ in range(2):
        proxy = Proxy(lab, s3.endpoint, seed=3)
        proxy.add("slow_down", chance=0.2)
        proxy.add("internal_error", chance=0.2)
        runs.append([s3.put("x", b"", endpoint=proxy.endpoint) for _ in range(50)])
    equal(runs[0], runs[1], "statuses")
    equal(set(runs[0]), {200, 500, 503}, "kinds of statuses")
