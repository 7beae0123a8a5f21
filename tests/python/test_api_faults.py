"""The third parties misbehave, runs die: every record lands or is accounted for, nothing twice, no call wasted."""

# ruff: noqa: F811 (fixtures of another module)

import json
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
from test_http_sources import (  # noqa: F401
    ANNA,
    BRUNO,
    DAY,
    KEY,
    RATES,
    ROOT,
    SCORES,
    consent,
    dead_letters,
    ok,
    playing,
    postgres,
    record,
    with_options,
)

from ingestion import bureau, fx
from ingestion.config import TableConfig
from ingestion.http import HttpService
from ingestion.lake import Lake
from ingestion.records import from_json
from ingestion.run import replay as replay_tables
from ingestion.run import run
from ingestion.settings import BUSINESS_ZONE, Settings
from sandbox.third_party import bureau as bureau_server
from sandbox.third_party.faults import FAULTS, Faults
from sandbox.third_party.server import Call, ThirdPartyServer, create_server

PEOPLE = 30
RATE, BURST, CONCURRENCY = 200, 5, 3
MANNERS = {
    "read": 5, "answer": 10, "attempts": 8, "first_wait": 0.004, "longest_wait": 0.02, "failures": 4,
    "rest": 0.03, "requests_per_second": RATE, "burst": BURST, "concurrency": CONCURRENCY,
}  # fmt: skip
BUREAU = with_options(SCORES, batch_size=10, http=MANNERS)
FX = with_options(RATES, start_date=date(2025, 11, 1), http=MANNERS)
HASTE = {"read": 0.6, "answer": 1}  # where it has to be found out that nothing comes
BRIEF = {"storm": 0.05, "retry_after": 0, "hang": 1.5, "drip": 8}
NOT_RECEIVED = {"truncate", "drip"}
MODULES = {"bureau": bureau, "central_bank": fx}
KILLS = int(os.environ.get("API_KILLS", "8"))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bureau_server, "PAGE_RECORDS", 20)
    monkeypatch.setattr(fx, "PAGE_DAYS", 7)


@pytest.fixture
def people(consent) -> list[str]:
    cpfs = [f"{30_000_000_000 + i * 7919}" for i in range(PEOPLE)]
    for i, cpf in enumerate(cpfs):
        consent(cpf, datetime(2025, 4, 1, 12, tzinfo=UTC) + timedelta(days=7 * i, seconds=i))
    return cpfs


@contextmanager
def third_parties(day: date = DAY) -> Iterator[tuple[ThirdPartyServer, list[Call]]]:
    calls: list[Call] = []
    server = create_server(
        "synthetic", 7, day, 0, KEY, requests_per_second=RATE, burst=4 * BURST, log=lambda line: None,
        watch=calls.append,
    )  # fmt: skip
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server, calls
    finally:
        server.shutdown()
        server.server_close()


def settings_of(dsn: str, lake: Path, url: str, day: date = DAY) -> Settings:
    return Settings(
        lake=str(lake), source_dsn=dsn, bureau_api_key=KEY, bureau_url=url, fx_url=url, extract_date=day,
    )  # fmt: skip


def replay(settings: Settings, table: TableConfig) -> None:
    assert not [result.error for result in replay_tables(settings, [table]) if result.error]


def landed(settings: Settings, table: TableConfig) -> list[dict[str, Any]]:
    schema = MODULES[table.source].SCHEMA
    rows = Lake.open(settings.lake, settings.world).read(table.source, table.table, schema.names)
    return sorted(rows.to_pylist(), key=lambda row: key_of(table, row))


def key_of(table: TableConfig, row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[c] for c in table.key)


@pytest.fixture(scope="module")
def truths() -> dict[date, dict[str, list[dict[str, Any]]]]:
    """What a run without any fault lands, by day."""
    return {}


