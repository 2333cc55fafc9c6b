"""`vitals ingest --from mqtt://…`: packets from a real mosquitto."""

import signal

from lab import equal, free_port, test
from readings import packet
from test_clients import publish
from test_paho import Client, stored

# Sessions, and what waits for them, outlive a restart.
KEEPING = "persistence true\n"


def sent_by_paho(lab, port, name, version, qos, seqs):
    client = Client(name, port, version, qos).start()
    for seq in seqs:
        client.publish(seq)
    lab.wait_until(lambda: len(client.acknowledged) == len(seqs), f"mosquitto has taken all of {name}")
    client.end()


@test("mosquitto", "mosquitto_clients", "paho")
def ingest_from_mosquitto(lab):
    """What mosquitto passes on is in the lake once, over a restart of mosquitto, also what came while ingest was away."""
    each = 100 if lab.quick else 400
    port, lake = free_port(), lab.folder / "lake"
    broker = lab.start_engine("mosquitto", port, KEEPING)
    argv = [lab.program, "ingest", "--from", f"mqtt://127.0.0.1:{port}", "--window", "1", "--lake", lake]
    ingest = lab.start("vitals-ingest", argv)
    lab.wait_until(lambda: "Sending SUBACK to vitals-ingest" in broker.text(), "ingest has subscribed", alive=ingest)

    ways = [(version, qos) for version in (3, 5) for qos in (0, 1, 2)]
    names = {3: "mqttv311", 5: "mqttv5"}

    def publish_all(seqs):
        for version, qos in ways:
            sent_by_paho(lab, port, f"paho_v{version}_{qos}", version, qos, seqs)
            lines = [packet(seq) for seq in seqs]
            publish(lab, port, f"iot/device/pub_v{version}_{qos}", lines, qos, names[version])

    publish_all(range(each))
    publish(lab, port, "iot/device/pub_v3_1", ["no reading"], 1, "mqttv311")
    lab.wait_until_stored(lake, 2 * len(ways) * each)
    # Mosquitto sends again what was not acknowledged, so it has to have all answers before it goes.
    acknowledged = 2 * (len(ways) - 2) * each + 1
    answers = lambda: broker.text().count("Received PUBACK from vitals-ingest")
    lab.wait_until(lambda: answers() == acknowledged, f"mosquitto has all {acknowledged} acknowledgements")
    equal(broker.stop(signal.SIGTERM), 0, "exit code of mosquitto")
    lab.wait_until(lambda: "lost mqtt://" in ingest.text(), "ingest has noticed that mosquitto is away", alive=ingest)
    broker = lab.start_engine("mosquitto", port, KEEPING)

    # Ingest is not back yet, or just so: mosquitto has kept its session, and holds for it what has QoS 1 or 2.
    held = [(version, qos) for version, qos in ways if qos > 0]
    for version, qos in held:
        sent_by_paho(lab, port, f"early_v{version}_{qos}", version, qos, range(20))
    lab.wait_until_stored(lake, 20 * len(held), where="device_id LIKE 'early%'")
    publish_all(range(each, 2 * each))
    lab.wait_until_stored(lake, 4 * len(ways) * each + 20 * len(held))
    lab.end_up(ingest)

    for device in (f"{who}_v{version}_{qos}" for version, qos in ways for who in ("paho", "pub")):
        equal(stored(lab, lake, device), {seq: 1 for seq in range(2 * each)}, f"seqs of {device}")
    equal(lab.query(lake, "SELECT device_id, reason FROM dead_letters"),
          [{"device_id": "pub_v3_1", "reason": "not_json"}], "dead letters")


@test("mosquitto")
def ingest_without_a_broker(lab):
    """Where no broker answers, `vitals ingest` says so and ends with 1."""
    port = free_port()
    done = lab.vitals("ingest", "--from", f"mqtt://127.0.0.1:{port}", "--lake", lab.folder / "lake", ok=(1,))
    equal(f"mqtt://127.0.0.1:{port}" in done.stderr, True, f"the broker is named in {done.stderr!r}")
