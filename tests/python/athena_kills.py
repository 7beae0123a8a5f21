"""Builds on Athena that are killed, and what must be true after the next one.

In each round a day passes, is landed, and its build on Athena is killed at a random moment: dbt (kill -9, so its
statements run on and its lease stays), or Trino (Athena dies under dbt), or the local AWS as a whole. The next build
must give the rows that an undisturbed build gives: DuckDB's of the same lake, value by value. At the end, after the
maintenance operation and the clean-up, every object in the bucket is one that a table refers to.

The local AWS keeps its catalogue and its objects in memory, which AWS does not: when it is killed they are gone, and
all there is to show is that what is landed and built anew is right. So that kind of kill is one round in ten, and none
in the short form. The long form is a command: `python tests/python/athena_kills.py --kills 20`.
"""

import argparse
import json
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import fastavro
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a command, this is no part of a package

from athena_worlds import LEASE_SECONDS, WITHOUT_TESTS, BothEngines, begin
from conftest import DBT, ROOT, Pipeline

from sandbox import control as worlds
from sandbox.aws.control import LocalAws, local_aws, status
from sandbox.aws.control import settings as aws_settings
from sandbox.settings import load

DBT_KILLED, TRINO_KILLED, AWS_KILLED = "dbt", "Trino", "the local AWS"
# Orphans younger than this many seconds stay: Athena's own default is five days.
KEPT_SECONDS = 1


def next_day(both: BothEngines) -> None:
    """Let a day pass, land it, and build it on DuckDB."""
    both.pipeline.sandbox("advance")
    both.land("--reconcile")
    both.pipeline.dbt("build", *WITHOUT_TESTS)


def build_killed(both: BothEngines, victim: str, share: float) -> str:
    """Begin a build and kill the victim when this share of the last whole build's seconds is over.

    Returns how far dbt got.
    """
    log = both.pipeline.folder / "killed.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(DBT), "--no-use-colors", "build", *WITHOUT_TESTS],
            cwd=ROOT,
            env=both.pipeline.env | both.on_athena,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        while process.poll() is None and " START " not in log.read_text():
            time.sleep(0.05)
        time.sleep(share * both.build_seconds)
        if victim == DBT_KILLED:
            process.kill()
        elif victim == TRINO_KILLED:
            _kill_trino(both.aws)
        else:
            psutil.Process(both.aws.pid).kill()
            time.sleep(1)
            process.kill()  # it would ask for ever
        process.wait()
    text = log.read_text()
    started = text.count(" START ")
    ended = text.count(" OK ") + text.count(" ERROR ") + text.count(" SKIP ")
    return f"{ended} of {started} begun nodes had ended, exit code {process.returncode}"


def _kill_trino(aws: LocalAws) -> None:
    """Kill it wherever it is, and wait until its server has started another."""
    first = status(aws_settings(folder=aws.folder)).trino_pid
    psutil.Process(first).kill()
    while (now := status(aws_settings(folder=aws.folder))) is None or now.trino_pid == first:
        time.sleep(0.1)


def build_again(both: BothEngines) -> None:
    """The next build, when the dead one's lease has ended."""
    time.sleep(LEASE_SECONDS + 1)
    both.athena("build", *WITHOUT_TESTS)


def maintain(both: BothEngines) -> None:
    """Maintenance as an operator does it, but of what has just been written."""
    glue = both.aws.client("glue")
    names = ["tables.build_lease"]
    for database in ("staging", "quarantine", "snapshots"):
        tables = glue.get_tables(DatabaseName=database)["TableList"]
        names += [f"{database}.{table['Name']}" for table in tables if table["TableType"] != "VIRTUAL_VIEW"]
    for name in names:
        both.statement(
            f"alter table {name} set tblproperties ('vacuum_max_snapshot_age_seconds' = '{KEPT_SECONDS}')"
        )
    time.sleep(KEPT_SECONDS)
    both.athena("run-operation", "maintain")
    said = both.pipeline.run(
        sys.executable, "-m", "sandbox.cleanup", "--delete", "--hours", "0", LAKE=both.lake
    )
    print(said.splitlines()[-1])


def unreferenced(both: BothEngines) -> list[str]:
    """Objects of dbt's that no table refers to, read from the tables' own metadata."""
    s3, glue = both.aws.client("s3"), both.aws.client("glue")
    known: set[str] = set()

    def read(url: str) -> bytes:
        known.add(url.removeprefix(f"s3://{both.bucket}/"))
        return s3.get_object(Bucket=both.bucket, Key=url.removeprefix(f"s3://{both.bucket}/"))["Body"].read()

    def records(url: str) -> Iterator[dict[str, Any]]:
        yield from fastavro.reader(BytesIO(read(url)))

    for database in glue.get_databases()["DatabaseList"]:
        for page in glue.get_paginator("get_tables").paginate(DatabaseName=database["Name"]):
            for table in page["TableList"]:
                if place := table.get("Parameters", {}).get("metadata_location"):
                    metadata = json.loads(read(place))
                    known |= {
                        entry["metadata-file"].removeprefix(f"s3://{both.bucket}/")
                        for entry in metadata.get("metadata-log", ())
                    }
                    known |= {
                        entry["statistics-path"].removeprefix(f"s3://{both.bucket}/")
                        for entry in metadata.get("statistics", ())
                    }
                    for snapshot in metadata["snapshots"]:
                        for manifest in records(snapshot["manifest-list"]):
                            for entry in records(manifest["manifest_path"]):
                                known.add(
                                    entry["data_file"]["file_path"].removeprefix(f"s3://{both.bucket}/")
                                )
    return [
        key
        for part in ("processed", "curated")
        for key in both.keys(f"lake/{part}/")
        if key not in known and not key.endswith("/")
    ]


def main() -> int:
    """Run the long form; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31), help="of the moments")
    parser.add_argument("--scale", default="0.02")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.kills} kills", flush=True)
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="athena-kills-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user under root
        aws = stack.enter_context(local_aws())
        pipeline = Pipeline("synthetic", folder)
        stack.callback(lambda: worlds.down(load(world="synthetic", sandbox_dir=pipeline.sandbox_dir)))
        both = begin(lambda world, **settings: pipeline, aws, "synthetic-7", options.scale, *WITHOUT_TESTS)
        for kill in range(1, options.kills + 1):
            victim = AWS_KILLED if kill % 10 == 0 else chance.choice((DBT_KILLED, TRINO_KILLED))
            share = chance.random()
            next_day(both)
            said = build_killed(both, victim, share)
            if victim == AWS_KILLED:
                both = anew(both, stack.enter_context(local_aws()))
            build_again(both)
            rows = both.compare()
            print(
                f"kill {kill} of {options.kills}: {victim}, at {share:.2f} of a build ({said});"
                f" then {sum(rows.values())} rows of {len(rows)} tables, the same",
                flush=True,
            )
        maintain(both)
        left = unreferenced(both)
        print(f"objects that no table refers to: {len(left)} of {len(both.keys())}", *left[:5])
        return int(bool(left))


def anew(both: BothEngines, aws: LocalAws) -> BothEngines:
    """The same world on another local AWS, landed there as a whole; DuckDB builds from the new lake."""
    pipeline = both.pipeline
    subprocess.run(["rm", "-rf", str(pipeline.lake), str(pipeline.warehouse)], check=True)
    another = BothEngines(pipeline, aws, f"{both.bucket}-anew", build_seconds=both.build_seconds)
    another.land()
    pipeline.dbt("build", *WITHOUT_TESTS)
    return another


if __name__ == "__main__":
    sys.exit(main())