def truth(truths, postgres, tmp_path: Path, day: date = DAY) -> dict[str, list[dict[str, Any]]]:
    if day not in truths:
        with third_parties(day) as (server, _):
            settings = settings_of(postgres.info.dsn, tmp_path / f"truth-{day}", server.url, day)
            assert not [r.error for r in run(settings, [BUREAU, FX]) if r.error]
            truths[day] = {t.name: landed(settings, t) for t in (BUREAU, FX)}
    return truths[day]


def check_nothing_twice(settings: Settings) -> None:
    for table in (BUREAU, FX):
        keys = Counter(key_of(table, row) for row in landed(settings, table))
        assert max(keys.values(), default=1) == 1, table.name


def check_rate(calls: list[Call], late: int = 0) -> None:
    """No call above the limits: never more than a burst and what the rate allows, in any stretch of time.

    `late` calls had been given up by the time the server came to them.
    """
    assert not [c for c in calls if c.status == 429 and "storm" not in c.faults]
    for route in ("bureau", "ptax"):
        times = sorted(c.at for c in calls if c.route == route)
        for i, begin in enumerate(times):
            for j in range(i, min(i + 60, len(times))):
                allowed = BURST + RATE * (times[j] - begin) + CONCURRENCY + late  # some wait in the kernel
                assert j - i + 1 <= allowed, f"{j - i + 1} calls of {route} in {times[j] - begin:.3f} s"


def is_answered(call: Call) -> bool:
    """Whether a client that waits gets the whole answer."""
    return call.status == 200 and not NOT_RECEIVED & set(call.faults)


def check_no_call_wasted(
    calls: list[Call], deaths: Iterable[int] = (), unheard: Mapping[bytes, int] | None = None
) -> None:
    """No page is asked for that had been received, nobody about whom a fresh score had been received.

    `deaths` holds how many calls there had been each time a run was killed: the last of them, one for each
    thread of the run, may have been answered and not received. `unheard` holds how often the answer to a
    request was given up without a fault of the server.
    """
    asked = [n for n, call in enumerate(calls) if call.route == "bureau"]
    lost = set()
    for request, times in (unheard or {}).items():
        # Whoever gave up asked again: what the server came to first is what nobody heard.
        answered = [n for n in asked if calls[n].request == request and is_answered(calls[n])]
        lost.update(sorted(answered, key=lambda n: calls[n].at)[:times])
    lost |= {n for death in deaths for n in [n for n in asked if n < death][-CONCURRENCY:]}
    pages: Counter[str] = Counter()
    newest: dict[str, datetime] = {}
    wasted = 0
    for call in (calls[n] for n in asked if n not in lost):
        if not is_answered(call):
            continue
        request = json.loads(call.request)
        pages[call.request.decode()] += 1
        if request["page_token"] is None:
            known = [s for s in request["subjects"] if s["cpf"] in newest]
            wasted += any(newest[s["cpf"]] + timedelta(days=30) >= end_of(call.day) for s in known)
        for given in json.loads(call.answer)["data"]:
            cpf, at = given.get("cpf"), given.get("queried_at")
            if isinstance(cpf, str) and isinstance(at, str):
                moment = datetime.fromisoformat(at)
                newest[cpf] = max(moment, newest.get(cpf, moment))
    wasted += sum(n - 1 for n in pages.values())
    assert pages, "the bureau was not asked: the test proved nothing"
    assert not wasted, f"{wasted} calls were wasted"


def end_of(day: date) -> datetime:
    return datetime.combine(day + timedelta(days=1), datetime.min.time(), BUSINESS_ZONE)


# ---------- every fault, alone and together

OF_RECORDS = ("retype", "omit", "extend")
ALONE = {f: {f: 0.03 if f in OF_RECORDS else 0.5 if f == "shift" else 0.15} for f in FAULTS}
TOGETHER = {f: rates[f] / 5 for f, rates in ALONE.items()}
FULL = bool(os.environ.get("API_FAULTS_FULL"))
"""All five seeds for each fault; else one for each alone, and five for all together."""
CAMPAIGN = [(f, n) for f in (*ALONE, "all together") for n in range(5 if FULL or f not in ALONE else 1)]


