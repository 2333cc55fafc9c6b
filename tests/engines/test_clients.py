"""The clients of mosquitto against the broker of `vitals up`."""

import itertools
from collections import Counter

from lab import PATIENCE_S, check, equal, test
from readings import BAD, packet

VERSIONS = ("mqttv311", "mqttv5")


def publish(lab, port, topic, lines, qos, version):
    """Publishes lines with `mosquitto_pub`, a packet each."""
    pub = lab.engine("mosquitto_clients")["pub"]
    argv = [pub, "-h", "127.0.0.1", "-p", port, "-V", version, "-q", qos, "-t", topic, "-l"]
    lab.run(argv, input="".join(line + "\n" for line in lines))


def subscribe(lab, port, topic, version="mqttv5"):
    """A running `mosquitto_sub` that has subscribed; copies are lines that begin with COPY."""
    sub = lab.engine("mosquitto_clients")["sub"]
    # To a file it would write only when its buffer is full.
    argv = ["stdbuf", "-oL", sub, "-d", "-h", "127.0.0.1", "-p", port, "-V", version, "-t", topic, "-F", "COPY %t %p"]
    subscriber = lab.start("mosquitto_sub", argv)
    lab.wait_until(lambda: "Subscribed" in subscriber.text(), "mosquitto_sub has subscribed", alive=subscriber)
    return subscriber


def copies(subscriber):
    return [line[len("COPY "):] for line in subscriber.text().splitlines() if line.startswith("COPY ")]


@test("mosquitto_clients")
def mosquitto_pub(lab):
    """What mosquitto_pub sends at QoS 0, 1 and 2, with MQTT 3.1.1 and 5, is in the lake once, good or bad."""
    server = lab.up()
    each = 50
    ways = list(itertools.product(VERSIONS, (0, 1, 2)))
    for version, qos in ways:
        device = f"{version}_qos{qos}"
        good = [packet(seq) for seq in range(each)]
        publish(lab, server.port, f"iot/device/{device}", good + [line for line, _ in BAD], qos, version)
    lab.wait_until_stored(server.lake, len(ways) * each)
    lab.wait_until_stored(server.lake, len(ways) * len(BAD), "dead_letters")
    lab.end_up(server)

    rows = lab.query(server.lake, "SELECT device_id, count(*) AS n, count(DISTINCT seq) AS seqs, "
                     "min(heart_rate) AS hr, min(systolic) AS sys, min(diastolic) AS dia, min(temperature) AS temp, min(spo2) AS spo2, "
                     "min(respiratory_rate) AS rr FROM readings GROUP BY device_id ORDER BY device_id")
    values = {"n": each, "seqs": each, "hr": 72, "sys": 118, "dia": 76, "temp": 36.7, "spo2": 97, "rr": 15}
    expected = [{"device_id": f"{version}_qos{qos}", **values} for version, qos in ways]
    for row in rows:
        # Stored in single precision.
        row["temp"] = round(row["temp"], 3)
    equal(rows, expected, "devices and what they sent")
    rows = lab.query(server.lake, "SELECT device_id, reason FROM dead_letters")
    found = Counter((row["device_id"], row["reason"]) for row in rows)
    expected = Counter((f"{version}_qos{qos}", reason) for version, qos in ways for _, reason in BAD)
    equal(found, expected, "dead letters")


@test("mosquitto_clients")
def aws_rule_topic(lab):
    """A device behind `$aws/rules/<rule>/` is the device, and a topic that is no device's is not stored."""
    server = lab.up()
    publish(lab, server.port, "$aws/rules/vitals/iot/device/basic_1", [packet(1)], 1, "mqttv5")
    publish(lab, server.port, "iot/device/a/b", [packet(2)], 1, "mqttv311")
    publish(lab, server.port, "iot/device/bad id", [packet(3)], 1, "mqttv311")
    lab.wait_until_stored(server.lake, 1)
    lab.wait_until_stored(server.lake, 1, "dead_letters")
    lab.end_up(server)
    equal(lab.query(server.lake, "SELECT device_id, seq FROM readings"), [{"device_id": "basic_1", "seq": 1}], "rows")
    equal(lab.query(server.lake, "SELECT reason FROM dead_letters"), [{"reason": "bad_device_id"}], "dead letters")


@test("mosquitto_clients")
def mosquitto_sub(lab):
    """mosquitto_sub gets a copy of what others publish to what it subscribed to, byte for byte, and nothing else."""
    server = lab.up()
    every = subscribe(lab, server.port, "iot/device/+", "mqttv311")
    one = subscribe(lab, server.port, "iot/device/b", "mqttv5")
    expected = []
    for device, version, qos in (("a", "mqttv5", 0), ("b", "mqttv311", 1), ("c", "mqttv5", 2)):
        lines = [packet(seq) for seq in range(20)] + ["no reading, but bytes \u00e9"]
        publish(lab, server.port, f"iot/device/{device}", lines, qos, version)
        expected += [f"iot/device/{device} {line}" for line in lines]
    publish(lab, server.port, "elsewhere/b", ["not asked for"], 1, "mqttv5")
    publish(lab, server.port, "iot/device/b", ["the end"], 1, "mqttv5")
    expected.append("iot/device/b the end")
    for subscriber in (every, one):
        lab.wait_until(lambda: "the end" in subscriber.text(), "the last copy has come", PATIENCE_S, alive=subscriber)
    equal(copies(every), expected, "copies of all devices")
    equal(copies(one), [line for line in expected if line.startswith("iot/device/b ")], "copies of one device")
    check(every.running() and one.running(), "a subscriber lost its connection")
    lab.end_up(server)
