"""The command line: `python -m ingestion --help`."""

import sys
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ingestion.config import load_sources, select_tables
from ingestion.errors import IngestionError
from ingestion.lake import Lake
from ingestion.run import Landed
from ingestion.run import run as land
from ingestion.settings import load_settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Land PostgreSQL tables, API answers and event files in the lake. Settings come from the"
    " environment (.env.example lists them); ingestion/sources.yml says what is landed.",
)
console = Console()


@app.command()
def run(
    table: Annotated[
        list[str] | None, typer.Option(help="Only this table (source.table) or source; may be repeated.")
    ] = None,
    date: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Logical day of the run. Default: EXTRACT_DATE, or today."),
    ] = None,
) -> None:
    """Land what is new since the last run; safe to repeat after any failure."""
    settings = load_settings()
    if date:
        settings.extract_date = date.date()
    tables = select_tables(load_sources(), table or [])
    with console.status("") as spinner:
        results = land(settings, tables, progress=lambda text: spinner.update(text), finished=_show)
    failed = [r for r in results if r.error]
    rows = sum(r.rows for r in results)
    console.print(
        f"{settings.extract_date}: {rows:,} rows of {len(results) - len(failed)} tables landed"
        f" in {settings.lake_root}" + (f", {len(failed)} failed" if failed else ""),
        highlight=False,
    )
    if failed:
        raise SystemExit(1)


def _show(landed: Landed) -> None:
    if landed.error:
        Console(stderr=True).print(f"[red]error:[/red] {landed.error}", highlight=False, soft_wrap=True)
    else:
        size = f"{landed.bytes / 1e6:.2f} MB"
        console.print(
            f"  {landed.table.name:<26}{landed.rows:>11,} rows {size:>11} {landed.seconds:>6.1f} s",
            highlight=False,
        )


@app.command()
def status() -> None:
    """Show the newest batch of every table."""
    settings = load_settings()
    lake = Lake.open(settings.lake_root, settings.world)
    grid = Table(
        "table", "extract date", "batch", "rows", "watermark", title=f"lake {lake.root}, world {lake.world}"
    )
    for table in load_sources():
        manifest = lake.last_manifest(table.source, table.table)
        if manifest:
            watermark = (manifest["watermark_to"] or "–")[:19].replace("T", " ")
            values = (manifest["extract_date"], manifest["batch_id"], f"{manifest['rows']:,}", watermark)
        else:
            values = ("never landed", "", "", "")
        grid.add_row(table.name, *values)
    console.print(grid)


@app.command()
def verify(
    table: Annotated[
        list[str] | None, typer.Option(help="Only this table (source.table) or source; may be repeated.")
    ] = None,
    source: Annotated[bool, typer.Option(help="Compare with PostgreSQL, too.")] = True,
) -> None:
    """Prove that the lake is whole and holds what the source holds; exit code 1 when it does not."""
    from ingestion.verify import report

    settings = load_settings()
    lake = Lake.open(settings.lake_root, settings.world, settings.source_id)
    tables = select_tables(load_sources(), table or [])
    dsn = settings.source_dsn.get_secret_value() if source else None
    if not report(lake, tables, dsn, for_people=sys.stdout.isatty(), write=print):
        raise SystemExit(1)


def main() -> None:
    """Run the command line; an error that a person can act on is one line and exit code 1."""
    try:
        app()
    except IngestionError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        reason = f"{error.strerror or type(error).__name__}: {error.filename or 'check the disk and LAKE'}"
        Console(stderr=True).print(f"[red]error:[/red] {reason}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
