"""The container image: pushed to a real registry, pulled from it by plain HTTP, and run in an empty root."""

import base64
import http.client
import io
import json
import os
import random
import shlex
import shutil
import ssl
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path

from certificates import Authority
from engines import Missing, installed
from lab import Failed, check, equal, test
from proxy import Proxy
from registry import MANIFEST, PASSWORD, USER

ROOT = Path(__file__).resolve().parents[2]
STATIC_BUILD = "cargo rustc --release --bin vitals -- -C target-feature=+crt-static -C strip=symbols"


def is_static(program):
    """Whether a program asks for no loader."""
    data = Path(program).read_bytes()
    start, size, count = (int.from_bytes(data[a:b], "little") for a, b in ((32, 40), (54, 56), (56, 58)))
    kinds = [int.from_bytes(data[start + n * size:start + n * size + 4], "little") for n in range(count)]
    return data[:5] == b"\x7fELF\x02" and 3 not in kinds


# Removed when the run ends.
_kept = tempfile.TemporaryDirectory(prefix="vitals-static-")


def static_program(lab):
    """The program under test, linked statically: VITALS_STATIC_BIN, VITALS_BIN if it is so, or made by the command that
    `vitals image` names."""
    given = os.environ.get("VITALS_STATIC_BIN")
    if given:
        check(is_static(given), f"VITALS_STATIC_BIN is {given}, which is linked dynamically")
        return Path(given).resolve()
    if is_static(lab.program):
        return lab.program
    if os.environ.get("VITALS_BIN"):
        raise Missing(f"VITALS_BIN is linked dynamically: name a static one in VITALS_STATIC_BIN, made by `{STATIC_BUILD}`")
    kept = Path(_kept.name) / "vitals"
    if not kept.exists():
        # It is put where the other one is, which then is put back: a link each.
        for command in (STATIC_BUILD, "cargo build --release --locked --bin vitals"):
            done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True)
            if done.returncode != 0:
                raise Failed(f"`{command}` failed: {done.stderr[-2000:]}")
            if command == STATIC_BUILD:
                shutil.copy2(lab.program, kept)
    return kept


def small_program(lab, seed=1):
    """What the header says is a static program, of which an image is soon made."""
    file = lab.folder / f"program-{seed}"
    header = bytearray(64)
    header[:8] = b"\x7fELF\x02\x01\x01\x00"
    # An executable, for amd64, that begins somewhere, in one segment.
    for at, size, value in ((16, 2, 2), (18, 2, 62), (24, 8, 0x1000), (32, 8, 64), (54, 2, 56), (56, 2, 1)):
        header[at:at + size] = value.to_bytes(size, "little")
    file.write_bytes(header + b"\x01".ljust(56, b"\x00") + random.Random(seed).randbytes(3_000_001))
    return file


def vitals(lab, command, *args, ok=(0,), program=None, **environment):
    """Runs `vitals image` on a program, in a home where nothing is."""
    env = {"PATH": os.environ["PATH"], "HOME": str(lab.folder), **environment}
    made_of = ["--linux-binary", program or small_program(lab)]
    return lab.run([lab.program, "image", command, *made_of, *args], ok=ok, patience_s=180, env=env)


def unpack(layers, root):
    """Unpacks the layers of an image into a folder, by Python's own reader of archives."""
    # As they are: newer Pythons would take away the mode that /tmp has.
    options = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer), mode="r:gz") as archive:
            archive.extractall(root, **options)


