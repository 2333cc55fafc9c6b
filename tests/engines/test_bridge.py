"""Into Kafka: from mosquitto by `vitals bridge`, from devices by `vitals up --brokers`, from the simulator without MQTT."""

import json
import os
import signal
import time

from lab import check, equal, free_port, test
from test_paho import Client, stored
from test_upstream import KEEPING

# Everything is to be kept for a bridge that is away.
QUEUEING = KEEPING + "max_queued_messages 0\nmax_inflight_messages 200\n"


def bridge(lab, port, kafka, more=()):
    """Starts a bridge, and waits until mosquitto has let it in."""
    argv = ["bridge", "--from", f"mqtt://127.0.0.1:{port}", "--to", f"kafka://{kafka.bootstrap}/vitals", *more]
    process = lab.start("vitals-bridge", [lab.program, *argv])
    lab.wait_until(lambda: "passing `iot/device/+`" in process.text(), "the bridge has begun", alive=process)
    return process


def ingest(lab, kafka, topic="vitals", lake=None):
    """What a topic has, in a lake."""
    lake = lake or lab.folder / f"lake-{topic}"
    lab.vitals("ingest", "--from", f"kafka://{kafka.bootstrap}/{topic}", "--until-end", "--lake", lake, patience_s=120)
    return lake


def numbers(lab, lake, device):
    """The packets of a device that the lake has, each once however often it came."""
    return sorted(stored(lab, lake, device))


@test("mosquitto", "paho", "kafka", "confluent", limit_s=400)
def bridge_over_restarts(lab):
    """What mosquitto acknowledged at QoS 1 is in Kafka, over restarts of mosquitto, of the bridge (killed) and of Kafka."""
    each = 100 if lab.quick else 500
    kafka = lab.start_engine("kafka")
    kafka.create_topic("vitals", 4, {"message.timestamp.type": "LogAppendTime"})
    port = free_port()
    broker = lab.start_engine("mosquitto", port, QUEUEING)
    process = bridge(lab, port, kafka)
    subscribed = "Sending SUBACK to vitals-bridge-vitals"
    lab.wait_until(lambda: subscribed in broker.text(), "the bridge has subscribed", alive=process)
    client = Client("ward_1", port, 3, 1).start()
    taken = iter(range(0, 100 * each, each))
    last = 0

    def publish(wait=True):
        nonlocal last
        first = next(taken)
        for seq in range(first, first + each):
            client.publish(seq)
        last = first + each
        if wait:
            lab.wait_until(lambda: len(client.acknowledged) == last, f"mosquitto has taken {last}")

    publish()
    # The bridge, in the middle of the next ones.
    publish(wait=False)
    process.kill()
    lab.wait_until(lambda: len(client.acknowledged) == last, f"mosquitto has taken {last} without the bridge")
    process = bridge(lab, port, kafka)
    publish()
    # Mosquitto, which keeps its sessions on the disk.
    equal(broker.stop(signal.SIGTERM), 0, "exit code of mosquitto")
    lab.wait_until(lambda: "lost mqtt://" in process.text(), "the bridge has noticed", alive=process)
    broker = lab.start_engine("mosquitto", port, QUEUEING)
    publish()
    # Kafka, at once and for long enough that everything that is under way waits.
    kafka.brokers[0].kill()
    publish()
    time.sleep(2)
    check(process.running(), "the bridge waits for Kafka")
    kafka.brokers[0].start()
    kafka.wait()
    publish()
    # And the bridge again, while Kafka is away: what it has is with mosquitto too.
    kafka.brokers[0].kill()
    publish()
    process.kill()
    kafka.brokers[0].start()
    kafka.wait()
    process = bridge(lab, port, kafka)
    publish()
    client.end()
    lake = lab.folder / "lake-vitals"
    all_there = lambda: numbers(lab, ingest(lab, kafka), "ward_1") == list(range(last))
    lab.wait_until(all_there, f"all {last} packets are in the lake", every_s=0.5, alive=process)
    begun = time.monotonic()
    lab.end_up(process)
    check(time.monotonic() - begun < 5, "Ctrl-C ends the bridge within seconds")
    check("passed on" in process.text(), f"the bridge says what it did: {process.text()[-500:]}")
    check(lab.vitals("verify", "--lake", lake).returncode == 0, "the chains are whole")
    keys = {message.key() for message in kafka.read("vitals")}
    equal(keys, {b"ward_1"}, "the records' keys")


