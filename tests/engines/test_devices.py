"""Identities: `vitals devices` against a stand-in of IoT Core, and `vitals simulate` with certificates to a real broker."""

import contextlib
import http.server
import json
import os
import random
import stat
import subprocess
import threading
from collections import Counter

from certificates import Authority
from install import from_debian, importable
from lab import check, equal, free_port, test
from proxy import Proxy
from test_clients import copies

REGION = "eu-central-1"
RULE = "vitals_readings"

# The part of the stack that `devices` asks for.
TEMPLATE = {
    "Resources": {
        "DeviceType": {"Type": "AWS::IoT::ThingType", "Properties": {"ThingTypeName": "ward-device"}},
        "DevicePolicy": {"Type": "AWS::IoT::Policy", "Properties": {
            "PolicyName": "ward-device", "PolicyDocument": {"Version": "2012-10-17", "Statement": []}}},
    },
    "Outputs": {
        "ThingTypeName": {"Value": "ward-device"}, "ThingPolicyName": {"Value": "ward-device"}, "RuleName": {"Value": RULE},
    },
}


# ---- certificates, to a broker that wants them


def identities(lab, authority, broker_port, count, signer=None, server_ca=None):
    """A folder as `vitals devices add` makes it, for another broker: device_1 to device_N."""
    folder = lab.folder / f"identities-{next(lab.numbers):02}"
    folder.mkdir()
    devices = []
    for number in range(1, count + 1):
        name = f"device_{number}"
        issued = (signer or authority).issue(name, "client")
        (folder / f"{name}.pem").write_bytes(issued.certificate.read_bytes())
        (folder / f"{name}.key").write_bytes(issued.key.read_bytes())
        devices.append({"thing": name, "certificate": f"{name}.pem", "key": f"{name}.key"})
    (folder / "ca.pem").write_bytes((server_ca or authority).certificate.read_bytes())
    index = {"schema_version": 1, "stack": "vitals", "region": REGION, "endpoint": "127.0.0.1", "port": broker_port,
             "rule": RULE, "ca": "ca.pem", "devices": devices}
    (folder / "devices.json").write_text(json.dumps(index))
    return folder


def broker_with_certificates(lab, authority, port):
    """A mosquitto that knows clients by their certificates only, and lets each publish to its own topic of the rule."""
    server = authority.issue("server", "server")
    acl = lab.folder / f"acl-{port}"
    acl.write_text(f"pattern write $aws/rules/{RULE}/iot/device/%u\nuser reader\ntopic read $aws/rules/+/iot/device/+\n")
    # It reads the file of access as another user does, and refuses one that others can write.
    acl.chmod(0o700)
    return lab.start_engine("mosquitto", port, (
        f"cafile {authority.certificate}\ncertfile {server.certificate}\nkeyfile {server.key}\n"
        f"require_certificate true\nuse_identity_as_username true\nacl_file {acl}\n"))


def reader(lab, authority, port):
    """A running `mosquitto_sub` with a certificate of its own, which hears every device."""
    own = authority.issue("reader", "client")
    sub = lab.engine("mosquitto_clients")["sub"]
    argv = ["stdbuf", "-oL", sub, "-d", "-h", "127.0.0.1", "-p", port, "-q", 1, "-t", "$aws/rules/+/iot/device/+",
            "-F", "COPY %t %p", "--cafile", authority.certificate, "--cert", own.certificate, "--key", own.key]
    subscriber = lab.start("mosquitto_sub", argv)
    lab.wait_until(lambda: "Subscribed" in subscriber.text(), "mosquitto_sub has subscribed", alive=subscriber)
    return subscriber


@test("mosquitto", "mosquitto_clients")
def simulate_with_identities(lab):
    """Each device connects with its own certificate under its own name, and all it sends arrives under its topic."""
    count, port, authority = 5, free_port(), Authority(lab)
    broker = broker_with_certificates(lab, authority, port)
    subscriber = reader(lab, authority, port)
    folder = identities(lab, authority, port, count)
    sent = lab.folder / "sent.ndjson"
    summary = lab.json("simulate", "--identities", folder, "--devices", count, "--duration", "6h", "--speed", "max",
                       "--batch", 10, "--sent", sent)
    equal(summary["acknowledged"], summary["published"], "packets acknowledged")
    check(summary["published"] >= 36 * count, f"a packet per ten minutes and device, not {summary['published']}")
    lab.wait_until(lambda: len(copies(subscriber)) >= summary["published"], "all packets have come", alive=subscriber)
    topics = Counter()
    for copy in copies(subscriber):
        topic, packet = copy.split(" ", 1)
        topics[topic] += 1
        equal(topic, f"$aws/rules/{RULE}/iot/device/{json.loads(packet)['device_id']}", "the topic of a packet")
    equal(sum(topics.values()), summary["published"], "packets that came")
    equal(len(topics), count, "topics")
    for number in range(1, count + 1):
        check(f"as device_{number} (p2, c1, k30, u'device_{number}')" in broker.text(),
              f"device_{number} came with its own certificate:\n{broker.text()[-3000:]}")

    # Of all that is asked for, too little is there.
    done = lab.vitals("simulate", "--identities", folder, "--devices", count + 1, ok=(3,))
    check("no device_6" in done.stderr and f"vitals devices add {count + 1}" in done.stderr, done.stderr)