@test("registry", limit_s=600)
def image_push(lab):
    """What is pushed is what is pulled, in Docker's form and by its digest; what is there is not sent again."""
    registry = lab.start_engine("registry")
    equal(vitals(lab, "build").stdout, vitals(lab, "build").stdout, "the digest of the same program")
    built = vitals(lab, "build").stdout.strip()
    check(vitals(lab, "build", SOURCE_DATE_EPOCH="1700000000").stdout.strip() != built, "of another time is another image")
    vitals(lab, "build", ok=(2,), SOURCE_DATE_EPOCH="yesterday")
    pushed = vitals(lab, "push", "--to", f"{registry.host}/ward/vitals")
    equal(pushed.stdout.strip(), f"{registry.host}/ward/vitals@{built}", "what is printed")
    (tag,) = registry.tags("ward/vitals")
    check(tag.endswith(built[7:19]), f"the tag {tag} is of the digest {built}")
    for version in (tag, built):
        pulled = registry.pull("ward/vitals", version)
        equal((pulled.form, pulled.digest), (MANIFEST, built), f"form and digest under {version}")
    equal(len(pulled.layers), 1, "layers")
    equal(pulled.manifest["mediaType"], MANIFEST, "the form that the manifest names")
    equal(pulled.config["config"]["Entrypoint"], ["/vitals"], "entry point, in exec form")
    equal(pulled.config["os"], "linux", "system")

    before = registry.uploads()
    check(before >= 2, f"layer and configuration were uploaded: {before}")
    again = vitals(lab, "push", "--to", f"{registry.host}/ward/vitals")
    check("was there already" in again.stderr and again.stdout == pushed.stdout, again.stderr)
    vitals(lab, "push", "--to", f"{registry.host}/ward/vitals:v1")
    equal(registry.uploads(), before, "uploads, as all of it was there")
    equal(registry.tags("ward/vitals"), sorted([tag, "v1"]), "tags")

    # A tag stays with its image.
    other = vitals(lab, "push", "--to", f"{registry.host}/ward/vitals:v1", ok=(1,), program=small_program(lab, 2))
    check(f"another image is at {registry.host}/ward/vitals:v1: {built}" in other.stderr, other.stderr)
    equal((other.stdout, registry.pull("ward/vitals", "v1").digest), ("", built), "nothing is printed or changed")


@test("registry", "skopeo", limit_s=600)
def image_files(lab):
    """Other programs read the image from the file and from the folder that it is written to, and find the same."""
    registry = lab.start_engine("registry")
    file, folder = lab.folder / "image.tar", lab.folder / "image"
    built = {vitals(lab, "build", "--out", path).stdout.strip() for path in (file, folder)}
    vitals(lab, "push", "--to", f"{registry.host}/vitals:v1")
    (name,) = built
    pulled = registry.pull("vitals", "v1")
    equal(pulled.digest, name, "the digest")
    inspect = [installed("skopeo"), "inspect", "--config"]
    for place in (f"docker-archive:{file}", f"oci:{folder}"):
        found = json.loads(lab.run([*inspect, place]).stdout)
        equal(found["config"]["Entrypoint"], ["/vitals"], f"entry point by {place}")
        equal(found["rootfs"]["diff_ids"], pulled.config["rootfs"]["diff_ids"], f"layers by {place}")
    # It checks every layer on the way.
    copy = ["copy", "--dest-tls-verify=false", f"docker-archive:{file}", f"docker://{registry.host}/copied:v1"]
    lab.run([installed("skopeo"), "--insecure-policy", *copy])
    equal(registry.pull("copied", "v1").config, pulled.config, "the configuration of what was copied")


