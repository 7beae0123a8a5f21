"""What the dashboard costs the database, and how soon an order is seen.

    python -m benchmarks.dashboard [--viewers 1000] [--seconds 300] [--rate 500] [--orders 200]

First in Chromium, with service, worker and bureau as they are: how long until a page that is opened shows its
figures, what its scripts weigh, and how long from posting an order until its line is drawn.

Then orders arrive at a steady rate, by the service's own statements in transactions of a fixed size, so that
their number does not depend on how busy the machine is: once with one viewer, once with many. Compared is
what PostgreSQL counts as committed. The viewers are of all kinds: staff who see all, partners who see their
own, staff who look at refusals. Each counts the events that it was sent; one of each kind reads them all.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvloop

from benchmarks.realtime import DURABLE, _decision
from realtime.database import open_pool
from realtime.decisions import Decider
from realtime.intake import Intake, _Waiting
from realtime.orders import Amount, OrderRequest
from realtime.policy import load_policies
from realtime.settings import Clock
from tests.soak.dashboard import Dashboard
from tests.soak.realtime import Stack, order_body

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = Path("/usr/bin/chromium")
_BATCH = 10  # orders in a transaction
_MAX_MB = 300
_ROW = b'","personal_loan","BRL",'  # once in each event, nowhere else


def main() -> int:
    """Measures and prints; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.dashboard", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--viewers", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=300, help="of each of the two runs (%(default)s)")
    parser.add_argument("--rate", type=float, default=500, help="orders a second (%(default)s)")
    parser.add_argument("--orders", type=int, default=200, help="looked at in Chromium (%(default)s)")
    parser.add_argument("--view", help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.view:
        uvloop.run(_view(json.loads(given.view)))
        return 0
    if given.load:
        uvloop.run(_load(json.loads(given.load)))
        return 0
    # Vacuuming commits, too, whenever it likes.
    settings = DURABLE | {"autovacuum": "off"}
    with tempfile.TemporaryDirectory(prefix="bench-dashboard-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user under root
        with Stack(folder, scale=0.4, lease=15, settings=settings) as stack:
            problems = []
            with Dashboard(stack) as dashboard:
                if given.orders:
                    problems += _measure_page(stack, dashboard, given.orders)
            for part in ("service", "worker"):
                stack.ask_to_stop(part)
            one = _run(stack, 1, given)
            many = _run(stack, given.viewers, given)
    difference = many["commits"] / one["commits"] - 1
    print(
        f"transactions in {given.seconds:g} s at {given.rate:g} orders/s: {one['commits']:,} with one viewer,"
        f" {many['commits']:,} with {given.viewers:,} ({difference:+.2%})"
    )
    problems += one["problems"] + many["problems"]
    if difference > 0.02:
        problems.append("more than 2 % more transactions")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# ---------- in Chromium

_WATCH = """
new MutationObserver(() => {
    if (document.querySelector('#figure-total dd span')) window.firstView ??= performance.now();
    for (const line of document.querySelectorAll('#orders tbody tr:not([data-noted])')) {
        line.dataset.noted = 'yes';
        requestAnimationFrame(() => setTimeout(() => (window.seen ??= {})[line.dataset.order] = Date.now()));
    }
}).observe(document, {childList: true, subtree: true});
"""


def _measure_page(stack: Stack, dashboard: Dashboard, orders: int) -> list[str]:
    if not CHROMIUM.exists():
        return [f"{CHROMIUM} is missing: apt-get install chromium"]
    from playwright.sync_api import sync_playwright

    rng = random.Random(1)
    people = stack.customers()
    cookie = {"name": "dashboard", "value": dashboard.client().cookies["dashboard"], "url": dashboard.url}
    with sync_playwright() as playwright, httpx.Client(base_url=stack.url, timeout=60) as client:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        views = []
        for _ in range(5):
            context = browser.new_context()  # nothing cached
            context.add_cookies([cookie])
            page = context.new_page()
            page.add_init_script(_WATCH)
            page.goto(f"{dashboard.url}/dashboard")
            while not page.evaluate("window.firstView"):
                page.wait_for_timeout(20)
            views.append(page.evaluate("window.firstView"))
            scripts = page.evaluate(
                "performance.getEntriesByType('resource').filter((r) => r.name.endsWith('.js'))"
                ".reduce((sum, r) => sum + r.encodedBodySize, 0)"
            )
        sent = {}
        for _ in range(orders):
            partner, cpf = rng.choice(people)
            body = order_body(rng, cpf)
            sent[body["order_id"]] = time.time() * 1000
            client.post(
                "/v1/credit-orders", json=body, headers={"X-Api-Key": stack.keys[partner]}
            ).raise_for_status()
            page.wait_for_timeout(rng.uniform(50, 250))
        page.wait_for_timeout(3000)
        seen = page.evaluate("window.seen")
        browser.close()
    stack.wait_until_decided()
    delays = [seen[order_id] - at for order_id, at in sent.items() if order_id in seen]
    print(
        f"first view: median {statistics.median(views):.0f} ms, worst {max(views):.0f} ms of {len(views)};"
        f" scripts {scripts / 1000:.1f} kB compressed"
    )
    print(
        f"posted to visible, {len(delays)} orders: p50 {_percentile(delays, 0.5):.0f} ms,"
        f" p95 {_percentile(delays, 0.95):.0f} ms, worst {max(delays):.0f} ms",
        flush=True,
    )
    problems = []
    if len(delays) < orders:
        problems.append(f"{orders - len(delays)} orders were never seen")
    if _percentile(delays, 0.95) > 500:
        problems.append("p95 from posted to visible is above 500 ms")
    if statistics.median(views) > 1000 or scripts > 200_000:
        problems.append("the page is too slow or too heavy")
    return problems


# ---------- many viewers


def _run(stack: Stack, viewers: int, given: argparse.Namespace) -> dict[str, Any]:
    with Dashboard(stack) as dashboard:
        partners = [partner for partner in stack.keys if partner]
        view = {
            "port": dashboard.port,
            "viewers": viewers,
            "cookies": {name: dashboard.client(name).cookies["dashboard"] for name in ("ana", *partners)},
        }
        watching = _start("--view", view)
        assert watching.stdout.readline() == "ready\n"
        before = _committed(stack)
        load = {
            "dsn": stack.dsn,
            "offset": stack.offset,
            "rate": given.rate,
            "seconds": given.seconds,
            "customers": stack.customers(),
        }
        loading = _start("--load", load)
        process = psutil.Process(dashboard.process.pid)
        memory, began, cpu = 0, time.perf_counter(), process.cpu_times()
        while loading.poll() is None:
            memory = max(memory, process.memory_info().rss)
            time.sleep(0.5)
        cores = sum(process.cpu_times()[:2]) - sum(cpu[:2])
        elapsed = time.perf_counter() - began
        sent = json.loads(loading.stdout.read())
        time.sleep(5)  # what is under way
        committed = _committed(stack) - before
        watching.stdin.write("report\n")
        watching.stdin.close()
        report = json.loads(watching.stdout.read())
        watching.wait()
    expected = {"ana": sent["events"], "ana rejected": sent["rejected"], **sent["partners"]}
    wrong, resynced = 0, 0
    for kind, rows, resyncs in report["viewers"]:
        resynced += resyncs > 0
        wrong += resyncs == 0 and rows != expected.get(kind, 0)
    missing = sum(
        resyncs == 0 and unlike != expected.get(kind, 0) for kind, unlike, resyncs in report["readers"]
    )
    lags = report["lags"]
    print(
        f"{viewers:,} viewers, {sent['orders']:,} orders in {elapsed:.0f} s: {wrong} missed something,"
        f" {resynced} were told to begin anew; {report['megabytes']:,.0f} MB sent;"
        f" the dashboard used {cores / elapsed:.2f} cores and {memory / 2**20:.0f} MB at most"
    )
    if lags:
        print(
            f"committed to received: p50 {_percentile(lags, 0.5) * 1000:.0f} ms,"
            f" p95 {_percentile(lags, 0.95) * 1000:.0f} ms",
            flush=True,
        )
    problems = []
    if wrong or missing:
        problems.append(f"{wrong} of {viewers} viewers missed events, {missing} who read all of them")
    if memory > _MAX_MB * 2**20:
        problems.append(f"{memory / 2**20:.0f} MB of memory")
    return {"commits": committed, "problems": problems}


def _start(option: str, given: dict[str, Any]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.dashboard", option, json.dumps(given)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def _committed(stack: Stack) -> int:
    time.sleep(2)  # sessions tell what they have committed once a second
    with stack.connect() as connection:
        return connection.execute(
            "select xact_commit from pg_stat_database where datname = current_database()"
        ).fetchone()[0]


class _Viewer(asyncio.Protocol):
    """Counts the events that it is sent."""

    reads = False

    def __init__(self, kind: str, request: bytes, begun: asyncio.Event) -> None:
        self.kind = kind
        self._request = request
        self._tail = b""
        self.begun = begun
        self.rows = self.resyncs = self.bytes = 0
        self.lost = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        whole = self._tail + data
        self.rows += whole.count(_ROW)
        self.resyncs += whole.count(b"event: resync\n")
        if not self.begun.is_set() and b"event: state\n" in whole:
            self.begun.set()
        self._tail = whole[-(len(_ROW) - 1) :]
        if self.reads:
            self.read(data)

    def read(self, data: bytes) -> None:
        """Looks at what has come."""

    def reset(self) -> None:
        """What has come so far does not count."""
        self.rows = self.bytes = 0


class _Reader(_Viewer):
    """Reads every event that it is sent."""

    reads = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._buffer = b""
        self.events: set[tuple[str, int]] = set()
        self.lags: list[float] = []

    def read(self, data: bytes) -> None:
        """Takes whole events out of what has come; each is a chunk or several of them."""
        self._buffer += data
        while (end := self._buffer.find(b"\n\n")) >= 0:
            event, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
            if b"event: orders\n" not in event:
                continue
            now = time.time()
            for row in json.loads(event[event.index(b"data: ") + 6 :]):
                self.events.add((row[0], row[1]))
                if row[1] == 1:
                    self.lags.append((now - row[11] / 1000) % 86400)  # the world has another day

    def reset(self) -> None:
        """See `_Viewer`."""
        super().reset()
        self.events.clear()
        self.lags.clear()


async def _view(given: dict[str, Any]) -> None:
    partners = [name for name in given["cookies"] if name != "ana"]
    viewers: list[_Viewer] = []
    kinds: Counter[str] = Counter()
    loop = asyncio.get_running_loop()
    for number in range(given["viewers"]):
        query = ""
        if number % 10 == 0:
            kind = name = "ana"
        elif number % 10 == 1:
            kind, name, query = "ana rejected", "ana", "?status=rejected"
        else:
            kind = name = partners[number % len(partners)]
        request = (
            f"GET /dashboard/api/stream{query} HTTP/1.1\r\nHost: localhost\r\n"
            f"Cookie: dashboard={given['cookies'][name]}\r\n\r\n"
        ).encode()
        make = _Viewer if kinds[kind] else _Reader
        kinds[kind] += 1
        viewer = make(kind, request, asyncio.Event())
        await loop.create_connection(lambda viewer=viewer: viewer, "127.0.0.1", given["port"])
        viewers.append(viewer)
    await asyncio.gather(*(viewer.begun.wait() for viewer in viewers))
    await asyncio.sleep(2)
    for viewer in viewers:
        viewer.reset()
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    await asyncio.sleep(0.5)
    readers = [viewer for viewer in viewers if isinstance(viewer, _Reader)]
    print(
        json.dumps(
            {
                "viewers": [(v.kind, -1 if v.lost else v.rows, v.resyncs) for v in viewers],
                "readers": [(v.kind, len(v.events), v.resyncs) for v in readers],
                "lags": [lag for v in readers for lag in v.lags],
                "megabytes": sum(v.bytes for v in viewers) / 1e6,
            }
        ),
        flush=True,
    )


# ---------- orders at a steady rate


async def _load(given: dict[str, Any]) -> None:
    rng = random.Random(uuid.uuid4().int)
    clock = Clock(timedelta(seconds=given["offset"]))
    partners: Counter[str] = Counter()
    rejected = orders = 0
    async with open_pool(given["dsn"], 4) as pool:
        intake = Intake(pool, clock)
        decider = Decider(pool, None, load_policies(), clock)
        began = time.perf_counter()
        decide: list[dict[str, Any]] = []
        while orders < given["rate"] * given["seconds"]:
            due = began + orders / given["rate"]
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            batch = [_order(rng, *rng.choice(given["customers"])) for _ in range(_BATCH)]
            await intake._store(batch)
            if decide:
                await decider._record(decide)
            decide = []
            for waiting in batch:
                at = waiting.receipt.result()
                status = "rejected" if rng.random() < 0.4 else "approved"
                made = _decision(waiting.order.order_id) | {"evaluated_at": clock.now(), "requested_at": at}
                if status == "rejected":
                    made |= {"decision": "reject", "status": "rejected", "reason_codes": ["LOW_SCORE"]}
                    made |= {"approved_amount": None, "interest_rate": None}
                    rejected += 1
                decide.append(made)
                partners[waiting.partner_id] += 2
            orders += len(batch)
        await decider._record(decide)
    print(json.dumps({"orders": orders, "events": 2 * orders, "rejected": rejected, "partners": partners}))


def _order(rng: random.Random, partner: str, cpf: str) -> _Waiting:
    order = OrderRequest(
        order_id=uuid.UUID(int=rng.getrandbits(128), version=4),
        cpf=cpf,
        product="personal_loan",
        currency="BRL",
        requested_amount=Amount(rng.randrange(16, 120) * 50),
        term_months=12,
    )
    return _Waiting(order, partner, asyncio.get_running_loop().create_future())


if __name__ == "__main__":
    sys.exit(main())
