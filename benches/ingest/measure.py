"""What a program and all that it starts take: time, CPU, memory.

CPU is what the kernel counts when a process is waited for: its own, and that of the children that it has waited for
itself. So it misses nothing between two looks, and counts no process twice. Memory is looked at while it runs.
"""

import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
POLL_S = 0.02


def cpu_s(pid):
    """CPU seconds of a process so far, in user and in kernel mode."""
    # The name, in brackets, may hold anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def tree(pid):
    """A process and its descendants, as far as they run."""
    found, at = [pid], 0
    while at < len(found):
        try:
            for task in Path(f"/proc/{found[at]}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            pass  # It has just ended.
        at += 1
    return found


def peak_mb(pid):
    """The most resident memory that a process has had, in MB; 0 where it has ended."""
    try:
        found = re.search(r"^VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return 0.0
    return int(found.group(1)) * 1024 / 1e6 if found else 0.0


@dataclass
class Usage:
    """What one run took."""

    seconds: float  # from its start to its end, or to the moment when everything was stored
    start_s: float  # of these, until it began to read
    cpu_s: float
    peak_mb: float  # of its largest process
    broker_cpu_s: float


class Took(Exception):
    """It ended badly, or too late; the text says how."""


def measured(start, broker_pid, began=None, stored=None, limit_s=3600):
    """Starts a process, follows it to its end and gives its usage.

    `began` is a pattern in what it says: from there on it reads. A program that runs for ever has `stored`, which tells
    whether everything is there; it is then killed, so that its own end is not measured.
    """
    broker_before, begun = cpu_s(broker_pid), time.monotonic()
    process = start()
    try:
        seconds, start_s, peak, used = follow(process, begun, began, stored, limit_s)
    except Took:
        process.kill()
        raise
    broker_cpu_s = cpu_s(broker_pid) - broker_before
    return Usage(seconds, start_s, used.ru_utime + used.ru_stime, peak, broker_cpu_s)


def follow(process, begun, began, stored, limit_s):
    """Until its end: seconds, those of its start, its peak of memory, and what the kernel counted."""
    start_s, seconds, peak = None, None, 0.0
    while True:
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        now = time.monotonic()
        if ended:
            break
        peak = max(peak, *(peak_mb(one) for one in tree(process.pid)))
        if began and start_s is None and re.search(began, process.text()):
            start_s = now - begun
        if stored and seconds is None and stored():
            seconds = time.monotonic() - begun
            os.killpg(process.pid, signal.SIGKILL)
        if now - begun > limit_s:
            raise Took(f"{process.name} was not done in {limit_s:.0f} s: {process.text()[-1000:]}")
        time.sleep(POLL_S)
    # The kernel tells a process's end once, and it has been taken here.
    process.child.returncode = os.waitstatus_to_exitcode(status)
    if seconds is None and (process.child.returncode or stored):
        raise Took(f"{process.name} ended with {process.child.returncode}: {process.text()[-2000:]}")
    return seconds or now - begun, start_s or 0.0, peak, used
