"""How programs of other people are had: from PATH, from Debian, or by a registry into a cache outside the checkout."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path


class Missing(Exception):
    """It can't be had here; the text says why."""


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


@contextlib.contextmanager
def folder_once(name: str):
    """A folder of the cache, and whether it has still to be filled. It counts as filled once all went well."""
    folder = cache() / name
    done = folder / "complete"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two runs of the tests may go on at once: the second waits, and finds what the first has installed.
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fresh = not done.exists()
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        yield folder, fresh
        done.touch()


def python_packages(requirement: str) -> Path:
    """A Python environment with one package in a given version, and what it needs."""
    plain = requirement.replace("==", "-").replace("[", "-").replace("]", "")
    with folder_once(f"python-{sys.version_info[0]}.{sys.version_info[1]}/{plain}") as (folder, fresh):
        if fresh:
            run([sys.executable, "-m", "venv", folder], "making a Python environment (Debian: python3-venv)")
            # Wheels only: whether a package can be built here is not what is tested.
            pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            run([*pip, "--only-binary", ":all:", requirement], f"installing {requirement}")
    return folder


def node_packages(*requirements: str) -> dict:
    """The path of a node, and a folder with packages in given versions. A module finds them if it lies in that folder."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not node or not npm:
        raise Missing("node and npm (18 or newer) are not on PATH")
    with folder_once("node/" + "+".join(requirements).replace("@", "-")) as (folder, fresh):
        if fresh:
            # A file of its own, or npm would install into a project above it.
            (folder / "package.json").write_text('{"private": true}\n')
            wanted = " ".join(requirements)
            run([npm, "install", "--no-audit", "--no-fund", *requirements], f"installing {wanted}", cwd=folder)
    return {"node": node, "folder": folder}


def site_packages(environment: Path) -> Path:
    """Where an environment has its packages."""
    return next((environment / "lib").glob("python*/site-packages"))


def importable(environment: Path) -> Path:
    """Lets this process import from an environment, whose Python is this one."""
    packages = site_packages(environment)
    if str(packages) not in sys.path:
        sys.path.append(str(packages))
    return packages
