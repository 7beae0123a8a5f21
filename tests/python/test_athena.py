"""The whole project on Athena (the local one: a real Trino) and on DuckDB: the same rows, value by value.

`make test-athena` runs this, as the gate does: it is not part of `make test`. With ATHENA_EQUALITY=full the worlds
are larger, all tests of dbt run in each build. ATHENA_MODELS is for `python -m tests.guards`: a world with only these
tables and what they need, in place of the marts, and only on Athena, for tests that need no more.
"""

import json
import os
import random
import secrets
import shutil
import subprocess
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import athena_kills
import duckdb
import pytest
from athena_worlds import A_FEW, WITHOUT_TESTS, BothEngines
from conftest import DBT

pytest_plugins = ["sandbox.aws.pytest_plugin", "athena_worlds"]
pytestmark = pytest.mark.athena

FULL = os.environ.get("ATHENA_EQUALITY") == "full"
SCALE = "0.1" if FULL else "0.02"
MARTS = A_FEW or ["marts"]
A_MART = A_FEW[0] if A_FEW else "approval_funnel"
WITH_PARENTS = [f"+{model}" for model in MARTS]
# The first world is built with all tests of dbt, unit tests too.
FIRST = ("synthetic-7", SCALE, *((*WITHOUT_TESTS, "--select", *WITH_PARENTS) if A_FEW else ()))
WORLDS = [
    FIRST,
    ("synthetic-8", SCALE, *(() if FULL else WITHOUT_TESTS)),
    ("berka", "", *(() if FULL else WITHOUT_TESTS)),
]
every_world = pytest.mark.parametrize("both", WORLDS, indirect=True, ids=lambda world: world[0])
one_world = pytest.mark.parametrize("both", [FIRST], indirect=True, ids=lambda world: world[0])


def compared(both: BothEngines) -> None:
    rows = both.compare()
    assert sum(rows.values()) > 1000
    empty = {name for name, count in rows.items() if not count}
    print(f"{len(rows)} tables, {sum(rows.values())} rows; empty: {sorted(empty)}")
    if both.pipeline.world == "synthetic":
        assert {name for name in empty if not name.startswith("quarantine.")} == set()
        assert any(name.startswith("quarantine.") for name in rows.keys() - empty)


@every_world
def test_after_the_first_day_the_rows_are_the_same(both: BothEngines) -> None:
    compared(both)


@every_world
def test_after_the_second_day_the_rows_are_the_same(both: BothEngines) -> None:
    both.pipeline.sandbox("advance")
    both.land("--reconcile")
    both.build("--exclude-resource-type", "unit_test", *(() if FULL else ("test",)))
    compared(both)


@every_world
def test_after_a_full_refresh_the_rows_are_the_same(both: BothEngines) -> None:
    both.build(*WITHOUT_TESTS, "--full-refresh", "--exclude", "config.materialized:snapshot")
    compared(both)


@one_world
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


