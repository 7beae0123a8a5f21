"""One ingestion run: every table becomes one batch, all read from one snapshot of PostgreSQL."""

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from ingestion import drift, history
from ingestion.config import TableConfig
from ingestion.errors import ConfigurationError, IngestionError
from ingestion.lake import BatchWriter, Lake
from ingestion.log import Reporter
from ingestion.settings import Settings

if TYPE_CHECKING:
    from ingestion.postgres import Snapshot


@dataclass
class Run:
    """What the module of a source needs while it extracts.

    `postgres` is the same for the whole run; `progress` shows a short text while a table is being landed.
    """

    settings: Settings
    lake: Lake
    extract_date: date
    batch_id: str
    postgres: "Snapshot"
    progress: Callable[[str], None] = lambda text: None


@dataclass
class Landed:
    """What became of one table: what was landed now, in seconds, and the error if it failed.

    `rows` count deletions too, `bytes` are those of the files. `drift` says how the source's columns have
    changed since the last batch.
    """

    table: TableConfig
    rows: int = 0
    deleted: int = 0
    extracted: int = 0
    skipped: int = 0
    rejected: int = 0
    bytes: int = 0
    seconds: float = 0.0
    drift: tuple[str, ...] = ()
    error: str | None = None
    batches: list[str] = field(default_factory=list)

    @property
    def rejected_share(self) -> float:
        """New dead letters as a share of the extracted records, 0 to 1."""
        return self.rejected / self.extracted if self.extracted else 0.0

    @property
    def is_alert(self) -> bool:
        """Whether more records became dead letters than the table's threshold allows."""
        return self.rejected_share > self.table.dead_letter_alert


Extract = Callable[[TableConfig, Run, BatchWriter], None]


def run(
    settings: Settings,
    tables: list[TableConfig],
    *,
    reconcile: bool = False,
    reporter: Reporter | None = None,
) -> list[Landed]:
    """Land `tables` for `settings.extract_date`; a table that fails does not stop the others.

    Running again lands only what is not in the lake yet, whatever happened to the run before. With
    `reconcile`, PostgreSQL tables are compared with the lake whole, and records that are gone are landed as
    deleted.

    Raises:
        IngestionError: nothing could be landed at all (the lake or PostgreSQL cannot be used).
    """

    def land(table: TableConfig, context: Run, landed: Landed) -> None:
        source = _module(table)
        last = context.lake.last_manifest(table.source, table.table)
        extract = source.extract
        # Without a cursor only a comparison tells what is new.
        if table.kind == "postgres" and (reconcile or table.cursor is None):
            from ingestion import reconcile as comparison

            extract = comparison.extract
        found = drift.resolve(table, source.schema(table, context), last)
        _batch(table, context, found, extract, landed, reporter)

    reporter = reporter or Reporter()
    return _each(settings, tables, "run", land, reporter)


def backfill(
    settings: Settings,
    tables: list[TableConfig],
    first: date,
    last: date,
    *,
    reporter: Reporter | None = None,
) -> list[Landed]:
    """Land what the lake lacks of the rows whose cursor is on a day from `first` to `last`.

    A month is a batch: what was landed before an interruption stays, and is not landed again.

    Raises:
        IngestionError: nothing could be landed at all (the lake or PostgreSQL cannot be used).
    """
    from ingestion import reconcile

    reporter = reporter or Reporter()

    def land(table: TableConfig, context: Run, landed: Landed) -> None:
        if table.kind != "postgres" or table.cursor is None:
            raise IngestionError(
                f"{table.name} needs no backfill, only PostgreSQL tables do: see docs/operations.md"
            )
        before = context.lake.last_manifest(table.source, table.table)
        if before is None:
            raise IngestionError(f"{table.name} has never been landed; run `python -m ingestion run` first")
        found = drift.resolve(table, _module(table).schema(table, context), before)
        with reconcile.Newest(table, context, found.schema) as newest:
            for month in _months(first, last):
                context.batch_id = context.lake.next_batch_id()
                extract = partial(reconcile.backfill, newest=newest, first=month[0], last=month[1])
                _batch(table, context, found, extract, landed, reporter, is_increment=False)

    return _each(settings, tables, "backfill", land, reporter)


def replay(
    settings: Settings, tables: list[TableConfig], *, reporter: Reporter | None = None
) -> list[Landed]:
    """Try the open dead letters of `tables` again, through the `replay` of their source's module.

    Raises:
        IngestionError: nothing could be tried at all (the lake or PostgreSQL cannot be used).
    """
    reporter = reporter or Reporter()

    def land(table: TableConfig, context: Run, landed: Landed) -> None:
        letters = context.lake.dead_letters(table.source, table.table)
        source = _module(table)
        if not letters:
            return
        if not hasattr(source, "replay"):
            raise IngestionError(f"{table.name}: dead letters of the kind {table.kind} cannot be replayed")

        last = context.lake.last_manifest(table.source, table.table)
        found = drift.resolve(table, source.schema(table, context), last)

        def extract(table: TableConfig, run: Run, out: BatchWriter) -> None:
            source.replay(table, run, letters, out)

        _batch(table, context, found, extract, landed, reporter, is_increment=False)

    return _each(settings, tables, "replay", land, reporter)


