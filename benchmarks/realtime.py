"""How many credit orders are accepted durably over HTTP, and how soon each is decided.

    python -m benchmarks.realtime [--seconds 10] [--rounds 5] [--connections 256] [--bureau 0.1]

PostgreSQL waits for the disk at every commit here, unlike the sandbox's. The load comes from a process of its
own, by the clock: an order's latency counts from when it was due, so a service that falls behind shows it.
First a few hundred orders a second, with a bureau that takes its time, from order to decision, and 2,000 a
second with the worker deciding. The maximum is the highest rate that is sustained: all orders are accepted
and p99 is within `--bound`. It is looked for from above, beginning with what the service answers when every
connection sends as soon as it can; that alone would be too high, since queues grow at it. Then 70 % of it.
Both in rounds, one after the other: a machine that is shared is a quarter faster or slower a minute later. At
last the decision's transaction alone, as the worker runs it, beside pgbench with the same statement, on as
many connections, in turns: with one order in each, and with twenty, since the worker takes what waits.

Beside each figure stands what limits: the processors that service, load and PostgreSQL took, how many orders
shared a transaction, and how long the disk took to confirm a write, measured beside it.

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
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter, deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import uvloop

from realtime.bureau import Bureau
from realtime.database import open_pool
from realtime.decisions import RECORD, Decider, evaluation_id
from realtime.policy import Inputs, load_policies
from realtime.settings import Clock
from sandbox.postgres import _BIN, find_postmaster
from sandbox.third_party.faults import Faults
from tests.soak.realtime import Stack, order_body

ROOT = Path(__file__).resolve().parents[1]
DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # As on a server of its own: pages are written by checkpoints, which are rare, not by those who need room.
    "shared_buffers": "2GB",
    "checkpoint_timeout": "15min",
    "max_wal_size": "8GB",
    "min_wal_size": "1GB",
}


def main() -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.realtime", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of maximum and 70 %% of it (%(default)s)")
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument(
        "--bound", type=float, default=200, help="ms that p99 may have at the maximum (%(default)s)"
    )
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
    # Deciding first: an order's features are of all that its customer ever asked for, and what follows leaves
    # hundreds of orders with each.
    _empty(stack)
    stack.start("worker")
    stack.wait_until_healthy()
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
        f" (accepted: p99 {accepted['p99']:.1f} ms)",
        flush=True,
    )
    _show("open loop at 2,000/s, worker deciding", _run(stack, given, 2000, given.seconds))
    stack.ask_to_stop("worker")
    _empty(stack)

    maxima, p99s = [], []
    for _ in range(given.rounds):
        maxima.append(_find_maximum(stack, given))
        _empty(stack)
        rate = 0.7 * maxima[-1]
        result = _run(stack, given, rate, given.seconds)
        _show(f"open loop at {rate:,.0f}/s (70 %), no worker", result)
        p99s.append(result["p99"])
    print(
        f"median of {given.rounds} rounds: maximum {statistics.median(maxima):,.0f}/s, p99 at 70 % of it"
        f" {statistics.median(p99s):.1f} ms ({', '.join(f'{p99:.1f}' for p99 in p99s)})",
        flush=True,
    )
    _empty(stack)
    stack.start("worker")
    stack.wait_until_healthy()
    _show(f"open loop at {rate:,.0f}/s (70 %), worker deciding", _run(stack, given, rate, given.seconds))

    stack.ask_to_stop("service")
    stack.ask_to_stop("worker")
    for size in (1, 20):
        uvloop.run(_compare_decisions(stack, given.seconds, size))


def _find_maximum(stack: Stack, given: argparse.Namespace) -> float:
    """The highest rate that is sustained, in orders a second; in steps of 5 % of what is possible."""
    closed = _run(stack, given, None, given.seconds)
    _show("as fast as answers come", closed)
    for percent in range(100, 0, -5):
        _empty(stack)
        rate = closed["per_second"] * percent / 100
        tried = _run(stack, given, rate, given.seconds)
        if tried["p99"] <= given.bound and not tried["others"]:
            _show(f"maximum, {rate:,.0f}/s sustained", tried)
            return rate
        print(
            f"  not sustained: {rate:,.0f}/s, p99 {tried['p99']:.0f} ms, others {tried['others']}", flush=True
        )
    raise SystemExit("error: no rate is sustained on this machine: raise --bound, or stop what else runs")


def _fill_log(stack: Stack) -> None:
    """Lets the log's files be there, to be used again."""
    with stack.connect() as connection:
        connection.execute(
            "create table filler as select repeat(md5(n::text), 60) as t from generate_series(1, 250000) as n"
        )
        connection.execute("drop table filler")
        connection.execute("checkpoint")


