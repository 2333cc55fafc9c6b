"""A proxy before an S3 that does to requests what S3 and networks do now and then.

    proxy = Proxy(lab, s3.endpoint, seed=7)
    proxy.add("slow_down", chance=0.05)                          # each request with a chance, from a seed
    proxy.add("lose_answer", times=1, method="PUT", path="landing/")   # the next one that fits
    proxy.add("delay", seconds=0.2, chance=0.1)                  # passed on late, though the client may have gone
    proxy.add("lose_answer", hook=lambda request: …)             # calls back at that moment
    proxy.down()  …  proxy.up()                                  # nothing listens
    proxy.calm()                                                 # no faults from here on
    proxy.counts, proxy.requests                                 # what it did: by kind, and request by request

It passes on path, headers (`Host` too) and body as they came, so that signatures hold. Requests that create an object
only where there is none (`If-None-Match: *`) and name the same one are passed on one after the other: see s3.py.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import http.server
import random
import re
import socket
import sys
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Callable, Optional

# What a client is told, and by which status.
ERRORS = {
    "internal_error": (500, "InternalError"),
    "slow_down": (503, "SlowDown"),
    "conflict": (409, "ConditionalRequestConflict"),
}
# `delay` comes before, `drop` instead of passing a request on; `lose_answer` and `cut_answer` come after it.
KINDS = (*ERRORS, "delay", "drop", "lose_answer", "cut_answer")

# These are about one connection, not about the request.
OF_CONNECTION = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "expect", "te", "upgrade"}


@dataclass
class Fault:
    """Something to be done to requests that fit; `add` says what the fields mean."""

    kind: str
    chance: float
    times: Optional[int]
    method: str
    path: str
    seconds: float
    created: bool
    hook: Optional[Callable[["Request"], None]] = None

    def fits(self, request: "Request") -> bool:
        return (
            self.times != 0
            and bool(re.fullmatch(self.method, request.method)) and bool(re.search(self.path, request.path))
            and (request.creates or not self.created)
        )


@dataclass
class Request:
    """What a client asked, what was done (`passed`, or a kind of fault), and the status it was told (None: nothing)."""

    method: str
    path: str
    creates: bool
    # The id of the access key that signed it.
    who: str = ""
    begun: float = field(default_factory=time.monotonic)
    done: str = ""
    status: Optional[int] = None


class Proxy:
    """Listens on a port of 127.0.0.1 and passes requests on, until the test ends."""

    def __init__(self, lab, endpoint: str, seed: int = 0):
        self.target = urllib.parse.urlsplit(endpoint).netloc
        self.port = lab.free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.counts: collections.Counter = collections.Counter()
        self.requests: list = []
        self.faults: list = []
        self.random, self.lock = random.Random(seed), threading.RLock()
        self.creating: dict = collections.defaultdict(threading.Lock)
        self.server: Optional[Server] = None
        self.timer: Optional[threading.Timer] = None
        self.up()
        lab.processes.append(self)

    # ---- what tests ask of it

    def add(self, kind: str, chance: float = 1.0, times: Optional[int] = None, method: str = ".*", path: str = "",
            seconds: float = 0.0, created: Optional[bool] = None,
            hook: Optional[Callable[[Request], None]] = None, first: bool = False) -> Fault:
        """Adds a fault, for requests whose method and path (patterns; the path with its query) fit.

        `times`: so often at most. `created`: only requests that are to create an object where there is none; that is so
        by itself for `conflict`, which S3 tells nobody else. The first fault that hits is done (`first`: this one goes
        before those that are there); delays add up. `hook` is called when it is done: before a delay, and before the
        client hears of anything else; so after S3 has done what it is asked where an answer is lost or cut, else
        before.
        """
        assert kind in KINDS, f"no such fault: {kind}"
        only_created = kind == "conflict" if created is None else created
        fault = Fault(kind, chance, times, method, path, seconds, only_created, hook)
        with self.lock:
            self.faults.insert(0 if first else len(self.faults), fault)
        return fault

    def remove(self, fault: Fault) -> None:
        """Removes a fault, if it is still there."""
        with self.lock:
            self.faults = [other for other in self.faults if other is not fault]

    def calm(self) -> None:
        """Removes all faults. What was hit already goes on."""
        with self.lock:
            self.faults.clear()

    def down(self, seconds: Optional[float] = None) -> None:
        """Ends all connections and refuses new ones, until `up`, or for some seconds."""
        self.counts["down"] += 1
        self.end_server()
        if seconds is not None:
            self.timer = threading.Timer(seconds, self.up)
            self.timer.daemon = True
            self.timer.start()

    def up(self) -> None:
        """Listens again."""
        with self.lock:
            if self.server is None:
                self.server = Server(self)
                threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """The lab ends it with the test."""
        if self.timer:
            self.timer.cancel()
            self.timer.join()
        self.end_server()

    def end_server(self) -> None:
        with self.lock:
            server, self.server = self.server, None
        if server:
            server.shutdown()
            server.server_close()
            server.end_connections()

    # ---- what it does to a request

    def choose(self, request: Request) -> tuple:
        """How long to wait, whom to call before that, the fault to do after it, and whom to call then."""
        with self.lock:
            seconds, before = 0.0, []
            for fault in self.faults:
                if not fault.fits(request) or self.random.random() >= fault.chance:
                    continue
                if fault.times is not None:
                    fault.times -= 1
                if fault.kind != "delay":
                    return seconds, before, fault.kind, fault.hook
                self.counts["delay"] += 1
                seconds += fault.seconds
                before += [fault.hook] if fault.hook else []
            return seconds, before, "passed", None

    def finished(self, request: Request, done: str, status: Optional[int]) -> None:
        """Keeps what became of a request, before the client hears of it: who has the answer finds it counted."""
        with self.lock:
            request.done, request.status = done, status
            self.counts[done] += 1
            self.requests.append(request)

    def one_at_a_time(self, request: Request):
        """Held while a request is passed on that must not meet another for the same object."""
        if not request.creates:
            return contextlib.nullcontext()
        with self.lock:
            return self.creating[request.path]


class Server(http.server.ThreadingHTTPServer):
    """The listening side, which can end with all its connections."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self, proxy: Proxy):
        self.proxy, self.connections = proxy, set()
        super().__init__(("127.0.0.1", proxy.port), Handler)

    def process_request(self, connection, address):
        self.connections.add(connection)
        super().process_request(connection, address)

    def shutdown_request(self, connection):
        self.connections.discard(connection)
        super().shutdown_request(connection)

    def handle_error(self, connection, address):
        """A client that went away is no error here; what else is, is told."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(connection, address)

    def end_connections(self):
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection of a client. What it passes on goes over new ones, which is quick enough on one machine."""

    protocol_version = "HTTP/1.1"
    # Or the body of an answer waits for the acknowledgement of its head.
    disable_nagle_algorithm = True
    wbufsize = -1

    def handle_any(self):
        proxy = self.server.proxy
        creates = self.headers.get("If-None-Match") == "*" and self.command == "PUT"
        signer = re.search(r"Credential=([^/,]*)", self.headers.get("Authorization", ""))
        request = Request(self.command, self.path, creates, signer.group(1) if signer else "")
        # It is read also where nothing comes of it, as a client sends it first.
        body = self.body()
        seconds, before, kind, hook = proxy.choose(request)
        for call in before:
            call(request)
        time.sleep(seconds)
        if hook and kind not in ("lose_answer", "cut_answer"):
            hook(request)
        if kind == "drop":
            proxy.finished(request, kind, None)
            self.close_connection = True
            return
        if kind in ERRORS:
            status, code = ERRORS[kind]
            proxy.finished(request, kind, status)
            self.answer(status, [("Content-Type", "application/xml")], error_body(code, self.path))
            return
        with proxy.one_at_a_time(request):
            status, headers, answer = self.pass_on(body)
        if hook:
            hook(request)
        if kind == "lose_answer":
            proxy.finished(request, kind, None)
            self.close_connection = True
            return
        proxy.finished(request, kind, status)
        self.answer(status, headers, answer, cut=kind == "cut_answer")

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return b"".join(iter(self.chunk, b""))
        return self.exactly(int(self.headers.get("Content-Length", 0)))

    def exactly(self, size: int) -> bytes:
        """So many bytes of a body. If a client breaks off, nothing is passed on: S3 stores no half of an object."""
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionAbortedError("the client went away within a request")
        return data

    def chunk(self) -> bytes:
        """The next chunk of a body; empty at its end."""
        line = self.rfile.readline() or self.exactly(1)
        data = self.exactly(size := int(line.split(b";")[0], 16))
        # After a chunk its line end; after the last one lines up to an empty one.
        while self.rfile.readline().strip() and not size:
            pass
        return data

    def pass_on(self, body: bytes) -> tuple:
        """Status, headers and body of what the S3 answers; a 502 where it does not."""
        try:
            return self.ask(body)
        except (OSError, http.client.HTTPException) as error:
            return 502, [("Content-Type", "text/plain")], str(error).encode()

    def ask(self, body: bytes) -> tuple:
        upstream = http.client.HTTPConnection(self.server.proxy.target, timeout=60)
        with contextlib.closing(upstream):
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in OF_CONNECTION and name.lower() != "content-length":
                    upstream.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                upstream.putheader("Content-Length", len(body))
            upstream.endheaders(body or None)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()

    def answer(self, status: int, headers: list, body: bytes, cut: bool = False) -> None:
        """Sends an answer; with `cut`, half of its body and then the end of the connection."""
        self.send_response_only(status)
        for name, value in headers:
            # HEAD tells the length of what it does not send.
            if name.lower() not in OF_CONNECTION and (name.lower() != "content-length" or self.command == "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD" and status not in (204, 304):
            self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:len(body) // 2] if cut else body)
        self.wfile.flush()
        self.close_connection = self.close_connection or cut

    def log_message(self, *_):
        """Nothing: `Proxy.requests` has it all."""


def error_body(code: str, path: str) -> bytes:
    """An error as S3 tells it."""
    return (f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{code}</Message>'
            f"<Resource>{urllib.parse.quote(path.split('?')[0], safe='/%')}</Resource></Error>").encode()