@test("mosquitto", "paho", "kafka", "confluent")
def bridge_ends_while_kafka_is_away(lab):
    """Ctrl-C ends a bridge within seconds while Kafka is away, it says so, and the next one passes on what waited."""
    kafka = lab.start_engine("kafka")
    kafka.create_topic("vitals", 1, {"message.timestamp.type": "LogAppendTime"})
    port = free_port()
    lab.start_engine("mosquitto", port, QUEUEING)
    process = bridge(lab, port, kafka)
    client = Client("ward_2", port, 5, 1).start()
    client.publish(0)
    lab.wait_until(lambda: len(kafka.read("vitals")) == 1, "the first packet is in Kafka", alive=process)
    kafka.brokers[0].kill()
    for seq in range(1, 300):
        client.publish(seq)
    lab.wait_until(lambda: len(client.acknowledged) == 300, "mosquitto has taken all")
    client.end()
    begun = time.monotonic()
    equal(process.stop(signal.SIGINT), 1, "exit code")
    check(time.monotonic() - begun < 20, "it ends within seconds")
    check("still with the broker" in process.text(), f"it says what is missing: {process.text()[-500:]}")
    kafka.brokers[0].start()
    kafka.wait()
    process = bridge(lab, port, kafka)
    seqs = lambda: {message.value() for message in kafka.read("vitals")}
    lab.wait_until(lambda: len(seqs()) == 300, "every packet is in Kafka", alive=process, every_s=0.3)
    lab.end_up(process)


@test("kafka", "confluent")
def bridge_without_ends(lab):
    """Where Kafka or the MQTT broker does not answer, `vitals bridge` names it and ends with 1."""
    kafka, port = lab.start_engine("kafka"), free_port()
    argv = ("bridge", "--from", f"mqtt://127.0.0.1:{port}", "--to")
    done = lab.vitals(*argv, f"kafka://{kafka.bootstrap}/made", ok=(1,))
    check(f"mqtt://127.0.0.1:{port}" in done.stderr, f"the broker is named in {done.stderr!r}")
    equal(len(kafka.leaders("made")), 8, "partitions of the topic that was made")
    done = lab.vitals(*argv, f"kafka://127.0.0.1:{port}/vitals", ok=(1,))
    check(f"127.0.0.1:{port}" in done.stderr, f"Kafka is named in {done.stderr!r}")


@test("kafka", "confluent")
def simulate_into_kafka(lab):
    """What `simulate --to kafka://…` was promised is in the lake; its account says so."""
    kafka, sent = lab.start_engine("kafka"), lab.folder / "sent.ndjson"
    devices, duration = (50, "1h") if lab.quick else (200, "6h")
    to = ("--to", f"kafka://{kafka.bootstrap}/vitals")
    fleet = ("--devices", devices, "--duration", duration, "--speed", "max", "--batch", 1)
    summary = lab.json("simulate", *to, *fleet, "--sent", sent, "--labels", lab.folder / "labels.ndjson")
    equal(summary["acknowledged"], summary["published"], "packets acknowledged")
    equal((summary["gave_up"], summary["unacknowledged"]), (0, 0), "packets left")
    lake = ingest(lab, kafka)
    equal(lab.count(lake), summary["readings"], "readings in the lake")
    verified = lab.json("verify", "--lake", lake, "--sent", sent)
    check(verified["kept"], f"every promise was kept: {verified}")
    keys = {message.key().decode() for message in kafka.read("vitals")}
    equal(keys, {f"device_{n + 1}" for n in range(devices)}, "the records' keys")


