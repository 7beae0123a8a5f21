"""PostgreSQL to Parquet against `psql COPY`, ConnectorX and dlt: time, memory, and a small increment.

Every round runs the tools one after the other, and a tool's ratio is that of its round: what else the machine
does then, it does to all of them. The table is `app.bank_transactions` of the source contract.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg

from sandbox import postgres as sandbox_postgres
from sandbox.postgres import Postgres

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "bench"
PEERS = CACHE / "peers" / "bin" / "python"
PAGE = ROOT / "docs" / "benchmarks.md"
TABLE = "app.bank_transactions"
COPY = f"copy (select * from {TABLE}) to stdout (format binary)"
SLOW_PEERS_UP_TO = 5_000_000
INCREMENT, INCREMENTS = 10_000, 15
ROWS = """
    select
        i,
        1 + (hashint8(i)::bigint + 2147483648) %% 50000,
        timestamptz '2024-01-01' + i * interval '2 s' - (i %% 86400) * interval '1 s',
        ((hashint8(i * 3)::bigint %% 1000000) / 100.0)::numeric(14, 2),
        'BRL',
        (array['pix_in', 'pix_out', 'card', 'salary', 'bill', 'fee'])[1 + abs(hashint8(i * 5)::bigint) %% 6],
        case when i %% 3 > 0 then lpad((abs(hashint8(i * 11)::bigint) %% 300)::text, 3, '0') end,
        'PIX ' || md5(i::text),
        ((hashint8(i * 13)::bigint %% 100000000) / 100.0)::numeric(14, 2),
        timestamptz '2024-01-01' + i * interval '2 s'
    from generate_series(%s::bigint, %s::bigint) as i
"""


def main() -> None:
    """Measure, print the tables, and write them into the docs."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n", 1)[0])
    arguments.add_argument("--rows", type=int, nargs="+", default=[500_000, 5_000_000, 20_000_000])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--no-peers", action="store_true", help="only psql and ingestion")
    given = arguments.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "postgres.log").open("wb") as log:
        server = Postgres(CACHE / "pgdata", log)
        try:
            results = {"machine": _machine(), "rounds": given.rounds, "sizes": []}
            for rows in given.rows:
                dsn = _database(server.dsn, rows)
                results["sizes"].append(_measure(dsn, rows, given.rounds, not given.no_peers))
            results["increment"] = _increment(
                _database(server.dsn, max(r for r in given.rows if r <= 5_000_000))
            )
        finally:
            server.stop()
    _write(results)


def _machine() -> str:
    memory, load = psutil.virtual_memory().total / 1e9, os.getloadavg()[0]
    return f"{os.cpu_count()} cores, {memory:.0f} GB, Python {platform.python_version()}, load {load:.0f}"


def _database(dsn: str, rows: int) -> str:
    """The DSN of a database whose table has so many rows, made once."""
    name = f"bench_{rows}"
    socket = dsn.partition("?host=")[2]
    made = f"postgresql://postgres@/{name}?host={socket}"
    with psycopg.connect(dsn, autocommit=True) as connection:
        if connection.execute("select 1 from pg_database where datname = %s", (name,)).fetchone():
            return made
        print(f"making {rows:,} rows …", flush=True)
        connection.execute(f"drop database if exists {name}_new")
        connection.execute(f"create database {name}_new")
    with psycopg.connect(made.replace(name, f"{name}_new"), autocommit=True) as connection:
        schema = (ROOT / "sandbox" / "schema.sql").read_text()
        connection.execute("create schema app")
        create = re.search(r"create table app\.bank_transactions \(.*?\);", schema, re.DOTALL)[0]
        connection.execute(
            create.replace("create table", "create unlogged table").replace(
                " references app.bank_accounts", ""
            )
        )
        connection.execute(f"insert into {TABLE} {ROWS}", (1, rows))
        connection.execute(f"create index on {TABLE} (created_at)")
        connection.execute(f"vacuum analyze {TABLE}")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"alter database {name}_new rename to {name}")
    return made


def _measure(dsn: str, rows: int, rounds: int, peers: bool) -> dict:
    tools = {"psql": _psql, "ingestion": _ingestion}
    if peers and rows <= SLOW_PEERS_UP_TO:
        tools |= {"connectorx": _peer("connectorx"), "dlt": _peer("dlt")}
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in tools}
    for _ in range(rounds):
        for name, run in tools.items():
            seen[name].append(run(dsn))
            print(
                f"{rows:>12,} rows  {name:<12}{seen[name][-1][0]:>8.1f} s {seen[name][-1][1]:>6.0f} MB",
                flush=True,
            )
    summary = {}
    for name, runs in seen.items():
        ratios = [mine[0] / copy[0] for mine, copy in zip(runs, seen["psql"], strict=True)]
        summary[name] = {
            "seconds": statistics.median(r[0] for r in runs),
            "ratio": statistics.median(ratios),
            "ratios": [min(ratios), max(ratios)],
            "megabytes": max(r[1] for r in runs),
        }
    return {"rows": rows, "tools": summary}


