"""One HTTP server, on this machine only, that plays every third party of a world.

Its answers depend on nothing but the seed, the request and the world's date. The only state is the
bureau's rate limit, and, while it is asked to misbehave (`faults.py`), what that needs.
"""

import json
import math
import re
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from threading import Event, Lock
from typing import Any
from zoneinfo import ZoneInfo

from sandbox.third_party import bureau, ptax
from sandbox.third_party.answers import Answer, Refusal
from sandbox.third_party.faults import SHIFTED, Draw, Mischief

REQUESTS_PER_SECOND = 100.0
BURST = 200
_ZONE = ZoneInfo("America/Sao_Paulo")
_MAX_BODY = 1 << 20


def create_server(
    world: str,
    seed: int,
    world_date: date,
    port: int,
    api_key: str,
    *,
    requests_per_second: float = REQUESTS_PER_SECOND,
    burst: int = BURST,
    log: Callable[[str], None] | None = None,
    faults_file: Path | None = None,
    watch: Callable[["Call"], None] = lambda call: None,
) -> "ThirdPartyServer":
    """A server that listens already; call `serve_forever` to answer, set `world_date` to move its day.

    Args:
        world: only `synthetic` has data, every other world gets empty answers.
        seed: the world's seed.
        world_date: the last day there is.
        port: where to listen on 127.0.0.1; 0 takes a free one, see `url`.
        api_key: what the bureau wants in `X-Api-Key`.
        requests_per_second: the bureau's rate limit.
        burst: how many requests it forgives at once.
        log: takes the access log's lines; standard error by default.
        faults_file: holds the faults it is asked for; see `faults.py`.
        watch: takes every call whole, for tests: unlike the log it holds what was asked and answered.

    Raises:
        OSError: the port is taken.
    """
    server = ThirdPartyServer(("127.0.0.1", port), _Handler)
    server.world_date = world_date
    server.log = log or _log_to_stderr
    server.has_data = world == "synthetic"
    server.seed = seed
    server.api_key = api_key.encode()
    server.ptax = ptax.Ptax(seed)
    server.bucket = TokenBucket(requests_per_second, burst)
    server.mischief = Mischief(faults_file)
    server.watch = watch
    return server


@dataclass(frozen=True)
class Call:
    """A call as it was, on a day of the world; `at` is a monotonic clock's, `status` 0 without an answer."""

    at: float
    day: date
    route: str
    status: int
    faults: tuple[str, ...]
    request: bytes
    answer: bytes


class ThirdPartyServer(ThreadingHTTPServer):
    """Made by `create_server`."""

    daemon_threads = True
    block_on_close = False  # a client may keep its connection open for as long as it likes
    request_queue_size = 128

    world_date: date
    log: Callable[[str], None]
    has_data: bool
    seed: int
    api_key: bytes
    ptax: ptax.Ptax
    bucket: "TokenBucket"
    mischief: Mischief
    watch: Callable[[Call], None]

    def __init__(self, *arguments: Any) -> None:
        self.closing = Event()
        super().__init__(*arguments)

    @property
    def url(self) -> str:
        """The base URL of both services."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def server_bind(self) -> None:
        """Bind without the reverse name look-up of HTTPServer, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def server_close(self) -> None:
        """Stop listening, and let go of connections that a fault holds open."""
        self.closing.set()
        super().server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gave up is no error of ours."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)

    def answer_bureau(self, key: str, body: bytes) -> Answer:
        """A page of scores; 401 and 429 come first, as nobody reads a body before them."""
        if not compare_digest(key.encode("utf-8", "replace"), self.api_key):
            raise Refusal(401, "X-Api-Key is missing or wrong")
        wait = self.bucket.take()
        if wait > 0:
            return Answer(
                429,
                _error(429, "too many requests; wait as long as Retry-After says"),
                headers={"Retry-After": str(math.ceil(wait))},
            )
        if not self.has_data:
            bureau.check(body)
            return bureau.no_data()
        midnight = datetime.combine(self.world_date + timedelta(days=1), time_of_day(), _ZONE)
        return bureau.answer(self.seed, midnight.astimezone(UTC), body)

    def answer_ptax(self, query: str) -> Answer:
        """The bulletins a query asks for."""
        return self.ptax.answer(self.world_date, query) if self.has_data else ptax.no_data(query)


