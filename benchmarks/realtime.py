"""How many credit orders are accepted durably over HTTP, and how soon each is decided.

    python -m benchmarks.realtime [--seconds 10] [--connections 64] [--bureau 0.1]

PostgreSQL waits for the disk at every commit here, unlike the sandbox's. The load comes from a process of its
own. First as fast as answers come (the maximum), with the worker stopped; then, with it, at 70 % of that
maximum by the clock: an order's latency counts from when it was due, so a service that falls behind shows it.
Then a steady few hundred a second, with a bureau that takes its time, from order to decision. At last the
decision's transaction alone, as the worker runs it, beside pgbench with the same statement: one order in
each, on as many connections.

The log of the database is written once before anything is measured, so that its files are used again as in a
server that has run for a while: making a new one stops every commit for as long as the disk takes.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter, deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import uvloop

from realtime.bureau import Bureau
from realtime.database import open_pool
from realtime.decisions import RECORD, Decider, evaluation_id
from realtime.policy import Inputs, load_policies
from realtime.settings import Clock
from sandbox.postgres import _BIN
from sandbox.third_party.faults import Faults
from tests.soak.realtime import Stack, order_body

ROOT = Path(__file__).resolve().parents[1]
DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_wal_size": "8GB",
    "min_wal_size": "1GB",
}


def main() -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.realtime", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement (%(default)s)")
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument(
        "--bureau", type=float, default=0.1, help="seconds that the bureau takes (%(default)s)"
    )
    parser.add_argument(
        "--decisions", type=float, default=200, help="orders/s of the last part (%(default)s)"
    )
    parser.add_argument("--load", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.load:
        uvloop.run(_load(json.loads(given.load)))
        return 0
    slow = Faults(rates={"drip": 1.0}, seconds={"drip": given.bureau})
    with tempfile.TemporaryDirectory(prefix="bench-rt-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user under root
        with Stack(folder, scale=0.4, lease=15, faults=slow, settings=DURABLE) as stack:
            _measure(stack, given)
    return 0


def _measure(stack: Stack, given: argparse.Namespace) -> None:
    stack.ask_to_stop("worker")
    _fill_log(stack)
    _run(stack, given, None, 2)  # warm
    best = _run(stack, given, None, given.seconds)
    _show("maximum, closed loop", best)
    rate = 0.7 * best["per_second"]
    _show(f"open loop at {rate:,.0f}/s, no worker", _run(stack, given, rate, given.seconds))
    _empty(stack)
    stack.start("worker")
    stack.wait_until_healthy()
    _show(f"open loop at {rate:,.0f}/s, worker deciding", _run(stack, given, rate, given.seconds))
    _empty(stack)
    began = time.time()
    accepted = _run(stack, given, given.decisions, given.seconds)
    stack.wait_until_decided()
    with stack.connect() as connection:
        p50, p99, count = connection.execute(
            "select percentile_cont(0.5) within group (order by s),"
            " percentile_cont(0.99) within group (order by s), count(*)"
            " from (select extract(epoch from done_at - created_at) as s from realtime.outbox"
            " where created_at > to_timestamp(%s)) as t",
            (began,),
        ).fetchone()
    print(
        f"order to decision at {given.decisions:g}/s, bureau {given.bureau * 1000:.0f} ms:"
        f" p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms of {count:,}"
        f" (accepted: p99 {accepted['p99']:.1f} ms)"
    )

    stack.ask_to_stop("service")
    stack.ask_to_stop("worker")
    asyncio.run(_compare_decisions(stack, given.seconds))


def _fill_log(stack: Stack) -> None:
    """Lets the log's files be there, to be used again."""
    with stack.connect() as connection:
        connection.execute(
            "create table filler as select repeat(md5(n::text), 60) as t from generate_series(1, 250000) as n"
        )
        connection.execute("drop table filler")
        connection.execute("checkpoint")


