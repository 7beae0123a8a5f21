"""One ingestion run: every table becomes one batch, all read from one snapshot of PostgreSQL."""

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from types import ModuleType

import psycopg

from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.lake import Lake
from ingestion.settings import Settings


@dataclass
class Run:
    """What the module of a source needs while it extracts.

    `postgres` is in one repeatable-read, read-only transaction for the whole run; `progress` shows a short
    text while a table is being landed.
    """

    settings: Settings
    lake: Lake
    extract_date: date
    batch_id: str
    postgres: psycopg.Connection
    progress: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Landed:
    """What became of one table: rows landed now, the file's bytes, seconds, and the error if it failed."""

    table: TableConfig
    rows: int = 0
    bytes: int = 0
    seconds: float = 0.0
    error: str | None = None


def run(
    settings: Settings,
    tables: list[TableConfig],
    *,
    progress: Callable[[str], None] = lambda text: None,
    finished: Callable[[Landed], None] = lambda landed: None,
) -> list[Landed]:
    """Land `tables` for `settings.extract_date`; a table that fails does not stop the others.

    Running again lands only what is not in the lake yet, whatever happened to the run before.

    Raises:
        IngestionError: nothing could be landed at all (the lake or PostgreSQL cannot be used).
    """
    from ingestion import postgres

    lake = Lake.open(settings.lake_root, settings.world, settings.source_id)
    with lake.lock():
        newest = lake.last_extract_date()
        if newest and newest > settings.extract_date:
            raise IngestionError(
                f"the lake {lake.root} already holds {newest}, later than {settings.extract_date}; "
                "set EXTRACT_DATE to that day or later, or LAKE to another folder"
            )
        batch_id = lake.next_batch_id()
        results = []

        def land(table: TableConfig, connection: psycopg.Connection) -> None:
            progress(f"{table.name} …")
            context = Run(settings, lake, settings.extract_date, batch_id, connection)
            context.progress = lambda text: progress(f"{table.name} … {text}")
            results.append(_land(table, context))
            finished(results[-1])

        postgres.each(settings.source_dsn.get_secret_value(), tables, land, settings.source_timeout)
    return results


def _land(table: TableConfig, run: Run) -> Landed:
    began = time.monotonic()
    source: ModuleType = importlib.import_module(f"ingestion.{table.kind}")
    try:
        # A savepoint: what PostgreSQL refuses for one table leaves the snapshot of the others alone.
        with (
            run.postgres.transaction(),
            run.lake.begin(table, source.schema(table, run), run.batch_id, run.extract_date) as out,
        ):
            source.extract(table, run, out)
    except psycopg.OperationalError:
        raise
    except (IngestionError, psycopg.Error, OSError) as error:
        return Landed(table, seconds=time.monotonic() - began, error=_problem(table, error))
    return Landed(table, out.rows, out.bytes, time.monotonic() - began)


def _problem(table: TableConfig, error: Exception) -> str:
    """One line about what stopped a table. PostgreSQL's primary message names no value of a row we read."""
    if isinstance(error, psycopg.Error):
        return f"{table.name}: PostgreSQL refused: {error.diag.message_primary or type(error).__name__}"
    if isinstance(error, OSError):
        return f"{table.name}: {error.strerror or type(error).__name__} ({error.filename or 'the lake'})"
    return str(error)
