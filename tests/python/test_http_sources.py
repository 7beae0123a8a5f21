"""HTTP sources to Parquet: patience with services in trouble, exact records, nothing twice, no secret told."""

import json
import logging
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from uuid import uuid4

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestion import bureau, fx
from ingestion.config import TableConfig, load_sources
from ingestion.errors import IngestionError
from ingestion.http import HttpService, Limits, Patience, manners
from ingestion.lake import BatchWriter, DeadLetter, Lake
from ingestion.records import Field, from_json, to_json, whole
from ingestion.run import Run, run
from ingestion.settings import Settings
from ingestion.spool import Spool
from sandbox.postgres import Postgres
from sandbox.third_party.server import ThirdPartyServer, create_server

ROOT = Path(__file__).resolve().parents[2]
KEY = "a-key-that-nobody-may-see"
DAY = date(2025, 12, 31)
NOON = datetime(2025, 12, 1, 12, tzinfo=UTC)
ANNA, BRUNO, CARLA = "10000000019", "10000000108", "10000000280"
BRIEF = Patience(connect=1, read=0.4, attempts=4, total=5, first_wait=0.001)

SCORES = next(t for t in load_sources() if t.name == "bureau.scores")
RATES = next(t for t in load_sources() if t.name == "central_bank.fx_rates")


