"""The whole project on Athena (the local one: a real Trino) and on DuckDB: the same rows, value by value.

`make soak-warehouse-athena` is the long form: two seeds and the real bank, and a full refresh besides.
"""

import json
import os
import threading
from collections.abc import Callable

import duckdb
import pytest
from athena_equality import WITHOUT_TESTS, BothEngines
from conftest import DBT, Pipeline

from sandbox.aws.control import LocalAws

pytest_plugins = ["sandbox.aws.pytest_plugin"]
FULL = os.environ.get("ATHENA_EQUALITY") == "full"
WORLDS = ["synthetic-7", "synthetic-8", "berka"] if FULL else ["synthetic-7"]
SCALE = "0.05" if FULL else "0.01"


@pytest.fixture(scope="module", params=WORLDS)
def both(
    request: pytest.FixtureRequest, new_pipeline: Callable[..., Pipeline], local_aws: LocalAws
) -> BothEngines:
    """A world after its first day, built on both engines with all its tests."""
    world, _, seed = request.param.partition("-")
    files = {"BERKA_DIR": str(request.getfixturevalue("berka_files"))} if world == "berka" else {}
    # One Glue for all: what a world before this one left goes.
    glue = local_aws.client("glue")
    for database in glue.get_databases()["DatabaseList"]:
        glue.delete_database(Name=database["Name"])
    both = BothEngines(new_pipeline(world, **files), local_aws, f"equality-{request.param}")
    both.pipeline.patience = 3600
    dirty = f"--seed {seed} --scale {SCALE} --dirt 0.05 --deletes".split() if seed else []
    both.pipeline.sandbox("up", *dirty)
    both.land()
    both.build(*(() if FULL else WITHOUT_TESTS))
    return both


def compared(both: BothEngines) -> None:
    rows = both.compare()
    assert sum(rows.values()) > 1000
    empty = {name for name, count in rows.items() if not count}
    print(f"{len(rows)} tables, {sum(rows.values())} rows; empty: {sorted(empty)}")
    if both.pipeline.world == "synthetic":
        assert {name for name in empty if not name.startswith("quarantine.")} == set()
        assert any(name.startswith("quarantine.") for name in rows.keys() - empty)


def test_after_the_first_day_the_rows_are_the_same(both: BothEngines) -> None:
    compared(both)


def test_after_the_second_day_the_rows_are_the_same(both: BothEngines) -> None:
    both.pipeline.sandbox("advance")
    both.land("--reconcile")
    both.build("--exclude-resource-type", "unit_test", *(() if FULL else ("test",)))
    compared(both)


@pytest.mark.skipif(not FULL, reason="part of the long form, make soak-warehouse-athena")
def test_after_a_full_refresh_the_rows_are_the_same(both: BothEngines) -> None:
    both.build(*WITHOUT_TESTS, "--full-refresh", "--exclude", "config.materialized:snapshot")
    compared(both)


def test_tables_are_where_the_layout_says(both: BothEngines) -> None:
    places = {key.split("/")[1] for key in both.keys("lake/")}
    assert {"raw", "processed", "curated"} <= places
    glue = both.aws.client("glue")
    for name in both.relations():
        schema, _, table = name.partition(".")
        found = glue.get_table(DatabaseName=schema, Name=table)["Table"]
        assert found["Description"], name
        if found["TableType"] != "VIRTUAL_VIEW":
            assert found["Parameters"]["table_type"].upper() == "ICEBERG", name


def test_a_reader_never_finds_a_table_missing_or_half_made(both: BothEngines) -> None:
    marts = ["marts.monthly_cash_flow", "marts.approval_funnel"]
    count = f"select {', '.join(f'(select count(*) from {mart})' for mart in marts)}"
    done, answers, errors = threading.Event(), [], []

    def read() -> None:
        while not done.is_set():
            try:
                _, key = both.query(count)
                body = both.aws.client("s3").get_object(Bucket=both.bucket, Key=key)["Body"].read()
                answers.append(body.splitlines()[1])
            except AssertionError as error:
                errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(5 if FULL else 1):
            both.pipeline.run(
                str(DBT), "run", "--select", "monthly_cash_flow", "approval_funnel", **both.on_athena
            )
    finally:
        done.set()
        reader.join()
    assert errors == []
    assert len(answers) > 3
    assert len(set(answers)) == 1


def test_nothing_is_deleted_outside_of_a_folder_that_dbt_made(both: BothEngines) -> None:
    """dbt-labs/dbt-athena#776: a table whose location is the whole lake, and a bucket that was lost."""
    glue = both.aws.client("glue")
    taken = [
        t for t in glue.get_tables(DatabaseName="tables")["TableList"] if "approval_funnel__" in t["Name"]
    ]
    before = both.keys()
    for location in (f"{both.lake}/curated/", both.lake, f"s3://{both.bucket}"):
        for table in taken:
            wrong = {k: table[k] for k in ("Name", "TableType", "Parameters", "StorageDescriptor")}
            wrong["StorageDescriptor"] = wrong["StorageDescriptor"] | {"Location": location}
            glue.update_table(DatabaseName="tables", TableInput=wrong)
        run = both.pipeline.try_run(str(DBT), "run", "--select", "approval_funnel", **both.on_athena)
        assert run.returncode != 0
        assert "it is not dropped" in run.stdout
        kept = set(both.keys())
        assert set(before) <= kept
    for table in taken:
        whole = {k: table[k] for k in ("Name", "TableType", "Parameters", "StorageDescriptor")}
        glue.update_table(DatabaseName="tables", TableInput=whole)
    both.pipeline.run(str(DBT), "run", "--select", "approval_funnel", **both.on_athena)


def test_freshness_is_that_of_the_newest_batch(both: BothEngines) -> None:
    said = both.pipeline.run(str(DBT), "source", "freshness", **both.on_athena)
    assert "PASS" in said


def test_words_of_packages_that_athena_lacks_have_a_version_for_it(both: BothEngines) -> None:
    query = """
        select
            count(*) as products,
            {{ athena__regexp_instr("'ana@mail.example'", '@[a-z]') }} as found_at,
            {{ athena__regexp_instr("'ana'", '@') }} as nowhere,
            cast({{ athena__convert_timezone("timestamp '2025-12-31 12:00:00'", 'America/Sao_Paulo', 'UTC') }} as varchar)
                as there
        from ({{ athena__deduplicate(ref('product_mapping'), 'product', 'source_value') }})
        """
    said = both.pipeline.run(
        str(DBT), "--quiet", "show", "--inline", query, "--output", "json", **both.on_athena
    )
    shown = json.loads(said[said.index("{") :])["show"]
    with duckdb.connect(str(both.pipeline.warehouse), read_only=True) as connection:
        products = connection.execute(
            "select count(distinct product) from reference.product_mapping"
        ).fetchone()
    assert shown == [
        {"products": products[0], "found_at": 4, "nowhere": 0, "there": "2025-12-31 09:00:00.000"}
    ]  # fmt: skip


@pytest.mark.skipif(not FULL, reason="part of the long form, make soak-warehouse-athena")
def test_maintenance_changes_no_row(both: BothEngines) -> None:
    both.pipeline.run(str(DBT), "run-operation", "maintain", **both.on_athena)
    compared(both)
