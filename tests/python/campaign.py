"""Days of a dirty world landed and built one by one, and what must be true of the warehouse then.

The long form is a command: `python tests/python/campaign.py --seeds 3 --days 30`.
"""

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a command, this is no part of a package

from conftest import DBT, Pipeline

from ingestion.config import load_sources

KEYS = {t.table: t.key for t in load_sources()}
SOURCES = {t.table: t.source for t in load_sources()}
# The sandbox's third parties send no bad data.
NEVER_BAD = {"quarantine.scores", "quarantine.fx_rates"}
# What reads only new days: the rest is built anew each time, so once at the end is enough.
DAILY = ("config.materialized:incremental", "config.materialized:snapshot", "resource_type:seed")
# Always given: dbt parses anew when a var changes.
WHOLE_HISTORY = ("--vars", "{whole_history: true}")
WITHOUT_TESTS = ("--exclude-resource-type", "test", "unit_test")


def run_days(pipeline: Pipeline, seed: int, scale: float, dirt: float, days: int) -> None:
    """Let `days` days pass, each landed and built; the last one with every table and every test."""
    pipeline.sandbox("up", *f"--seed {seed} --scale {scale} --dirt {dirt} --deletes".split())
    for day in range(1, days + 1):
        if day > 1:
            pipeline.sandbox("advance")
        pipeline.ingest("--reconcile")
        if day < days:
            pipeline.dbt("build", *WITHOUT_TESTS, *WHOLE_HISTORY, "--select", *DAILY)
    pipeline.dbt("build", "--exclude-resource-type", "unit_test", *WHOLE_HISTORY)


def truth(pipeline: Pipeline, fate: str) -> list[dict]:
    """What the generator says of bad or deleted records."""
    lines = (pipeline.sandbox_dir / "synthetic" / "truth.jsonl").read_text().splitlines()
    facts = [fact for fact in map(json.loads, lines) if fact["fate"] == fate]
    assert facts
    return facts


