"""Exactly once, whatever crashes: workers, brokers and the store are hit at chosen and at random moments.

    VITALS_FAULTS=500 VITALS_SEED=7 tests/engines/run --only crash_long

What is done to whom, and in which order, follows from the seed, which is printed; the moments are those of the machine.
"""

from __future__ import annotations

import collections
import heapq
import itertools
import json
import os
import random
import shutil
import signal
import threading
import time
from dataclasses import dataclass
from typing import Callable, Optional

from kafka import done, known_brokers
from lab import Failed, check, equal, patient, test
from proxy import Proxy
from readings import BAD, now_ms
from test_s3 import Lake

TOPIC, GROUP, CHAIN = "vitals", "the-workers", "kafka-vitals"
PARTITIONS = 6
SESSION_S = 6
OUTLIERS = """SELECT device_id, ts, seq, cause, score, artifact, episode, why, model FROM outliers
              ORDER BY device_id, seq"""

# How long a worker that is asked to end may take: what waits for the store 8 s, the rest is some answers.
GOODBYE_S = patient(20)

# Of those that don't crash what they hit, each does so for some seconds. Every kind is dealt before one comes again.
OF_WORKERS = ("kill", "kill_twice", "zombie", "stall", "terminate", "offsets")
OF_BROKERS = ("broker_killed", "broker_paused", "brokers_paused")
OF_STORE = ("before_put", "within_put", "after_put", "late_put", "store_errors", "store_slow", "store_conflicts",
            "store_loses_answers", "store_down")
OF_FOLDER = ("kill_all", "when_it_appears", "while_it_is_staged")


def setting(name: str, otherwise: int) -> int:
    """A number from the environment."""
    return int(os.environ.get(name, otherwise))


@dataclass(frozen=True)
class Fault:
    """What is to be done, when (after the one before it), to whom, and how long or in which way (0 to 1)."""

    kind: str
    after_s: float
    whom: int
    much: float


def plan(seed: int, count: int, kinds: tuple) -> list:
    """The faults of a run."""
    chance, bag, faults = random.Random(seed), [], []
    for _ in range(count):
        if not bag:
            bag = chance.sample(kinds, len(kinds))
        faults.append(Fault(bag.pop(), chance.uniform(0.2, 3.0), chance.randrange(1000), chance.random()))
    return faults


# ---- what is sent


class Sender:
    """A producer with some devices that sends numbered readings from a thread until it is told to end."""

    def __init__(self, cluster, number: int, seed: int, per_second: int):
        self.producer, self.chance = cluster.producer(), random.Random(f"{seed}-{number}")
        self.seqs = {f"ward{number}_device{n}": 0 for n in range(4)}
        self.period_s, self.began_ms = 1 / per_second, now_ms() - 20 * 86_400_000
        self.readings: list = []
        self.bad = collections.Counter()
        self.failed: list = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        due = time.monotonic()
        while not self.over.is_set():
            self.send(self.chance.choice(list(self.seqs)))
            due += self.period_s
            self.producer.poll(max(0.0, due - time.monotonic()))

    def send(self, device: str) -> None:
        lot = self.chance.random()
        if lot < 0.01:
            payload, reason = self.chance.choice(BAD)
            self.bad[reason] += 1
            self.produce(device, payload, [])
        elif lot < 0.05:
            batch = [self.reading(device) for _ in range(3)]
            self.produce(device, json.dumps({"readings": batch}), batch)
        else:
            reading = self.reading(device)
            self.produce(device, json.dumps(reading), [reading])

    def reading(self, device: str) -> dict:
        """The next one: a heart rate that wanders, and is far away for a while now and then."""
        seq = self.seqs[device]
        self.seqs[device] += 1
        far = seq % 300 > 285
        wander = seq * 7 % 11
        return {"timestamp": self.began_ms + seq * 2000, "heart_rate": (180 if far else 65) + wander, "spo2": 97,
                "seq": seq}

    def produce(self, device: str, payload: str, batch: list) -> None:
        sent = [{"device_id": device, **reading, "published_ms": now_ms(), "acknowledged_ms": None, "sends": 1}
                for reading in batch]
        self.readings += sent

        def told(error, _message):
            if error:
                self.failed.append(error.str())
            for reading in sent:
                reading["acknowledged_ms"] = now_ms()

        while True:
            try:
                return self.producer.produce(TOPIC, payload, device, on_delivery=told)
            except BufferError:
                self.producer.poll(0.1)

    def end(self) -> None:
        """Ends, when everything was acknowledged."""
        self.over.set()
        self.thread.join()
        equal(self.producer.flush(90), 0, "records without an answer")
        equal(self.failed[:3], [], "records that were not taken")


