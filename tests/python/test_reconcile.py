"""Reconcile and backfill: what no watermark finds lands, deletions land, and nothing lands twice."""

import random
import threading
import time
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
import pyarrow.compute as pc
import pytest
from landing import current, land, query, settings_of, things

from ingestion import lake as lake_module
from ingestion import postgres
from ingestion.config import TableConfig
from ingestion.lake import BatchWriter, Lake
from ingestion.run import backfill, replay, run
from ingestion.settings import Settings
from ingestion.verify import verify

NEXT_DAY = date(2026, 1, 1)
OPTIONS = {"schema": "app"}


@pytest.fixture
def database(app_schema: psycopg.Connection) -> psycopg.Connection:
    app_schema.execute(
        "create table app.things (id bigint primary key, ref uuid, name text, amount numeric(14, 2), labels text[],"
        " updated_at timestamptz)"
    )
    return app_schema


@pytest.fixture
def settings(server: str, tmp_path: Path) -> Settings:
    return settings_of(server, tmp_path)


def insert(
    database: psycopg.Connection, first: int, last: int, at: str | None = "2025-01-01 12:00+00"
) -> None:
    database.execute(
        "insert into app.things select i, gen_random_uuid(), 'n' || i, i * 1.01, array['x', null], %s::timestamptz"
        " from generate_series(%s::int, %s::int) as i",
        (at, first, last),
    )


def in_source(database: psycopg.Connection, columns: str = "*") -> list[tuple]:
    return database.execute(f"select {columns} from app.things order by id").fetchall()


COLUMNS = "id, name, amount, labels, updated_at"


def test_what_no_watermark_can_find_lands_as_a_new_version(
    database: psycopg.Connection, settings: Settings
) -> None:
    # GIVEN rows that landed, and changes that an increment cannot see
    insert(database, 1, 1000)
    insert(database, 2000, 2000, "2025-06-01")
    land(settings)
    database.execute("update app.things set name = 'changed in bulk' where id <= 3")
    database.execute("update app.things set amount = null, labels = '{}' where id = 4")
    database.execute("update app.things set updated_at = '2019-01-01' where id = 5")  # the clock stepped back
    insert(database, 1001, 1001, "2020-01-01")  # written with an old cursor
    # WHEN an increment runs, THEN it finds nothing; a comparison finds exactly these
    assert land(settings, day=NEXT_DAY).rows == 0
    insert(database, 1002, 1002, None)  # and with none
    result = land(settings, reconcile=True)
    assert (result.rows, result.deleted, result.skipped) == (7, 0, 996)
    assert query(settings, "select id from raw where _batch_id = '00000003' order by id") == [
        (i,) for i in (1, 2, 3, 4, 5, 1001, 1002)
    ]
    assert current(settings, COLUMNS) == in_source(database, COLUMNS)
    # and a second one nothing
    assert land(settings, reconcile=True).rows == 0
    assert land(settings).rows == 0


def test_deleted_rows_land_as_deleted_and_come_back(database: psycopg.Connection, settings: Settings) -> None:
    # GIVEN old rows and one that increments read again
    insert(database, 1, 100)
    insert(database, 200, 200, "2025-06-01")
    land(settings)
    database.execute("create table kept as select * from app.things where id in (7, 8, 200)")
    # WHEN some are deleted, THEN a comparison lands them once more as they were, once
    database.execute("delete from app.things where id in (7, 8, 200)")
    result = land(settings, reconcile=True)
    assert (result.rows, result.deleted) == (3, 3)
    assert query(settings, f"select {COLUMNS} from raw where _source_deleted order by id") == (
        database.execute(f"select {COLUMNS} from kept order by id").fetchall()
    )
    assert land(settings, reconcile=True).rows == 0
    # WHEN they come back with the very content that landed, THEN the increment lands the one that it sees
    database.execute("insert into app.things select * from kept where id <> 8")
    database.execute("drop table kept")
    assert land(settings, day=NEXT_DAY).rows == 1
    assert land(settings).rows == 0
    # and the comparison the other
    assert land(settings, reconcile=True).rows == 1
    assert current(settings, COLUMNS) == in_source(database, COLUMNS)