class Script(ThreadingHTTPServer):
    """Answers each request with the next of `answers` (the last one for ever) and remembers it.

    An answer is (status, body, headers), or the word `reset`, `hang`, `drip` or `vanish`.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, answers: list[Any]) -> None:
        super().__init__(("127.0.0.1", 0), _ScriptHandler)
        self.answers = answers
        self.requests: list[tuple[float, str, Any]] = []
        self.woken = threading.Event()
        self.pause = 0.0
        self.counting = threading.Lock()
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _ScriptHandler(BaseHTTPRequestHandler):
    server: Script
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def do_GET(self) -> None:
        with self.server.counting:
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        time.sleep(self.server.pause)
        with self.server.counting:
            self.server.at_once -= 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        number = len(self.server.requests)
        self.server.requests.append((time.monotonic(), self.path, json.loads(body) if body else None))
        answer = self.server.answers[min(number, len(self.server.answers) - 1)]
        if answer == "hang":
            self.server.woken.wait(5)
        if answer == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            for _ in range(100):
                self.wfile.write(b"1")
                self.wfile.flush()
                if self.server.woken.wait(0.05):
                    break
        if isinstance(answer, str):
            self.close_connection = True
            if answer == "reset":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
            return
        status, content, headers = answer
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


def ok(content: Any) -> tuple[int, Any, dict[str, str]]:
    return 200, content, {}


@contextmanager
def playing(*answers: Any) -> Iterator[Script]:
    server = Script(list(answers))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.woken.set()
        server.shutdown()
        server.server_close()


def service(url: str, patience: Patience = BRIEF, **more: Any) -> HttpService:
    headers = {"X-Api-Key": more.pop("key", KEY)}
    return HttpService(
        "score shop", url, "SHOP_URL", headers=headers, key_setting="SHOP_KEY", patience=patience, **more
    )


def is_one_safe_line(error: pytest.ExceptionInfo) -> bool:
    text = str(error.value)
    return "\n" not in text and not any(secret in text for secret in (KEY, ANNA, BRUNO, CARLA, "secret"))


# ---------- the HTTP client ----------

TROUBLES = {
    "too many requests": (429, {"error": "secret"}, {}),
    "server error": (500, b"secret", {}),
    "bad gateway": (502, b"<html>secret</html>", {}),
    "connection reset": "reset",
    "closed without an answer": "vanish",
    "no answer in time": "hang",
    "a page instead of JSON": (200, b"<html>secret</html>", {}),
    "truncated JSON": (200, b'{"data": [{"secret": 1', {}),
    "cut off": (200, b'{"data"', {"Content-Length": "900"}),
    "not a number": (200, b'{"value": NaN}', {}),
    "a broken encoding": (200, b"not gzip", {"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_trouble_that_passes_is_waited_out(trouble):
    with playing(trouble, trouble, ok({"value": 1})) as server, service(server.url) as client:
        assert client.get("/a") == {"value": 1}
        assert len(server.requests) == 3


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_trouble_that_stays_ends_in_one_line(trouble):
    patience = Patience(connect=1, read=0.05, attempts=3, total=5, first_wait=0.001)
    with playing(trouble) as server, service(server.url, patience) as client:
        with pytest.raises(
            IngestionError, match=r"^the score shop at http://127.*3 attempts in .*run again"
        ) as error:
            client.post("/a", {"cpf": ANNA})
        assert len(server.requests) == 3
    assert is_one_safe_line(error)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


def test_every_kind_of_trouble_in_a_row():
    with playing(*TROUBLES.values(), ok(1)) as server:
        patience = Patience(
            connect=1, read=0.1, attempts=len(TROUBLES) + 9, total=20, first_wait=0.001, longest_wait=0.01
        )
        with service(server.url, patience, limits=Limits(rest=0.01)) as client:
            assert client.get("/a") == 1


def test_retry_after_is_honoured():
    with playing((503, b"", {"Retry-After": "1"}), ok(1)) as server, service(server.url) as client:
        assert client.get("/a") == 1
        first, second = (at for at, *_ in server.requests)
        assert 1 <= second - first < 3


def test_retry_after_may_be_a_date():
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=1.5), usegmt=True)  # cut to a whole second
    with playing((429, b"", {"Retry-After": until}), ok(1)) as server, service(server.url) as client:
        assert client.get("/a") == 1
        first, second = (at for at, *_ in server.requests)
        assert 0.4 <= second - first < 4


@pytest.mark.parametrize("nonsense", ["soon", "", "-1", "²"])
def test_retry_after_that_says_nothing_is_ignored(nonsense):
    answer = (429, b"", {"Retry-After": nonsense.encode().decode("latin-1")})
    with playing(answer, ok(1)) as server, service(server.url) as client:
        assert client.get("/a") == 1


def test_retry_after_beyond_the_patience_is_not_waited_for():
    with playing((429, b"", {"Retry-After": "3600"})) as server, service(server.url) as client:
        began = time.monotonic()
        with pytest.raises(IngestionError, match="run again in 3600 s or later"):
            client.get("/a")
        assert time.monotonic() - began < 3
        assert len(server.requests) == 1


def test_patience_has_an_end_in_time():
    patience = Patience(attempts=1000, total=0.2, first_wait=0.02, longest_wait=0.02)
    with playing((500, b"", {})) as server, service(server.url, patience) as client:
        began = time.monotonic()
        with pytest.raises(IngestionError):
            client.get("/a")
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (401, "SHOP_KEY"),
        (403, "SHOP_KEY"),
        (404, "SHOP_URL"),
        (422, "SHOP_URL"),
        (302, "SHOP_URL"),
        (204, "SHOP_URL"),
    ],
)
def test_refusal_is_final(status, advice):
    with playing((status, b"", {"Location": "/secret"})) as server, service(server.url) as client:
        with pytest.raises(IngestionError, match=rf"\({status}\); .*{advice}") as error:
            client.post("/a", {"cpf": ANNA})
        assert len(server.requests) == 1
    assert is_one_safe_line(error)


def test_service_that_is_away_is_one_line():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{unused.getsockname()[1]}/secret"
        with (
            service(url) as client,
            pytest.raises(IngestionError, match=r"cannot be reached.*check SHOP_URL") as error,
        ):
            client.get("/a")
    assert is_one_safe_line(error)


@pytest.mark.parametrize(
    "url", ["", "score.shop", "ftp://score.shop", "http://", "http://[::1", "http://a:secret@b:port"]
)
def test_url_that_is_none_is_one_line(url):
    with pytest.raises(IngestionError, match=r"^SHOP_URL is not ") as error:
        service(url)
    assert is_one_safe_line(error)


@pytest.mark.parametrize("key", ["chave-secret-ç", "secret\nsecret"])
def test_key_that_cannot_be_sent_is_one_line(key):
    with playing(ok(1)) as server, pytest.raises(IngestionError, match=r"^SHOP_KEY ") as error:
        service(server.url, key=key).get("/a")
    assert is_one_safe_line(error)


def test_numbers_are_exact():
    body = b'{"a": 5.14360, "b": 0.1, "c": 12345678901234567890.123456789, "d": 7, "e": 1e2}'
    with playing(ok(body)) as server, service(server.url) as client:
        answer = client.get("/a")
    assert {k: str(v) for k, v in answer.items()} == {
        "a": "5.14360", "b": "0.1", "c": "12345678901234567890.123456789", "d": "7", "e": "1E+2"
    }  # fmt: skip


def test_proxy_of_the_environment_is_not_asked_about_this_machine(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with playing(ok(1)) as server, service(server.url) as client:
        assert client.get("/a") == 1


def test_nothing_logs_the_key(caplog):
    caplog.set_level(logging.DEBUG)
    with playing((500, b"", {}), ok(1)) as server, service(server.url) as client:
        client.post("/a", {"cpf": ANNA})
    assert KEY not in caplog.text
    assert ANNA not in caplog.text


def test_answer_that_drips_has_an_end():
    patience = Patience(read=2, answer=0.3, attempts=1)
    with playing("drip") as server, service(server.url, patience) as client:
        began = time.monotonic()
        with pytest.raises(IngestionError, match=r"does not finish an answer within 0.3 s"):
            client.get("/a")
        assert time.monotonic() - began < 1.5


def test_answer_beyond_all_measure_is_one_line_and_not_asked_for_again():
    limits = Limits(max_megabytes=0.1)
    with (
        playing(ok(b"[" + b"1," * 60_000 + b"1]")) as server,
        service(server.url, limits=limits) as client,
        pytest.raises(IngestionError, match=r"more than 0.1 MB at once; check SHOP_URL"),
    ):
        client.get("/a")
    assert len(server.requests) == 1


def test_service_that_fails_in_a_row_is_left_alone_then_probed_once():
    patience = Patience(attempts=4, total=20, first_wait=0.001, longest_wait=0.001)
    limits = Limits(failures=3, rest=0.4, concurrency=4)
    with playing((500, b"", {}), (500, b"", {}), (500, b"", {}), (500, b"", {}), ok(1)) as server:
        with service(server.url, patience, limits=limits) as client, ThreadPoolExecutor(4) as pool:
            assert list(pool.map(client.get, ["/a"] * 4)) == [1] * 4
        times = [at for at, *_ in server.requests]
    breaks = [later - earlier for earlier, later in pairwise(times)]
    # Requests that were under way when it opened may still come in; then only one at a time, after a rest.
    assert sum(b > 0.35 for b in breaks) in (1, 2)
    assert len(times) <= 9


def test_service_that_stays_down_is_given_up_by_all_threads_soon():
    patience = Patience(attempts=3, total=60, first_wait=0.001, longest_wait=0.001)
    limits = Limits(failures=3, rest=0.1, concurrency=4)
    with (
        playing((500, b"", {})) as server,
        service(server.url, patience, limits=limits) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        errors = [f.exception() for f in [pool.submit(client.get, "/a") for _ in range(8)]]
        assert all(isinstance(e, IngestionError) for e in errors)
        assert len(server.requests) <= 3 + 3 + 4, "threads do not add up"


def test_giving_up_wakes_whoever_waits():
    with playing((429, b"", {"Retry-After": "50"})) as server, service(server.url, Patience()) as client:
        began = time.monotonic()
        with ThreadPoolExecutor(3) as pool:
            errors = [pool.submit(client.get, "/a") for _ in range(3)]
            while not server.requests:
                time.sleep(0.01)
            client.give_up()
        assert all(isinstance(e.exception(), IngestionError) for e in errors)
        assert time.monotonic() - began < 10


def test_requests_keep_the_rate_and_the_concurrency():
    limits = Limits(requests_per_second=50, burst=3, concurrency=2)
    patience = Patience(read=5)
    with playing(ok(1)) as server, service(server.url, patience, limits=limits) as client:
        server.pause = 0.01
        began = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(client.get, ["/a"] * 23)) == [1] * 23
        assert time.monotonic() - began >= (23 - 3) / 50
        times = [at for at, *_ in server.requests]
    for i, begin in enumerate(times):
        for j in range(i, len(times)):
            assert j - i + 1 <= limits.burst + 50 * (times[j] - begin) + limits.concurrency
    assert server.most_at_once == 2


def test_retry_after_holds_for_every_thread():
    limits = Limits(concurrency=4, burst=1, requests_per_second=20)
    with (
        playing((429, b"", {"Retry-After": "1"}), ok(1)) as server,
        service(server.url, limits=limits) as client,
    ):
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(client.get, ["/a"] * 6)) == [1] * 6
        asked, *others = (at for at, *_ in server.requests)
        assert sum(at - asked < 0.9 for at in others) <= 1, "none but what was under way"


@pytest.mark.parametrize(
    "http", [{"speed": 1}, {"burst": 0}, {"burst": 1.5}, {"read": "5"}, {"read": True}, ["read"]]
)
def test_manners_that_are_none_are_one_line(http):
    with pytest.raises(IngestionError, match=r"^bureau.scores: http.* in sources.yml m"):
        manners(with_options(SCORES, http=http))


def test_nothing_of_the_url_or_the_key_is_told_whatever_the_service_repeats(caplog):
    caplog.set_level(logging.DEBUG)
    key = "k/ey-of-ünusual-form"
    body = json.dumps({"a": key, "b": "pass-word", "c": "Basic dXNlcjpwYXNzLXdvcmQ="}).replace("/", "\\/")
    with playing(ok(body.encode())) as server:
        url = server.url.replace("//", "//user:pass-word@")
        with HttpService("score shop", url, "SHOP_URL", secrets=[key]) as client:
            assert client.get("/a") == {"a": "***", "b": "***", "c": "Basic ***"}
    assert "pass-word" not in caplog.text
    assert "user" not in caplog.text.lower().replace("user-agent", "")


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(st.sampled_from('a1."\\\ue000\ue001ü\ud800'))
    | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.sampled_from('k"\ue000')), inner),
    max_leaves=8,
)


@given(VALUES)
def test_json_is_kept_digit_by_digit(value):
    text = to_json(value)
    assert text.isascii()
    assert from_json(text) == value
    if isinstance(value, Decimal):
        assert text == str(value)


# ---------- a lender, its lake, its third parties ----------


@pytest.fixture(scope="module")
def postgres() -> Iterator[psycopg.Connection]:
    """A database with the app's schema, of this module's own."""
    # Not below pytest's folder: each new pytest session closes that to others, PostgreSQL's user among them.
    with TemporaryDirectory() as folder, Path(folder, "log").open("wb") as log:
        server = Postgres(Path(folder, "pgdata"), log)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute((ROOT / "sandbox" / "schema.sql").read_text(encoding="utf-8"))
            yield connection
        server.stop()


@pytest.fixture
def consent(postgres: psycopg.Connection) -> Callable[..., None]:
    """Records a consent of a person, who becomes a customer with the first one."""
    postgres.execute("delete from app.consents")
    postgres.execute("delete from app.customers")

    def consent(
        cpf: str,
        granted_at: datetime = NOON,
        *,
        scope: str = "bureau",
        expires_at: datetime | None = None,
        revoked_at: datetime | None = None,
    ) -> None:
        postgres.execute(
            "insert into app.customers (customer_id, partner_id, full_name, cpf, email, created_at, updated_at)"
            " values (%s, 'p', 'n', %s, 'e', now(), now()) on conflict do nothing",
            (int(cpf), cpf),
        )
        postgres.execute(
            "insert into app.consents values (%s, %s, %s, %s, %s, %s, now())",
            (uuid4(), int(cpf), scope, granted_at, expires_at, revoked_at),
        )

    return consent


@pytest.fixture
def lender(postgres: psycopg.Connection, consent: Callable[..., None], tmp_path: Path) -> Settings:
    """Settings of a lender without customers, whose lake is empty."""
    return Settings(
        lake=str(tmp_path / "lake"),
        source_dsn=postgres.info.dsn,
        bureau_api_key=KEY,
        fx_url="",
        extract_date=DAY,
    )


class World:
    """The sandbox's third parties, and the log of what they were asked."""

    def __init__(self, server: ThirdPartyServer, calls: list[str]) -> None:
        self.server = server
        self.calls = calls

    def asked(self) -> list[str]:
        """The calls since this was asked last, without durations."""
        calls = [c.rpartition(" ")[0] for c in self.calls]
        self.calls.clear()
        return calls


