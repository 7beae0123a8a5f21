"""What operating the ingestion rests on: exit codes, JSON lines, status, replay, being ended at any moment."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from conftest import ROOT, SETTINGS
from landing import query, settings_of

from ingestion.__main__ import main
from ingestion.errors import ConfigurationError
from ingestion.lake import Lake
from ingestion.settings import Settings

SOURCES = """
app:
  kind: postgres
  schema: app
  tables:
    things: {key: [id], cursor: updated_at}
    others: {key: [id], cursor: updated_at, may_be_empty: true}
"""


@pytest.fixture
def database(app_schema: psycopg.Connection) -> psycopg.Connection:
    for name in ("things", "others"):
        app_schema.execute(
            f"create table app.{name} (id int primary key, name text, amount numeric(14, 2), updated_at timestamptz)"
        )
    app_schema.execute(
        "insert into app.things select i, 'Maria', i, '2025-01-01' from generate_series(1, 100) as i"
    )
    return app_schema


@pytest.fixture
def settings(
    database: psycopg.Connection, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """The settings that `main` finds in the environment, in a folder of its own."""
    (tmp_path / "sources.yml").write_text(SOURCES)
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    environment = {
        "LAKE": "lake",
        "SOURCE_DSN": server,
        "EXTRACT_DATE": "2025-12-31",
        "SOURCES_FILE": "sources.yml",
        "LOG_FORMAT": "json",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return settings_of(server, tmp_path)


@pytest.fixture
def command(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[dict]]]:
    """Runs a command of `python -m ingestion` here; its exit code and the JSON lines of its stderr."""

    def command(*arguments: str) -> tuple[int, list[dict]]:
        capsys.readouterr()
        code = main(list(arguments))
        return code, [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    return command


def of(events: list[dict], name: str) -> list[dict]:
    return [e for e in events if e["event"] == name]


def status_of(capsys: pytest.CaptureFixture[str], table: str = "app.things") -> tuple[dict, dict]:
    """The whole status, and that of one table."""
    capsys.readouterr()
    assert main(["status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    return status, next(t for t in status["tables"] if t["table"] == table)


def change_sources(old: str, new: str) -> None:
    text = Path("sources.yml").read_text()
    assert old in text
    Path("sources.yml").write_text(text.replace(old, new))


# ---------------------------------------------------------------- events and exit codes


def test_every_event_is_one_json_line_without_a_value(command, database: psycopg.Connection) -> None:
    code, events = command("run")
    assert code == 0
    assert [e["event"] for e in events] == ["run_started", "table_landed", "table_landed", "run_finished"]
    for event in events:
        assert datetime.fromisoformat(event["ts"]).tzinfo == UTC
        assert event["level"] == "info"
    landed = events[1]
    assert {k: landed[k] for k in ("table", "rows", "deleted", "extracted", "skipped", "rejected")} == {
        "table": "app.things", "rows": 100, "deleted": 0, "extracted": 100, "skipped": 0, "rejected": 0,
    }  # fmt: skip
    assert landed["bytes"] > 0
    assert events[-1]["exit_code"] == 0
    # drift, a deletion and a failure
    database.execute("alter table app.things add branch text; delete from app.things where id = 1")
    database.execute("drop table app.others")
    code, events = command("run", "--reconcile")
    assert code == 1
    assert [e["change"] for e in of(events, "drift")] == ["added branch (string)"]
    assert [(e["rows"], e["deleted"]) for e in of(events, "table_landed")] == [(1, 1)]
    assert "has no table app.others" in of(events, "table_failed")[0]["error"]
    assert (events[-1]["failed"], events[-1]["exit_code"], events[-1]["level"]) == (1, 1, "error")
    assert "Maria" not in json.dumps(events)


def test_two_runs_at_once_one_works_the_other_leaves(command, settings: Settings) -> None:
    with Lake.open(settings.lake, "synthetic").lock():
        code, events = command("run")
    assert code == 75
    assert [e["event"] for e in events] == ["run_failed"]
    assert "another run" in events[0]["error"]
    assert command("run")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (["run", "--table", "app.nothing"], {}, "app.nothing"),
        (["run"], {"SOURCE_DSN": ""}, "SOURCE_DSN is not set"),
        (["run"], {"WORLD": "berka", "LAKE": "lake"}, "belongs to the world"),
        (["run"], {"LOG_FORMAT": "xml"}, "LOG_FORMAT"),
        (["run", "--date", "2024-12-31"], {}, "already holds 2025-12-31"),
        (["backfill", "--from", "2025-02-01", "--to", "2025-01-01"], {}, "is later than"),
    ],
)
def test_what_is_configured_wrong_ends_with_2(
    command, capsys, monkeypatch, arguments: list[str], changes: dict[str, str], message: str
) -> None:
    assert command("run")[0] == 0
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("things: {key: [id], cursor: updated_at, schema_policy: ignore}", "schema_policy"),
        ("things: {key: [id], cursor: updated_at, dead_letter_alert: 5}", "dead_letter_alert"),
        ("things: {key: [id], cursor: updated_at, expect_rows: hourly}", "expect_rows"),
        ("../things: {key: [id], cursor: updated_at}", "names in the lake"),
        ("things: {cursor: updated_at}", "key"),
        # texts in YAML 1.2
        ("things: {key: [id], cursor: updated_at, may_be_empty: no}", "may_be_empty"),
        ("things: {key: [id], cursor: updated_at, pii: yes}", "pii"),
        ("things: {key: id, cursor: updated_at}", "key must be a list"),
        ("things: {key: [], cursor: updated_at}", "key must be a list"),
        ("things: {key: [1], cursor: updated_at}", "key must be a list"),
        ("things: {key: [id], cursor: [updated_at]}", "cursor must be"),
        ("things: {key: [id], cursor: updated_at, overlap_seconds: 1h}", "overlap_seconds"),
        ("things: {key: [id], cursor: updated_at, overlap_seconds: 1e12}", "overlap_seconds"),
        ("things: {key: [id], cursor: updated_at, relation: 5}", "relation"),
        ("things: {key: [id], cursor: updated_at, schema: null}", "schema"),
        ("things: {key: [id], cursor: updated_at, rename: {name: 5}}", "rename"),
        ("things: {key: [id], cursor: updated_at, may_be_emtpy: true}", "no option is called may_be_emtpy"),
    ],
)
def test_an_entry_that_is_wrong_ends_with_2_and_is_named(command, capsys, entry: str, message: str) -> None:
    change_sources("things: {key: [id], cursor: updated_at}", entry)
    assert main(["run"]) == ConfigurationError.exit_code
    assert message in capsys.readouterr().err


def test_usage_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["walk"], ["run", "--date", "soon"], ["backfill", "--from", "2025-01-01"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2


def test_dead_letters_above_the_threshold_end_with_3(command, database: psycopg.Connection) -> None:
    database.execute("update app.things set amount = 'NaN' where id <= 2")
    code, events = command("run")
    assert code == 3
    (alert,) = of(events, "dead_letter_alert")
    assert (alert["table"], alert["rejected"], alert["extracted"], alert["threshold"]) == (
        "app.things",
        2,
        100,
        0.01,
    )
    assert of(events, "table_landed")[0]["rows"] == 98
    # said once: they are known now
    assert command("run")[0] == 0
    # a table may have a threshold of its own, and what failed weighs more
    change_sources("cursor: updated_at}", "cursor: updated_at, dead_letter_alert: 0.5}")
    database.execute("update app.things set amount = 'NaN' where id in (10, 11)")
    assert command("run")[0] == 0
    change_sources("dead_letter_alert: 0.5}", "dead_letter_alert: 0}")
    database.execute("update app.things set amount = 'NaN', updated_at = now() where id = 3")
    assert command("run")[0] == 3
    database.execute(
        "update app.things set amount = 'NaN', updated_at = now() where id = 4; drop table app.others"
    )
    assert command("run")[0] == 1


def test_a_table_that_expects_rows_each_day_fails_without(command, database: psycopg.Connection) -> None:
    change_sources("cursor: updated_at}", "cursor: updated_at, expect_rows: daily}")
    assert command("run")[0] == 0
    assert command("run")[0] == 0  # this day has had its rows
    code, events = command("run", "--date", "2026-01-01")
    assert code == 1
    assert "no new row for 2026-01-01" in of(events, "table_failed")[0]["error"]
    database.execute("insert into app.things values (101, 'late', 1, now())")
    assert command("run", "--date", "2026-01-01")[0] == 0


# ---------------------------------------------------------------- status


def test_status_says_what_landed_how_late_it_is_and_what_failed(
    command, capsys, settings: Settings, database: psycopg.Connection
) -> None:
    never, table = status_of(capsys)
    assert (never["last_run"], table["batches"], table["lag_seconds"]) == (None, 0, None)
    command("run")
    database.execute("insert into app.things values (101, 'x', 'NaN', '2025-01-03 06:00+00')")
    database.execute("alter table app.things add branch text")
    status, table = status_of(capsys)
    assert status["last_run"] == "finished"
    assert (table["rows"], table["batches"], table["lag_seconds"]) == (100, 1, 54 * 3600)
    assert table["pending_drift"] == ["added branch (string)"]
    database.execute("insert into app.things values (102, 'y', 1, '2025-01-03 06:00+00')")
    database.execute("insert into app.things values (103, 'z', 1, 'infinity'), (104, 'z', 1, '12025-01-01')")
    database.execute("alter table app.others rename to elsewhere")
    assert command("run", "--date", "2026-01-01")[0] == 1
    status, table = status_of(capsys)
    assert (table["rows"], table["lag_seconds"], table["open_dead_letters"], table["failure"]) == (
        101,
        0,
        3,
        None,
    )
    assert (table["drift"], table["pending_drift"]) == ({"00000002": ["added branch (string)"]}, [])
    assert [b["rows"] for b in table["last_batches"]] == [1, 100]
    assert (
        "has no table app.others"
        in next(t for t in status["tables"] if t["table"] == "app.others")["failure"]
    )
    # a run of one table says nothing of the others' failures
    command("run", "--table", "app.things", "--date", "2026-01-01")
    assert status_of(capsys, "app.others")[1]["failure"]
    # for a person
    assert main(["status"]) == 0
    text = capsys.readouterr().out
    for words in ("app.things", "2026-01-01", "00000002", "added branch (string)", "has no table app.others"):
        assert words in text


def test_status_works_while_the_source_is_away(command, capsys, monkeypatch) -> None:
    command("run")
    monkeypatch.setenv("SOURCE_DSN", "postgresql://x@127.0.0.1:1/app")
    status, table = status_of(capsys)
    assert "cannot be reached" in status["source_problem"]
    assert (table["rows"], table["lag_seconds"]) == (100, None)
    assert main(["run"]) == 1
    status, _ = status_of(capsys)
    assert "cannot be reached" in status["problem"]


# ---------------------------------------------------------------- replay


def test_replayed_dead_letters_land_stay_or_go(
    command, capsys, settings: Settings, database: psycopg.Connection
) -> None:
    # GIVEN four rows that could not be landed
    database.execute("update app.things set amount = 'NaN' where id <= 4")
    assert command("run")[0] == 3
    # WHEN one is mended without its cursor, one with it, one is deleted and one stays as it is
    database.execute("update app.things set amount = 10 where id = 1")
    database.execute("update app.things set amount = 20, updated_at = '2025-06-01' where id = 2")
    database.execute("delete from app.things where id = 3")
    database.execute("insert into app.things values (200, 'not landed yet', 1, '2025-03-01')")
    code, events = command("replay")
    # THEN two land, one waits on with one attempt more, and the deleted one is closed
    assert code == 0
    assert [(e["table"], e["rows"], e["rejected"]) for e in of(events, "table_landed")] == [
        ("app.things", 2, 1),
        ("app.others", 0, 0),
    ]
    lake = Lake.open(settings.lake, "synthetic")
    (letter,) = lake.dead_letters("app", "things")
    assert (json.loads(letter.origin), letter.attempts) == ({"id": "4"}, 2)
    assert query(settings, "select id, amount from raw where _batch_id = '00000002' order by id") == [
        (1, 10),
        (2, 20),
    ]
    # again: nothing lands twice, the increment goes on, and nothing is left once it is mended
    command("replay")
    assert lake.dead_letters("app", "things")[0].attempts == 3
    assert of(command("run", "--date", "2026-01-01")[1], "table_landed")[0]["rows"] == 1
    database.execute("update app.things set amount = 40 where id = 4")
    command("replay", "--table", "app.things", "--date", "2026-01-01")
    assert lake.dead_letters("app", "things") == []
    assert query(settings, "select count(*), count(distinct id) from raw") == [(100, 100)]
    assert of(command("run", "--reconcile", "--date", "2026-01-01")[1], "table_landed")[0]["rows"] == 0


def test_a_letter_whose_row_landed_meanwhile_is_closed(command, settings: Settings, database) -> None:
    database.execute("update app.things set amount = 'NaN' where id = 1")
    command("run")
    database.execute("update app.things set amount = 10, updated_at = now() where id = 1")
    command("run")
    assert of(command("replay")[1], "table_landed")[0]["rows"] == 0
    assert Lake.open(settings.lake, "synthetic").dead_letters("app", "things") == []
    assert query(settings, "select count(*) from raw where id = 1") == [(1,)]


# ---------------------------------------------------------------- the process


@pytest.fixture
def big(database: psycopg.Connection) -> None:
    """So many rows that a run can be ended in the middle."""
    database.execute(
        "insert into app.things select i, md5(i::text) || md5((-i)::text), i, '2025-01-01' from generate_series(101,"
        " 300000) as i"
    )


def start(*arguments: str, **how) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "ingestion", *arguments], env={**os.environ, "PYTHONPATH": str(ROOT)}, **how
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_ended_discards_its_batch(
    command, capsys, settings: Settings, big: None, number: signal.Signals, code: int
) -> None:
    process = start("run", stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    partial = Path(settings.lake, ".partial")
    deadline = time.monotonic() + 30
    while not any(p.stat().st_size > 100_000 for p in (partial.iterdir() if partial.exists() else ())):
        assert process.poll() is None, "the run ended before it was interrupted: the test proved nothing"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    last = json.loads(errors.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("run_failed", code)
    assert "Traceback" not in errors
    assert list(partial.iterdir()) == []
    assert list(Path(settings.lake).glob("raw/app/things/*/*.parquet")) == []
    assert status_of(capsys)[0]["last_run"] == "interrupted"


def test_a_run_that_waits_for_postgresql_can_be_ended(settings: Settings, database) -> None:
    # GIVEN a view that gives its first rows after minutes
    database.execute("create view app.slow as select id, updated_at, pg_sleep(6)::text as s from app.things")
    change_sources("things: {", "slow: {")
    process = start("run", "--table", "app.slow", stderr=subprocess.PIPE, text=True)

    def wait_for(sessions: int) -> None:
        at_work = "select from pg_stat_activity where wait_event = 'PgSleep' and state = 'active'"
        deadline = time.monotonic() + 60
        while database.execute(at_work).rowcount != sessions:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    wait_for(1)
    # WHEN the run is ended, THEN it is long before these, and PostgreSQL works for it no longer
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in errors
    wait_for(0)


def test_on_a_terminal_there_are_bars_and_a_line_a_table(settings: Settings) -> None:
    ours, theirs = pty.openpty()
    os.environ.pop("LOG_FORMAT")
    process = start("run", stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the terminal has closed
            break
    os.close(ours)
    assert process.wait() == 0
    text = shown.decode()
    assert re.search(r"app\.things .*[0-9,]+ rows +[0-9,]+/s", text)
    assert re.search(r"app\.things +100 rows", text)
    assert "100 rows of 2 tables landed in lake" in text


def test_text_is_for_pipes_that_a_person_reads(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_FORMAT", "text")
    assert main(["run"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines()[-1] == "2025-12-31: 100 rows of 2 tables landed in lake"
