"""The HTTP interface: orders in, orders out, reviews. ASGI without a framework; `openapi.py` describes it."""

import asyncio
import gc
import re
import time
from typing import Any

import asyncpg
import msgspec
from prometheus_client import Counter, Histogram

from realtime import log
from realtime.database import UNAVAILABLE, Partitions, open_pool
from realtime.http import (
    Receive,
    Scope,
    Send,
    Server,
    read_body,
    respond,
    respond_json,
    respond_problem,
    respond_to_operator,
)
from realtime.intake import Intake
from realtime.keys import Key, Keys
from realtime.openapi import document
from realtime.orders import Refusal, read_order, read_review
from realtime.policy import REASONS, load_policies
from realtime.review import criteria, review_order
from realtime.settings import Settings
from realtime.telemetry import span

_ORDERS = "/v1/credit-orders"
_ORDER = re.compile(
    _ORDERS + r"/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})(/review)?", re.ASCII
)
_STALE = 15  # seconds without a database after which this instance is not healthy

_FIND = """
select
    o.order_id, o.partner_id, o.status, o.product, o.purpose, o.currency, o.requested_amount, o.term_months,
    o.approved_amount, o.interest_rate, o.policy_version, o.created_at, o.decided_at, last.reason_codes
from app.credit_orders as o
left join lateral (
    select e.reason_codes
    from app.risk_evaluations as e
    where e.order_id = o.order_id
    order by e.evaluated_at desc, e.created_at desc
    limit 1
) as last on true
where o.order_id = $1 and ($2::text is null or o.partner_id = $2)
"""
_EVALUATIONS = """
select provider, decision, score, model_version, reason_codes, raw_response, evaluated_at
from app.risk_evaluations
where order_id = $1
order by evaluated_at, created_at
"""

_REQUESTS = Counter("realtime_http_requests_total", "Requests answered", ["route", "status"])
_SECONDS = Histogram(
    "realtime_http_seconds",
    "Time to an answer",
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5),
)


class Api:
    """The application; `run` it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = settings.clock()
        self._policies = load_policies()
        self._pool: asyncpg.Pool = None
        self._keys: Keys = None
        self._intake: Intake = None
        self._partitions: Partitions = None
        self._openapi = msgspec.json.encode(document(self._policies))

    async def run(self) -> None:
        """Serves until it is told to stop.

        Raises:
            RealtimeError: the port is taken.
        """
        server = Server(self, self._settings.realtime_host, self._settings.realtime_port, "REALTIME_PORT")
        async with open_pool(self._settings.realtime_dsn, 8) as self._pool:
            self._keys = Keys(self._pool)
            self._intake = Intake(self._pool, self._clock)
            self._partitions = Partitions(self._pool)
            await self._partitions.make()
            parts = (self._keys, self._intake, self._partitions)
            helpers = [asyncio.create_task(part.run()) for part in parts]
            for helper in helpers:
                helper.add_done_callback(lambda task: _stop_if_failed(task, server))
            gc.collect()
            gc.freeze()  # what is here stays: to look through it again and again would make requests wait
            try:
                await server.run_until_stopped()
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        with span(
            scope["method"], "SERVER", _trace_headers(scope), http__request__method=scope["method"]
        ) as made:
            route, status = await self._respond(scope, receive, send)
            if made:
                made.update_name(f"{scope['method']} {route}")
                made.set_attributes({"http.route": route, "http.response.status_code": status})

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> tuple[str, int]:
        began = time.perf_counter()
        route, status = "other", 500

        async def watched(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            route = await self._answer(scope, receive, watched)
        except Refusal as refusal:
            await respond_problem(watched, refusal)
        except UNAVAILABLE as error:
            log.event("database_unavailable", "error", at="http", error=type(error).__name__)
            await respond_problem(
                watched, Refusal(503, "unavailable", "the database is away; repeat the request", wait=1)
            )
        except Exception as error:
            # The text of an unforeseen error may hold what was sent: only its kind is told.
            log.event("failed", "error", error=type(error).__name__, line=_last_line(error))
            await respond_problem(watched, Refusal(500, "internal", "this is our fault; it is in our log"))
        _REQUESTS.labels(route, str(status)).inc()
        _SECONDS.labels(route).observe(time.perf_counter() - began)
        return route, status

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> str:
        """Answers and returns the name of the route."""
        path, method = scope["path"], scope["method"]
        if path == _ORDERS:
            _require(method, "POST")
            key = self._caller(scope)
            if key.partner_id is None:
                raise Refusal(403, "forbidden", "a reviewer's key places no orders")
            await self._post(key, await read_body(scope, receive), send)
            return "post_order"
        if match := _ORDER.fullmatch(path):
            _require(method, "POST" if match[2] else "GET")
            key = self._caller(scope)
            if match[2]:
                if key.partner_id is not None:
                    raise Refusal(403, "forbidden", "only a reviewer of the lender reviews orders")
                await self._review(key, match[1], await read_body(scope, receive), send)
                return "review_order"
            await self._get(key, match[1], send)
            return "get_order"
        if method == "GET":
            if path == "/openapi.json":
                await respond(send, 200, self._openapi)
                return "openapi"
            away = time.monotonic() - self._keys.read_at > _STALE
            trouble = "the database is away" if away else self._partitions.trouble
            if await respond_to_operator(scope, send, trouble):
                return "operator"
        raise Refusal(404, "not-found", "there is no such resource")

    def _caller(self, scope: Scope) -> Key:
        given = next((value for name, value in scope["headers"] if name == b"x-api-key"), None)
        key = self._keys.find(given)
        key.take()
        return key

    async def _post(self, key: Key, body: bytes, send: Send) -> None:
        order = read_order(body, self._policies, self._policies.in_force(self._clock.now()))
        created_at = await self._intake.submit(order, key.partner_id)
        await respond_json(
            send, 202, {"order_id": order.order_id, "status": "in_review", "created_at": created_at}
        )

    async def _get(self, key: Key, order_id: str, send: Send) -> None:
        row = await self._pool.fetchrow(_FIND, order_id, key.partner_id)
        if row is None:
            raise Refusal(404, "not-found", "there is no such order")
        order = dict(row)
        codes = order.pop("reason_codes") or []
        order["reasons"] = [{"code": code, "text": REASONS.get(code, code)} for code in codes]
        if key.partner_id is None:
            evaluations = await self._pool.fetch(_EVALUATIONS, order_id)
            order["evaluations"] = [
                {"provider": e["provider"], "evaluated_at": e["evaluated_at"], **criteria(e)}
                for e in evaluations
            ]
        await respond_json(send, 200, order)

    async def _review(self, key: Key, order_id: str, body: bytes, send: Send) -> None:
        review = read_review(body, set(REASONS))
        await respond_json(send, 200, await review_order(self._pool, self._clock, order_id, review, key.name))


def _trace_headers(scope: Scope) -> dict[str, str]:
    return {
        n.decode(): v.decode("latin-1") for n, v in scope["headers"] if n in (b"traceparent", b"tracestate")
    }


def _require(method: str, wanted: str) -> None:
    if method != wanted:
        raise Refusal(405, "method", f"use {wanted}", allow=wanted)


def _stop_if_failed(task: asyncio.Task, server: Server) -> None:
    """A part that the service cannot do without has failed: better restarted than half alive."""
    if not task.cancelled() and task.exception() is not None:
        log.event("failed", "error", error=type(task.exception()).__name__, line=_last_line(task.exception()))
        server.should_exit = True


def _last_line(error: BaseException) -> str:
    """Where it happened: file and line."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace else "?"