def test_a_comparison_with_a_lake_on_s3(
    database: psycopg.Connection, settings: Settings, bucket: str
) -> None:
    settings.lake = f"{bucket}/lake"
    insert(database, 1, 100)
    land(settings)
    database.execute("update app.things set name = 'changed in bulk' where id <= 3")
    database.execute("delete from app.things where id = 4")
    result = land(settings, reconcile=True, day=NEXT_DAY)
    assert (result.rows, result.deleted, result.skipped) == (4, 1, 96)
    assert land(settings, reconcile=True).rows == 0
    lake = Lake.open(settings.lake, settings.world)
    (verified,) = verify(lake, [things()], settings.source_dsn.get_secret_value())
    assert (verified.findings, verified.rows) == ([], 104)


def test_a_deleted_row_without_a_cursor_comes_back(database: psycopg.Connection, settings: Settings) -> None:
    insert(database, 1, 2, None)
    database.execute("update app.things set ref = null")
    land(settings)
    database.execute("delete from app.things where id = 1")
    assert land(settings, reconcile=True).deleted == 1
    insert(database, 1, 1, None)
    database.execute("update app.things set ref = null")
    assert land(settings, day=NEXT_DAY).rows == 1
    assert land(settings, reconcile=True).rows == 0


def test_a_row_dated_in_the_future_hides_nothing_and_lands_once(
    database: psycopg.Connection, settings: Settings
) -> None:
    insert(database, 1, 1, "2126-01-01")
    land(settings)
    insert(database, 2, 2, "now")
    assert land(settings, day=NEXT_DAY).rows == 1
    assert land(settings, day=date(2026, 1, 2)).rows == 0
    assert len(query(settings, "select id from raw")) == 2


@pytest.mark.parametrize("at", ["2025-01-01 12:00+00", None])
def test_an_increment_over_more_than_fits_in_memory_lands_the_same(
    database: psycopg.Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch, at: str | None
) -> None:
    """A table that was loaded or updated at one moment is all within the overlap."""
    monkeypatch.setattr(lake_module, "ROWS_IN_MEMORY", 30)
    insert(database, 1, 100, at)
    database.execute("update app.things set amount = 'NaN' where id = 50")
    assert land(settings).rows == 99
    lake = Lake.open(settings.lake, "synthetic")
    with pytest.raises(lake_module.TooManyRows):
        lake.landed_without_cursor(things(), ["id"]) if at is None else lake.landed_since(
            things(), datetime.fromisoformat(at), ["id"]
        )
    assert land(settings).rows == 0
    database.execute("update app.things set name = 'changed' where id <= 3")
    insert(database, 101, 103, at)
    result = land(settings)
    assert (result.rows, result.extracted, result.skipped) == (6, 103, 97)
    assert land(settings).rows == land(settings, reconcile=True).rows == 0
    assert query(settings, "select count(*), count(distinct id) from raw") == [(105, 102)]


def test_every_kind_of_key_is_found_and_missed(database: psycopg.Connection, settings: Settings) -> None:
    # GIVEN an append-only table whose key has a column of each kind that keys are made of
    database.execute("create type app.colour as enum ('red', 'blue')")
    database.execute(
        "create table app.odd (a uuid, b text, c timestamptz, d numeric(9, 2), e date, f bool, created_at timestamptz"
        " not null, primary key (a, b, c, d, e, f))"
    )
    database.execute(
        "insert into app.odd select gen_random_uuid(), 'it''s \"' || i || E'\\\\\\n', now() + i * interval '1 us', i / 4.0,"
        " date '1969-12-31' + i, i % 2 = 0, now() from generate_series(1, 50) as i"
    )
    odd = things(key=tuple("abcdef"), cursor="created_at")
    odd = type(odd)("app", "odd", "postgres", odd.key, odd.cursor, options=odd.options)
    land(settings, odd)
    assert land(settings, odd, reconcile=True).rows == 0
    database.execute("delete from app.odd where e < '1970-01-11'")
    result = land(settings, odd, reconcile=True)
    assert result.rows == result.deleted == 10


