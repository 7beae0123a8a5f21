"""`make demo`: the whole path, from a lender's database to marts, one day at each run.

The first run makes the world and lands everything; each later one lets a day pass and lands and builds
only what changed. A run that was killed is finished by the next one before the world moves on.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path

from dotenv import load_dotenv
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from ingestion.errors import DEAD_LETTERS, IngestionError
from ingestion.lake import Lake
from ingestion.settings import load_settings
from sandbox import control, report
from sandbox.engines import DuckDB, Engine
from sandbox.errors import SandboxError
from sandbox.orphans import die_with_parent
from sandbox.settings import load

console = Console()


class StepFailed(Exception):
    """A program of the demo failed and has said why."""


def main() -> int:
    """Run the demo; returns the exit code."""
    load_dotenv(".env")
    return run(_duckdb)


def run(engine: Callable[[Lake], Engine]) -> int:
    """One day on an engine, which the environment describes to dbt; returns the exit code."""
    began = time.monotonic()
    try:
        with _dbt() as dbt:
            _day(dbt, engine)
        console.print(f"[dim]{time.monotonic() - began:.1f} s[/dim]", highlight=False)
    except (SandboxError, IngestionError) as error:
        return fail(str(error))
    except OSError as error:
        return fail(f"{error.strerror or type(error).__name__}: {error.filename or 'check the disk'}")
    except StepFailed:
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def fail(text: str) -> int:
    """Show an error; returns the exit code."""
    Console(stderr=True).print(f"[red]error:[/red] {text}", highlight=False, soft_wrap=True)
    return 1


def _day(dbt: subprocess.Popen, engine: Callable[[Lake], Engine]) -> None:
    """One day of the world: let it come, land it, build it, report it."""
    settings = load()
    # Our end of the pipe closes with this process, however it ends: then the sandbox stops too.
    lifeline, held = os.pipe()
    with step("sandbox") as said:
        world = control.up(settings, lifeline=lifeline, progress=said)
    try:
        finished = settings.folder / "demo-finished"
        world = _next_day(world, finished)
        lake = _lake(world.world)
        _check_lake(lake, world.world_date)
        _land()
        _build(dbt)
        results = _target() / "run_results.json"
        report.show(console, world.world, world.world_date, lake, engine(lake), results)
        finished.write_text(world.world_date.isoformat())
    finally:
        if world.started:
            with step("sandbox") as said:
                control.down(settings, progress=said)
        os.close(held)


def _next_day(world: control.Status, finished: Path) -> control.Status:
    """Move the world on, unless its present day has not been built to the end yet."""
    if world.created:
        console.print(f"World {world.world} begins on {world.world_date}", highlight=False)
    elif not finished.exists() or finished.read_text() != world.world_date.isoformat():
        console.print(f"{world.world_date} was not finished: finishing it first", highlight=False)
    else:
        with step("sandbox") as said:
            moved, days = control.advance(load(), progress=said)
        if days:
            console.print(f"The next day: {moved.world_date}", highlight=False)
        else:
            console.print(
                f"No days are left in world {world.world}: {moved.world_date} once more", highlight=False
            )
        # Whether this run started the sandbox is known from `up` alone.
        return control.Status(**{**vars(moved), "started": world.started})
    return world


def _lake(world: str) -> Lake:
    settings = load_settings()
    return Lake.open(settings.lake_root, world, settings.source_id)


def _duckdb(lake: Lake) -> DuckDB:
    suffix = "" if lake.world == "synthetic" else f"-{lake.world}"
    return DuckDB(Path(os.environ.get("WAREHOUSE") or f"warehouse{suffix}.duckdb"))


def _check_lake(lake: Lake, day: date) -> None:
    newest = lake.last_extract_date()
    if newest and newest > day:
        raise SandboxError(
            f"the lake {lake.root} holds {newest}, but this world is at {day}: it is the lake of an earlier"
            " world; remove that folder (`make clean` removes the default one), or set LAKE to another"
        )


def _target() -> Path:
    return Path(os.environ.get("DBT_TARGET_PATH") or "target")


@contextmanager
def step(name: str) -> Iterator[control.Progress]:
    """A spinner with the step's name; what it yields shows a text beside it."""
    with console.status(name) as spinner:
        yield lambda text: spinner.update(f"{name}: {text}")


# Steps run in process groups of their own: Ctrl-C is for the demo, which then ends them quietly.
def _land() -> None:
    console.print("[bold]Landing[/bold] what is new in the lake")
    command = [sys.executable, "-m", "ingestion", "run"]
    process = subprocess.Popen(
        command,
        env={"LOG_FORMAT": "" if console.is_terminal else "text", **os.environ},
        process_group=0,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    try:
        # Dead letters are told of, and what has landed is built.
        if process.wait() not in (0, DEAD_LETTERS):
            raise StepFailed
    finally:
        _end(process)


@contextmanager
def _dbt() -> Iterator[subprocess.Popen]:
    """A dbt process that parses the project while the block goes on; `_build` has it build."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox.warehouse"],
        env={
            "DBT_PROFILES_DIR": "profiles",
            # Python's multiprocessing, which dbt uses, grumbles when a process is ended early.
            "PYTHONWARNINGS": "ignore:resource_tracker:UserWarning",
            **os.environ,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
        preexec_fn=die_with_parent(signal.SIGKILL),
    )
    try:
        yield process
    finally:
        _end(process)


def _build(dbt: subprocess.Popen) -> None:
    """Build the warehouse and its docs with a progress bar; errors are printed as dbt words them."""
    problems: list[str] = []
    began = time.monotonic()
    with suppress(BrokenPipeError):  # it has ended already: its output says why
        dbt.stdin.write("build\n")
        dbt.stdin.flush()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("dbt build", total=None)
        for line in dbt.stdout:
            said = _said(line)
            if "total" in said:
                progress.update(bar, advance=1, total=said["total"])
            elif "step" in said:
                progress.update(bar, description=said["step"])
            elif "error" in said:
                problems.append(said["error"])
    if dbt.wait():
        for problem in problems:
            print(problem, file=sys.stderr)
        again = "`dbt build --profiles-dir profiles` builds again with all that dbt has to say"
        Console(stderr=True).print(f"[red]error:[/red] dbt failed; {again}", highlight=False, soft_wrap=True)
        raise StepFailed
    console.print(
        f"[bold]Built[/bold] warehouse and docs with dbt in {time.monotonic() - began:.1f} s", highlight=False
    )


def _said(line: str) -> dict:
    try:
        return json.loads(line)
    except ValueError:
        return {}


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