@pytest.fixture
def world(lender: Settings) -> Iterator[World]:
    """The third parties of that lender, on its day."""
    calls: list[str] = []
    server = create_server("synthetic", 7, DAY, 0, KEY, log=calls.append)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    lender.bureau_url = lender.fx_url = server.url
    yield World(server, calls)
    server.shutdown()
    server.server_close()


def land(settings: Settings, table: TableConfig, day: date = DAY) -> int:
    """Land a table; returns the number of new rows."""
    settings.extract_date = day
    result = run(settings, [table])[0]
    if result.error:
        raise IngestionError(result.error)
    return result.rows


@pytest.fixture
def extract(lender: Settings, postgres: psycopg.Connection) -> Callable[[ModuleType, TableConfig], None]:
    """Extract where nothing is meant to be published."""

    def extract(source: ModuleType, table: TableConfig) -> None:
        lake = Lake.open(lender.lake, lender.world)
        context = Run(lender, lake, lender.extract_date, "00000001", postgres)
        try:
            with lake.lock(), lake.begin(table, source.SCHEMA, "00000001", lender.extract_date) as out:
                source.extract(table, context, out)
        finally:
            assert lake.batches(table.source, table.table) == []

    return extract


def with_options(table: TableConfig, **options: Any) -> TableConfig:
    return TableConfig(
        table.source, table.table, table.kind, table.key, table.cursor, True, table.options | options
    )


def rows(settings: Settings, table: TableConfig, schema: pa.Schema) -> list[dict[str, Any]]:
    lake = Lake.open(settings.lake, settings.world)
    return lake.read(table.source, table.table, schema.names).to_pylist()


def dead_letters(settings: Settings, table: TableConfig) -> list[DeadLetter]:
    return Lake.open(settings.lake, settings.world).dead_letters(table.source, table.table)


