"""The dashboard in a real browser and over HTTP, above a real service, worker and PostgreSQL."""

import asyncio
import base64
import csv
import hashlib
import io
import json
import os
import random
import re
import socket
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from realtime.dashboard import assets
from realtime.dashboard.access import Attempts, Signer, Users, add_user, read_users
from realtime.dashboard.board import Viewer
from realtime.dashboard.feed import Snapshot
from realtime.dashboard.figures import percentile, span, step
from realtime.dashboard.history import without_personal
from realtime.errors import RealtimeError
from realtime.orders import Refusal
from sandbox import postgres
from sandbox.postgres import Postgres
from tests.soak.dashboard import Dashboard, Event, events
from tests.soak.realtime import Stack, free_ports, order_body

CHROMIUM = Path("/usr/bin/chromium")
RNG = random.Random(12)
PATIENCE = 60_000  # milliseconds; a busy machine draws slowly


def skip_but_in_ci(why: str) -> None:
    """What is missing must be there in CI; elsewhere it is said."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="module")
def stack(new_folder: Callable[[str], Path]) -> Iterator[Stack]:
    # With what a standby needs.
    replicated = {"wal_level": "replica", "max_wal_senders": "4", "full_page_writes": "on"}
    with Stack(new_folder("dashboard"), lease=15, settings=replicated) as running:
        yield running


@pytest.fixture
def standby(stack: Stack) -> Iterator[Postgres]:
    """A server that follows the stack's."""
    folder = stack.folder / "standby"
    folder.mkdir()
    identity = postgres._identity()
    if identity:
        os.chown(folder, identity["user"], identity["group"])
    command = [postgres._BIN / "pg_basebackup", "--pgdata", folder / "pgdata", "--dbname", stack.dsn]
    subprocess.run(
        [*command, "--write-recovery-conf", "--checkpoint", "fast"],
        cwd="/",
        check=True,
        capture_output=True,
        **identity,
    )
    for copied in (folder / "pgdata").glob(".s.PGSQL.*"):
        copied.unlink()  # the other server's socket
    with (stack.folder / "standby.log").open("ab") as log:
        running = Postgres(folder / "pgdata", log, stack.settings)
        yield running
        running.stop()


@pytest.fixture(scope="module")
def dashboard(stack: Stack) -> Iterator[Dashboard]:
    try:
        assets.find("uplot", "uPlot.iife.min.js")
    except RealtimeError as error:
        skip_but_in_ci(str(error))
    with Dashboard(stack) as running:
        yield running


@pytest.fixture(scope="module")
def other(stack: Stack, dashboard: Dashboard) -> Iterator[Dashboard]:
    """A second instance beside it."""
    with Dashboard(stack, passwords=dashboard.passwords) as running:
        yield running


