"""What the lake holds of each table and how far it is behind its source."""

import json
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from psycopg import sql

from ingestion import drift, history, postgres
from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.lake import Lake
from ingestion.settings import Settings

BATCHES = 5


@dataclass
class TableStatus:
    """One table; counts are of the whole table, `last_batches` are the newest, newest first.

    `lag_seconds` is from the watermark to the highest cursor in the source, None where either is unknown.
    `pending_drift` is how the source differs from the newest batch by now, `drift` how it differed before,
    by the batch that landed it. `failure` is why the table's last run failed.
    """

    table: str
    rows: int = 0
    deleted: int = 0
    bytes: int = 0
    batches: int = 0
    last_batches: list[dict[str, Any]] = field(default_factory=list)
    watermark: str | None = None
    source_max: str | None = None
    lag_seconds: float | None = None
    open_dead_letters: int = 0
    drift: dict[str, list[str]] = field(default_factory=dict)
    pending_drift: list[str] = field(default_factory=list)
    failure: str | None = None
    failed_at: str | None = None


@dataclass
class Status:
    """The lake; `last_run` is `finished`, `interrupted`, `running` (or killed), or None before the first.

    `problem` says why the last run as a whole failed, `source_problem` why the source could not be asked.
    """

    lake: str
    world: str
    last_run: str | None
    last_run_at: str | None
    problem: str | None
    source_problem: str | None
    tables: list[TableStatus]


def collect(settings: Settings, tables: list[TableConfig]) -> Status:
    """Everything `status` shows.

    Raises:
        IngestionError: the lake cannot be read. A source that cannot be reached is only noted.
    """
    lake = Lake.open(settings.lake_root, settings.world, settings.source_id)
    last = history.last(lake, "run")
    found = [_of_lake(lake, t, last.get("tables", {}).get(t.name, {})) for t in tables]
    source_problem = None
    try:
        with postgres.connect(settings.source_dsn.get_secret_value(), tables=tables) as snapshot:
            for table, status in zip(tables, found, strict=True):
                if table.kind == "postgres":
                    _of_source(snapshot, table, lake, status)
    except IngestionError as error:
        source_problem = str(error)
    return Status(
        settings.lake_root,
        lake.world,
        last.get("outcome"),
        last.get("started_at"),
        last.get("error"),
        source_problem,
        found,
    )


def _of_lake(lake: Lake, table: TableConfig, last: dict[str, Any]) -> TableStatus:
    manifests = lake.manifests(table.source, table.table)
    names = ("batch_id", "extract_date", "rows", "rejected", "watermark_to", "finished_at")
    newest = manifests[-1] if manifests else {}
    return TableStatus(
        table.name,
        rows=sum(m["rows"] for m in manifests),
        deleted=sum(m.get("deleted", 0) for m in manifests),
        bytes=sum(m["data_bytes"] for m in manifests),
        batches=len(manifests),
        last_batches=[
            {name: m[name] for name in names} | {"bytes": m["data_bytes"]}
            for m in manifests[: -BATCHES - 1 : -1]
        ],
        watermark=newest.get("watermark_to"),
        open_dead_letters=len(lake.dead_letter_ids(table.source, table.table)),
        drift={m["batch_id"]: m["drift"] for m in manifests if m.get("drift")},
        failure=last.get("error"),
        failed_at=last.get("at") if last.get("error") else None,
    )


def _of_source(snapshot: postgres.Snapshot, table: TableConfig, lake: Lake, status: TableStatus) -> None:
    """Add what the source says; what it refuses to say is left out."""
    try:
        columns = postgres.describe(snapshot, table)
        last = lake.last_manifest(table.source, table.table)
        if last and "columns" in last:
            schema = postgres.lake_schema(columns)
            status.pending_drift = list(drift.differences(schema, last["columns"]))
        if table.cursor:
            # Later ones, such as infinity, are dead letters.
            query = sql.SQL("select max({0}) from {1} where {0} < '10000-01-01'").format(
                sql.Identifier(table.cursor),
                sql.Identifier(table.options["schema"], table.relation),
            )
            with snapshot.psycopg() as connection:
                (highest,) = connection.execute(query).fetchone()
            if isinstance(highest, datetime):
                highest = highest.replace(tzinfo=highest.tzinfo or UTC).astimezone(UTC)
                status.source_max = highest.isoformat()
                if status.watermark:
                    behind = highest - datetime.fromisoformat(status.watermark)
                    status.lag_seconds = max(behind.total_seconds(), 0.0)
    except postgres.SourceGone:
        raise
    except IngestionError as error:
        status.failure = status.failure or str(error)


def show_json(status: Status) -> None:
    """Print it as one JSON document."""
    print(json.dumps(asdict(status), indent=2, ensure_ascii=False))


def show(status: Status) -> None:
    """Print it for a person."""
    from rich.console import Console
    from rich.table import Table

    # A pipe has no width: nothing is cut there.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    grid = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("table", "day", "batch"):
        grid.add_column(name, no_wrap=True)
    for name in ("new", "rows", "MB", "lag", "dead letters"):
        grid.add_column(name, justify="right")
    for table in status.tables:
        last = table.last_batches[0] if table.last_batches else None
        grid.add_row(
            table.table,
            last["extract_date"] if last else "never landed",
            last["batch_id"] if last else "",
            f"{last['rows']:,}" if last else "",
            f"{table.rows:,}",
            f"{table.bytes / 1e6:,.2f}",
            _duration(table.lag_seconds),
            f"{table.open_dead_letters:,}" if table.open_dead_letters else "",
        )
    console.print(f"lake {status.lake}, world {status.world}", highlight=False)
    console.print(grid)
    if status.last_run:
        more = ", or was killed" if status.last_run == history.RUNNING else ""
        console.print(f"last run {status.last_run_at}: {status.last_run}{more}", highlight=False)
    problems = [status.problem, *(f"{t.failed_at}: {t.failure}" for t in status.tables if t.failure)]
    for problem in filter(None, problems):
        console.print(f"[red]failed[/red]  {problem}", highlight=False, soft_wrap=True)
    for table in status.tables:
        changes = [(f"batch {batch}", c) for batch, cs in table.drift.items() for c in cs]
        for when, change in [*changes, *(("not landed yet", c) for c in table.pending_drift)]:
            console.print(f"drift   {table.table}: {change} ({when})", highlight=False, soft_wrap=True)
    if status.source_problem:
        console.print(f"lag unknown: {status.source_problem}", highlight=False, soft_wrap=True)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours}:{minutes:02}:{rest:02}"
