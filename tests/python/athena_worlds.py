"""Worlds on both engines: landed on S3 of the local AWS and in a folder, built by dbt on Athena and on DuckDB.

A plugin of pytest: its fixture `both` is a world after its first day. There is one Glue catalogue, so there is one
world at a time.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import DBT, Pipeline

from sandbox.aws.control import LocalAws

WITHOUT_TESTS = ("--exclude-resource-type", "test", "unit_test")
LEASE_SECONDS = 20
# The first world has only these models and what they need, on Athena: for the guards of tests that need no more.
A_FEW = os.environ.get("ATHENA_MODELS", "").split()
# What differs by design: dbt's adapters hash a snapshot's version to lower and to upper case hex.
ASIDE = {"dbt_scd_id"}
# Sums of doubles depend on their order: the last digits are not compared.
TOLERANCE = 1e-12


@dataclass
class BothEngines:
    """A world landed on S3 and registered in Glue, and its two warehouses; the lake's copy is DuckDB's."""

    pipeline: Pipeline
    aws: LocalAws
    bucket: str
    queries: list[str] = field(default_factory=list)
    """Ids of the queries that `query` ran on Athena."""

    def __post_init__(self) -> None:
        self.aws.client("s3").create_bucket(Bucket=self.bucket)
        self.pipeline.settings |= self.aws.environment

    @property
    def lake(self) -> str:
        """Where the lake is on S3."""
        return f"s3://{self.bucket}/lake"

    def land(self, *arguments: str) -> None:
        """Land on S3, and copy what is new to the folder that DuckDB reads."""
        self.pipeline.settings |= {"LAKE": self.lake, "GLUE_DATABASE": "raw"}
        self.pipeline.ingest(*arguments)
        del self.pipeline.settings["LAKE"]
        for key in self.keys("lake/raw/"):
            copy = self.pipeline.folder / key
            if not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                self.aws.client("s3").download_file(self.bucket, key, str(copy))

    def keys(self, prefix: str = "") -> list[str]:
        """What is in the bucket."""
        pages = self.aws.client("s3").get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix
        )  # fmt: skip
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]

    @property
    def on_athena(self) -> dict[str, str]:
        """The settings that send dbt to Athena, with files of its own beside DuckDB's."""
        folder = self.pipeline.folder
        return {
            "DBT_TARGET": "athena",
            "LAKE": self.lake,
            "DBT_TARGET_PATH": str(folder / "target-athena"),
            "DBT_LOG_PATH": str(folder / "logs-athena"),
            "ATHENA_POLL_SECONDS": "0.1",
            "BUILD_LEASE_SECONDS": str(LEASE_SECONDS),
        }

    def athena(self, *arguments: str) -> str:
        """Run dbt on Athena; what it printed."""
        return self.pipeline.run(str(DBT), *arguments, **self.on_athena)

    def build(self, *arguments: str) -> None:
        """Build both warehouses."""
        for settings in ({}, self.on_athena):
            began = time.monotonic()
            self.pipeline.run(str(DBT), "build", *arguments, **settings)
            print(f"dbt build on {settings.get('DBT_TARGET', 'duckdb')}: {time.monotonic() - began:.0f} s")

    def relations(self, *kinds: str) -> list[str]:
        """`schema.table` of every model, snapshot and seed, from dbt's manifest."""
        manifest = json.loads((self.pipeline.folder / "target-athena" / "manifest.json").read_text())
        return sorted(
            f"{node['schema']}.{node['alias']}"
            for node in manifest["nodes"].values()
            if node["resource_type"] in (kinds or ("model", "snapshot", "seed"))
            and node["config"]["materialized"] != "ephemeral"
        )

    def statement(self, sql: str) -> str:
        """Run a statement on Athena; its id."""
        athena = self.aws.client("athena")
        query_id = athena.start_query_execution(
            QueryString=sql, ResultConfiguration={"OutputLocation": f"s3://{self.bucket}/results/"}
        )["QueryExecutionId"]
        while True:
            execution = athena.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]
            if execution["Status"]["State"] in ("SUCCEEDED", "FAILED", "CANCELLED"):
                break
            time.sleep(0.02)
        assert execution["Status"]["State"] == "SUCCEEDED", (sql, execution["Status"])
        self.queries.append(query_id)
        return query_id

    def query(self, sql: str) -> tuple[str, str]:
        """Run a query on Athena; its id, and the key of its result file."""
        query_id = self.statement(sql)
        return query_id, f"results/{query_id}.csv"

    def rows(self, sql: str) -> list[str]:
        """The lines of a query's result file, without its header."""
        _, key = self.query(sql)
        body = self.aws.client("s3").get_object(Bucket=self.bucket, Key=key)["Body"].read().decode()
        return body.splitlines()[1:]

    def compare(self, names: Iterable[str] = ()) -> dict[str, int]:
        """Rows of every relation, or of these, that are the same on both engines; fails where one is not."""
        rows, different = {}, {}
        with _connected(self.pipeline.warehouse) as connection:
            for name in names or self.relations():
                rows[name], differences = self._compare(connection, name)
                if differences:
                    different[name] = differences
        assert not different, different
        return rows

    def _compare(self, connection: duckdb.DuckDBPyConnection, name: str) -> tuple[int, list[Any]]:
        described = connection.execute(f"describe built.{name}").fetchall()
        types = {column: kind for column, kind, *_ in described if column not in ASIDE}
        lists = {column for column, kind in types.items() if kind.endswith("[]")}
        asked = [f"json_format(cast({c} as json)) as {c}" if c in lists else c for c in types]
        query_id, key = self.query(f"select {', '.join(asked)} from {name}")
        result = self.pipeline.folder / "result.csv"
        self.aws.client("s3").download_file(self.bucket, key, str(result))
        casts = [f"cast({c} as {'varchar' if c in lists else kind}) as {c}" for c, kind in types.items()]
        connection.execute(
            f"create or replace table athena as select {', '.join(casts)} from read_csv('{result}', header = true,"
            " all_varchar = true, quote = '\"', escape = '\"', nullstr = '', allow_quoted_nulls = false,"
            " strict_mode = true, parallel = false)"
        )
        kept = [f"cast(to_json({c}) as varchar) as {c}" if c in lists else c for c in types]
        connection.execute(f"create or replace table local as select {', '.join(kept)} from built.{name}")
        count, there = (
            connection.execute(f"select count(*) from {table}").fetchone()[0] for table in ("local", "athena")
        )
        differences = connection.execute(_differences(types)).fetchmany(3)
        if differences or there != count:
            print(f"{name}: {count} rows on DuckDB, {there} on Athena (query {query_id}): {differences}")
            differences = differences or [(count, there)]
        else:
            print(f"{name}: {count} rows, the same on both (query {query_id})")
        return count, differences


