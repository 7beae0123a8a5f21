"""The local Athena at length: concurrent Iceberg writers, a thousand queries, times, memory, what it leaves.

python -m tests.soak.athena                      # everything; ends with 1 if a guarantee does not hold
python -m tests.soak.athena --commits 80 --queries 200
python -m tests.soak.athena --only leave         # or measure, query, write
"""

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil

from sandbox.aws import LocalAws, local_aws

WRITERS = 8
START, ANSWER, MEMORY = 20.0, 0.1, 2000.0
"""Most seconds to start and to answer `select 1`, most megabytes of Trino and moto together."""
GROWTH = 0.04
"""Most megabytes a query by which moto may grow: result files stay. Trino grows up to its heap's limit."""


class Client:
    """Runs statements; one for each thread."""

    def __init__(self, aws: LocalAws) -> None:
        self._athena = aws.client("athena")

    def run(self, sql: str) -> tuple[dict, list[list[str | None]]]:
        """The status at the end, and the rows without their header."""
        name = self._athena.start_query_execution(
            QueryString=sql, ResultConfiguration={"OutputLocation": "s3://soak/out/"}
        )["QueryExecutionId"]
        while True:
            status = self._athena.get_query_execution(QueryExecutionId=name)["QueryExecution"]["Status"]
            if status["State"] not in ("QUEUED", "RUNNING"):
                break
            time.sleep(0.01)
        if status["State"] != "SUCCEEDED":
            return status, []
        rows = self._athena.get_query_results(QueryExecutionId=name)["ResultSet"]["Rows"]
        return status, [[value.get("VarCharValue") for value in row["Data"]] for row in rows[1:]]


def write(aws: LocalAws, commits: int) -> list[str]:
    """Eight writers commit row by row; a commit that gives up is tried again, as dbt does."""
    admin = Client(aws)
    admin.run(
        "create table written (writer int, n int) location 's3://soak/written/'"
        " tblproperties ('table_type' = 'ICEBERG')"
    )
    gave_up, lock, wrong = 0, threading.Lock(), []

    def one(writer: int) -> None:
        nonlocal gave_up
        client = Client(aws)
        for n in range(writer, commits, WRITERS):
            while True:
                status, _ = client.run(f"insert into written values ({writer}, {n})")  # noqa: S608
                if status["State"] == "SUCCEEDED":
                    break
                if status.get("AthenaError", {}).get("ErrorType") != 233:
                    wrong.append(status["StateChangeReason"])
                    return
                with lock:
                    gave_up += 1

    begun = time.monotonic()
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(one, range(WRITERS)))
    seen = [int(value) for value in admin.run("select count(*), count(distinct n) from written")[1][0]]
    print(
        f"{WRITERS} writers, {commits} commits in {time.monotonic() - begun:.0f} s, {gave_up} gave up and"
        f" came again: {seen[0]} rows, {seen[1]} of them different"
    )
    return [
        *wrong,
        *([f"{commits} rows were written, {seen} are there"] if seen != [commits, commits] else []),
    ]


