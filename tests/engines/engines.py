"""Programs of other people that tests run against: how each is had, and how it is started.

An entry of ENGINES has `install`, which gives what a test needs to know of it (paths, mostly) or raises `Missing`, and
may have `start`, which gives a running process that the lab ends. `install` runs once in a run of the tests.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

PAHO = "paho-mqtt==2.1.0"
PLAYWRIGHT = "playwright-core@1.56.1"


class Missing(Exception):
    """It can't be had here; the text says why."""


@dataclass(frozen=True)
class Engine:
    """One program: how it is installed, and, where it is a server, how it is started in a lab."""

    install: Callable[[], Any]
    start: Optional[Callable[..., Any]] = None


def cache() -> Path:
    """Where things are installed: outside the checkout, so that a fresh clone finds them."""
    return Path(os.environ.get("VITALS_ENGINES") or Path.home() / ".cache" / "vitals-engines")


def run(argv, why, **options):
    """Runs an installer; what it said is the reason if it fails."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900,
            **options,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{why}: {error}") from error
    if done.returncode != 0:
        last = [line for line in done.stdout.splitlines() if line.strip()][-1:] or ["no output"]
        raise Missing(f"{why}: `{' '.join(map(str, argv))}` ended with {done.returncode}: {last[0].strip()}")
    return done.stdout


_lists_read = False


def from_debian(program: str, package: str) -> str:
    """The path of a program: the one on PATH, else Debian's, where this may be installed."""
    global _lists_read
    # Servers are in sbin, which is not on everybody's PATH.
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin"
    found = shutil.which(program, path=path)
    if found:
        return found
    if not shutil.which("apt-get"):
        raise Missing(f"{program} is not on PATH, and there is no apt-get to install it")
    if os.geteuid() != 0:
        raise Missing(f"{program} is not on PATH: run `apt-get install {package}` as root")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    if not _lists_read:
        run(["apt-get", "update"], "reading Debian's package lists", env=environment)
        _lists_read = True
    # Installing a server must not start it: a broker on the usual port is not ours.
    environment["RUNLEVEL"] = "1"
    run(["apt-get", "install", "-y", "--no-install-recommends", package], f"installing {package}", env=environment)
    found = shutil.which(program, path=path)
    if not found:
        raise Missing(f"{package} was installed and there is still no {program}")
    return found


def install_paho() -> Path:
    """Puts paho on this process's path, from an environment of its own."""
    folder = cache() / f"python-{sys.version_info[0]}.{sys.version_info[1]}" / PAHO.replace("==", "-")
    python = folder / "bin" / "python"
    done = folder / "complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        run([sys.executable, "-m", "venv", folder], "making a Python environment (Debian: python3-venv)")
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PAHO], f"installing {PAHO}")
        done.touch()
    # The package is Python only, and the environment's Python is this one, so its packages can be used from here.
    packages = next((folder / "lib").glob("python*/site-packages"))
    if str(packages) not in sys.path:
        sys.path.append(str(packages))
    return packages


def install_browser() -> dict:
    """A Chromium, a node, and a folder of node packages from which it is driven."""
    chromium = shutil.which("chromium-browser") or shutil.which("google-chrome") or from_debian("chromium", "chromium")
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise Missing("node and npm (18 or newer) are not on PATH")
    folder = cache() / "node" / PLAYWRIGHT.replace("@", "-")
    done = folder / "complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        # A file of its own, or npm would install into a project above it.
        (folder / "package.json").write_text('{"private": true}\n')
        run([npm, "install", "--no-audit", "--no-fund", PLAYWRIGHT], f"installing {PLAYWRIGHT}", cwd=folder)
        done.touch()
    return {"chromium": chromium, "node": node, "folder": folder}


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
