"""Facts about the load and about what somebody stored, by DuckDB. Run by the Python that has it; gives JSON.

    facts.py load FILE        FILE has lines {"p":partition,"o":offset,"t":arrival,"v":packet}, as kcat writes them
    facts.py stored COLUMNS FILE…

The floor is the order-0 entropy of each column, sorted as a landing file is: by device and time within a partition. For
a vital it is H = Σ p·log2(1/p) over its values; for times, counts and offsets the same over their steps from one row to
the next; for the device over "another one than in the row before". Divided by 8 it is bytes per reading. It is what a
perfect entropy coder needs that takes each symbol by itself, not a bound on what can be thought of: a model that knew
that vitals change slowly would need less, so the entropy of a vital's steps is given as well.
"""

import json
import sys

import duckdb

VITALS = ("heart_rate", "systolic", "diastolic", "temperature", "spo2", "respiratory_rate")
STEPS = ("ts", "arrived_at", "seq", "offset")

LOAD = """CREATE TABLE load AS SELECT
    p AS partition, o AS "offset", t AS arrived_at, v.device_id AS device_id, epoch_ms(v.timestamp) AS ts,
    v.heart_rate AS heart_rate, split_part(v.blood_pressure, '/', 1)::DOUBLE AS systolic,
    split_part(v.blood_pressure, '/', 2)::DOUBLE AS diastolic, v.temperature AS temperature, v.spo2 AS spo2,
    v.respiratory_rate AS respiratory_rate, v.seq AS seq
FROM read_json(?, format = 'newline_delimited', columns = {
    p: 'INT', o: 'BIGINT', t: 'BIGINT', v: 'STRUCT(device_id VARCHAR, timestamp TIMESTAMP, heart_rate DOUBLE,
    blood_pressure VARCHAR, temperature DOUBLE, spo2 DOUBLE, respiratory_rate DOUBLE, seq BIGINT)'})"""

# Whoever loses, doubles or alters a reading has another sum. Decimals are compared by what they show.
COUNTS = """count(*) AS rows, count(DISTINCT hash(device_id, seq)) AS devices_seqs,
    sum(hash(device_id, ms::BIGINT, heart_rate::INT, systolic::INT, diastolic::INT, round(temperature * 10)::INT,
        spo2::INT, respiratory_rate::INT, seq::BIGINT)::HUGEINT)::VARCHAR AS sum"""


def entropies(base):
    def steps(column):
        return f'"{column}" - lag("{column}") OVER landed'

    sorted_rows = ", ".join(
        [*VITALS, "device_id <> lag(device_id) OVER landed AS device_id"]
        + [f'{steps(name)} AS "{name}"' for name in STEPS]
        + [f"CASE WHEN device_id = lag(device_id) OVER landed THEN {steps(name)} END AS step_{name}" for name in VITALS]
    )
    names = [*VITALS, "device_id", *STEPS, *(f"step_{name}" for name in VITALS)]
    entropy = ", ".join(f'entropy("{name}") / 8' for name in names)
    found = base.execute(
        f"SELECT {entropy} FROM (SELECT {sorted_rows} FROM load "
        'WINDOW landed AS (PARTITION BY partition ORDER BY device_id, ts, "offset"))'
    ).fetchone()
    return dict(zip(names, found))


def load(base, file):
    base.execute(LOAD, [file])
    counted = counts(base, "SELECT *, ts AS ms FROM load")
    return {**counted, "partitions": base.execute("SELECT count(DISTINCT partition) FROM load").fetchone()[0],
            "bytes": entropies(base)}


def counts(base, rows):
    found = base.execute(f"SELECT {COUNTS} FROM ({rows})")
    return dict(zip([column[0] for column in found.description], found.fetchone()))


def stored(base, columns, files):
    base.execute(f"CREATE TABLE stored AS SELECT {columns} FROM read_parquet(?, union_by_name = true)", [files])
    bad = base.execute("SELECT count(*) FROM stored WHERE NOT good").fetchone()[0]
    return {**counts(base, "SELECT * FROM stored WHERE good"), "bad": bad}


def main():
    base = duckdb.connect()
    base.execute("SET TimeZone = 'UTC'")
    what, *rest = sys.argv[1:]
    found = load(base, *rest) if what == "load" else stored(base, rest[0], rest[1:])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