def _differences(types: dict[str, str]) -> str:
    """A query of the rows of `local` and `athena` that the other lacks; doubles may differ in the last digits."""
    exact = [column for column, kind in types.items() if kind != "DOUBLE"]
    doubles = [column for column, kind in types.items() if kind == "DOUBLE"]
    order = f" order by {', '.join(doubles)}" if doubles else ""
    numbered = (
        f"select *, row_number() over (partition by {', '.join(exact)}{order}) as nth, true as is_there from "
    )
    same = " and ".join(f"l.{column} is not distinct from a.{column}" for column in [*exact, "nth"])
    unlike = [
        f"(l.{c} is null) <> (a.{c} is null) or abs(l.{c} - a.{c}) > {TOLERANCE} * greatest(abs(l.{c}), 1)"
        for c in doubles
    ]
    wrong = " or ".join(["l.is_there is null", "a.is_there is null", *unlike])
    return f"select l.*, a.* from ({numbered} local) as l full join ({numbered} athena) as a on {same} where {wrong}"


@contextmanager
def _connected(warehouse: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute(f"attach '{warehouse}' as built (read_only)")
        yield connection


def landed(
    new_pipeline: Callable[..., Pipeline], aws: LocalAws, world: str, scale: str, **settings: str
) -> BothEngines:
    """A world, `berka` or `synthetic-<seed>`, after its first day, that no engine has built yet."""
    world, _, seed = world.partition("-")
    glue = aws.client("glue")
    for database in glue.get_databases()["DatabaseList"]:
        glue.delete_database(Name=database["Name"])  # of a world before this one
    both = BothEngines(
        new_pipeline(world, **settings), aws, f"both-{world}-{seed or 'real'}-{time.time_ns()}"
    )
    both.pipeline.patience = 3600
    dirty = f"--seed {seed} --scale {scale} --dirt 0.05 --deletes".split() if seed else []
    both.pipeline.sandbox("up", *dirty)
    both.land()
    return both


@pytest.fixture(scope="module")
def both(
    request: pytest.FixtureRequest, new_pipeline: Callable[..., Pipeline], local_aws: LocalAws
) -> Iterator[BothEngines]:
    """The world that the test's parameter names, after its first day on both engines."""
    world, scale, *arguments = request.param
    files = {"BERKA_DIR": str(request.getfixturevalue("berka_files"))} if world == "berka" else {}
    both = landed(new_pipeline, local_aws, world, scale, **files)
    if A_FEW:
        both.athena("build", *arguments)
    else:
        both.build(*arguments)
    yield both
    both.pipeline.down()
