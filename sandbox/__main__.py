"""Command line of the sandbox: `python -m sandbox --help`."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from sandbox import control
from sandbox.aws.cli import app as aws
from sandbox.errors import SandboxError
from sandbox.settings import Settings, load
from sandbox.third_party.faults import Faults

app = typer.Typer(
    help="The outside world on one machine: a lender's PostgreSQL, its event log and the APIs it uses.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(aws, name="aws")
_out = Console()
_err = Console(stderr=True)

World = Annotated[
    str | None,
    typer.Option(help="synthetic (generated) or berka (a real bank); default from WORLD, else synthetic."),
]
Dirt = Annotated[
    float | None,
    typer.Option(
        help="Share of a day's rows that are bad data (0 to 1), in a generated world; default from"
        " SANDBOX_DIRT, else none.",
        min=0,
        max=1,
    ),
]
Deletes = Annotated[
    bool | None,
    typer.Option(
        "--deletes", help="Let records be deleted, in a generated world; default from SANDBOX_DELETES."
    ),
]


@app.command()
def up(
    world: World = None,
    seed: Annotated[
        int | None,
        typer.Option(help=f"Seed of a new generated world (default {control.DEFAULT_SEED}).", min=0),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(
            help="Size of a new generated world (default 1): 1 is 5,000 customers and 20,000 orders.",
            min=0.001,
        ),
    ] = None,
    dirt: Dirt = None,
    deletes: Deletes = None,
) -> None:
    """Start a world, creating it the first time. It runs in the background until `down`."""
    with _steps() as (settings, progress):
        chosen = settings(world, sandbox_dirt=dirt, sandbox_deletes=deletes)
        status = control.up(chosen, seed=seed, scale=scale, progress=progress)
    verb = "created and started" if status.created else "started" if status.started else "already up"
    _out.print(f"world {status.world} {verb}: day {status.world_date}")
    _out.print(f"connection settings: {status.folder / 'endpoints.env'}", soft_wrap=True, highlight=False)


@app.command()
def advance(
    world: World = None,
    days: Annotated[int, typer.Option(help="How many days pass.", min=1)] = 1,
    dirt: Dirt = None,
    deletes: Deletes = None,
) -> None:
    """Let a day (or several) pass in a running world; a clean one may become dirty from then on."""
    with _steps() as (settings, progress):
        chosen = settings(world, sandbox_dirt=dirt, sandbox_deletes=deletes)
        status, moved = control.advance(chosen, days=days, progress=progress)
    if moved < days:
        _out.print(f"no days are left after {status.world_date} in world {status.world}")
    else:
        _out.print(f"world {status.world}: day {status.world_date}")


@app.command()
def down(
    world: World = None,
    wipe: Annotated[
        bool, typer.Option("--wipe", help="Delete the world as well; `up` makes it anew.")
    ] = False,
) -> None:
    """Stop a world. Its data stay, unless --wipe."""
    with _steps() as (settings, progress):
        chosen = settings(world)
        done = control.down(chosen, wipe=wipe, progress=progress)
    if not done:
        _out.print(f"world {chosen.world} is not running")
    else:
        _out.print(f"world {chosen.world} {'deleted' if wipe else 'stopped'}")


@app.command()
def status(world: World = None) -> None:
    """Show a world: its day, where it listens, how many rows it has."""
    with _steps() as (settings, _):
        now = control.status(settings(world))
        counts = control.row_counts(now.dsn) if now.running else {}
    if not now.running:
        known = "is down" if now.exists else "does not exist yet"
        _out.print(f"world {now.world} {known}: `python -m sandbox up` starts it")
        return
    _out.print(f"world {now.world} is up: day {now.world_date}, seed {now.seed}, scale {now.scale:g}")
    _out.print(f"PostgreSQL {now.dsn}", soft_wrap=True, highlight=False)
    _out.print(f"third-party APIs http://127.0.0.1:{now.port}", highlight=False)
    table = Table("table", "rows", box=None)
    table.columns[1].justify = "right"
    for name, rows in counts.items():
        table.add_row(name, f"{rows:,}")
    _out.print(table)


@app.command()
def faults(
    rates: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=RATE…", help="Faults with their probability; none ends all."),
    ] = None,
    world: World = None,
    seed: Annotated[int, typer.Option(help="What the faults are drawn from.")] = 0,
) -> None:
    """Let the third-party APIs misbehave from now on, or no more.

    Names: storm, error, hang, reset, expire, truncate, drip, duplicate, reorder, shift; and, of each
    record, retype, omit, extend.
    """
    with _steps() as (settings, _):
        try:
            pairs = {name: float(rate) for name, rate in (pair.split("=") for pair in rates or ())}
        except ValueError:
            raise SandboxError("write a fault as NAME=RATE, such as error=0.1") from None
        wanted = Faults(seed, pairs)
        chosen = settings(world)
        control.misbehave(chosen, wanted)
    said = ", ".join(f"{name} {rate:g}" for name, rate in wanted.rates.items()) or "none"
    _out.print(f"world {chosen.world}: faults: {said}", highlight=False)


@contextlib.contextmanager
def _steps() -> Iterator[tuple[Callable[..., Settings], Callable[[str], None]]]:
    """Shows what is going on, and turns every failure into one line."""
    try:
        with _err.status("…") as line:
            yield lambda world, **more: load(world=world, **more), lambda text: line.update(text)
    except SandboxError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on")
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or 'check the disk and SANDBOX_DIR'}")


def _fail(text: str) -> None:
    _err.print(f"error: {text}", style="red", soft_wrap=True, highlight=False, markup=False)
    raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m sandbox")
