"""Brings a world up, moves it on, takes it down: the functions behind `python -m sandbox`."""

import contextlib
import dataclasses
import functools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Self

import psutil
import psycopg
from psycopg import sql

from sandbox import loader, postgres, worlds
from sandbox.errors import SandboxError
from sandbox.files import (
    Folder,
    exclusive,
    packed_events,
    read_state,
    supervisor_pid,
    write_events,
    write_whole,
)
from sandbox.settings import Settings, load
from sandbox.third_party.faults import Faults
from sandbox.worlds.base import TABLES, World
from sandbox.worlds.dirt import DirtyWorld
from sandbox.worlds.synthetic import SyntheticWorld

DEFAULT_SEED = 1
DEFAULT_SCALE = 1.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Status:
    """A world as it is now."""

    world: str
    folder: Path
    exists: bool
    running: bool
    seed: int | None = None
    scale: float | None = None
    world_date: date | None = None
    dsn: str | None = None
    port: int | None = None
    started: bool = False
    """Whether this very call started it (so whoever called may stop it again)."""
    created: bool = False
    """Whether this very call created it."""


def up(
    settings: Settings | None = None,
    *,
    seed: int | None = None,
    scale: float | None = None,
    lifeline: int | None = None,
    progress: Progress = lambda text: None,
) -> Status:
    """Starts a world, creating it first if it does not exist.

    Args:
        settings: where and which world, and how dirty it is; by default from the environment.
        seed: seed of a generated world, only when it is created.
        scale: size of a generated world, only when it is created; 1 is about 5,000 customers.
        lifeline: the reading end of a pipe whose writing end the caller holds. The world stops when
            the caller ends, however it ends. Ignored when the world is already up.
        progress: told what is going on, in a few words.
    """
    settings = settings or load()
    folder = Folder(settings.folder)
    with exclusive(folder, progress):
        folder.path.mkdir(parents=True, exist_ok=True)
        if supervisor_pid(folder) and not read_state(folder):
            _stop(folder)  # its starter was killed before it was ready
        if supervisor_pid(folder):
            row, created, started = _existing(folder, seed, scale), False, False
            _check_dirt(settings, row)
            _complete(settings, folder, row, progress)
        else:
            _check_port(settings.sandbox_port)
            with _Supervisor(settings, folder, lifeline) as supervisor:
                row, created = _find_or_create(supervisor, settings, folder, seed, scale, progress)
                _check_dirt(settings, row)
                progress("starting the third-party APIs")
                supervisor.serve()
            started = True
            _complete(settings, folder, row, progress)
        return _status(settings, folder, row, started=started, created=created)


def advance(
    settings: Settings | None = None, *, days: int = 1, progress: Progress = lambda text: None
) -> tuple[Status, int]:
    """Lets up to `days` days pass. Returns the world afterwards and how many days there were.

    A clean world is dirty from the next day on when the settings ask for it.
    """
    settings = settings or load()
    folder = Folder(settings.folder)
    with exclusive(folder, progress):
        state = read_state(folder) if supervisor_pid(folder) else {}
        if not state:
            raise SandboxError(f"world {settings.world} is not up: run `python -m sandbox up` first")
        row = _existing(folder, None, None)
        wanted = _wanted_dirt(settings, row.name, row.world_date + timedelta(days=1))
        if wanted and not row.dirt:
            with _connect(state["dsn"]) as connection:
                loader.begin_dirt(connection, wanted)
            row = dataclasses.replace(row, dirt=wanted)
        _check_dirt(settings, row)
        progress("reading the world")
        world = _world(settings, row)
        moved = 0
        for _ in range(days):
            day = row.world_date + timedelta(days=1)
            if world.last_date is not None and day > world.last_date:
                break
            with _connect(state["dsn"]) as connection:
                loader.apply_day(connection, world, day, lambda text, day=day: progress(f"{day}: {text}"))
                row = loader.read_world(connection)
            moved += 1
            write_events(folder, lambda: world, day, progress)
        _complete(settings, folder, row, progress)
        return _status(settings, folder, row), moved


def down(
    settings: Settings | None = None, *, wipe: bool = False, progress: Progress = lambda text: None
) -> bool:
    """Stops a world; with `wipe`, deletes it too. Returns whether there was anything to do."""
    settings = settings or load()
    folder = Folder(settings.folder)
    if not folder.path.exists():
        return False
    if wipe and not (folder.pgdata.exists() or folder.log.exists()):
        raise SandboxError(f"{folder.path} holds no world: it is not deleted")
    with exclusive(folder, progress):
        progress("stopping")
        stopped = _stop(folder)
        if wipe:
            progress("deleting")
            shutil.rmtree(folder.path, ignore_errors=True)
            folder.lock.unlink(missing_ok=True)
        return stopped or wipe