# ---- who is hit


class Slot:
    """A place of a worker: its process, and the next one when that was ended."""

    def __init__(self, crash: "Crash", number: int):
        self.crash, self.name = crash, f"worker{number}"
        self.process = None
        # It ends because it was made to.
        self.ending = True

    def start(self) -> None:
        crash = self.crash
        argv = [crash.lab.program, "ingest", *crash.arguments, "--group", GROUP, "--lake", crash.place]
        self.process = crash.lab.start(self.name, argv, env=crash.env_of(self.name))
        # At the end of a test nothing of it is needed any more.
        self.process.close = self.process.kill
        self.ending = False
        crash.did["starts"] += 1

    @property
    def up(self) -> bool:
        return not self.ending and self.process.running()

    def signal(self, how: int) -> None:
        self.process.child.send_signal(how)

    def kill(self, back_s: float) -> None:
        """Ends it as a power cut would; another one comes in its place."""
        self.ending = True
        self.signal(signal.SIGKILL)
        self.crash.later(back_s, self.start)

    def stop(self, seconds: float) -> None:
        """It hangs for some seconds."""
        process = self.process
        self.signal(signal.SIGSTOP)
        self.crash.later(seconds, lambda: process.child.send_signal(signal.SIGCONT))

    def terminate(self, then: Callable[[], None]) -> None:
        """Asks it to end, and goes on when it has."""
        self.ending, begun = True, time.monotonic()
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)

        def look():
            took = time.monotonic() - begun
            if self.process.running():
                check(took < GOODBYE_S, f"{self.process.name} has not ended {took:.0f} s after SIGTERM")
                return self.crash.later(0.05, look)
            code, text = self.process.child.returncode, self.process.text()
            self.crash.goodbye_s = max(self.crash.goodbye_s, took)
            # Where the store is away, or brokers don't say that the topic is still the same, it can't store everything, and
            # says so.
            late = code == 1 and self.crash.is_troubled() and "could not be stored" in text
            fresh = code == -signal.SIGTERM and not began(text)
            check(code == 0 or late or fresh, f"{self.process.name} ended with {code} after SIGTERM: {text[-2000:]}")
            then()

        look()


def began(text: str) -> bool:
    """Whether a worker has come as far as to read."""
    return "as a worker of" in text


