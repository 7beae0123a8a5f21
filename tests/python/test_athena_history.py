"""What the increment of a day reads on Athena, as history grows: part of `make test-athena`."""

import json
import re
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from athena_worlds import BothEngines
from conftest import Pipeline

from benchmarks.warehouse import NUMBERS, ONCE, TEXTS
from sandbox.aws.control import local_aws

pytestmark = pytest.mark.athena

TIMES = 50
YEARS = 2
"""How long the history of the synthetic world is."""
INCREMENTAL = (
    *("build", "--select", "config.materialized:incremental", "resource_type:seed"),
    *("--exclude-resource-type", "test", "unit_test"),
)


def test_a_day_reads_no_more_when_history_is_fifty_times_as_long(
    new_pipeline: Callable[..., Pipeline],
) -> None:
    """Before the world's two years come 98 others, each two of them a copy with keys of its own."""
    scanned = {times: day_with_history(new_pipeline, times) for times in (1, TIMES)}
    once, often = (sum(each.values()) for each in scanned.values())
    for node, count in scanned[TIMES].most_common(8):
        print(f"{node}: {scanned[1][node]:,} bytes, with {TIMES} times the history {count:,}")
    print(f"{len(scanned[1])} nodes, {once:,} bytes; with {TIMES} times the history {often:,}")
    assert len(scanned[1]) > 30
    assert often <= 1.5 * once


def day_with_history(new_pipeline: Callable[..., Pipeline], times: int) -> Counter[str]:
    """Bytes that each incremental model reads on the third day of a world with so many times its history."""
    with local_aws() as aws:
        both = BothEngines(new_pipeline("synthetic"), aws, f"history-{times}")
        both.pipeline.patience = 3600
        both.pipeline.sandbox("up", "--seed", "7", "--scale", "0.02")
        try:
            both.land()
            lengthen(both, times)
            both.athena(*INCREMENTAL)
            for _ in range(2):
                both.pipeline.sandbox("advance")
                both.land()
                began = datetime.now(UTC)
                both.athena(*INCREMENTAL)
        finally:
            both.pipeline.down()
        return bytes_by_model(both, began)


def lengthen(both: BothEngines, times: int) -> None:
    """Put copies of the first day's rows, moved back in time, under the day before."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        for key in both.keys("lake/raw/"):
            if not key.endswith(".parquet") or key.split("/")[-3] in ONCE:
                continue
            file = both.pipeline.folder / key
            rows = f"read_parquet('{file}', hive_partitioning = false)"
            columns = dict(row[:2] for row in connection.execute(f"describe from {rows}").fetchall())
            moved = [f"{c} + copies.n * 1000000000 as {c}" for c in columns if c in NUMBERS]
            moved += [f"{c} || '-' || copies.n as {c}" for c in columns if c in TEXTS]
            moved += [
                f"cast({c} - to_years(cast(copies.n * {YEARS} as integer)) as {kind}) as {c}"
                for c, kind in columns.items()
                if kind in ("DATE", "TIMESTAMP WITH TIME ZONE") and c not in ("birth_date", "_extracted_at")
            ]
            day = date.fromisoformat(file.parent.name.partition("=")[2]) - timedelta(days=1)
            made = file.parent.with_name(f"extract_date={day}") / "copies.parquet"
            made.parent.mkdir(exist_ok=True)
            connection.execute(
                f"copy (select rows.* replace ({', '.join(moved)})"
                f" from range(1, {times}) as copies (n) cross join {rows} as rows) to '{made}' (compression zstd)"
            )
            both.aws.client("s3").upload_file(
                str(made), both.bucket, str(made.relative_to(both.pipeline.folder))
            )


def bytes_by_model(both: BothEngines, began: datetime) -> Counter[str]:
    """Bytes that the queries of incremental models have read since then, by the model's name."""
    manifest = json.loads(Path(both.on_athena["DBT_TARGET_PATH"], "manifest.json").read_text())
    athena = both.aws.client("athena")
    pages = athena.get_paginator("list_query_executions").paginate(WorkGroup="primary")
    ids = [query for page in pages for query in page["QueryExecutionIds"]]
    scanned: Counter[str] = Counter()
    for start in range(0, len(ids), 50):
        found = athena.batch_get_query_execution(QueryExecutionIds=ids[start : start + 50])
        for query in found["QueryExecutions"]:
            node = re.search(r'"node_id": "(model[^"]+)"', query["Query"])
            if node and query["Status"]["SubmissionDateTime"] >= began:
                assert manifest["nodes"][node[1]]["config"]["materialized"] == "incremental"
                scanned[node[1].rpartition(".")[2]] += query["Statistics"].get("DataScannedInBytes", 0)
    return scanned
