"""The files of a world's folder: who holds it, where to connect, and the event log."""

import contextlib
import fcntl
import gzip
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import IO

from sandbox.errors import SandboxError
from sandbox.worlds.base import World

_COMPLETE = ".complete_until"


class Folder:
    """Paths of everything one world keeps on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pgdata = path / "pgdata"
        self.events = path / "events"
        self.truth = path / "truth.jsonl"  # of bad data and deletions: for tests only
        self.endpoints = path / "endpoints.env"
        self.pid = path / "supervisor.pid"
        self.state = path / "supervisor.json"
        self.log = path / "supervisor.log"
        self.faults = path / "faults.json"
        self.lock = path.with_name(f"{path.name}.lock")  # outside, so that it outlives `down --wipe`


@contextlib.contextmanager
def exclusive(folder: Folder, progress: Callable[[str], None], patience: float = 120) -> Iterator[None]:
    """Lets one command at a time change a world. The kernel frees the lock of a killed one."""
    deadline = time.monotonic() + patience
    while True:
        try:
            folder.lock.parent.mkdir(parents=True, exist_ok=True)
            handle = folder.lock.open("w")
        except OSError as error:
            raise SandboxError(
                f"cannot write to {folder.lock.parent} ({error.strerror}): "
                "set SANDBOX_DIR to a folder you can write to"
            ) from None
        with handle:
            # `down --wipe` removes the file: a lock on a removed one protects nothing.
            if (
                try_lock(handle)
                and folder.lock.exists()
                and os.path.samestat(os.fstat(handle.fileno()), folder.lock.stat())
            ):
                yield
                return
        if time.monotonic() > deadline:
            raise SandboxError(
                f"another sandbox command has been working on {folder.path} for {patience:.0f} s: "
                "wait for it or stop it, then run this again"
            )
        progress("waiting for another sandbox command to finish")
        time.sleep(0.1)


def try_lock(handle: IO) -> bool:
    """Takes an exclusive lock if it is free."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def supervisor_pid(folder: Folder) -> int | None:
    """Process id of the running supervisor: it holds a lock on its pid file as long as it lives."""
    try:
        with folder.pid.open("r+") as handle:
            if try_lock(handle):
                return None
            return int(handle.read())
    except (FileNotFoundError, ValueError):
        return None


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Writes a file that is either absent or complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as handle:
        handle.write(content)
    temporary.rename(path)


def read_state(folder: Folder) -> dict:
    """What the supervisor last said of itself: dsn, port, world_date; empty when it said nothing."""
    try:
        return json.loads(folder.state.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def packed_events(world: World, first: date, last: date) -> Iterator[tuple[str, bytes]]:
    """Yields (path below `events/`, gzipped lines), the same bytes every time."""
    for name, lines in world.events(first, last):
        yield name, gzip.compress(lines, compresslevel=1, mtime=0)


def write_events(
    folder: Folder,
    make_world: Callable[[], World],
    day: date,
    progress: Callable[[str], None],
    ready: Iterable[tuple[str, bytes]] | None = None,
) -> None:
    """Brings the event log to the end of `day`. Files are deterministic, so one that exists is right.

    `ready` are the packed files, when somebody made them already.
    """
    folder.events.mkdir(exist_ok=True)
    marker = folder.events / _COMPLETE
    try:
        done = date.fromisoformat(marker.read_text())
    except (FileNotFoundError, ValueError):
        done = date.min
    if done >= day:
        return
    progress("writing the event log")
    if ready is None:
        first = date.min if done == date.min else date.fromordinal(done.toordinal() + 1)
        ready = packed_events(make_world(), first, day)
    for name, content in ready:
        path = folder.events / name
        if path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        write_whole(path, content)
    write_whole(marker, day.isoformat().encode())
