"""Days whose objects are archived in S3: named by queries, brought back by `vitals restore`."""

from lab import check, equal, test
from test_conformance import MINUTE_MS, iso, now_ms, write_readings
from test_s3 import Lake

DAY_MS = 86_400_000


@test("moto")
def archived_days(lab):
    """A query says which of its days are archived and how they come back; restored, they are seen again."""
    s3 = lab.start_engine("moto")
    lake = Lake(lab, f"{s3.url}/wards", s3.env)
    first = (now_ms() - 4 * DAY_MS) // DAY_MS * DAY_MS
    lake.run("import", write_readings(lab.folder / "a.csv", ["device_1"], first, first + 3 * DAY_MS, 60 * MINUTE_MS))
    readings = lambda *flags: len(lake.json("query", "history", "device_1", "--limit", "0", *flags)["rows"])
    equal(readings(), 72, "readings of three days")

    day = iso(first + DAY_MS)[:10]
    [key] = s3.keys(f"wards/readings/dt={day}/")
    status, *_ = s3.request("PUT", f"/{key}", s3.get(key), {"x-amz-storage-class": "DEEP_ARCHIVE"})
    equal(status, 200, "the day is archived")
    equal(readings(), 48, "readings that are left")
    said = lake.run("query", "devices").stderr
    check(f"warning: {day} is archived and missing from this answer" in said, said)
    check(f"`vitals restore --from {day} --to {day}`" in said, said)
    check("archived" in "".join(lake.json("query", "devices")["warnings"]), "machines are told too")
    said = lake.run("query", "devices", "--require-complete", ok=(1,)).stderr
    check(f"{day} is archived\nhint: `vitals restore" in said, said)
    # Whoever needs other days is not told.
    said = lake.run("query", "devices", "--since", iso(first + 2 * DAY_MS), "--require-complete").stderr
    check("archived" not in said, said)

    page = lab.folder / "report.html"
    said = lake.run("report", "--since", iso(first), "--out", page).stderr
    check(f"warning: {day} is archived and missing from this answer" in said, said)
    check(f"{day} is archived and missing" in page.read_text(), "the page says what it lacks")
    check("archived" not in lake.run("report", "--out", page).stderr, "a report of the last day lacks nothing")

    equal(lake.run("restore", "status").stdout, f"{day}  archived\n", "what is archived")
    said = lake.run("restore", "--from", day, "--to", day, "--tier", "bulk", ok=(2,)).stderr
    check("`--allow-two-days`" in said, said)
    earlier = iso(first)[:10]
    said = lake.run("restore", "--from", earlier, "--to", earlier).stderr
    check("nothing from" in said, said)
    said = lake.run("restore", "--from", earlier, "--to", day, "--days", "3").stderr
    check("asked for 1 file," in said and "within 12 hours for 3 days" in said, said)
    # This S3 has it at once.
    said = lake.run("restore", "status").stdout
    check(said.startswith(f"{day}  here until 2"), said)
    equal(readings("--require-complete"), 72, "readings, restored")
