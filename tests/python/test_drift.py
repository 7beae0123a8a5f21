"""Schema drift: what evolves is read together with what landed before, what cannot fails before it lands."""

from datetime import date
from decimal import Decimal
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet
import pytest
from landing import land, query, settings_of, things

from ingestion import drift
from ingestion.lake import Lake
from ingestion.run import run
from ingestion.settings import Settings

DAYS = [date(2026, 1, d) for d in range(1, 20)]


@pytest.fixture
def database(app_schema: psycopg.Connection) -> psycopg.Connection:
    """A table with two rows; tests change its columns."""
    app_schema.execute(
        "create table app.things (id int primary key, n int, amount numeric(14, 2), short varchar(10), ratio real,"
        " updated_at timestamptz not null)"
    )
    app_schema.execute(
        "insert into app.things select i, i, i * 1.01, 's' || i, i / 2.0, '2025-01-01' from generate_series(1, 2) i"
    )
    return app_schema


@pytest.fixture
def settings(database: psycopg.Connection, server: str, tmp_path: Path) -> Settings:
    """Of a lake in which those two rows have landed."""
    settings = settings_of(server, tmp_path)
    land(settings)
    return settings


def batches(settings: Settings) -> int:
    return len(Lake.open(settings.lake, "synthetic").batches("app", "things"))


def test_widened_columns_are_read_together_with_the_narrow_ones(
    database: psycopg.Connection, settings: Settings
) -> None:
    database.execute(
        "alter table app.things alter n type bigint, alter amount type numeric(16, 2), alter short type text,"
        " alter ratio type double precision"
    )
    database.execute(
        "insert into app.things values (3, 5000000000, 12345678901234.56, 'longer than ten', 0.1, now())"
    )
    result = land(settings, day=DAYS[0])
    # varchar(10) → text is no change in the lake
    assert result.drift == (
        "n int32 → int64",
        "amount decimal128(14, 2) → decimal128(16, 2)",
        "ratio float → double",
    )
    assert result.rows == 1  # what has landed narrower is not landed again
    assert query(settings, "select id, n, amount, short from raw order by id") == [
        (1, 1, Decimal("1.01"), "s1"),
        (2, 2, Decimal("2.02"), "s2"),
        (3, 5_000_000_000, Decimal("12345678901234.56"), "longer than ten"),
    ]
    # it is said once, and a comparison takes the old rows for the same
    assert land(settings, day=DAYS[1], reconcile=True).drift == ()
    assert len(query(settings, "select * from raw")) == 3


def test_a_narrowed_column_goes_on_as_the_wide_one(database: psycopg.Connection, settings: Settings) -> None:
    database.execute("alter table app.things alter n type smallint, alter amount type numeric(9, 2)")
    database.execute("update app.things set n = 7, updated_at = now() where id = 1")
    result = land(settings, day=DAYS[0])
    assert result.drift == ("n int32 → int16", "amount decimal128(14, 2) → decimal128(9, 2)")
    assert query(settings, "select typeof(n), typeof(amount), max(n) from raw group by all") == [
        ("INTEGER", "DECIMAL(14,2)", 7)
    ]
    with pytest.raises(StopIteration):  # every file has the wide type, whoever reads it alone
        next(
            batch
            for batch in Lake.open(settings.lake, "synthetic").batches("app", "things")
            if pa.parquet.read_schema(Path(settings.lake, batch)).field("n").type != pa.int32()
        )
    assert land(settings, day=DAYS[1]).drift == ()


def test_columns_added_dropped_and_renamed(database: psycopg.Connection, settings: Settings) -> None:
    database.execute("alter table app.things add branch text default 'main', drop short")
    database.execute("alter table app.things rename n to number")
    result = land(settings, day=DAYS[0], reconcile=True)
    assert result.drift == ("added number (int32)", "added branch (string)", "dropped n", "dropped short")
    assert result.rows == 2  # the default changed every row, and no cursor
    assert query(settings, "select id, n, number, short, branch from raw order by _batch_id, id") == [
        (1, 1, None, "s1", None),
        (2, 2, None, "s2", None),
        (1, None, 1, None, "main"),
        (2, None, 2, None, "main"),
    ]
    # WHEN a dropped column comes back, THEN what landed of it still counts
    database.execute("alter table app.things add short int")
    (failed,) = run(settings, [things()])
    assert "column short landed as string and is now int32" in failed.error


def test_a_renamed_column_can_go_on_under_its_old_name(
    database: psycopg.Connection, settings: Settings
) -> None:
    database.execute("alter table app.things rename n to number")
    options = {"schema": "app", "rename": {"number": "n"}}
    assert land(settings, things(options=options), day=DAYS[0], reconcile=True).drift == ()
    assert len(query(settings, "select n from raw")) == 2


@pytest.mark.parametrize(
    "change",
    ["n type text", "n type numeric(12, 2)", "short type date using current_date", "amount type bigint"],
)
def test_a_retyped_column_fails_before_anything_lands_and_lands_under_another_name(
    database: psycopg.Connection, settings: Settings, change: str
) -> None:
    """Of these DuckDB would read all as text or double, Athena none: trinodb/trino#21556 reads 5 as 0.05."""
    column = change.split()[0]
    database.execute(f"alter table app.things alter {change}")
    database.execute("update app.things set updated_at = now()")
    (failed,) = run(settings, [things()])
    assert f"column {column} landed as" in failed.error
    assert f"rename: {{{column}: {column}_2}}" in failed.error
    assert batches(settings) == 1
    options = {"schema": "app", "rename": {column: f"{column}_2"}}
    result = land(settings, things(options=options), day=DAYS[0])
    assert result.rows == 2
    assert query(settings, f"select count({column}), count({column}_2) from raw") == [(2, 2)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("add branch text", "added branch (string)"),
        ("drop short", "dropped short"),
        ("rename n to number", "added number (int32); dropped n"),
        ("alter n type bigint", "n int32 → int64"),
    ],
)
def test_a_frozen_table_fails_before_anything_lands(
    database: psycopg.Connection, settings: Settings, change: str, named: str
) -> None:
    frozen = things(schema_policy="freeze")
    database.execute(f"alter table app.things {change}")
    database.execute("update app.things set updated_at = now()")
    for reconcile in (False, True):
        (failed,) = run(settings, [frozen], reconcile=reconcile)
        assert f"app.things is frozen and its columns have changed: {named};" in failed.error
    assert batches(settings) == 1
    assert land(settings, day=DAYS[0]).rows == 2  # as soon as it may evolve


def test_what_reads_as_one_column() -> None:
    decimal = pa.decimal128
    assert drift.widest("int16", pa.int64()) == pa.int64()
    assert drift.widest("int64", pa.int16()) == pa.int64()
    assert drift.widest("float", pa.float64()) == pa.float64()
    assert drift.widest("decimal128(14, 2)", decimal(10, 4)) == decimal(16, 4)
    assert drift.widest("decimal128(36, 2)", decimal(36, 6)) is None  # beyond Athena's 38 digits
    assert drift.widest("decimal256(60, 2)", pa.decimal256(60, 2)) == pa.decimal256(60, 2)
    for landed, new in (("int32", decimal(14, 2)), ("int64", pa.float64()), ("string", pa.int32())):
        assert drift.widest(landed, new) is None
