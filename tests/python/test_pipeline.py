"""The path as a whole: what PostgreSQL holds is in the lake, what the lake holds is in the warehouse."""

import json
import sys
from datetime import date
from pathlib import Path

import duckdb
import pytest
from conftest import DBT, Pipeline, TwoDays

from ingestion.config import TableConfig, load_sources

APP_TABLES = [t for t in load_sources() if t.kind == "postgres"]
LANDING = "_batch_id, _extracted_at"
WITHOUT_TESTS = ("--exclude-resource-type", "test", "unit_test")


@pytest.fixture(scope="session", params=["synthetic", "berka"])
def two_days(request: pytest.FixtureRequest) -> TwoDays:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def landed_in_full(two_days: TwoDays) -> Path:
    """A second lake that saw the second day only: one full extract of everything."""
    pipeline = two_days.pipeline
    folder = pipeline.folder / "lake_in_full"
    pipeline.settings["LAKE"] = str(folder)
    try:
        pipeline.ingest("--table", "app")
    finally:
        del pipeline.settings["LAKE"]
    return folder


def rows_of(lake: Path, table: TableConfig, day: str = "*") -> str:
    files = f"{lake}/raw/{table.source}/{table.table}/extract_date={day}/*.parquet"
    return f"select * from read_parquet('{files}', hive_partitioning = false, union_by_name = true)"


