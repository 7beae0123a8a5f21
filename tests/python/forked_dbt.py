"""dbt as a command, in a process forked from one that has imported it: importing takes as long as a small build."""

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def run(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: float
) -> subprocess.CompletedProcess:
    """What `dbt` does and prints when it is called in `folder`; never raises because of its exit code.

    Raises:
        TimeoutError: it took longer than `seconds`.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__, "dbt.cli.main", "dbt.adapters.duckdb"])
    with tempfile.TemporaryDirectory(prefix="dbt-") as said:
        out, err = Path(said, "out"), Path(said, "err")
        process = processes.Process(
            target=_dbt, args=(list(arguments), folder, dict(environment), str(out), str(err))
        )
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"dbt {' '.join(arguments)} took longer than {seconds} s: {out.read_text()}")
        return subprocess.CompletedProcess(
            ["dbt", *arguments], process.exitcode, out.read_text(), err.read_text()
        )


def _dbt(arguments: list[str], folder: Path, environment: dict[str, str], out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = ["dbt", *arguments]
    if environment.get("DBT_TARGET") == "athena":
        from sandbox import service_models

        service_models.share()
    from dbt.cli.main import cli

    try:
        cli()
    finally:
        # A forked process ends without what Python does at its end: that is where DuckDB's file is closed.
        atexit._run_exitfuncs()
