"""Apache Kafka without ZooKeeper: one broker or several, each its own process, and what tests do with topics."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import socket
import struct
import uuid
from pathlib import Path
from typing import Any, Iterable, Optional

from certificates import Authority
from install import Missing, folder_once, from_debian, importable, python_packages, run

KAFKA = "4.1.1"
CONFLUENT = "confluent-kafka==2.16.1"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>vitals</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version>
    </dependency>
  </dependencies>
</project>
"""

# Up a third sooner than with Java's own, which is most of what a test waits for. A bench gives flags of its own.
QUICK_JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"

# A group starts at once. Who was killed may come back after 3 s, not 9. Few partitions of Kafka's own topics: with
# the usual 50 the first consumer waits for seconds.
SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": 0,
    "broker.session.timeout.ms": 3000,
    "broker.heartbeat.interval.ms": 500,
    "offsets.topic.num.partitions": 3,
    "transaction.state.log.num.partitions": 3,
    "log.retention.check.interval.ms": 1000,
}

# Whoever comes by SSL shows a certificate; whoever comes by SASL_SSL gives a name and a password.
SECURITY = {
    "ssl.keystore.type": "PEM",
    "ssl.truststore.type": "PEM",
    "listener.name.ssl.ssl.client.auth": "required",
    "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-512",
    "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config":
        "org.apache.kafka.common.security.scram.ScramLoginModule required;",
}


# ---- how it is had


def java_of_at_least(version: int) -> str:
    """The path of a Java: that of JAVA_HOME, the one on PATH, or Debian's."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else None
    java = java or from_debian("java", "default-jre-headless")
    said = run([java, "-version"], "asking Java for its version")
    found = re.search(r'version "(\d+)', said)
    if not found or int(found.group(1)) < version:
        raise Missing(f"{java} is not Java {version} or newer (JAVA_HOME can name another one)")
    return java


def install() -> dict:
    """A Java, and the folder with Kafka's jars."""
    java = java_of_at_least(17)
    with folder_once(f"kafka-{KAFKA}") as (folder, fresh):
        if fresh:
            (folder / "pom.xml").write_text(POM)
            # Maven remembers what it could not have; -U asks again.
            maven = [from_debian("mvn", "maven"), "-q", "-B", "-U", COPY]
            how = ["-DincludeScope=runtime", f"-DoutputDirectory={folder / 'lib'}"]
            run([*maven, *how], f"installing Kafka {KAFKA}", cwd=folder)
    return {"java": java, "jars": folder / "lib"}


def install_confluent() -> Path:
    """Lets this process import `confluent_kafka`."""
    return importable(python_packages(CONFLUENT))


# ---- brokers


def start(lab, brokers: int = 1, ssl: bool = False, sasl: bool = False, settings: Optional[dict] = None,
          jvm: Iterable[str] = QUICK_JVM, source: Optional[Path] = None) -> "Cluster":
    """A cluster of one broker or more that answers; `settings` go to each broker, and so does a class of Java (`source`)."""
    cluster = Cluster(lab, brokers, ssl, sasl, settings or {}, list(jvm), source)
    for broker in cluster.brokers:
        broker.start()
    cluster.wait()
    return cluster


def known_brokers(port: int) -> set:
    """The ids of the brokers that the one on a port would send a client to; none where nobody answers."""
    # Metadata, version 1, about no topic. A broker is not in it before it takes records.
    request = struct.pack(">hhihi", 3, 1, 1, -1, 0)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.makefile("rb")
            _size, _correlation, count = struct.unpack(">iii", answer.read(12))
            return {broker_id(answer) for _ in range(count)}
    except (OSError, struct.error):
        return set()


def broker_id(answer) -> int:
    """Reads one broker of an answer: its id, and past host, port and rack."""
    number, length = struct.unpack(">ih", answer.read(6))
    _host, _port, rack = answer.read(length), answer.read(4), struct.unpack(">h", answer.read(2))[0]
    answer.read(max(rack, 0))
    return number