@test("mosquitto", "mosquitto_clients")
def certificates_that_are_refused(lab):
    """Where broker or device don't trust the other's certificate, it is said which, and nothing is published."""
    port, authority, stranger = free_port(), Authority(lab), Authority(lab, "stranger")
    broker_with_certificates(lab, authority, port)
    subscriber = reader(lab, authority, port)
    simulate = ["simulate", "--devices", 1, "--duration", "1h", "--speed", "max", "--identities"]

    foreign = identities(lab, authority, port, 1, signer=stranger)
    done = lab.vitals(*simulate, foreign, ok=(1,))
    check("device_1.pem" in done.stderr and "does it take the certificate" in done.stderr, done.stderr)
    check("alert" in done.stderr.lower(), f"the broker's reason is told: {done.stderr}")

    unknown = identities(lab, authority, port, 1, server_ca=stranger)
    done = lab.vitals(*simulate, unknown, ok=(1,))
    check("invalid peer certificate" in done.stderr and "ca.pem" in done.stderr, done.stderr)

    (unknown / "device_1.key").write_text("no key")
    done = lab.vitals(*simulate, unknown, ok=(1,))
    check("device_1.key" in done.stderr, done.stderr)
    equal(copies(subscriber), [], "what was published")

    # The same without identities: one certificate for all, or none.
    own = authority.issue("gateway", "client")
    plain = ["simulate", "--devices", 2, "--duration", "1h", "--speed", "max", "--broker", f"mqtts://127.0.0.1:{port}"]
    done = lab.vitals(*plain, "--ca", authority.certificate, ok=(1,))
    check("--cert FILE" in done.stderr, done.stderr)
    done = lab.vitals(*plain, "--ca", authority.certificate, "--cert", own.certificate, "--key", own.key)
    check("acknowledged" in done.stdout, done.stdout)
    done = lab.vitals("simulate", "--ca", authority.certificate, "--broker", f"127.0.0.1:{port}", ok=(2,))
    check("mqtts://" in done.stderr, done.stderr)


# ---- a stand-in of AWS


def env_at(endpoint):
    """What `vitals` needs in its environment to find AWS at an endpoint, and credentials nowhere else."""
    return {
        **os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "not-to-be-seen", "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": endpoint, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }


class Stranger(http.server.BaseHTTPRequestHandler):
    """Answers everybody as AWS answers credentials that it does not know. (moto's form of this is none of AWS's.)"""

    BODY = (b'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
            b"<Code>InvalidClientTokenId</Code><Message>The security token included in the request is invalid.</Message>"
            b"</Error><RequestId>00000000-0000-0000-0000-000000000000</RequestId></ErrorResponse>")

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(403)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(self.BODY)))
        self.end_headers()
        self.wfile.write(self.BODY)

    do_GET = do_POST

    def log_message(self, *_):
        """Nothing."""


