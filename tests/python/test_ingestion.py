"""PostgreSQL and the event log to Parquet: exact, complete, repeatable, and readable errors."""

import errno
import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, Pipeline
from pydantic import SecretStr

from ingestion.config import TableConfig, load_sources, select_tables
from ingestion.errors import IngestionError
from ingestion.lake import MANIFEST_KEY, BatchWriter, Lake
from ingestion.run import Landed, run
from ingestion.settings import Settings
from sandbox.postgres import Postgres

TABLE = """
    create table app.things (
        id bigint primary key,
        small smallint,
        name text,
        short varchar(10),
        amount numeric(14, 2),
        rate numeric(9, 6),
        flag boolean,
        day date,
        moment timestamptz,
        ref uuid,
        doc jsonb,
        labels text[],
        updated_at timestamptz not null
    )
"""
THINGS = TableConfig(
    "app", "things", "postgres", ("id",), "updated_at", options={"schema": "app", "overlap_seconds": 3600}
)
(EVENTS,) = select_tables(load_sources(), ["app_log.events"])


@pytest.fixture(scope="module")
def server(new_folder: Callable[[str], Path]) -> Iterator[str]:
    """The DSN of a PostgreSQL of this module's own."""
    folder = new_folder("postgres")
    with (folder / "log").open("wb") as log:
        postgres = Postgres(folder / "pgdata", log)
        yield postgres.dsn
        postgres.stop()