class Broker:
    """One broker. Its data and its ports outlive its process."""

    def __init__(self, cluster: "Cluster", number: int):
        self.cluster, self.number = cluster, number
        self.ports = {listener: cluster.lab.free_port() for listener in cluster.listeners}
        self.port = self.ports["PLAINTEXT"]
        self.folder = cluster.lab.folder / f"kafka-{number}"
        self.config = cluster.lab.folder / f"kafka-{number}.properties"
        self.process: Any = None

    def prepare(self, cluster_id: str, settings: dict) -> None:
        """Writes its configuration and makes its folder of data."""
        own = {
            "node.id": self.number,
            "listeners": ",".join(f"{listener}://127.0.0.1:{port}" for listener, port in self.ports.items()),
            "log.dirs": self.folder,
            **settings,
        }
        self.config.write_text("".join(f"{name}={value}\n" for name, value in own.items()))
        cluster = self.cluster
        user = f"SCRAM-SHA-512=[name={cluster.user},password={cluster.password}]"
        scram = ["--add-scram", user] if "SASL_SSL" in self.ports else []
        storage = [*cluster.java, "kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", self.config, *scram]
        cluster.lab.run(storage)

    def start(self) -> None:
        """Starts its process, and does not wait for it."""
        argv = [*self.cluster.java, "kafka.Kafka", self.config]
        self.process = self.cluster.lab.start(f"kafka-{self.number}", argv)
        # At the end of a test nothing of it is needed any more, and brokers that leave one by one wait for each other.
        self.process.close = self.process.kill

    def running(self) -> bool:
        return self.process is not None and self.process.running()

    def stop(self) -> None:
        """Ends it in order: it hands over what it leads."""
        self.process.stop()

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.process.kill()

    def pause(self) -> None:
        """It hangs: it keeps its connections and answers nothing."""
        self.process.child.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Ends `pause`."""
        self.process.child.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Starts it with the data and on the ports that it had, and waits until it is part of the cluster again."""
        if self.running():
            self.stop()
        self.start()
        self.cluster.wait()


