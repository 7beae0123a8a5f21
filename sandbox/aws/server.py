"""The process behind a local AWS: moto's server, and Trino for its Athena. `control` starts it.

It tells its starter on standard output, one JSON line at a time, what it does (`step`), that it is ready
(`state`) or why not (`error`). It ends when asked to (SIGTERM), and when its starter ends: standard input
is the lifeline. After the line `serve` on it, the starter may go.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import select
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO, TYPE_CHECKING

from .errors import LocalAwsError
from .install import trino_home
from .java import find_java
from .trino import Trino

if TYPE_CHECKING:
    from .athena.engine import Engine


class _Stop(Exception):
    """It is time to stop, and why."""


class Server:
    """Runs moto and Trino until told to stop."""

    def __init__(self, folder: Path, port: int, region: str, heap: str, concurrency: int) -> None:
        self._folder, self._port, self._region = folder, port, region
        self._heap, self._concurrency = heap, concurrency
        self._wake, self._waker = os.pipe()
        self._serving_alone = False

    def run(self) -> None:
        """Starts everything, serves until it is time to stop, stops everything."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, frame: os.write(self._waker, b"."))
        trino = None
        try:
            _say(step="looking for Java")
            java = find_java()
            home = trino_home(lambda text: self._step(text))
            self._step("starting Trino and the AWS services")
            listener = self._listen()
            endpoint = "http://{}:{}".format(*listener.getsockname())
            trino = Trino(home, java, self._folder / "trino", endpoint, self._region, self._heap)
            trino.start()
            self._start_moto(listener).connect(trino)  # meanwhile, Trino loads its classes
            trino.wait(alive=self._check)
            state = {
                "pid": os.getpid(),
                "endpoint": endpoint,
                "region": self._region,
                "trino_url": trino.url,
                "trino_pid": trino.pid,
            }
            self._write_state(state)
            _say(state=state)
            _log(f"serving on {endpoint}")
            self._watch(trino, state)
        except _Stop as reason:
            _log(f"stopping: {reason}")
        finally:
            (self._folder / "server.json").unlink(missing_ok=True)
            if trino is not None:
                trino.stop()
                shutil.rmtree(self._folder / "trino" / "data", ignore_errors=True)
            _log("stopped")

    def _listen(self) -> socket.socket:
        """The socket of the endpoint, on this machine only; who connects early waits."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", self._port))
        except (OSError, OverflowError) as error:
            raise LocalAwsError(
                f"port {self._port} cannot be used ({error}): choose another, or 0 for any"
            ) from None
        listener.listen(128)
        return listener

    def _start_moto(self, listener: socket.socket) -> "Engine":
        # Large objects go to disk early. Read by moto when it is imported.
        os.environ.setdefault("MOTO_S3_DEFAULT_KEY_BUFFER_SIZE", str(1 << 20))
        from . import services

        logging.getLogger("werkzeug").setLevel(logging.WARNING)
        return services.serve(listener, self._region, self._concurrency)

    def _watch(self, trino: Trino, state: dict) -> None:
        """Waits for the end; starts Trino again when it dies."""
        while True:
            self._check(timeout=0.2)
            if trino.pid is None:
                _log("Trino ended; starting it again")
                trino.ready.clear()
                trino.start()
                trino.wait(alive=self._check)
                self._write_state(state | {"trino_pid": trino.pid})

    def _step(self, text: str) -> None:
        _say(step=text)
        self._check()

    def _check(self, timeout: float = 0) -> None:
        """Raises when it is time to stop."""
        stdin = sys.stdin.fileno()
        watched = [self._wake] if self._serving_alone else [self._wake, stdin]
        ready = select.select(watched, [], [], timeout)[0]
        if self._wake in ready:
            raise _Stop("asked to")
        if stdin in ready:
            if os.read(stdin, 64) != b"serve\n":
                raise _Stop("whoever started it is gone")
            self._serving_alone = True
            nothing = os.open(os.devnull, os.O_RDWR)  # so that nobody waits for this process to end
            os.dup2(nothing, stdin)
            os.dup2(nothing, sys.stdout.fileno())

    def _write_state(self, state: dict) -> None:
        new = self._folder / "server.json.new"
        new.write_text(json.dumps(state))
        new.replace(self._folder / "server.json")


def _say(**message: object) -> None:
    with contextlib.suppress(OSError):  # the starter may be gone, and then standard input says so
        os.write(sys.stdout.fileno(), json.dumps(message).encode() + b"\n")


def _log(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} {text}", file=sys.stderr, flush=True)


def _hold_pid_file(path: Path) -> IO[str]:
    """Writes and locks the pid file for the life of this process."""
    handle = path.open("a+")
    deadline = time.monotonic() + 2  # someone may be looking at the lock just now
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise LocalAwsError("the local AWS of this folder is already running") from None
            time.sleep(0.02)
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def main() -> None:
    """Runs from the command line that `control` builds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--region", required=True)
    parser.add_argument("--heap", required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    arguments = vars(parser.parse_args())
    # Deep enough for every call here; the default of 8 MB a thread is address space only, but adds up.
    threading.stack_size(1 << 20)
    try:
        with _hold_pid_file(arguments["folder"] / "server.pid"):
            Server(**arguments).run()
            sys.stderr.flush()
            os._exit(0)  # threads of statements that still wait for the engine must not keep the process
    except LocalAwsError as error:
        _say(error=str(error))
        _log(f"error: {error}")
        sys.exit(1)
    except Exception as error:
        _say(
            error=f"the local AWS stopped ({type(error).__name__}): see {arguments['folder'] / 'server.log'}"
        )
        traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    main()
