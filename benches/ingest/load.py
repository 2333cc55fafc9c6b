"""The load: packets of a fleet as a file, the same for the same amounts, and how it gets into a topic.

Each of the devices measures about once a minute: on its own second of the minute, with a normally distributed jitter of
a second, in milliseconds. A vital is the device's own level, a slow walk around it, and noise of the sensor, rounded to
what sensors show: integers, and tenths of a degree. So a column has the entropy that a ward's would have, and so have
its steps within a device. Run as a program, this writes one worker's share of the file.
"""

import os
import random
import subprocess
import sys
import time
from array import array
from pathlib import Path

# Part of the file's name: raise it when the packets change.
VERSION = 1
START_MS = 1_795_410_000_000  # 2026-11-23T05:00:00Z
MINUTE_MS = 60_000
JITTER_MS = 1000
SEED = 20261123
WORKERS = 2
NOISES = 1 << 18  # a table, as drawing them one by one would take most of the time

# Level of the fleet, spread of its devices, step of the walk, noise of the sensor, bounds, steps per unit.
VITALS = {
    "heart_rate": (76, 11, 0.9, 2.2, 35, 190, 1),
    "systolic": (122, 12, 0.8, 3.5, 70, 220, 1),
    "diastolic": (76, 8, 0.6, 2.5, 40, 130, 1),
    "temperature": (36.8, 0.28, 0.02, 0.07, 34, 41, 10),
    "spo2": (96.8, 1.1, 0.08, 0.6, 80, 100, 1),
    "respiratory_rate": (15.5, 2.2, 0.2, 0.9, 6, 40, 1),
}


class Device:
    """One device, which gives a packet at a time."""

    def __init__(self, number, noise):
        rng = random.Random(SEED * 1_000_003 + number)
        self.name, self.noise = f"device_{number}", noise
        self.phase_ms = rng.randrange(MINUTE_MS)
        self.seq = rng.randrange(100_000)
        self.levels = [rng.gauss(mean, spread) for mean, spread, *_ in VITALS.values()]
        self.walks = [0.0] * len(VITALS)
        self.at = rng.randrange(NOISES)
        self.stride = rng.randrange(1, NOISES, 2)  # odd, so every device goes through the whole table in its own order
        self.kinds = [kind[2:] for kind in VITALS.values()]

    def line(self, minute):
        noise, at, stride = self.noise, self.at, self.stride
        shown = []
        for i, (step, sensor, low, high, scale) in enumerate(self.kinds):
            at = (at + stride) % NOISES
            walk = self.walks[i] = 0.98 * self.walks[i] + step * noise[at]
            at = (at + 1) % NOISES
            value = self.levels[i] + walk + sensor * noise[at]
            shown.append(round(min(max(value, low), high) * scale))
        at = (at + stride) % NOISES
        ts_ms = START_MS + minute * MINUTE_MS + self.phase_ms + round(JITTER_MS * noise[at])
        self.at = at
        self.seq += 1
        heart_rate, systolic, diastolic, tenths, spo2, respiratory_rate = shown
        return (
            f'{self.name}|{{"device_id":"{self.name}","timestamp":"{clock(ts_ms)}","heart_rate":{heart_rate},'
            f'"blood_pressure":"{systolic}/{diastolic}","temperature":{tenths // 10}.{tenths % 10},"spo2":{spo2},'
            f'"respiratory_rate":{respiratory_rate},"seq":{self.seq}}}\n'
        )


_seconds = {}


def clock(ts_ms):
    second, ms = divmod(ts_ms, 1000)
    text = _seconds.get(second)
    if text is None:
        if len(_seconds) > 10_000:
            _seconds.clear()
        text = _seconds[second] = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
    return f"{text}{ms:03}Z"


def share(file, records, devices, worker, workers):
    """Writes every packet of each `workers`th device, and yields where each minute begins in the file."""
    rng = random.Random(SEED)
    noise = array("d", (rng.gauss(0, 1) for _ in range(NOISES)))
    fleet = [Device(n, noise) for n in range(worker, devices, workers)]
    minutes, rest = divmod(records, devices)
    for minute in range(minutes + 1):
        yield file.tell()
        # The last minute may be part of one: the first devices by number.
        lines = (d.line(minute) for d in fleet if minute < minutes or int(d.name[7:]) < rest)
        file.write("".join(lines).encode())
    yield file.tell()


def work(path, records, devices, worker, workers):
    with open(path, "wb") as file:
        ends = list(share(file, records, devices, worker, workers))
    with open(f"{path}.minutes", "wb") as file:
        array("Q", ends).tofile(file)


def measured_at(line):
    at = line.index(b'"timestamp":"') + 13
    return line[at : at + 24]


def merge(parts, target):
    """Minute by minute from all parts, in the order of time: who comes before whom is then as jitter has it."""
    bounds = []
    for part in parts:
        ends = array("Q")
        with open(f"{part}.minutes", "rb") as file:
            ends.frombytes(file.read())
        bounds.append(ends)
    files = [open(part, "rb") for part in parts]
    with open(target, "wb") as out:
        for minute in range(len(bounds[0]) - 1):
            data = b"".join(file.read(ends[minute + 1] - ends[minute]) for file, ends in zip(files, bounds))
            out.write(b"".join(sorted(data.splitlines(keepends=True), key=measured_at)))
    for file in files:
        file.close()


def packets(folder, records, devices):
    """The file of packets, lines of `key|packet`; it is made where it isn't there from an earlier run."""
    done = folder / f"packets-{VERSION}-{records}-{devices}.txt"
    if done.exists():
        return done
    folder.mkdir(parents=True, exist_ok=True)
    parts = [folder / f"{done.stem}.{os.getpid()}.{worker}" for worker in range(WORKERS)]
    mine = folder / f"{done.stem}.{os.getpid()}.all"
    try:
        argv = [[sys.executable, __file__, part, records, devices, n, WORKERS] for n, part in enumerate(parts)]
        children = [subprocess.Popen([str(word) for word in words]) for words in argv]
        if any([child.wait() for child in children]):
            raise RuntimeError("a worker that makes packets failed")
        merge(parts, mine)
        # Half a file must never look like one.
        mine.rename(done)
    finally:
        for path in [mine, *parts, *(Path(f"{part}.minutes") for part in parts)]:
            path.unlink(missing_ok=True)
    return done


if __name__ == "__main__":
    path, *numbers = sys.argv[1:]
    work(path, *map(int, numbers))