def query(aws: LocalAws, queries: int) -> list[str]:
    """Memory before, and after every fifth of the queries."""
    client, after = Client(aws), []
    print(f"memory before: {_memory(aws)}")
    for part in range(5):
        times = []
        for number in range(queries // 5):
            begun = time.monotonic()
            client.run(f"select {part * queries + number}")
            times.append(time.monotonic() - begun)
        after.append(_megabytes(aws))
        print(
            f"memory after {(part + 1) * queries // 5} queries: {_memory(aws)}; median"
            f" {statistics.median(times) * 1000:.0f} ms"
        )
    grown = (after[-1][0] - after[0][0]) / (queries * 4 / 5)
    wrong = [f"moto grew by {grown:.3f} MB a query, more than {GROWTH}"] if grown > GROWTH else []
    total = sum(after[-1])
    return wrong + ([f"memory is {total:.0f} MB, more than {MEMORY:.0f}"] if total > MEMORY else [])


def measure(aws: LocalAws, start: float) -> list[str]:
    """Start, answer, memory against what is promised; the median of 100 answers after 20."""
    client, times = Client(aws), []
    for _ in range(120):
        begun = time.monotonic()
        client.run("select 1")
        times.append(time.monotonic() - begun)
    answer, memory = statistics.median(times[20:]), sum(_megabytes(aws))
    print(f"start {start:.1f} s (at most {START:.0f}), `select 1` {answer * 1000:.0f} ms (at most"
          f" {ANSWER * 1000:.0f}), memory {_memory(aws)} (at most {MEMORY:.0f} MB together)")  # fmt: skip
    return [
        f"{name} is {value:.1f}, more than {most}"
        for name, value, most in (
            ("start", start, START),
            ("answer", answer, ANSWER),
            ("memory", memory, MEMORY),
        )
        if value > most
    ]


def leave() -> list[str]:
    """Nothing runs any more after `down`, nor after Ctrl-C and kill -9 of the process that started it."""
    wrong = []
    commands = [sys.executable, "-m", "sandbox", "aws"]
    holder = (
        "import sys, time; from pathlib import Path; from sandbox.aws import local_aws\n"
        "with local_aws(folder=Path(sys.argv[1])): print(flush=True); time.sleep(3600)"
    )
    for way in ("down", "Ctrl-C", "kill -9"):
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            if way == "down":
                subprocess.run([*commands, "up", "--folder", folder], check=True, stdout=subprocess.DEVNULL)
                ran = _pids(folder)
                subprocess.run([*commands, "down", "--folder", folder], check=True, stdout=subprocess.DEVNULL)
            else:
                parent = subprocess.Popen(
                    [sys.executable, "-c", holder, folder],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                parent.stdout.readline()
                ran = _pids(folder)
                parent.send_signal(signal.SIGINT if way == "Ctrl-C" else signal.SIGKILL)
                parent.wait()
            begun = time.monotonic()
            while (left := [pid for pid in ran if psutil.pid_exists(pid)]) and time.monotonic() < begun + 60:
                time.sleep(0.05)
            print(f"after {way}: of {len(ran)} processes {len(left)} run on")
            wrong += [f"after {way} there is still process {pid}" for pid in left]
    return wrong


def _pids(folder: str) -> list[int]:
    """The server and the engine of a folder, which run."""
    state = json.loads(Path(folder, "server.json").read_text())
    found = [state["pid"], state["trino_pid"]]
    if not all(map(psutil.pid_exists, found)):
        raise RuntimeError(f"nothing ran in {folder}: {state}")
    return found


def _megabytes(aws: LocalAws) -> list[float]:
    return [psutil.Process(pid).memory_info().rss / 1e6 for pid in (aws.pid, aws.trino_pid)]


def _memory(aws: LocalAws) -> str:
    moto, trino = _megabytes(aws)
    return f"moto {moto:.0f} MB, Trino {trino:.0f} MB"


@contextmanager
def _started() -> Iterator[tuple[LocalAws, float]]:
    begun = time.monotonic()
    with local_aws() as aws:
        start = time.monotonic() - begun
        aws.client("s3").create_bucket(Bucket="soak")
        yield aws, start


def main() -> int:
    """Runs everything that is asked for; 0 asks for nothing of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--commits", type=int, default=500)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--only", choices=["measure", "query", "write", "leave"], help="just this part")
    arguments = parser.parse_args()
    parts = [arguments.only] if arguments.only else ["measure", "query", "write", "leave"]
    wrong = []
    if parts != ["leave"]:
        with _started() as (aws, start):
            wrong += measure(aws, start) if "measure" in parts else []
            wrong += query(aws, arguments.queries) if "query" in parts and arguments.queries else []
            wrong += write(aws, arguments.commits) if "write" in parts and arguments.commits else []
    wrong += leave() if "leave" in parts else []
    print("\n".join(f"error: {text}" for text in wrong) or "everything held")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