async def _compare_decisions(stack: Stack, seconds: float) -> None:
    """Decisions a second, one in each transaction: by the worker's own code, and by pgbench."""
    connections, count = 4, 60_000
    with stack.connect() as connection:
        connection.execute("create schema bench")
        connection.execute("create sequence bench.next")
        connection.execute(
            "with made as (insert into app.credit_orders (order_id, customer_id, partner_id, product,"
            " currency, requested_amount, term_months, status, created_at, updated_at)"
            " select gen_random_uuid(), c.customer_id, c.partner_id, 'personal_loan', 'BRL', 1000, 12,"
            " 'in_review', '2026-01-01', '2026-01-01' from generate_series(1, %s) as n"
            " join (select row_number() over () as place, * from app.customers) as c"
            " on c.place = 1 + n %% (select count(*) from app.customers) returning order_id)"
            " select row_number() over () as n, order_id into bench.orders from made",
            (2 * count,),
        )
        orders = [
            row[0] for row in connection.execute("select order_id from bench.orders order by n").fetchall()
        ]
        template = _decision(orders[0])
        connection.execute("alter table bench.orders add primary key (n), add column decision jsonb;")
        connection.execute(
            "update bench.orders set decision = jsonb_build_array(%s::jsonb"
            " || jsonb_build_object('order_id', order_id, 'evaluation_id', gen_random_uuid()))",
            (msgspec.json.encode(template, enc_hook=str).decode(),),
        )
        connection.execute("vacuum analyze")
        connection.execute("select setval('bench.next', %s)", (count,))
        connection.execute("checkpoint")
    rest = iter(orders[:count])
    done = 0
    async with open_pool(stack.dsn, connections) as pool:
        decider = Decider(pool, Bureau("http://127.0.0.1:1", ""), load_policies(), Clock())
        deadline = time.perf_counter() + seconds

        async def decide() -> None:
            nonlocal done
            while time.perf_counter() < deadline:
                await decider._record([_decision(next(rest))])
                done += 1

        began = time.perf_counter()
        await asyncio.gather(*(decide() for _ in range(connections)))
        ours = done / (time.perf_counter() - began)
    script = stack.folder / "decide.sql"
    script.write_text(
        RECORD.replace("$1", "(select decision from bench.orders where n = (select nextval('bench.next')))")
        + ";\n"
    )
    with stack.connect() as connection:
        connection.execute("checkpoint")
    out = subprocess.run(
        [
            *(_BIN / "pgbench", "--no-vacuum", "--protocol=prepared", f"--file={script}"),
            *(f"--client={connections}", f"--time={seconds:.0f}", stack.dsn),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    theirs = float(re.search(r"tps = ([0-9.]+)", out)[1])
    print(
        f"decision transactions: {ours:,.0f}/s by the worker's code, {theirs:,.0f}/s by pgbench,"
        f" ratio {ours / theirs:.2f} ({connections} connections)"
    )


def _decision(order_id: uuid.UUID) -> dict[str, Any]:
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    inputs = dict.fromkeys(Inputs.__struct_fields__)
    return {
        "evaluation_id": evaluation_id(order_id),
        "order_id": order_id,
        "decision": "approve",
        "status": "approved",
        "score": 700,
        "provider": "policy",
        "model_version": "bureau-score-1",
        "reason_codes": [],
        "latency_ms": 100,
        "raw_response": {"request_id": str(order_id), "inputs": inputs},
        "evaluated_at": at,
        "approved_amount": "1000.00",
        "interest_rate": "0.0300",
        "policy_version": "2025.1",
        "requested_at": at,
    }


def _empty(stack: Stack) -> None:
    """Nothing of an earlier measurement waits any more."""
    with stack.connect() as connection:
        connection.execute("update realtime.outbox set done_at = now() where done_at is null")
        connection.execute("vacuum analyze realtime.outbox")


def _run(stack: Stack, given: argparse.Namespace, rate: float | None, seconds: float) -> dict[str, Any]:
    """One measurement by a load generator of its own process; who used how much CPU meanwhile."""
    load = {
        "port": stack.port,
        "seconds": seconds,
        "rate": rate,
        "connections": given.connections,
        "customers": stack.customers(),
        "keys": stack.keys,
    }
    service = psutil.Process(stack.process("service").pid)
    before = service.cpu_times()
    out = subprocess.run(
        [sys.executable, "-m", "benchmarks.realtime", "--load", json.dumps(load)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    ).stdout
    after = service.cpu_times()
    result = json.loads(out)
    result["service_cpu"] = (after.user + after.system - before.user - before.system) / result["seconds"]
    return result


def _show(name: str, result: dict[str, Any]) -> None:
    print(
        f"{name}: {result['per_second']:,.0f} accepted/s, p50 {result['p50']:.1f} ms,"
        f" p99 {result['p99']:.1f} ms, others {result['others']};"
        f" the service used {result['service_cpu']:.2f} cores; slower than 50 ms: {result['slow']}",
        flush=True,
    )


class _Client(asyncio.Protocol):
    """A connection that sends one request at a time."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._due = 0.0
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._load.idle(self)

    def send(self, due: float, request: bytes) -> None:
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = body[length:]
        self._load.answered(self, time.perf_counter() - self._due, head[9:12] == b"202")


class _Load:
    """Sends what is due through whichever connection is free."""

    def __init__(self, requests: list[bytes], closed: bool) -> None:
        self._requests = iter(requests)
        self._closed = closed
        self._idle: list[_Client] = []
        self._due: deque[float] = deque()
        self.latencies: list[float] = []
        self.ended: list[tuple[float, float]] = []
        self.others = 0
        self.sent = 0
        self.over = False

    def idle(self, client: _Client) -> None:
        """This connection is free."""
        if self.over:
            return
        if self._closed:
            self._send(client, time.perf_counter())
        elif self._due:
            self._send(client, self._due.popleft())
        else:
            self._idle.append(client)

    def due(self, at: float) -> None:
        """A request is due."""
        if self._idle:
            self._send(self._idle.pop(), at)
        else:
            self._due.append(at)

    def _send(self, client: _Client, at: float) -> None:
        request = next(self._requests, None)
        if request is None:
            self.over = True
            return
        self.sent += 1
        client.send(at, request)

    def answered(self, client: _Client, seconds: float, accepted: bool) -> None:
        """A response is whole."""
        self.latencies.append(seconds)
        self.ended.append((time.perf_counter(), seconds))
        self.others += not accepted
        self.idle(client)


async def _load(given: dict[str, Any]) -> None:
    rng = random.Random(uuid.uuid4().int)
    rate = given["rate"]
    requests = [_request(rng, given) for _ in range(int((rate or 15_000) * given["seconds"]))]
    gc.disable()  # its pauses would be taken for the service's
    load = _Load(requests, closed=rate is None)
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    for _ in range(given["connections"]):
        await loop.create_connection(lambda: _Client(load), "127.0.0.1", given["port"])
    if rate is None:
        await asyncio.sleep(given["seconds"])
        load.over = True
        counted = len(load.latencies) - load.others
        seconds = time.perf_counter() - began
    else:
        began = time.perf_counter()
        for number in range(len(requests)):
            due = began + number / rate
            if due > time.perf_counter():
                await asyncio.sleep(due - time.perf_counter())
            load.due(due)
        deadline = time.perf_counter() + 30
        while len(load.latencies) < len(requests) and time.perf_counter() < deadline:
            await asyncio.sleep(0.01)
        counted = len(load.latencies) - load.others
        seconds = time.perf_counter() - began
        load.others += len(requests) - len(load.latencies)  # never answered
    latencies = sorted(load.latencies)
    slow = Counter(int(at - began) for at, latency in load.ended if latency > 0.05)
    print(
        json.dumps(
            {
                "slow": sorted(slow.items()),
                "seconds": seconds,
                "per_second": counted / seconds,
                "p50": latencies[len(latencies) // 2] * 1000,
                "p99": latencies[int(0.99 * len(latencies))] * 1000,
                "others": load.others,
            }
        )
    )


def _request(rng: random.Random, given: dict[str, Any]) -> bytes:
    partner, cpf = rng.choice(given["customers"])
    body = json.dumps(order_body(rng, cpf)).encode()
    head = (
        f"POST /v1/credit-orders HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {given['keys'][partner]}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


if __name__ == "__main__":
    sys.exit(main())
