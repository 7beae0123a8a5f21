"""The command line of the local AWS."""

import contextlib
import shlex
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.console import Console

from . import control
from .errors import LocalAwsError

app = typer.Typer(
    help="AWS on this machine, with an Athena that runs queries. What is in it lasts until `down`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_out = Console()
_err = Console(stderr=True)

Folder = Annotated[
    str | None, typer.Option(help="Where its logs are (default LOCAL_AWS_DIR, else .sandbox/aws).")
]


@app.command()
def up(
    folder: Folder = None,
    port: Annotated[
        int | None, typer.Option(help="Of the endpoint (default LOCAL_AWS_PORT, else any free one).", min=0)
    ] = None,
) -> None:
    """Start it in the background; the first time, download Trino (180 MB)."""
    with _steps() as progress:
        running, started = control.up(control.settings(folder=folder, port=port), progress)
    _out.print(f"local AWS {'is up' if started else 'was already up'}: {running.endpoint}", highlight=False)
    _out.print('in a shell: eval "$(python -m sandbox aws env)"', highlight=False)


@app.command()
def down(folder: Folder = None) -> None:
    """Stop it. What was in it is gone."""
    with _steps() as progress:
        stopped = control.down(control.settings(folder=folder), progress)
    _out.print("local AWS stopped" if stopped else "local AWS is not running")


@app.command()
def status(folder: Folder = None) -> None:
    """Say whether it runs, and where."""
    with _steps():
        running = control.status(control.settings(folder=folder))
    if running is None:
        _out.print("local AWS is down: `python -m sandbox aws up` starts it")
        raise typer.Exit(1)
    _out.print(f"local AWS is up: {running.endpoint}, region {running.region}", highlight=False)
    _out.print(f"Trino {running.trino_url}, logs in {running.folder}", highlight=False, soft_wrap=True)


@app.command()
def env(folder: Folder = None) -> None:
    """Print the exports that make every AWS client talk to it."""
    with _steps():
        running = control.status(control.settings(folder=folder))
        if running is None:
            raise LocalAwsError("the local AWS is down: run `python -m sandbox aws up` first")
    for name, value in running.environment.items():
        print(f"export {name}={shlex.quote(value)}")


@contextlib.contextmanager
def _steps() -> Iterator[Callable[[str], None]]:
    """Shows what is going on, and turns every failure into one line."""
    try:
        with _err.status("…") as line:
            yield line.update
    except LocalAwsError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on")


def _fail(text: str) -> None:
    _err.print(f"error: {text}", style="red", soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(1)
