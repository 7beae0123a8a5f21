"""Files that are broken in ten ways, what has to become of every line, and runs that are killed over them.

    python -m tests.soak.files [--kills 100] [--files 200] [--seed N]

Every round lands a drop folder with broken files, then the same folder with the files mended, then replays
the dead letters. Each of these runs is killed by SIGKILL at a random moment, again and again, and at last
left to finish: what the lake then holds must be what was to become of every line, nothing lost or twice.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa

from ingestion import files
from ingestion.config import TableConfig
from ingestion.lake import BatchWriter, Lake
from ingestion.run import Run
from ingestion.settings import Settings

DAY = date(2026, 1, 1)
AT = "2026-01-01T10:00:00Z"
MAX_LINE_BYTES = 4000
COLUMNS = {
    "id": {"type": "text", "required": True},
    "email": "text",
    "n": "bigint",
    "at": {"type": "timestamptz", "required": True},
}


def table(drop: Path) -> TableConfig:
    """The source that the files belong to."""
    options = {
        "location": str(drop),
        "quiet_seconds": 0,
        "columns": COLUMNS,
        "max_line_bytes": MAX_LINE_BYTES,
    }
    return TableConfig("drop", "things", "files", ("id",), "at", may_be_empty=True, options=options)


def batch(lake: Lake, things: TableConfig, day: date, act: Callable[[Run, BatchWriter], None]) -> BatchWriter:
    """Commit one batch of a table, filled by `act`."""
    with lake.lock():
        run = Run(Settings(), lake, day, lake.next_batch_id(), None)
        with lake.begin(things, files.schema(things, run), run.batch_id, day) as out:
            act(run, out)
    return out


@dataclass
class Made:
    """A file as it is dropped and as it is mended, and what has to become of the former's lines."""

    name: str
    broken: bytes
    whole: bytes
    ids: list[str]
    lands: list[int]
    """Lines that land of what is dropped, counted from 1."""
    letters: dict[str, str] = field(default_factory=dict)
    """Origin → reason of the dead letters of what is dropped."""