@test("kafka", "confluent")
def simulate_while_kafka_is_away(lab):
    """Where Kafka goes away, `simulate` waits; where it stays away, it gives up and says so; Ctrl-C ends it in seconds."""
    kafka = lab.start_engine("kafka")
    kafka.create_topic("vitals", 4, {"message.timestamp.type": "LogAppendTime"})
    argv = [lab.program, "simulate", "--to", f"kafka://{kafka.bootstrap}/vitals", "--interval", "1", "--devices", "50"]
    begun = lambda process: lab.wait_until(lambda: sum(e for _, e in kafka.ends("vitals").values()) > 50, "packets come",
                                           alive=process)
    sent = lab.folder / "sent.ndjson"
    waits = lab.start("simulate", [*argv, "--duration", "12", "--sent", sent], own_output=True)
    begun(waits)
    kafka.brokers[0].kill()
    time.sleep(3)
    kafka.brokers[0].start()
    kafka.wait()
    equal(waits.ended(), 0, "exit code of the one that waits")
    lab.vitals("verify", "--lake", ingest(lab, kafka), "--sent", sent)

    gives_up = lab.start("simulate", [*argv, "--duration", "60", "--kafka-set", "message.timeout.ms=3000"])
    ends = lab.start("simulate", [*argv, "--duration", "60"])
    time.sleep(2)
    kafka.brokers[0].kill()
    equal(gives_up.ended(30), 1, "exit code of the one that gives up")
    check("1 connections gave up" in gives_up.text(), f"it says so: {gives_up.text()[-500:]}")
    begun = time.monotonic()
    equal(ends.stop(signal.SIGINT), 130, "exit code after Ctrl-C")
    check(time.monotonic() - begun < 8, "Ctrl-C ends it within seconds")


def through_kafka(lab, kafka, lake, port=0):
    """Starts `vitals up` through Kafka."""
    quick = ["--kafka-set", "session.timeout.ms=6000"]
    return lab.up(lake, port, more=["--brokers", kafka.bootstrap, "--train-every", "never", *quick])


@test("kafka", "confluent")
def up_through_kafka(lab):
    """`vitals up --brokers`: what devices were promised is in Kafka, in the lake, and scored."""
    kafka, lake, sent = lab.start_engine("kafka"), lab.folder / "lake", lab.folder / "sent.ndjson"
    server = through_kafka(lab, kafka, lake)
    broker = ("--broker", f"127.0.0.1:{server.port}")
    devices, seconds = (50, 4) if lab.quick else (200, 10)
    summary = lab.json("simulate", *broker, "--devices", devices, "--duration", seconds, "--sent", sent)
    equal(summary["acknowledged"], summary["published"], "packets acknowledged")
    # At once, so that some of it is on its way still.
    begun = time.monotonic()
    lab.end_up(server)
    check(time.monotonic() - begun < 15, "Ctrl-C ends it within seconds")
    text = server.text()
    check(f"stored {summary['readings']} readings" in text and "scored " in text, f"it says what it did: {text[-800:]}")
    equal(lab.count(lake), summary["readings"], "readings in the lake")
    equal(len(kafka.read("vitals")), summary["published"], "records in Kafka")
    check(lab.json("verify", "--lake", lake, "--sent", sent)["kept"], "every promise was kept")
    check(not (lake / "spool").exists(), "there is no spool")


