"""How fast the questions of docs/queries.md are answered.

    python -m benchmarks.queries [--scale 10] [--rounds 20] [--warehouse FILE]

A synthetic world of that scale is landed and built, unless a warehouse is given. Each question is then asked
by a connection that has answered it once; all its rows are fetched.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

from benchmarks import page
from benchmarks.warehouse import ROOT, environment, run

QUERIES = ROOT / "docs" / "queries.md"


def main() -> int:
    """Measure, print and write the page's block; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queries", description=__doc__.split("\n")[0])
    parser.add_argument("--scale", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warehouse", type=Path, help="a warehouse of that scale that is built already")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-queries-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user under root
        warehouse = given.warehouse or build(folder, given.scale)
        page.write("queries", ask(warehouse, given.scale, given.rounds))
    return 0


def build(folder: Path, scale: float) -> Path:
    """A warehouse of the first day of a world; returns its file."""
    env = environment(folder, folder / "lake", folder / "warehouse.duckdb")
    try:
        run(env, sys.executable, "-m", "sandbox", "up", "--seed", "42", "--scale", str(scale))
        run(env, sys.executable, "-m", "ingestion", "run")
    finally:
        subprocess.run([sys.executable, "-m", "sandbox", "down"], cwd=ROOT, env=env, check=False)
    dbt = str(Path(sys.executable).with_name("dbt"))
    run(env, dbt, "build", "--exclude-resource-type", "test", "unit_test", "snapshot")
    return folder / "warehouse.duckdb"


def ask(warehouse: Path, scale: float, rounds: int) -> list[str]:
    """The table of what the questions took, as lines of Markdown."""
    text = QUERIES.read_text(encoding="utf-8")
    questions = re.findall(r"^### (\d+\. .+?)\n\n```sql\n(.+?)```", text, re.DOTALL | re.MULTILINE)
    lines, slowest = [], 0.0
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        customers, orders, transactions = (
            connection.execute(f"select count(*) from {table}").fetchone()[0]
            for table in (
                "marts.customer_360",
                "marts.credit_decisions",
                "staging.stg_app__bank_transactions",
            )
        )
        for question, sql in questions:
            connection.execute(sql).fetchall()
            took = []
            for _ in range(rounds):
                began = time.perf_counter()
                connection.execute(sql).fetchall()
                took.append(1000 * (time.perf_counter() - began))
            p95 = statistics.quantiles(took, n=20)[-1]
            slowest = max(slowest, p95)
            lines.append(f"| {question} | {statistics.median(took):.1f} | {p95:.1f} |")
    return [
        f"Scale {scale:g}: {customers:,} customers, {orders:,} orders, {transactions:,} bank transactions;"
        f" {rounds} rounds each, {page.machine()}. Slowest 95th percentile: {slowest:.0f} ms (aim: 100).",
        "",
        "| question | median, ms | 95th percentile, ms |",
        "|---|---:|---:|",
        *lines,
    ]


if __name__ == "__main__":
    sys.exit(main())
