"""What the campaign starts and kills: one ingestion run, and a reader that watches the lake all the time.

Both run in processes of their own. Row groups and parts are made small, so that a small table goes through
every phase of a large one's run.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ingestion import lake, run, storage
from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.lake import MANIFEST_KEY, Lake
from ingestion.settings import Settings

WORLD = "synthetic"
OPTIONS = {"schema": "app", "overlap_seconds": 30}
TABLES = [
    TableConfig("app", name, "postgres", ("id",), "updated_at", options=OPTIONS)
    for name in ("orders", "things", "notes")
]
BUSY, FAILED = 75, 1


def ingest(
    root: str, settings: dict[str, Any], log: Path, sabotage: str | None, environment: dict[str, str]
) -> None:
    """Land every table of the source; the exit code is 0, BUSY or FAILED, and `log` says why."""
    os.environ |= environment
    lake.ROW_GROUP_ROWS = 256
    storage.PART_BYTES = 64 * 1024
    if sabotage == "plain-write":
        storage.LocalStorage.create = lambda self, name, replace=False: _PlainFile(self._root / name)
        storage.S3Storage.create = lambda self, name, replace=False: _PlainObject(self, name)
    try:
        errors = [r.error for r in run.run(Settings(lake=root, **settings), TABLES) if r.error]
    except IngestionError as error:
        errors = [str(error)]
    if errors:
        log.write_text("\n".join(errors))
        waits = any("another run" in error for error in errors)
        os._exit(BUSY if waits else FAILED)


class _PlainFile:
    """The sabotage: a file written under its final name from the start."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = path.open("wb", buffering=0)
        self._published = False

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def publish(self) -> None:
        self._published = True
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        if not self._published:
            self._path.unlink(missing_ok=True)


class _PlainObject:
    """The sabotage on S3: what is there so far, put under the final name again and again."""

    def __init__(self, place: storage.S3Storage, name: str) -> None:
        self._place = place
        self._name = name
        self._data = bytearray()
        self._sent = 0

    def write(self, data: Any) -> int:
        self._data += data
        if len(self._data) - self._sent > 256 * 1024:
            self._send()
        return len(data)

    def _send(self) -> None:
        self._sent = len(self._data)
        self._place.put(self._name, bytes(self._data), replace=True)

    def publish(self) -> None:
        self._send()

    def discard(self) -> None:
        """Leave what is there, as a program that was killed does."""


def watch(told: Path, said: Path) -> None:
    """Read every file of a lake as soon as it is listed, until the file `told` is gone.

    `told` names the lake. A file that is not whole, is not there any more, or changes, is written to `said`,
    and so are, at the end, the numbers of polls and files.
    """
    polls = files = 0
    seen: dict[str, tuple[int, str]] = {}
    root = ""
    with said.open("a", encoding="utf-8") as out:
        while told.exists():
            try:
                if root != (now := told.read_text()):
                    root, seen, place = now, {}, storage.open_storage(now)
                if not root:
                    continue
                listed = place.names("raw")
                for name in listed:
                    if name not in seen:
                        seen[name] = _read_whole(place, name)
                        files += 1
                lost = set(seen) - set(listed)
                # Files do not change: now and then one of them is looked at again.
                again = sorted(seen)[polls // 10 % len(seen)] if seen and polls % 10 == 0 else None
                if again and again not in lost and _read_whole(place, again) != seen[again]:
                    lost.add(again)
                problem = f"{sorted(lost)[0]} changed or went away" if lost else ""
            except Exception as error:
                problem = f"{type(error).__name__}: {str(error)[:300]}"
            # The campaign goes on to another lake while this one is being read.
            if problem and told.exists() and told.read_text() == root:
                out.write(json.dumps({"violation": f"a reader saw: {problem}"}) + "\n")
                out.flush()
                return
            polls += 1
            time.sleep(0.02 if "://" not in root else 0.1)
        out.write(json.dumps({"polls": polls, "files": files}) + "\n")


def _read_whole(place: storage.Storage, name: str) -> tuple[int, str]:
    """Rows and checksum of a file that fits its manifest; raises when it does not."""
    with place.open(name) as file:
        metadata = pq.read_metadata(file)
        manifest = json.loads(metadata.metadata[MANIFEST_KEY])
        file.seek(0)
        digest = hashlib.sha256(file.read(manifest["data_bytes"])).hexdigest()
    if f"sha256:{digest}" != manifest["content_checksum"] or metadata.num_rows != manifest["rows"]:
        raise ValueError(f"{name} is not whole")
    return metadata.num_rows, digest


def open_lake(root: str) -> Lake:
    """The lake of the campaign."""
    return Lake.open(root, WORLD)
