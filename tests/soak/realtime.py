"""Credit orders under load while everything around them is killed: each gets exactly one decision.

    python -m tests.soak.realtime [--seconds 600] [--rate 100] [--every 6] [--seed N]

A client posts orders at a steady rate, some of them twice and some late. Meanwhile the service, the worker,
PostgreSQL and the bureau are killed by SIGKILL at random moments of the seed, and started again. In the end
the client's own log is joined with the database by order id: no acknowledged order is lost, none is decided
twice, and each has one evaluation and one chain of events. A run in which one of the four was never killed
fails.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg

from realtime.keys import add_key
from realtime.migrations import migrate
from sandbox import loader
from sandbox.postgres import Postgres, find_postmaster
from sandbox.third_party.faults import Faults
from sandbox.third_party.server import create_server
from sandbox.worlds.synthetic import SyntheticWorld

ROOT = Path(__file__).resolve().parents[2]
DAY = date(2026, 1, 1)  # the day after the world's first run: what ingestion lands next
BUREAU_KEY = "the-key-of-the-bureau"
VICTIMS = ("service", "worker", "postgres", "bureau")
PATIENCE = 120  # seconds; a machine that is busy with other things starts a process slowly
_SEED = 7  # of the world


@dataclass
class Stack:
    """A world's PostgreSQL and bureau, with the service and the worker on top, each a process of its own."""

    folder: Path
    scale: float = 0.05
    lease: float = 2.0
    faults: Faults = field(default_factory=Faults)
    """Of the bureau."""
    settings: dict[str, str] = field(default_factory=dict)
    """Of PostgreSQL."""
    environment: dict[str, str] = field(default_factory=dict)
    """More settings of the processes that are started from now on."""
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    """API keys by partner; `""` is the reviewer's."""

    def __enter__(self) -> "Stack":
        self.port, self.worker_port, self.bureau_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        self._processes: dict[str, subprocess.Popen] = {}
        self._bureau: Any = None
        self._postgres: Postgres | None = None
        # The day begins with the stack, in the morning: nothing depends on the hour of the machine's clock,
        # and a long run does not reach the next day.
        morning = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC)
        self.offset = (morning - datetime.now(UTC)) // timedelta(seconds=1)
        self._log = (self.folder / "log").open("ab")
        self._postgres_log = (self.folder / "postgres.log").open("ab")
        try:
            self.start("postgres")
            with self.connect() as connection:
                loader.create_world(connection, SyntheticWorld(_SEED, self.scale), BUREAU_KEY)
            migrate(self.dsn)
            asyncio.run(self._add_keys())
            for name in ("bureau", "service", "worker"):
                self.start(name)
            self.wait_until_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        if self._bureau:
            self._bureau.kill()
            self._bureau.join()
        if self._postgres:
            self._postgres.stop()
        self._log.close()
        self._postgres_log.close()

    @property
    def dsn(self) -> str:
        """Of PostgreSQL; the same after every restart."""
        return self._postgres.dsn

    @property
    def env(self) -> dict[str, str]:
        """The settings of service and worker."""
        return (
            os.environ
            | {
                "REALTIME_DSN": self.dsn,
                "REALTIME_PORT": str(self.port),
                "REALTIME_WORKER_PORT": str(self.worker_port),
                "BUREAU_URL": f"http://127.0.0.1:{self.bureau_port}",
                "BUREAU_API_KEY": BUREAU_KEY,
                "REALTIME_OFFSET_SECONDS": str(self.offset),
            }
            | self.environment
        )

    def connect(self) -> psycopg.Connection:
        """A connection that commits every statement."""
        return psycopg.connect(self.dsn, autocommit=True)

    def start(self, name: str) -> None:
        """Starts one of the four."""
        if name == "postgres":
            self._postgres = Postgres(self.folder / "pgdata", self._postgres_log, self.settings)
        elif name == "bureau":
            self._bureau = multiprocessing.get_context("spawn").Process(
                target=_serve_bureau, args=(self.bureau_port, self.faults), daemon=True
            )
            self._bureau.start()
        else:
            command = {
                "service": ["serve"],
                "worker": ["work", "--lease", str(self.lease)],
                "relay": ["relay", "--lease", str(self.lease)],
            }[name]
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "realtime", *command],
                cwd=ROOT,
                env=self.env | ({"REALTIME_WORKER_PORT": "0"} if name == "relay" else {}),
                stdout=self._log,
                stderr=self._log,
            )

    def kill(self, name: str) -> None:
        """Kills one of the four, at once and without a word."""
        if name == "postgres":
            postmaster = find_postmaster(self.folder / "pgdata")
            family = [postmaster, *postmaster.children(recursive=True)]
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, 10)
        elif name == "bureau":
            self._bureau.kill()
            self._bureau.join()
        else:
            self._processes[name].kill()
            self._processes[name].wait()

    def process(self, name: str) -> subprocess.Popen:
        """Service or worker."""
        return self._processes[name]

    def ask_to_stop(self, name: str) -> int:
        """Sends SIGTERM to service or worker; returns its exit code."""
        self._processes[name].send_signal(signal.SIGTERM)
        return self._processes[name].wait(30)

    def wait_until_healthy(self, names: Collection[str] = ("service", "worker")) -> None:
        """Returns once these say that they are well, and the bureau listens."""
        deadline = time.monotonic() + PATIENCE
        while socket.socket().connect_ex(("127.0.0.1", self.bureau_port)):
            if time.monotonic() > deadline:
                raise AssertionError("the bureau does not listen")
            time.sleep(0.05)
        ports = {"service": self.port, "worker": self.worker_port}
        for name in names:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{ports[name]}/healthz", timeout=5).close()
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise AssertionError((self.folder / "log").read_text()[-3000:]) from None
                    time.sleep(0.05)

    def wait_until_decided(self, seconds: float = PATIENCE) -> None:
        """Returns once nothing waits in the queue.

        Raises:
            TimeoutError: it still does.
        """
        deadline = time.monotonic() + seconds
        with self.connect() as connection:
            while connection.execute("select count(*) from realtime.outbox where done_at is null").fetchone()[
                0
            ]:
                if time.monotonic() > deadline:
                    raise TimeoutError("orders still wait for their decision")
                time.sleep(0.05)

    def customers(self) -> list[tuple[str, str]]:
        """Partner and CPF of everybody."""
        with self.connect() as connection:
            return connection.execute(
                "select partner_id, cpf from app.customers order by customer_id"
            ).fetchall()

    async def _add_keys(self) -> None:
        from realtime.database import open_pool

        async with open_pool(self.dsn, 1) as pool:
            for partner in sorted({partner for partner, _ in self.customers()}):
                self.keys[partner] = await add_key(pool, partner, partner, 100_000, 100_000)
            self.keys[""] = await add_key(pool, "ana", None, 1000, 1000)


