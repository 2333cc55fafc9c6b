"""Into Kafka's brokers by certificates, by a password, and by tokens; and what is said to whoever they don't let in."""

import os
import re
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

    says(door.stays_shut(*ssl, *ca), "can't reach Kafka", "certificate")
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


IAM = {
    "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-512,OAUTHBEARER",
    "listener.name.sasl_ssl.oauthbearer.sasl.server.callback.handler.class": "IamHandler",
    "listener.name.sasl_ssl.oauthbearer.sasl.jaas.config":
        "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
    # Whoever stays has to show a token again every 5 s.
    "listener.name.sasl_ssl.oauthbearer.connections.max.reauth.ms": 5000,
}
AWS = {"AWS_ACCESS_KEY_ID": "AKIDWARD7", "AWS_SECRET_ACCESS_KEY": "nobody-may-see-this", "AWS_REGION": "eu-central-1",
       "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}


def iam_door(lab, topic):
    """A topic behind brokers that ask for tokens as AWS IAM gives them, what they say, and the flags that open."""
    kafka = lab.start_engine("kafka", sasl=True, settings=IAM, source=Path(__file__).parent / "IamHandler.java")
    flags = ("--kafka-protocol", "sasl_ssl", "--kafka-ca", kafka.ca, "--kafka-auth", "iam")
    return Door(lab, kafka, kafka.sasl_bootstrap, topic), kafka.brokers[0].process, flags


@test("kafka", "confluent")
def kafka_by_iam_token(lab):
    """AWS IAM: brokers are shown a token signed with the credentials of the AWS chain, again and again; no secret is seen."""
    door, broker, iam = iam_door(lab, "by-token")
    heard = [door.opens("-vv", *iam, env=AWS)]
    says(broker.text(), "let in AKIDWARD7, signed at")
    shown = broker.text().count("let in AKIDWARD7")
    heard.append(door.stays_shut("-vv", *iam, "--kafka-region", "us-east-1", env=AWS))
    says(heard[-1], "can't reach Kafka", "uthentication")
    says(broker.text(), "not let in: it is for kafka.us-east-1.amazonaws.com")
    nobody = {**AWS, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    says(door.stays_shut(*iam, env=nobody, code=5), "no AWS credentials")

    door.lake = lab.folder / "lake-running"
    argv = [word for word in door.argv("-vv", *iam, "--window", "1") if word != "--until-end"]
    worker = lab.start("worker", [lab.program, *argv], env={**os.environ, **AWS})
    lab.wait_until_stored(door.lake, 10)
    again = lambda: broker.text().count("let in AKIDWARD7") >= shown + 6
    lab.wait_until(again, "the one who stays shows its token again and again", every_s=0.5, alive=worker)
    lab.end_up(worker)
    for text in (*heard, worker.text()):
        check(AWS["AWS_SECRET_ACCESS_KEY"] not in text, "the secret is told")


@test("kafka", "confluent", slow=True, limit_s=1500)
def iam_token_is_renewed(lab):
    """AWS IAM: who stays shows a new token before the old one ends, which is after a quarter of an hour."""
    door, broker, iam = iam_door(lab, "renewed")
    argv = [word for word in door.argv(*iam, "--window", "1") if word != "--until-end"]
    worker = lab.start("worker", [lab.program, *argv], env={**os.environ, **AWS})
    lab.wait_until_stored(door.lake, 10)
    before = set(re.findall(r"signed at (\S+)", broker.text()))
    begun = time.monotonic()
    renewed = lambda: len(set(re.findall(r"signed at (\S+)", broker.text())) - before) > 0
    lab.wait_until(renewed, "a new token is shown", patience_s=900, every_s=1, alive=worker)
    print(f"     a new token after {time.monotonic() - begun:.0f} s", flush=True)
    # Beyond the end of the first ones.
    time.sleep(max(0.0, 920 - (time.monotonic() - begun)))
    door.kafka.produce("renewed", [("bed_1", '{"timestamp":1772323300000,"heart_rate":70,"seq":10}')])
    lab.wait_until_stored(door.lake, 11)
    check("not let in" not in broker.text(), "every token was good")
    lab.end_up(worker)