@contextlib.contextmanager
def a_stranger_to_aws():
    """The environment in which AWS takes nobody's credentials."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield env_at(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()


class Cloud:
    """moto's server, a stack in it, a client of others beside, and `vitals`."""

    def __init__(self, lab):
        self.lab, port = lab, lab.free_port()
        server = lab.engine("moto")
        process = lab.start("moto", [server, "-H", "127.0.0.1", "-p", port])
        lab.wait_for_port(port, process)
        importable(server.parent.parent)
        self.endpoint = f"http://127.0.0.1:{port}"
        self.folder = lab.folder / "devices"

    def make_stack(self, name="vitals"):
        self.client("cloudformation").create_stack(StackName=name, TemplateBody=json.dumps(TEMPLATE))

    def client(self, service):
        import boto3

        return boto3.client(service, endpoint_url=self.endpoint, region_name=REGION, aws_access_key_id="test",
                            aws_secret_access_key="test")

    def env(self, endpoint=None):
        return env_at(endpoint or self.endpoint)

    def argv(self, *args):
        return [self.lab.program, "devices", *args, "--identities", self.folder]

    def devices(self, *args, ok=(0,), endpoint=None):
        return self.lab.run(self.argv(*args), ok=ok, env=self.env(endpoint))

    def listed(self):
        return json.loads(self.devices("list", "--output", "json").stdout)["devices"]

    def certificates(self):
        return self.client("iot").list_certificates(pageSize=250)["certificates"]

    def check_devices(self, names):
        """Each has one active certificate with the stack's policy, whose key is in the folder, and there is nothing else."""
        iot, names = self.client("iot"), sorted(names)
        equal(sorted(thing["thingName"] for thing in iot.list_things(thingTypeName="ward-device")["things"]), names, "things")
        index = json.loads((self.folder / "devices.json").read_text())
        equal(sorted(device["thing"] for device in index["devices"]), names, "devices in the index")
        arns = []
        for device in index["devices"]:
            (arn,) = iot.list_thing_principals(thingName=device["thing"])["principals"]
            equal(device["certificate_arn"], arn, f"the certificate of {device['thing']}")
            described = iot.describe_certificate(certificateId=arn.split("/")[-1])["certificateDescription"]
            equal(described["status"], "ACTIVE", f"the certificate of {device['thing']}")
            equal(described["certificatePem"], (self.folder / device["certificate"]).read_text(), "the certificate kept")
            policies = iot.list_attached_policies(target=arn)["policies"]
            equal([policy["policyName"] for policy in policies], ["ward-device"], f"policies of {device['thing']}")
            self.check_key(device)
            arns.append(arn)
        return arns

    def check_key(self, device):
        key, openssl = self.folder / device["key"], from_debian("openssl", "openssl")
        equal(stat.S_IMODE(key.stat().st_mode), 0o600, f"mode of {key.name}")
        of_key = self.lab.run([openssl, "pkey", "-in", key, "-pubout"]).stdout
        of_certificate = self.lab.run([openssl, "x509", "-in", self.folder / device["certificate"], "-noout", "-pubkey"]).stdout
        equal(of_key, of_certificate, f"the key of {device['thing']} and its certificate's")


def numbered(*numbers):
    return [f"device_{number}" for number in numbers]


@test("moto")
def devices_from_add_to_rm(lab):
    """Devices are made once, listed with their certificates, and removed with everything that they had."""
    cloud = Cloud(lab)
    done = cloud.devices("add", "3", ok=(3,))
    check("no stack `vitals`" in done.stderr and "vitals deploy" in done.stderr, done.stderr)
    cloud.make_stack()

    done = cloud.devices("add", "10")
    check("10 devices made" in done.stderr, done.stderr)
    equal(stat.S_IMODE(cloud.folder.stat().st_mode), 0o700, "mode of the folder")
    arns = cloud.check_devices(numbered(*range(1, 11)))
    index = json.loads((cloud.folder / "devices.json").read_text())
    equal((index["rule"], index["stack"], index["port"]), (RULE, "vitals", 8883), "what the index says")
    check(".iot." in index["endpoint"], f"the endpoint of IoT, not {index['endpoint']}")
    check("BEGIN CERTIFICATE" in (cloud.folder / index["ca"]).read_text(), "Amazon's root is there")

    done = cloud.devices("add", "10")
    check("0 devices made" in done.stderr and "10 devices there already: device_1 … device_10" in done.stderr, done.stderr)
    equal(sorted(cloud.check_devices(numbered(*range(1, 11)))), sorted(arns), "certificates after the same again")
    cloud.devices("add", "12")
    cloud.devices("add", "ward7-bed3", "ward7:bed4")
    everybody = [*numbered(*range(1, 13)), "ward7-bed3", "ward7:bed4"]
    cloud.check_devices(everybody)
    rows = cloud.listed()
    equal([row["device"] for row in rows], everybody, "devices in the order of their numbers")
    check(all(row["key_here"] and [c["status"] for c in row["certificates"]] == ["ACTIVE"] for row in rows), f"{rows}")
    equal(len(cloud.devices("list").stdout.splitlines()), 15, "lines of the table")

    # A revoked certificate shows, and a device of another folder is not this one's to use.
    iot = cloud.client("iot")
    iot.update_certificate(certificateId=rows[4]["certificates"][0]["arn"].split("/")[-1], newStatus="INACTIVE")
    equal(cloud.listed()[4]["certificates"][0]["status"], "INACTIVE", "a certificate that was revoked")
    own, cloud.folder = cloud.folder, lab.folder / "elsewhere"
    done = cloud.devices("add", "2", ok=(1,))
    check("keys that are not in" in done.stderr and "vitals devices rm device_1" in done.stderr, done.stderr)
    cloud.folder = own

    equal(cloud.devices("rm", "device_3", ok=(2,)).returncode, 2, "without --yes and a terminal")
    cloud.devices("rm", "device_3", "ward7:bed4", "--yes")
    check(not (cloud.folder / "device_3.key").exists(), "the key of a removed device is gone")
    equal(len(cloud.certificates()), 12, "certificates")
    done = cloud.devices("rm", "device_3", "--yes", ok=(3,))
    check("has no device_3" in done.stderr, done.stderr)
    cloud.devices("rm", "--all", "--yes")
    equal((cloud.listed(), cloud.certificates()), ([], []), "what is left")
    equal([file.name for file in cloud.folder.glob("*.key")], [], "keys that are left")


