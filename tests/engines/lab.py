"""What a test gets: a folder, processes that end with the test, `vitals`, queries, and waiting with a limit."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Tuple

import engines

# How long anything may take that takes moments on a machine at rest.
PATIENCE_S = float(os.environ.get("VITALS_PATIENCE_S", 60))


def patient(seconds: float) -> float:
    """What on a machine at rest takes no longer than this, may here take so long."""
    return seconds * max(1.0, PATIENCE_S / 60)


class Failed(AssertionError):
    """Something is not as promised; the text says what."""


def check(holds: Any, message: str) -> None:
    """Fails with a message that says what was found. Unlike `assert` it can't be switched off."""
    if not holds:
        raise Failed(message)


def equal(found: Any, expected: Any, what: str) -> None:
    """Fails where two values differ, and shows both."""
    check(found == expected, f"{what}: expected {expected!r}, found {found!r}")


@dataclass(frozen=True)
class Test:
    """A test, as `@test` registered it."""

    function: Callable[["Lab"], None]
    name: str
    file: str
    promise: str
    needs: Tuple[str, ...]
    slow: bool
    limit_s: int


TESTS: list = []


def test(*needs: str, slow: bool = False, limit_s: int = 300):
    """Registers a function as a test that needs these engines."""
    unknown = [name for name in needs if name not in engines.ENGINES]
    assert not unknown, f"no such engine: {unknown}"

    def register(function):
        promise = " ".join((function.__doc__ or "").split("\n\n")[0].split())
        assert promise, f"{function.__name__} says nothing of what it tests"
        file = function.__module__[len("test_"):]
        TESTS.append(Test(function, function.__name__, file, promise, needs, slow, limit_s))
        return function

    return register


