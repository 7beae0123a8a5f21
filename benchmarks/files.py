"""How fast JSON lines land, and in how much memory; beside dlt's filesystem source doing the same.

    python -m benchmarks.files [--events 1000000] [--rounds 3] [--no-peers]

The events are those of the app's event log, 340 bytes each, in hourly files. Ours checks every line, types it
and writes one Parquet file; dlt reads them with `read_jsonl` and writes Parquet to a local folder. Every run
is a process of its own, importing included, and all run one after the other in every round, so whatever else
the machine does, it does to both.
"""

import argparse
import json
import os
import random
import resource
import statistics
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


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.files", description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="the median is shown")
    parser.add_argument("--no-peers", action="store_true", help="only ingestion")
    parser.add_argument("--peer", type=Path, default=PEER, help="a Python that has dlt")
    parser.add_argument("--once", nargs=3, metavar=("TOOL", "DROP", "LAKE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        tool, *places = given.once
        _show_use({"ingestion": land, "dlt": land_with_dlt}[tool], *map(Path, places))
        return
    if not given.no_peers and not given.peer.exists():
        raise SystemExit(
            f"{given.peer} does not exist: install benchmarks/requirements.txt, or say --no-peers"
        )
    tools = {"ingestion": sys.executable} | ({} if given.no_peers else {"dlt": str(given.peer)})
    seen: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-files-") as folder:
        for kind in ("plain", "gzip"):
            make_events(Path(folder, kind), given.events, kind)
        for number in range(given.rounds):
            for kind in ("plain", "gzip"):
                for tool, python in tools.items():
                    lake = Path(folder, f"{tool}-{kind}-{number}")
                    seen.setdefault((tool, kind), []).append(_once(python, tool, Path(folder, kind), lake))
    print(f"load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")
    print(f"{'':<18}{'seconds':>9}{'of CPU':>8}{'events/s':>11}{'per CPU s':>11}{'peak MB':>9}")
    for (tool, kind), uses in seen.items():
        seconds, cpu, peak = (statistics.median(u[k] for u in uses) for k in ("seconds", "cpu", "peak_mb"))
        print(
            f"{tool + ', ' + kind:<18}{seconds:>9.1f}{cpu:>8.1f}{given.events / seconds:>11,.0f}"
            f"{given.events / cpu:>11,.0f}{peak:>9.0f}"
        )


def _once(python: str, tool: str, drop: Path, lake: Path) -> dict[str, float]:
    command = [python, __file__, "--once", tool, str(drop), str(lake)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tool} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


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


def _show_use(act: Callable[[Path, Path], None], *places: Path) -> None:
    began = time.perf_counter()
    act(*places)
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    cpu = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mb": used.ru_maxrss / 1024}))


if __name__ == "__main__":
    # Run as a file, by a peer's Python too: the project's folder is then not on the path.
    sys.path.insert(0, str(ROOT))
    main()