@pytest.fixture
def database(server: str) -> Iterator[psycopg.Connection]:
    """A connection to a fresh schema `app` with the table `things`."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("drop schema if exists app cascade")
        connection.execute("create schema app")
        connection.execute(TABLE)
        yield connection


@pytest.fixture
def settings(server: str, tmp_path: Path) -> Settings:
    (tmp_path / "events").mkdir()
    return Settings(
        lake=str(tmp_path / "lake"),
        source_dsn=server,
        event_log=str(tmp_path / "events"),
        extract_date=date(2025, 12, 31),
        _env_file=None,
    )


def land(settings: Settings, *tables: TableConfig, day: date | None = None) -> list[Landed]:
    if day:
        settings.extract_date = day
    return run(settings, list(tables or [THINGS]))


def landed(settings: Settings, columns: str = "*", source: str = "app", table: str = "things") -> list[tuple]:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        files = f"{settings.lake}/raw/{source}/{table}/*/*.parquet"
        return connection.execute(f"select {columns} from read_parquet('{files}') order by all").fetchall()


def insert(database: psycopg.Connection, first: int, last: int, at: str = "2025-01-01 12:00:00+00") -> None:
    database.execute(
        "insert into app.things (id, name, updated_at) select i, 'n' || i, %s::timestamptz"
        " from generate_series(%s::int, %s::int) as i",
        (at, first, last),
    )


def test_every_value_arrives_exactly(database: psycopg.Connection, settings: Settings) -> None:
    # GIVEN rows with what CSV, decimals and time zones get wrong elsewhere
    nasty = 'a,"b"\n\r\n\\N\tç ☕ '
    database.execute(
        """
        insert into app.things values
        (1, -32768, %(nasty)s, '', 999999999999.99, 0.000001, true, '1899-12-31', '1969-12-31 23:59:59.999999+00',
         '6f1b2a52-0f5e-4f0e-9d3c-0a8d5b7a2f11', '{"a": [1, null], "b": "ç"}', array['x,y', null, '', '"q"', '{}'],
         '2025-01-01 00:00:00.123457-03'),
        (2, null, '', null, -0.01, null, false, null, null, null, null, '{}', '2025-01-01 00:00:00+00'),
        (9223372036854775807, 1, null, 'null', 0, 999.999999, null, '9999-12-31', '2100-01-01 00:00:00.000001+00',
         null, 'null', null, '2025-01-01 00:00:00+00')
        """,
        {"nasty": nasty},
    )
    # WHEN they land
    (result,) = land(settings)
    # THEN DuckDB reads from Parquet what PostgreSQL itself holds, null and empty string apart
    names = [f.name for f in pq.read_schema(next(Path(settings.lake).glob("raw/app/things/*/*.parquet")))]
    source = database.execute(
        "select id, small, name, short, amount, rate, flag, day, moment, ref::text, doc::text, labels, updated_at"
        " from app.things order by id"
    ).fetchall()
    assert result.error is None
    assert landed(settings, ", ".join(names[:13])) == source
    assert names[13:] == ["_batch_id", "_extracted_at", "_source_deleted"]
    with duckdb.connect() as connection:
        described = connection.execute(
            f"describe select * from read_parquet('{settings.lake}/raw/app/things/*/*.parquet')"
        ).fetchall()
    kinds = {name: kind for name, kind, *_ in described}
    assert kinds["amount"] == "DECIMAL(14,2)"
    assert kinds["rate"] == "DECIMAL(9,6)"
    assert kinds["moment"] == "TIMESTAMP WITH TIME ZONE"
    assert kinds["labels"] == "VARCHAR[]"
    assert kinds["small"] == "SMALLINT"


def test_second_run_lands_only_what_changed(database: psycopg.Connection, settings: Settings) -> None:
    insert(database, 1, 1000)
    assert land(settings)[0].rows == 1000
    # the same day again: nothing, not even a file
    assert land(settings)[0].rows == 0
    assert len(list(Path(settings.lake).glob("raw/app/things/*/*.parquet"))) == 1
    # the next day: one changed, two new, one of them with the watermark's very timestamp
    database.execute("update app.things set name = 'changed', updated_at = '2025-01-02' where id = 5")
    insert(database, 1001, 1001, "2025-01-01 12:00:00+00")
    insert(database, 1002, 1002, "2025-01-02 08:00:00+00")
    assert land(settings, day=date(2026, 1, 1))[0].rows == 3
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"select id from read_parquet('{settings.lake}/raw/app/things/*/*.parquet') where _batch_id = '00000002'"
            " order by 1"
        ).fetchall()
    assert rows == [(5,), (1001,), (1002,)]


def test_a_row_committed_after_the_watermark_passed_is_found(
    database: psycopg.Connection, server: str, settings: Settings
) -> None:
    # GIVEN a transaction that stamps its row early and commits late
    insert(database, 1, 10, "2025-01-01 12:00:00+00")
    with psycopg.connect(server) as late:
        late.execute(
            "insert into app.things (id, name, updated_at) values (99, 'late', '2025-01-01 11:30:00+00')"
        )
        land(settings)
        late.commit()
    # WHEN the next run starts before its watermark, THEN it lands, and only it
    assert land(settings, day=date(2026, 1, 1))[0].rows == 1
    assert (99,) in landed(settings, "id")
    assert len(landed(settings, "id")) == 11


def test_all_tables_see_one_snapshot(database: psycopg.Connection, server: str, settings: Settings) -> None:
    # GIVEN two tables that a writer changes together, after the run has begun to read the first
    database.execute("create table app.others (id bigint primary key, updated_at timestamptz not null)")
    insert(database, 1, 1)
    database.execute("insert into app.others values (1, now())")
    others = TableConfig("app", "others", "postgres", ("id",), "updated_at", options={"schema": "app"})

    def write_in_between(result: Landed) -> None:
        if result.table is THINGS:
            with psycopg.connect(server) as writer:
                writer.execute("insert into app.others values (2, now())")

    run(settings, [THINGS, others], finished=write_in_between)
    # THEN the second table is read as of the first
    assert landed(settings, "id", table="others") == [(1,)]


def test_manifest_says_what_the_file_holds(database: psycopg.Connection, settings: Settings) -> None:
    insert(database, 1, 3)
    land(settings)
    path = next(Path(settings.lake).glob("raw/app/things/extract_date=2025-12-31/*.parquet"))
    manifest = json.loads(pq.read_metadata(path).metadata[MANIFEST_KEY])
    assert manifest["rows"] == pq.read_metadata(path).num_rows == 3
    assert manifest["batch_id"] == path.stem == "00000001"
    assert datetime.fromisoformat(manifest["watermark_to"]) == datetime(2025, 1, 1, 12, tzinfo=UTC)
    data = path.read_bytes()[: manifest["data_bytes"]]
    assert manifest["content_checksum"] == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_an_empty_table_that_should_have_rows_fails(database: psycopg.Connection, settings: Settings) -> None:
    (result,) = land(settings)
    assert "app.things has no rows" in result.error
    assert not list(Path(settings.lake).glob("raw/**/*.parquet"))
    # one that may be empty lands a typed file without rows
    allowed = TableConfig(**{**vars(THINGS), "may_be_empty": True})
    assert land(settings, allowed)[0].error is None
    assert landed(settings) == []


def test_one_broken_table_does_not_stop_the_others(database: psycopg.Connection, settings: Settings) -> None:
    database.execute("create table app.odd (id bigint primary key, span interval, updated_at timestamptz)")
    odd = TableConfig("app", "odd", "postgres", ("id",), "updated_at", options={"schema": "app"})
    absent = TableConfig("app", "absent", "postgres", ("id",), "updated_at", options={"schema": "app"})
    insert(database, 1, 1)
    results = land(settings, odd, absent, THINGS)
    assert "column span is interval" in results[0].error
    assert "no table app.absent" in results[1].error
    assert results[2].rows == 1


def test_a_table_that_breaks_in_the_middle_does_not_stop_the_others(
    database: psycopg.Connection, server: str, settings: Settings
) -> None:
    # GIVEN a value far into the stream of one, infinity in another, and no right to read a third
    database.execute(
        "insert into app.things (id, name, amount, updated_at) select i, repeat('x', 60),"
        " case when i = 1 then 'NaN' else '1' end::numeric, now() from generate_series(1, 400000) as i"
    )
    database.execute("create table app.endless (id bigint primary key, updated_at timestamptz)")
    database.execute("insert into app.endless values (1, 'infinity')")
    database.execute("create table app.secret (id bigint primary key, updated_at timestamptz)")
    database.execute("create table app.fine (id bigint primary key, updated_at timestamptz)")
    database.execute("insert into app.fine values (1, now())")
    database.execute("drop role if exists reader")
    database.execute("create role reader login")
    database.execute("grant usage on schema app to reader")
    database.execute("grant select on app.things, app.endless, app.fine to reader")
    settings.source_dsn = SecretStr(server.replace("postgres@", "reader@"))
    tables = [
        TableConfig("app", name, "postgres", ("id",), "updated_at", options={"schema": "app"})
        for name in ("things", "endless", "secret", "fine")
    ]
    # WHEN they land in one run
    results = land(settings, *tables)
    # THEN each says what is wrong, and the last one lands
    assert [
        part
        for part, r in zip(
            ("column amount", "cannot convert infinity", "permission denied"), results, strict=False
        )
        if part in r.error
    ] == ["column amount", "cannot convert infinity", "permission denied"]
    assert (results[3].error, results[3].rows) == (None, 1)


def test_a_disk_that_fails_in_the_middle_does_not_stop_the_others(
    database: psycopg.Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The full disk is simulated: a real one cannot be had without a file system of one's own."""
    database.execute("create table app.fine (id bigint primary key, updated_at timestamptz)")
    database.execute("insert into app.fine values (1, now())")
    database.execute(
        "insert into app.things (id, name, updated_at) select i, repeat('x', 90), now()"
        " from generate_series(1, 400000) as i"
    )
    fine = TableConfig("app", "fine", "postgres", ("id",), "updated_at", options={"schema": "app"})

    def full(writer: BatchWriter, rows: pa.Table) -> None:
        if writer.table is THINGS:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(writer, rows)

    write = BatchWriter.write
    monkeypatch.setattr(BatchWriter, "write", full)
    results = land(settings, THINGS, fine)
    assert "No space left on device" in results[0].error
    assert (results[1].error, results[1].rows) == (None, 1)


