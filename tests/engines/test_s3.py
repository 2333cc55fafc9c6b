"""A lake on S3: the same answers as from a folder, also while S3 stumbles, and what is said when it can't be used."""

import json
import os

from lab import check, equal, patient, test
from proxy import Proxy

CSV = """SELECT device_id, ts AS timestamp, heart_rate, systolic, diastolic, temperature, spo2, respiratory_rate
         FROM readings ORDER BY device_id, ts"""


class Lake:
    """A lake somewhere, and `vitals` on it."""

    def __init__(self, lab, place, env=None):
        self.lab, self.place, self.env = lab, str(place), {**os.environ, **(env or {})}

    def run(self, *args, ok=(0,), patience_s=180):
        argv = [self.lab.program, *args, "--lake", self.place]
        return self.lab.run(argv, ok, patient(patience_s), env=self.env)

    def json(self, *args):
        return json.loads(self.run(*args, "--output", "json").stdout)

    def sql(self, sql):
        return self.json("query", "sql", sql, "--limit", "0")["rows"]

    def answers(self):
        """What is asked of every lake, and what it says."""
        return {
            "readings": self.sql("SELECT * EXCLUDE (arrived_at) FROM readings ORDER BY device_id, ts"),
            "dead letters": self.sql("SELECT reason, payload FROM dead_letters ORDER BY 1, 2"),
            "outliers": self.sql("SELECT * EXCLUDE (arrived_at) FROM outliers ORDER BY device_id, ts"),
            "shown outliers": self.json("query", "outliers", "--since", "30d", "--limit", "0")["rows"],
            "devices": self.json("query", "devices", "--limit", "0")["rows"],
        }


def readings_file(lab, devices, duration):
    """A file of readings up to now, of which one row can't be read."""
    lake = lab.folder / "simulated"
    lab.vitals("demo", "--devices", devices, "--duration", duration, "--keep", lake, patience_s=180)
    file = lab.folder / "readings.csv"
    csv = lab.vitals("query", "sql", CSV, "--lake", lake, "--limit", 0, "--output", "csv").stdout
    file.write_text(csv + "device_1,soon,70,120,80,36.6,98,16\n")
    return file


def work(lake, file):
    """Everything that is done to a lake that only needs its store; gives the answers after each step."""
    answers = []
    lake.run("import", file)
    lake.run("train")
    answers.append(lake.answers())
    lake.run("compact", "--now")
    lake.run("score", "--again")
    answers.append(lake.answers())
    check(lake.json("verify")["kept"], "the chains are whole")
    equal(lake.run("import", file).stderr.count("the lake has this file already"), 1, "the same file again")
    return answers


@test("moto", limit_s=900)
def s3_lake(lab):
    """A lake on S3 gives the same answers as one in a folder: import, train, compact, score, verify, report, queries."""
    s3 = lab.start_engine("moto")
    file = readings_file(lab, 20, "2d")
    here = Lake(lab, lab.folder / "here")
    there = Lake(lab, f"{s3.url}/wards/7", s3.env)
    expected, found = work(here, file), work(there, file)
    for step, (a, b) in enumerate(zip(expected, found)):
        for what in a:
            check(a[what] or what == "dead letters", f"{what}: there are some")
            equal(b[what], a[what], f"{what} after step {step}")
    check(all(key.startswith("wards/7/") for key in s3.keys()), "nothing lies outside of the prefix")

    pages = []
    for lake in (here, there):
        page = lab.folder / f"{len(pages)}.html"
        lake.run("report", "--out", page)
        pages.append(page.stat().st_size)
    check(abs(pages[0] - pages[1]) < 200, f"pages of the same size, but for names and times: {pages}")
    models = [lake.run("models", "list").stdout.splitlines()[-1].split()[0] for lake in (here, there)]
    equal(models[0], models[1], "the model in force")
    info = there.json("info")
    equal((info["lake"]["place"], info["lake"]["folder"]), (there.place, None), "the lake's place")
    equal(info["lake"]["readings"], len(expected[1]["readings"]), "readings by `info`")
    # What lies there is a lake as any other.
    copy = Lake(lab, s3.download(lab.folder / "copy") / "wards" / "7")
    equal(copy.answers(), found[-1], "answers from a copy in a folder")


