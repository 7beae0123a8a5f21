"""`make report`: what the marts say, as one page without a server.

    python -m reporting [--out target/report.html] [--picture docs/report.png]

Reads the warehouse that dbt built (WAREHOUSE) and writes a page that holds all it shows: no script, nothing
from other hosts, light or dark as the reader's device is.
"""

import argparse
import os
import sys
from pathlib import Path

import duckdb
from rich.console import Console

from reporting import charts, page


def main(arguments: list[str] | None = None) -> int:
    """Write the page; returns the exit code."""
    world = os.environ.get("WORLD") or "synthetic"
    suffix = "" if world == "synthetic" else f"-{world}"
    warehouse = Path(os.environ.get("WAREHOUSE") or f"warehouse{suffix}.duckdb")
    target = Path(os.environ.get("DBT_TARGET_PATH") or "target")
    parser = argparse.ArgumentParser(
        prog="python -m reporting", description="One page of charts from the marts."
    )
    parser.add_argument("--out", type=Path, default=target / "report.html", help="the page (%(default)s)")
    parser.add_argument("--picture", type=Path, help="also the cash flow and vintages as a PNG")
    given = parser.parse_args(arguments)
    if not warehouse.exists():
        return _fail(f"there is no warehouse {warehouse}: run `make demo` first, or set WAREHOUSE")
    try:
        with duckdb.connect(str(warehouse), read_only=True) as connection:
            report = charts.read(connection)
    except duckdb.Error as error:
        return _fail(f"{warehouse} cannot be read: {str(error).splitlines()[0]}; `dbt build` makes its marts")
    if report is None:
        return _fail(f"the marts of {warehouse} are empty: there is nothing to draw")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page.render(report, world), encoding="utf-8")
    Console().print(f"Report: {given.out.resolve().as_uri()}", highlight=False, soft_wrap=True)
    if given.picture:
        given.picture.write_bytes(page.picture(report))
        Console().print(f"Picture: {given.picture}", highlight=False, soft_wrap=True)
    return 0


def _fail(text: str) -> int:
    Console(stderr=True).print(f"[red]error:[/red] {text}", highlight=False, soft_wrap=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