class TokenBucket:
    """A rate limit: `burst` requests at once, refilled at `rate` a second."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._filled_at = time.monotonic()
        self._lock = Lock()

    def take(self) -> float:
        """0 when the request may pass, else the seconds to wait for the next one that may."""
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
            self._filled_at = now
            if self._tokens >= 1:
                self._tokens -= 1
                return 0.0
            return (1 - self._tokens) / self._rate


class _Handler(BaseHTTPRequestHandler):
    server: ThirdPartyServer
    protocol_version = "HTTP/1.1"
    server_version = "sandbox"
    sys_version = ""
    timeout = 60
    # One packet per answer: head and body sent apart would wait for the client's delayed ACK.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def _respond(self) -> None:
        started = time.perf_counter()
        at = time.monotonic()
        path, _, query = self.path.partition("?")
        route = "unknown"  # an unknown path is not logged: anything may be in it
        body, draw = b"", None
        try:
            body = self._read_body()
            if path == bureau.PATH:
                route = "bureau"
                self._require("POST")
            elif ptax.is_path(path):
                route = "ptax"
                self._require("GET")
            else:
                raise Refusal(404, "there is no such resource")
            draw = self.server.mischief.draw(route)
            answer = self._fail(draw) if draw and draw.before else self._answer(route, body, query, draw)
        except Refusal as refusal:
            error = _ptax_error if route == "ptax" else _error
            answer = Answer(refusal.status, error(refusal.status, refusal.message))
        note = f" {answer.note}" if answer and answer.note else ""
        if draw and draw.applied:
            note += f" fault={','.join(draw.applied)}"
        status = answer.status if answer else 0
        self.server.watch(
            Call(
                at,
                self.server.world_date,
                route,
                status,
                tuple(draw.applied) if draw else (),
                body,
                answer.body if answer else b"",
            )
        )
        if answer:
            self._send(answer, draw)
        elif draw.before == "hang":
            self.server.closing.wait(draw.faults.lasts("hang"))
        milliseconds = (time.perf_counter() - started) * 1000
        self.server.log(f"{self.command} {route} {status or '-'}{note} {milliseconds:.1f}ms")

    def _answer(self, route: str, body: bytes, query: str, draw: Draw | None) -> Answer:
        """What the service says, spoilt if that is asked for."""
        if route == "ptax":
            if draw:
                query = _shifted(query, draw)
            answer = self.server.answer_ptax(query)
        else:
            answer = self.server.answer_bureau(self.headers.get("X-Api-Key", ""), body)
        if draw is None or answer.status != 200:
            return answer
        content = draw.spoil(answer.body, json.loads(body).get("page_token") if body else None)
        if draw.wire:
            draw.applied.append(draw.wire)
        if draw.wire == "truncate":
            content = content[: 1 + len(content) // 2]
        return replace(answer, body=content)

    def _fail(self, draw: Draw) -> Answer | None:
        """The fault that comes instead of an answer; None when nothing is sent."""
        draw.applied.append(draw.before)
        chance = draw.chance("how")
        if draw.before == "storm":
            wait = {"Retry-After": f"{draw.faults.lasts('retry_after'):g}"} if chance.random() < 0.5 else {}
            return Answer(429, _error(429, "too many requests"), headers=wait)
        if draw.before == "error":
            status = chance.choice([500, 502, 503, 504])
            return Answer(status, chance.choice([_error(status, "trouble"), b"<html>trouble</html>", b""]))
        if draw.before == "expire":
            return Answer(401, _error(401, "X-Api-Key has expired"))
        if draw.before == "reset":
            # Closed with a lingering time of none: the other side sees a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True
        return None

    def _require(self, method: str) -> None:
        if self.command != method:
            raise Refusal(405, f"use {method}")

    def _read_body(self) -> bytes:
        """The body is read whatever the answer: the next request follows it on the connection."""
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise Refusal(411, "send the body with Content-Length")
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > _MAX_BODY:
            self.close_connection = True
            raise Refusal(413, f"Content-Length must be a number up to {_MAX_BODY}")
        return self.rfile.read(int(length))

    def _send(self, answer: Answer, draw: Draw | None = None) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", "application/json;charset=UTF-8")
        self.send_header("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if "drip" in (draw.applied if draw else ()):
            self._drip(answer.body, draw.faults.lasts("drip"))
        else:
            self.wfile.write(answer.body)

    def _drip(self, body: bytes, seconds: float) -> None:
        pause = 0.05
        size = max(1, int(len(body) * pause / seconds))
        for start in range(0, len(body), size):
            self.wfile.write(body[start : start + size])
            self.wfile.flush()
            if self.server.closing.wait(pause):
                break

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library cannot parse; its own page would repeat the request line."""
        self.close_connection = True
        self._send(Answer(int(code), _error(int(code), "the request is malformed or not supported")))
        self.server.log(f"- unknown {int(code)}")

    def log_message(self, format: str, *args: object) -> None:
        """The standard library's log repeats request lines; `_respond` writes a safe one instead."""


def _shifted(query: str, draw: Draw) -> str:
    """The query of a page that begins some rows early, where it is not the first."""
    match = re.search(r"(?<=\$skip=)\d+", query)
    if match is None or int(match[0]) == 0 or not draw.shifts():
        return query
    return query[: match.start()] + str(max(0, int(match[0]) - SHIFTED)) + query[match.end() :]


def _error(status: int, message: str) -> bytes:
    return json.dumps({"error": {"status": status, "message": message}}).encode()


def _ptax_error(status: int, message: str) -> bytes:
    return json.dumps({"codigo": status, "mensagem": message}).encode()


def _log_to_stderr(line: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    print(f"{now} {line}", file=sys.stderr, flush=True)