@test("kafka", "confluent")
def up_through_kafka_is_killed(lab):
    """`vitals up --brokers`, killed while devices send: the next one stores every packet that was acknowledged, once."""
    kafka, lake, sent = lab.start_engine("kafka"), lab.folder / "lake", lab.folder / "sent.ndjson"
    server = through_kafka(lab, kafka, lake)
    argv = ["simulate", "--broker", f"127.0.0.1:{server.port}", "--devices", "50", "--duration", "14", "--sent", sent]
    simulate = lab.start("simulate", [lab.program, *argv, "--output", "json"], own_output=True)
    lab.wait_until(lambda: lab.count(lake) > 0, "something is in the lake", alive=server)
    server.kill()
    server = through_kafka(lab, kafka, lake, server.port)
    equal(simulate.ended(), 0, "exit code of the simulator: everything was acknowledged in the end")
    readings = json.loads(simulate.out.read_text())["readings"]
    # The group waits for the one that was killed until its session is over.
    lab.wait_until(lambda: lab.count(lake) >= readings, "everything is in the lake", alive=server, every_s=0.5)
    lab.end_up(server)
    check(lab.json("verify", "--lake", lake, "--sent", sent)["kept"], "every promise was kept over a kill")


@test("kafka", "confluent", "paho")
def up_while_kafka_is_away(lab):
    """While Kafka is away `vitals up --brokers` acknowledges nothing, and everything when it is back."""
    kafka, lake = lab.start_engine("kafka"), lab.folder / "lake"
    server = through_kafka(lab, kafka, lake)
    client = Client("ward_3", server.port, 5, 1).start()
    client.publish(0)
    lab.wait_until(lambda: len(client.acknowledged) == 1, "the first packet is acknowledged", alive=server)
    kafka.brokers[0].kill()
    for seq in range(1, 200):
        client.publish(seq)
    time.sleep(3)
    equal(len(client.acknowledged), 1, "packets acknowledged while Kafka is away")
    kafka.brokers[0].start()
    kafka.wait()
    lab.wait_until(lambda: len(client.acknowledged) == 200, "everything is acknowledged", alive=server)
    client.end()
    lab.wait_until(lambda: numbers(lab, lake, "ward_3") == list(range(200)), "all of it is in the lake", alive=server)
    second = lab.vitals("up", "--brokers", kafka.bootstrap, "--broker", f"127.0.0.1:{free_port()}", "--lake", lake, ok=(1,))
    check("process" in second.stderr, f"a second one is told of the first: {second.stderr!r}")
    # Kafka is away for good: it ends all the same.
    kafka.brokers[0].kill()
    begun = time.monotonic()
    server.stop(signal.SIGINT)
    check(time.monotonic() - begun < 30, "it ends while Kafka is away")


@test("kafka", "confluent")
def up_through_kafka_by_settings(lab):
    """`vitals.toml` and the environment can say that `vitals up` goes through Kafka; VITALS_BROKER leaves `--to` alone."""
    kafka, file = lab.start_engine("kafka"), lab.folder / "vitals.toml"
    file.write_text(f'[up]\nbrokers = "{kafka.bootstrap}"\n')
    ways = (["--config", file], {}), ([], {"VITALS_KAFKA_BROKERS": kafka.bootstrap})
    for number, (more, env) in enumerate(ways):
        argv = [lab.program, *more, "up", "--broker", "127.0.0.1:0", "--listen", "off", "--train-every", "never",
                "--kafka-topic", f"way-{number}", "--lake", lab.folder / f"lake-{number}"]
        server = lab.start("vitals-up", argv, env={**os.environ, **env})
        through = f"through kafka://{kafka.bootstrap}/way-{number}"
        lab.wait_until(lambda: through in server.text(), "it says where it goes through", alive=server)
        lab.end_up(server)
    argv = ["simulate", "--to", f"kafka://{kafka.bootstrap}/way-0", "--devices", 2, "--duration", "10m", "--speed", "max"]
    lab.run([lab.program, *argv], env={**os.environ, "VITALS_BROKER": f"127.0.0.1:{free_port()}"})
    check(len(kafka.read("way-0")) >= 2, "what is simulated is in the topic")
