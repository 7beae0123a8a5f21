"""How many credit orders are accepted durably over HTTP, and how soon each is decided.

    python -m benchmarks.realtime [--seconds 10] [--connections 64] [--bureau 0.1]

PostgreSQL waits for the disk at every commit here, unlike the sandbox's. The load comes from a process of its
own. First as fast as answers come (the maximum), with the worker stopped; then, with it, at 70 % of that
maximum by the clock: an order's latency counts from when it was due, so a service that falls behind shows it.
At last a steady few hundred a second, with a bureau that takes its time, from order to decision.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import psutil
import uvloop

from sandbox.third_party.faults import Faults
from tests.soak.realtime import Stack, order_body

ROOT = Path(__file__).resolve().parents[1]
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "max_wal_size": "8GB"}


def main() -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.realtime", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement (%(default)s)")
    parser.add_argument("--connections", type=int, default=64)
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
        f" the service used {result['service_cpu']:.2f} cores",
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
        self.others += not accepted
        self.idle(client)


async def _load(given: dict[str, Any]) -> None:
    rng = random.Random(uuid.uuid4().int)
    rate = given["rate"]
    requests = [_request(rng, given) for _ in range(int((rate or 15_000) * given["seconds"]))]
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
    print(
        json.dumps(
            {
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
