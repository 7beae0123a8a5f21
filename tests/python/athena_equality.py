"""Every table of the project on DuckDB and on Athena, compared row by row and value by value.

Athena's rows are read from the result files of its queries, so what is compared is what an analyst gets.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from conftest import DBT, Pipeline

from sandbox.aws.control import LocalAws

# What differs by design: dbt's adapters hash a snapshot's version to lower and to upper case hex.
ASIDE = {"dbt_scd_id"}
# Sums of doubles depend on their order: the last digit is not compared.
TOLERANCE = 1e-12
WITHOUT_TESTS = ("--exclude-resource-type", "test", "unit_test")


@dataclass
class BothEngines:
    """A world landed on S3 and registered in Glue, and its two warehouses; the lake's copy is DuckDB's."""

    pipeline: Pipeline
    aws: LocalAws
    bucket: str
    queries: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.aws.client("s3").create_bucket(Bucket=self.bucket)
        self.pipeline.settings |= self.aws.environment

    @property
    def lake(self) -> str:
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
        }

    def build(self, *arguments: str) -> None:
        """Build both warehouses."""
        for settings in ({}, self.on_athena):
            began = time.monotonic()
            self.pipeline.run(str(DBT), "build", *arguments, **settings)
            print(f"dbt build on {settings.get('DBT_TARGET', 'duckdb')}: {time.monotonic() - began:.0f} s")

    def relations(self) -> list[str]:
        """`schema.table` of every model, snapshot and seed, from dbt's manifest."""
        manifest = json.loads((self.pipeline.folder / "target-athena" / "manifest.json").read_text())
        return sorted(
            f"{node['schema']}.{node['alias']}"
            for node in manifest["nodes"].values()
            if node["resource_type"] in ("model", "snapshot", "seed")
            and node["config"]["materialized"] != "ephemeral"
        )

    def query(self, sql: str) -> tuple[str, str]:
        """Run a query on Athena; its id, and the key of its result file."""
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
        return query_id, f"results/{query_id}.csv"

    def compare(self) -> dict[str, int]:
        """Rows of every relation that is the same on both engines; fails where one is not."""
        rows, different = {}, {}
        with _connected(self.pipeline.warehouse) as connection:
            for name in self.relations():
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
        print(f"{name}: {count} rows on DuckDB, {there} on Athena (query {query_id})")
        return count, connection.execute(_differences(types)).fetchmany(3)


def _differences(types: dict[str, str]) -> str:
    """A query of the rows of `local` and `athena` that the other lacks; doubles may differ in the last digit."""
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
