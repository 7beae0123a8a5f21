"""Builds on Athena that are killed, and what must be true after the next one.

In each round a day is landed, and its build on Athena is killed at a random moment, perhaps the next one and the one
after that, too: dbt (kill -9, so its statements run on and its lease stays), or Trino (Athena dies under dbt), or the
local AWS as a whole. The next build that lives must give the rows of an undisturbed one: DuckDB's of the same lake,
value by value. After the maintenance operation and the clean-up, every object that dbt's tables are made of is one
that a table refers to.

The local AWS keeps its catalogue and its objects in memory, which AWS does not: when it is killed they are gone, and
all there is to show is that what is landed and built anew is right. So it is killed in one round of four, and never
in the short form (test_athena.py). The long form is a command: `python tests/python/athena_kills.py --kills 20`.
"""

import argparse
import json
import random
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import fastavro
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a command, this is no part of a package

from athena_worlds import LEASE_SECONDS, WITHOUT_TESTS, BothEngines, landed
from conftest import DBT, ROOT, Pipeline

from sandbox.aws.control import LocalAws, local_aws, status
from sandbox.aws.control import settings as aws_settings

DBT_KILLED, TRINO_KILLED, AWS_KILLED = "dbt", "Trino", "the local AWS"
# What no table refers to stays for as many seconds in a table's folder: Athena's own default is five days.
KEPT_SECONDS = 1
MOST_IN_A_ROW = 3
PATIENCE = 600
"""Seconds that Trino may take to start again."""
_BEGUN = re.compile(r"\d+ of (\d+) START (?!hook)")


def next_day(both: BothEngines) -> None:
    """Let a day pass and land it."""
    both.pipeline.sandbox("advance")
    both.land("--reconcile")


def build_killed(both: BothEngines, victim: str, chance: random.Random, *selection: str) -> tuple[str, float]:
    """Begin a build on Athena, and kill the victim up to a second after any of its nodes has begun.

    Returns what had happened by then, and when dbt ended, by the monotonic clock. AssertionError: the build had ended before.
    """
    log = both.pipeline.folder / "killed.log"
    share, later = 0.9 * chance.random(), chance.random()
    at_failure = chance.choice(((), ("--fail-fast",)))
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(DBT), "--no-use-colors", "build", *WITHOUT_TESTS, *selection, *at_failure],
            cwd=ROOT,
            env=both.pipeline.env | both.on_athena,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            begun: list[str] = []
            while process.poll() is None and (not begun or len(begun) <= share * int(begun[0])):
                time.sleep(0.02)
                begun = _BEGUN.findall(log.read_text())
            time.sleep(later)
            assert process.poll() is None, f"it ended before it was killed: {log.read_text()}"
            if victim == TRINO_KILLED:
                _kill_trino(both.aws)  # dbt goes on, or ends by itself
                process.wait(PATIENCE * 3)
            elif victim == AWS_KILLED:
                psutil.Process(both.aws.pid).kill()
                time.sleep(1)  # without it, dbt would ask for ever
        finally:
            process.kill()
            process.wait()
            killed = time.monotonic()
    ends = log.read_text().count("[ERROR")
    failed = f", {ends} nodes failed, exit code {process.returncode}" if victim == TRINO_KILLED else ""
    return f"{later:.1f} s after node {len(begun)} of {begun[0]} had begun{failed}", killed


def _kill_trino(aws: LocalAws) -> None:
    """Kill it wherever it is, and wait until its server has started another."""
    first = status(aws_settings(folder=aws.folder)).trino_pid
    psutil.Process(first).kill()
    deadline = time.monotonic() + PATIENCE
    while (now := status(aws_settings(folder=aws.folder))) is None or now.trino_pid == first:
        assert time.monotonic() < deadline, "Trino did not start again"
        time.sleep(0.1)


def wait_for_lease(killed: float) -> None:
    """Wait until a build that was killed at this moment keeps no other one out, if it does."""
    time.sleep(max(0.0, killed + LEASE_SECONDS + 1 - time.monotonic()))


def build_again(both: BothEngines, killed: float, *selection: str) -> dict[str, int]:
    """Build on both engines after one that ended at this moment; rows of what was built, that are the same."""
    both.pipeline.dbt("build", *WITHOUT_TESTS, *selection)
    wait_for_lease(killed)
    both.athena("build", *WITHOUT_TESTS, *selection)
    return both.compare(built(both))


def built(both: BothEngines) -> list[str]:
    """Names of what the last build on Athena has built."""
    target = both.pipeline.folder / "target-athena"
    nodes = json.loads((target / "manifest.json").read_text())["nodes"]
    results = json.loads((target / "run_results.json").read_text())["results"]
    found = [nodes[name] for each in results if (name := each["unique_id"]) in nodes]
    return sorted(
        f"{node['schema']}.{node['alias']}" for node in found if node["resource_type"] != "operation"
    )


def maintain(both: BothEngines) -> None:
    """Maintenance and clean-up as an operator does them, but of what has just been written, too."""
    for database, table in _iceberg_tables(both):
        if database != "tables" or table["Name"] == "build_lease":  # the others are built whole each time
            both.statement(
                f"alter table {database}.{table['Name']} set tblproperties"
                f" ('vacuum_max_snapshot_age_seconds' = '{KEPT_SECONDS}')"
            )
    time.sleep(KEPT_SECONDS + 1)
    both.athena("run-operation", "maintain")
    said = both.pipeline.run(
        sys.executable, "-m", "sandbox.cleanup", "--delete", "--hours", "0", LAKE=both.lake
    )
    print(said.splitlines()[-1], flush=True)