@contextmanager
def opened(warehouse: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        connection.execute("set timezone = 'UTC'")
        yield connection


def as_text(columns: tuple[str, ...]) -> str:
    return ", ".join(f"cast({column} as varchar)" for column in columns)


def check_quarantine(pipeline: Pipeline) -> int:
    """The quarantine is the truth: the same versions, with the same reasons, open or resolved on the same day."""
    expected = {
        (f["table"], *f["key"], f["day"], *f["reasons"], "resolved", f["resolved"])
        for f in truth(pipeline, "quarantined")
    }
    found = set()
    with opened(pipeline.warehouse) as connection:
        for table, key in KEYS.items():
            query = (
                f"select {as_text((*key, 'first_seen', 'reasons', 'resolved_at'))} from quarantine.{table}"
            )
            for *identity, reasons, resolved in connection.execute(query).fetchall():
                found.add((table, *identity, *sorted(reasons.split(", ")), "resolved", resolved))
    assert found == expected
    return len(found)


def check_deleted(pipeline: Pipeline) -> int:
    """Deleted records are the truth, and known since the day that found them gone."""
    expected = {(f["table"], *f["key"], f["day"]) for f in truth(pipeline, "deleted")}
    found = set()
    with opened(pipeline.warehouse) as connection:
        for table, key in KEYS.items():
            query = (
                f"select {as_text(key)}, cast(deleted_at - interval 27 hour as date)::varchar"
                f" from staging.stg_{SOURCES[table]}__{table} where deleted_at is not null"
            )
            found |= {(table, *row) for row in connection.execute(query).fetchall()}
    assert found == expected
    return len(found)


def check_children(pipeline: Pipeline) -> int:
    """Children of customers that never had a good version are marked, and still in staging."""
    good_once = "select customer_id from staging.stg_app__customers"
    with opened(pipeline.warehouse) as connection:
        marked, unmarked = connection.execute(
            f"""
            select
                count(*) filter (where o.customer_id not in ({good_once}) and not d.is_customer_known),
                count(*) filter (where (o.customer_id not in ({good_once})) = d.is_customer_known)
            from staging.stg_app__credit_orders as o join marts.credit_decisions as d using (order_id)
            where o.customer_id not in (select customer_id from staging.stg_app__customers where deleted_at is not null)
            """
        ).fetchone()
        listed = connection.execute(
            "select count(*) from quarantine.children"
            " where child_table = 'app__credit_orders' and parent_fate = 'quarantined'"
        ).fetchone()[0]
    assert unmarked == 0
    assert marked == listed > 0
    return marked


def check_equal(first: Path, second: Path, schemas: tuple[str, ...], target: Path) -> dict[str, int]:
    """Every table of these schemas, as the manifest knows them, is the same in both; returns rows of each."""
    manifest = json.loads((target / "manifest.json").read_text())
    tables = sorted(
        f"{node['schema']}.{node['alias']}"
        for node in manifest["nodes"].values()
        if node["resource_type"] in ("model", "snapshot") and node["schema"] in schemas
    )
    rows: dict[str, int] = {}
    different: dict[str, tuple[int, int]] = {}
    with duckdb.connect() as connection:
        connection.execute(f"attach '{first}' as one (read_only)")
        connection.execute(f"attach '{second}' as two (read_only)")
        for table in tables:
            # a view names its tables without their database: it is read where it is
            if table == "quarantine.children":
                continue
            rows[table] = connection.execute(f"select count(*) from one.{table}").fetchone()[0]
            counts = tuple(
                connection.execute(
                    f"select count(*) from (select * from {a}.{table} except all select * from {b}.{table})"
                ).fetchone()[0]
                for a, b in (("one", "two"), ("two", "one"))
            )
            if counts != (0, 0):
                different[table] = counts
    assert len(rows) > 40
    assert different == {}
    assert {table for table, count in rows.items() if not count} - NEVER_BAD == set()
    return rows


def rebuild(pipeline: Pipeline, folder: Path) -> Path:
    """The whole warehouse built at once, elsewhere."""
    warehouse = folder / "in_full.duckdb"
    pipeline.run(str(DBT), "build", *WITHOUT_TESTS, *WHOLE_HISTORY, WAREHOUSE=str(warehouse))
    return warehouse


def build_killed(pipeline: Pipeline, before: Path, folder: Path, after: float) -> Path:
    """A warehouse whose last build was killed `after` seconds from its start and then run again."""
    warehouse = folder / "killed.duckdb"
    for path in folder.glob("killed.duckdb*"):
        path.unlink()
    shutil.copyfile(before, warehouse)
    command = [str(DBT), "build", *WITHOUT_TESTS, *WHOLE_HISTORY]
    environment = pipeline.env | {"WAREHOUSE": str(warehouse)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    pipeline.run(*command, WAREHOUSE=str(warehouse))
    return warehouse


SCD2 = {
    "customers": ("customer_id", "city, monthly_income"),
    "credit_orders": ("order_id", "status, repayment_status, disbursed_amount"),
}
"""What a version of these is, besides when it held: columns that staging does not change."""


def check_history(pipeline: Pipeline) -> dict[str, int]:
    """Snapshots are what slowly changing dimensions rebuilt from raw alone say; nothing of dbt is used."""
    versions = {}
    with opened(pipeline.warehouse) as connection:
        for table, (key, columns) in SCD2.items():
            bad = [(f["key"][0], f["day"]) for f in truth(pipeline, "quarantined") if f["table"] == table]
            connection.execute("create or replace temp table bad (key varchar, day varchar)")
            connection.executemany("insert into bad values (?, ?)", bad)
            files = f"{pipeline.lake}/raw/app/{table}/extract_date=*/*.parquet"
            rebuilt = f"""
                with good as (
                    select *, case
                        when _source_deleted then cast(extract_date as timestamp) + interval 27 hour
                        else time_bucket(interval 1 millisecond, (updated_at at time zone 'UTC') + interval 500 microsecond)
                    end as valid_from
                    from read_parquet('{files}', hive_types_autocast = false, union_by_name = true)
                    where (cast({key} as varchar), extract_date) not in (from bad) or _source_deleted
                ),
                risen as (
                    -- a version that begins before one already known was never the snapshot's current one
                    select *, max(valid_from) over (
                        partition by {key} order by _batch_id rows between unbounded preceding and 1 preceding
                    ) as highest_before
                    from good
                )
                select
                    {key}, {columns}, _source_deleted, _batch_id, valid_from,
                    lead(valid_from) over (partition by {key} order by _batch_id) as valid_to
                from risen
                where highest_before is null or valid_from > highest_before
            """
            snapshot = f"""
                select {key}, {columns}, _source_deleted, _batch_id, dbt_valid_from, dbt_valid_to
                from snapshots.{table}_snapshot
            """
            for one, other in ((rebuilt, snapshot), (snapshot, rebuilt)):
                left = connection.execute(f"({one}) except all ({other})").fetchall()
                assert left == [], (table, left[:3])
            versions[table], ended = connection.execute(
                f"select count(*), count(*) filter (where _source_deleted) from ({rebuilt})"
            ).fetchone()
            assert ended == len({f["key"][0] for f in truth(pipeline, "deleted") if f["table"] == table})
    return versions


def check_status_history(pipeline: Pipeline) -> int:
    """Each order's states follow each other without a gap, and the last is the order's own."""
    with opened(pipeline.warehouse) as connection:
        history = "intermediate.credit_order_status_history"
        rows, gaps = connection.execute(
            f"""
            select count(*), count(*) filter (where valid_to is distinct from next_from)
            from (select *, lead(valid_from) over (partition by order_id order by seq) as next_from from {history})
            """
        ).fetchone()
        wrong = connection.execute(
            f"""
            select count(*)
            from {history} join staging.stg_app__credit_orders as o using (order_id)
            where valid_to is null and o.status <> {history}.status and not o.has_quarantined_version
            """
        ).fetchone()[0]
    assert (gaps, wrong) == (0, 0)
    assert rows
    return rows


def main() -> int:
    """Run the long form; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="how many worlds, of seeds drawn now")
    parser.add_argument("--seed", type=int, help="this one seed instead")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--scale", type=float, default=0.05)
    parser.add_argument("--dirt", type=float, default=0.05)
    parser.add_argument("--kills", type=int, default=20, help="moments at which dbt is killed")
    options = parser.parse_args()
    seeds = (
        [options.seed]
        if options.seed is not None
        else [secrets.randbelow(2**31) for _ in range(options.seeds)]
    )
    for seed in seeds:
        print(f"seed {seed}: {options.days} days", flush=True)
        with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
            one_world(Path(folder), seed, options, lambda text: print(f"  {text}", flush=True))
    return 0


def one_world(folder: Path, seed: int, options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """All checks on one world; the first that fails raises AssertionError."""
    folder.chmod(0o755)  # PostgreSQL runs as another user under root
    pipeline = Pipeline("synthetic", folder, patience=3600)
    try:
        run_days(pipeline, seed, options.scale, options.dirt, options.days - 1)
        before = folder / "before.duckdb"
        shutil.copyfile(pipeline.warehouse, before)
        pipeline.sandbox("advance")
        pipeline.ingest("--reconcile")
        began = time.monotonic()
        pipeline.dbt("build", "--exclude-resource-type", "unit_test", *WHOLE_HISTORY)
        took = time.monotonic() - began
        say(f"quarantine equals the truth: {check_quarantine(pipeline)} versions")
        say(f"deletions equal the truth: {check_deleted(pipeline)} records")
        say(f"children of quarantined customers are marked: {check_children(pipeline)} orders")
        say(f"snapshots equal raw: {check_history(pipeline)} versions")
        say(f"status history has no gap: {check_status_history(pipeline)} rows")
        target = folder / "target"
        built = ("staging", "quarantine", "intermediate", "marts")
        rows = check_equal(pipeline.warehouse, rebuild(pipeline, folder), built, target)
        say(f"day by day equals at once: {rows}")
        kept = folder / "kept.duckdb"
        shutil.copyfile(pipeline.warehouse, kept)
        pipeline.dbt("build", *WITHOUT_TESTS, *WHOLE_HISTORY)
        rows = check_equal(kept, pipeline.warehouse, (*built, "snapshots"), target)
        say(f"a second build changes nothing: {sum(rows.values())} rows of {len(rows)} tables")
        for kill in range(options.kills):
            moment = random.uniform(0, took)
            killed = build_killed(pipeline, before, folder, moment)
            check_equal(kept, killed, (*built, "snapshots"), target)
            say(f"killed after {moment:.1f} s and run again: the same ({kill + 1}/{options.kills})")
    finally:
        pipeline.try_run(sys.executable, "-m", "sandbox", "down")


if __name__ == "__main__":
    sys.exit(main())
