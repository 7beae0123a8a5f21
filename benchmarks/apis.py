"""How fast API records land, and in how much memory; beside dlt's REST client doing the same.

    python -m benchmarks.apis [--people 5000] [--rounds 3] [--no-peers]

The sandbox's credit bureau answers on loopback, in a process of its own; everyone has 24 records, 200 to a
page. Ours also reads the consents from PostgreSQL, checks every record and keeps each page in the spool
before it asks for the next. dlt gets the list of people for nothing and writes Parquet to a local folder.
Every round runs one after the other, so whatever else the machine does, it does to both. With dlt the results
go to `docs/benchmarks.md`.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import page
from sandbox.postgres import Postgres
from sandbox.third_party.server import create_server

DAY = date(2025, 12, 31)
CONSENTED_AT = datetime(2024, 1, 15, 12, tzinfo=UTC)
KEY = "benchmark-key"
NAMES = {"ingestion": "**`ingestion`**", "dlt": "dlt, `RESTClient`"}
ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".cache" / "bench" / "peers" / "bin" / "python"


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.apis", description=__doc__.split("\n")[0])
    parser.add_argument("--people", type=int, default=5000, help="how many people to ask about")
    parser.add_argument("--rounds", type=int, default=3, help="the median is shown")
    parser.add_argument("--no-peers", action="store_true", help="only ingestion")
    parser.add_argument("--peer", type=Path, default=PEER, help="a Python that has dlt")
    given = parser.parse_args()
    if not given.no_peers and not given.peer.exists():
        raise SystemExit(
            f"{given.peer} does not exist: install benchmarks/requirements.txt, or say --no-peers"
        )
    machine = page.machine()
    results: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="bench-apis-") as folder,
        _bureau() as url,
        _lender(Path(folder), given.people) as dsn,
    ):
        for number in range(given.rounds):
            place = Path(folder, str(number))
            results.setdefault((NAMES["ingestion"],), []).append(_ours(place / "lake", dsn, url))
            if not given.no_peers:
                results.setdefault((NAMES["dlt"],), []).append(_dlt(given.peer, place / "dlt", dsn, url))
    records = results[NAMES["ingestion"],][0]["records"]
    said = f"{records:,} records on {machine}, the API's server among them"
    lines = page.table(said, ["tool"], "records", results)
    if given.no_peers:
        print("\n".join(lines))
    else:
        page.write("apis", lines)


def _ours(lake: Path, dsn: str, url: str) -> dict[str, Any]:
    return _child([sys.executable, "-m", "benchmarks.apis_ours"], {"lake": str(lake), "dsn": dsn, "url": url})


def _dlt(python: Path, folder: Path, dsn: str, url: str) -> dict[str, Any]:
    with psycopg.connect(dsn) as connection:
        people = connection.execute("select cpf from app.customers order by cpf").fetchall()
    subjects = [{"cpf": cpf, "consented_at": CONSENTED_AT.isoformat(), "after": None} for (cpf,) in people]
    given = {"folder": str(folder), "url": url, "key": KEY, "subjects": subjects}
    return _child([str(python), str(Path(__file__).with_name("apis_dlt.py"))], given)


def _child(command: list[str], given: dict[str, Any]) -> dict[str, Any]:
    """Run a program that reads its task from standard input and prints its result as the last line."""
    done = subprocess.run(command, input=json.dumps(given), text=True, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def _lender(folder: Path, people: int) -> Any:
    with (folder / "postgres.log").open("wb") as log:
        server = Postgres(folder / "pgdata", log)
        try:
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                connection.execute((ROOT / "sandbox" / "schema.sql").read_text(encoding="utf-8"))
                connection.execute(
                    "insert into app.customers (customer_id, partner_id, full_name, cpf, email, created_at,"
                    " updated_at) select n, 'p', 'n', to_char(40000000000 + n * 7919, 'FM00000000000'), 'e',"
                    " %(at)s, %(at)s from generate_series(1, %(people)s) as n",
                    {"at": CONSENTED_AT, "people": people},
                )
                connection.execute(
                    "insert into app.consents (consent_id, customer_id, scope, granted_at, updated_at)"
                    " select gen_random_uuid(), customer_id, 'bureau', created_at, created_at"
                    " from app.customers"
                )
            yield server.dsn
        finally:
            server.stop()


@contextmanager
def _bureau() -> Any:
    processes = multiprocessing.get_context("spawn")
    mine, theirs = processes.Pipe()
    process = processes.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield mine.recv()
    finally:
        process.terminate()
        process.join()


def _serve(ready: Any) -> None:
    server = create_server(
        "synthetic", 7, DAY, 0, KEY, requests_per_second=1e6, burst=10**6, log=lambda line: None
    )
    ready.send(server.url)
    server.serve_forever()


def peak_mb() -> float:
    """The most memory this process has had, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