def _psql(dsn: str) -> tuple[float, float]:
    psql = shutil.which("psql") or str(sandbox_postgres._BIN / "psql")
    return _timed([psql, dsn, "-qc", COPY])


def _ingestion(dsn: str) -> tuple[float, float]:
    shutil.rmtree(CACHE / "lake", ignore_errors=True)
    return _land(dsn)


def _land(dsn: str) -> tuple[float, float]:
    settings = {
        "LAKE": str(CACHE / "lake"),
        "SOURCE_DSN": dsn,
        "EXTRACT_DATE": "2025-12-31",
        "WORLD": "synthetic",
        # As in production: all settings are in the environment.
        "SANDBOX_DIR": str(CACHE / "no-sandbox"),
    }
    return _timed([sys.executable, "-m", "ingestion", "run", "--table", TABLE], **settings)


def _peer(name: str):
    def run(dsn: str) -> tuple[float, float]:
        folder = CACHE / name
        shutil.rmtree(folder, ignore_errors=True)
        # Neither reads a socket's folder from the query of a URL in the same way: the user has no password.
        host = quote(dsn.partition("?host=")[2], safe="") if name == "connectorx" else None
        url = re.sub(r"@/(.*)\?host=.*", rf"@{host}/\1", dsn) if host else dsn
        return _timed([str(PEERS), str(ROOT / "benchmarks" / "peers.py"), name, url, str(folder)])

    return run


def _timed(command: list[str], **settings: str) -> tuple[float, float]:
    """Wall seconds of a command, and the highest sum of its processes' resident memory in MB."""
    # As on any machine: Python keeps what it has compiled.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | settings
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    watched, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        try:
            family = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(p.memory_info().rss for p in family))
        except psutil.Error:
            pass
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{command[0]} failed: {process.stderr.read().decode()[-2000:]}")
    return seconds, peak / 1e6


def _increment(dsn: str) -> dict:
    """Seconds of runs that each find 10,000 new rows, process start-up included."""
    _ingestion(dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        (rows,) = connection.execute(f"select count(*) from {TABLE}").fetchone()
        (last,) = connection.execute(f"select max(transaction_id) from {TABLE}").fetchone()
        seconds, imports = [], []
        for number in range(INCREMENTS):
            connection.execute(
                f"insert into {TABLE} {ROWS}",
                (last + number * INCREMENT + 1, last + (number + 1) * INCREMENT),
            )
            imports.append(_timed([sys.executable, "-c", "import pyarrow.compute, pyarrow.parquet"])[0])
            seconds.append(_land(dsn)[0])
        connection.execute(f"delete from {TABLE} where transaction_id > %s", (last,))
        connection.execute(f"vacuum {TABLE}")
    print(
        f"{INCREMENT:,} of {rows:,} rows: {statistics.median(seconds):.2f} s"
        f" ({min(seconds):.2f} to {max(seconds):.2f}); to import Arrow: {statistics.median(imports):.2f} s"
    )
    return {"of": rows, "seconds": seconds, "imports": imports}


def _write(results: dict) -> None:
    lines = [
        f"Measured on {results['machine']}; median of {results['rounds']} rounds, in"
        " brackets the lowest and the highest. The load is what others used of the machine at the start.",
        "",
        "| rows | tool | seconds | × COPY | peak memory, MB |",
        "|---:|---|---:|---:|---:|",
    ]
    names = {"psql": "`psql` COPY BINARY → `/dev/null`", "ingestion": "**`python -m ingestion run`**"}
    for size in results["sizes"]:
        for name, tool in size["tools"].items():
            low, high = tool["ratios"]
            ratio = f"{tool['ratio']:.2f}" + (f" ({low:.2f}–{high:.2f})" if high > low else "")
            lines.append(
                f"| {size['rows']:,} | {names.get(name, name)} | {tool['seconds']:.1f} | {ratio}"
                f" | {tool['megabytes']:.0f} |"
            )
    increment = results["increment"]
    seconds, imports = increment["seconds"], increment["imports"]
    lines += [
        "",
        f"An increment of {INCREMENT:,} rows of a table of {increment['of']:,}, from the start of the process"
        f" to its end: {statistics.median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f},"
        f" {len(seconds)} runs). In turns with them, `python -c 'import pyarrow.compute, pyarrow.parquet'`:"
        f" {statistics.median(imports):.2f} s ({min(imports):.2f}–{max(imports):.2f}).",
    ]
    text = "\n".join(lines)
    print(f"\n{text}")
    (CACHE / "results.json").write_text(json.dumps(results, indent=1))
    page = PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- results -->", "<!-- /results -->"
    page = page[: page.index(begin) + len(begin)] + f"\n{text}\n" + page[page.index(end) :]
    PAGE.write_text(page, encoding="utf-8")
    if PEERS.exists():
        plot = [str(PEERS), str(ROOT / "benchmarks" / "plot.py")]
        subprocess.run([*plot, str(CACHE / "results.json"), str(PAGE.with_suffix(".svg"))], check=True)


if __name__ == "__main__":
    main()