def scores(settings: Settings) -> list[tuple[str, str]]:
    """Who was scored when, in the order of the lake."""
    return [(r["cpf"], f"{r['queried_at']:%Y-%m-%d}") for r in rows(settings, SCORES, bureau.SCHEMA)]


# ---------- bureau ----------


def test_scores_of_everyone_who_consented_land_once(lender, consent, world):
    consent(ANNA, datetime(2025, 10, 1, 12, tzinfo=UTC))
    consent(BRUNO)
    assert land(lender, SCORES) == 6
    assert scores(lender) == [
        (ANNA, "2025-10-01"),
        (ANNA, "2025-10-31"),
        (ANNA, "2025-11-30"),
        (BRUNO, "2025-12-01"),
        (ANNA, "2025-12-30"),
        (BRUNO, "2025-12-31"),
    ]
    assert world.asked() == ["POST bureau 200 subjects=2 records=6"]
    row = rows(lender, SCORES, bureau.SCHEMA)[0]
    assert row["total_debt"].as_tuple().exponent == -2
    assert row["queried_at"] == datetime(2025, 10, 1, 12, tzinfo=UTC)
    assert land(lender, SCORES) == 0
    assert world.asked() == [], "every score is fresh"


def test_types_in_the_lake_are_the_contracts(lender, consent, world):
    consent(ANNA)
    for table, schema in ((SCORES, bureau.SCHEMA), (with_options(RATES, start_date=DAY), fx.SCHEMA)):
        land(lender, table)
        lake = Lake.open(lender.lake, lender.world)
        read = lake.read(table.source, table.table, schema.names).schema
        assert [(f.name, f.type) for f in read] == [(f.name, f.type) for f in schema]


def test_only_scores_that_are_new_are_paid_for(lender, consent, world):
    consent(ANNA, NOON)  # the next records: 31 December, 30 January
    consent(BRUNO, NOON + timedelta(days=20))  # 21 December, 20 January
    land(lender, SCORES)
    known = scores(lender)
    world.asked()
    for day, new in (
        (date(2026, 1, 19), 0),
        (date(2026, 1, 20), 1),
        (date(2026, 1, 29), 0),
        (date(2026, 1, 30), 1),
    ):
        world.server.world_date = day
        assert land(lender, SCORES, day) == new
        assert world.asked() == [f"POST bureau 200 subjects={new} records={new}"] * new
    assert scores(lender) == [*known, (BRUNO, "2026-01-20"), (ANNA, "2026-01-30")]


def test_a_record_due_the_moment_the_day_ends_belongs_to_the_next_day(lender, consent, world):
    consent(ANNA, datetime(2025, 12, 2, 3, tzinfo=UTC))  # 30 days before midnight of the last day
    assert land(lender, SCORES) == 1
    world.asked()
    assert land(lender, SCORES) == 0
    assert world.asked() == []
    world.server.world_date = DAY + timedelta(days=1)
    assert land(lender, SCORES, DAY + timedelta(days=1)) == 1


def test_a_score_is_fresh_as_long_as_sources_yml_says(lender, consent, world):
    consent(ANNA, NOON)
    land(lender, SCORES)
    world.server.world_date = date(2026, 3, 5)
    patient = with_options(SCORES, ttl_days=64)
    assert land(lender, patient, date(2026, 3, 4)) == 0
    world.asked()
    assert land(lender, patient, date(2026, 3, 5)) == 2
    assert world.asked() == ["POST bureau 200 subjects=1 records=2"]


def test_nobody_is_asked_about_without_a_consent_in_force(lender, consent, world):
    midnight = datetime(2026, 1, 1, 3, tzinfo=UTC)  # the end of the day in São Paulo
    moment = timedelta(microseconds=1)
    consent(ANNA, scope="open_finance")
    consent(ANNA, revoked_at=midnight - moment)
    consent(ANNA, expires_at=midnight - moment)
    consent(ANNA, midnight)
    assert land(lender, SCORES) == 0
    assert world.asked() == []
    consent(BRUNO, midnight - moment)
    consent(CARLA, revoked_at=midnight, expires_at=midnight)
    assert land(lender, SCORES) == 3
    assert {cpf for cpf, _ in scores(lender)} == {BRUNO, CARLA}


def test_monitoring_begins_with_the_earliest_consent_in_force(lender, consent, world):
    consent(ANNA, NOON - timedelta(days=200), revoked_at=NOON - timedelta(days=100))
    consent(ANNA, NOON + timedelta(days=5))
    consent(ANNA, NOON)
    land(lender, SCORES)
    assert scores(lender) == [(ANNA, "2025-12-01"), (ANNA, "2025-12-31")]


def test_people_go_in_batches_and_pages_are_followed(lender, consent, world):
    for number in range(45):
        consent(f"{20_000_000_000 + number}", NOON - timedelta(days=300))
    one_by_one = {"concurrency": 1}
    assert land(lender, with_options(SCORES, batch_size=20, http=one_by_one)) == 45 * 12
    assert world.asked() == [
        "POST bureau 200 subjects=20 records=200",
        "POST bureau 200 subjects=20 records=40",
        "POST bureau 200 subjects=20 records=200",
        "POST bureau 200 subjects=20 records=40",
        "POST bureau 200 subjects=5 records=60",
    ]
    landed = scores(lender)
    assert len(set(landed)) == len(landed)
    assert landed == sorted(landed, key=lambda s: (s[1], s[0]))


def test_settings_of_the_bureau_matter_only_when_somebody_has_to_be_asked_about(lender, consent):
    lender.bureau_url, lender.bureau_api_key = "", type(lender.bureau_api_key)("")
    assert land(lender, SCORES) == 0
    assert rows(lender, SCORES, bureau.SCHEMA) == []
    consent(ANNA)
    with pytest.raises(IngestionError, match=r"^BUREAU_API_KEY is not set; "):
        land(lender, SCORES)
    lender.bureau_api_key = type(lender.bureau_api_key)(KEY)
    with pytest.raises(IngestionError, match=r"^BUREAU_URL is not set; "):
        land(lender, SCORES)


