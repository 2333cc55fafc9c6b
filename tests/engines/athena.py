"""Athena's API over Trino: what a client of Athena says is executed by the engine that Athena is built on.

It takes the calls that `vitals query` makes, runs each statement on a real Trino with its parameters (EXECUTE IMMEDIATE …
USING, as Athena does), and gives the rows in Athena's form: all values as text, names of columns as the first row, a
thousand rows a page. What it can't show is Athena's own: its limits, prices, permissions and work groups.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from trino import Failed


class Athena:
    """A server, and what it was asked. `cutoff` is what its work group lets a query read, `slow_s` how long each takes."""

    def __init__(self, trino, cutoff: int = 10**12, slow_s: float = 0.0):
        self.trino, self.cutoff, self.slow_s = trino, cutoff, slow_s
        self.queries: dict = {}
        self.asked: list = []
        athena = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                operation = self.headers["X-Amz-Target"].rsplit(".")[-1]
                athena.asked.append((operation, body))
                status, answer = athena.answer(operation, body)
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, operation: str, body: dict) -> tuple:
        if operation == "StartQueryExecution":
            query = Query(self.trino, body, self.slow_s)
            self.queries[query.id] = query
            return 200, {"QueryExecutionId": query.id}
        if operation == "GetWorkGroup":
            configuration = {"BytesScannedCutoffPerQuery": self.cutoff}
            return 200, {"WorkGroup": {"Name": body["WorkGroup"], "Configuration": configuration}}
        query = self.queries.get(body.get("QueryExecutionId"))
        if query is None:
            return 400, {"__type": "InvalidRequestException", "Message": "QueryExecution was not found"}
        if operation == "GetQueryExecution":
            return 200, {"QueryExecution": query.execution()}
        if operation == "StopQueryExecution":
            query.state = "CANCELLED"
            return 200, {}
        return 200, query.page(int(body.get("NextToken", 0)), body.get("MaxResults", 1000))


class Query:
    """One query that runs by itself."""

    def __init__(self, trino, body: dict, slow_s: float):
        self.id, self.state, self.reason = str(uuid.uuid4()), "RUNNING", None
        self.columns, self.rows = [], []
        sql, parameters = body["QueryString"], body.get("ExecutionParameters")
        if parameters:
            quoted = sql.replace("'", "''")
            sql = f"EXECUTE IMMEDIATE '{quoted}' USING {', '.join(parameters)}"
        database = body["QueryExecutionContext"]["Database"]
        threading.Thread(target=self.run, args=(trino, sql, database, slow_s), daemon=True).start()

    def run(self, trino, sql: str, database: str, slow_s: float) -> None:
        time.sleep(slow_s)
        try:
            self.columns, self.rows = trino.table(sql, database)
            outcome = "SUCCEEDED"
        except Failed as failed:
            outcome, self.reason = "FAILED", str(failed).splitlines()[0]
        except OSError as error:
            outcome, self.reason = "FAILED", f"GENERIC_INTERNAL_ERROR: {error}"
        if self.state == "RUNNING":
            self.state = outcome

    def execution(self) -> dict:
        status = {"State": self.state, **({"StateChangeReason": self.reason} if self.reason else {})}
        return {"QueryExecutionId": self.id, "Status": status, "Statistics": {"DataScannedInBytes": 1234}}

    def page(self, first: int, most: int) -> dict:
        # The first page has the names of the columns as one of its rows.
        header = [[{"VarCharValue": column["name"]} for column in self.columns]] if first == 0 else []
        rows = self.rows[first:first + most - len(header)]
        data = [[datum(value, column["type"]) for value, column in zip(row, self.columns)] for row in rows]
        info = [column_info(column) for column in self.columns]
        answer = {"ResultSet": {
            "Rows": [{"Data": row} for row in header + data], "ResultSetMetadata": {"ColumnInfo": info},
        }}
        if first + len(rows) < len(self.rows):
            answer["NextToken"] = str(first + len(rows))
        return answer


def column_info(column: dict) -> dict:
    """A column as Athena describes it: `timestamp(3)` is its `timestamp`."""
    name, _, rest = column["type"].partition("(")
    numbers, _, after = rest.partition(")")
    numbers = [int(n) for n in numbers.split(",") if n.strip().isdigit()] if name == "decimal" else []
    precision, scale = (numbers + [0, 0])[:2]
    return {"Name": column["name"], "Label": column["name"], "Type": name + after, "Precision": precision, "Scale": scale}


def datum(value, kind: str) -> dict:
    """A value as Athena writes it; nothing stands for null."""
    if value is None:
        return {}
    if isinstance(value, bool):
        return {"VarCharValue": str(value).lower()}
    if kind == "varbinary":
        return {"VarCharValue": base64.b64decode(value).hex(" ")}
    return {"VarCharValue": value if isinstance(value, str) else repr(value)}