def test_columns_that_come_and_go_leave_the_next_run_working(
    database: psycopg.Connection, settings: Settings
) -> None:
    insert(database, 1, 3)
    land(settings)
    database.execute("alter table app.things add column branch text, add column fee numeric(14, 2)")
    database.execute("alter table app.things drop column rate")
    assert land(settings)[0].rows == 0  # the new columns are null everywhere: nothing has changed
    database.execute("update app.things set branch = 'b', fee = 1.50, updated_at = '2025-01-02' where id = 2")
    assert land(settings, day=date(2026, 1, 1))[0].rows == 1
    with duckdb.connect() as connection:
        files = f"{settings.lake}/raw/app/things/*/*.parquet"
        rows = connection.execute(
            f"select id, branch, fee from read_parquet('{files}', union_by_name = true) order by all"
        ).fetchall()
    assert rows == [(1, None, None), (2, "b", Decimal("1.50")), (2, None, None), (3, None, None)]


def test_a_value_that_does_not_fit_is_named_by_column_only(
    database: psycopg.Connection, settings: Settings
) -> None:
    database.execute(
        "insert into app.things (id, name, amount, updated_at) values (1, 'Maria da Silva', 'NaN', now())"
    )
    (result,) = land(settings)
    assert "column amount" in result.error
    assert "Maria" not in result.error
    assert not list(Path(settings.lake).glob("raw/**/*.parquet"))
    assert not list((Path(settings.lake) / ".partial").iterdir())


