"""Packets for tests."""

from __future__ import annotations

import json
import time


def now_ms() -> int:
    return int(time.time() * 1000)


def packet(seq: int, ts_ms: int = None, **fields) -> str:
    """A packet with one reading, whose `seq` tells it from the others; `fields` replace or add."""
    reading = {
        "timestamp": now_ms() if ts_ms is None else ts_ms, "heart_rate": 72, "blood_pressure": "118/76",
        "temperature": 36.7, "spo2": 97, "respiratory_rate": 15, "seq": seq,
    }
    return json.dumps({**reading, **fields}, separators=(",", ":"))


# What devices get wrong, and the reason under which it is kept. Each is one line, as `mosquitto_pub -l` sends lines.
BAD = [
    ("hello", "not_json"),
    ('["timestamp"]', "not_an_object"),
    ('{"heart_rate":70}', "no_timestamp"),
    ('{"timestamp":"yesterday","heart_rate":70}', "bad_timestamp"),
    (packet(1, ts_ms=now_ms() + 48 * 3_600_000), "clock_ahead"),
    (packet(1, heart_rate="seventy"), "wrong_type"),
    (packet(1, device_id="somebody_else"), "wrong_device"),
    (packet(1)[:-1] + ',"seq":2}', "duplicate_key"),
    ('{"readings":[]}', "empty_batch"),
]