def status(settings: Settings | None = None) -> Status:
    """Says how a world is, without changing anything."""
    settings = settings or load()
    folder = Folder(settings.folder)
    if not supervisor_pid(folder) or not read_state(folder):
        exists = (folder.path / "endpoints.env").exists()
        return Status(settings.world, folder.path, exists=exists, running=False)
    return _status(settings, folder, _existing(folder, None, None))


def misbehave(settings: Settings, faults: Faults) -> None:
    """Lets the third-party APIs of a world misbehave from now on; `Faults()` ends it."""
    folder = Folder(settings.folder)
    if not folder.path.exists():
        raise SandboxError(f"world {settings.world} does not exist: run `python -m sandbox up` first")
    if any(faults.rates.values()):
        write_whole(folder.faults, json.dumps(asdict(faults)).encode())
    else:
        folder.faults.unlink(missing_ok=True)


def row_counts(dsn: str) -> dict[str, int]:
    """Number of rows of every table."""
    with _connect(dsn) as connection:
        return {
            name: connection.execute(
                sql.SQL("select count(*) from {}").format(sql.Identifier("app", name))
            ).fetchone()[0]
            for name in TABLES
        }


class _Supervisor:
    """The starter's end of a supervisor. At the end of the block it stops unless told to serve."""

    def __init__(self, settings: Settings, folder: Folder, lifeline: int | None) -> None:
        command = [sys.executable, "-m", "sandbox.supervisor", "--folder", str(folder.path)]
        command += ["--port", str(settings.sandbox_port)]
        if lifeline is not None:
            command += ["--lifeline", str(lifeline)]
        self._log_path = folder.log
        self._serving = False
        package_parent = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
        with folder.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the command, not for the world
                pass_fds=() if lifeline is None else (lifeline,),
                env={**os.environ, "PYTHONPATH": path},
            )

    def hear(self, name: str) -> str | int:
        """Waits for the supervisor to say `name`."""
        line = self._process.stdout.readline()
        message = json.loads(line) if line else {"error": f"the sandbox did not start: see {self._log_path}"}
        if "error" in message:
            raise SandboxError(message["error"])
        return message[name]

    def serve(self) -> None:
        """Tells the supervisor to go on alone, and waits until it does."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"serve\n")
            self._process.stdin.flush()
        self.hear("port")
        self._serving = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if not self._serving:
            self._process.wait(60)
        self._process.stdout.close()


def _find_or_create(
    supervisor: _Supervisor,
    settings: Settings,
    folder: Folder,
    seed: int | None,
    scale: float | None,
    progress: Progress,
) -> tuple[loader.WorldRow, bool]:
    def make() -> World:
        progress(f"making the world {settings.world}")
        return _make_world(
            settings.world,
            DEFAULT_SEED if seed is None else seed,
            DEFAULT_SCALE if scale is None else scale,
            settings.berka_dir,
        )

    _wanted_dirt(settings, settings.world, date.min)  # what cannot be is said before anything is made

    if not folder.pgdata.exists():
        make()  # while PostgreSQL sets itself up
    progress("starting PostgreSQL")
    with _connect(supervisor.hear("dsn")) as connection:
        row = loader.read_world(connection)
        if row is not None:
            _check_same(row, seed, scale)
            return row, False
        clean = make()
        dirt = _wanted_dirt(settings, settings.world, clean.first_date)
        world = _with_dirt(clean, dirt)
        with ThreadPoolExecutor(1) as pool:
            # PostgreSQL is busy with the load, so this process makes the event log meanwhile.
            packed = pool.submit(lambda: list(packed_events(world, date.min, world.first_date)))
            then = world.dirt_of(world.first_date) if dirt else ()
            loader.create_world(connection, world, secrets.token_hex(16), progress, dirt, then)
            write_events(folder, lambda: world, world.first_date, progress, packed.result())
        return loader.read_world(connection), True


def _existing(folder: Folder, seed: int | None, scale: float | None) -> loader.WorldRow:
    with _connect(read_state(folder)["dsn"]) as connection:
        row = loader.read_world(connection)
    _check_same(row, seed, scale)
    return row


def _check_same(row: loader.WorldRow, seed: int | None, scale: float | None) -> None:
    for name, asked, have in (("seed", seed, row.seed), ("scale", scale, row.scale)):
        if asked is not None and asked != have:
            raise SandboxError(
                f"world {row.name} exists with --{name} {have:g}, not {asked:g}: leave --{name} out, "
                "or run `python -m sandbox down --wipe` first"
            )


def _wanted_dirt(settings: Settings, world: str, since: date) -> loader.DirtRow | None:
    """The dirt that the settings ask for, None when they ask for none."""
    if not settings.sandbox_dirt and not settings.sandbox_deletes:
        return None
    if world != SyntheticWorld.name:
        raise SandboxError(f"world {world} is real: it takes no --dirt and no --deletes, leave them out")
    return loader.DirtRow(settings.sandbox_dirt, settings.sandbox_deletes, since)


def _check_dirt(settings: Settings, row: loader.WorldRow) -> None:
    wanted = _wanted_dirt(settings, row.name, row.world_date)
    if wanted and (row.dirt is None or (wanted.rate, wanted.deletes) != (row.dirt.rate, row.dirt.deletes)):
        have = f"--dirt {row.dirt.rate:g}{' --deletes' * row.dirt.deletes}" if row.dirt else "no --dirt"
        raise SandboxError(
            f"world {row.name} exists with {have}: leave --dirt and --deletes out, begin them with `advance`"
            " where there are none yet, or run `python -m sandbox down --wipe` first"
        )


def _with_dirt(world: World, dirt: loader.DirtRow | None) -> World:
    return DirtyWorld(world, dirt.rate, dirt.deletes, dirt.since) if dirt else world


_make_world = functools.lru_cache(maxsize=1)(worlds.create)
"""Making a world takes a moment; one process that goes up and then advances makes it once."""


def _world(settings: Settings, row: loader.WorldRow) -> World:
    return _with_dirt(_make_world(row.name, row.seed, row.scale, settings.berka_dir), row.dirt)


def _complete(settings: Settings, folder: Folder, row: loader.WorldRow, progress: Progress) -> None:
    """Finishes what a killed command may have left: event log, truth, the APIs' date, endpoints."""
    write_events(folder, lambda: _world(settings, row), row.world_date, progress)
    if row.dirt:
        facts = _world(settings, row).truth(row.world_date)
        write_whole(folder.truth, "".join(json.dumps(fact) + "\n" for fact in facts).encode())
    deadline = time.monotonic() + 10
    while read_state(folder).get("world_date") != row.world_date.isoformat():
        if time.monotonic() > deadline:
            raise SandboxError(f"the sandbox does not answer: run `down`, then `up`, or see {folder.log}")
        time.sleep(0.01)
    state = read_state(folder)
    url = f"http://127.0.0.1:{state['port']}"
    values = {
        "SOURCE_ID": f"world {row.name}, seed {row.seed}, scale {row.scale:g}",
        "SOURCE_DSN": state["dsn"],
        "BUREAU_URL": url,
        "BUREAU_API_KEY": row.bureau_api_key,
        "FX_URL": url,
        "EXTRACT_DATE": row.world_date.isoformat(),
        "EVENT_LOG": str(folder.events),
    }
    lines = "".join(f"{name}={value}\n" for name, value in values.items())
    write_whole(folder.endpoints, lines.encode(), mode=0o600)


