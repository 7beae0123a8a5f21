"""How fast JSON lines land, and in how much memory; beside dlt's filesystem source doing the same.

    python -m benchmarks.files [--events 1000000] [--rounds 3] [--no-peers]

The events are those of the app's event log, 340 bytes each, in hourly files. Ours checks every line, types it
and writes one Parquet file; dlt reads them with `read_jsonl` and writes Parquet to a local folder; DuckDB's
`read_json` to Parquet is the yardstick of what a machine can do: it checks little and accounts for nothing.
Every run is a process of its own, timed from its start to its end, and all run one after the other in every
round, so whatever else the machine does, it does to all. With dlt the results go to `docs/benchmarks.md`.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / ".cache" / "bench" / "peers" / "bin" / "python"
EVENTS_A_FILE = 100_000
NAMES = {
    "ingestion": "**`ingestion`**",
    "dlt": "dlt, `filesystem` and `read_jsonl`",
    "DuckDB": "DuckDB, `read_json`",
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="the median is shown")
    parser.add_argument("--no-peers", action="store_true", help="only ingestion")
    parser.add_argument("--peer", type=Path, default=PEER, help="a Python that has dlt")
    parser.add_argument("--once", nargs=3, metavar=("TOOL", "DROP", "LAKE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        tool, *places = given.once
        _show_use(
            {"ingestion": land, "dlt": land_with_dlt, "DuckDB": read_with_duckdb}[tool], *map(Path, places)
        )
        return
    if not given.no_peers and not given.peer.exists():
        raise SystemExit(
            f"{given.peer} does not exist: install benchmarks/requirements.txt, or say --no-peers"
        )
    from benchmarks import page

    tools = {"ingestion": sys.executable, "DuckDB": sys.executable}
    if not given.no_peers:
        tools["dlt"] = str(given.peer)
    machine = page.machine()
    seen: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-files-") as folder:
        for kind in ("plain", "gzip"):
            make_events(Path(folder, kind), given.events, kind)
        for number in range(given.rounds):
            for kind in ("plain", "gzip"):
                for tool, python in tools.items():
                    lake = Path(folder, f"{tool}-{kind}-{number}")
                    used = _once(python, tool, Path(folder, kind), lake) | {"records": given.events}
                    seen.setdefault((kind, NAMES[tool]), []).append(used)
    lines = page.table(f"{given.events:,} events on {machine}", ["files", "tool"], "events", seen)
    if given.no_peers:
        print("\n".join(lines))
    else:
        page.write("files", lines)


def _once(python: str, tool: str, drop: Path, lake: Path) -> dict[str, float]:
    command = [python, __file__, "--once", tool, str(drop), str(lake)]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{tool} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": seconds}


def make_events(folder: Path, count: int, kind: str) -> None:
    """Write events as the app does, in files by the hour."""
    draw = random.Random(7)
    for number in range(0, count, EVENTS_A_FILE):
        hour = number // EVENTS_A_FILE
        path = (
            folder
            / f"2026-01-{1 + hour // 24:02d}"
            / f"{hour % 24:02d}.jsonl{'.gz' if kind == 'gzip' else ''}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (_event(draw, i) for i in range(number, min(count, number + EVENTS_A_FILE)))
        data = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
        packer = zlib.compressobj(1, wbits=31)
        path.write_bytes(data if kind == "plain" else packer.compress(data) + packer.flush())


def _event(draw: random.Random, number: int) -> dict:
    at = f"2026-01-01T10:{number // 60 % 60:02d}:{number % 60:02d}.{draw.randrange(10**6):06d}Z"
    return {
        "event_id": str(uuid.UUID(int=draw.getrandbits(128))),
        "customer_id": draw.randrange(5000),
        "actor": "customer",
        "session_id": str(uuid.UUID(int=draw.getrandbits(128))),
        "event_type": draw.choice(["page_view", "login", "simulation_started"]),
        "occurred_at": at,
        "properties": {"page": "início", "device": {"os": "android", "version": 14}, "n": number},
        "received_at": at,
    }


def land(drop: Path, lake: Path) -> None:
    """Land the events as `python -m ingestion run` does."""
    from ingestion import files
    from ingestion.config import load_sources, select_tables
    from ingestion.lake import Lake
    from ingestion.run import Run
    from ingestion.settings import Settings

    (events,) = select_tables(load_sources(), ["app_log.events"])
    events = replace(events, options=events.options | {"pattern": "*.jsonl*"})
    day = date(2026, 1, 1)
    target = Lake.open(str(lake), "synthetic")
    with target.lock():
        settings = Settings(event_log=str(drop))
        run = Run(settings, target, day, target.next_batch_id(), None)
        with target.begin(events, files.schema(events, run), run.batch_id, day) as out:
            files.extract(events, run, out)


def land_with_dlt(drop: Path, lake: Path) -> None:
    """Land the events with dlt's filesystem source, in the peer's environment."""
    import dlt
    from dlt.destinations import filesystem
    from dlt.sources.filesystem import filesystem as files
    from dlt.sources.filesystem import read_jsonl

    pipeline = dlt.pipeline(
        "events", destination=filesystem(str(lake)), dataset_name="app_log", pipelines_dir=str(lake / "work")
    )
    events = (files(str(drop), file_glob="*/*.jsonl*") | read_jsonl(chunksize=10_000)).with_name("events")
    pipeline.run(events, loader_file_format="parquet").raise_on_failed_jobs()


def read_with_duckdb(drop: Path, lake: Path) -> None:
    """Copy the events to one Parquet file with DuckDB."""
    import duckdb

    lake.mkdir(parents=True)
    columns = "event_id varchar, customer_id bigint, actor varchar, session_id varchar, event_type varchar"
    columns += ", occurred_at timestamptz, properties json, received_at timestamptz"
    typed = ", ".join(f"{name}: '{kind}'" for name, kind in (c.split() for c in columns.split(", ")))
    with duckdb.connect(config={"memory_limit": "250MB"}) as connection:
        connection.execute(
            f"copy (select * from read_json('{drop}/*/*.jsonl*', format = 'newline_delimited',"
            f" columns = {{{typed}}})) to '{lake}/events.parquet' (compression zstd, compression_level 1)"
        )


def _show_use(act: Callable[[Path, Path], None], *places: Path) -> None:
    act(*places)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}))


if __name__ == "__main__":
    # Run as a file, by a peer's Python too: the project's folder is then not on the path.
    sys.path.insert(0, str(ROOT))
    main()