# Table → its key columns, a condition for the record that goes, and keys as PostgreSQL reads them.
ODD_KEYS = {
    "octets": ("a bytea", "a = '\\xff00'", ["'\\xff00'", "'\\x41'"]),
    "lists": ("a text[]", "a[1] = 'a'", ["'{a,b}'", "'{\"a,b\",null}'", "'{}'"]),
    "halves": ("a int, b text", "a = 2", ["1, null", "1, ''", "2, null"]),
    "floats": ("a float8", "a = 'NaN' or a = 0.1", ["'NaN'", "'-infinity'", "0.1", "0.2"]),
    "pairs": ("a app.pair", "a = row(1, null)::app.pair", ["row(1, null)", "row(1, '')", "row(null, 'x')"]),
    "documents": ("a jsonb", "a = '{\"x\": 1}'", ["'{\"x\": 1}'", "'null'", "'\"x\"'"]),
    "wide": ("a numeric(60,3)", "a > 1", ["1", "123456789012345678901234567890123456789012345678.5"]),
    "padded": ('a char(5) collate "C"', "a = 'a'", ["'a'", "'A'", "''"]),
    "old": ("a date", "a < '0001-01-01'", ["'0044-03-15 BC'", "'20000-01-01'"]),
}


def test_every_odd_kind_of_key_is_told_apart_by_every_way_to_land(
    app_schema: psycopg.Connection, settings: Settings
) -> None:
    # GIVEN tables with a key of each kind, one with a null in it, one with a name that psycopg would read
    app_schema.execute("create type app.pair as (x int, y text)")
    tables, expected = [], {}
    for name, (columns, gone, keys) in ODD_KEYS.items():
        key = [column.split()[0] for column in columns.split(", ")]
        app_schema.execute(f'create table app.{name} ({columns}, "100 %" int, updated_at timestamptz)')
        listed = ", ".join(key)
        app_schema.execute(f"create unique index on app.{name} ({listed})")
        for values in keys:
            app_schema.execute(f"insert into app.{name} values ({values}, 1, now())")
        (deleted,) = app_schema.execute(f"select count(*) from app.{name} where {gone}").fetchone()
        tables.append(TableConfig("app", name, "postgres", tuple(key), "updated_at", options=OPTIONS))
        expected[name] = (len(keys), deleted)
    app_schema.execute('create table app.named ("50 %" int primary key, updated_at timestamptz)')
    app_schema.execute("insert into app.named values (1, now()), (2, now())")
    tables.append(TableConfig("app", "named", "postgres", ("50 %",), "updated_at", options=OPTIONS))
    expected["named"] = (2, 1)

    def land_all(**how) -> list[tuple]:
        results = run(settings, tables, **how)
        assert [r.error for r in results] == [None] * len(tables)
        return [(r.rows, r.deleted) for r in results]

    # WHEN each record has changed once, THEN it lands once more, and not again
    assert land_all() == [(rows, 0) for rows, _ in expected.values()]
    for table in tables:
        change = "" if table.table == "named" else '"100 %" = 2, '
        app_schema.execute(f"update app.{table.table} set {change}updated_at = clock_timestamp()")
    assert land_all() == [(rows, 0) for rows, _ in expected.values()]
    assert land_all() == [(0, 0)] * len(tables)
    # and one that is gone lands as deleted, once
    for name, (_, gone, _) in ODD_KEYS.items():
        app_schema.execute(f"delete from app.{name} where {gone}")
    app_schema.execute('delete from app.named where "50 %" = 1')
    assert land_all(reconcile=True) == [(deleted, deleted) for _, deleted in expected.values()]
    assert land_all() == land_all(reconcile=True) == [(0, 0)] * len(tables)
    lake = Lake.open(settings.lake, "synthetic")
    assert [v.findings for v in verify(lake, tables, settings.source_dsn.get_secret_value())] == [[]] * len(
        tables
    )