@test("moto", limit_s=900)
def s3_lake_through_faults(lab):
    """Answers that are lost, cut or refused, and a store that is away for a moment, change nothing of a lake."""
    s3 = lab.start_engine("moto")
    proxy = Proxy(lab, s3.endpoint, seed=5)
    file = readings_file(lab, 5, "2d")
    expected = work(Lake(lab, lab.folder / "here"), file)
    for kind, chance in (("slow_down", 0.1), ("internal_error", 0.1), ("lose_answer", 0.1), ("cut_answer", 0.1)):
        proxy.add(kind, chance=chance)
    there = Lake(lab, f"{s3.url}/lake", s3.env_at(proxy.endpoint))
    equal(work(there, file), expected, "answers after each step")
    for kind in ("slow_down", "internal_error", "lose_answer", "cut_answer"):
        check(proxy.counts[kind] > 3, f"there was some {kind}: {dict(proxy.counts)}")

    # A scorer that follows the lake gets over an outage.
    proxy.calm()
    argv = [lab.program, "score", "--follow", "--lake", there.place]
    follower = lab.start("follower", argv, env=there.env)
    scoring = lambda: there.json("info")["lake"]["state"]
    lab.wait_until(lambda: "following the lake" in follower.text(), "the scorer follows", alive=follower)
    proxy.down(seconds=4)
    lab.wait_until(lambda: s3.get("lake/state/0000000001.json", s3.endpoint) and _up(proxy, s3), "S3 is back")
    before = scoring()
    late = lab.folder / "late.csv"
    late.write_text(_late())
    there.run("import", late)
    scored = lambda: any("scored/" in key for key in s3.keys("lake/scored"))
    lab.wait_until(scored, f"what came later has its verdicts (state {before})", alive=follower)
    equal(follower.stop(2), 0, "exit code of the scorer after Ctrl-C")


def _up(proxy, s3):
    try:
        return s3.get("none", proxy.endpoint) is None
    except OSError:
        return False


def _late():
    """Readings of the running day, which go through landing."""
    import datetime

    now = datetime.datetime.now(datetime.timezone.utc)
    rows = [f"late,{(now - datetime.timedelta(seconds=n)).isoformat()},70" for n in range(60, 0, -1)]
    return "\n".join(["device_id,timestamp,heart_rate", *rows]) + "\n"


@test("moto")
def s3_errors(lab):
    """What is wrong with a bucket, with credentials or with an endpoint is said, and has an exit code of its own."""
    s3 = lab.start_engine("moto")
    file = lab.folder / "readings.csv"
    file.write_text("device_id,timestamp,heart_rate\na,2026-01-01T00:00:00Z,70\n")
    refused = lambda lake, code, *args: lake.run(*args, ok=(code,)).stderr
    of = lambda place, **env: Lake(lab, place, {**s3.env, **env})

    for args in (("import", file), ("query", "devices"), ("compact",)):
        text = refused(of("s3://nobody-has-this/lake"), 3, *args)
        check("there is no bucket `nobody-has-this`" in text and s3.endpoint in text, text)
    text = refused(of(f"{s3.url}/none"), 3, "query", "devices")
    check(f"there is no lake in `{s3.url}/none`" in text, text)

    without = {name: value for name, value in s3.env.items() if "KEY" not in name}
    lake = Lake(lab, s3.url, without)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        lake.env.pop(name, None)
    text = refused(lake, 5, "query", "devices")
    check("no AWS credentials" in text and "AWS_PROFILE" in text, text)

    nowhere = f"http://127.0.0.1:{lab.free_port()}"
    text = refused(of(s3.url, AWS_ENDPOINT_URL=nowhere, AWS_MAX_ATTEMPTS="2"), 1, "import", file)
    check(nowhere in text and "can't connect" in text and "AWS_ENDPOINT_URL_S3" in text, text)
    # Without that bound it is tried for a while, and said.
    proxy = Proxy(lab, s3.endpoint)
    of(f"{s3.url}/lake").run("import", file)
    proxy.down(seconds=6)
    text = of(f"{s3.url}/lake", AWS_ENDPOINT_URL=proxy.endpoint).run("query", "devices").stderr
    check("does not answer yet" in text, text)