def draw_seed(which: str) -> int:
    """A new seed whose first calls show the fault; API_SEED repeats one."""
    while True:
        seed = int(os.environ.get("API_SEED") or random.randrange(10**6))
        shown = (Random(f"{seed}/{which}/{n}").random() < ALONE[which][which] for n in range(4, 10))
        if "API_SEED" in os.environ or which not in ALONE or which in OF_RECORDS or any(shown):
            print(f"fault {which}: seed {seed}")
            return seed


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Requests of the client without a whole answer: on a slow machine also such as the server did answer."""
    requests: list[bytes] = []
    exchange = HttpService._exchange

    def counted(self: HttpService, method: str, path: str, body: bytes | None) -> Any:
        try:
            return exchange(self, method, path, body)
        except Exception:
            requests.append(body or b"")
            raise

    monkeypatch.setattr(HttpService, "_exchange", counted)
    return requests


def unexplained(lost: list[bytes], calls: list[Call]) -> Counter[bytes]:
    """The lost requests that no fault of the server explains: it answered, and nobody waited any more."""
    faulty = Counter(c.request for c in calls if {"hang", "reset", "drip"} & set(c.faults))
    return Counter(lost) - faulty


@pytest.mark.parametrize(("which", "number"), CAMPAIGN)
def test_whatever_goes_wrong_every_record_lands_or_is_a_dead_letter(
    postgres,
    people,
    tmp_path,
    truths,
    lost,
    which,
    number,
):
    """GIVEN third parties with a fault WHEN runs go on until one gets through THEN everything is accounted for."""
    expected = truth(truths, postgres, tmp_path)
    hasty = which in ("hang", "drip", "all together")
    tables = [with_options(t, http=MANNERS | HASTE) if hasty else t for t in (BUREAU, FX)]
    seed = draw_seed(which)
    with third_parties() as (server, calls):
        settings = settings_of(postgres.info.dsn, tmp_path / "lake", server.url)
        server.mischief.set(Faults(seed, ALONE.get(which, TOGETHER), BRIEF))
        errors = ["not begun"]
        for _ in range(60):
            errors = [r.error for r in run(settings, tables) if r.error]
            if not errors:
                break
        assert not errors
        applied = Counter(fault for call in calls for fault in call.faults)
        check_nothing_twice(settings)
        unheard = unexplained(lost, calls)
        check_rate(calls, late=unheard.total())
        check_no_call_wasted(calls, unheard=unheard)
        for table in tables:
            have = {key_of(table, row) for row in landed(settings, table)}
            missing = {key_of(table, row) for row in expected[table.name]} - have
            letters = dead_letters(settings, table)
            assert len(missing) <= len(letters)
            assert not missing or {"retype", "omit"} & applied.keys()
        server.mischief.set(Faults())
        mended = time.monotonic()
        for table in tables:
            replay(settings, table)
            assert dead_letters(settings, table) == []
        assert not [r.error for r in run(settings, tables) if r.error]
        check_nothing_twice(settings)
        if not applied.keys() & {"retype", "omit"}:
            assert not [c for c in calls if c.at > mended and c.route == "bureau"], "everything was known"
    assert applied, "no call failed: the test proved nothing"
    assert applied.keys() == {which} or which == "all together"
    for table in tables:
        assert same(expected[table.name], landed(settings, table), "omit" in applied, "extend" in applied)


def test_an_answer_that_comes_too_late_is_no_wasted_call(postgres, people, tmp_path, truths, lost):
    """GIVEN a machine so slow that an answer is given up WHEN it is asked for again THEN nothing is wasted."""
    table = with_options(BUREAU, http=MANNERS | {"read": 0.3})
    with third_parties() as (server, calls):
        answer = server.answer_bureau
        slow = iter([True])
        server.answer_bureau = lambda *call: (next(slow, False) and time.sleep(1), answer(*call))[1]
        settings = settings_of(postgres.info.dsn, tmp_path / "lake", server.url)
        assert not [r.error for r in run(settings, [table]) if r.error]
        for _ in range(1000):  # the server comes to the end of it some time
            if max(Counter(call.request for call in calls).values()) > 1:
                break
            time.sleep(0.01)
    unheard = unexplained(lost, calls)
    assert unheard.total() >= 1
    check_no_call_wasted(calls, unheard=unheard)
    with pytest.raises(AssertionError, match="2 calls were wasted"):
        check_no_call_wasted(calls)
    assert landed(settings, table) == truth(truths, postgres, tmp_path)[table.name]


def same(expected: list[dict], got: list[dict], may_lack: bool, may_have_more: bool) -> bool:
    """Whether two lists of rows agree, but for what a fault has taken from an optional field or added."""
    return len(expected) == len(got) and all(
        (got_row[name] == value)
        or (may_lack and got_row[name] is None)
        or (may_have_more and name == "_extra" and set(from_json(got_row[name])) == {"source_system"})
        for row, got_row in zip(expected, got, strict=True)
        for name, value in row.items()
    )


# ---------- runs that die


def _land(begun: Any, dsn: str, lake: str, url: str, day: date, tables: list[TableConfig]) -> None:
    """What the killed process does; its exit code is 0 only when everything has landed."""
    fx.PAGE_DAYS = 7
    begun.set()
    results = run(settings_of(dsn, Path(lake), url, day), tables)
    os._exit(1 if any(r.error for r in results) else 0)


def test_killed_at_random_moments_nothing_is_lost_doubled_or_paid_for_twice(
    postgres, people, tmp_path, truths, monkeypatch
):
    """GIVEN runs of many days WHEN they are killed with -9 at any moment THEN the lake is as without."""
    seed = int(os.environ.get("API_SEED") or random.randrange(10**6))
    print(f"{KILLS} kills: seed {seed}")
    chance = Random(seed)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests/python")]))
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["ingestion.run", "ingestion.bureau", "ingestion.fx", "test_api_faults"])
    slow = MANNERS | {"requests_per_second": 60, "burst": 1}
    tables = [with_options(BUREAU, http=slow, batch_size=2), with_options(FX, http=slow)]
    kills = midway = lakes = 0
    while kills < KILLS:
        lakes += 1
        with third_parties(date(2025, 8, 1)) as (server, calls):
            settings = settings_of(postgres.info.dsn, tmp_path / f"lake{lakes}", server.url)
            deaths: list[int] = []
            killed, day = False, date(2025, 8, 1)
            while day <= DAY:
                begun = processes.Event()
                arguments = (begun, postgres.info.dsn, settings.lake, server.url, day, tables)
                child = processes.Process(target=_land, args=arguments)
                child.start()
                begun.wait()
                if killed:
                    deaths.append(len(calls))  # the server has answered all that the dead one had sent
                if kills < KILLS:
                    # By calls made, as the machine may be slow or fast; else long before or after them.
                    enough = len(calls) + chance.choice([0, 1, 2, 4, 6, 8, 10, 12, 14, 20, 99])
                    until = time.monotonic() + chance.uniform(0.2, 3)
                    while len(calls) < enough and time.monotonic() < until and child.exitcode is None:
                        time.sleep(0.002)
                    child.join(chance.uniform(0, 0.1))
                else:
                    child.join()
                killed = child.exitcode is None
                if killed:
                    os.kill(child.pid, signal.SIGKILL)
                    kills += 1
                    child.join()
                    midway += any(Path(settings.lake).glob("spool/*/*/*"))
                    check_nothing_twice(settings)
                else:
                    assert child.exitcode == 0
                    day = DAY if day < DAY < day + timedelta(days=40) else day + timedelta(days=40)
                    server.world_date = min(day, DAY)
        assert not list(Path(settings.lake).glob("spool/*/*/*"))
        for table in tables:
            assert landed(settings, table) == truth(truths, postgres, tmp_path)[table.name]
        check_no_call_wasted(calls, deaths)
    print(f"{midway} of {kills} left answers behind, {lakes} lakes")
    assert midway, "no run was killed between two answers: the test proved nothing"


def test_a_run_that_fails_on_s3_is_gone_on_with_from_there(postgres, people, truths, tmp_path, bucket):
    """GIVEN a lake on S3 WHEN the key expires amid the questions THEN the next run pays for none of them again."""
    tables = [with_options(BUREAU, http=MANNERS | {"concurrency": 1}, batch_size=2)]
    with third_parties() as (server, calls):
        settings = settings_of(postgres.info.dsn, Path("unused"), server.url)
        settings.lake = f"{bucket}/lake"
        storage = Lake.open(settings.lake, settings.world).storage
        server.watch = lambda call: (calls.append(call), len(calls) == 8 and server.mischief.set(expired))
        expired = Faults(1, {"expire": 1})
        assert [r.error for r in run(settings, tables) if r.error]
        assert len(storage.names("spool")) == 8
        server.mischief.set(Faults())
        assert not [r.error for r in run(settings, tables) if r.error]
        assert storage.names("spool") == []
    check_no_call_wasted(calls)
    assert landed(settings, BUREAU) == truth(truths, postgres, tmp_path)["bureau.scores"]


# ---------- what nobody may read


def test_key_cpf_and_email_are_nowhere_in_clear_but_in_what_is_restricted(
    postgres, consent, tmp_path, caplog, capfd
):
    """GIVEN services that repeat what they were sent WHEN runs fail and succeed THEN no word of it gets out."""
    caplog.set_level(logging.DEBUG)
    email = "ana.souza@example.com"
    consent(ANNA)
    consent(BRUNO)
    echo = {"echo": {"key": KEY, "cpf": ANNA, "email": email}}
    wrong = [record(score=f"{KEY} {ANNA}", **echo), record(cpf=f"{ANNA} {email}", **echo), f"{KEY} {BRUNO}"]
    answers = [
        (500, echo, {"Set-Cookie": f"{KEY}; {ANNA}"}),
        (200, json.dumps(echo).encode()[:-9], {}),
        (401, echo, {"WWW-Authenticate": KEY}),
        (422, echo, {}),
        ok({"data": [record(queried_at="2025-12-31T12:00:00Z", **echo), *wrong], "next_page_token": None}),
    ]
    with playing(*answers) as server:
        settings = settings_of(postgres.info.dsn, tmp_path / "lake", server.url)
        settings.bureau_url = settings.bureau_url.replace("//", f"//user:{KEY}@")
        errors = []
        for _ in range(3):
            errors += [r.error for r in run(settings, [with_options(SCORES, http=MANNERS)]) if r.error]
            logging.getLogger("test").debug("%s", errors)
        replay(settings, with_options(SCORES, http=MANNERS))
        assert len(server.requests) == 6
    assert len(errors) == 2
    assert len(dead_letters(settings, SCORES)) == 3
    assert len(landed(settings, SCORES)) == 1
    printed = capfd.readouterr()
    told = [caplog.text, printed.out, printed.err, *errors]
    restricted = []
    for path in filter(Path.is_file, Path(settings.lake).rglob("*")):
        told.append(str(path))
        if path.suffix != ".parquet":
            told.append(path.read_text())
            continue
        told.append(json.dumps({k.decode(): v.decode() for k, v in pq.read_metadata(path).metadata.items()}))
        for name, values in pq.read_table(path, partitioning=None).to_pydict().items():
            open_column = "dead_letter" in path.parts and name != "payload"
            (told if open_column else restricted).append(repr(values))
    assert any(ANNA in text and email in text for text in restricted), "the payload is whole"
    for secret in (KEY, ANNA, BRUNO, email):
        assert not [text for text in told if secret in text]
    assert not [text for text in restricted if KEY in text], "the key is nowhere at all"