def make_files(count: int, broken: int, seed: int) -> list[Made]:
    """`count` files of records, `broken` of them broken in `WAYS`, each way as often as the others."""
    draw = random.Random(seed)
    ways = draw.sample([*WAYS.values()] * (broken // len(WAYS)) + [None] * (count - broken), count)
    return [_make(draw, number, way) for number, way in enumerate(ways)]


def _make(draw: random.Random, number: int, way: Callable | None) -> Made:
    ids = [f"{number}-{i}" for i in range(draw.randrange(5, 60))]
    ids += draw.sample(ids, 2)  # sent twice
    lines = [_line(draw, name) for name in ids]
    codec, ending = draw.choice([("plain", ""), ("gzip", ".gz"), ("zstd", ".zst")])
    name = f"2026-01-01/{number:04d}.jsonl{ending}"
    whole = _pack(codec, lines)
    made = Made(name, whole, whole, ids, list(range(1, len(ids) + 1)))
    if way:
        way(made, draw, lines)
    return made


def _line(draw: random.Random, name: str) -> bytes:
    record = {"id": name, "email": f"ana.{name}@example.com", "n": draw.randrange(10**6), "at": AT}
    if draw.random() < 0.1:
        record["cpf"] = "123.456.789-09"  # a field that nobody declared
    return json.dumps(record).encode()


def _pack(codec: str, lines: list[bytes]) -> bytes:
    data = b"\n".join(lines) + b"\n"
    return data if codec == "plain" else pa.compress(data, codec=codec, asbytes=True)


def _truncated_gzip(made: Made, draw: random.Random, lines: list[bytes]) -> None:
    packed = _pack("gzip", lines)
    made.broken = packed[: draw.randrange(len(packed) // 2, len(packed) - 8)]
    whole = zlib.decompressobj(31).decompress(made.broken).count(b"\n")
    made.lands = made.lands[:whole]
    made.letters = {f"{made.name}:{whole + 1}-": "the gzip archive ends too early"}


def _truncated_zstd(made: Made, draw: random.Random, lines: list[bytes]) -> None:
    whole = draw.randrange(1, len(lines) - 1)
    made.broken = _pack("zstd", lines[:whole]) + _pack("zstd", lines[whole:])[:-4]
    made.lands = made.lands[:whole]
    made.letters = {f"{made.name}:{whole + 1}-": "the zstd archive ends too early"}


def _damaged_gzip(made: Made, draw: random.Random, lines: list[bytes]) -> None:
    packed = bytearray(_pack("gzip", lines))
    packed[-8] ^= 1  # in its checksum
    made.broken, made.lands = bytes(packed), []
    made.letters = {f"{made.name}:1-": "the gzip archive is damaged"}


def _no_archive(made: Made, draw: random.Random, lines: list[bytes]) -> None:
    made.broken, made.lands = b"\x1f\x8b" + draw.randbytes(500), []
    made.letters = {f"{made.name}:1-": "the gzip archive is damaged"}


def _with_bad_lines(reason: str, bad: Callable[[bytes], bytes], unread: bool = False) -> Callable:
    def way(made: Made, draw: random.Random, lines: list[bytes]) -> None:
        places = sorted(draw.sample(range(len(lines)), 3))
        made.broken = _pack("gzip", [bad(x) if i in places else x for i, x in enumerate(lines)])
        made.lands = [i for i in made.lands if i - 1 not in places]
        made.letters = {f"{made.name}:{i + 1}{f'-{i + 1}' if unread else ''}": reason for i in places}

    return way


WAYS: dict[str, Callable] = {
    "truncated gzip": _truncated_gzip,
    "truncated zstd": _truncated_zstd,
    "wrong checksum": _damaged_gzip,
    "no archive": _no_archive,
    "cut line": _with_bad_lines("not JSON", lambda line: line[:-5]),
    "not UTF-8": _with_bad_lines("not UTF-8", lambda line: line.replace(b"ana.", b"jo\xe3o.")),
    "missing field": _with_bad_lines("id is missing", lambda line: line.replace(b'"id"', b'"di"')),
    "retyped field": _with_bad_lines("at is no timestamptz", lambda line: line.replace(b'"2026', b'"x2026')),
    "field twice": _with_bad_lines("a field is there twice", lambda line: line[:-1] + b', "id": "z"}'),
    "too long": _with_bad_lines(
        f"longer than max_line_bytes ({MAX_LINE_BYTES:,})", lambda line: line + b" " * MAX_LINE_BYTES, True
    ),
}


def drop(made: list[Made], folder: Path, *, mended: bool = False) -> None:
    """Put the files in a folder as a careful writer does: whole, by renaming."""
    for file in made:
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(file.whole if mended else file.broken)
        temporary.rename(path)


def landed(lake: Lake) -> Counter[tuple[str, int, str]]:
    """File, line and id of every row of the lake."""
    paths = [f"{lake.root}/{p}" for p in lake.batches("drop", "things")]
    if not paths:
        return Counter()
    with duckdb.connect() as connection:
        found = connection.read_parquet(paths).project("_source_file, _source_line, id")
        return Counter(found.fetchall())


def letters(lake: Lake) -> dict[str, str]:
    """Origin → reason of the open dead letters."""
    return {x.origin: x.reason for x in lake.dead_letters("drop", "things")}


def expected(
    made: list[Made], *, mended: bool = False
) -> tuple[Counter[tuple[str, int, str]], dict[str, str]]:
    """What the lake has to hold of the files: rows, and dead letters."""
    if mended:
        return Counter((f.name, i, name) for f in made for i, name in enumerate(f.ids, start=1)), {}
    rows = Counter((f.name, i, f.ids[i - 1]) for f in made for i in f.lands)
    return rows, {origin: reason for f in made for origin, reason in f.letters.items()}


# ---------------------------------------------------------------- runs that are killed


def _run(root: str, folder: str, step: str) -> None:
    lake, things = Lake.open(root, "synthetic"), table(Path(folder))
    if step == "replay":
        open_letters = lake.dead_letters("drop", "things")
        batch(lake, things, DAY, lambda run, out: files.replay(things, run, open_letters, out))
    else:
        batch(lake, things, DAY, lambda run, out: files.extract(things, run, out))


class Violation(Exception):
    """What must never happen, did."""


def campaign(kills: int, count: int, seed: int, folder: Path) -> dict[str, int]:
    """Kill runs until `kills` were hit at work; returns how many of each step were.

    Raises:
        Violation: a line was lost, landed twice, or has a dead letter that it should not have.
    """
    draw = random.Random(seed)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.soak.files", "numpy", "msgspec", "pyarrow.csv"])
    done: Counter[str] = Counter()
    patience = dict.fromkeys(("land", "mend", "replay"), 0.5)
    while done.total() < kills:
        round_seed = draw.randrange(10**9)
        made = make_files(count, max(10, count // 100 * 10), round_seed)
        place = folder / f"{round_seed}"
        for step in ("land", "mend", "replay"):
            if step != "replay":
                drop(made, place / "drop", mended=step == "mend")
            for attempt in range(4):
                process = processes.Process(
                    target=_run, args=(str(place / "lake"), str(place / "drop"), step)
                )
                began = time.monotonic()
                process.start()
                if attempt < 3 and done.total() < kills:
                    process.join(draw.uniform(0, patience[step]))
                    if process.is_alive():
                        os.kill(process.pid, signal.SIGKILL)
                        done[step] += 1
                process.join()
                if process.exitcode not in (0, -signal.SIGKILL):
                    raise Violation(f"round {round_seed}, {step}: exit code {process.exitcode}")
                if process.exitcode == 0:
                    # Kills are drawn over the whole time that a run takes here.
                    patience[step] = 1.2 * (time.monotonic() - began)
            _check(Lake.open(str(place / "lake"), "synthetic"), made, step, round_seed)
        shutil.rmtree(place)
    return dict(done)


def _check(lake: Lake, made: list[Made], step: str, seed: int) -> None:
    rows, wanted = expected(made, mended=step != "land")
    found, found_letters = landed(lake), letters(lake)
    problems = {
        "lost": sum((rows - found).values()),
        "twice": sum((found - rows).values()),
        "dead letters missing": len(wanted.items() - found_letters.items()),
        "dead letters too many": len(found_letters.items() - wanted.items()),
    }
    if any(problems.values()):
        raise Violation(f"round {seed}, after {step}: {problems}")


def main() -> int:
    """Run the campaign; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.files", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: a random one")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.kills} kills, {arguments.files} files a round", flush=True)
    # Each process that is killed would say that this module is there already.
    os.environ["PYTHONWARNINGS"] = "ignore::RuntimeWarning"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-files-") as folder:
        try:
            done = campaign(arguments.kills, arguments.files, arguments.seed, Path(folder))
        except Violation as violation:
            print(f"VIOLATION: {violation}")
            return 1
    print(f"killed in {done}; every line has its one fate: passed in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
