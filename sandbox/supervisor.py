"""The process that keeps a world alive: PostgreSQL as its child, the third-party APIs in a thread.

Started by `sandbox.control`, detached. It talks to its starter over standard input and output, one
JSON line at a time: it says where PostgreSQL is, waits for `serve`, says on which port the APIs
listen. If its starter dies before `serve`, or its lifeline ends at any time, it stops everything.
"""

import argparse
import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO

import psycopg

from sandbox.errors import SandboxError
from sandbox.files import Folder, try_lock, write_whole
from sandbox.loader import CHANNEL, WorldRow, read_world
from sandbox.postgres import Postgres
from sandbox.third_party.server import ThirdPartyServer, create_server


class _Stop(Exception):
    """It is time to stop, and why."""


class Supervisor:
    """Runs one world until told to stop."""

    def __init__(self, folder: Folder, port: int, lifeline: int | None) -> None:
        self._folder = folder
        self._port = port
        self._lifeline = lifeline
        self._wake, self._waker = os.pipe()

    def run(self) -> None:
        """Starts everything, serves until it is time to stop, stops everything."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, frame: os.write(self._waker, b"."))
        self._folder.state.unlink(missing_ok=True)
        postgres = None
        try:
            with self._folder.log.open("ab") as log:
                postgres = Postgres(self._folder.pgdata, log)
            _say({"dsn": postgres.dsn})
            self._wait_for_serve()
            self._serve(postgres.dsn)
        except _Stop as reason:
            _log(f"stopping: {reason}")
        finally:
            self._folder.state.unlink(missing_ok=True)
            if postgres is not None:
                postgres.stop()
            _log("stopped")

    def _wait(self, *others: int) -> list[int]:
        """Waits for something to read on `others`; raises when it is time to stop."""
        watched = [self._wake, *others]
        if self._lifeline is not None:
            watched.append(self._lifeline)
        ready = select.select(watched, [], [])[0]
        if self._wake in ready:
            raise _Stop("asked to")
        if self._lifeline in ready and not os.read(self._lifeline, 1024):
            raise _Stop("whoever started the sandbox is gone")
        return ready

    def _wait_for_serve(self) -> None:
        stdin = sys.stdin.fileno()
        while stdin not in self._wait(stdin):
            pass
        if os.read(stdin, 64) != b"serve\n":
            raise _Stop("the command that started the sandbox ended early")

    def _serve(self, dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"listen {CHANNEL}")
            world = read_world(connection)
            server = _create_server(world, self._port, self._folder.faults)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            port = server.server_address[1]
            self._report(dsn, port, world.world_date)
            _say({"port": port})
            _let_go_of_starter()
            _log(f"serving {world.name} on port {port}, day {world.world_date}")
            while True:
                if connection.fileno() not in self._wait(connection.fileno()):
                    continue
                try:
                    days = [date.fromisoformat(note.payload) for note in connection.notifies(timeout=0)]
                except psycopg.OperationalError:
                    raise _Stop("PostgreSQL ended") from None
                if days:
                    server.world_date = days[-1]
                    self._report(dsn, port, days[-1])
                    _log(f"day {days[-1]}")

    def _report(self, dsn: str, port: int, day: date) -> None:
        state = {"dsn": dsn, "port": port, "world_date": day.isoformat()}
        write_whole(self._folder.state, json.dumps(state).encode())


def _create_server(world: WorldRow, port: int, faults: Path) -> ThirdPartyServer:
    try:
        return create_server(
            world.name, world.seed, world.world_date, port, world.bureau_api_key, faults_file=faults
        )
    except OSError as error:
        raise SandboxError(
            f"port {port} cannot be used ({error.strerror}): set SANDBOX_PORT to a free port, or to 0 for any"
        ) from None


def _say(message: dict) -> None:
    """Tells the starter; it may be gone, and then standard input says so."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")


def _log(text: str) -> None:
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}", file=sys.stderr, flush=True)


def _let_go_of_starter() -> None:
    """Closes the pipes to the starter, so that nobody waits for this process to end."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, sys.stdin.fileno())
    os.dup2(nothing, sys.stdout.fileno())


def _hold_pid_file(path: Path) -> IO[str]:
    """Writes and locks the pid file for the life of this process."""
    handle = path.open("a+")
    deadline = time.monotonic() + 2  # someone may be looking at the lock just now
    while not try_lock(handle):
        if time.monotonic() > deadline:
            raise SandboxError("the sandbox is already running")
        time.sleep(0.02)
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def main() -> None:
    """Runs from the command line that `sandbox.control` builds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="folder of the world")
    parser.add_argument("--port", type=int, default=0, help="port of the third-party APIs")
    parser.add_argument("--lifeline", type=int, help="inherited file descriptor: at its end, stop")
    arguments = parser.parse_args()
    folder = Folder(arguments.folder)
    try:
        with _hold_pid_file(folder.pid):
            Supervisor(folder, arguments.port, arguments.lifeline).run()
    except SandboxError as error:
        _say({"error": str(error)})
        _log(f"error: {error}")
        sys.exit(1)
    except Exception as error:
        _say({"error": f"the sandbox stopped ({type(error).__name__}): see {folder.log}"})
        traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    main()