@pytest.fixture(scope="module")
def browser(dashboard: Dashboard) -> Iterator[Any]:
    """After the processes: while Playwright runs, this thread cannot run another event loop."""
    if not CHROMIUM.exists():
        skip_but_in_ci(f"{CHROMIUM} is missing: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any, dashboard: Dashboard) -> Iterator[Callable[..., Any]]:
    """Opens the dashboard as somebody; errors of its scripts fail the test."""
    contexts, errors = [], []

    def open_one(name: str = "ana", path: str = "/dashboard", **options: Any) -> Any:
        context = browser.new_context(
            **{"locale": "en-US", "viewport": {"width": 1300, "height": 900}} | options
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(dashboard.url + path)
        page.fill("#name", name)
        page.fill("#password", dashboard.passwords[name])
        page.click("button[type=submit]")
        page.wait_for_selector("#figure-total dd span")
        page.wait_for_selector("#live.live")
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert errors == []


def post(stack: Stack, **changes: Any) -> tuple[str, dict[str, Any]]:
    """Posts an order of some customer; its partner and body."""
    partner = changes.pop("partner", None)
    of, cpf = RNG.choice([c for c in stack.customers() if partner in (None, c[0])])
    body = order_body(RNG, cpf, **changes)
    answer = httpx.post(
        f"{stack.url}/v1/credit-orders", json=body, headers={"X-Api-Key": stack.keys[of]}, timeout=60
    )
    assert answer.status_code == 202, answer.text
    return of, body


def seen(stream: Iterator[Event], order_id: str, until: str | None = None) -> list[str]:
    """The statuses of an order as they come, up to one."""
    statuses: list[str] = []
    for event in stream:
        if event.kind == "orders":
            statuses += [row[4] for row in event.data if row[0] == order_id and row[1] > len(statuses)]
        if statuses and (until is None or statuses[-1] == until or len(statuses) == 2):
            break
    return statuses


def state(client: httpx.Client, **query: str) -> dict[str, Any]:
    answer = client.get("/dashboard/api/state", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def eventually(page: Any, condition: str) -> None:
    """Waits for a condition; the page's policy lets nobody evaluate texts within it."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


def settled(stack: Stack, client: httpx.Client) -> dict[str, Any]:
    """The figures of the month, once all that has happened is in them."""
    stack.wait_until_decided()
    deadline = time.monotonic() + 60
    while True:
        summary = state(client, window="month")["summary"]
        with stack.connect() as connection:
            tables = connection.execute(
                "select status, count(*) from app.credit_orders where created_at >= to_timestamp(%s) group by 1",
                (summary["series"]["start"][0] / 1000,),
            ).fetchall()
        if {status: n for status, n in summary["counts"].items() if n} == dict(tables):
            return summary
        assert time.monotonic() < deadline, (summary["counts"], tables)
        time.sleep(0.1)


# ---------- the stream


def test_an_order_and_its_decision_come_by_the_stream(stack: Stack, dashboard: Dashboard) -> None:
    with dashboard.client().stream("GET", "/dashboard/api/stream") as answer:
        stream = events(answer.iter_lines())
        assert next(stream).kind == "state"
        partner, body = post(stack)
        statuses, last = [], None
        for event in stream:
            if event.kind == "orders":
                found = [row for row in event.data if row[0] == body["order_id"]]
                statuses += [(row[1], row[2]) for row in found]
                last = found[-1] if found else last
            if len(statuses) == 2:
                break

    assert statuses[0] == (1, "created")
    assert statuses[1][1] in ("approved", "rejected", "referred")
    assert last[5:9] == [partner, "personal_loan", "BRL", round(float(body["requested_amount"]) * 100)]


def test_nothing_is_missed_whichever_instance_one_comes_back_to(
    stack: Stack, dashboard: Dashboard, other: Dashboard
) -> None:
    with dashboard.client().stream("GET", "/dashboard/api/stream") as answer:
        place = next(events(answer.iter_lines())).id
    posted = [post(stack)[1]["order_id"] for _ in range(5)]
    stack.wait_until_decided()
    # An instance that has begun after all this, too.
    dashboard.stop()
    dashboard.start()

    for instance in (dashboard, other):
        with instance.client().stream(
            "GET", "/dashboard/api/stream", headers={"Last-Event-ID": place}
        ) as answer:
            event = next(events(answer.iter_lines()))
        assert event.kind == "orders"
        came = [(row[0], row[1]) for row in event.data]
        assert sorted(came) == sorted({(i, seq) for i in posted for seq in (1, 2)})


def test_what_commits_late_is_not_missed(stack: Stack, dashboard: Dashboard) -> None:
    """A transaction that began before others and ends after them has the older id."""
    insert = (
        "insert into app.credit_order_events (order_id, seq, event_type, from_status, to_status, actor,"
        " occurred_at) select order_id, 1000 + %s, 'late', status, status, 'staff', '2026-01-01 12:00Z'"
        " from app.credit_orders order by order_id limit 1 returning order_id::text"
    )
    with (
        dashboard.client().stream("GET", "/dashboard/api/stream") as answer,
        stack.connect() as late,
        stack.connect() as early,
    ):
        stream = events(answer.iter_lines())
        next(stream)
        with late.transaction():
            late.execute(insert, (1,))
            early.execute(insert, (2,))
            came = [(row[1], event.id) for event in _until(stream, "late", 1) for row in event.data]
        came += [(row[1], event.id) for event in _until(stream, "late", 1) for row in event.data]
    assert [seq for seq, _ in came if seq > 1000] == [1002, 1001]
    # Whoever left between the two is told of the second one only.
    with dashboard.client().stream(
        "GET", "/dashboard/api/stream", params={"last_event_id": came[0][1]}
    ) as answer:
        event = next(events(answer.iter_lines()))
        assert [row[1] for row in event.data if row[1] > 1000] == [1001]


def _until(stream: Iterator[Event], kind: str, count: int) -> list[Event]:
    found: list[Event] = []
    for event in stream:
        if event.kind == "orders" and any(row[2] == kind for row in event.data):
            found.append(event)
            if len(found) == count:
                return found
    raise AssertionError("the stream has ended")


@pytest.mark.parametrize("place", ["1:1:", "999999999:999999999:", "rubbish", "1:2"])
def test_a_place_that_is_not_known_means_to_begin_anew(dashboard: Dashboard, place: str) -> None:
    with dashboard.client().stream(
        "GET", "/dashboard/api/stream", headers={"Last-Event-ID": place}
    ) as answer:
        assert next(events(answer.iter_lines())).kind == "resync"


def test_a_viewer_who_does_not_keep_up_is_told_to_begin_anew(stack: Stack, dashboard: Dashboard) -> None:
    cookie = dashboard.client().cookies["dashboard"]
    with socket.socket() as slow, stack.connect() as connection:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(60)
        slow.connect(("127.0.0.1", dashboard.port))
        slow.sendall(
            f"GET /dashboard/api/stream HTTP/1.1\r\nHost: localhost\r\nCookie: dashboard={cookie}\r\n\r\n".encode()
        )
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
        for number in range(8):  # about two megabytes each
            connection.execute(
                "insert into app.credit_order_events (order_id, seq, event_type, from_status, to_status, actor,"
                " occurred_at) select o.order_id, 2000 + 12000 * %s + n, 'noise', o.status, o.status, 'staff',"
                " '2026-01-01 12:00Z' from (select * from app.credit_orders limit 1) as o"
                " cross join generate_series(1, 12000) as n",
                (number,),
            )
            time.sleep(0.3)
        received, deadline = b"", time.monotonic() + 60
        while b"event: resync" not in received:
            assert time.monotonic() < deadline
            data = slow.recv(1 << 20)
            assert data, "the stream has ended"
            received = received[-100:] + data


def test_a_queue_drops_everything_once_it_is_full() -> None:
    async def play() -> None:
        viewer = Viewer()
        for n in range(64):
            viewer.push(b"%d " % n)
        assert len((await viewer.take(1)).split()) == 64
        for n in range(65):
            viewer.push(b"%d " % n)
        assert await viewer.take(1) is None
        assert await viewer.take(0.01) == b""

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, play()).result()


def test_snapshots_say_what_they_see() -> None:
    older, newer = Snapshot.parse("10:20:10,15"), Snapshot.parse("15:25:15,22")
    assert [x for x in range(9, 26) if not older.sees(x)] == [10, 15, *range(20, 26)]
    assert newer.contains(older)
    assert not older.contains(newer)
    assert not Snapshot.parse("12:25:12").contains(older)  # 12 was over when the older one was taken


# ---------- figures


def test_figures_move_with_the_orders_and_equal_the_tables(stack: Stack, dashboard: Dashboard) -> None:
    client = dashboard.client()
    for _ in range(6):
        post(stack)
    summary = settled(stack, client)
    orders = sum(summary["counts"].values())
    assert sum(sum(summary["series"][status]) for status in summary["counts"]) == orders
    assert sum(line[2] for line in summary["products"]) == orders
    # Kept current by events is the same as read from the tables.
    dashboard.stop()
    dashboard.start()
    fresh = state(dashboard.client(), window="month")["summary"]
    for name in ("counts", "products", "partners", "totals", "approval_rate", "decision_seconds"):
        assert fresh[name] == summary[name], name
    assert sorted(fresh["reasons"]) == sorted(summary["reasons"])


def test_history_is_read_from_a_replica_and_nothing_is_missed_while_it_lags(
    stack: Stack, dashboard: Dashboard, standby: Postgres
) -> None:
    before = settled(stack, dashboard.client())
    setting = {"REALTIME_REPLICA_DSN": standby.dsn}
    with Dashboard(stack, environment=setting, passwords=dashboard.passwords) as reader:
        client = reader.client()
        assert settled(stack, client)["totals"] == before["totals"]

        with psycopg.connect(standby.dsn, autocommit=True) as connection:
            connection.execute("select pg_wal_replay_pause()")
            while connection.execute("select pg_get_wal_replay_pause_state()").fetchone()[0] != "paused":
                time.sleep(0.05)
            posted = [post(stack)[1]["order_id"] for _ in range(3)]
            # The stream comes from where orders are written, older orders from the replica.
            now = settled(stack, client)
            assert sum(now["counts"].values()) == sum(before["counts"].values()) + 3
            assert {row[0] for row in client.get("/dashboard/api/orders").json()}.isdisjoint(posted)
            assert client.get(f"/dashboard/api/orders/{posted[0]}").json()["order_id"] == posted[0]
            # One that begins on a replica that is behind has the rest from the feed.
            reader.stop()
            reader.start()
            fresh = settled(stack, reader.client())
            assert fresh["counts"] == now["counts"]
            assert fresh["totals"] == now["totals"]
            connection.execute("select pg_wal_replay_resume()")

        deadline = time.monotonic() + 60
        while not {row[0] for row in reader.client().get("/dashboard/api/orders").json()}.issuperset(posted):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        # Without it there is no list, but what happens is shown.
        standby.stop()
        client = reader.client()
        partner, _ = post(stack)
        assert sum(settled(stack, client)["counts"].values()) == sum(now["counts"].values()) + 1
        assert client.get("/dashboard/api/orders", params={"partner": partner}).status_code == 503


def test_a_review_moves_an_order_and_its_story_says_who(stack: Stack, dashboard: Dashboard) -> None:
    client = dashboard.client()
    order = None
    while order is None:
        partner, body = post(stack)
        stack.wait_until_decided()
        story = client.get(f"/dashboard/api/orders/{body['order_id']}").json()
        order = story if story["status"] == "rejected" else None
    before = settled(stack, client)
    answer = httpx.post(
        f"{stack.url}/v1/credit-orders/{order['order_id']}/review",
        json={
            "review_id": str(uuid.uuid4()),
            "outcome": "approve",
            "reason": "a higher income was proven by payslips",
            "approved_amount": "500.00",
            "interest_rate": "0.05",
        },
        headers={"X-Api-Key": stack.keys[""]},
    )
    assert answer.status_code == 200
    after = settled(stack, client)
    story = client.get(f"/dashboard/api/orders/{order['order_id']}").json()
    seen_by_partner = dashboard.client(partner).get(f"/dashboard/api/orders/{order['order_id']}").text

    assert after["counts"]["approved"] == before["counts"]["approved"] + 1
    assert after["counts"]["rejected"] == before["counts"]["rejected"] - 1
    assert sum(n for _, n in after["reasons"]) == sum(n for _, n in before["reasons"]) - len(
        story["evaluations"][0]["reasons"]
    )
    assert [e["type"] for e in story["events"]] == ["created", "rejected", "approved"]
    assert (story["events"][2]["reviewer"], story["events"][2]["reason"]) == (
        "ana",
        "a higher income was proven by payslips",
    )
    assert story["evaluations"][0]["inputs"]["policy_version"] == "2026.1"
    assert "ana" not in seen_by_partner
    assert "inputs" not in seen_by_partner


def test_percentiles_lie_close() -> None:
    times = Counter(step(ms) for ms in range(1, 10_001))
    for share in (0.05, 0.5, 0.95):
        assert percentile(times, share) == pytest.approx(share * 10, rel=0.03)
    assert percentile(Counter(), 0.5) is None


def test_yesterday_is_a_business_day() -> None:
    since, until = span("yesterday", datetime(2026, 1, 2, 1, 30, tzinfo=UTC))  # still the first in São Paulo
    assert (since.isoformat(), until.isoformat()) == (
        "2025-12-31T03:00:00+00:00",
        "2026-01-01T03:00:00+00:00",
    )
    assert until - since == timedelta(days=1)


# ---------- who may see what


def test_a_partner_sees_its_own_orders_only(stack: Stack, dashboard: Dashboard) -> None:
    partners = sorted({partner for partner, _ in stack.customers()})
    mine, theirs = partners[:2]
    client = dashboard.client(mine)
    with client.stream("GET", "/dashboard/api/stream", params={"window": "month"}) as answer:
        stream = events(answer.iter_lines())
        first = next(stream)
        hidden = post(stack, partner=theirs)[1]["order_id"]
        shown = post(stack, partner=mine)[1]["order_id"]
        came = [first]
        for event in stream:
            came.append(event)
            if event.kind == "orders" and any(row[0] == shown for row in event.data):
                break
    everything = json.dumps([event.data for event in came])
    for path in ("state", "orders", "orders.csv"):
        for query in ({}, {"partner": theirs}, {"partner": mine, "window": "month"}, {"window": "month"}):
            everything += client.get(f"/dashboard/api/{path}", params=query).text
    assert shown in everything
    assert hidden not in everything
    assert [partner for partner in partners if partner != mine and partner in everything] == []
    for form in (hidden, hidden.upper(), hidden.replace("-", ""), f"%7B{hidden}%7D", f"{hidden}/"):
        answer = client.get(f"/dashboard/api/orders/{form}")
        assert answer.status_code == 404
        assert hidden not in answer.text
    assert client.get(f"/dashboard/api/orders/{shown}").status_code == 200
    assert dashboard.client().get(f"/dashboard/api/orders/{hidden}").status_code == 200
    with client.stream(
        "GET", "/dashboard/api/stream", params={"last_event_id": first.id, "partner": theirs}
    ) as answer:
        resumed = next(events(answer.iter_lines()))
    assert resumed.kind == "summary"
    assert sum(resumed.data["counts"].values()) == 0
    assert "waiting" not in resumed.data["health"]  # how much others order is none of its business


def test_nobody_sees_personal_data(stack: Stack, dashboard: Dashboard) -> None:
    client = dashboard.client()
    everything = client.get("/dashboard/api/orders.csv", params={"window": "month"}).text
    ids = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", everything)
    for path in ("state", "orders"):
        everything += client.get(f"/dashboard/api/{path}", params={"window": "month"}).text
    for order_id in ids[:30]:
        everything += client.get(f"/dashboard/api/orders/{order_id}").text
    with stack.connect() as connection:
        people = connection.execute("select cpf, email, full_name from app.customers").fetchall()
    assert len(ids) >= 30
    assert [value for person in people for value in person if value in everything] == []
    assert "@" not in everything
    log = (stack.folder / "log").read_text()
    assert [cpf for cpf, *_ in people if cpf in log] == []
    assert [password for password in dashboard.passwords.values() if password in log] == []
    assert without_personal("fale com ana@x.com, CPF 529.982.247-25") == "fale com ••• CPF •••"


PROTECTED = ("state", "stream", "orders", f"orders/{uuid.UUID(int=1)}", "orders.csv", "nothing")


def test_without_a_session_nothing_is_told(dashboard: Dashboard) -> None:
    stranger = dashboard.client(None)
    forged = Signer("another secret").sign("session", {"name": "ana"}, 1000)
    ended = Signer("only-for-tests-" * 3).sign("session", {"name": "ana"}, -1)
    other_kind = Signer("only-for-tests-" * 3).sign("oidc", {"name": "ana"}, 1000)
    gone = Signer("only-for-tests-" * 3).sign("session", {"name": "nobody"}, 1000)
    for cookie in ("", "x", "x.y", forged, ended, other_kind, gone, "é"):
        for path in PROTECTED:
            headers = {"Cookie": f"dashboard={cookie}".encode()}
            assert stranger.get(f"/dashboard/api/{path}", headers=headers).status_code == 401
    answer = stranger.get("/dashboard?window=day&order=1")
    assert answer.status_code == 303
    assert parse_qs(urlsplit(answer.headers["Location"]).query)["next"] == ["/dashboard?window=day&order=1"]


def test_changes_are_only_taken_from_our_own_pages(dashboard: Dashboard) -> None:
    client = dashboard.client()
    form = {"name": "ana", "password": dashboard.passwords["ana"]}
    for headers in (
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": dashboard.url},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://evil.example"},
    ):
        for path in ("login", "logout"):
            answer = client.post(f"/dashboard/{path}", data=form, headers=headers)
            assert answer.status_code == 403, (headers, path)
    assert client.get("/dashboard/logout").status_code == 404  # a link logs nobody out
    assert client.get("/dashboard").status_code == 200
    done = client.post("/dashboard/logout", headers={"Sec-Fetch-Site": "same-origin"})
    assert done.status_code == 303
    assert client.get("/dashboard/api/state").status_code == 401


def test_who_has_logged_out_is_out_wherever_the_cookie_is(dashboard: Dashboard) -> None:
    client, other = dashboard.client(), dashboard.client()
    copied = dict(client.cookies)
    with Dashboard(dashboard.stack, passwords=dashboard.passwords) as second:
        elsewhere = f"{second.url}/dashboard/api/state"
        assert httpx.get(elsewhere, cookies=copied).status_code == 200
        with client.stream("GET", "/dashboard/api/stream") as stream:
            lines = stream.iter_lines()
            next(lines)
            assert httpx.post(
                f"{dashboard.url}/dashboard/logout", cookies=copied, headers={"Origin": dashboard.url}
            ).has_redirect_location
            assert httpx.get(f"{dashboard.url}/dashboard/api/state", cookies=copied).status_code == 401
            for _ in lines:  # ends by itself
                pass
        until = time.monotonic() + PATIENCE / 1000
        while httpx.get(elsewhere, cookies=copied).status_code != 401:
            assert time.monotonic() < until, "the other instance never heard of it"
            time.sleep(0.1)
    assert other.get("/dashboard/api/state").status_code == 200  # another session of the same user


@pytest.mark.parametrize(
    "back",
    ["https://evil.example/dashboard", "//evil.example/dashboard", "/dashboard\\@evil.example", "/v1", ""],
)
def test_after_the_login_one_stays_here(dashboard: Dashboard, back: str) -> None:
    form = {"name": "ana", "password": dashboard.passwords["ana"], "next": back}
    answer = httpx.post(f"{dashboard.url}/dashboard/login", data=form, headers={"Origin": dashboard.url})
    assert answer.headers["Location"] == "/dashboard"


def test_every_answer_has_its_headers(dashboard: Dashboard) -> None:
    client = dashboard.client()
    script = re.search(r'src="(\S+main\.js)"', client.get("/dashboard").text)[1]
    for path in ("/dashboard", "/dashboard/login", "/dashboard/api/state", "/nothing", "/healthz", script):
        headers = client.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == (
            "public, max-age=31536000, immutable" if path == script else "no-store"
        )
    answer = client.post(
        "/dashboard/login",
        data={"name": "ana", "password": dashboard.passwords["ana"]},
        headers={"Origin": dashboard.url},
    )
    assert re.fullmatch(
        r"dashboard=\S+; Path=/; Max-Age=28800; HttpOnly; SameSite=Lax", answer.headers["Set-Cookie"]
    )
    for text in (client.get("/dashboard").text, client.get("/dashboard/login").text):
        assert re.findall(r"https?://|<script>|style=| on[a-z]+=", text) == []
    assert client.put("/dashboard").status_code == 405


def test_passwords_are_not_guessed(dashboard: Dashboard, tmp_path: Path) -> None:
    client = dashboard.client(None)
    wrong = [
        client.post(
            "/dashboard/login", data={"name": "nobody", "password": str(n)}, headers={"Origin": dashboard.url}
        )
        for n in range(6)
    ]
    assert [answer.status_code for answer in wrong] == [303] * 5 + [429]
    assert "failed" in wrong[0].headers["Location"]
    assert int(wrong[5].headers["Retry-After"]) > 0
    attempts = Attempts()
    for n in range(100):
        attempts.failed(str(n))
    with pytest.raises(Refusal, match="wait"):
        attempts.check("ana")


def test_whoever_is_struck_off_the_list_sees_nothing_more(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    password = add_user(path, "ana", None, None)
    add_user(path, "rui", "loja-azul", "oidc-subject")
    users = Users(str(path))
    assert users.all()["rui"].partner == "loja-azul"
    assert users.of_subject("oidc-subject").name == "rui"
    assert password not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    path.write_text(json.dumps([user for user in json.loads(path.read_text()) if user["name"] == "ana"]))
    assert set(users.all()) == {"ana"}
    path.write_text("{")
    assert set(users.all()) == {"ana"}  # an accident locks nobody out
    with pytest.raises(RealtimeError, match="no list of users"):
        read_users(path)


@pytest.mark.parametrize("query", ["window=year", "status=lost", "product=" + "x" * 101, "partner=%00"])
def test_what_cannot_be_looked_at_is_refused(dashboard: Dashboard, query: str) -> None:
    answer = dashboard.client().get(f"/dashboard/api/state?{query}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/problem+json")


def test_csv_is_what_is_shown(stack: Stack, dashboard: Dashboard) -> None:
    client = dashboard.client()
    stack.wait_until_decided()
    answer = client.get("/dashboard/api/orders.csv", params={"window": "month", "status": "rejected"})
    rows = list(csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig"))))
    deadline = time.monotonic() + 30
    while state(client, window="month", status="rejected")["summary"]["counts"]["rejected"] != len(rows):
        assert time.monotonic() < deadline
    pages: list[Any] = []
    while True:
        query = {"window": "month", "status": "rejected"}
        if pages:
            query["after"] = f"{pages[-1][10]}.{pages[-1][0]}"
        page = client.get("/dashboard/api/orders", params=query).json()
        pages += page
        if len(page) < 100:
            break

    assert "attachment" in answer.headers["Content-Disposition"]
    assert {row["status"] for row in rows} == {"rejected"}
    assert all(row["reasons"] for row in rows)
    assert [row[0] for row in pages] == [row["order_id"] for row in rows]


# ---------- in a browser


def test_a_posted_order_appears_and_changes(
    stack: Stack, dashboard: Dashboard, open_page: Callable[..., Any]
) -> None:
    page = open_page()
    before = int(page.inner_text("#figure-total dd").replace(",", ""))
    partner, body = post(stack)
    line = page.locator(f"tr[data-order='{body['order_id']}']")
    line.wait_for()
    assert partner in line.inner_text()
    stack.wait_until_decided()
    story = dashboard.client().get(f"/dashboard/api/orders/{body['order_id']}").json()
    line.locator(f".chip.{story['status']}").wait_for()
    eventually(page, f"document.querySelector('#figure-total dd').innerText.replace(',', '') == {before + 1}")


def test_a_restarted_server_is_resumed(
    stack: Stack, dashboard: Dashboard, open_page: Callable[..., Any]
) -> None:
    page = open_page()
    dashboard.process.kill()
    dashboard.process.wait()
    page.wait_for_selector("#live.offline")
    posted = [post(stack)[1]["order_id"] for _ in range(3)]
    dashboard.start()
    for order_id in posted:
        page.locator(f"tr[data-order='{order_id}']").wait_for()
    page.wait_for_selector("#live.live")
    later = post(stack)[1]["order_id"]
    page.locator(f"tr[data-order='{later}']").wait_for()


def test_filters_and_one_order(stack: Stack, dashboard: Dashboard, open_page: Callable[..., Any]) -> None:
    partner, body = post(stack)
    stack.wait_until_decided()
    page = open_page(path=f"/dashboard?window=month&partner={partner}")
    assert page.input_value("#partner") == partner
    page.locator(f"tr[data-order='{body['order_id']}']").wait_for()
    page.select_option("#status", "rejected")
    eventually(
        page,
        "[...document.querySelectorAll('#orders tbody tr')].length"
        " && [...document.querySelectorAll('#orders tbody .chip')].every((c) => c.classList.contains('rejected'))",
    )
    assert "status=rejected" in page.url
    partners = page.locator("#orders tbody td:nth-child(3)").all_inner_texts()
    assert set(partners) == {partner}
    hidden = post(stack, partner=next(p for p in stack.keys if p not in ("", partner)))[1]["order_id"]
    # By the keyboard: into the first order, and back by Escape.
    first = page.locator("#orders tbody button").first
    first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#story .timeline li:nth-child(2)")
    assert "order=" in page.url
    assert "LOW_SCORE" in page.inner_text("#story") or page.locator("#story code").count()
    link = page.url
    page.keyboard.press("Escape")
    page.wait_for_selector("#story", state="hidden")
    assert page.locator(f"tr[data-order='{hidden}']").count() == 0
    page.goto(link)
    page.wait_for_selector("#story[open] .timeline")
    page.click("#close")
    page.click("#clear")
    page.locator(f"tr[data-order='{hidden}']").wait_for()
    page.click("#windows button:nth-child(3)")
    eventually(page, "document.querySelector('#chart-title').innerText.includes('yesterday')")
    page.go_back()
    eventually(page, "!document.querySelector('#chart-title').innerText.includes('yesterday')")
    with page.expect_download() as download:
        page.click("#csv")
    assert download.value.suggested_filename.startswith("credit-orders-month")


def test_a_partner_in_the_browser(stack: Stack, open_page: Callable[..., Any]) -> None:
    partners = sorted({partner for partner, _ in stack.customers()})
    page = open_page(partners[0])
    hidden = post(stack, partner=partners[1])[1]["order_id"]
    shown = post(stack, partner=partners[0])[1]["order_id"]
    page.locator(f"tr[data-order='{shown}']").wait_for()
    assert page.locator(f"tr[data-order='{hidden}']").count() == 0
    assert not page.is_visible("#partner")
    assert partners[1] not in page.inner_text("body")


def test_a_session_ends(dashboard: Dashboard, stack: Stack, browser: Any) -> None:
    context = browser.new_context()
    value = Signer("only-for-tests-" * 3).sign("session", {"name": "ana"}, 4)
    context.add_cookies([{"name": "dashboard", "value": value, "url": dashboard.url}])
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{dashboard.url}/dashboard?window=day")
    page.wait_for_url("**/dashboard/login?next=*")
    assert parse_qs(urlsplit(page.url).query)["next"] == ["/dashboard?window=day"]
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    stack: Stack, dashboard: Dashboard, open_page: Callable[..., Any], scheme: str
) -> None:
    axe = assets.find("axe-core", "axe.min.js").read_text(encoding="utf-8")
    page = open_page(path="/dashboard?window=month", color_scheme=scheme, locale="pt-BR")
    page.wait_for_selector("#orders tbody tr")

    def check() -> None:
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            (v["id"], [n["html"][:200] for n in v["nodes"][:3]])
            for v in found["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        assert serious == []

    page.click("details summary")
    page.click("#pause")
    check()
    page.locator("#orders tbody button").first.click()
    page.wait_for_selector("#story .timeline")
    check()
    page.goto(f"{dashboard.url}/dashboard/login?failed=1")
    check()


def test_on_a_phone_and_in_two_languages(open_page: Callable[..., Any]) -> None:
    page = open_page(viewport={"width": 360, "height": 740}, locale="pt-BR", path="/dashboard?window=month")
    page.wait_for_selector("#orders tbody tr")
    assert page.inner_text("h1") == "Pedidos de crédito"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("#language")
    assert page.inner_text("h1") == "Credit orders"
    assert page.get_attribute("html", "lang") == "en"
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "dark"
    page.reload()
    page.wait_for_selector("#orders tbody tr")
    assert (page.inner_text("h1"), page.get_attribute("html", "data-theme")) == ("Credit orders", "dark")


def test_scripts_are_small_and_everything_is_ours(
    dashboard: Dashboard, open_page: Callable[..., Any]
) -> None:
    client = dashboard.client()
    text = client.get("/dashboard").text
    paths = set(re.findall(r'(?:src|href)="(/dashboard/static/[^"]+)"', text))
    scripts = [path for path in paths if path.endswith(".js")]
    size = 0
    for path in scripts:
        with client.stream("GET", path) as answer:
            assert answer.headers["Content-Encoding"] == "gzip"
            size += len(b"".join(answer.iter_raw()))
    assert len(scripts) >= 5
    assert size <= 200_000


def test_it_stops_while_somebody_looks(dashboard: Dashboard) -> None:
    with dashboard.client().stream("GET", "/dashboard/api/stream") as answer:
        next(events(answer.iter_lines()))
        began = time.monotonic()
        assert dashboard.stop() == 0
        assert time.monotonic() - began < 15  # it does not wait for those who look
    dashboard.start()


# ---------- login by an identity provider


class _Provider(BaseHTTPRequestHandler):
    """A small OpenID Connect provider: agrees to whoever asks, and checks PKCE and the client as it must."""

    key: Any
    mischief = ""
    subject = "subject-of-ana"
    asked: ClassVar[dict[str, dict[str, str]]] = {}

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        issuer = f"http://127.0.0.1:{self.server.server_port}"
        if where.path == "/.well-known/openid-configuration":
            self._send(
                {
                    "issuer": issuer,
                    "authorization_endpoint": f"{issuer}/authorize",
                    "token_endpoint": f"{issuer}/token",
                    "jwks_uri": f"{issuer}/keys",
                }
            )
        elif where.path == "/keys":
            self._send({"keys": [self.key.as_dict(private=False, kid="a-key", use="sig", alg="RS256")]})
        else:
            query = {name: values[0] for name, values in parse_qs(where.query).items()}
            code = str(uuid.uuid4())
            self.asked[code] = query
            self.send_response(302)
            self.send_header("Location", f"{query['redirect_uri']}?code={code}&state={query['state']}")
            self.end_headers()

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        asked = self.asked.pop(form["code"][0])
        challenge = hashlib.sha256(form["code_verifier"][0].encode()).digest()
        client = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        if (
            base64.urlsafe_b64encode(challenge).decode().rstrip("=") != asked["code_challenge"]
            or asked["code_challenge_method"] != "S256"
            or client != "dashboard:secret"
            or form["redirect_uri"][0] != asked["redirect_uri"]
        ):
            self.send_response(400)
            self.end_headers()
            return
        now = int(time.time())
        claims = {
            "iss": f"http://127.0.0.1:{self.server.server_port}",
            "aud": "dashboard",
            "sub": self.subject,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
        }
        key, header = self.key, {"alg": "RS256", "kid": "a-key"}
        match self.mischief:
            case "nonce":
                claims["nonce"] = "another"
            case "audience":
                claims["aud"] = "another"
            case "issuer":
                claims["iss"] = "http://another"
            case "expired":
                claims |= {"iat": now - 1000, "exp": now - 500}
            case "signature":
                key = RSAKey.generate_key(2048)
        token = jwt.encode(header, claims, key)
        if self.mischief == "unsigned":
            parts = [json.dumps({"alg": "none"}).encode(), json.dumps(claims).encode()]
            token = ".".join(base64.urlsafe_b64encode(p).decode().rstrip("=") for p in parts) + "."
        self._send({"access_token": "x", "token_type": "Bearer", "id_token": token})

    def _send(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_login_by_an_identity_provider(stack: Stack, dashboard: Dashboard) -> None:
    _Provider.key = RSAKey.generate_key(2048)
    provider = ThreadingHTTPServer(("127.0.0.1", 0), _Provider)
    thread = threading.Thread(target=provider.serve_forever)
    thread.start()
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    add_user(dashboard.users, "ana by provider", None, "subject-of-ana")
    settings = {
        "REALTIME_OIDC_ISSUER": f"http://127.0.0.1:{provider.server_port}",
        "REALTIME_OIDC_CLIENT_ID": "dashboard",
        "REALTIME_OIDC_CLIENT_SECRET": "secret",
        "REALTIME_DASHBOARD_URL": url,
    }
    try:
        with Dashboard(stack, port, settings, dashboard.passwords):
            with httpx.Client(base_url=url, follow_redirects=True, timeout=30) as client:
                answer = client.get("/dashboard?window=day")
                assert (answer.status_code, str(answer.url)) == (200, f"{url}/dashboard?window=day")
                assert 'data-name="ana by provider"' in answer.text
                assert client.get("/dashboard/api/state").status_code == 200
                # A password is no way in beside it.
                form = {"name": "ana", "password": dashboard.passwords["ana"]}
                assert client.post("/dashboard/login", data=form, headers={"Origin": url}).status_code == 404
            for mischief in ("nonce", "audience", "issuer", "expired", "signature", "unsigned"):
                _Provider.mischief = mischief
                with httpx.Client(base_url=url, follow_redirects=True, timeout=30) as client:
                    answer = client.get("/dashboard")
                    assert answer.status_code == 403, mischief
                    assert client.get("/dashboard/api/state").status_code == 401
            _Provider.mischief, _Provider.subject = "", "subject-of-nobody"
            with httpx.Client(base_url=url, follow_redirects=True, timeout=30) as client:
                assert client.get("/dashboard").status_code == 403
            _Provider.subject = "subject-of-ana"
            with httpx.Client(base_url=url, timeout=30) as client:
                started = client.get("/dashboard/oidc/start").headers["Location"]
                back = httpx.get(started).headers["Location"]
                # Another browser than the one that began; another state.
                assert httpx.get(back).status_code == 403
                assert client.get(back.replace("state=", "state=x")).status_code == 403
                assert client.get(back).status_code == 303
    finally:
        provider.shutdown()
        thread.join()
        provider.server_close()
