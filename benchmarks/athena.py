"""What the project takes on Athena: its builds, and the questions of docs/queries.md.

    python -m benchmarks.athena [--scale 1] [--rounds 20]

A synthetic world of that scale goes through `make athena`, from nothing, on a local AWS of its own, and then
through the next day. Each question is then asked, once for warming up and then in rounds. Bytes and times are
those that Athena says of an execution; the local one has a real Trino behind it, so bytes are those of the
same files on AWS, and times are this machine's.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import page
from benchmarks.queries import QUERIES
from benchmarks.warehouse import ROOT
from sandbox.athena import HEAP, WORKGROUP
from sandbox.aws import local_aws

ANALYSTS = ROOT / "docs" / "athena.md"


def main() -> int:
    """Measure, print and write both pages' blocks; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.athena", description=__doc__.split("\n")[0])
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-athena-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user under root
        env = os.environ | {
            "SANDBOX_DIR": str(folder / "sandbox"),
            "LOCAL_AWS_DIR": str(folder / "aws"),
            "DBT_PROFILES_DIR": str(ROOT / "profiles"),
            "DBT_TARGET_PATH": str(folder / "target"),
            "DBT_LOG_PATH": str(folder / "logs"),
            "LOG_FORMAT": "text",
        }
        for setting in ("LAKE", "WORLD", "GLUE_DATABASE", "AS_OF_DATE"):
            env.pop(setting, None)
        world = env | {"SANDBOX_DIR": str(folder / "sandbox" / "athena")}
        command(world, "sandbox", "up", "--seed", "42", "--scale", str(given.scale))
        try:
            began = time.monotonic()
            with local_aws(folder=folder / "aws", heap=HEAP) as aws:
                started = time.monotonic() - began
                days = [command(env, "sandbox.athena") for _ in range(2)]
                answers = [ask(aws, question, sql, given.rounds) for question, sql in questions()]
        finally:
            command(world, "sandbox", "down")
    page.write("athena-questions", table(answers), ANALYSTS)
    slowest = max(answer["p95"] for answer in answers)
    page.write(
        "athena",
        [
            f"Scale {given.scale:g}, {page.machine()}: the local AWS starts in {started:.0f} s, the first"
            f" day of `make athena` takes {days[0]:.0f} s besides (all together must be 240 s), the next day"
            f" {days[1]:.0f} s. The slowest 95th percentile of the questions is {slowest:.0f} ms (must: 500);"
            f" {given.rounds} rounds each."
        ],
    )
    return 0


def command(env: dict[str, str], module: str, *arguments: str) -> float:
    """Run a module of the project, which must succeed; the seconds it took."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", module, *arguments], cwd=ROOT, env=env, check=True)
    return time.monotonic() - began


def questions() -> list[tuple[str, str]]:
    """Number and words of each question, and its SQL."""
    text = QUERIES.read_text(encoding="utf-8")
    return re.findall(r"^### (\d+\. .+?)\n\n```sql\n(.+?)```", text, re.DOTALL | re.MULTILINE)


def ask(aws: Any, question: str, sql: str, rounds: int) -> dict[str, Any]:
    """What answering took: `bytes`, and `median` and `p95` in milliseconds."""
    athena = aws.client("athena")
    took, scanned = [], 0
    for _ in range(rounds + 1):
        query_id = athena.start_query_execution(
            QueryString=sql,
            WorkGroup=WORKGROUP,
            ResultConfiguration={"OutputLocation": "s3://importau-lakehouse-local/query-results/"},
        )["QueryExecutionId"]
        while True:
            execution = athena.get_query_execution(QueryExecutionId=query_id)["QueryExecution"]
            if execution["Status"]["State"] not in ("QUEUED", "RUNNING"):
                break
            time.sleep(0.01)
        if execution["Status"]["State"] != "SUCCEEDED":
            raise SystemExit(f"{question}: {execution['Status']['StateChangeReason']}")
        took.append(execution["Statistics"]["TotalExecutionTimeInMillis"])
        scanned = execution["Statistics"]["DataScannedInBytes"]
    return {
        "question": question,
        "bytes": scanned,
        "median": statistics.median(took[1:]),
        "p95": statistics.quantiles(took[1:], n=20)[-1] if rounds > 1 else took[1],
    }


def table(answers: list[dict[str, Any]]) -> list[str]:
    """The questions with the bytes they scan, as lines of Markdown."""
    return [
        "| question | kB scanned | median, ms | 95th percentile, ms |\n|---|---:|---:|---:|",
        *(
            f"| {a['question']} | {a['bytes'] / 1e3:,.1f} | {a['median']:.0f} | {a['p95']:.0f} |"
            for a in answers
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