@contextlib.contextmanager
def time_limit(seconds: int):
    """Ends what hangs, wherever it hangs."""

    def over(*_):
        raise Failed(f"not done in {seconds} s")

    seconds = round(patient(seconds))
    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def find_program(root: Path) -> Path:
    """VITALS_BIN, or what cargo builds from the checkout in `root`."""
    given = os.environ.get("VITALS_BIN")
    if given:
        check(os.access(given, os.X_OK), f"VITALS_BIN is {given}, which is no program")
        return Path(given).resolve()
    build = ["cargo", "build", "--release", "--locked", "--bin", "vitals"]
    try:
        done = subprocess.run(build, cwd=root, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise Failed(f"running cargo: {error}; set VITALS_BIN to a built program") from error
    check(done.returncode == 0, f"`{' '.join(build)}` failed in {root}; VITALS_BIN names a built program instead")
    # Relative to where cargo ran.
    return (root / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "vitals").resolve()


# Below the ports that systems give to outgoing connections, so that nobody is given the one of a server that is away
# for a moment. In an order of chance, as several runs may go on at once; none is given twice in a run.
_ports = iter(random.sample(range(20_000, 32_768), 12_768))


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now, and that is free again when its server restarts."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise Failed("no port is free")


class Process:
    """A process of a test. What it says goes to its log, so it never waits for a reader."""

    def __init__(self, name: str, argv, log: Path, out: Path, **options):
        self.name, self.log, self.out = name, log, out
        with open(log, "ab") as errors, open(out, "ab") as output:
            # A session of its own: Ctrl-C reaches the runner only, which then ends this one and what it started.
            self.child = subprocess.Popen(
                [str(part) for part in argv], stdin=subprocess.DEVNULL, stdout=output, stderr=errors,
                start_new_session=True, **options,
            )
        self.pid = self.child.pid

    def text(self) -> str:
        """What it has said so far, on standard output and on standard error."""
        files = [self.log] if self.out == self.log else [self.out, self.log]
        return "".join(file.read_text(errors="replace") for file in files)

    def running(self) -> bool:
        return self.child.poll() is None

    def ended(self, patience_s: float = PATIENCE_S) -> int:
        """Waits for its end and gives its exit code."""
        try:
            return self.child.wait(patience_s)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{self.name} has not ended in {patience_s:.0f} s") from error

    def stop(self, how: int = signal.SIGTERM) -> int:
        """Asks it to end, and gives its exit code."""
        self.child.send_signal(how)
        return self.ended()

    def kill(self) -> None:
        """Ends it as a power cut would, with everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.child.wait()

    def close(self) -> None:
        """At the end of a test: asks, and where that does not help, kills."""
        if self.running():
            self.child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(10)
        self.kill()


class Lab:
    """One test's folder and everything that runs for it."""

    def __init__(self, name: str, program: Path, quick: bool = False):
        self.program, self.quick = program, quick
        self.folder = Path(tempfile.mkdtemp(prefix=f"vitals-{name}-"))
        self.processes: list = []
        self.numbers = itertools.count(1)

    # For engines, which can't import this file: it imports theirs.
    free_port = staticmethod(free_port)

    # ---- processes

    def start(self, name: str, argv, own_output: bool = False, **options) -> Process:
        """Starts a process that ends with the test. With `own_output` its standard output has a file of its own."""
        name = f"{next(self.numbers):02}-{name}"
        log = self.folder / f"{name}.log"
        process = Process(name, argv, log, self.folder / f"{name}.out" if own_output else log, **options)
        self.processes.append(process)
        return process

    def run(self, argv, ok=(0,), patience_s: float = PATIENCE_S, **options) -> subprocess.CompletedProcess:
        """Runs a command to its end; an exit code that is not in `ok` fails the test. Gives what it wrote as text."""
        argv = [str(part) for part in argv]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=patience_s, **options)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"`{' '.join(argv)}` was not done in {patience_s:.0f} s") from error
        if done.returncode not in ok:
            raise Failed(f"`{' '.join(argv)}` ended with {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done

    def engine(self, name: str) -> Any:
        """What is known of an installed engine."""
        return engines.installed(name)

    def start_engine(self, name: str, *args, **options) -> Any:
        """Starts an engine that is a server."""
        engines.installed(name)
        return engines.ENGINES[name].start(self, *args, **options)

    # ---- vitals

    def vitals(self, *args, ok=(0,), patience_s: float = PATIENCE_S) -> subprocess.CompletedProcess:
        """Runs a `vitals` command to its end."""
        return self.run([self.program, *args], ok=ok, patience_s=patience_s)

    def json(self, *args) -> Any:
        """The answer of a `vitals` command that knows `--output json`."""
        return json.loads(self.vitals(*args, "--output", "json").stdout)

    def query(self, lake: Path, sql: str) -> list:
        """The rows of a query, each a dictionary."""
        return self.json("query", "sql", sql, "--lake", lake, "--limit", "0")["rows"]

    def count(self, lake: Path, table: str = "readings", where: str = "true") -> int:
        """How many rows there are; none in a lake that has not begun."""
        if not any((lake / "landing").rglob("*.parquet")):
            return 0
        return self.query(lake, f"SELECT count(*) AS n FROM {table} WHERE {where}")[0]["n"]

    def wait_until_stored(self, lake: Path, expected: int, table: str = "readings", where: str = "true") -> None:
        """Waits until so many rows are in a lake; more than that fails."""
        what = f"{expected} {table} in the lake"
        self.wait_until(lambda: self.count(lake, table, where) >= expected, what, every_s=0.3)
        equal(self.count(lake, table, where), expected, what)

    def up(self, lake: Path = None, port: int = 0, listen: str = "off", more=()) -> Process:
        """Starts `vitals up`, by default on a new lake and a free port, without its report. Has `lake` and `port`."""
        lake = lake or self.folder / f"lake-{next(self.numbers):02}"
        where = ["--broker", f"127.0.0.1:{port}", "--listen", listen, "--lake", lake]
        argv = [self.program, "up", *where, "--window", "1", *more]
        server = self.start("vitals-up", argv)
        address = re.compile(r"broker on mqtt://127\.0\.0\.1:(\d+)")
        self.wait_until(lambda: address.search(server.text()), "`vitals up` says where its broker is", alive=server)
        server.port, server.lake = int(address.search(server.text()).group(1)), lake
        return server

    def end_up(self, server: Process) -> None:
        """Ends `vitals up` or `vitals ingest` as Ctrl-C does: it stores what is buffered and ends well."""
        equal(server.stop(signal.SIGINT), 0, f"exit code of {server.name} after Ctrl-C")

    # ---- waiting

    def wait_until(self, holds, what: str, patience_s: float = PATIENCE_S, every_s: float = 0.05, alive=None):
        """Waits until `holds()` is true and gives what it gave. A process in `alive` that ends meanwhile fails."""
        until = time.monotonic() + patience_s
        while True:
            found = holds()
            if found:
                return found
            if alive is not None and not alive.running():
                raise Failed(f"{alive.name} ended with {alive.child.returncode}: {alive.text()[-2000:].strip()}")
            check(time.monotonic() < until, f"not so after {patience_s:.0f} s: {what}")
            time.sleep(every_s)

    def wait_for_port(self, port: int, process: Process) -> None:
        """Waits until something listens on a port."""

        def listens():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True

        self.wait_until(listens, f"{process.name} listens on port {port}", alive=process)

    # ---- the end

    def close(self, keep: bool) -> None:
        """Ends what still runs, the last first, and removes the folder unless it is to be kept."""
        for process in reversed(self.processes):
            process.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
