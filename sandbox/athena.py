"""`make athena`: the demo's path on Athena, one day at each run, with the local AWS in place of an account.

World → `s3://` lake → Glue → `dbt build --target athena` → report. The local AWS goes on running, for what is
in it ends with it: `python -m sandbox aws down` stops it, and the next run lands everything anew.
"""

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from dotenv import load_dotenv

from sandbox import demo, preflight
from sandbox.aws import control
from sandbox.aws.errors import LocalAwsError
from sandbox.engines import Athena

LAKE = "s3://importau-lakehouse-local"
WORKGROUP = "lakehouse"
"""With a limit of what one query may scan, as `python -m sandbox.preflight` asks of a real account's."""
HEAP = "2g"
"""Of Trino, unless LOCAL_AWS_HEAP is set: with less, a build of scale 1 clears memory most of the time."""
LEAST_BYTES = 10 * 10**6
USD_PER_TERABYTE = 5
"""In us-east-1; other regions differ: https://aws.amazon.com/athena/pricing/."""


def main() -> int:
    """Run it; returns the exit code."""
    load_dotenv(".env")
    try:
        with demo.step("local AWS") as said:
            aws, started = control.up(control.settings(heap=os.environ.get("LOCAL_AWS_HEAP") or HEAP), said)
    except LocalAwsError as error:
        return demo.fail(str(error))
    except KeyboardInterrupt:
        return 130
    demo.console.print(
        f"Local AWS {'started' if started else 'is up'}: {aws.endpoint}"
        " (`python -m sandbox aws down` ends it)",
        highlight=False,
    )
    lake = os.environ.get("LAKE", "")
    world = os.environ.get("WORLD") or "synthetic"
    lake = lake if lake.startswith("s3://") else f"{LAKE}/{world}"
    # A world of its own: the demo's may be a day ahead.
    sandbox = Path(os.environ.get("SANDBOX_DIR") or ".sandbox") / "athena"
    os.environ |= aws.environment | {
        "LAKE": lake,
        "GLUE_DATABASE": "raw",
        "DBT_TARGET": "athena",
        "ATHENA_WORKGROUP": WORKGROUP,
        # Nobody else waits for this Athena, and none of its statements runs for long.
        "ATHENA_POLL_SECONDS": "0.1",
        "BUILD_LEASE_SECONDS": "60",
        "SANDBOX_DIR": str(sandbox),
    }
    _make_bucket(aws, lake)
    make_workgroup(aws)
    began = datetime.now(UTC)
    code = demo.run(lambda opened: Athena(opened.root))
    if code == 0:
        demo.console.print(_cost(aws, began), highlight=False)
    return code


def _make_bucket(aws: control.LocalAws, lake: str) -> None:
    s3 = aws.client("s3")
    bucket = lake.removeprefix("s3://").partition("/")[0]
    if bucket not in {found["Name"] for found in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=bucket)


def make_workgroup(aws: control.LocalAws) -> None:
    """The workgroup, unless it is there."""
    athena = aws.client("athena")
    if WORKGROUP not in {found["Name"] for found in athena.list_work_groups()["WorkGroups"]}:
        athena.create_work_group(
            Name=WORKGROUP,
            Description="One query may scan 10 GB: 5 cents",
            Configuration={"BytesScannedCutoffPerQuery": preflight.SCAN_LIMIT},
        )


def _cost(aws: control.LocalAws, began: datetime) -> str:
    """What the queries since `began` would cost, in a line.

    Athena bills a query by the bytes it scans, but 10 MB at least; DDL is free.
    """
    athena = aws.client("athena")
    pages = athena.get_paginator("list_query_executions").paginate(WorkGroup=WORKGROUP)
    ids = [query for page in pages for query in page["QueryExecutionIds"]]
    scanned = []
    for start in range(0, len(ids), 50):
        found = athena.batch_get_query_execution(QueryExecutionIds=ids[start : start + 50])
        scanned += [
            query["Statistics"].get("DataScannedInBytes", 0)
            for query in found["QueryExecutions"]
            if query["Status"]["SubmissionDateTime"] >= began and query["StatementType"] == "DML"
        ]
    billed = sum(max(read, LEAST_BYTES) for read in scanned)
    return (
        f"{len(scanned)} queries scanned {sum(scanned) / 1e6:,.1f} MB; Athena would bill"
        f" {billed / 1e9:,.2f} GB, about {billed / 1e12 * USD_PER_TERABYTE:.4f} USD"
    )


if __name__ == "__main__":
    sys.exit(main())