def test_lists_that_python_cannot_hold_are_compared(
    app_schema: psycopg.Connection, settings: Settings
) -> None:
    app_schema.execute(
        "create table app.things (id int primary key, days date[], amounts numeric(50, 2)[], updated_at timestamptz)"
    )
    app_schema.execute(
        "insert into app.things values (1, '{0044-03-15 BC,null}', '{1.5,null}', now()),"
        " (2, '{20000-01-01}', array[repeat('9', 48)::numeric], null), (3, '{}', null, null)"
    )
    assert land(settings).rows == 3
    assert land(settings).rows == land(settings, reconcile=True).rows == 0
    app_schema.execute("update app.things set days = '{0045-03-15 BC,null}' where id = 1")
    app_schema.execute("update app.things set amounts = array[repeat('9', 47)::numeric] where id = 2")
    assert land(settings).rows == 2
    assert land(settings, reconcile=True).rows == 0
    lake = Lake.open(settings.lake, "synthetic")
    (found,) = verify(lake, [things()], settings.source_dsn.get_secret_value())
    assert found.findings == []


def test_a_row_that_cannot_be_read_is_not_taken_for_deleted(
    database: psycopg.Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader that leaves a row out stands for one that makes it a dead letter."""
    insert(database, 1, 10)
    land(settings)
    read = postgres.read

    def without_five(*arguments):
        for rows, left_out in read(*arguments):
            yield rows.filter(pc.not_equal(rows["id"], 5)), left_out

    monkeypatch.setattr(postgres, "read", without_five)
    assert land(settings, reconcile=True).rows == 0


def test_a_table_that_lost_all_its_rows_fails(database: psycopg.Connection, settings: Settings) -> None:
    insert(database, 1, 10)
    land(settings)
    database.execute("truncate app.things")
    for reconcile in (True, False):
        (result,) = run(settings, [things()], reconcile=reconcile)
        assert "has no rows" in result.error
    assert land(settings, things(may_be_empty=True), reconcile=True).deleted == 10


def test_a_key_that_names_two_rows_is_refused(database: psycopg.Connection, settings: Settings) -> None:
    insert(database, 1, 10)
    database.execute("update app.things set name = 'twin' where id < 3")
    (result,) = run(settings, [things(key=("name",))], reconcile=True)
    assert "names more than one row" in result.error
    assert "twin" not in result.error


def test_a_unique_index_over_nulls_is_no_key(app_schema: psycopg.Connection, settings: Settings) -> None:
    app_schema.execute(
        "create table app.things (id int, part text, updated_at timestamptz, unique (id, part))"
    )
    app_schema.execute("insert into app.things values (1, null, '2025-01-01'), (1, null, '2025-01-02')")
    (result,) = run(settings, [things(key=("id", "part"))], reconcile=True)
    assert "names more than one row" in result.error


def test_a_table_without_a_cursor_is_compared_at_every_run(
    database: psycopg.Connection, settings: Settings
) -> None:
    insert(database, 1, 10, None)
    for table in (things(cursor=None), things()):  # none is named, or none has a value
        assert land(settings, table).rows in (10, 0)
        assert land(settings, table, day=NEXT_DAY).rows == 0
    database.execute("update app.things set name = 'x' where id = 1")
    database.execute("delete from app.things where id = 2")
    assert land(settings, things(cursor=None)).rows == 2
    assert current(settings, COLUMNS) == in_source(database, COLUMNS)


def test_with_concurrent_writers_the_lake_is_always_one_snapshot(
    database: psycopg.Connection, server: str, settings: Settings
) -> None:
    # GIVEN writers that move amounts between rows, delete and bring back, with cursors that say nothing
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    database.execute(
        "insert into app.things select i, null, 'n', 100, null, '2025-01-01' from generate_series(1, 2000) as i"
    )
    stop = threading.Event()
    written = [0, 0]

    def write(number: int) -> None:
        chance = random.Random(seed + number)
        with psycopg.connect(server, autocommit=True) as connection:
            while not stop.is_set():
                source, target = chance.sample(range(1, 2001), 2)
                at = datetime(2025, 1, chance.randint(1, 28), tzinfo=UTC) if chance.random() < 0.9 else None
                try:
                    with connection.transaction():
                        taken = connection.execute(
                            "delete from app.things where id = %s returning amount", (source,)
                        ).fetchone()
                        if taken is None:
                            continue
                        moved = connection.execute(
                            "update app.things set amount = amount + %s, updated_at = coalesce(%s, updated_at)"
                            " where id = %s",
                            (taken[0], at, target),
                        ).rowcount
                        if not moved or chance.random() < 0.5:
                            connection.execute(
                                "insert into app.things values (%s, null, 'again', %s, null, %s)",
                                (source, 0 if moved else taken[0], at),
                            )
                except psycopg.errors.DeadlockDetected:
                    continue
                written[number] += 1

    writers = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    for writer in writers:
        writer.start()
    try:
        # WHEN runs compare meanwhile, THEN each leaves a state that the source was in: the sum never changes
        for number in range(5):
            land(settings, reconcile=number % 2 == 1)
            if number % 2:
                assert query(settings, "select sum(amount) from newest where not _source_deleted") == [
                    (200_000,)
                ]
            time.sleep(0.1)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert min(written) > 20, written
    # THEN at rest the lake is the source, and nothing landed twice in a row
    land(settings, reconcile=True)
    assert land(settings, reconcile=True).rows == 0
    assert current(settings, COLUMNS) == in_source(database, COLUMNS)
    assert query(settings, "select count(*) > 0 from raw where _source_deleted") == [(True,)]
    repeated = query(
        settings,
        "select count(*) from (select hash(id, name, amount, updated_at, _source_deleted) as h, lag(h) over (partition"
        " by id order by _batch_id) as before from raw) where h = before",
    )
    assert repeated == [(0,)]


# ---------------------------------------------------------------- backfill


def test_a_backfill_lands_what_is_missing_in_a_range_and_nothing_else(
    database: psycopg.Connection, settings: Settings
) -> None:
    for month in (1, 2, 3, 4):
        insert(database, month * 10, month * 10 + 4, f"2025-{month:02}-15 12:00+00")
    land(settings)
    watermark = Lake.open(settings.lake, "synthetic").last_manifest("app", "things")["watermark_to"]
    database.execute("update app.things set name = 'changed' where id in (10, 20, 30, 40)")
    insert(database, 25, 25, "2025-02-28 23:30:00-03")  # the last minutes of February, in São Paulo
    insert(database, 99, 99, "2025-06-01")  # later than anything landed: not in the range
    database.execute("delete from app.things where id = 21")
    results = backfill(settings, [things()], date(2025, 2, 1), date(2025, 3, 31))
    assert [(r.error, r.rows, r.deleted, r.skipped) for r in results] == [(None, 3, 0, 7)]
    assert query(settings, "select id, _batch_id from raw where _batch_id > '00000001' order by id") == [
        (20, "00000002"),
        (25, "00000002"),
        (30, "00000003"),
    ]
    # again: nothing; the increment goes on from where it was, and a comparison agrees
    assert backfill(settings, [things()], date(2025, 2, 1), date(2025, 3, 31))[0].rows == 0
    manifest = Lake.open(settings.lake, "synthetic").last_manifest("app", "things")
    assert manifest["watermark_to"] == watermark
    assert land(settings, day=NEXT_DAY).rows == 2  # 99, and 40 within the overlap
    assert land(settings, reconcile=True).rows == 2  # 10, and 21 as deleted
    assert current(settings, COLUMNS) == in_source(database, COLUMNS)


def test_a_backfill_beyond_the_watermark_hides_nothing_and_doubles_nothing(
    database: psycopg.Connection, settings: Settings
) -> None:
    insert(database, 1, 1, "2025-01-10")
    land(settings)
    insert(database, 2, 2, "2025-01-15")
    insert(database, 3, 3, "2025-01-25")
    assert backfill(settings, [things()], date(2025, 1, 20), date(2025, 1, 31))[0].rows == 1
    assert land(settings, day=NEXT_DAY).rows == 1  # the one between
    assert land(settings, day=date(2026, 1, 2)).rows == 0
    assert len(query(settings, "select id from raw")) == 3


@pytest.mark.parametrize("way", ["backfill", "replay"])
def test_what_landed_before_any_watermark_does_not_land_again(
    database: psycopg.Connection, settings: Settings, way: str
) -> None:
    # GIVEN a first run that landed nothing: the table was empty, or its only row could not be held
    table = things(may_be_empty=True)
    if way == "replay":
        insert(database, 1, 1, "2025-01-15")
        database.execute("update app.things set amount = 'NaN'")
    land(settings, table)
    # WHEN its row lands by another command, THEN the next run does not land it again
    if way == "replay":
        database.execute("update app.things set amount = 1")
        (result,) = replay(settings, [table])
    else:
        insert(database, 1, 1, "2025-01-15")
        (result,) = backfill(settings, [table], date(2025, 1, 1), date(2025, 1, 31))
    assert (result.error, result.rows) == (None, 1)
    assert land(settings, table).rows == 0
    insert(database, 2, 2, "2025-01-15")
    assert land(settings, table).rows == 1


def test_a_backfill_by_a_cursor_of_days(database: psycopg.Connection, settings: Settings) -> None:
    database.execute("alter table app.things alter updated_at type date")
    for day in range(1, 7):
        insert(database, day, day, f"2025-01-{day:02}")
    land(settings)
    database.execute("update app.things set name = 'changed'")
    (result,) = backfill(settings, [things()], date(2025, 1, 3), date(2025, 1, 4))
    assert (result.error, result.rows) == (None, 2)
    assert query(settings, "select id from newest where name = 'changed' order by id") == [(3,), (4,)]


def test_an_interrupted_backfill_keeps_its_months_and_goes_on(
    database: psycopg.Connection, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(database, 1, 1, "2025-12-01")
    land(settings)
    for month in (1, 2, 3):
        insert(database, month * 10, month * 10 + 4, f"2025-{month:02}-15 12:00+00")
    write = BatchWriter.write

    def interrupted(out: BatchWriter, rows, **how) -> None:
        if rows.num_rows and rows["id"][0].as_py() == 30:
            raise KeyboardInterrupt
        write(out, rows, **how)

    with monkeypatch.context() as patch:
        patch.setattr(BatchWriter, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            backfill(settings, [things()], date(2025, 1, 1), date(2025, 3, 31))
    assert len(query(settings, "select id from raw")) == 11
    assert backfill(settings, [things()], date(2025, 1, 1), date(2025, 3, 31))[0].rows == 5
    assert current(settings, COLUMNS) == in_source(database, COLUMNS)


def test_a_table_that_never_landed_is_not_backfilled(
    database: psycopg.Connection, settings: Settings
) -> None:
    insert(database, 1, 1)
    (result,) = backfill(settings, [things()], date(2025, 1, 1), date(2025, 1, 1))
    assert "has never been landed" in result.error
    (result,) = backfill(settings, [things(cursor=None)], date(2025, 1, 1), date(2025, 1, 1))
    assert "needs no backfill" in result.error