def test_wrong_key_is_one_line(lender, consent, world):
    consent(ANNA)
    lender.bureau_api_key = type(lender.bureau_api_key)(f"{KEY}-old")
    with pytest.raises(IngestionError, match=r"refuses the API key.*BUREAU_API_KEY") as error:
        land(lender, SCORES)
    assert is_one_safe_line(error)
    assert world.asked() == ["POST bureau 401"]


def test_database_without_the_tables_is_one_line_and_spoils_nothing(lender, postgres):
    postgres.execute("alter table app.consents rename to consents_2")
    try:
        results = run(lender, [SCORES, next(t for t in load_sources() if t.name == "app.customers")])
    finally:
        postgres.execute("alter table app.consents_2 rename to consents")
    assert "name their schema in sources.yml" in results[0].error
    assert "app.customers has no rows" in results[1].error, "it could still be read"


def record(**changes: Any) -> dict[str, Any]:
    return {
        "cpf": ANNA,
        "score": 700,
        "score_version": "1",
        "negative_records": 0,
        "total_debt": 12.5,
        "queried_at": "2025-12-01T12:00:00Z",
    } | changes


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ([[ANNA]], "object"),
        ([{"cpf": ANNA}], "score"),
        ([record(cpf=BRUNO)], "cpf"),
        ([record(cpf=int(ANNA))], "cpf"),
        ([record(score=1001)], "score"),
        ([record(score="700")], "score"),
        ([record(score=True)], "score"),
        ([record(score=700.5)], "score"),
        ([record(score=None)], "score"),
        ([record(score_version=1)], "score_version"),
        ([record(negative_records=-1)], "negative_records"),
        ([record(total_debt="12.50")], "total_debt"),
        ([record(total_debt=12.505)], "total_debt"),
        ([record(total_debt=1e12)], "total_debt"),
        ([record(queried_at="2025-12-01T12:00:00")], "queried_at"),
        ([record(queried_at=ANNA)], "queried_at"),
        ([record(queried_at=1764590400)], "queried_at"),
        ([record(queried_at=None)], "queried_at"),
        ([record(queried_at="9999-12-31T23:59:59Z")], "queried_at"),
        ([record(queried_at="0001-01-01T00:00:00Z")], "queried_at"),
        ([record(queried_at="2025-12-01T12:00:00.0000001Z")], "queried_at"),
        ([record(score_version="\ud800")], "score_version"),
    ],
)
def test_record_that_is_not_valid_is_a_dead_letter_and_names_no_value(lender, consent, data, field):
    consent(ANNA)
    good = record(queried_at="2025-12-31T12:00:00Z")
    with playing(ok({"data": [*data, good], "next_page_token": None})) as server:
        lender.bureau_url = server.url
        assert land(lender, SCORES) == 1, "the good one beside it lands"
        (letter,) = dead_letters(lender, SCORES)
        assert re.search(rf"\b{field}\b", letter.reason)
        assert not any(value in letter.reason + letter.origin for value in (ANNA, BRUNO, KEY))
        payload = json.loads(letter.payload)
        assert payload in (data[0], {"record": data[0], "asked_about": [ANNA]})
        assert land(lender, SCORES, date(2026, 2, 15)) == 0
        assert len(server.requests) == 2
        assert dead_letters(lender, SCORES) == [letter], "the same record again is the same letter"


@pytest.mark.parametrize(
    "answer",
    [[], {}, {"data": {}}, {"data": [], "next_page_token": 7}, {"data": [], "next_page_token": "again"}],
)
def test_answer_of_another_form_is_one_line(extract, lender, consent, answer):
    consent(ANNA)
    with playing(ok(answer)) as server:
        lender.bureau_url = server.url
        with pytest.raises(IngestionError, match="check that BUREAU_URL"):
            extract(bureau, SCORES)


def test_a_bad_record_that_a_dead_run_left_in_the_spool_is_not_asked_for_again(lender, consent):
    """GIVEN a run that got a bad fresh record and failed WHEN the next runs THEN it asks about the others only."""
    consent(ANNA)
    consent(BRUNO)
    bad = ok({"data": [record(queried_at="2025-12-31T12:00:00Z", score="700")], "next_page_token": None})
    sound = ok({"data": [record(cpf=BRUNO)], "next_page_token": None})
    one_by_one = with_options(SCORES, batch_size=1, http={"attempts": 1, "concurrency": 1})
    with playing(bad, (422, b"", {}), sound) as server:
        lender.bureau_url = server.url
        with pytest.raises(IngestionError, match="refuses the request"):
            land(lender, one_by_one)
        assert land(lender, one_by_one) == 1
        assert [[s["cpf"] for s in body["subjects"]] for *_, body in server.requests] == [
            [ANNA], [BRUNO], [BRUNO],
        ]  # fmt: skip
    assert len(dead_letters(lender, SCORES)) == 1


def test_records_that_come_twice_land_once(lender, consent):
    consent(ANNA, NOON)
    one, two = record(), record(queried_at="2025-12-31T12:00:00Z", total_debt=7, unknown="field")
    first = [ok({"data": [one, one], "next_page_token": "2"}), ok({"data": [one], "next_page_token": None})]
    again = ok({"data": [one, two, two], "next_page_token": None})
    with playing(*first, again) as server:
        lender.bureau_url = server.url
        assert land(lender, SCORES) == 1
        assert land(lender, SCORES, date(2026, 1, 5)) == 1
        bodies = [body for *_, body in server.requests]
    asked = {"cpf": ANNA, "consented_at": "2025-12-01T12:00:00Z", "after": None}
    assert [b["page_token"] for b in bodies] == [None, "2", None]
    assert [b["subjects"] for b in bodies] == [[asked], [asked], [asked | {"after": "2025-12-01T12:00:00Z"}]]
    assert [r["total_debt"] for r in rows(lender, SCORES, bureau.SCHEMA)] == [
        Decimal("12.50"),
        Decimal("7.00"),
    ]


def pages(*data: list[Any]) -> list[Any]:
    """Answers that follow one another, each with a token for the next."""
    tokens = [*map(str, range(2, len(data) + 1)), None]
    return [ok({"data": d, "next_page_token": t}) for d, t in zip(data, tokens, strict=True)]


FIRST, SECOND = record(), record(queried_at="2025-12-31T12:00:00Z")
IMPATIENT = {"http": {"attempts": 1, "concurrency": 1}}