def differences(first: str, second: str) -> tuple[int, int]:
    """How many rows are only in the first query, and only in the second."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        return tuple(
            connection.execute(f"select count(*) from (({a}) except all ({b}))").fetchone()[0]
            for a, b in ((first, second), (second, first))
        )


@pytest.mark.parametrize("table", APP_TABLES, ids=lambda t: t.table)
def test_the_second_day_adds_to_the_lake_what_it_added_to_postgresql(
    two_days: TwoDays, landed_in_full: Path, table: TableConfig
) -> None:
    content = f"* exclude ({LANDING})"
    keys = ", ".join(table.key)
    whole = rows_of(landed_in_full, table).replace("*", content, 1)
    first = rows_of(two_days.pipeline.lake, table, two_days_dates(two_days)[0]).replace("*", content, 1)
    second = rows_of(two_days.pipeline.lake, table, two_days_dates(two_days)[1]).replace("*", content, 1)
    # the batch of the second day is exactly what is in PostgreSQL now and was not in the lake
    added, surplus = differences(f"({whole}) except all ({first})", second)
    assert (added, surplus) == (0, 0)
    # the latest version of each key is exactly what PostgreSQL holds now
    latest = (
        f"select {content} from ({rows_of(two_days.pipeline.lake, table)})"
        f" qualify row_number() over (partition by {keys} order by _batch_id desc) = 1"
    )
    assert differences(latest, whole) == (0, 0)
    # and the rows added are the rows PostgreSQL counts
    with duckdb.connect() as connection:
        count = f"select count(distinct ({keys})) from ({rows_of(two_days.pipeline.lake, table)})"
        assert connection.execute(count).fetchone()[0] == two_days.day2.rows[table.table]
        new = f"select {keys} from ({second}) except select {keys} from ({first})"
        grown = connection.execute(f"select count(*) from ({new})").fetchone()[0]
    assert grown == two_days.day2.rows[table.table] - two_days.day1.rows[table.table]


def two_days_dates(two_days: TwoDays) -> list[str]:
    days = {Path(p).parent.name.partition("=")[2] for p in two_days.day2.files}
    return sorted(days)


def test_the_second_day_moves_the_world(two_days: TwoDays) -> None:
    first, second = map(date.fromisoformat, two_days_dates(two_days))
    assert (second - first).days == 1
    assert sum(two_days.day2.rows.values()) > sum(two_days.day1.rows.values())


def test_older_objects_are_untouched(two_days: TwoDays) -> None:
    assert two_days.day1.files.items() <= two_days.day2.files.items()
    new = two_days.day2.files.keys() - two_days.day1.files.keys()
    assert len(new) == len(load_sources())  # one object a table and day


@pytest.mark.parametrize("table", load_sources(), ids=lambda t: t.name)
def test_every_landed_record_is_in_staging_once(two_days: TwoDays, table: TableConfig) -> None:
    with duckdb.connect(str(two_days.day2.warehouse), read_only=True) as connection:
        model = f"staging.stg_{table.source}__{table.table}"
        keys = ", ".join(table.key)
        landed = connection.execute(
            f"select count(*) from (select distinct {keys} from ({rows_of(two_days.pipeline.lake, table)}))"
        ).fetchone()[0]
        staged = connection.execute(f"select count(*) from {model}").fetchone()[0]
    assert staged == landed


def test_verify_agrees_with_the_live_source(two_days: TwoDays) -> None:
    said = two_days.pipeline.run(sys.executable, "-m", "ingestion", "verify")
    tables = [json.loads(line) for line in said.splitlines()]
    assert {t["event"] for t in tables} == {"verified"}
    assert all(t["findings"] == {} and t["batches"] == 2 for t in tables)
    assert sum(t["source_rows"] or 0 for t in tables) > 10_000
    assert sum(t["newer_in_source"] for t in tables) == 0


def compare_warehouses(
    first: Path, second: Path, schemas: tuple[str, ...], at_least: int = 30, aside: str = ""
) -> dict[str, tuple[int, int]]:
    """Rows only in the first and only in the second, of every table and view in these schemas.

    Columns whose names match the pattern `aside` are not compared.
    """
    chosen = f"columns(lambda c: not regexp_full_match(c, '{aside}'))"
    with duckdb.connect() as connection:
        connection.execute(f"attach '{first}' as one (read_only)")
        connection.execute(f"attach '{second}' as two (read_only)")
        names = connection.execute(
            "select table_schema || '.' || table_name from information_schema.tables"
            " where table_catalog = 'one' and list_contains(?, table_schema) order by 1",
            [list(schemas)],
        ).fetchall()
        result = {}
        for (name,) in names:
            counts = [
                connection.execute(
                    f"select count(*) from"
                    f" (select {chosen} from {a}.{name} except all select {chosen} from {b}.{name})"
                ).fetchone()[0]
                for a, b in (("one", "two"), ("two", "one"))
            ]
            result[name] = tuple(counts)
    assert len(result) >= at_least
    return result


def rebuild(pipeline: Pipeline, name: str, **settings: str) -> Path:
    """Build the whole warehouse again from the lake, elsewhere."""
    warehouse = pipeline.folder / f"warehouse_{name}.duckdb"
    pipeline.run(str(DBT), "build", *WITHOUT_TESTS, WAREHOUSE=str(warehouse), **settings)
    return warehouse


def test_two_increments_equal_one_full_build(two_days: TwoDays) -> None:
    again = rebuild(two_days.pipeline, "in_full")
    compared = compare_warehouses(
        two_days.day2.warehouse, again, ("staging", "quarantine", "intermediate", "marts")
    )
    assert {name: counts for name, counts in compared.items() if counts != (0, 0)} == {}


def test_a_build_as_of_the_first_day_gives_the_first_day(synthetic: TwoDays) -> None:
    again = rebuild(synthetic.pipeline, "as_of_first", AS_OF_DATE=two_days_dates(synthetic)[0])
    compared = compare_warehouses(
        synthetic.day1.warehouse, again, ("staging", "quarantine", "intermediate", "marts")
    )
    assert {name: counts for name, counts in compared.items() if counts != (0, 0)} == {}


def test_building_twice_changes_nothing(synthetic: TwoDays) -> None:
    synthetic.pipeline.dbt("build", *WITHOUT_TESTS)
    compared = compare_warehouses(
        synthetic.day2.warehouse,
        synthetic.pipeline.warehouse,
        ("staging", "quarantine", "intermediate", "marts", "snapshots"),
    )
    assert {name: counts for name, counts in compared.items() if counts != (0, 0)} == {}


def test_snapshots_keep_the_versions_of_both_days(synthetic: TwoDays) -> None:
    with duckdb.connect(str(synthetic.day2.warehouse), read_only=True) as connection:
        for snapshot, key in (("customers_snapshot", "customer_id"), ("credit_orders_snapshot", "order_id")):
            versions, current, keys = connection.execute(
                f"select count(*), count(*) filter (where dbt_valid_to is null), count(distinct {key})"
                f" from snapshots.{snapshot}"
            ).fetchone()
            assert current == keys
            if snapshot == "credit_orders_snapshot":
                assert versions > current, "no order changed on the second day"


def test_a_second_build_of_an_older_day_is_refused(synthetic: TwoDays) -> None:
    pipeline: Pipeline = synthetic.pipeline
    done = pipeline.try_run(
        str(DBT), "build", "--select", "quarantine", "staging", AS_OF_DATE=two_days_dates(synthetic)[0]
    )
    assert done.returncode != 0
    assert "--full-refresh" in done.stdout


PERSONAL = ("cpf", "email", "full_name", "phone", "birth_date")
FORMATTED_CPF = "cpf[1:3] || '.' || cpf[4:6] || '.' || cpf[7:9] || '-' || cpf[10:11]"


def personal_data_in_marts(warehouse: Path) -> set[tuple[str, str]]:
    """The columns of marts in which somebody's data stand: as the whole value, or within a text."""
    values = " union ".join(f"select cast({c} as varchar) from staging.stg_app__customers" for c in PERSONAL)
    values += f" union select {FORMATTED_CPF} from staging.stg_app__customers"
    with duckdb.connect() as connection:
        connection.execute(f"attach '{warehouse}' as built (read_only)")
        connection.execute("use built")
        connection.execute(
            "create temp table secrets as"
            f" select lower(value) as value from ({values}) as known (value) where value is not null"
        )
        assert connection.execute("select count(*) from secrets").fetchone()[0] > 0
        marts = connection.execute(
            "select table_name, column_name, data_type from information_schema.columns"
            " where table_catalog = 'built' and table_schema = 'marts'"
        ).fetchall()
        assert marts
        leaks = set()
        for table, column, data_type in marts:
            found = f"select distinct lower(cast({column} as varchar)) as value from marts.{table}"
            whole = f"select value from ({found}) intersect select value from secrets"
            # a number or a time holds a name no more than a key does: texts alone are searched
            within = (
                f"select 1 from ({found}) as found join secrets on contains(found.value, secrets.value)"
                " where length(secrets.value) >= 6"
            )
            queries = [whole] if data_type != "VARCHAR" else [whole, within]
            if any(connection.execute(f"{query} limit 1").fetchone() for query in queries):
                leaks.add((table, column))
    return leaks