def unreferenced(both: BothEngines) -> list[str]:
    """Keys of what is below LAKE/processed and LAKE/curated and no table refers to, by their own Iceberg metadata.

    https://iceberg.apache.org/spec/: a table's metadata name its snapshots, statistics and older metadata; a snapshot
    its list of manifests, that list its manifests, a manifest its data and delete files.
    """
    s3 = both.aws.client("s3")
    known: set[str] = set()

    def key(url: str) -> str:
        known.add(url.removeprefix(f"s3://{both.bucket}/"))
        return url.removeprefix(f"s3://{both.bucket}/")

    def read(url: str) -> bytes:
        return s3.get_object(Bucket=both.bucket, Key=key(url))["Body"].read()

    def records(url: str) -> Iterator[dict[str, Any]]:
        yield from fastavro.reader(BytesIO(read(url)))

    for _, table in _iceberg_tables(both):
        metadata = json.loads(read(table["Parameters"]["metadata_location"]))
        for entry in metadata.get("metadata-log", ()):
            key(entry["metadata-file"])
        for entry in (*metadata.get("statistics", ()), *metadata.get("partition-statistics", ())):
            key(entry["statistics-path"])
        manifests = {
            manifest["manifest_path"]
            for snapshot in metadata["snapshots"]
            for manifest in records(snapshot["manifest-list"])
        }
        for manifest in manifests:
            for entry in records(manifest):
                key(entry["data_file"]["file_path"])
    # a key that ends with a slash is Trino's way to make a folder
    found = [name for part in ("processed", "curated") for name in both.keys(f"lake/{part}/")]
    assert known & set(found), "no table refers to any of it: the catalogue is not of this bucket"
    return [name for name in found if name not in known and not name.endswith("/")]


def _iceberg_tables(both: BothEngines) -> Iterator[tuple[str, dict[str, Any]]]:
    """Database and Glue's definition of each."""
    glue = both.aws.client("glue")
    for database in glue.get_databases()["DatabaseList"]:
        for page in glue.get_paginator("get_tables").paginate(DatabaseName=database["Name"]):
            for table in page["TableList"]:
                if "metadata_location" in table.get("Parameters", {}):
                    yield database["Name"], table


def main() -> int:
    """Run the long form; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="moments at which something is killed")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31), help="of world and moments")
    parser.add_argument("--scale", default="0.02")
    parser.add_argument("--select", nargs="+", default=[], help="only these models, in dbt's words (all)")
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.kills} kills", flush=True)
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="athena-kills-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user under root
        aws = stack.enter_context(local_aws())
        pipeline = Pipeline("synthetic", folder)
        stack.callback(pipeline.down)
        both = landed(lambda world: pipeline, aws, f"synthetic-{options.seed % 1000}", options.scale)
        selection = ("--select", *options.select) if options.select else ()
        left = kill = 0
        for day in count(1):
            # The first day's builds are the first of all.
            if day > 1:
                next_day(both)
            victims = [
                chance.choice((DBT_KILLED, TRINO_KILLED)) for _ in range(chance.randint(1, MOST_IN_A_ROW))
            ]
            if day % 4 == 2:
                left += tidied(both)
                victims[0] = AWS_KILLED
            killed = 0.0
            for victim in victims[: options.kills - kill]:
                kill += 1
                wait_for_lease(killed)
                began = time.monotonic()
                said, killed = build_killed(both, victim, chance, *selection)
                if victim == AWS_KILLED:
                    both = anew(both, stack.enter_context(local_aws()))
                print(
                    f"kill {kill} of {options.kills}: {victim}, {said} ({time.monotonic() - began:.0f} s)",
                    flush=True,
                )
            began = time.monotonic()
            rows = build_again(both, killed, *selection)
            print(
                f"day {day}: the next build: {sum(rows.values())} rows of {len(rows)} tables, the same as undisturbed"
                f" ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
            if kill == options.kills:
                break
        left += tidied(both)
        rows = both.compare(rows)
        print(f"then {sum(rows.values())} rows of {len(rows)} tables, the same", flush=True)
    return int(left > 0)


def tidied(both: BothEngines) -> int:
    """Maintain and clean up; how many objects remain that no table refers to."""
    before = len(unreferenced(both))
    maintain(both)
    left = unreferenced(both)
    print(
        f"objects that no table refers to: {before} before maintenance and clean-up, {len(left)} after it,"
        f" of {len(both.keys('lake/processed/')) + len(both.keys('lake/curated/'))}",
        *left[:10],
        sep="\n  ",
        flush=True,
    )
    return len(left)


def anew(both: BothEngines, aws: LocalAws) -> BothEngines:
    """The same world on another local AWS, landed there as a whole; DuckDB's warehouse ends, too."""
    shutil.rmtree(both.pipeline.lake)
    both.pipeline.warehouse.unlink()
    another = BothEngines(both.pipeline, aws, f"{both.bucket}-anew")
    another.land()
    return another


if __name__ == "__main__":
    sys.exit(main())