class Crash:
    """One run: a cluster, a lake, senders and workers, and what is done to them."""

    def __init__(self, lab, on_s3: bool, faults: int, seed: int, workers: int, per_second: int = 300):
        self.lab, self.seed, self.on_s3 = lab, seed, on_s3
        kinds = OF_WORKERS + OF_BROKERS + (OF_STORE if on_s3 else OF_FOLDER)
        self.plan = plan(seed, faults, kinds)
        where = "on S3" if on_s3 else "in a folder"
        print(f"     seed {seed}, {faults} faults, {workers} workers, lake {where}", flush=True)
        self.did: collections.Counter = collections.Counter()
        self.faults: collections.Counter = collections.Counter()
        self.goodbye_s = 0.0
        self.actions: list = []
        self.numbers, self.lock = itertools.count(), threading.RLock()
        self.cluster = lab.start_engine("kafka", brokers=3)
        # Whether a broker is away, and when the last one came back.
        self.away, self.away_until = False, 0.0
        self.cluster.create_topic(TOPIC, PARTITIONS, {"message.timestamp.type": "LogAppendTime"})
        self.s3 = self.proxy = None
        if on_s3:
            self.s3 = lab.start_engine("moto")
            self.proxy = Proxy(lab, self.s3.endpoint, seed=seed)
            self.place = f"{self.s3.url}/lake"
        else:
            self.place = lab.folder / "lake"
        self.trouble_until = 0.0
        session = [f"session.timeout.ms={SESSION_S * 1000}", "heartbeat.interval.ms=1000"]
        self.arguments = ["--from", f"kafka://{self.cluster.bootstrap}/{TOPIC}", "--window", "1", "--memory", "64MB",
                          "--score", *(part for setting in session for part in ("--kafka-set", setting))]
        self.senders = [Sender(self.cluster, n, seed, per_second) for n in range(2)]
        self.slots = [Slot(self, n) for n in range(1, workers + 1)]
        for slot in self.slots:
            slot.start()

    def env_of(self, who: str) -> dict:
        return {**os.environ, **(self.s3.env_at(self.proxy.endpoint, who) if self.on_s3 else {})}

    # ---- time

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Has something done by the main thread after some seconds."""
        with self.lock:
            heapq.heappush(self.actions, (time.monotonic() + seconds, next(self.numbers), action))

    def go_on(self) -> None:
        """Does what is due, and looks after the workers."""
        while True:
            with self.lock:
                if not self.actions or self.actions[0][0] > time.monotonic():
                    break
                action = heapq.heappop(self.actions)[2]
            action()
        for slot in self.slots:
            if not slot.ending and not slot.process.running() and not slot.ending:
                self.ended_by_itself(slot)
        time.sleep(0.01)

    def ended_by_itself(self, slot: Slot) -> None:
        text = slot.process.text()
        # Who is started while nobody answers may give up; whoever starts it does so again.
        refused = not began(text) and ("can't reach Kafka" in text or self.store_troubled())
        check(refused, f"{slot.process.name} ended with {slot.process.child.returncode}: {text[-3000:]}")
        self.did["starts refused"] += 1
        slot.ending = True
        self.later(0.5, slot.start)

    def until(self, holds: Callable[[], bool], what: str, patience_s: float) -> None:
        """Goes on until something is so."""
        patience_s = patient(patience_s)
        until = time.monotonic() + patience_s
        while not holds():
            check(time.monotonic() < until, f"not so after {patience_s:.0f} s: {what}")
            self.go_on()

    def store_troubled(self) -> bool:
        return time.monotonic() < self.trouble_until + 10

    def is_troubled(self) -> bool:
        """Whether store or brokers are away, or were a moment ago."""
        return self.store_troubled() or self.away or time.monotonic() < self.away_until + 10

    # ---- faults

    def run(self) -> None:
        """All faults of the plan, one after the other; what one does may still go on when the next comes."""
        for number, fault in enumerate(self.plan):
            due = time.monotonic() + fault.after_s
            self.until(lambda: time.monotonic() >= due, "time goes on", 60)
            what = f"fault {number} ({fault.kind}) can be done"
            self.until(lambda: getattr(self, fault.kind)(fault) is not False, what, 180)
            self.faults[fault.kind] += 1
        self.until(lambda: not self.actions, "all faults are over", 90)

    def up_slot(self, fault: Fault) -> Optional[Slot]:
        up = [slot for slot in self.slots if slot.up]
        return up[fault.whom % len(up)] if up else None

    def on_worker(self, fault: Fault, do: Callable[[Slot], None]):
        slot = self.up_slot(fault)
        return False if slot is None else do(slot)

    def kill(self, fault):
        """A worker is killed."""
        return self.on_worker(fault, lambda slot: slot.kill(3 * fault.much))

    def kill_twice(self, fault):
        """… and the one in its place as well, soon after its start."""

        def again(slot):
            if slot.up:
                slot.kill(0.1)

        def twice(slot):
            slot.kill(0.05)
            self.later(0.2 + 2 * fault.much, lambda: again(slot))

        return self.on_worker(fault, twice)

    def kill_all(self, _fault):
        """All workers at once."""
        for slot in self.slots:
            if slot.up:
                slot.kill(0.1)

    def zombie(self, fault):
        """A worker hangs for so long that the group gives its partitions to others, and then goes on."""
        return self.on_worker(fault, lambda slot: slot.stop(SESSION_S + 1 + 3 * fault.much))

    def stall(self, fault):
        """A worker hangs, though not for so long."""
        return self.on_worker(fault, lambda slot: slot.stop(0.5 + (SESSION_S - 2) * fault.much))

    def terminate(self, fault):
        """A worker is asked to end."""
        back = lambda slot: self.later(2 * fault.much, slot.start)
        return self.on_worker(fault, lambda slot: slot.terminate(lambda: back(slot)))

    def offsets(self, fault):
        """All workers end, and the group's offsets are deleted, or set to the beginning or behind the end."""
        if not all(slot.up for slot in self.slots):
            return False
        waiting = set(self.slots)
        until = time.monotonic() + patient(120)

        def change():
            # From a thread of its own: a broker that hangs can only answer when the main one has let it go on.
            failed: list = []
            thread = threading.Thread(target=try_to_change, args=(failed,), daemon=True)
            thread.start()
            look(thread, failed)

        def try_to_change(failed):
            try:
                self.change_offsets(int(fault.much * 3))
            except Exception as error:  # The group has members yet, whose end it has not noticed; or brokers are away.
                self.cluster.forget_admin()
                failed.append(error)

        def look(thread, failed):
            if thread.is_alive():
                return self.later(0.05, lambda: look(thread, failed))
            if failed:
                check(time.monotonic() < until, f"the group's offsets can't be changed: {failed[0]!r}")
                return self.later(0.5, change)
            for slot in self.slots:
                slot.start()

        def ended(slot):
            waiting.discard(slot)
            if not waiting:
                change()

        for slot in self.slots:
            slot.terminate(lambda slot=slot: ended(slot))

    def change_offsets(self, how: int) -> None:
        from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
        if how == 0:
            self.cluster.delete_group(GROUP)
        else:
            places = [TopicPartition(TOPIC, number, 0 if how == 1 else 10**9) for number in range(PARTITIONS)]
            asked = self.cluster.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(GROUP, places)])
            done(asked, patience_s=20)
        self.did[("offsets deleted", "offsets set to 0", "offsets set behind the end")[how]] += 1

    def broker_killed(self, fault):
        """A broker is killed, and comes back."""
        return self.on_broker(fault, lambda broker: broker.kill(), lambda broker: broker.start(), 0.5 + 3 * fault.much)

    def broker_paused(self, fault):
        """A broker hangs, perhaps for so long that others take over."""
        return self.on_broker(fault, lambda broker: broker.pause(), lambda broker: broker.resume(), 1 + 5 * fault.much)

    def on_broker(self, fault, do, undo, seconds):
        if self.away:
            return False
        self.away = True
        broker = self.cluster.brokers[fault.whom % len(self.cluster.brokers)]

        def back():
            if broker.number in known_brokers(broker.port):
                self.away, self.away_until = False, time.monotonic()
            else:
                self.later(0.3, back)

        def end():
            undo(broker)
            back()

        do(broker)
        self.later(seconds, end)

    def brokers_paused(self, fault):
        """All brokers hang for a while."""
        if self.away:
            return False
        self.away = True

        def end():
            for broker in self.cluster.brokers:
                broker.resume()
            self.away, self.away_until = False, time.monotonic()

        for broker in self.cluster.brokers:
            broker.pause()
        self.later(1 + 3 * fault.much, end)

    # ---- the moment of a PUT

    def at_put(self, fault, kind: str, do: Callable[[Slot], None], seconds: float = 0.0):
        """Does something to the worker that next creates a landing file."""
        if not any(slot.up for slot in self.slots):
            return False
        hit, slots = threading.Event(), {slot.name: slot for slot in self.slots}

        def hook(request):
            slot = slots[request.who]
            if slot.up:
                do(slot)
                hit.set()

        rule = self.proxy.add(kind, times=1, method="PUT", path="/landing/", created=True, seconds=seconds, hook=hook,
                              first=True)
        until = time.monotonic() + 15

        def look():
            if hit.is_set():
                self.did[f"{fault.kind}, at the moment"] += 1
            elif time.monotonic() < until:
                self.later(0.05, look)
            else:
                self.proxy.remove(rule)

        look()

    def before_put(self, fault):
        """A worker is killed when it writes, and what it writes comes to nothing."""
        return self.at_put(fault, "drop", lambda slot: slot.kill(fault.much))

    def within_put(self, fault):
        """A worker is killed when what it wrote is stored, and before it hears of that."""
        return self.at_put(fault, "lose_answer", lambda slot: slot.kill(fault.much))

    def after_put(self, fault):
        """A worker is killed after it heard that it is stored: before, or soon after, offsets are committed."""
        soon = 0.03 + 1.5 * fault.much ** 2
        later = lambda slot: self.later(soon, lambda: slot.up and slot.kill(0.5))
        return self.at_put(fault, "delay", later)

    def late_put(self, fault):
        """A worker hangs while it writes, others take over, and only then what it wrote reaches the store."""
        seconds = SESSION_S + 4 * fault.much
        return self.at_put(fault, "delay", lambda slot: slot.stop(seconds + 2), seconds)

    def when_it_appears(self, fault):
        """All workers are killed as soon as a new landing file can be seen."""
        return self.at_file(fault, lambda: sum(1 for _ in (self.place / "landing").rglob("*.parquet")))

    def while_it_is_staged(self, fault):
        """All workers are killed while one of them writes a file that can't be seen yet."""
        return self.at_file(fault, lambda: sum(1 for _ in (self.place / ".staging").glob("*")))

    def at_file(self, fault, count):
        if not any(slot.up for slot in self.slots):
            return False

        def watch():
            # From a thread of its own, as the moment is short.
            before, until = count(), time.monotonic() + 10
            while time.monotonic() < until:
                now = count()
                if now > before:
                    self.did[f"{fault.kind}, at the moment"] += 1
                    return self.kill_all(fault)
                before = now

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        wait = lambda: self.later(0.05, wait) if thread.is_alive() else None
        wait()

    # ---- the store

    def trouble(self, fault, *kinds, seconds: float = 0.0):
        lasts = 1 + 4 * fault.much
        rules = [self.proxy.add(kind, chance=chance, seconds=seconds) for kind, chance in kinds]
        self.trouble_until = max(self.trouble_until, time.monotonic() + lasts)
        self.later(lasts, lambda: [self.proxy.remove(rule) for rule in rules])

    def store_errors(self, fault):
        """The store says that it is too busy, or that something is wrong with it."""
        return self.trouble(fault, ("slow_down", 0.4), ("internal_error", 0.5))

    def store_slow(self, fault):
        """The store takes its time."""
        return self.trouble(fault, ("delay", 0.7), seconds=1.5)

    def store_conflicts(self, fault):
        """The store can't tell who came first."""
        return self.trouble(fault, ("conflict", 0.7))

    def store_loses_answers(self, fault):
        """The store does what it is asked, and its answers get lost."""
        return self.trouble(fault, ("lose_answer", 0.5), ("cut_answer", 0.3))

    def store_down(self, fault):
        """Nobody is there."""
        lasts = 1 + 7 * fault.much
        self.trouble_until = max(self.trouble_until, time.monotonic() + lasts)
        self.proxy.down(seconds=lasts)

    # ---- the end

    def end(self) -> Lake:
        """Ends everybody, and stores what is left; gives the lake."""
        self.cluster.wait()
        self.until(lambda: all(slot.up and began(slot.process.text()) for slot in self.slots), "all workers read", 60)
        self.caught_up()
        for sender in self.senders:
            sender.end()
        # Not in their way: whether they go well when nothing is wrong is a promise of its own.
        self.trouble_until = 0.0
        self.until(lambda: not self.store_troubled(), "the store is well", 1)
        for slot in self.slots:
            slot.signal(signal.SIGTERM)
            slot.ending = True
        for slot in self.slots:
            code = slot.process.ended(GOODBYE_S)
            equal(code, 0, f"exit code of {slot.process.name}: {slot.process.text()[-2000:]}")
        if self.on_s3:
            self.proxy.calm()
        lake = Lake(self.lab, self.place, self.env_of("last") if self.on_s3 else None)
        # Those that were killed again and again may have left most verdicts to the last one.
        last = lake.run("ingest", *self.arguments, "--group", GROUP, "--until-end", patience_s=1800)
        print("     last run: " + " | ".join(last.stderr.strip().splitlines()), flush=True)
        return lake

    def caught_up(self) -> None:
        """The workers by themselves get as far as the topic is now, in every partition; senders go on meanwhile."""
        begun, ends = time.monotonic(), {}
        looked = 0.0

        def there() -> bool:
            nonlocal looked, ends
            if time.monotonic() < looked + 0.5:
                return False
            ends = ends or {number: end for number, (_, end) in self.cluster.ends(TOPIC).items() if end > 0}
            committed = {number: offset for (_, number), offset in self.cluster.committed(GROUP).items()}
            looked = time.monotonic()
            # What was set behind the end does not count.
            return all(end <= committed.get(number, -1) < 10**8 for number, end in ends.items())

        self.until(there, "every partition is read on", 60)
        print(f"     caught up in {time.monotonic() - begun:.1f} s", flush=True)

    def told(self) -> None:
        """Prints what was done."""
        sent = sum(len(sender.readings) for sender in self.senders)
        bad = sum((sender.bad for sender in self.senders), collections.Counter())
        print(f"     seed {self.seed}: {sent} readings and {sum(bad.values())} bad packets sent")
        print(f"     faults: {dict(self.faults)}")
        print(f"     and so: {dict(self.did)}; slowest end after SIGTERM {self.goodbye_s:.1f} s")
        if self.on_s3:
            print(f"     store: {dict(self.proxy.counts)}", flush=True)

    def kept(self, lake: Lake) -> None:
        """Every promise was kept."""
        readings = [reading for sender in self.senders for reading in sender.readings]
        bad = sum((sender.bad for sender in self.senders), collections.Counter())
        sent = self.lab.folder / "sent.ndjson"
        sent.write_text("".join(json.dumps(reading) + "\n" for reading in readings))
        verified = lake.run("verify", "--sent", sent).stdout
        print("     verify: " + verified.strip().splitlines()[-1], flush=True)
        counts = lake.sql("SELECT count(*) AS different, sum(n) AS n FROM "
                          "(SELECT count(*) AS n FROM readings GROUP BY device_id, seq)")[0]
        equal((counts["n"], counts["different"]), (len(readings), len(readings)), "readings, and different ones")
        dead = lake.sql("SELECT reason, count(*) AS n FROM dead_letters GROUP BY reason ORDER BY reason")
        equal({row["reason"]: row["n"] for row in dead}, dict(sorted(bad.items())), "dead letters")
        self.same_verdicts(lake)
        self.can_fail(sent)

    def same_verdicts(self, lake: Lake) -> None:
        """The outliers are those of a run in which nothing went wrong."""
        quiet = self.lab.folder / "quiet"
        if self.on_s3:
            self.s3.download(self.lab.folder / "copy", "lake/landing/")
            (self.lab.folder / "copy" / "lake").rename(quiet)
        else:
            shutil.copytree(self.place / "landing", quiet / "landing")
        alone = Lake(self.lab, quiet)
        alone.run("score", "--again", patience_s=1800)
        found, expected = lake.sql(OUTLIERS), alone.sql(OUTLIERS)
        check(expected, "there are outliers")
        differ = [(a, b) for a, b in itertools.zip_longest(found, expected) if a != b]
        check(not differ, f"{len(found)} outliers, {len(expected)} in a quiet run; {len(differ)} differ: {differ[:2]}")
        print(f"     {len(found)} outliers, as in a quiet run", flush=True)

    def can_fail(self, sent) -> None:
        """What is promised would be missed: a lake that lacks a landing file, or has one twice, is found wanting."""
        quiet = self.lab.folder / "quiet"
        files = sorted((quiet / "landing" / CHAIN).rglob("*.parquet"), key=lambda file: file.stat().st_size)
        file = files[-1]
        away = self.lab.folder / file.name
        file.rename(away)
        verify = lambda: Lake(self.lab, quiet).run("verify", "--sent", sent, ok=(1,)).stdout
        check("lost" in verify() or "missing" in verify(), f"a landing file that is missing is told: {verify()}")
        shutil.copy(away, file)
        shutil.copy(away, file.with_name(f"{int(file.stem) + 1:020}.parquet"))
        check("twice" in verify() or "overlap" in verify(), f"a landing file that is there twice is told: {verify()}")


def crash(lab, on_s3: bool, faults: int, workers: int = 3) -> None:
    run = Crash(lab, on_s3, setting("VITALS_FAULTS", faults), setting("VITALS_SEED", 1), workers)
    try:
        run.run()
        lake = run.end()
    except Failed as failed:
        raise Failed(f"seed {run.seed}: {failed}") from failed
    finally:
        for slot in run.slots:
            slot.process.kill()
        run.told()
    run.kept(lake)


@test("kafka", "confluent", "moto", limit_s=3 * 3600)
def crash_s3(lab):
    """Whatever hits workers, brokers and S3, each record is in the lake once, with the verdict of a quiet run."""
    crash(lab, on_s3=True, faults=12)


@test("kafka", "confluent", limit_s=3 * 3600)
def crash_folder(lab):
    """Whatever hits workers and brokers, each record is in the lake's folder once, with the verdict of a quiet run."""
    crash(lab, on_s3=False, faults=12, workers=2)


@test("kafka", "confluent", "moto", slow=True, limit_s=3 * 3600)
def crash_long(lab):
    """The same as `crash_s3`, with 200 faults and four workers."""
    crash(lab, on_s3=True, faults=200, workers=4)
