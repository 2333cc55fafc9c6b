"""One SQL, two engines: what DataFusion says on this machine, Trino says of the same lake through Glue's catalogue.

The lake is in S3 and its catalogue in Glue (moto for both); `vitals compact --catalogue` makes tables, days and views, and
Trino reads them as Athena does. Values are compared exactly, floating-point numbers too: nothing here is computed but sums
of whole numbers, and minima and maxima.
"""

import base64
import datetime
import http.client
import json
import re
import signal
import textwrap
import threading
from pathlib import Path

import athena
from lab import check, equal, test
from s3 import REGION
from test_s3 import Lake
from trino import Failed as Refused

DATABASE = "wards"
ROOT = Path(__file__).resolve().parents[2]
QUERIES = sorted((ROOT / "templates" / "queries").glob("*.sql"))
# For a query that goes through Trino on a machine that does much else.
PATIENCE_S = 900
VIEWS = ("readings", "outliers", "dead_letters")
MINUTE_MS = 60_000


def glue(s3, operation, body):
    """Calls Glue."""
    return call(s3, "glue", f"AWSGlue.{operation}", body)


def call(s3, service, operation, body):
    """Calls a service of a stand-in that speaks JSON."""
    scope = f"20260101/{REGION}/{service}/aws4_request"
    headers = {
        "X-Amz-Target": operation, "Content-Type": "application/x-amz-json-1.1",
        "Authorization": f"AWS4-HMAC-SHA256 Credential=test/{scope}, SignedHeaders=host, Signature=none",
    }
    connection = http.client.HTTPConnection("127.0.0.1", s3.port, timeout=60)
    try:
        connection.request("POST", "/", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        check(answer.status == 200, f"{operation}: {answer.status} {text!r}")
        return json.loads(text or b"{}")
    finally:
        connection.close()


def iso(ms):
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.timezone.utc).isoformat(timespec="milliseconds")


def now_ms():
    return int(datetime.datetime.now(datetime.timezone.utc).timestamp() * 1000)


def write_readings(file, devices, from_ms, to_ms, step_ms, bad=True):
    """Readings of some devices, of which one has a fast heart for two hours a day, and lines that can't be read."""
    lines = ["device_id,timestamp,heart_rate,systolic,diastolic,temperature,spo2,respiratory_rate"]
    for device in devices:
        for n, ms in enumerate(range(from_ms, to_ms, step_ms)):
            hour = ms // 3_600_000 % 24
            rate = 165 if device.endswith("1") and hour in (9, 10) else 62 + (n * 7 + len(device)) % 9
            vitals = f"{rate},{110 + n % 7},{70 + n % 5},{36.4 + n % 4 / 10:.1f},{'' if n % 13 == 0 else 96 + n % 3},{14 + n % 3}"
            lines.append(f"{device},{iso(ms)},{vitals}")
    if bad:
        lines += ["device_1,soon,70,120,80,36.6,98,16", "device'2,yesterday,,,,,,"]
    file.write_text("\n".join(lines) + "\n")
    return file


class Both:
    """A lake in S3 with its catalogue, and both engines on it."""

    def __init__(self, lab):
        self.lab, self.s3 = lab, lab.start_engine("moto")
        self.lake = Lake(lab, f"{self.s3.url}/wards", self.s3.env)
        glue(self.s3, "CreateDatabase", {"DatabaseInput": {"Name": DATABASE}})
        self.end = now_ms() // MINUTE_MS * MINUTE_MS - 5 * MINUTE_MS
        # The last one is no name of a device: what it sends are dead letters, and whoever asks for it gets none.
        devices = ["device_1", "device_2", "device_11", "o'neill"]
        file = write_readings(lab.folder / "first.csv", devices, self.end - 60 * 3_600_000, self.end, 10 * MINUTE_MS)
        self.lake.run("import", file)
        self.lake.run("score")

    def show(self):
        """Lets the catalogue show the lake."""
        return self.lake.run("compact", "--catalogue", DATABASE, "--catalogue-only").stderr

    def here(self, sql):
        """DataFusion's rows, in its order."""
        return [{name: of_json(value) for name, value in row.items()} for row in self.lake.sql(sql)]

    def there(self, sql):
        """Trino's rows, in its order."""
        columns, rows = self.trino.table(sql, DATABASE)
        return [{c["name"]: of_trino(value, c["type"]) for c, value in zip(columns, row)} for row in rows]


