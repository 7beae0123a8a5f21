"""The short report at the end of the demo, read from the lake's footers, the warehouse and dbt's results."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path

from rich.console import Console, Group
from rich.table import Table

from ingestion.config import load_sources
from ingestion.lake import Lake
from sandbox.engines import Engine, Rows

Query = Callable[[str], Rows]
LAYERS = ("staging", "intermediate", "snapshots", "marts")
MONTHS = 6


def show(console: Console, world: str, day: date, lake: Lake, engine: Engine, run_results: Path) -> None:
    """Print rows per layer, dbt's outcome, the last months of cash flow and approvals, and what to do next.

    Args:
        console: Where to print.
        world: Name of the world.
        day: The world's date, the logical day of the run.
        lake: The lake that was landed in.
        engine: The warehouse that dbt built.
        run_results: dbt's `run_results.json` of that build.
    """
    with engine.opened() as query:
        layers = _layers(query, lake, day)
        cash_flow = _cash_flow(query)
        approvals = _approvals(query)
    again = engine.command if world == "synthetic" else f"{engine.command} WORLD={world}"
    console.print()
    console.rule(f"[bold]credit-lakehouse[/bold] · world {world} · {day:%Y-%m-%d}")
    console.print(Group(layers, "", _outcome(run_results), "", cash_flow, "", approvals), highlight=False)
    console.rule()
    console.print(
        f"Warehouse  {engine.place}\n"
        f"Lake       {lake.root}/raw\n\n"
        f"Next       {again:<22}  the world's next day, and only that\n"
        "           make docs               every table and column, with lineage\n"
        "           make test               prove that all of this is right",
        highlight=False,
        soft_wrap=True,
    )


def _table(title: str, *columns: str) -> Table:
    grid = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False
    )
    for number, column in enumerate(columns):
        grid.add_column(column, justify="right" if number else "left", no_wrap=True)
    return grid


def _number(value: object, decimals: int = 0) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"


def _layers(query: Query, lake: Lake, day: date) -> Table:
    grid = _table("Rows per layer", "layer", "tables", "rows", f"new on {day:%Y-%m-%d}")
    manifests = [m for t in load_sources() for m in lake.manifests(t.source, t.table)]
    landed = sum(m["rows"] for m in manifests if m["extract_date"] == day.isoformat())
    grid.add_row(
        "raw (lake)", str(len(load_sources())), _number(sum(m["rows"] for m in manifests)), _number(landed)
    )
    counted = _counted(query, day)
    for layer in LAYERS:
        rows = [(total, new) for name, total, new in counted if name == layer]
        changed = [new for _, new in rows if new is not None]
        grid.add_row(
            layer,
            str(len(rows)),
            _number(sum(total for total, _ in rows)),
            _number(sum(changed)) if changed else "",
        )
    return grid


def _counted(query: Query, day: date) -> Rows:
    """Layer, rows, and those that came with the day's batch where the relation tells, of every relation."""
    layers = ", ".join(f"'{layer}'" for layer in LAYERS)
    relations = query(
        f"""
        select table_schema, table_name, max(case when column_name = '_extract_date' then 1 else 0 end)
        from information_schema.columns
        where table_schema in ({layers})
        group by 1, 2
        """  # noqa: S608 - names of our own
    )
    of_day = f"sum(case when _extract_date = date '{day.isoformat()}' then 1 else 0 end)"
    counts = [
        f"select '{layer}', count(*), {of_day if tells else 'cast(null as bigint)'} from {layer}.{name}"  # noqa: S608
        for layer, name, tells in relations
    ]
    return query(" union all ".join(counts)) if counts else []


def _outcome(run_results: Path) -> str:
    results = json.loads(run_results.read_text(encoding="utf-8"))
    counts = Counter((r["unique_id"].split(".")[0], r["status"]) for r in results["results"])
    tests = sum(
        n for (kind, status), n in counts.items() if kind in ("test", "unit_test") and status == "pass"
    )
    warned = sum(n for (_, status), n in counts.items() if status == "warn")
    built = sum(
        n
        for (kind, status), n in counts.items()
        if kind in ("model", "seed", "snapshot") and status == "success"
    )
    return (
        f"[bold]dbt[/bold]  [green]{tests} tests passed[/green], {warned} warnings;"
        f" {built} models, seeds, snapshots in {results['elapsed_time']:.1f} s"
    )


def _cash_flow(query: Query) -> Table:
    rows = query(
        f"""
        with
        ranked as (
            select
                *,
                dense_rank() over (order by currency_total desc, currency) as currency_rank,
                row_number() over (partition by currency order by month desc) as months_ago
            from (
                select *, sum(disbursed_amount) over (partition by currency) as currency_total
                from marts.monthly_cash_flow
            )
        )
        select month, currency, disbursed_amount, received_amount, net_cash_flow, due_amount, overdue_amount
        from ranked
        where currency_rank = 1 and months_ago <= {MONTHS}
        order by month
        """  # noqa: S608 - a number of our own
    )
    currency = rows[0][1] if rows else ""
    grid = _table(
        f"Cash flow of the last {len(rows)} months, {currency} (fluxo de caixa)",
        "month",
        "disbursed",
        "received",
        "net",
        "due",
        "overdue",
    )
    for month, _, *amounts in rows:
        grid.add_row(f"{month:%Y-%m}", *(_number(a, 2) for a in amounts))
    if any(None in row for row in rows):
        grid.caption, grid.caption_justify = "– is unknown: the payment ledger is not complete there", "left"
    return grid


def _approvals(query: Query) -> Table:
    """Approval rate = approved / (approved + rejected), by month of the decision."""
    rows = query(
        f"""
        select
            date_trunc('month', decided_date) as month,
            count(*) filter (where status = 'approved') as approved,
            count(*) filter (where status = 'rejected') as rejected
        from marts.credit_decisions
        where status in ('approved', 'rejected')
        group by 1
        order by 1 desc
        limit {MONTHS}
        """  # noqa: S608 - a number of our own
    )
    grid = _table("Credit decisions (taxa de aprovação)", "month", "approved", "rejected", "approval rate")
    for month, approved, rejected in reversed(rows):
        grid.add_row(
            f"{month:%Y-%m}",
            _number(approved),
            _number(rejected),
            f"{100 * approved / (approved + rejected):.1f} %",
        )
    return grid
