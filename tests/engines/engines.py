"""Programs of other people that tests run against: how each is had, and how it is started.

An entry of ENGINES has `install`, which gives what a test needs to know of it (paths, mostly) or raises `Missing`, and
may have `start`, which gives a running process that the lab ends. `install` runs once in a run of the tests.
"""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import kafka
import ministack
import registry
import s3
import spark
import trino
from install import (  # noqa: F401
    Missing, cache, folder_once, from_debian, importable, node_packages, python_packages, run, site_packages,
)

PAHO = "paho-mqtt==2.1.0"
PROMETHEUS = "prometheus-client==0.23.1"
PLAYWRIGHT = "playwright-core@1.56.1"
STATE_MACHINES = ("asl-validator@4.0.0", "aws-local-stepfunctions@3.0.0")
# For the models of services that it carries.
BOTOCORE = "botocore==1.44.8"


@dataclass(frozen=True)
class Engine:
    """One program: how it is installed, and, where it is a server, how it is started in a lab."""

    install: Callable[[], Any]
    start: Optional[Callable[..., Any]] = None


def install_paho() -> Path:
    """Puts paho on this process's path, from an environment of its own."""
    return importable(python_packages(PAHO))


def install_prometheus() -> Path:
    """Lets this process import `prometheus_client`, whose parser is Prometheus's own in Python."""
    return importable(python_packages(PROMETHEUS))


def install_browser() -> dict:
    """A Chromium, a node, and a folder of node packages from which it is driven."""
    chromium = shutil.which("chromium-browser") or shutil.which("google-chrome") or from_debian("chromium", "chromium")
    return {"chromium": chromium, **node_packages(PLAYWRIGHT)}


def install_stepfunctions() -> dict:
    """A node, a folder of node packages with a validator and an interpreter of state machines, and the models of services."""
    models = site_packages(python_packages(BOTOCORE)) / "botocore" / "data"
    return {"models": models, **node_packages(*STATE_MACHINES)}


def install_mosquitto() -> str:
    """The path of the broker."""
    return from_debian("mosquitto", "mosquitto")


def install_clients() -> dict:
    """The paths of `mosquitto_pub` and `mosquitto_sub`."""
    return {name: from_debian(f"mosquitto_{name}", "mosquitto-clients") for name in ("pub", "sub")}


def start_mosquitto(lab, port: int, settings: str = "", verbose: bool = True):
    """A broker on a port of 127.0.0.1 with further lines of configuration. Its queues have no limits, so it drops nothing."""
    folder = lab.folder / f"mosquitto-{port}"
    folder.mkdir(exist_ok=True)
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\n"
        "allow_anonymous true\n"
        "max_queued_messages 0\nmax_queued_bytes 0\n"
        f"persistence_location {folder}/\n"
        # As root it would become another user, who may not write here.
        f"user {pwd.getpwuid(os.geteuid()).pw_name}\n" + settings
    )
    broker = lab.start("mosquitto", [installed("mosquitto"), *(["-v"] if verbose else []), "-c", config])
    broker.port = port
    lab.wait_for_port(port, broker)
    return broker


ENGINES = {
    "paho": Engine(install_paho),
    "mosquitto": Engine(install_mosquitto, start_mosquitto),
    "mosquitto_clients": Engine(install_clients),
    "browser": Engine(install_browser),
    "stepfunctions": Engine(install_stepfunctions),
    "kafka": Engine(kafka.install, kafka.start),
    "confluent": Engine(kafka.install_confluent),
    "moto": Engine(s3.install, s3.start),
    "spark": Engine(spark.install, spark.start),
    "spark_s3": Engine(spark.install_s3),
    "registry": Engine(registry.install, registry.start),
    "skopeo": Engine(lambda: from_debian("skopeo", "skopeo")),
    "prometheus": Engine(install_prometheus),
    "ministack": Engine(ministack.install, ministack.start),
    "trino": Engine(trino.install, trino.start),
}

_installed: dict = {}


def installed(name: str) -> Any:
    """What `install` of an engine gave; it is installed when it is first asked for."""
    if name not in _installed:
        try:
            _installed[name] = ENGINES[name].install()
        except Missing as missing:
            _installed[name] = missing
    if isinstance(_installed[name], Missing):
        raise _installed[name]
    return _installed[name]
