"""Into Kafka's brokers by certificates, by a password, and by tokens; and what is said to whoever they don't let in."""

import os
import time
from pathlib import Path

from certificates import Authority
from lab import check, equal, patient, test
from test_kafka import STAMPED, says

# How long it may take to say that one is not let in.
REFUSED_S = 30


class Door:
    """A topic behind one kind of door, and `vitals ingest` before it."""

    def __init__(self, lab, kafka, bootstrap, topic):
        self.lab, self.kafka, self.bootstrap, self.topic = lab, kafka, bootstrap, topic
        self.lake = lab.folder / f"lake-{topic}"
        kafka.create_topic(topic, 1, STAMPED)
        kafka.produce(topic, [("bed_1", f'{{"timestamp":{1_772_323_200_000 + seq},"heart_rate":70,"seq":{seq}}}')
                              for seq in range(10)])

    def argv(self, *more):
        return ["ingest", "--from", f"kafka://{self.bootstrap}/{self.topic}", "--until-end", "--lake", self.lake, *more]

    def opens(self, *more, env=None):
        """Everything in the topic is stored; gives what was said."""
        done = self.lab.run([self.lab.program, *self.argv(*more)], env={**os.environ, **(env or {})})
        equal(self.lab.count(self.lake), 10, "readings in the lake")
        # The next one who is let in finds nothing to store, so there is something to see each time.
        self.lake = self.lab.folder / f"{self.lake.name}-again"
        return done.stdout + done.stderr

    def stays_shut(self, *more, env=None, code=1):
        """Nothing is stored, and that is said within seconds; gives what was said."""
        begun = time.monotonic()
        done = self.lab.run([self.lab.program, *self.argv(*more)], ok=(code,), env={**os.environ, **(env or {})})
        took = time.monotonic() - begun
        check(took < patient(REFUSED_S), f"it takes {took:.1f} s to say that one is not let in")
        equal(self.lab.count(self.lake), 0, "readings in the lake")
        return done.stdout + done.stderr


@test("kafka", "confluent")
def kafka_by_certificate(lab):
    """Brokers that ask for a certificate let in who has one; who has none, or does not know theirs, is told so in seconds."""
    kafka = lab.start_engine("kafka", ssl=True)
    door = Door(lab, kafka, kafka.ssl_bootstrap, "by-certificate")
    ssl, ca = ("--kafka-protocol", "ssl"), ("--kafka-ca", kafka.ca)
    own = ("--kafka-cert", kafka.client_cert, "--kafka-key", kafka.client_key)
    door.opens(*ssl, *ca, *own)
    door.opens(env={"VITALS_KAFKA_PROTOCOL": "ssl", "VITALS_KAFKA_CA": str(kafka.ca),
                    "VITALS_KAFKA_CERT": str(kafka.client_cert), "VITALS_KAFKA_KEY": str(kafka.client_key)})

    says(door.stays_shut(*ssl, *ca), "can't reach Kafka", "certificate required")
    stranger = Authority(lab, "stranger")
    says(door.stays_shut(*ssl, "--kafka-ca", stranger.certificate, *own), "can't reach Kafka", "certificate verify failed")
    theirs = stranger.issue("somebody", "client")
    said = door.stays_shut(*ssl, *ca, "--kafka-cert", theirs.certificate, "--kafka-key", theirs.key)
    says(said, "can't reach Kafka", "certificate")
    # Without TLS, and a key of another certificate.
    says(door.stays_shut(), "can't reach Kafka")
    door.stays_shut(*ssl, *ca, "--kafka-cert", kafka.client_cert, "--kafka-key", theirs.key)
    # A slip is told before anybody is asked.
    says(door.stays_shut(*ssl, "--kafka-ca", "none.pem", code=3), "none.pem")
    says(door.stays_shut(*ssl, *ca, "--kafka-cert", kafka.client_cert, code=2), "--kafka-key")
    says(door.stays_shut(*ca, code=2), "--kafka-protocol")


@test("kafka", "confluent")
def kafka_by_password(lab):
    """SCRAM-SHA-512 in TLS: by a password from the environment or a file, which is never seen; a wrong one is told in seconds."""
    kafka = lab.start_engine("kafka", sasl=True)
    door = Door(lab, kafka, kafka.sasl_bootstrap, "by-password")
    sasl = ("--kafka-protocol", "sasl_ssl", "--kafka-ca", kafka.ca, "--kafka-user", kafka.user)
    file = lab.folder / "password"
    file.write_text(kafka.password + "\n")
    by_env, by_file = {"VITALS_KAFKA_PASSWORD": kafka.password}, ("--kafka-password-file", file)
    heard = [door.opens(*sasl, env=by_env), door.opens(*sasl, *by_file), door.opens("-vv", *sasl, env=by_env)]
    # Every message of librdkafka as well.
    debug = ("--kafka-set", "debug=all")
    heard.append(door.opens("-vvv", *sasl, *by_file, *debug, env={"RUST_LOG": "trace"}))
    check("SASL" in heard[-1].upper(), f"there is something to hear: {heard[-1][-500:]!r}")

    wrong = {"VITALS_KAFKA_PASSWORD": "sesame-not-open"}
    heard.append(door.stays_shut("-vv", *sasl, env=wrong))
    says(heard[-1], "can't reach Kafka", "uthentication failed")
    nobody = ("--kafka-protocol", "sasl_ssl", "--kafka-ca", kafka.ca, "--kafka-user", "nobody")
    heard.append(door.stays_shut(*nobody, env=by_env))
    says(heard[-1], "uthentication failed")
    says(door.stays_shut(*sasl, code=2), "VITALS_KAFKA_PASSWORD", "--kafka-password-file")
    heard.append(door.stays_shut(*sasl, "--kafka-set", f"sasl.password={kafka.password}", code=2))
    check("secrets come from the environment or a file" in heard.pop(), "a flag takes no password, and says why")

    # One that runs, for who looks from outside.
    door.lake = lab.folder / "lake-running"
    argv = [word for word in door.argv("-vv", *sasl, "--window", "1") if word != "--until-end"]
    worker = lab.start("worker", [lab.program, *argv], env={**os.environ, **by_env})
    lab.wait_until_stored(door.lake, 10)
    heard.append(Path(f"/proc/{worker.pid}/cmdline").read_bytes().decode())
    lab.end_up(worker)
    heard.append(worker.text())
    for text in heard:
        for password in (kafka.password, wrong["VITALS_KAFKA_PASSWORD"]):
            check(password not in text, f"the password is in {text[-3000:]!r}")