def spool(settings: Settings) -> list[Path]:
    return list(Path(settings.lake).glob("spool/*/*/*"))


def test_a_run_that_fails_is_gone_on_with_at_the_page_it_had_reached(lender, consent):
    consent(ANNA)
    one, two = pages([FIRST], [SECOND])
    with playing(one, (500, b"", {}), two) as server:
        lender.bureau_url = server.url
        with pytest.raises(IngestionError, match="answers 500"):
            land(lender, with_options(SCORES, **IMPATIENT))
        assert len(spool(lender)) == 1
        assert scores(lender) == []
        assert land(lender, with_options(SCORES, **IMPATIENT), DAY + timedelta(days=1)) == 2
        assert [body["page_token"] for *_, body in server.requests] == [None, "2", "2"]
    assert spool(lender) == []
    assert scores(lender) == [(ANNA, "2025-12-01"), (ANNA, "2025-12-31")]


def test_answers_in_the_spool_are_not_paid_for_again_when_the_commit_was_missed(
    lender, consent, world, monkeypatch
):
    consent(ANNA)
    consent(BRUNO)
    with monkeypatch.context() as patch:
        patch.setattr(BatchWriter, "_commit", lambda self: (_ for _ in ()).throw(OSError(28, "disk full")))
        with pytest.raises(IngestionError, match="disk full"):
            land(lender, SCORES)
    assert world.asked() == ["POST bureau 200 subjects=2 records=4"]
    assert land(lender, SCORES) == 4
    assert world.asked() == []


def test_answers_that_are_landed_and_still_in_the_spool_land_once(lender, consent, world, monkeypatch):
    consent(ANNA)
    with monkeypatch.context() as patch:
        patch.setattr(Spool, "clear", lambda self: None)
        assert land(lender, SCORES) == 2
    assert len(spool(lender)) == 1
    assert land(lender, SCORES) == 0
    assert len(scores(lender)) == 2
    assert spool(lender) == []
    assert len(world.asked()) == 1


def test_a_page_token_that_the_bureau_has_forgotten_is_no_dead_end(lender, consent):
    consent(ANNA)
    one, _ = pages([FIRST], [SECOND])
    whole = ok({"data": [SECOND], "next_page_token": None})
    with playing(one, (500, b"", {}), (422, b"", {}), whole) as server:
        lender.bureau_url = server.url
        with pytest.raises(IngestionError, match="answers 500"):
            land(lender, with_options(SCORES, **IMPATIENT))
        assert land(lender, with_options(SCORES, **IMPATIENT)) == 1, "what had come lands"
        assert land(lender, with_options(SCORES, **IMPATIENT), DAY + timedelta(days=1)) == 1
        assert server.requests[-1][2]["subjects"][0]["after"] == "2025-12-01T12:00:00Z"


def test_a_request_is_not_gone_on_with_about_somebody_who_has_revoked(lender, consent, postgres):
    consent(ANNA)
    consent(BRUNO)
    one, _ = pages([FIRST], [])
    with playing(one, (500, b"", {}), ok({"data": [], "next_page_token": None})) as server:
        lender.bureau_url = server.url
        with pytest.raises(IngestionError, match="answers 500"):
            land(lender, with_options(SCORES, **IMPATIENT))
        postgres.execute(
            "update app.consents set revoked_at = granted_at where customer_id = %s", [int(BRUNO)]
        )
        assert land(lender, with_options(SCORES, **IMPATIENT)) == 1
        bodies = [body for *_, body in server.requests]
    assert [[s["cpf"] for s in b["subjects"]] for b in bodies] == [[ANNA, BRUNO], [ANNA, BRUNO], [ANNA]]
    assert bodies[-1]["page_token"] is None


def test_who_revokes_during_the_run_is_not_asked_about_any_more(lender, consent, postgres, world):
    for cpf in (ANNA, BRUNO, CARLA):
        consent(cpf)
    revoke = "update app.consents set revoked_at = granted_at where customer_id = %s"
    world.server.watch = lambda call: postgres.execute(revoke, [int(CARLA)])
    assert land(lender, with_options(SCORES, batch_size=1, http={"concurrency": 1})) == 4
    assert world.asked() == ["POST bureau 200 subjects=1 records=2"] * 2


def test_of_whom_the_bureau_knows_nothing_it_is_asked_again_after_some_days_only(lender, consent, world):
    consent(ANNA)
    world.server.has_data = False
    table = with_options(SCORES, recheck_days=7)
    for day, calls in ((DAY, 1), (DAY, 0), (DAY + timedelta(days=6), 0), (DAY + timedelta(days=7), 1)):
        assert land(lender, table, day) == 0
        assert len(world.asked()) == calls, day
    consent(BRUNO)
    assert land(lender, table, DAY + timedelta(days=7)) == 0
    assert land(lender, table, DAY + timedelta(days=7)) == 0
    assert len(world.asked()) == 1, "also where the day has a batch already"
    manifests = Lake.open(lender.lake, lender.world).manifests("bureau", "scores")
    assert not any(cpf in json.dumps(manifests) for cpf in (ANNA, BRUNO))
    assert rows(lender, SCORES, bureau.SCHEMA) == [], "no score is made up"


def test_unknown_fields_are_kept_and_optional_ones_may_be_missing(lender, consent):
    consent(ANNA)
    more = record(segment={"code": 7, "rate": 1.50}, ünknown=None)
    fewer = {k: SECOND[k] for k in ("cpf", "score", "queried_at")}
    with playing(ok({"data": [more, fewer], "next_page_token": None, "trace": 1})) as server:
        lender.bureau_url = server.url
        assert land(lender, SCORES) == 2
    one, two = rows(lender, SCORES, bureau.SCHEMA)
    assert json.loads(one["_extra"]) == {"segment": {"code": 7, "rate": 1.5}, "ünknown": None}
    assert two == {
        **dict.fromkeys(bureau.SCHEMA.names),
        "cpf": ANNA,
        "score": 700,
        "queried_at": two["queried_at"],
    }


