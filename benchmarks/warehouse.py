"""What a day costs the warehouse as its history grows, and what dbt adds to the SQL of a full build.

    python -m benchmarks.warehouse [--scale 0.2] [--times 1 10 50] [--rounds 3] [--transactions 5000000]

A synthetic world lands three days. Its first day is then multiplied in the lake: copies of every customer
with all that belongs to them, under keys of their own. The others stay as they are. The third day is what is
measured, so the increment is the same whatever stands before it. Nodes are timed by dbt itself
(`run_results.json`), in rounds that start from the same warehouse. The full build is compared with the same
SQL run by DuckDB alone: the models as dbt compiled them, created as tables in one process, no dbt, no tests.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import duckdb

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
MARKS = "<!-- warehouse -->", "<!-- /warehouse -->"

# The columns that name a record, in every table that is multiplied: numbers move up, texts get an ending.
NUMBERS = {"customer_id", "account_id", "transaction_id", "payment_id", "reversal_of"}
TEXTS = {"order_id", "consent_id", "evaluation_id", "event_id", "related_order_id", "session_id"}
ONCE = {"fx_rates"}


def main() -> int:
    """Measure, print and write the page's block; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.warehouse", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--scale", type=float, default=0.2, help="of the world that is multiplied")
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--rounds", type=int, default=3, help="medians are shown")
    parser.add_argument("--transactions", type=int, default=5_000_000, help="of the full build, at least")
    parser.add_argument("--no-page", action="store_true", help="leave docs/benchmarks.md as it is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-warehouse-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user under root
        days = land_three_days(folder, given.scale)
        lines = day_by_size(folder, days, given.times, given.rounds)
        lines += ["", *full_build(folder, days, given.transactions, given.rounds)]
    print("\n".join(lines))
    if not given.no_page:
        text = PAGE.read_text()
        before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
        PAGE.write_text("\n".join([before + MARKS[0], *lines, MARKS[1] + after]))
    return 0


# ------------------------------------------------------------------ lakes


def environment(folder: Path, lake: Path, warehouse: Path, **more: str) -> dict[str, str]:
    """What the commands of the project are told."""
    return os.environ | {
        "WORLD": "synthetic",
        "SANDBOX_DIR": str(folder / "sandbox"),
        "LAKE": str(lake),
        "WAREHOUSE": str(warehouse),
        "DBT_PROFILES_DIR": str(ROOT / "profiles"),
        "DBT_TARGET_PATH": str(folder / "target"),
        "DBT_LOG_PATH": str(folder / "logs"),
        "LOG_FORMAT": "text",
        **more,
    }


def run(env: dict[str, str], *command: str) -> float:
    """Run a program of the project that must succeed; returns its seconds."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return time.monotonic() - began


def land_three_days(folder: Path, scale: float) -> list[str]:
    """A world and its lake, `lake-1`; returns the days landed."""
    env = environment(folder, folder / "lake-1", folder / "none.duckdb")
    try:
        run(env, sys.executable, "-m", "sandbox", "up", "--seed", "7", "--scale", str(scale))
        run(env, sys.executable, "-m", "ingestion", "run")
        for _ in range(2):
            run(env, sys.executable, "-m", "sandbox", "advance")
            run(env, sys.executable, "-m", "ingestion", "run")
    finally:
        run(env, sys.executable, "-m", "sandbox", "down")
    return sorted({p.name.split("=")[1] for p in (folder / "lake-1" / "raw").glob("*/*/extract_date=*")})


def multiply(folder: Path, days: list[str], times: int) -> Path:
    """A lake with so many copies of the first day; returns its folder."""
    lake, made = folder / "lake-1", folder / f"lake-{times}"
    if times == 1 or made.exists():
        return made
    shutil.copytree(lake, made)
    with duckdb.connect() as connection:
        connection.execute("set preserve_insertion_order = true")
        make_cpfs(connection, lake, times)
        for file in sorted((lake / "raw").glob(f"*/*/extract_date={days[0]}/*.parquet")):
            if file.parts[-3] in ONCE:
                continue
            columns = [row[0] for row in connection.execute(f"describe from '{file}'").fetchall()]
            moved = [f"{c} + n * 1000000000 as {c}" for c in columns if c in NUMBERS]
            moved += [f"{c} || '-' || n as {c}" for c in columns if c in TEXTS]
            join = ""
            if "cpf" in columns:
                moved.append("cpfs.new as cpf")
                join = "join cpfs on cpfs.old = rows.cpf and cpfs.n = copies.n"
            connection.execute(
                f"copy (select rows.* replace ({', '.join(moved).replace('n *', 'copies.n *')})"
                f" from range(1, {times}) as copies (n) cross join '{file}' as rows {join})"
                f" to '{made / file.relative_to(lake).with_name('copies.parquet')}' (compression zstd)"
            )
    return made


def make_cpfs(connection: duckdb.DuckDBPyConnection, lake: Path, times: int) -> None:
    """A table `cpfs` (n, old, new): for every copy of a CPF another valid one, none twice."""
    used = f"(select distinct cpf from '{lake}/raw/app/customers/*/*.parquet')"

    def check(digits: str, length: int) -> str:
        places = range(1, length + 1)
        terms = " + ".join(f"substr({digits}, {p}, 1)::int * {length + 2 - p}" for p in places)
        return f"(({terms}) * 10 % 11 % 10)"

    connection.execute(
        f"""
        create table cpfs as
        with olds as (select cpf as old, row_number() over (order by cpf) as i from {used}),
        nines as (
            select lpad((i * 3001)::varchar, 9, '0') as d
            from range(1, {times + 1} * (select count(*) from olds) + 1) as numbers (i)
        ),
        tens as (select d || {check("d", 9)} as d from nines),
        elevens as (select d || {check("d", 10)} as new from tens),
        news as (
            select new, row_number() over (order by new) as i
            from elevens
            where new not in (select old from olds)
        )
        select n, old, new
        from olds cross join range(1, {times}) as copies (n)
        join news on news.i = (n - 1) * (select count(*) from olds) + olds.i
        """
    )


# ------------------------------------------------------------------ a day


INCREMENTAL = "incremental models"
OF_THE_DAY = "tests of the rows of the day"
BOTH = "**both** (must: at most 1.3)"


def kind_of(node: dict, built: dict[str, tuple[dict, float]]) -> str:
    """Which line of the table a node is counted in."""
    if node["resource_type"] == "test":
        if "whole_history" in node["tags"]:
            return "tests of all history, on a schedule of their own"
        tested, _ = built.get(node.get("attached_node"), (None, 0))
        is_incremental = tested is not None and tested["config"]["materialized"] == "incremental"
        return OF_THE_DAY if is_incremental else "tests of the others"
    if node["resource_type"] in ("seed", "snapshot"):
        return node["resource_type"] + "s"
    if node["config"]["materialized"] == "incremental":
        return INCREMENTAL
    return "marts" if node["schema"] == "marts" else "other models"


DBT = (str(Path(sys.executable).with_name("dbt")),)
# As `sandbox/warehouse.py` runs it: dbt keeps nearly all it makes, so there is no garbage to look for.
DBT_KEEPING_GARBAGE = (sys.executable, "-c", "import gc; gc.disable(); from dbt.cli.main import cli; cli()")


def build(env: dict[str, str], *options: str, dbt: tuple[str, ...] = DBT) -> tuple[float, dict[str, float]]:
    """Build; returns seconds in all, and by kind of node."""
    seconds = run(env, *dbt, "build", "--exclude-resource-type", "unit_test", *options)
    nodes = built_nodes(env)
    kinds: dict[str, float] = defaultdict(float)
    for node, took in nodes.values():
        kinds[kind_of(node, nodes)] += took
    return seconds, kinds


def built_nodes(env: dict[str, str]) -> dict[str, tuple[dict, float]]:
    """The nodes of the last build in the order in which they were done, by id, with their seconds."""
    target = Path(env["DBT_TARGET_PATH"])
    nodes = json.loads((target / "manifest.json").read_text())["nodes"]
    results = json.loads((target / "run_results.json").read_text())["results"]
    # dbt lists exposures among the results, for which it runs nothing, and hooks, which do nothing on DuckDB.
    return {
        r["unique_id"]: (nodes[r["unique_id"]], r["execution_time"])
        for r in results
        if r["unique_id"] in nodes and not r["unique_id"].startswith("operation.")
    }


def day_by_size(folder: Path, days: list[str], sizes: list[int], rounds: int) -> list[str]:
    """The table of what a day costs, as lines of Markdown."""
    seen: dict[int, dict[str, float]] = {}
    transactions: dict[int, int] = {}
    for times in sizes:
        lake, base, warehouse = multiply(folder, days, times), folder / "base.duckdb", folder / "day.duckdb"
        build(
            environment(folder, lake, base, AS_OF_DATE=days[1]),
            "--exclude-resource-type",
            "test",
            "--full-refresh",
        )
        with duckdb.connect(str(base)) as connection:
            query = "select count(*) from staging.stg_app__bank_transactions"
            transactions[times] = connection.execute(query).fetchone()[0]
        measured = []
        for _ in range(rounds):
            shutil.copyfile(base, warehouse)
            _, kinds = build(environment(folder, lake, warehouse, AS_OF_DATE=days[2]))
            measured.append(kinds)
        seen[times] = {kind: statistics.median(m[kind] for m in measured) for kind in measured[0]}
        base.unlink()
    for kinds in seen.values():
        kinds[BOTH] = kinds[INCREMENTAL] + kinds[OF_THE_DAY]
    first = (INCREMENTAL, OF_THE_DAY, BOTH)
    ordered = [*first, *sorted(seen[sizes[0]].keys() - {*first})]
    head = " | ".join(f"{times}× ({transactions[times]:,} transactions)" for times in sizes)
    lines = [
        f"Load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores; seconds that dbt counts for the nodes of"
        f" the same day, median of {rounds} rounds.",
        "",
        f"| the day's nodes | {head} | {sizes[-1]}× : {sizes[0]}× |",
        f"|---|{'---:|' * (len(sizes) + 1)}",
    ]
    for kind in ordered:
        row = " | ".join(f"{seen[times][kind]:.2f}" for times in sizes)
        lines.append(f"| {kind} | {row} | {seen[sizes[-1]][kind] / seen[sizes[0]][kind]:.2f} |")
    return lines


# ------------------------------------------------------------------ all at once


def full_build(folder: Path, days: list[str], transactions: int, rounds: int) -> list[str]:
    """A full build by dbt beside the same SQL without dbt, as lines of Markdown."""
    one = next((folder / "lake-1" / "raw" / "app" / "bank_transactions").glob(f"*={days[0]}/*.parquet"))
    with duckdb.connect() as connection:
        rows = connection.execute(f"select count(*) from '{one}'").fetchone()[0]
    times = max(1, -(-transactions // rows))
    lake = multiply(folder, days, times)
    options = "--exclude-resource-type", "test", "snapshot", "--threads", "2"  # one queries, one prepares
    took: dict[str, list[float]] = {"dbt": [], "without garbage collection": [], "alone": []}
    warehouse, again, script = folder / "full.duckdb", folder / "alone.duckdb", folder / "alone.sql"
    env = environment(folder, lake, warehouse, AS_OF_DATE=days[2])
    program = "import duckdb, sys; duckdb.connect(sys.argv[1]).execute(open(sys.argv[2]).read())"
    for _ in range(rounds):
        for name, dbt in (("dbt", DBT), ("without garbage collection", DBT_KEEPING_GARBAGE)):
            warehouse.unlink(missing_ok=True)
            took[name].append(build(env, *options, dbt=dbt)[0])
        ordered = [node for node, _ in built_nodes(env).values()]
        # the compiled SQL names the database it was compiled for
        script.write_text(";\n".join(statements(ordered)).replace('"full".', '"alone".'))
        again.unlink(missing_ok=True)
        took["alone"].append(run(env, sys.executable, "-c", program, str(again), str(script)))
        print(" ".join(f"{name} {times[-1]:.1f} s" for name, times in took.items()), flush=True)
    median = {name: statistics.median(times) for name, times in took.items()}
    added = {
        name: statistics.median(a - b for a, b in zip(times, took["alone"], strict=True))
        for name, times in took.items()
    }
    return [
        f"Full build, {rows * times:,} transactions, median of {rounds} rounds: the SQL by DuckDB alone"
        f" {median['alone']:.1f} s; dbt, with two threads and without tests, {median['dbt']:.1f} s for"
        f" {len(ordered)} nodes, so it adds {added['dbt']:.1f} s; without Python's garbage collection, as"
        f" `make demo` runs it, {median['without garbage collection']:.1f} s, which adds"
        f" {added['without garbage collection']:.1f} s (allowed: {2.5 + 0.015 * len(ordered):.1f} s).",
    ]


def statements(nodes: list[dict]) -> list[str]:
    """Plain SQL that makes the same tables."""
    schemas = sorted({node["schema"] for node in nodes})
    made = ["set timezone = 'UTC'", *(f"create schema if not exists {schema}" for schema in schemas)]
    for node in nodes:
        relation = f"{node['schema']}.{node['alias']}"
        if node["resource_type"] == "seed":
            file = ROOT / node["original_file_path"]
            made.append(f"create table {relation} as from read_csv('{file}', header = true)")
        else:
            what = "view" if node["config"]["materialized"] == "view" else "table"
            made.append(f"create {what} {relation} as {node['compiled_code']}")
    return made


if __name__ == "__main__":
    sys.exit(main())