@test("moto")
def devices_of_others(lab):
    """Things and certificates that are none of the stack's are neither taken nor removed."""
    cloud = Cloud(lab)
    cloud.make_stack()
    iot = cloud.client("iot")
    iot.create_thing(thingName="pump")
    foreign = iot.create_keys_and_certificate(setAsActive=True)
    iot.attach_thing_principal(thingName="pump", principal=foreign["certificateArn"])
    cloud.devices("add", "2")
    done = cloud.devices("rm", "pump", "--yes", ok=(3,))
    check("has no pump" in done.stderr, done.stderr)
    cloud.devices("rm", "--all", "--yes")
    equal([thing["thingName"] for thing in iot.list_things()["things"]], ["pump"], "things that are left")
    equal([(one["certificateArn"], one["status"]) for one in cloud.certificates()],
          [(foreign["certificateArn"], "ACTIVE")], "certificates that are left")


@test("moto")
def devices_add_killed(lab):
    """Killed at any moment and run again, `devices add` ends with each device once, its key here, and no stray certificate."""
    cloud = Cloud(lab)
    cloud.make_stack()
    count, chance, kills = 12 if lab.quick else 30, random.Random(7), 0
    for _ in range(4 if lab.quick else 10):
        process = lab.start("devices-add", cloud.argv("add", count), env=cloud.env())
        try:
            process.child.wait(chance.uniform(0.2, 1.2))
            break
        except subprocess.TimeoutExpired:  # It still runs, as it should.
            process.kill()
            kills += 1
    check(kills > 0, "it was killed at least once")
    cloud.devices("add", count)
    arns = cloud.check_devices(numbered(*range(1, count + 1)))
    equal(sorted(one["certificateArn"] for one in cloud.certificates()), sorted(arns), "certificates")
    check(not (cloud.folder / "unfinished.ndjson").exists(), "the journal has ended")


@test("moto")
def devices_add_without_an_answer(lab):
    """A certificate whose answer never arrived is deleted, by the same run or, after a crash, by the next; others stay."""
    cloud = Cloud(lab)
    cloud.make_stack()
    proxy = Proxy(lab, cloud.endpoint)
    proxy.add("lose_answer", times=2, method="POST", path="keys-and-certificate")
    done = cloud.devices("add", "4", endpoint=proxy.endpoint)
    check("2 certificates of an interrupted run were deleted" in done.stderr, done.stderr)
    arns = cloud.check_devices(numbered(1, 2, 3, 4))
    equal(len(cloud.certificates()), 4, "certificates")

    # Killed at the very moment between the certificate and its answer.
    running = []
    proxy.add("lose_answer", times=1, method="POST", path="keys-and-certificate", hook=lambda _: running[0].kill())
    running.append(lab.start("devices-add", cloud.argv("add", "5"), env=cloud.env(proxy.endpoint)))
    running[0].ended()
    equal(len(cloud.certificates()), 5, "certificates, one without a key")
    journal = cloud.folder / "unfinished.ndjson"
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line]
    check(lines and all("asked_ms" in line for line in lines), f"the journal says what was asked: {lines}")

    # Somebody else's certificate without a policy, made when none was asked for here, is left alone.
    iot = cloud.client("iot")
    journal.write_text("".join(json.dumps({"asked_ms": line["asked_ms"] - 3_600_000}) + "\n" for line in lines))
    cloud.devices("add", "4")
    equal(len(cloud.certificates()), 5, "certificates")
    # One that somebody uses is, whenever it was made.
    used = iot.create_keys_and_certificate(setAsActive=True)["certificateArn"]
    iot.attach_policy(policyName="ward-device", target=used)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = cloud.devices("add", "5")
    check("1 certificates of an interrupted run were deleted" in done.stderr, done.stderr)
    arns = [*cloud.check_devices(numbered(1, 2, 3, 4, 5)), used]
    equal(sorted(one["certificateArn"] for one in cloud.certificates()), sorted(arns), "certificates")


@test()
def devices_without_credentials(lab):
    """Credentials that AWS does not take end with 5, and with what to do."""
    folder = lab.folder / "devices"
    with a_stranger_to_aws() as env:
        for words in (["add", "1"], ["list"], ["rm", "--all", "--yes"]):
            done = lab.run([lab.program, "devices", *words, "--identities", folder], ok=(5,), env=env)
            check("InvalidClientTokenId" in done.stderr and "aws sso login" in done.stderr, done.stderr)
            check("not-to-be-seen" not in done.stderr + done.stdout, "no secret is shown")
    check(not folder.exists(), "nothing was made")