def replayed(settings: Settings, table: TableConfig, module: ModuleType, postgres: psycopg.Connection) -> int:
    """Replay a table's dead letters; returns how many rows landed."""
    lake = Lake.open(settings.lake, settings.world)
    context = Run(settings, lake, settings.extract_date, lake.next_batch_id(), postgres)
    with lake.lock(), lake.begin(table, module.SCHEMA, context.batch_id, settings.extract_date) as out:
        module.replay(table, context, lake.dead_letters(table.source, table.table), out)
    return out.rows


@pytest.mark.parametrize(
    ("bad", "after"),
    [
        (record(score="700"), "2025-12-01T11:59:59.999999Z"),
        (record(queried_at=7), None),
        (record(queried_at="9999-12-31T23:59:59Z"), None),
        (record(cpf=None), "2025-12-01T11:59:59.999999Z"),
        (record(cpf=None, queried_at=None), None),
        ("nonsense", None),
    ],
)
def test_replay_asks_again_and_retires(lender, consent, postgres, bad, after):
    consent(ANNA)
    answers = [[bad, SECOND], [bad, SECOND], [FIRST, SECOND]]
    with playing(*(ok({"data": a, "next_page_token": None}) for a in answers)) as server:
        lender.bureau_url = server.url
        assert land(lender, SCORES) == 1
        assert replayed(lender, SCORES, bureau, postgres) == 0
        (letter,) = dead_letters(lender, SCORES)
        assert letter.attempts == 2
        assert replayed(lender, SCORES, bureau, postgres) == 1
        assert dead_letters(lender, SCORES) == []
        assert [body["subjects"][0]["after"] for *_, body in server.requests] == [None, after, after]
        assert replayed(lender, SCORES, bureau, postgres) == 0
        assert len(server.requests) == 3
    assert sorted(scores(lender)) == [(ANNA, "2025-12-01"), (ANNA, "2025-12-31")]


def test_replay_lands_without_a_call_what_is_as_promised_by_now(
    lender, consent, postgres, world, monkeypatch
):
    consent(ANNA)
    strict = [Field("score", "score", whole(0, 1)) if f.name == "score" else f for f in bureau.FIELDS]
    with monkeypatch.context() as patch:
        patch.setattr(bureau, "FIELDS", strict)
        assert land(lender, SCORES) == 0
    assert len(dead_letters(lender, SCORES)) == 2
    assert land(lender, SCORES) == 0
    assert len(world.asked()) == 1, "what waits for a replay is not asked for again"
    assert replayed(lender, SCORES, bureau, postgres) == 2
    assert world.asked() == []
    assert dead_letters(lender, SCORES) == []


def test_replay_asks_about_nobody_without_consent(lender, consent, postgres):
    consent(ANNA)
    with playing(ok({"data": [record(score=None)], "next_page_token": None})) as server:
        lender.bureau_url = server.url
        land(lender, SCORES)
        postgres.execute("update app.consents set revoked_at = granted_at")
        replayed(lender, SCORES, bureau, postgres)
        assert len(server.requests) == 1
    (letter,) = dead_letters(lender, SCORES)
    assert letter.reason.startswith("no consent in force")


# ---------- central bank ----------


def rates(settings: Settings) -> list[tuple[str, str, str]]:
    return [
        (r["currency"], f"{r['quoted_at']:%Y-%m-%d}", r["bulletin"]) for r in rows(settings, RATES, fx.SCHEMA)
    ]


def test_rates_land_from_the_start_date_then_only_what_is_new(lender, world):
    table = with_options(RATES, start_date=date(2025, 12, 29))
    assert land(lender, table) == 2 * 3 * 5
    assert land(lender, table) == 0
    world.server.world_date = date(2026, 1, 2)
    assert land(lender, table, date(2026, 1, 2)) == 2 * 5, "a holiday and a business day"
    landed = rates(lender)
    assert len({(r["currency"], r["quoted_at"], r["bulletin"]) for r in rows(lender, RATES, fx.SCHEMA)}) == 40
    assert {day for _, day, _ in landed} == {"2025-12-29", "2025-12-30", "2025-12-31", "2026-01-02"}
    assert {c for c, *_ in landed} == {"USD", "EUR"}
    assert [d for _, d, _ in landed] == sorted(d for _, d, _ in landed)
    assert world.asked()[-1] == "GET ptax 200 period=2025-12-29..2026-01-02 skip=0 rows=20"


def test_rates_of_a_currency_added_later_begin_at_the_start(lender, world):
    land(lender, with_options(RATES, start_date=date(2025, 12, 1), currencies=["USD"]))
    assert (
        land(lender, with_options(RATES, start_date=date(2025, 12, 1), currencies=["USD", "GBP"])) == 22 * 5
    )
    assert world.asked()[-1].startswith("GET ptax 200 period=2025-12-01..2025-12-31 ")


def test_a_period_that_fills_its_page_is_halved(lender, world, monkeypatch):
    monkeypatch.setattr(fx, "PAGE_ROWS", 10)
    monkeypatch.setattr(fx, "PAGE_DAYS", 2)
    assert land(lender, with_options(RATES, start_date=date(2025, 12, 29), currencies=["USD"])) == 15
    assert [re.search(r"period=.*rows=\d+", c)[0] for c in world.asked()] == [
        "period=2025-12-29..2025-12-30 skip=0 rows=10",
        "period=2025-12-29..2025-12-29 skip=0 rows=5",
        "period=2025-12-30..2025-12-30 skip=0 rows=5",
        "period=2025-12-31..2025-12-31 skip=0 rows=5",
    ]


def test_a_day_with_more_bulletins_than_a_page_is_one_line(lender, world, monkeypatch):
    monkeypatch.setattr(fx, "PAGE_ROWS", 5)
    with pytest.raises(IngestionError, match="5 bulletins of USD on one day"):
        land(lender, with_options(RATES, start_date=DAY, currencies=["USD"]))


def test_no_rate_lands_where_the_service_has_none(lender, world):
    world.server.has_data = False
    assert land(lender, RATES) == 0
    assert rates(lender) == []
    assert land(lender, RATES, date(2026, 1, 1)) == 0


def test_rates_are_not_asked_for_before_the_start_date(lender, world):
    assert land(lender, RATES, date(1998, 12, 7)) == 0
    assert rates(lender) == []
    assert world.asked() == []