@one_world
def test_a_reader_never_finds_a_mart_missing_or_half_made(both: BothEngines) -> None:
    """Four clients ask every mart again and again while it is rebuilt five times: each answer is the one before."""
    marts = [name for name in both.relations("model") if set(name.split(".")) & set(MARTS)]
    asked = {mart: f"select count(*), {checksum(both, mart)} from {mart}" for mart in marts}
    before = {mart: both.rows(sql) for mart, sql in asked.items()}
    places = [tables_behind(both, mart) for mart in marts]
    done, problems, reads = threading.Event(), [], 0

    def read(client: int) -> int:
        answers = 0
        while not done.is_set():
            for mart in marts[client:] + marts[:client]:
                try:
                    if (found := both.rows(asked[mart])) != before[mart]:
                        problems.append((mart, found))
                except AssertionError as error:
                    problems.append((mart, str(error)))
                answers += 1
                if done.is_set():
                    break
        return answers

    with ThreadPoolExecutor(4) as clients:
        reading = [clients.submit(read, client * len(marts) // 4) for client in range(4)]
        try:
            for _ in range(5):
                assert problems == []
                both.athena("run", "--select", *MARTS)
        finally:
            done.set()
        reads = sum(each.result() for each in reading)
    assert problems == []
    print(f"{reads} reads of {len(marts)} marts")
    assert reads > 5 * len(marts)
    for mart, there in zip(marts, places, strict=True):
        assert tables_behind(both, mart).isdisjoint(there), f"{mart} was not rebuilt"


def checksum(both: BothEngines, name: str) -> str:
    """An expression of all rows of a table; of doubles whether they are null, for the last digit of a sum may vary."""
    database, _, table = name.partition(".")
    described = both.aws.client("glue").get_table(DatabaseName=database, Name=table)["Table"]
    columns = [
        f"{column['Name']} is null" if "double" in column["Type"] else column["Name"]
        for column in described["StorageDescriptor"]["Columns"]
    ]
    return f"to_hex(checksum(row({', '.join(columns)})))"


def tables_behind(both: BothEngines, mart: str) -> set[str]:
    """Where the two tables are that a mart's view shows in turn."""
    name, glue = mart.replace(".", "__"), both.aws.client("glue")
    pages = glue.get_paginator("get_tables").paginate(DatabaseName="tables", Expression=f"{name}__[ab]")
    return {table["StorageDescriptor"]["Location"] for page in pages for table in page["TableList"]}


@one_world
def test_of_builds_that_begin_at_once_one_goes_on_and_the_others_are_refused(both: BothEngines) -> None:
    for_long = both.on_athena | {"BUILD_LEASE_SECONDS": "2000"}

    def begin(number: int) -> subprocess.CompletedProcess:
        target = {"DBT_TARGET_PATH": str(both.pipeline.folder / f"target-{number}")}
        Path(target["DBT_TARGET_PATH"]).mkdir()
        parsed = both.pipeline.folder / "target-athena" / "partial_parse.msgpack"
        shutil.copy(parsed, target["DBT_TARGET_PATH"])
        return both.pipeline.try_run(str(DBT), "run-operation", "begin_build", **for_long | target)

    with ThreadPoolExecutor(3) as threads:
        begun = list(threads.map(begin, range(3)))
    refused = [each.stdout for each in begun if each.returncode]
    assert len(refused) == 2, [each.stdout for each in begun]
    assert all("another build is at work" in said or "ICEBERG_COMMIT_ERROR" in said for said in refused)

    # That one is as good as killed: it never says again that it is there, nor that it has ended.
    held = both.rows("select build from tables.build_lease")
    assert len(held) == 1
    run = both.pipeline.try_run(str(DBT), "run", "--select", A_MART, **for_long)
    assert run.returncode != 0
    assert f"dbt invocation {held[0].strip(chr(34))}" in run.stdout
    both.statement("update tables.build_lease set heard_of = heard_of - interval '2000' second")
    both.pipeline.run(str(DBT), "run", "--select", A_MART, **for_long)
    assert both.rows("select build from tables.build_lease") == ['""']


@one_world
def test_a_build_that_was_taken_for_dead_ends(both: BothEngines) -> None:
    """Nothing was heard of it for a lease's time, another build began: the two must not go on beside each other."""
    with ThreadPoolExecutor(1) as threads:
        building = threads.submit(
            lambda: both.pipeline.try_run(
                *(str(DBT), "run", "--threads", "1", "--select", *WITH_PARENTS),
                **both.on_athena | {"BUILD_LEASE_SECONDS": "6"},
            )
        )
        while not building.done() and both.rows("select build from tables.build_lease") == ['""']:
            time.sleep(0.1)
        both.statement("update tables.build_lease set build = 'another'")
        ended = building.result()
    assert ended.returncode != 0
    assert "another build has taken over" in ended.stdout
    assert "OK created" not in ended.stdout.partition("ERROR creating")[2]
    assert both.rows("select build from tables.build_lease") == ['"another"']
    both.athena("run-operation", "end_other_build")
    both.athena("run", "--select", *MARTS)


@one_world
def test_nothing_is_deleted_outside_of_a_folder_that_dbt_made(both: BothEngines) -> None:
    """dbt-labs/dbt-athena#776: a table whose location is the whole lake, and a bucket that was lost."""
    both.athena("run", "--select", A_MART)  # so that there are two tables
    glue = both.aws.client("glue")
    taken = [t for t in glue.get_tables(DatabaseName="tables")["TableList"] if f"__{A_MART}__" in t["Name"]]
    assert len(taken) == 2
    before = both.keys()
    for location in (f"{both.lake}/curated/", both.lake, f"s3://{both.bucket}"):
        for table in taken:
            wrong = {k: table[k] for k in ("Name", "TableType", "Parameters", "StorageDescriptor")}
            wrong["StorageDescriptor"] = wrong["StorageDescriptor"] | {"Location": location}
            glue.update_table(DatabaseName="tables", TableInput=wrong)
        run = both.pipeline.try_run(str(DBT), "run", "--select", A_MART, **both.on_athena)
        assert run.returncode != 0
        assert "it is not dropped" in run.stdout
        assert set(before) <= set(both.keys())
    for table in taken:
        whole = {k: table[k] for k in ("Name", "TableType", "Parameters", "StorageDescriptor")}
        glue.update_table(DatabaseName="tables", TableInput=whole)
    both.athena("run", "--select", A_MART)


@one_world
def test_a_day_of_a_year_of_events_reads_a_hundredth_of_it_at_most(both: BothEngines) -> None:
    """A year of days, each with the objects of one real day, in a table that is as ingestion makes it."""
    s3, glue = both.aws.client("s3"), both.aws.client("glue")
    landed = [key for key in both.keys("lake/raw/app_log/events/") if key.endswith(".parquet")]
    last = date.fromisoformat(landed[-1].split("extract_date=")[1][:10])
    days = [last - timedelta(days=n) for n in range(365)]
    for day in days:
        s3.copy_object(
            Bucket=both.bucket,
            Key=f"year/extract_date={day}/events.parquet",
            CopySource={"Bucket": both.bucket, "Key": landed[-1]},
        )
    table = glue.get_table(DatabaseName="raw", Name="events")["Table"]
    year = {
        key: table[key] for key in ("Name", "TableType", "Parameters", "StorageDescriptor", "PartitionKeys")
    }
    year["StorageDescriptor"] |= {"Location": f"s3://{both.bucket}/year/"}
    year["Parameters"] |= {
        "projection.extract_date.range": f"{days[-1]},{days[0]}",
        "storage.location.template": f"s3://{both.bucket}/year/extract_date=${{extract_date}}",
    }
    glue.create_database(DatabaseInput={"Name": "year"})
    glue.create_table(DatabaseName="year", TableInput=year)

    def scanned(condition: str) -> int:
        query_id = both.statement(
            f"select count(*), max(event_id), max(properties) from year.events where {condition}"
        )
        found = both.aws.client("athena").get_query_execution(QueryExecutionId=query_id)
        return found["QueryExecution"]["Statistics"]["DataScannedInBytes"]

    whole, one = scanned("true"), scanned(f"extract_date = '{days[100]}'")
    print(f"a day reads {one:,} of a year's {whole:,} bytes")
    assert 0 < one <= whole / 100


@one_world
def test_freshness_is_that_of_the_newest_batch(both: BothEngines) -> None:
    assert "PASS" in both.athena("source", "freshness")


@one_world
def test_words_of_packages_that_athena_lacks_have_a_version_for_it(both: BothEngines) -> None:
    query = """
        select
            count(*) as products,
            {{ athena__regexp_instr("'ana@mail.example'", '@[a-z]') }} as found_at,
            {{ athena__regexp_instr("'ana'", '@') }} as nowhere,
            {{ athena__quantile('length(source_value)', 0.3) }} as quantile,
            (
                select sum(diff_count)
                from ({{ athena__test_equal_rowcount(ref('product_mapping'), ref('product_terms'), ['product']) }})
            ) as apart,
            cast({{ athena__convert_timezone("timestamp '2025-12-31 12:00:00'", 'America/Sao_Paulo', 'UTC') }} as varchar)
                as there
        from ({{ athena__deduplicate(ref('product_mapping'), 'product', 'source_value') }})
        """
    said = both.athena("--quiet", "show", "--inline", query, "--output", "json")
    shown = json.loads(said[said.index("{") :])["show"]
    with duckdb.connect(str(both.pipeline.warehouse), read_only=True) as connection:
        products, quantile, apart = connection.execute(
            """
            select
                (select count(distinct product) from reference.product_mapping),
                (select quantile_cont(length(source_value), 0.3) from reference.product_mapping),
                (
                    select sum(abs(coalesce(m.n, 0) - coalesce(t.n, 0)))
                    from (select product, count(*) as n from reference.product_mapping group by 1) as m
                    full join (select product, count(*) as n from reference.product_terms group by 1) as t
                        using (product)
                )
            """
        ).fetchone()
    assert apart > 0
    assert shown == [
        {"products": products, "found_at": 4, "nowhere": 0, "quantile": pytest.approx(quantile), "apart": apart,
         "there": "2025-12-31 09:00:00.000"}
    ]  # fmt: skip


@one_world
def test_no_test_is_used_that_athena_has_no_words_for(both: BothEngines) -> None:
    """It cannot be replaced, and groups by an alias: docs/athena.md says what to use instead."""
    manifest = json.loads((both.pipeline.folder / "target-athena" / "manifest.json").read_text())
    used = {node["test_metadata"]["name"] for node in manifest["nodes"].values() if node.get("test_metadata")}
    assert used
    assert "expect_row_values_to_have_data_for_every_n_datepart" not in used


@one_world
def test_maintenance_and_clean_up_leave_no_object_that_no_table_refers_to(both: BothEngines) -> None:
    """With what is left by a merge, a change of the lease and a table that Athena did not live to commit."""
    glue, s3 = both.aws.client("glue"), both.aws.client("s3")

    def folder(database: str, table: str) -> str:
        location = glue.get_table(DatabaseName=database, Name=table)["Table"]["StorageDescriptor"]["Location"]
        return location.removeprefix(f"s3://{both.bucket}/").rstrip("/")

    (mart,) = (name for name in both.relations("model") if name.endswith(f".{A_MART}"))
    merged, lease = folder("staging", "stg_app__credit_orders"), folder("tables", "build_lease")
    lost = f"{folder('tables', mart.replace('.', '__') + '__a').rpartition('/')[0]}/{uuid.uuid4()}"
    left = [
        f"{place}/{each}"
        for place in (merged, lease, lost)
        for each in (f"data/{uuid.uuid4()}.parquet", f"metadata/{uuid.uuid4()}-m0.avro")
    ]
    for key in left:
        s3.put_object(Bucket=both.bucket, Key=key, Body=b"half of a file")
    asked = f"select count(*), {checksum(both, 'staging.stg_app__credit_orders')} from staging.stg_app__credit_orders"
    before = both.rows(asked)
    assert set(left) <= set(athena_kills.unreferenced(both))
    athena_kills.maintain(both)
    assert athena_kills.unreferenced(both) == []
    assert both.rows(asked) == before


@one_world
def test_after_killed_builds_the_next_gives_the_rows_of_an_undisturbed_one(both: BothEngines) -> None:
    """Killed twice in one day. The last one of this world, which goes on: `make soak-athena-kills` at length."""
    seed = secrets.randbelow(2**31)
    print(f"seed {seed}")
    chance = random.Random(seed)
    athena_kills.next_day(both)
    for victim in (athena_kills.DBT_KILLED, athena_kills.TRINO_KILLED):
        said, killed = athena_kills.build_killed(both, victim, chance)
        print(f"{victim} killed {said}")
        athena_kills.wait_for_lease(killed)
    assert sum(athena_kills.build_again(both, killed).values()) > 1000
    athena_kills.maintain(both)
    assert athena_kills.unreferenced(both) == []
    compared(both)