class Cluster:
    """The brokers, where they are, how to get in, and what a test does with topics (by librdkafka)."""

    def __init__(self, lab, brokers: int, ssl: bool, sasl: bool, settings: dict, jvm: list, source: Optional[Path]):
        engine = lab.engine("kafka")
        self.lab, self._admin, self._left = lab, None, []
        # Killed, it would leave the libraries there that it unpacks.
        scratch = lab.folder / "java"
        scratch.mkdir(exist_ok=True)
        self.java = [engine["java"], *jvm, QUIET, f"-Djava.io.tmpdir={scratch}", "-cp", f"{engine['jars']}/*"]
        if source:
            lab.run([from_debian("javac", "default-jdk-headless"), *self.java[-2:], "-d", lab.folder / "classes", source])
            self.java[-1] += f":{lab.folder / 'classes'}"
        self.user, self.password = "vitals", "not-a-secret"
        self.listeners = ["CONTROLLER", "PLAINTEXT"] + ["SSL"] * ssl + ["SASL_SSL"] * sasl
        self.brokers = [Broker(self, number) for number in range(1, brokers + 1)]
        security = self.secure() if ssl or sasl else {}
        cluster_id = "v" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        for broker in self.brokers:
            broker.prepare(cluster_id, {**SETTINGS, **self.shared(), **security, **settings})

    def shared(self) -> dict:
        """What follows from the number of brokers: with three or more, all works while one is away."""
        copies = min(3, len(self.brokers))
        names = ("default.replication.factor", "offsets.topic.replication.factor",
                 "transaction.state.log.replication.factor")
        least = {name: max(1, copies - 1) for name in ("min.insync.replicas", "transaction.state.log.min.isr")}
        voters = ",".join(f"{broker.number}@127.0.0.1:{broker.ports['CONTROLLER']}" for broker in self.brokers)
        return {"controller.quorum.voters": voters, **{name: copies for name in names}, **least}

    def secure(self) -> dict:
        """Makes certificates for brokers and a client, and gives the brokers' settings."""
        self.authority = Authority(self.lab, "kafka-authority")
        server = self.authority.issue("broker", "server")
        self.client = self.authority.issue("client", "client")
        store = self.authority.folder / "broker-store.pem"
        store.write_text(server.key.read_text() + server.certificate.read_text())
        return {**SECURITY, "ssl.keystore.location": store, "ssl.truststore.location": self.authority.certificate}

    def wait(self) -> None:
        """Waits until every broker that runs knows all those that run."""
        running = [broker for broker in self.brokers if broker.running()]
        ids = {broker.number for broker in running}
        for broker in running:
            what = f"Kafka {broker.number} knows the brokers {sorted(ids)}"
            self.lab.wait_until(lambda: ids <= known_brokers(broker.port), what, every_s=0.2, alive=broker.process)

    # ---- how to get in

    def addresses(self, listener: str) -> str:
        return ",".join(f"127.0.0.1:{broker.ports[listener]}" for broker in self.brokers)

    @property
    def bootstrap(self) -> str:
        """For whoever needs neither certificate nor password."""
        return self.addresses("PLAINTEXT")

    @property
    def ssl_bootstrap(self) -> str:
        """For whoever shows a certificate (`client_cert`, `client_key`)."""
        return self.addresses("SSL")

    @property
    def sasl_bootstrap(self) -> str:
        """For whoever gives `user` and `password` over TLS, by SCRAM-SHA-512."""
        return self.addresses("SASL_SSL")

    @property
    def ca(self) -> Path:
        """The certificate by which the brokers' own are known."""
        return self.authority.certificate

    @property
    def client_cert(self) -> Path:
        return self.client.certificate

    @property
    def client_key(self) -> Path:
        return self.client.key

    def settings(self, listener: str = "PLAINTEXT") -> dict:
        """What librdkafka needs to get in by a listener."""
        # It tells on standard error of every broker that is away, which here is meant.
        settings = {"bootstrap.servers": self.addresses(listener), "security.protocol": listener, "log_level": 0}
        if listener != "PLAINTEXT":
            settings["ssl.ca.location"] = str(self.ca)
        if listener == "SSL":
            settings["ssl.certificate.location"] = str(self.client_cert)
            settings["ssl.key.location"] = str(self.client_key)
        if listener == "SASL_SSL":
            settings["sasl.mechanism"] = "SCRAM-SHA-512"
            settings["sasl.username"], settings["sasl.password"] = self.user, self.password
        return settings

    # ---- topics and groups

    @property
    def admin(self):
        """librdkafka's AdminClient, for what has no method here."""
        if self._admin is None:
            self.lab.engine("confluent")
            from confluent_kafka.admin import AdminClient
            self._admin = AdminClient(self.settings())
        return self._admin

    def forget_admin(self) -> None:
        """Has the next question asked by a new client: one that lost a broker may wait for an answer that never comes."""
        # Answers to what it was asked may yet come, and others may be asking it.
        self._left.append(self._admin)
        self._admin = None

    def leaders(self, topic: str) -> dict:
        """The id of the broker that leads each partition (-1: none does); empty where there is no such topic."""
        found = self.admin.list_topics(topic, timeout=10).topics[topic]
        return {} if found.error else {number: partition.leader for number, partition in found.partitions.items()}

    def wait_for_leaders(self, topic: str, partitions: int) -> None:
        """Waits until a topic has so many partitions, and each a leader."""
        ready = lambda: len(found := self.leaders(topic)) == partitions and -1 not in found.values()
        self.lab.wait_until(ready, f"topic {topic} has {partitions} partitions that can be used")

    def create_topic(self, topic: str, partitions: int = 1, config: Optional[dict] = None) -> None:
        """Makes a topic, with a copy on three brokers where there are as many, and waits until it can be used."""
        self.lab.engine("confluent")
        from confluent_kafka.admin import NewTopic
        new = NewTopic(topic, partitions, replication_factor=min(3, len(self.brokers)), config=config or {})
        done(self.admin.create_topics([new]))
        self.wait_for_leaders(topic, partitions)

    def delete_topic(self, topic: str) -> None:
        """Deletes a topic, and waits until it is gone."""
        done(self.admin.delete_topics([topic]))
        self.lab.wait_until(lambda: not self.leaders(topic), f"topic {topic} is gone")

    def add_partitions(self, topic: str, partitions: int) -> None:
        """Makes it so many partitions in all."""
        from confluent_kafka.admin import NewPartitions
        done(self.admin.create_partitions([NewPartitions(topic, partitions)]))
        self.wait_for_leaders(topic, partitions)

    def delete_records(self, topic: str, before: dict) -> None:
        """Deletes what is below an offset in some partitions, at once, as retention does in time."""
        from confluent_kafka import TopicPartition
        places = [TopicPartition(topic, partition, offset) for partition, offset in before.items()]
        done(self.admin.delete_records(places))

    def delete_group(self, group: str) -> None:
        """Deletes a consumer group that nobody is in any more, and with it the offsets that it committed."""
        done(self.admin.delete_consumer_groups([group]), patience_s=20)

    def committed(self, group: str) -> dict:
        """The offsets that a group has committed, by (topic, partition)."""
        from confluent_kafka import ConsumerGroupTopicPartitions
        asked = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])
        return {(place.topic, place.partition): place.offset for place in done(asked)[0].topic_partitions}

    def ends(self, topic: str) -> dict:
        """By partition: the offset of the first record there is, and the one that the next will get."""
        from confluent_kafka import TopicPartition
        consumer = self.consumer()
        try:
            return {partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)
                    for partition in self.leaders(topic)}
        finally:
            consumer.close()

    # ---- records

    def producer(self, listener: str = "PLAINTEXT", **settings):
        """A producer like ours: nothing twice, nothing lost, and a device where Java puts it (`_` stands for `.`)."""
        self.lab.engine("confluent")
        from confluent_kafka import Producer
        own = {"enable.idempotence": True, "partitioner": "murmur2_random", "linger.ms": 5}
        more = {name.replace("_", "."): value for name, value in settings.items()}
        return Producer({**self.settings(listener), **own, **more})

    def consumer(self, listener: str = "PLAINTEXT", group: str = "the-tests"):
        """A consumer that begins where there is something, and commits only what it is told to."""
        self.lab.engine("confluent")
        from confluent_kafka import Consumer
        own = {"group.id": group, "enable.auto.commit": False, "auto.offset.reset": "earliest",
               "enable.partition.eof": True}
        return Consumer({**self.settings(listener), **own})

    def produce(self, topic: str, records: Iterable[tuple], listener: str = "PLAINTEXT", **settings) -> list:
        """Produces (key, value) or (key, value, time in ms), and gives (partition, offset) of each."""
        producer, placed, failed = self.producer(listener, **settings), {}, []

        def report_to(number):
            def report(error, message):
                if error:
                    failed.append(error.str())
                else:
                    placed[number] = (message.partition(), message.offset())
            return report

        for number, (key, value, *time_ms) in enumerate(records):
            when = {"timestamp": time_ms[0]} if time_ms else {}
            while True:
                try:
                    producer.produce(topic, value, key, on_delivery=report_to(number), **when)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
        waiting = producer.flush(60)
        if failed or waiting:
            raise RuntimeError(f"{len(failed)} records were not taken ({failed[:1]}), {waiting} not answered")
        return [placed[number] for number in sorted(placed)]

    def read(self, topic: str, listener: str = "PLAINTEXT") -> list:
        """All records of a topic as librdkafka's messages, those of a partition in their order."""
        from confluent_kafka import OFFSET_BEGINNING, KafkaError, TopicPartition
        consumer, messages = self.consumer(listener), []
        try:
            open_ends = set(self.leaders(topic))
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in open_ends])
            while open_ends:
                message = consumer.poll(60)
                if message is None:
                    raise RuntimeError(f"nothing came from {topic} in 60 s")
                if not message.error():
                    messages.append(message)
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    open_ends.discard(message.partition())
                elif not message.error().retriable():
                    raise RuntimeError(f"reading {topic}: {message.error().str()}")
            return messages
        finally:
            consumer.close()


def done(futures: dict, patience_s: float = 60) -> list:
    """Waits for what an AdminClient was asked for; an error is raised."""
    return [future.result(timeout=patience_s) for future in futures.values()]
