"""What is printed at the end: the table, the load's entropy, and how it stands with the goals."""

import statistics

VITALS = ("heart_rate", "systolic", "diastolic", "temperature", "spo2", "respiratory_rate")

UNHARMED = ("lost", "twice", "altered")

# In words, and as a test of (everybody's medians by name, the entropy of a landing file's columns).
GOALS = [
    ("at least 600,000 readings/s, the broker on the same cores", lambda of, _: of["vitals"]["rate"] >= 600_000),
    ("at least half of what librdkafka alone takes", lambda of, _: of["vitals"]["rate"] >= of["raw"]["rate"] / 2),
    ("at least 12 times Spark's readings per CPU second", lambda of, _: of["vitals"]["cpu"] <= of["spark"]["cpu"] / 12),
    ("with little memory, at most an eighth of Spark's",
     lambda of, _: of["vitals-192MB"]["peak"] <= of["spark"]["peak"] / 8),
    ("no slower than the script", lambda of, _: of["vitals"]["rate"] >= of["script"]["rate"]),
    ("at most 1.3 times the entropy of its columns", lambda of, floor: of["vitals"]["size"] <= 1.3 * floor),
    ("nothing lost, nothing twice, nothing altered",
     lambda of, _: not any(run[what] for run in of["vitals"]["runs"] for what in UNHARMED)),
]


def measures(run, records):
    """The figures of one run, per reading or million of them."""
    return {
        "rate": records / run["seconds"],
        "going": records / (run["seconds"] - run["start_s"]),
        "cpu": run["cpu_s"] * 1e6 / records,
        "broker": run["broker_cpu_s"] * 1e6 / records,
        "peak": run["peak_mb"],
        "size": run["bytes"] / max(run["rows"], 1),
    }


def middle(runs, records):
    """Medians of some runs, and the runs."""
    found = [measures(run, records) for run in runs]
    medians = {name: statistics.median(one[name] for one in found) for name in found[0]}
    return {**medians, "runs": runs, "all": found}


def span(system, name, form):
    """A median with its bounds."""
    values = [one[name] for one in system["all"]]
    text = format(system[name], form)
    return text if len(values) == 1 else f"{text} ({min(values):{form}}–{max(values):{form}})"


def times(a, b):
    return f"{a / b:.2f}" if b else "–"


def table(found):
    lines = [
        "| | readings/s | × raw | × spark | without start | CPU s per million | × raw | × spark | broker's | peak MB "
        "| B/reading | files | lost | twice | altered |",
        "|---|" + "---|" * 14,
    ]
    raw, spark = found.get("raw"), found.get("spark")
    for name, system in found.items():
        last = system["runs"][-1]
        worst = {what: max(run[what] for run in system["runs"]) for what in UNHARMED}
        altered = "yes" if worst["altered"] else "no"
        kept = [f"{system['size']:.2f}", last["files"], worst["lost"], worst["twice"], altered]
        cells = [
            name, span(system, "rate", ",.0f"), times(system["rate"], raw and raw["rate"]),
            times(system["rate"], spark and spark["rate"]), f"{system['going']:,.0f}", span(system, "cpu", ".2f"),
            times(system["cpu"], raw and raw["cpu"]), times(system["cpu"], spark and spark["cpu"]),
            f"{system['broker']:.2f}", span(system, "peak", ",.0f"), *(kept if last["files"] else ["–"] * 5),
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def floors(known):
    """Bytes per reading by entropy: of a reading's own columns, and with the offset that a landing file keeps."""
    bytes_of = known["bytes"]
    reading = sum(bytes_of[name] for name in (*VITALS, "device_id", "ts", "arrived_at", "seq"))
    return reading, reading + bytes_of["offset"]


def entropy(known, found):
    bytes_of = known["bytes"]
    reading, landing = floors(known)
    lines = [
        "Order-0 entropy of the load, sorted by device and time within each partition, in bytes per reading (of values "
        "for vitals, of steps from row to row otherwise):",
        "    " + ", ".join(f"{name} {bytes_of[name]:.3f}" for name in VITALS),
        "    " + ", ".join(f"{name} {bytes_of[name]:.3f}" for name in ("device_id", "ts", "arrived_at", "seq", "offset")),
        f"    the vitals {sum(bytes_of[name] for name in VITALS):.2f} "
        f"(their steps within a device {sum(bytes_of[f'step_{name}'] for name in VITALS):.2f}), a reading {reading:.2f}, "
        f"a row of a landing file, which keeps the offset too, {landing:.2f}",
        "    arrival times are those of filling the topic at once: fewer and more alike than a fleet's over hours",
    ]
    if "vitals" in found:
        size = found["vitals"]["size"]
        lines.append(f"    vitals stores {size:.2f}: {size / landing:.2f} × the entropy of the columns that it keeps")
    return "\n".join(lines)


def goals(found, known):
    if "vitals" not in found:
        return "Goals: `vitals` did not take part."
    lines = ["Goals of `vitals`:"]
    for words, met in GOALS:
        try:
            outcome = "met" if met(found, floors(known)[1]) else "NOT MET"
        except KeyError:  # Who is compared with did not take part.
            outcome = "not compared"
        lines.append(f"    {outcome:<13}{words}")
    return "\n".join(lines)


def whole(results, there, known, options, cores):
    found = {name: middle(runs, options.records) for name, runs in results.items()}
    busiest = max((run["load"] for runs in results.values() for run in runs), default=0)
    head = (
        f"{options.records:,} packets of {options.devices:,} devices in {known['partitions']} partitions, medians of "
        f"{options.runs} runs (smallest–largest), {cores} cores for broker and reader together; the "
        f"machine's load average was up to {busiest:.1f}"
    )
    what = "\n".join(f"    {system.name:<9}{system.what}" for system in there)
    return f"\n{head}\n\n{table(found)}\n\n{what}\n\n{entropy(known, found)}\n\n{goals(found, known)}\n"