async def _compare_decisions(stack: Stack, seconds: float, size: int) -> None:
    """Transactions of `size` decisions a second: by the worker's own code, and by pgbench."""
    connections, turns = 4, 4
    batches = int(seconds * (8_000 if size == 1 else 30_000)) // size  # of each, more than any has taken
    with stack.connect() as connection:
        connection.execute("drop schema if exists bench cascade")
        connection.execute("create schema bench")
        connection.execute("create sequence bench.next")
        connection.execute(
            "with made as (insert into app.credit_orders (order_id, customer_id, partner_id, product,"
            " currency, requested_amount, term_months, status, created_at, updated_at)"
            " select gen_random_uuid(), c.customer_id, c.partner_id, 'personal_loan', 'BRL', 1000, 12,"
            " 'in_review', '2026-01-01', '2026-01-01' from generate_series(1, %s) as n"
            " join (select row_number() over () as place, * from app.customers) as c"
            " on c.place = 1 + n %% (select count(*) from app.customers) returning order_id),"
            " placed as (select order_id, (row_number() over () - 1) / %s + 1 as n from made)"
            " select n, array_agg(order_id) as orders into bench.batches from placed group by n",
            (2 * batches * size, size),
        )
        template = _decision(uuid.uuid4())
        connection.execute("alter table bench.batches add primary key (n), add column decisions text;")
        connection.execute(
            "update bench.batches set decisions = (select jsonb_agg(%s::jsonb"
            " || jsonb_build_object('order_id', o, 'evaluation_id', gen_random_uuid()))::text"
            " from unnest(orders) as o)",
            (msgspec.json.encode(template, enc_hook=str).decode(),),
        )
        connection.execute("vacuum analyze")
        connection.execute("select setval('bench.next', %s)", (batches,))
        connection.execute("checkpoint")
        ours_next = "select orders from bench.batches where n <= %s order by n"
        rows = connection.execute(ours_next, (batches,)).fetchall()
    rest = iter([[_decision(order_id) for order_id in row[0]] for row in rows])
    script = stack.folder / "decide.sql"
    # JSON is text to both: PostgreSQL reads it
    theirs_next = "(select decisions::jsonb from bench.batches where n = (select nextval('bench.next')))"
    script.write_text(RECORD.replace("$1", theirs_next) + ";\n")
    pgbench = [
        *(_BIN / "pgbench", "--no-vacuum", "--protocol=prepared", f"--file={script}"),
        *(f"--client={connections}", f"--time={max(1, seconds / turns):.0f}", stack.dsn),
    ]
    ours, theirs = [], []
    async with open_pool(stack.dsn, connections) as pool:
        decider = Decider(pool, Bureau("http://127.0.0.1:1", ""), load_policies(), Clock())
        for _ in range(turns + 1):
            done, began = 0, time.perf_counter()

            async def decide(deadline: float) -> None:
                nonlocal done
                while time.perf_counter() < deadline and (decided := next(rest, None)):
                    await decider._record(decided)
                    done += 1

            await asyncio.gather(*(decide(began + seconds / turns) for _ in range(connections)))
            ours.append(done / (time.perf_counter() - began))
            said = subprocess.run(pgbench, capture_output=True, text=True, check=True).stdout
            theirs.append(float(re.search(r"tps = ([0-9.]+)", said)[1]))
        if next(rest, None) is None or await pool.fetchval("select last_value from bench.next") > 2 * batches:
            raise SystemExit("error: there were too few orders for these seconds: let there be more")
    # After a checkpoint pages are logged whole, and ours came first: the first turn only warms.
    del ours[0], theirs[0]
    ratios = ", ".join(f"{a / b:.2f}" for a, b in zip(ours, theirs, strict=True))
    print(
        f"transactions of {size} decisions: {statistics.mean(ours):,.0f}/s by the worker's code,"
        f" {statistics.mean(theirs):,.0f}/s by pgbench,"
        f" ratio {sum(ours) / sum(theirs):.2f} (turns {ratios}; {connections} connections)",
        flush=True,
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
        "model_version": "scorecard-2026.1",
        "reason_codes": [],
        "latency_ms": 100,
        "raw_response": {"request_id": str(order_id), "inputs": inputs},
        "evaluated_at": at,
        "approved_amount": "1000.00",
        "interest_rate": "0.0300",
        "policy_version": "2026.1",
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
    with _Disk(stack.folder) as disk:
        before = _used(stack)
        out = subprocess.run(
            [sys.executable, "-m", "benchmarks.realtime", "--load", json.dumps(load)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
        ).stdout
        after = _used(stack)
    used = {name: after[name] - before[name] for name in after}
    result = json.loads(out)
    result["cores"] = {name: used[name] / result["seconds"] for name in ("service", "PostgreSQL")}
    result["cores"]["load"] = result.pop("cpu") / result["seconds"]
    result["batch"] = used["orders"] / max(used["transactions"], 1)
    result["disk"] = disk.times()
    return result


def _used(stack: Stack) -> dict[str, float]:
    """So far: seconds of processors by service and PostgreSQL, transactions of intake, orders in them."""
    metrics = httpx.get(f"{stack.url}/metrics", timeout=30).text
    batches = dict(re.findall(r"^realtime_intake_batch_(sum|count) (\S+)$", metrics, re.M))
    postmaster = find_postmaster(stack.folder / "pgdata")
    times = [process.cpu_times() for process in [postmaster, *postmaster.children(recursive=True)]]
    service = psutil.Process(stack.process("service").pid).cpu_times()
    return {
        "service": service.user + service.system,
        "PostgreSQL": sum(t.user + t.system for t in times),
        "orders": float(batches["sum"]),
        "transactions": float(batches["count"]),
    }


class _Disk:
    """How long the disk takes to confirm 8 kB that are written over, ten times a second."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "disk"
        self._over = threading.Event()
        self._times: list[float] = []
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> "_Disk":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def times(self) -> tuple[float, float]:
        """Median and longest, in milliseconds."""
        return statistics.median(self._times) * 1000, max(self._times) * 1000

    def _write(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            while not self._over.wait(0.1 if self._times else 0):
                began = time.perf_counter()
                file.seek(0)
                file.write(bytes(8192))
                os.fdatasync(file.fileno())
                self._times.append(time.perf_counter() - began)


def _show(name: str, result: dict[str, Any]) -> None:
    cores = ", ".join(f"{who} {used:.2f}" for who, used in result["cores"].items())
    median, longest = result["disk"]
    slow = ", ".join(f"{n:,} in second {second}" for second, n in result["slow"]) or "none"
    print(
        f"{name}: {result['per_second']:,.0f} accepted/s, p50 {result['p50']:.1f} ms,"
        f" p99 {result['p99']:.1f} ms, others {result['others']}\n"
        f"  cores: {cores}; {result['batch']:.0f} orders a transaction;"
        f" disk {median:.1f} ms, at most {longest:.0f} ms; slower than 50 ms: {slow}",
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
        if self._buffer:
            data = self._buffer + data
        end = data.find(b"\r\n\r\n") + 4
        start = data.lower().find(b"content-length:") + 15
        if end < 4 or len(data) < end + int(data[start : data.find(b"\r\n", start)]):
            self._buffer = data
            return
        self._buffer = b""  # nothing more was asked for
        self._load.answered(self, time.perf_counter() - self._due, data[9:12] == b"202")


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
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(given["connections"]):
        await loop.create_connection(lambda: _Client(load), "127.0.0.1", given["port"])
    if rate is None:
        await asyncio.sleep(given["seconds"])
        load.over = True
        counted = len(load.latencies) - load.others
        seconds = time.perf_counter() - began
    else:
        began, number = time.perf_counter(), 0
        while number < len(requests):
            while number < len(requests) and began + number / rate <= time.perf_counter():
                load.due(began + number / rate)
                number += 1
            await asyncio.sleep(0.001)
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
                "cpu": time.process_time() - cpu,
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
