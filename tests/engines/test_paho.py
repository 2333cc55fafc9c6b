"""paho, the client library that most devices' Python uses, against the broker of `vitals up`."""

import collections
import random
import re
import socket
import struct
import threading
import time

from lab import Failed, check, equal, test
from readings import packet
from test_clients import copies, subscribe


class Client:
    """A paho client in its own thread that remembers what became of each packet."""

    def __init__(self, name, port, version, qos=1):
        from paho.mqtt import client as paho

        self.protocol = {3: paho.MQTTv311, 5: paho.MQTTv5}[version]
        self.qos, self.name, self.port = qos, name, port
        self.seq_of = {}  # of a packet id
        self.acknowledged = set()  # packet ids
        self.sends = collections.Counter()  # of a packet id
        self.connects = self.losses = 0
        self.lock = threading.Lock()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name, protocol=self.protocol)
        self.client.reconnect_delay_set(min_delay=1, max_delay=1)
        self.client.on_connect = self.on_connect
        self.client.on_disconnect = self.on_disconnect
        self.client.on_publish = self.on_publish
        self.client.on_log = self.on_log

    def on_connect(self, client, data, flags, reason, properties):
        if not reason.is_failure:
            self.connects += 1

    def on_disconnect(self, client, data, flags, reason, properties):
        self.losses += 1

    def on_publish(self, client, data, mid, reason, properties):
        # With version 5 an answer may say that the packet was not taken.
        if not reason.is_failure:
            self.acknowledged.add(mid)

    def on_log(self, client, data, level, text):
        # The one place where the library tells of a packet that it sends again.
        sent = re.match(r"Sending PUBLISH \(d\d, q\d, r\d, m(\d+)\)", text)
        if sent:
            self.sends[int(sent.group(1))] += 1

    def start(self):
        self.client.connect("127.0.0.1", self.port)
        self.client.loop_start()
        return self

    def publish(self, seq):
        info = self.client.publish(f"iot/device/{self.name}", packet(seq), self.qos)
        self.seq_of[info.mid] = seq

    def acknowledged_seqs(self):
        return {self.seq_of[mid] for mid in set(self.acknowledged)}

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


def stored(lab, lake, device):
    """How many times each seq of a device is in the lake."""
    rows = lab.query(lake, f"SELECT seq, count(*) AS n FROM readings WHERE device_id = '{device}' GROUP BY seq")
    return {row["seq"]: row["n"] for row in rows}


def every_acknowledged_once(lab, version):
    count = 500 if lab.quick else 2000
    server = lab.up()
    clients = [Client(f"paho_v{version}_qos{qos}", server.port, version, qos).start() for qos in (1, 2)]
    for seq in range(count):
        for client in clients:
            client.publish(seq)
    for client in clients:
        lab.wait_until(lambda: len(client.acknowledged) == count, f"all {count} packets of {client.name} acknowledged")
        client.end()
    lab.wait_until_stored(server.lake, count * len(clients))
    lab.end_up(server)
    for client in clients:
        equal(stored(lab, server.lake, client.name), {seq: 1 for seq in range(count)}, f"seqs of {client.name}")
    equal(lab.count(server.lake, "dead_letters"), 0, "dead letters")


@test("paho")
def paho_v3(lab):
    """What paho gets acknowledged with MQTT 3.1.1, at QoS 1 and 2, is in the lake exactly once."""
    every_acknowledged_once(lab, 3)


@test("paho")
def paho_v5(lab):
    """What paho gets acknowledged with MQTT 5, at QoS 1 and 2, is in the lake exactly once."""
    every_acknowledged_once(lab, 5)


def killed_and_restarted(lab, version):
    server = lab.up()
    client = Client(f"killed_v{version}", server.port, version).start()
    seqs, rounds = iter(range(10**9)), 1 if lab.quick else 3
    published = 0

    def publish(amount):
        nonlocal published
        for _ in range(amount):
            client.publish(next(seqs))
        published += amount

    publish(500)
    for _ in range(rounds):
        # Killed with packets under way: some stored and not yet acknowledged, some not even sent.
        before = len(client.acknowledged)
        publish(500)
        lab.wait_until(lambda: len(client.acknowledged) > before + 50, "acknowledgements arrive", every_s=0.001)
        server.kill()
        losses = client.losses
        publish(100)
        server = lab.up(lake=server.lake, port=server.port)
        lab.wait_until(lambda: client.losses >= losses and client.client.is_connected(), "paho has reconnected")
    lab.wait_until(lambda: len(client.acknowledged) == published, f"all {published} packets acknowledged")
    client.end()
    lab.end_up(server)

    found = stored(lab, server.lake, client.name)
    missing = sorted(client.acknowledged_seqs() - set(found))
    check(not missing, f"{len(missing)} acknowledged packets are not in the lake, the first with seq {missing[:1]}")
    equal(len(found), published, "distinct packets in the lake")
    sends = {seq: client.sends[mid] for mid, seq in client.seq_of.items()}
    again = sum(n > 1 for n in sends.values())
    check(again > 0 and client.connects == rounds + 1, f"{again} sent again, {client.connects} connections: no fault")
    too_often = {seq: n for seq, n in found.items() if n > sends[seq]}
    check(not too_often, f"more often in the lake than sent: {too_often}")
    print(f"     {published} packets, {again} sent again, {sum(n > 1 for n in found.values())} of them stored twice")