@test("registry", limit_s=600)
def image_push_with_a_password(lab):
    """A registry that wants a password gets it from the environment, a file or Docker's file, and nobody else sees it."""
    registry = lab.start_engine("registry", users=True)
    target = f"{registry.host}/vitals"
    home, wrong, file = lab.folder / "home", lab.folder / "wrong", lab.folder / "password"
    for folder, auth in ((home / ".docker", f"{USER}:{PASSWORD}"), (wrong, f"{USER}:no")):
        folder.mkdir(parents=True)
        encoded = base64.b64encode(auth.encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": encoded}}}))
    file.write_text(PASSWORD + "\n")
    named = {"VITALS_REGISTRY_USER": USER}
    said = []
    for environment in ({}, {"DOCKER_CONFIG": str(wrong)}, {**named, "VITALS_REGISTRY_PASSWORD": "no"}):
        refused = vitals(lab, "push", "--to", target, ok=(5,), **environment)
        check(f"{registry.host} refuses" in refused.stderr and "VITALS_REGISTRY_USER" in refused.stderr, refused.stderr)
        equal((refused.stdout, registry.tags("vitals")), ("", []), "nothing is printed or there")
    vitals(lab, "push", "--to", target, ok=(1,), **named)
    for number, environment in enumerate((
        {**named, "VITALS_REGISTRY_PASSWORD": PASSWORD},
        {**named, "VITALS_REGISTRY_PASSWORD_FILE": str(file)},
        {"HOME": str(home)},
    )):
        pushed = vitals(lab, "push", "--to", f"{target}:{number}", "-vv", **environment)
        equal(pushed.stdout.strip(), f"{target}@{registry.pull('vitals', str(number)).digest}", "what is printed")
        said.append(pushed.stdout + pushed.stderr)
    secrets = (PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
    check(not any(secret in text for secret in secrets for text in said), "no password is shown")


@test("registry", limit_s=600)
def image_push_through_faults(lab):
    """Answers that are lost or refused for a moment, and a registry that is away for one, change nothing of the image."""
    registry = lab.start_engine("registry")
    proxy = Proxy(lab, f"http://{registry.host}")
    # In every step of the way something goes wrong once or twice.
    steps = [("slow_down", "HEAD", ""), ("lose_answer", "HEAD", ""), ("slow_down", "POST", ""), ("lose_answer", "PATCH", ""),
             ("lose_answer", "PUT", "/uploads/"), ("slow_down", "PUT", "/manifests/"), ("lose_answer", "PUT", "/manifests/")]
    for kind, method, path in steps:
        proxy.add(kind, times=1, method=method, path=path)
    host = proxy.endpoint.split("//")[1]
    pushed = vitals(lab, "push", "--to", f"{host}/vitals:v1")
    equal((proxy.counts["slow_down"], proxy.counts["lose_answer"]), (3, 4), "faults that there were")
    equal(pushed.stderr.count("trying again"), len(steps), "what was said of them")
    name = pushed.stdout.strip().split("@")[1]
    equal(registry.pull("vitals", "v1").digest, name, "what is there")
    proxy.down(seconds=2)
    again = vitals(lab, "push", "--to", f"{host}/vitals:v2")
    equal(registry.pull("vitals", "v2").digest, name, f"after an outage: {again.stderr}")


@test("registry", limit_s=600)
def image_on_a_base(lab):
    """With a base image the program is one layer on top of those of the base, whose settings stay."""
    registry = lab.start_engine("registry")
    base = vitals(lab, "push", "--to", f"{registry.host}/base:v1").stdout.strip()
    for number, reference in enumerate((f"{registry.host}/base:v1", base)):
        pushed = vitals(lab, "push", "--base-image", reference, "--to", f"{registry.host}/vitals:{number}")
        pulled = registry.pull("vitals", str(number))
        equal(pushed.stdout.strip(), f"{registry.host}/vitals@{pulled.digest}", "what is printed")
        of_base = registry.pull("base", "v1")
        equal((len(pulled.layers), pulled.layers[0]), (2, of_base.layers[0]), "layers")
        equal(pulled.config["config"], of_base.config["config"], "settings of the base")
        with tarfile.open(fileobj=io.BytesIO(pulled.layers[1]), mode="r:gz") as archive:
            equal(archive.getnames(), ["vitals"], "what is in the new layer")
    lost = vitals(lab, "build", "--base-image", f"{registry.host}/base:v2", ok=(3,))
    check(f"pulling the base image {registry.host}/base:v2" in lost.stderr, lost.stderr)


# What every container has in /dev, of which the program needs some to draw random numbers.
DEVICES = {"null": 3, "random": 8, "urandom": 9}


class Container:
    """An image unpacked into a folder and run there. There is neither /proc nor a file that is not of the image."""

    def __init__(self, lab, pulled, user):
        self.lab, self.config, self.user = lab, pulled.config["config"], user
        self.root = lab.folder / f"root-{user}"
        self.root.mkdir()
        unpack(pulled.layers, self.root)
        (self.root / "dev").mkdir()
        for name, number in DEVICES.items():
            try:
                os.mknod(self.root / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(1, number))
                os.chmod(self.root / "dev" / name, 0o666)
            except PermissionError as error:
                raise Missing(f"devices can't be made here: {error}") from error
        (self.root / "etc/hosts").write_text("127.0.0.1 localhost\n")

    def run(self, *args, ok=(0,), **environment):
        """Runs the entry point as a container's engine does."""

        def enter():
            os.chroot(self.root)
            os.chdir(self.config["WorkingDir"])
            os.setgroups([])
            os.setgid(self.user)
            os.setuid(self.user)

        env = dict(entry.split("=", 1) for entry in self.config["Env"])
        argv = [*self.config["Entrypoint"], *args]
        return self.lab.run(argv, ok=ok, patience_s=180, env={**env, **environment}, preexec_fn=enter)


@test("registry", limit_s=900)
def image_runs_in_an_empty_root(lab):
    """From the registry into an empty root: there the entry point runs the whole pipeline, for root and for the other user,
    and trusts the authorities that are in the image and no others."""
    if os.geteuid() != 0:
        raise Missing("changing the root of a process needs root")
    registry = lab.start_engine("registry")
    vitals(lab, "push", "--to", f"{registry.host}/vitals:v1", program=static_program(lab))
    pulled = registry.pull("vitals", "v1")
    for user in (0, 65532):
        container = Container(lab, pulled, user)
        equal(container.run("--version").stdout, lab.vitals("--version").stdout, "version")
        info = json.loads(container.run("info", "--output", "json").stdout)
        equal(info["lake"]["place"], ".vitals", "the lake of `info`")
        container.run("demo", "--devices", "3", "--duration", "6h", "--keep", "/tmp/lake")
        counted = container.run("query", "sql", "SELECT count(*) AS n FROM readings", "--output", "json", "--lake", "lake")
        check(json.loads(counted.stdout)["rows"][0]["n"] > 100, counted.stdout)
        check(container.run("verify", "--lake", "/tmp/lake").returncode == 0, "the chains are whole")
        for command in ("ingest", "compact", "train", "score"):
            check(f"vitals {command}" in container.run(command, "--help").stdout, command)
        tls(lab, container)
    check((Path(container.root) / "opt").exists() is False, "nothing is in the way of what SageMaker mounts")


def tls(lab, container):
    """TLS by either library, to a server whose authority is not in the image, and then is."""
    authority = Authority(lab, f"authority-{container.user}")
    server = authority.issue("server", "server")
    port = lab.free_port()
    argv = [authority.openssl, "s_server", "-accept", f"127.0.0.1:{port}", "-www"]
    process = lab.start("tls", [*argv, "-cert", server.certificate, "-key", server.key])
    lab.wait_for_port(port, process)
    aws = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1", "AWS_ENDPOINT_URL": f"https://localhost:{port}",
    }
    broker = ["ingest", "--from", f"kafka://localhost:{port}/vitals", "--kafka-protocol", "ssl", "--lake", "/tmp/kafka"]

    def refusals(*args, **environment):
        """How often a client tells the server that it does not know its authority. Neither finds what it looks for there."""
        before = process.text().count("alert unknown ca")
        container.run(*args, ok=(1, 3), **environment)
        # The server takes one after the other: who has its answer comes after all that those before had to say.
        last = http.client.HTTPSConnection("127.0.0.1", port, context=ssl._create_unverified_context(), timeout=60)
        last.request("GET", "/")
        equal(last.getresponse().status, 200, "what the server answers")
        last.close()
        return process.text().count("alert unknown ca") - before

    by_library = {
        "rustls, the lake on S3": lambda: refusals("query", "devices", "--lake", "s3://ward/lake", **aws),
        "OpenSSL, Kafka": lambda: refusals(*broker),
    }
    for library, ask in by_library.items():
        check(ask() > 0, f"{library}: an authority that is not in the image is not trusted")
    trusted = container.root / "etc/ssl/certs/ca-certificates.crt"
    trusted.write_bytes(trusted.read_bytes() + authority.certificate.read_bytes())
    for library, ask in by_library.items():
        equal(ask(), 0, f"{library}: refusals of one that is there")


@test("registry", limit_s=300)
def image_errors(lab):
    """What no image can be made of is refused with what it is and what to do."""
    script = lab.folder / "vitals.sh"
    script.write_text("#!/bin/sh\n")
    refused = vitals(lab, "build", program=script, ok=(1,)).stderr
    check("is a script" in refused and "--linux-binary FILE" in refused, refused)
    refused = vitals(lab, "build", program=lab.folder / "none", ok=(3,)).stderr
    check("can't read" in refused, refused)
    dynamic = shutil.which("python3") or "/bin/sh"
    refused = vitals(lab, "build", program=dynamic, ok=(1,)).stderr
    check("linked dynamically" in refused and STATIC_BUILD in refused and "--base-image" in refused, refused)
    nowhere = f"127.0.0.1:{lab.free_port()}"
    refused = vitals(lab, "push", "--to", f"{nowhere}/vitals", ok=(1,)).stderr
    check(f"can't reach the registry {nowhere}" in refused, refused)
    refused = vitals(lab, "push", "--to", "vitals", ok=(2,)).stderr
    check("HOST/REPO[:TAG]" in refused, refused)