def of_json(value):
    """Times as both write them."""
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", value):
        return value.replace("T", " ").rstrip("Z")
    return value


def of_trino(value, kind):
    if value is not None and kind == "varbinary":
        return base64.b64decode(value).decode(errors="replace")
    return value


def in_order(rows):
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def literal(value):
    if isinstance(value, datetime.datetime):
        return f"TIMESTAMP '{value:%Y-%m-%d %H:%M:%S.000}'"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


def statements(both):
    """Every statement of `templates/queries`, with several values for its parameters."""
    at = lambda ms: datetime.datetime.fromtimestamp(ms // 1000, datetime.timezone.utc)
    end = both.end + MINUTE_MS
    common = {"cause": "", "min_score": -1.7976931348623157e308, "newest": 20, "most": 1000, "day": str(at(end).date()),
              "quiet": at(end - 3_600_000)}
    choices = [
        {"since": at(end - 90 * 3_600_000), "until": at(end), "device": ""},
        {"since": at(end - 26 * 3_600_000), "until": at(end - 2 * 3_600_000), "device": "device_1", "min_score": 1.5},
        {"since": at(end - 30 * 3_600_000), "until": at(end), "device": "o'neill", "newest": 9223372036854775807},
        {"since": at(end), "until": at(end + 1000), "device": "nobody", "cause": "fever"},
    ]
    for file in QUERIES:
        text = file.read_text()
        names = sorted(set(re.findall(r"\$(\w+)", text)))
        done = set()
        for choice in choices:
            values = {**common, **choice}
            # What begins with a comment looks like a flag.
            sql = "\n" + re.sub(r"\$(\w+)", lambda name: literal(values[name.group(1)]), text)
            if sql not in done:
                done.add(sql)
                yield f"{file.stem} with { {name: values[name] for name in names} }", sql


@test("moto", "trino", slow=True, limit_s=3000)
def conformance_statements(lab):
    """Every statement and every view gives the same rows on DataFusion and on a real Trino over the same files."""
    both = Both(lab)
    check("changes" in both.show(), "the catalogue shows the lake")
    both.trino = lab.start_engine("trino", both.s3)
    counts = {}
    for view in VIEWS:
        here, there = both.here(f"SELECT * FROM {view}"), both.there(f"SELECT * FROM {view}")
        equal(in_order(there), in_order(here), f"rows of the view {view}")
        counts[view] = len(here)
    check(all(counts.values()), f"there is something in every view: {counts}")
    some = 0
    for what, sql in statements(both):
        here, there = both.here(sql), both.there(sql)
        # Rows that an order leaves undecided may come in any.
        ordered = re.search(r"ORDER BY [^)]*$", sql) is not None
        equal(there if ordered else in_order(there), here if ordered else in_order(here), what)
        some += bool(here)
    check(some >= 2 * len(QUERIES) - 4, f"most statements have rows: {some}")
    # What a catalogue shows already is not touched.
    check("nothing had to change" in both.show(), "a second time changes nothing")


@test("moto", "trino", slow=True, limit_s=3000)
def conformance_while_compaction_moves(lab):
    """Import, compaction and scoring move the state under both engines: each answer is that of one whole state."""
    both = Both(lab)
    both.show()
    both.trino = lab.start_engine("trino", both.s3)
    views = {view: f"SELECT * FROM {view}" for view in VIEWS}
    # All but where a row is stored.
    content = lambda rows: in_order([{name: v for name, v in row.items() if name != "dt"} for row in rows])
    whole = {view: [content(both.here(sql))] for view, sql in views.items()}
    asked, stop, wrong = [0], threading.Event(), []

    def ask():
        """Asks Trino as long as it goes on; each answer must be one of those before and after the step under way."""
        while not stop.is_set():
            for view, sql in views.items():
                try:
                    # The step may end while Trino answers, and then its picture is known a moment later.
                    pending.append((view, content(both.there(sql))))
                except Refused as refused:
                    wrong.append(f"{view}: {refused}")
                asked[0] += 1

    def settle():
        """Compares what was answered during a step with the pictures of whole states."""
        while pending:
            view, rows = pending.pop(0)
            if rows not in whole[view]:
                sizes = [len(picture) for picture in whole[view]]
                wrong.append(f"{view}: an answer of {len(rows)} rows is no whole state's, which have {sizes}")

    pending: list = []
    asker = threading.Thread(target=ask)
    asker.start()
    past = (both.end - 30 * 3_600_000) // 86_400_000 * 86_400_000
    late = write_readings(lab.folder / "late.csv", ["device_3"], past, past + 3_600_000, MINUTE_MS, bad=False)
    new = write_readings(lab.folder / "new.csv", ["device_2"], both.end, both.end + 3 * MINUTE_MS, MINUTE_MS, bad=False)
    moves = [
        ("a past day is imported into", ("import", late)),
        ("that is scored", ("score", "--again")),
        ("the running day is closed so far", ("compact", "--now", "--catalogue", DATABASE)),
        ("the running day goes on", ("import", new)),
        # A day that is shown is not added to: what comes goes into the next one.
        ("and is not closed again", ("compact", "--now", "--catalogue", DATABASE)),
    ]
    try:
        for what, command in moves:
            both.lake.run(*command)
            for view, sql in views.items():
                whole[view].append(content(both.here(sql)))
            both.show()
            for view, sql in views.items():
                equal(in_order(both.there(sql)), in_order(both.here(sql)), f"{view} after: {what}")
            lab.wait_until(lambda: asked[0] > 3, "Trino answers meanwhile")
            settle()
            check(not wrong, f"{what}: {wrong[:1]}")
    finally:
        stop.set()
        asker.join()
    settle()
    check(not wrong, f"{wrong[:1]}")
    check(len(both.s3.keys("wards/state")) > len(moves), "the state moved")
    print(f"     {asked[0]} answers while the state moved", flush=True)


@test("moto", "trino", slow=True, limit_s=3000)
def query_on_aws(lab):
    """`vitals query --target aws` shows what the same command shows on this machine, in every format."""
    both = Both(lab)
    both.show()
    trino = lab.start_engine("trino", both.s3)
    server = athena.Athena(trino)
    stack = {"VITALS_WORK_GROUP": "vitals", "VITALS_DATABASE": DATABASE, "VITALS_TARGET": "aws",
             "AWS_ENDPOINT_URL_ATHENA": server.endpoint}
    here, there = both.lake, Lake(lab, both.lake.place, {**both.s3.env, **stack})
    # Moments that stand still, between two readings.
    ago = lambda hours: iso(both.end - hours * 3_600_000 + 5 * MINUTE_MS)
    for command, outputs in (
        (("outliers", "--since", ago(90)), ("table", "json")),
        (("outliers", "--since", ago(90), "--readings", "--limit", "3"), ("table",)),
        (("outliers", "--since", ago(26), "--device", "o'neill"), ("json",)),
        (("devices", "--since", ago(20), "--limit", "2"), ("table", "json", "ndjson", "csv", "markdown")),
        (("history", "device_1", "--since", ago(48)), ("table", "json")),
        (("sql", "SELECT reason, payload, arrived_at IS NULL AS x FROM dead_letters ORDER BY payload LIMIT 5"), ("json",)),
        (("sql", "SELECT * FROM readings ORDER BY device_id, ts", "--limit", "1100"), ("csv",)),
    ):
        for output in outputs:
            args = ("query", *command, "--output", output)
            found = there.run(*args, patience_s=PATIENCE_S).stdout
            equal(found, here.run(*args).stdout, f"`vitals {' '.join(args)}`")
    said = there.run("query", "devices", patience_s=PATIENCE_S).stderr
    check("about $" in said and "($5 a TB, 10 MB a query at least)" in said, said)

    # Of the days, a statement reads those that can hold what is asked for.
    sql = lambda: [body["QueryString"] for operation, body in server.asked if operation == "StartQueryExecution"][-1]
    there.run("query", "devices", "--since", ago(3), patience_s=PATIENCE_S)
    check("WITH readings AS (SELECT * FROM" in sql() and "dt IS NULL OR dt >" in sql(), sql())

    # Later, stopped, refused.
    begun = there.run("query", "devices", "--no-wait", "--output", "csv")
    found = there.run("query", "result", begun.stdout.strip(), "--output", "csv", patience_s=PATIENCE_S).stdout
    equal(found, here.run("query", "devices", "--output", "csv").stdout, "the result of a query that was not waited for")
    there.run("query", "result", "11111111-0000-0000-0000-000000000000", ok=(3,))
    said = there.run("query", "sql", "SELECT hart_rate FROM readings", ok=(1,)).stderr
    check("there is no column `hart_rate`" in said and "`heart_rate`" in said, said)
    said = there.run("query", "sql", "SELECT * FROM secret.other", ok=(1,)).stderr
    check("there is no table `secret.other`" in said, said)
    server.cutoff = 10**8
    said = there.run("query", "devices", "--max-scan", "1GB", ok=(1,)).stderr
    check("the work group `vitals` stops a query at 100000000" in said, said)
    server.slow_s = 60
    process = lab.start("slow", [lab.program, "query", "devices", "--lake", there.place], env=there.env)
    running = lambda: any(query.state == "RUNNING" for query in server.queries.values())
    lab.wait_until(running, "the query runs", alive=process)
    equal(process.stop(signal.SIGINT), 130, "exit code after Ctrl-C")
    check("was stopped" in process.text(), process.text())
    check(any(query.state == "CANCELLED" for query in server.queries.values()), "the query was cancelled")
    server.close()


@test("moto", "trino", slow=True, limit_s=3000)
def catalogue_of_a_stack(lab):
    """What a topic rule could not hand to Kafka is in the catalogue's view `dead_letters`, with device, time and bytes; the
    template's saved queries say what the lake says."""
    both = Both(lab)
    # As the template has it, and as AWS IoT's error actions write it.
    kinds = {"rulename": "string", "topic": "string", "clientid": "string", "base64originalpayload": "string",
             "failures": "array<struct<failedaction:string,failedresource:string,errormessage:string>>"}
    glue(both.s3, "CreateTable", {"DatabaseName": DATABASE, "TableInput": {
        "Name": "rule_failures", "TableType": "EXTERNAL_TABLE", "Parameters": {"classification": "json"},
        "StorageDescriptor": {
            "Location": f"{both.lake.place}/failures/", "Columns": [{"Name": n, "Type": t} for n, t in kinds.items()],
            "InputFormat": "org.apache.hadoop.mapred.TextInputFormat",
            "OutputFormat": "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
            "SerdeInfo": {"SerializationLibrary": "org.openx.data.jsonserde.JsonSerDe",
                          "Parameters": {"ignore.malformed.json": "true"}},
        },
    }})
    both.show()
    both.trino = lab.start_engine("trino", both.s3)
    others = both.there("SELECT * FROM dead_letters")
    day_ms = 86_400_000
    expected = []
    for n, ms in enumerate((both.end - 2 * day_ms, both.end)):
        payload = json.dumps({"timestamp": ms, "heart_rate": 70 + n}).encode()
        said = {"ruleName": "vitals", "topic": f"$aws/rules/vitals/iot/device/bed_{n}", "cloudwatchTraceId": "x",
                "clientId": f"bed_{n}", "base64OriginalPayload": base64.b64encode(payload).decode(),
                "failures": [{"failedAction": "KafkaAction", "failedResource": "vitals", "errorMessage": "time-out"}]}
        name = f"failures/dt={iso(ms)[:10]}/{ms}-11111111-0000-4000-8000-00000000000{n}.json"
        both.s3.put(f"wards/{name}", json.dumps(said).encode())
        expected.append({"device_id": f"bed_{n}", "arrived_at": iso(ms)[:23].replace("T", " "), "reason": "rule_failed",
                         "payload": payload.decode(), "dt": None if n else iso(ms)[:10]})
    # What is no JSON, and bytes that are no base64, keep nothing else from being seen.
    both.s3.put(f"wards/failures/dt={iso(both.end)[:10]}/{both.end}-22222222.json", b"{half")
    broken = {"topic": "x/bed_9", "base64OriginalPayload": "%%%"}
    both.s3.put(f"wards/failures/dt={iso(both.end)[:10]}/{both.end}-33333333.json", json.dumps(broken).encode())
    names = ", ".join(expected[0])
    found = both.there(f"SELECT {names} FROM dead_letters WHERE reason = 'rule_failed' AND payload IS NOT NULL ORDER BY arrived_at")
    equal(found, expected, "what the rule could not hand on")
    all_of_them = both.there("SELECT * FROM dead_letters")
    equal(len(all_of_them), len(others) + 4, "dead letters")
    check(others, "there are other dead letters")
    saved_queries(both, all_of_them)


def saved_queries(both, dead_letters):
    """Runs those of the template, and compares them with what this machine says of the same days."""
    template = (ROOT / "templates" / "stack.yaml").read_text()
    texts = [textwrap.dedent(text) for text in re.findall(r"      QueryString: \|-\n((?:        .*\n)+)", template)]
    equal(len(texts), 3, "saved queries")
    outliers, devices, dead = (both.there(text) for text in texts)
    since = lambda days: f"TIMESTAMP '{iso(now_ms() - days * 86_400_000)[:19].replace('T', ' ')}'"
    kept = lambda days: f"FROM outliers WHERE NOT artifact AND ts >= {since(days)}"
    expected = both.here(f"SELECT device_id, ts, score, cause, why, news2 {kept(1)} ORDER BY score DESC LIMIT 100")
    check(expected, "there are outliers of the last day")
    equal([row["score"] for row in outliers], [row["score"] for row in expected], "scores of the last day's outliers")
    expected = both.here(f"SELECT device_id, count(DISTINCT episode) AS episodes, count(*) AS readings {kept(7)} GROUP BY device_id")
    equal({row["device_id"]: (row["episodes"], row["readings"]) for row in devices},
          {row["device_id"]: (row["episodes"], row["readings"]) for row in expected}, "devices that stand out")
    week_ago = iso(now_ms() - 7 * 86_400_000)[:23].replace("T", " ")
    reasons = [row["reason"] for row in dead_letters if row["arrived_at"] and row["arrived_at"] >= week_ago]
    equal({row["reason"]: row["packets"] for row in dead}, {reason: reasons.count(reason) for reason in reasons}, "dead letters")
    check("rule_failed" in reasons, "those of the rule are among them")


@test("ministack", slow=True)
def query_on_another_athena(lab):
    """`vitals query sql --target aws` understands another maker's Athena: pages, types, nulls, errors, ids."""
    s3 = lab.start_engine("ministack")
    here = Lake(lab, f"{s3.url}/wards", s3.env)
    day = (now_ms() - 48 * 3_600_000) // 86_400_000 * 86_400_000
    here.run("import", write_readings(lab.folder / "a.csv", ["device_1", "device_2"], day, day + 86_400_000, MINUTE_MS))
    # It has no views: a table over the run of the one closed day takes the place of one.
    run = next(key for key in s3.keys("wards/readings/")).rsplit("/", 1)[0]
    glue(s3, "CreateDatabase", {"DatabaseInput": {"Name": DATABASE}})
    kinds = {"device_id": "string", "ts": "timestamp", "heart_rate": "double", "spo2": "double", "arrived_at": "timestamp"}
    glue(s3, "CreateTable", {"DatabaseName": DATABASE, "TableInput": {
        "Name": "readings", "TableType": "EXTERNAL_TABLE", "Parameters": {"classification": "parquet"},
        "StorageDescriptor": {
            "Location": f"{s3.url}/{run}/", "Columns": [{"Name": n, "Type": t} for n, t in kinds.items()],
            "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
            "SerdeInfo": {"SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"},
        },
    }})
    place = {"ResultConfiguration": {"OutputLocation": f"{s3.url}/results/"}}
    call(s3, "athena", "AmazonAthena.CreateWorkGroup", {"Name": "wards", "Configuration": place})
    said = Lake(lab, here.place, {**s3.env, "VITALS_WORK_GROUP": "primary", "VITALS_DATABASE": DATABASE}).run(
        "query", "sql", "SELECT 1 AS one", "--target", "aws", ok=(1,)).stderr
    check("the work group `primary` has no place for results" in said, said)
    stack = {"VITALS_WORK_GROUP": "wards", "VITALS_DATABASE": DATABASE, "VITALS_TARGET": "aws"}
    there = Lake(lab, here.place, {**s3.env, **stack})
    for sql in (
        "SELECT device_id, heart_rate, spo2, spo2 IS NULL AS without, 1 AS one FROM readings ORDER BY device_id, ts",
        "SELECT device_id, count(*) AS n, min(heart_rate) AS least FROM readings GROUP BY device_id ORDER BY 1",
    ):
        args = ("query", "sql", sql, "--limit", "0", "--output", "csv")
        equal(there.run(*args).stdout, here.run(*args).stdout, sql)
    equal(len(there.sql("SELECT device_id FROM readings")), 2880, "rows of several pages")
    said = there.run("query", "sql", "SELECT nothing FROM readings", ok=(1,)).stderr
    check("nothing" in said, said)
    begun = there.run("query", "sql", "SELECT max(heart_rate) AS most FROM readings", "--no-wait").stdout.strip()
    equal(there.run("query", "result", begun, "--output", "csv").stdout, "most\n165\n", "the result of a query by its id")
    there.run("query", "result", "no-such-id", ok=(3,))