@test("paho")
def paho_v3_kill(lab):
    """After kill -9 and a restart on the same port paho (3.1.1) goes on; nothing acknowledged is lost, and nothing is
    stored more often than it was sent.
    """
    killed_and_restarted(lab, 3)


@test("paho")
def paho_v5_kill(lab):
    """After kill -9 and a restart on the same port paho (5) goes on; nothing acknowledged is lost, and nothing is
    stored more often than it was sent.
    """
    killed_and_restarted(lab, 5)


@test("paho", "mosquitto_clients")
def will(lab):
    """The will of a client whose connection breaks reaches subscribers and not the lake; a goodbye sends none."""
    from paho.mqtt import client as paho

    server = lab.up()
    subscriber = subscribe(lab, server.port, "#")
    for protocol, name in ((paho.MQTTv311, "v3"), (paho.MQTTv5, "v5")):
        for leaves in ("politely", "abruptly"):
            client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id=name + leaves, protocol=protocol)
            client.will_set("iot/device/will", packet(1, device=name + leaves), qos=1)
            client.connect("127.0.0.1", server.port)
            lab.wait_until(lambda: client.loop(0.1) == 0 and client.is_connected(), "paho is connected")
            if leaves == "politely":
                client.disconnect()
                continue
            # A reset, as of a device that has lost its power.
            linger = struct.pack("ii", 1, 0)
            client.socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.socket().close()
            wanted = f'"device":"{name}abruptly"'
            lab.wait_until(lambda: any(wanted in copy for copy in copies(subscriber)), f"the will of {name} has come")
    lab.end_up(server)
    equal(len(copies(subscriber)), 2, "wills passed on")
    equal(lab.count(server.lake), 0, "readings stored")


GARBAGE_SEED = 11
CONNECT = bytes.fromhex("100d00044d5154540402003c000178")  # MQTT 3.1.1, client id `x`


def garbage(number):
    """Bytes that are no MQTT, of several kinds, the same in every run."""
    chance = random.Random(GARBAGE_SEED + number)
    noise = bytes(chance.randrange(256) for _ in range(chance.choice((1, 30, 4000))))
    return [
        noise,
        CONNECT + noise,
        CONNECT[: chance.randrange(1, len(CONNECT))],  # and then nothing
        CONNECT + b"\x30\xff\xff\xff\x7f" + noise,  # a publish of 256 MB that does not come
        CONNECT + b"\x32\x02\x00\x40",  # a publish whose topic is longer than itself
        b"GET / HTTP/1.1\r\nHost: ward\r\n\r\n",
    ][number % 6]


@test("paho")
def garbage_disturbs_nobody(lab):
    """Clients that send bytes which are no MQTT are shut out; others keep their connections and their packets."""
    count = 300 if lab.quick else 1500
    server = lab.up()
    clients = [Client(f"calm_v{version}", server.port, version).start() for version in (3, 5)]
    held, seq = [], 0
    for number in range(60):
        wire = socket.create_connection(("127.0.0.1", server.port), timeout=5)
        wire.sendall(garbage(number))
        held.append(wire)
        for _ in range(count // 60):
            for client in clients:
                client.publish(seq)
            seq += 1
        time.sleep(0.01)
    for client in clients:
        lab.wait_until(lambda: len(client.acknowledged) == seq, f"all packets of {client.name} acknowledged")
        equal((client.connects, client.losses), (1, 0), f"connections made and lost by {client.name}")
    http = held[5]
    try:
        while http.recv(4096):
            pass
    except ConnectionError:
        pass
    except socket.timeout as error:
        raise Failed("a client that speaks HTTP is still connected after 5 s") from error
    for wire in held:
        wire.close()
    for client in clients:
        client.end()
    lab.end_up(server)
    for client in clients:
        equal(stored(lab, server.lake, client.name), {n: 1 for n in range(seq)}, f"seqs of {client.name}")