def test_marts_hold_no_clear_personal_data(synthetic: TwoDays) -> None:
    assert personal_data_in_marts(synthetic.day2.warehouse) == set()


@pytest.mark.parametrize("leak", [*PERSONAL, "'~ ' || full_name || ' ~'", "'+' || email", FORMATTED_CPF])
def test_personal_data_in_a_mart_are_found(synthetic: TwoDays, tmp_path: Path, leak: str) -> None:
    damaged = tmp_path / "damaged.duckdb"
    with duckdb.connect(str(damaged)) as connection:
        connection.execute(f"attach '{synthetic.day2.warehouse}' as built (read_only)")
        connection.execute("create schema staging")
        connection.execute("create schema marts")
        connection.execute("create table staging.stg_app__customers as from built.staging.stg_app__customers")
        connection.execute(
            f"create table marts.leaking as select customer_id, {leak} as harmless"
            " from built.staging.stg_app__customers where phone is not null and birth_date is not null limit 3"
        )
    assert personal_data_in_marts(damaged) == {("leaking", "harmless")}


def test_the_manifest_has_no_warning(two_days: TwoDays) -> None:
    results = json.loads((two_days.pipeline.folder / "target" / "run_results.json").read_text())
    # An exposure is not built.
    built = [r for r in results["results"] if not r["unique_id"].startswith("exposure.")]
    assert [r["unique_id"] for r in built if r["status"] not in ("success", "pass")] == []