def bulletin(at: str, kind: str = "Fechamento", buy: str = "5.14360", sell: str = "5.14420") -> str:
    return (
        f'{{"paridadeCompra":1.0,"paridadeVenda":1.0,"cotacaoCompra":{buy},"cotacaoVenda":{sell},'
        f'"dataHoraCotacao":{json.dumps(at)},"tipoBoletim":{json.dumps(kind, ensure_ascii=False)}}}'
    )


def value(*bulletins: str) -> tuple[int, bytes, dict[str, str]]:
    return ok(f'{{"@odata.context":"https://was-p","value":[{",".join(bulletins)}]}}'.encode())


def test_the_real_services_oddities_are_understood(lender):
    answer = value(
        bulletin("2025-12-29 10:02:17.05066", "Abertura"),
        bulletin("2025-12-29 13:09:53.465", "Intermediário", sell="5.2"),
        bulletin("2025-12-29 13:09:53.469", buy="12345.12345678", sell="12346"),
        bulletin("2025-12-30 13:10:18.54"),
        bulletin("2018-01-15 13:03:25.555497", "Fechamento PTAX"),
        bulletin("2025-12-31 17:00:00"),
    )
    with playing(answer) as server:
        lender.fx_url = f"{server.url}/"
        table = with_options(RATES, start_date=date(2025, 12, 29), currencies=["USD"])
        assert land(lender, table) == 6
        assert land(lender, table) == 0
        assert server.requests[0][1] == (
            "/olinda/servico/PTAX/versao/v1/odata/CotacaoMoedaPeriodo(moeda=@moeda,dataInicial=@dataInicial,"
            "dataFinalCotacao=@dataFinalCotacao)?@moeda='USD'&@dataInicial='12-29-2025'"
            "&@dataFinalCotacao='12-31-2025'&$format=json&$orderby=dataHoraCotacao%20asc&$top=1000"
        )
    by_time = {r["quoted_at"].isoformat(): r for r in rows(lender, RATES, fx.SCHEMA)}
    assert list(by_time) == [
        "2018-01-15T15:03:25.555497+00:00",  # summer time of then
        "2025-12-29T13:02:17.050660+00:00",
        "2025-12-29T16:09:53.465000+00:00",
        "2025-12-29T16:09:53.469000+00:00",
        "2025-12-30T16:10:18.540000+00:00",
        "2025-12-31T20:00:00+00:00",
    ]
    assert [r["bulletin"] for r in by_time.values()][:3] == ["Fechamento PTAX", "Abertura", "Intermediário"]
    exact = by_time["2025-12-29T16:09:53.469000+00:00"]
    assert (str(exact["buy"]), str(exact["sell"])) == ("12345.12345678", "12346.00000000")


@pytest.mark.parametrize("answer", [[], {}, {"value": {}}])
def test_answer_without_bulletins_is_one_line(extract, lender, answer):
    with playing(ok(answer)) as server:
        lender.fx_url = server.url
        with pytest.raises(IngestionError, match=r"PTAX service answered .*check that FX_URL"):
            extract(fx, RATES)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ("7", "object"),
        ("{}", "cotacaoCompra"),
        (bulletin("31/12/2025 13:00"), "dataHoraCotacao"),
        (bulletin("2025-12-31T13:00:00Z"), "dataHoraCotacao"),
        (bulletin("9999-12-31 23:59:59"), "dataHoraCotacao"),
        (bulletin("2026-01-01 10:00:00"), "dataHoraCotacao"),
        (bulletin("0001-01-01 00:00:00"), "dataHoraCotacao"),
        (bulletin("2025-12-31 13:00:00", ""), "tipoBoletim"),
        (bulletin("2025-12-31 13:00:00", buy='"5.1"'), "cotacaoCompra"),
        (bulletin("2025-12-31 13:00:00", buy="null"), "cotacaoCompra"),
        (bulletin("2025-12-31 13:00:00", sell="0"), "cotacaoVenda"),
        (bulletin("2025-12-31 13:00:00", sell="-1.5"), "cotacaoVenda"),
        (bulletin("2025-12-31 13:00:00", sell="5.123456789"), "cotacaoVenda"),
        (bulletin("2025-12-31 13:00:00", sell="12345678901"), "cotacaoVenda"),
    ],
)
def test_bulletin_that_is_none_is_a_dead_letter(lender, wrong, field):
    table = with_options(RATES, start_date=date(2025, 12, 29), currencies=["USD"])
    with playing(value(bulletin("2025-12-29 13:00:00"), wrong)) as server:
        lender.fx_url = server.url
        assert land(lender, table) == 1
    (letter,) = dead_letters(lender, RATES)
    assert field in letter.reason
    assert json.loads(letter.payload) == json.loads(wrong)
    assert letter.origin == '{"currency":"USD"}'


def test_replay_of_a_bulletin_asks_for_its_day_and_retires(lender, postgres):
    table = with_options(RATES, start_date=date(2025, 12, 1), currencies=["USD"])
    good, bad = bulletin("2025-12-29 13:00:00"), bulletin("2025-12-29 13:00:00", buy='"5"')
    undated = bulletin("soon")
    with playing(value(bad), value(bad), value(good, undated), value(good)) as server:
        lender.fx_url = server.url
        assert land(lender, table) == 0
        assert replayed(lender, table, fx, postgres) == 0
        assert replayed(lender, table, fx, postgres) == 1
        assert len(dead_letters(lender, table)) == 2, "one of them may stand for the other"
        assert replayed(lender, table, fx, postgres) == 0
        assert dead_letters(lender, table) == []
        days = [re.search(r"dataInicial='([\d-]+)'&", path)[1] for _, path, _ in server.requests]
    assert days == ["12-01-2025", "12-29-2025", "12-29-2025", "12-01-2025"]


@pytest.mark.parametrize(
    "options",
    [
        {"currencies": "USD"},
        {"currencies": ["usd"]},
        {"currencies": [7]},
        {"start_date": "soon"},
        {"start_date": None},
    ],
)
def test_rates_misconfigured_are_one_line(lender, world, options):
    with pytest.raises(IngestionError, match=r"in sources.yml must be"):
        land(lender, with_options(RATES, **options))


def test_rates_without_a_url_are_one_line(lender):
    with pytest.raises(IngestionError, match=r"^FX_URL is not set; "):
        land(lender, RATES)