def _serve_bureau(port: int, faults: Faults) -> None:
    server = create_server(
        "synthetic",
        _SEED,
        DAY,
        port,
        BUREAU_KEY,
        requests_per_second=1000,
        burst=1000,
        log=lambda line: None,
    )
    server.mischief.set(faults)
    server.serve_forever()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def order_body(rng: random.Random, cpf: str, **changes: Any) -> dict[str, Any]:
    """An order that the service accepts."""
    return {
        "order_id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "cpf": cpf,
        "product": "personal_loan",
        "purpose": "travel",
        "currency": "BRL",
        "requested_amount": f"{rng.randrange(16, 120) * 50}.00",
        "term_months": rng.choice([6, 9, 12, 18, 24]),
        "metadata": {"channel": "web", "device": "ios", "device_id": f"device-{rng.randrange(10**9)}"},
    } | changes


@dataclass
class Sent:
    """What the client knows of an order: what it sent, how often, and every answer that was not an error."""

    body: dict[str, Any]
    key: str
    posts: int = 0
    receipts: list[dict[str, Any]] = field(default_factory=list)


async def post_once(port: int, sent: Sent) -> tuple[int, dict[str, Any]]:
    """Posts an order on a connection of its own: nothing is left over from a server that was killed."""
    body = json.dumps(sent.body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = (
            "POST /v1/credit-orders HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"X-Api-Key: {sent.key}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.read()
    finally:
        writer.close()
    if not answer:
        raise EOFError
    head, _, content = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), json.loads(content)


@dataclass
class Campaign:
    """A run: orders under load, and the kills."""

    stack: Stack
    seed: int
    seconds: float
    rate: float
    every: float
    """Seconds between two kills, on average."""
    log: list[Sent] = field(default_factory=list)
    kills: list[tuple[float, str]] = field(default_factory=list)
    late: int = 0

    def run(self) -> list[str]:
        """Runs; returns what is wrong."""
        self._began, self._over = time.monotonic(), False
        with ThreadPoolExecutor(1) as client:
            posting = client.submit(asyncio.run, self._post_all())
            # Here and not in a thread: PostgreSQL ends with the thread that has started it.
            try:
                self._kill()
            finally:
                self._over = True
            posting.result()
        self.stack.wait_until_healthy()
        try:
            self.stack.wait_until_decided()
        except TimeoutError as error:
            return [str(error)]
        return self.problems()

    def _kill(self) -> None:
        rng = random.Random(f"{self.seed}/kills")
        # Each of them in every four kills, in an order of the seed; a slow machine finishes its four.
        while not self.kills or self._elapsed() < self.seconds:
            for victim in rng.sample(VICTIMS, len(VICTIMS)):
                time.sleep(rng.uniform(0.5, 1.5) * self.every)
                self.stack.kill(victim)
                self.kills.append((round(self._elapsed(), 2), victim))
                time.sleep(rng.uniform(0, 0.5))
                self.stack.start(victim)
                self.stack.wait_until_healthy()

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    async def _post_all(self) -> None:
        rng = random.Random(f"{self.seed}/orders")
        customers = self.stack.customers()
        posts: set[asyncio.Task] = set()
        number = 0
        while not self._over:
            await asyncio.sleep(max(0.0, number / self.rate - self._elapsed()))
            partner, cpf = rng.choice(customers)
            sent = Sent(order_body(rng, cpf), self.stack.keys[partner])
            self.log.append(sent)
            # One in twenty comes a second or two after its turn, one in twenty twice.
            wait = rng.uniform(1, 2) if rng.random() < 0.05 else 0.0
            self.late += wait > 0
            for _ in range(2 if rng.random() < 0.05 else 1):
                task = asyncio.create_task(self._post(sent, wait))
                posts.add(task)
                task.add_done_callback(posts.discard)
            number += 1
        while posts:
            await asyncio.wait(posts)

    async def _post(self, sent: Sent, wait: float) -> None:
        """Posts until there is an answer, as a partner has to."""
        await asyncio.sleep(wait)
        began = self._elapsed()
        while self._elapsed() < began + PATIENCE:
            sent.posts += 1
            try:
                async with asyncio.timeout(20):
                    status, answer = await post_once(self.stack.port, sent)
            except (OSError, TimeoutError, EOFError, ValueError):
                await asyncio.sleep(0.2)
                continue
            if status != 503:
                sent.receipts.append(answer if status == 202 else {"status": status})
                return
            await asyncio.sleep(0.2)

    def problems(self) -> list[str]:
        """What the client's log and the database do not agree on."""
        with self.stack.connect() as connection:
            orders = dict(
                connection.execute(
                    "select order_id::text, status from app.credit_orders where metadata ? 'device_id'"
                ).fetchall()
            )
            evaluations = connection.execute(
                "select order_id::text, decision from app.risk_evaluations where provider = 'policy'"
            ).fetchall()
            events = connection.execute(
                "select order_id::text, array_agg(event_type order by seq), array_agg(seq order by seq)"
                " from app.credit_order_events where order_id = any(%s) group by 1",
                (list(orders),),
            ).fetchall()
            dead = connection.execute("select count(*) from realtime.dead_letters").fetchone()[0]
        return (
            check(self.log, orders, evaluations, events)
            + self._unkilled()
            + ([f"{dead} dead letters"] * (dead > 0))
        )

    def _unkilled(self) -> list[str]:
        missing = set(VICTIMS) - {victim for _, victim in self.kills}
        return [f"never killed: {', '.join(sorted(missing))}"] if missing else []

    def summary(self) -> str:
        """The run in a few lines."""
        acknowledged = [s for s in self.log if any("order_id" in r for r in s.receipts)]
        kills = Counter(victim for _, victim in self.kills)
        return "\n".join(
            [
                f"seed {self.seed}: {len(self.log)} orders, {len(acknowledged)} acknowledged,"
                f" {sum(s.posts for s in self.log)} posts, {self.late} late",
                f"{len(self.kills)} kills: {', '.join(f'{n} {v}' for v, n in sorted(kills.items()))}",
                "at " + ", ".join(f"{at:.2f} {victim}" for at, victim in self.kills),
            ]
        )


_DECISIVE = {
    "approve": ("approved", "approved"),
    "reject": ("rejected", "rejected"),
    "review": ("in_review", "referred"),
}


def check(
    log: list[Sent], orders: dict[str, str], evaluations: list[tuple], events: list[tuple]
) -> list[str]:
    """Compares the client's log with what the database holds, order by order; returns what is wrong."""
    problems = []
    decisions: dict[str, list[str]] = {}
    for order_id, decision in evaluations:
        decisions.setdefault(order_id, []).append(decision)
    chains = {order_id: (types, numbers) for order_id, types, numbers in events}
    known = {s.body["order_id"] for s in log}
    if orders.keys() - known:
        problems.append(f"{len(orders.keys() - known)} orders that nobody sent")
    for sent in log:
        order_id = sent.body["order_id"]
        if not sent.receipts:
            problems.append(f"{order_id}: never answered")
        elif (
            any(receipt != sent.receipts[0] for receipt in sent.receipts)
            or "order_id" not in sent.receipts[0]
        ):
            problems.append(f"{order_id}: answers differ or refuse: {sent.receipts}")
        if order_id not in orders:
            if sent.receipts:
                problems.append(f"{order_id}: acknowledged and lost")
            continue
        made = decisions.get(order_id, [])
        if len(made) != 1:
            problems.append(f"{order_id}: {len(made)} evaluations")
            continue
        status, event = _DECISIVE[made[0]]
        if orders[order_id] != status:
            problems.append(f"{order_id}: evaluated {made[0]}, status {orders[order_id]}")
        if chains.get(order_id) != (["created", event], [1, 2]):
            problems.append(f"{order_id}: events {chains.get(order_id)}")
    return problems


def main() -> int:
    """Runs the campaign; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.realtime", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--rate", type=float, default=100, help="orders a second (%(default)s)")
    parser.add_argument("--every", type=float, default=6, help="seconds between kills (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: a random one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-rt-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user under root
        with Stack(folder, scale=0.5, lease=5) as stack:
            campaign = Campaign(stack, given.seed, given.seconds, given.rate, given.every)
            problems = campaign.run()
        log = (folder / "log").read_text()
    print(campaign.summary())
    for problem in problems[:20]:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        print(log[-5000:], file=sys.stderr)
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