def _each(
    settings: Settings,
    tables: list[TableConfig],
    command: str,
    land: Callable[[TableConfig, Run, Landed], None],
    reporter: Reporter,
) -> list[Landed]:
    """Do `land` for every table under one lock and one snapshot, and keep in the lake what became of it."""
    from ingestion import postgres

    lake = Lake.open(settings.lake_root, settings.world, settings.source_id)
    register = _register(lake, settings)
    results: list[Landed] = []
    with lake.lock(), history.recorded(lake, command, results):
        newest = lake.last_extract_date()
        if newest and newest > settings.extract_date:
            raise ConfigurationError(
                f"the lake {lake.root} already holds {newest}, later than {settings.extract_date}; "
                "set EXTRACT_DATE to that day or later, or LAKE to another folder"
            )
        batch_id = lake.next_batch_id()
        reporter.started(command, settings.extract_date, tables)

        def one(table: TableConfig, snapshot: "Snapshot") -> None:
            context = Run(settings, lake, settings.extract_date, batch_id, snapshot)
            context.progress = lambda text: reporter.said(table.name, text)
            landed = Landed(table)
            began = time.monotonic()
            reporter.reading(table, None)
            try:
                land(table, context, landed)
                register(table)
            except (postgres.SourceGone, postgres.RecoveryConflict):
                raise
            except Exception as error:
                landed.error = _problem(table, error)
            landed.seconds = time.monotonic() - began
            results.append(landed)
            reporter.finished(landed)

        postgres.each(settings.source_dsn.get_secret_value(), tables, one, settings.source_timeout)
    return results


def _register(lake: Lake, settings: Settings) -> Callable[[TableConfig], None]:
    """What tells Glue of a table that was landed: nothing where no GLUE_DATABASE is set."""
    if not settings.glue_database:
        return lambda table: None
    from ingestion.glue import Catalogue

    return Catalogue(lake, settings.glue_database).register


def _batch(
    table: TableConfig,
    run: Run,
    found: drift.Drift,
    extract: Extract,
    landed: Landed,
    reporter: Reporter,
    *,
    is_increment: bool = True,
) -> None:
    """Land one batch by `extract`, and add what it did to `landed`."""
    landed.drift = found.changes
    begin = partial(run.lake.begin, table, found.schema, run.batch_id, run.extract_date)
    with begin(is_increment=is_increment) as out:
        out.extra |= found.manifest
        reporter.reading(table, out)
        extract(table, run, out)
        if is_increment:
            _check_rows(table, run, out)
    landed.bytes += out.bytes
    if out.published:
        landed.batches.append(run.batch_id)
    landed.rows += out.rows
    landed.deleted += out.deleted
    landed.extracted += out.extracted
    landed.skipped += out.skipped
    landed.rejected += out.rejected


def _module(table: TableConfig) -> ModuleType:
    return importlib.import_module(f"ingestion.{table.kind}")


def _check_rows(table: TableConfig, run: Run, out: BatchWriter) -> None:
    """Fail where there should be rows and are none."""
    if table.kind == "postgres" and out.extracted == 0 and not table.may_be_empty:
        from ingestion import postgres

        # No news is good news, unless the table has been emptied.
        if postgres.is_empty(run.postgres, table):
            raise IngestionError(
                f"{table.name} has no rows; if that is right, say may_be_empty: true in sources.yml"
            )
    if table.expect_rows == "daily" and out.rows == 0 and out.rejected == 0:
        today = run.extract_date.isoformat()
        if not any(
            m["rows"] for m in run.lake.manifests(table.source, table.table) if m["extract_date"] == today
        ):
            raise IngestionError(
                f"{table.name} has no new row for {today}, and sources.yml expects some each day; run again"
                " when the source has them"
            )


def _months(first: date, last: date) -> Iterator[tuple[date, date]]:
    """The days from `first` to `last`, cut where months begin."""
    while first <= last:
        following = (first.replace(day=1) + timedelta(days=32)).replace(day=1)
        yield first, min(last, following - timedelta(days=1))
        first = following


def _problem(table: TableConfig, error: Exception) -> str:
    """One line about what stopped a table; raises `error` itself when it is none that is foreseen."""
    if isinstance(error, IngestionError):
        is_named = table.kind != "postgres" or table.name in str(error)
        return str(error) if is_named else f"{table.name}: {error}"
    if isinstance(error, OSError):
        return f"{table.name}: {error.strerror or type(error).__name__} ({error.filename or 'the lake'})"
    # psycopg's, where a source has a connection of its own; importing psycopg to ask takes too long.
    if hasattr(error, "diag"):
        return f"{table.name}: PostgreSQL refused: {error.diag.message_primary or type(error).__name__}"
    raise error
