"""A test in a process of its own, so that a library of the test's that crashes ends that test and no other."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Callable, Optional, Tuple

PR_SET_CHILD_SUBREAPER = 36


def run(task: Callable[[], Tuple[str, str]]) -> Tuple[Optional[Tuple[str, str]], int]:
    """Runs `task` in a child. Gives what it gave, or None, and the number of the signal that the child died of, or 0."""
    # What a child that crashed has started becomes ours, and is found.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    sys.stdout.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        in_child(task, writer)
    os.close(writer)
    try:
        said = read_all(reader)
        status = os.waitpid(child, 0)[1]
    except BaseException:
        # It was told by Ctrl-C as well; by SIGTERM we alone were. It puts away what it has started.
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(reader)
    end_orphans()
    return (tuple(json.loads(said)) if said else None), (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)


def in_child(task, writer: int) -> None:
    """Does the task, and ends."""
    code = 1
    try:
        result = json.dumps(task()).encode()
        while result:
            result = result[os.write(writer, result):]
        code = 0
    except (KeyboardInterrupt, SystemExit):
        code = 130
    finally:
        sys.stdout.flush()
        # Without what an interpreter does at its end: that belongs to the parent.
        os._exit(code)


def read_all(reader: int) -> bytes:
    """Everything that comes until the other end is closed."""
    parts = []
    while part := os.read(reader, 65_536):
        parts.append(part)
    return b"".join(parts)


def end_orphans() -> None:
    """Kills what the child has left."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in brackets, may have anything in it.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid():
                pid = int(stat.parent.name)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        except (OSError, ValueError, IndexError):
            continue
