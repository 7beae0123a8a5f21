"""PostgreSQL and the event log to Parquet: exact, complete, repeatable, and readable errors."""

import errno
import gzip
import hashlib
import json
import sys
import time
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Pipeline

from ingestion.config import TableConfig, load_sources, select_tables
from ingestion.errors import IngestionError
from ingestion.lake import MANIFEST_KEY, BatchWriter, Lake
from ingestion.log import Reporter
from ingestion.run import Landed, run
from ingestion.settings import Secret, Settings

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


@pytest.fixture
def database(app_schema: psycopg.Connection) -> psycopg.Connection:
    """A connection to a fresh schema `app` with the table `things`."""
    app_schema.execute(TABLE)
    return app_schema


@pytest.fixture
def settings(server: str, tmp_path: Path) -> Settings:
    (tmp_path / "events").mkdir()
    return Settings(
        lake=str(tmp_path / "lake"),
        source_dsn=server,
        event_log=str(tmp_path / "events"),
        extract_date=date(2025, 12, 31),
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


def test_rows_of_the_watermarks_own_moment_are_found(
    database: psycopg.Connection, settings: Settings
) -> None:
    insert(database, 1, 10)
    # GIVEN no overlap: the next run begins at the watermark itself
    things = TableConfig(**{**vars(THINGS), "options": {**THINGS.options, "overlap_seconds": 0}})
    assert land(settings, things)[0].rows == 10
    # WHEN more rows are stamped with the highest time that landed, THEN they land, and only they
    insert(database, 11, 12)
    assert land(settings, things)[0].rows == 2
    assert len(landed(settings, "id")) == 12


def test_all_tables_see_one_snapshot(database: psycopg.Connection, server: str, settings: Settings) -> None:
    # GIVEN two tables that a writer changes together, after the run has begun to read the first
    database.execute("create table app.others (id bigint primary key, updated_at timestamptz not null)")
    insert(database, 1, 1)
    database.execute("insert into app.others values (1, now())")
    others = TableConfig("app", "others", "postgres", ("id",), "updated_at", options={"schema": "app"})

    class WriteInBetween(Reporter):
        def finished(self, landed: Landed) -> None:
            if landed.table is THINGS:
                with psycopg.connect(server) as writer:
                    writer.execute("insert into app.others values (2, now())")

    run(settings, [THINGS, others], reporter=WriteInBetween())
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
    # nor may it lose its rows
    insert(database, 1, 3)
    assert land(settings)[0].rows == 3
    database.execute("truncate app.things")
    (result,) = land(settings, day=date(2026, 1, 1))
    assert "app.things has no rows" in result.error


def test_an_empty_table_that_may_be_empty_lands_a_typed_file(
    database: psycopg.Connection, settings: Settings
) -> None:
    allowed = TableConfig(**{**vars(THINGS), "may_be_empty": True})
    assert land(settings, allowed)[0].error is None
    assert landed(settings) == []


def test_one_broken_table_does_not_stop_the_others(database: psycopg.Connection, settings: Settings) -> None:
    database.execute("create table app.odd (id bigint primary key, updated_at bigint)")
    odd = TableConfig("app", "odd", "postgres", ("id",), "updated_at", options={"schema": "app"})
    absent = TableConfig("app", "absent", "postgres", ("id",), "updated_at", options={"schema": "app"})
    insert(database, 1, 1)
    results = land(settings, odd, absent, THINGS)
    assert "the cursor updated_at is no date or timestamp" in results[0].error
    assert "no table app.absent" in results[1].error
    assert results[2].rows == 1


def test_a_table_that_breaks_in_the_middle_does_not_stop_the_others(
    database: psycopg.Connection, server: str, settings: Settings
) -> None:
    # GIVEN a view that fails far into the stream, and no right to read another table
    database.execute(
        "create view app.things_seen as select i as id, repeat('x', 60) as name, 1 / (399999 - i) as amount,"
        " now() as updated_at from generate_series(1, 400000) as i"
    )
    database.execute("create table app.secret (id bigint primary key, updated_at timestamptz)")
    database.execute("create table app.fine (id bigint primary key, updated_at timestamptz)")
    database.execute("insert into app.fine values (1, now())")
    database.execute("drop role if exists reader")
    database.execute("create role reader login")
    database.execute("grant usage on schema app to reader")
    database.execute("grant select on app.things_seen, app.fine to reader")
    settings.source_dsn = Secret(server.replace("postgres@", "reader@"))
    tables = [
        TableConfig("app", name, "postgres", ("id",), "updated_at", options={"schema": "app"})
        for name in ("things_seen", "secret", "fine")
    ]
    # WHEN they land in one run
    broken, forbidden, fine = land(settings, *tables)
    # THEN each says what is wrong, the last one lands, and of the others nothing is there
    assert "app.things_seen: PostgreSQL refused: division by zero" in broken.error
    assert "app.secret: PostgreSQL refused: permission denied for table secret" in forbidden.error
    assert (fine.error, fine.rows) == (None, 1)
    assert len(list(Path(settings.lake).glob("raw/app/*/*/*.parquet"))) == 1
    assert not list((Path(settings.lake) / ".partial").iterdir())


def test_an_error_shows_no_value_of_a_row(database: psycopg.Connection, settings: Settings) -> None:
    # GIVEN views that fail at a value, by a cast and by a function of the database's own
    insert(database, 1, 1)
    database.execute(
        """
        update app.things set name = '123.456.789-00';
        create view app.cast_fails as select id, name::int as name, updated_at from app.things;
        create function app.check_it(text) returns text language plpgsql as
            $$ begin raise exception 'bad cpf %', $1; end $$;
        create view app.function_fails as select id, app.check_it(name) as name, updated_at from app.things
        """
    )
    tables = [
        TableConfig("app", name, "postgres", ("id",), cursor, options={"schema": "app"})
        for name in ("cast_fails", "function_fails")
        for cursor in ("updated_at", None)
    ]
    for result in land(settings, *tables):
        assert "PostgreSQL refused: " in result.error
        assert "456" not in result.error


def test_a_table_whose_rows_are_hidden_by_a_policy_fails(
    database: psycopg.Connection, server: str, settings: Settings
) -> None:
    """Half a table would land in silence, and a comparison would take the other half for deleted."""
    insert(database, 1, 4)
    database.execute(
        """
        drop role if exists policed;
        create role policed login;
        grant usage on schema app to policed;
        grant select on app.things to policed;
        alter table app.things enable row level security;
        create policy half on app.things using (id < 3)
        """
    )
    settings.source_dsn = Secret(server.replace("postgres@", "policed@"))
    for how in ({}, {"reconcile": True}):
        (result,) = run(settings, [THINGS], **how)
        assert "row-level security policy" in result.error


@pytest.mark.parametrize("name", ["extract_date", "_batch_id", "_Source_Deleted", "NAME"])
def test_a_column_whose_name_the_lake_needs_is_refused_and_can_be_renamed(
    database: psycopg.Connection, settings: Settings, name: str
) -> None:
    insert(database, 1, 1)
    database.execute(f"alter table app.things add column \"{name}\" text default 'x'")
    (result,) = land(settings)
    assert f"rename: {{{name}: {name}_2}}" in result.error
    renamed = TableConfig(**{**vars(THINGS), "options": {**THINGS.options, "rename": {name: f"{name}_2"}}})
    assert land(settings, renamed)[0].rows == 1
    with duckdb.connect() as connection:
        assert connection.execute(
            f"select \"{name}_2\" from read_parquet('{settings.lake}/raw/app/things/*/*.parquet')"
        ).fetchall() == [("x",)]


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


def test_what_the_lake_cannot_hold_becomes_a_dead_letter_once(
    database: psycopg.Connection, settings: Settings
) -> None:
    # GIVEN a row that fits among some that do not, for several reasons
    database.execute(
        """
        insert into app.things (id, name, amount, day, moment, updated_at) values
        (1, 'Maria da Silva', 'NaN', 'infinity', null, '2025-01-01'),
        (2, 'fits', 1, '0044-03-15 BC', null, '2025-01-01'),
        (3, null, 1, null, '294270-01-01', '2025-01-01'),
        (4, null, 1, null, null, 'infinity')
        """
    )
    # WHEN they land, and once more
    for day, fate in ((31, (4, 1, 0, 3)), (31, None)):
        (result,) = land(settings, day=date(2025, 12, day))
        assert result.error is None
        lake = Lake.open(settings.lake, "synthetic")
        if fate:
            manifest = lake.last_manifest("app", "things")
            assert tuple(manifest[k] for k in ("extracted", "rows", "skipped", "rejected")) == fate
    # THEN each is there once, with all its reasons, its key and the whole row, and the reason names no value
    letters = {letter.origin: letter for letter in lake.dead_letters("app", "things")}
    assert {o: r.reason for o, r in letters.items()} == {
        '{"id": "1"}': "amount: no decimal128(14, 2): not a number; day: infinite, or beyond the year 294246",
        '{"id": "3"}': "moment: infinite, or beyond the year 294246",
        '{"id": "4"}': "updated_at: a cursor beyond the years 1 to 9999",
    }
    payload = json.loads(letters['{"id": "1"}'].payload)
    assert (payload["name"], payload["amount"], payload["day"]) == ("Maria da Silva", "NaN", "infinity")
    assert landed(settings, "id, day::varchar") == [(2, "0044-03-15 (BC)")]
    # AND one that is mended lands, like any row that has changed
    database.execute("update app.things set amount = 2, day = null, updated_at = '2025-01-02' where id = 1")
    assert land(settings)[0].rows == 1


def test_rows_without_a_cursor_are_not_lost(database: psycopg.Connection, settings: Settings) -> None:
    # GIVEN a cursor that is null until the first change, and a number that DuckDB does not know
    database.execute(
        "create table app.notes (id int primary key, body text, huge numeric(60, 5), changed timestamp)"
    )
    notes = TableConfig("app", "notes", "postgres", ("id",), "changed", options={"schema": "app"})
    database.execute("insert into app.notes values (1, 'a', 1e50, null), (2, 'b', null, null)")

    def run_again(rows: int) -> None:
        (result,) = land(settings, notes)
        assert (result.error, result.rows) == (None, rows)

    run_again(2)
    run_again(0)
    # WHEN such a row is changed, and back again; others come, with a cursor and without
    database.execute("update app.notes set body = 'c' where id = 1")
    run_again(1)
    database.execute("update app.notes set body = 'a' where id = 1")
    run_again(1)
    database.execute("update app.notes set huge = 1e50 + 0.00001 where id = 1")
    run_again(1)
    database.execute("insert into app.notes values (3, 'd', null, '2025-01-01'), (4, 'e', null, null)")
    run_again(2)
    database.execute("update app.notes set body = 'f' where id = 4")
    run_again(1)
    database.execute("update app.notes set changed = '2025-01-02' where id = 2")
    # THEN every version is there, once
    run_again(1)
    run_again(0)
    assert landed(settings, "id, body, changed", table="notes") == [
        (1, "a", None),
        (1, "a", None),
        (1, "a", None),
        (1, "c", None),
        (2, "b", datetime(2025, 1, 2)),
        (2, "b", None),
        (3, "d", datetime(2025, 1, 1)),
        (4, "e", None),
        (4, "f", None),
    ]


@pytest.mark.parametrize("kind", ["date", "timestamp", "timestamp(0) with time zone"])
def test_a_cursor_may_be_a_date_or_have_no_zone(
    database: psycopg.Connection, settings: Settings, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    database.execute(f"create table app.notes (id int primary key, changed {kind} not null)")
    notes = TableConfig("app", "notes", "postgres", ("id",), "changed", options={"schema": "app"})
    database.execute("insert into app.notes values (1, '2025-01-01'), (2, '2025-01-02')")
    assert land(settings, notes)[0].rows == 2
    assert (
        Lake.open(settings.lake, "synthetic")
        .last_manifest("app", "notes")["watermark_to"]
        .startswith("2025-01-02T00:00:00")
    )
    # a row with the watermark's own cursor, and one inside the overlap
    database.execute("insert into app.notes values (3, '2025-01-02'), (4, timestamp '2025-01-01 23:30')")
    assert land(settings, notes)[0].rows == 2
    assert land(settings, notes)[0].rows == 0


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
    database: psycopg.Connection, settings: Settings, tmp_path: Path
) -> None:
    insert(database, 1, 1)
    (tmp_path / "lake/.partial").mkdir(parents=True)
    (tmp_path / "lake/.partial/lakehouse.json.4711").write_text("{")
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
        ({"SOURCE_DSN": "postgresql://app:S3@cret@127.0.0.1:1/app"}, "SOURCE_DSN is no connection string"),
        ({"SOURCE_DSN": "postgresql://app:cret/S3@127.0.0.1:1/app"}, "SOURCE_DSN is no connection string"),
        ({"SOURCE_DSN": "postgresql://app:12/cret@127.0.0.1:1/app"}, "SOURCE_DSN is no connection string"),
        ({"WORLD": "../elsewhere"}, "WORLD"),
        ({"LAKE": "/dev/null/lake"}, "cannot be used"),
        ({"LAKE": "gs://bucket/prefix"}, "no place for a lake"),
        ({"LAKE": "s3://bucket/prefix", "AWS_EC2_METADATA_DISABLED": "true"}, "NoCredentialsError"),
        ({"EXTRACT_DATE": "yesterday"}, "EXTRACT_DATE"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    pipeline = Pipeline("synthetic", tmp_path, changes)
    done = pipeline.try_run(sys.executable, "-m", "ingestion", "run")
    # what may work later is no fault of the configuration
    assert done.returncode == (1 if "reached" in message or "Credentials" in message else 2)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "S3" not in done.stderr or "s3://" in done.stderr
    assert "cret" not in done.stderr


def test_an_increment_waits_for_no_import_that_it_does_not_need(
    database: psycopg.Connection, server: str, tmp_path: Path
) -> None:
    insert(database, 1, 3)
    sources = tmp_path / "sources.yml"
    sources.write_text(
        "app: {kind: postgres, schema: app, tables: {things: {key: [id], cursor: updated_at}}}"
    )
    environment = {"LAKE": str(tmp_path / "lake"), "SOURCE_DSN": server, "SOURCES_FILE": str(sources)}
    program = (
        "import os, runpy, sys\n"
        "heavy = ('numpy', 'psycopg', 'pydantic', 'tenacity', 'dotenv', 'boto3', 'duckdb', 'asyncio', 'logging')\n"
        "os._exit = lambda code: print(code, [name for name in heavy if sys.modules.get(name)])\n"
        "sys.argv = ['ingestion', 'run']; runpy.run_module('ingestion', run_name='__main__')"
    )
    done = Pipeline("synthetic", tmp_path, environment).run(sys.executable, "-c", program)
    assert done.splitlines()[-1] == "0 []"


def test_help_names_every_command(tmp_path: Path) -> None:
    text = Pipeline("synthetic", tmp_path).run(sys.executable, "-m", "ingestion", "--help")
    assert "run" in text
    assert "status" in text