def _status(settings: Settings, folder: Folder, row: loader.WorldRow, **flags: bool) -> Status:
    state = read_state(folder)
    return Status(
        settings.world,
        folder.path,
        exists=True,
        running=True,
        seed=row.seed,
        scale=row.scale,
        world_date=row.world_date,
        dsn=state["dsn"],
        port=state["port"],
        **flags,
    )


def _stop(folder: Folder) -> bool:
    """Stops the supervisor, and a PostgreSQL that outlived one. Returns whether anything ran."""
    stopped = False
    pid = supervisor_pid(folder)
    if pid is not None:
        stopped = True
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except psutil.TimeoutExpired:
                process.kill()
                process.wait(5)
    if postgres.find_postmaster(folder.pgdata):
        stopped = True
        postgres.stop(folder.pgdata)
    folder.pid.unlink(missing_ok=True)
    folder.state.unlink(missing_ok=True)
    return stopped


def _check_port(port: int) -> None:
    """Fails early: the real bind comes only after a long load."""
    if not port:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SandboxError(
                f"port {port} cannot be used ({error.strerror}): "
                "set SANDBOX_PORT to a free port, or to 0 for any"
            ) from None


@contextlib.contextmanager
def _connect(dsn: str) -> Iterator[psycopg.Connection]:
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            yield connection
    except psycopg.IntegrityError as error:
        raise SandboxError(
            "this world was made by another version of the sandbox:"
            f" {error.diag.constraint_name} does not hold; run `python -m sandbox down --wipe` and begin anew"
        ) from None
    except psycopg.Error as error:
        text = str(error).strip().split("\n")[0] or type(error).__name__
        raise SandboxError(f"PostgreSQL of the sandbox failed ({text}): run `down`, then `up`") from None