def test_two_runs_at_once(database: psycopg.Connection, settings: Settings) -> None:
    insert(database, 1, 1)
    with Lake.open(settings.lake, "synthetic").lock(), pytest.raises(IngestionError, match="another run"):
        land(settings)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda p: p.write_text("a file"), "cannot be used"),
        (lambda p: (p.mkdir(), (p / "thesis.doc").write_text("mine")), "not a lake"),
        (
            lambda p: (p.mkdir(), (p / "lakehouse.json").write_text('{"world": "berka"}')),
            "belongs to the world berka",
        ),
        (lambda p: (p.mkdir(), (p / "lakehouse.json").write_text("{")), "cannot be used"),
        (lambda p: (p.mkdir(), (p / "lakehouse.json").write_text("[]")), "cannot be used"),
    ],
)
def test_a_wrong_lake_is_refused(settings: Settings, tmp_path: Path, prepare, message: str) -> None:
    prepare(tmp_path / "lake")
    with pytest.raises(IngestionError, match=message):
        land(settings)


def test_a_lake_whose_making_was_killed_can_be_used(
    database: psycopg.Connection, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(database, 1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            land(settings)
    assert any(p.is_file() for p in (tmp_path / "lake").rglob("*"))
    assert land(settings)[0].rows == 1


def test_a_lake_filled_from_another_source_is_refused(
    database: psycopg.Connection, settings: Settings
) -> None:
    insert(database, 1, 1)
    settings.source_id = "seed 1"
    land(settings)
    settings.source_id = "seed 2"
    with pytest.raises(IngestionError, match="filled from seed 1, not seed 2"):
        land(settings)


def test_a_day_before_the_lakes_last_is_refused(database: psycopg.Connection, settings: Settings) -> None:
    insert(database, 1, 1)
    land(settings)
    with pytest.raises(IngestionError, match="already holds 2025-12-31"):
        land(settings, day=date(2025, 12, 30))


def test_killed_at_random_moments_nothing_is_lost_or_doubled(
    database: psycopg.Connection, settings: Settings, tmp_path: Path
) -> None:
    """The short form of the campaign: runs killed with -9, a reader that polls all the time."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    moments = random.Random(seed)
    database.execute(
        "insert into app.things (id, name, updated_at) select i, repeat('x', 200), timestamptz '2025-01-01' + i *"
        " interval '1 second' from generate_series(1, 150000) as i"
    )
    script = (
        "from datetime import date; from tests.python.test_ingestion import THINGS; from ingestion.run import run;"
        "from ingestion.settings import Settings; import sys;"
        "print('go', flush=True);"
        "r = run(Settings(lake=sys.argv[1], source_dsn=sys.argv[2], extract_date=date(2025, 12, 31), _env_file=None),"
        " [THINGS]); print(r)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests/python'}"}
    command = [sys.executable, "-c", script, settings.lake, settings.source_dsn.get_secret_value()]
    killed_midway = 0
    for _ in range(6):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "go\n"
        time.sleep(moments.uniform(0.05, 0.8))
        process.send_signal(signal.SIGKILL)
        process.wait()
        partial = list(Path(settings.lake, ".partial").glob("*"))
        killed_midway += bool(partial)
        for batch in Path(settings.lake).glob("raw/app/things/*/*.parquet"):
            assert pq.read_metadata(batch).num_rows == 150_000, "a reader saw half a batch"
    land(settings)
    assert killed_midway, "no run was killed while it wrote: the test proved nothing"
    assert not list(Path(settings.lake, ".partial").iterdir())
    assert len(landed(settings, "id")) == len(set(landed(settings, "id"))) == 150_000


# ---------------------------------------------------------------- event log


def write_events(folder: Path, name: str, *events: dict | str) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    lines = [e if isinstance(e, str) else json.dumps(e, ensure_ascii=False) for e in events]
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))
    return path


def event(number: int, **changes: object) -> dict:
    at = datetime(2025, 12, 31, 10, tzinfo=UTC) + timedelta(seconds=number)
    return {
        "event_id": f"e{number}",
        "customer_id": number,
        "actor": "customer",
        "session_id": None,
        "event_type": "page_view",
        "occurred_at": at.isoformat(),
        "properties": {"página": "início", "n": [1.5, None]},
        "received_at": at.isoformat(),
        **changes,
    }


def test_event_files_land_once_and_late_ones_on_the_day_they_arrive(
    database: psycopg.Connection, settings: Settings
) -> None:
    folder = Path(settings.event_log)
    write_events(folder, "2025-12-31/10.jsonl.gz", event(1), event(2), event(1))
    assert land(settings, EVENTS)[0].rows == 3
    write_events(folder, "2025-12-31/09-late.jsonl.gz", event(3))
    write_events(folder, "2026-01-01/10.jsonl.gz", event(1), event(2), event(1))  # the same bytes once more
    assert land(settings, EVENTS, day=date(2026, 1, 1))[0].rows == 1
    rows = landed(settings, "event_id, _source_file, _source_line, extract_date", "app_log", "events")
    assert rows == [
        ("e1", "2025-12-31/10.jsonl.gz", 1, date(2025, 12, 31)),
        ("e1", "2025-12-31/10.jsonl.gz", 3, date(2025, 12, 31)),
        ("e2", "2025-12-31/10.jsonl.gz", 2, date(2025, 12, 31)),
        ("e3", "2025-12-31/09-late.jsonl.gz", 1, date(2026, 1, 1)),
    ]
    (document, at) = landed(settings, "properties, occurred_at", "app_log", "events")[0]
    assert json.loads(document) == {"página": "início", "n": [1.5, None]}
    assert at == datetime(2025, 12, 31, 10, 0, 1, tzinfo=UTC)


# ---------------------------------------------------------------- command line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SOURCE_DSN": "postgresql://x@127.0.0.1:1/app"}, "PostgreSQL cannot be reached"),
        ({"SOURCE_DSN": ""}, "SOURCE_DSN is not set"),
        ({"SOURCE_DSN": "app:S3cret@db.example/app"}, "SOURCE_DSN is no connection string"),
        ({"SOURCE_DSN": "postgresql://app:S3%cret@127.0.0.1:1/app"}, "SOURCE_DSN is no connection string"),
        ({"WORLD": "../elsewhere"}, "WORLD"),
        ({"LAKE": "/dev/null/lake"}, "cannot be used"),
        ({"LAKE": "s3://bucket/prefix"}, "local folder"),
        ({"EXTRACT_DATE": "yesterday"}, "EXTRACT_DATE"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    pipeline = Pipeline("synthetic", tmp_path, changes)
    done = pipeline.try_run(sys.executable, "-m", "ingestion", "run")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "S3" not in done.stderr or "s3://" in done.stderr
    assert "cret" not in done.stderr


def test_help_names_every_command(tmp_path: Path) -> None:
    text = Pipeline("synthetic", tmp_path).run(sys.executable, "-m", "ingestion", "--help")
    assert "run" in text
    assert "status" in text
