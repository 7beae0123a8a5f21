"""Lands PostgreSQL tables: in full the first time, afterwards what changed since the watermark.

PostgreSQL streams `COPY (…) (FORMAT binary)`, the ADBC driver turns it into Arrow in C, and
`postgres_types` makes of that what the lake holds, a block of rows at a time: memory does not grow with the
table. All tables of a run are read from one exported snapshot.

Locks: only ACCESS SHARE, and each table's only while it is read, so no reader or writer waits for us. What
does wait is DDL on that table, and writers queue behind DDL that waits: migrations should set `lock_timeout`.
"""

import json
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, TypeVar

import adbc_driver_manager
import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager import _reader

from ingestion.background import Background
from ingestion.config import TableConfig
from ingestion.errors import ConfigurationError, IngestionError
from ingestion.lake import LANDING_NAMES, TooManyRows, keys, texts
from ingestion.postgres_driver import open_database, with_our_name
from ingestion.postgres_types import Column, column, quoted

if TYPE_CHECKING:
    # Importing it takes as long as landing a small increment: only queries with parameters need it.
    import psycopg

    from ingestion.lake import BatchWriter, DeadLetter
    from ingestion.run import Run

T = TypeVar("T")

BLOCK_BYTES = 8 * 1024 * 1024
ATTEMPTS_ON_A_REPLICA = 6
# The text of dates, intervals and floats does not depend on how the server is set up, a long read does not
# begin in the middle of the table, and nothing of ours stays on the server for ever.
SESSION = {
    "default_transaction_isolation": "repeatable read",
    "default_transaction_read_only": "on",
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "synchronize_seqscans": "off",
    # Rows that a policy hides would be taken for deleted: the table fails instead.
    "row_security": "off",
    "lock_timeout": "30s",
    # The connection that holds the snapshot is idle while another one reads a table.
    "idle_in_transaction_session_timeout": "1d",
}
_EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
# SQLSTATEs of a query or a session that a replica ended.
_CONFLICT = ("40001", "40P01", "57P")


class SourceGone(IngestionError):
    """PostgreSQL, or the snapshot, cannot be reached: no other table can be read either."""


class RecoveryConflict(Exception):
    """A replica ended a query of ours, or the snapshot itself, to go on replaying its primary's changes."""


class Snapshot:
    """One view of the database, read-only, that everything of a run is read from; see `connect`.

    One connection exports it and is idle from then on. Each query has a connection of its own, for which it
    is imported: a query that fails, and its locks, are of no concern to the next one. Nothing is asked on a
    connection that may have died meanwhile: this version of the driver ends the process when a command meets
    a dead server (it copies an SQLSTATE that libpq's own errors have not), though not while rows stream in.
    """

    def __init__(self, dsn: str, timeout: str, tables: Iterable[TableConfig] = ()) -> None:
        self._conninfo = with_our_name(dsn)
        session = SESSION | {"statement_timeout": timeout}
        # In two: a transaction begins as the settings before it say.
        self._begin = ("; ".join(f"set {name} = '{value}'" for name, value in session.items()), "begin")
        self._columns: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
        try:
            self._database = open_database(self._conninfo)
        except adbc_driver_manager.Error as error:
            _check_dsn(dsn)
            _, _, reason = str(error).partition("Failed to connect:")
            lines = (reason or message(error)).strip().splitlines()
            raise SourceGone(
                f"PostgreSQL cannot be reached ({lines[0]}); check SOURCE_DSN or run `python -m sandbox up`"
            ) from None
        self._exporter: adbc_driver_manager.AdbcConnection | None = None
        self.name, self.in_recovery = "", False
        try:
            self._exporter = adbc_driver_manager.AdbcConnection(self._database)
            _execute(self._exporter, *self._begin)
            ((self.name, self.in_recovery),) = _fetch(
                self._exporter, "select pg_export_snapshot(), pg_is_in_recovery()"
            )
            self._describe(tables, lambda query: _fetch(self._exporter, query))
        except BaseException as error:
            self.close()
            if isinstance(error, adbc_driver_manager.Error):
                raise self._problem(error) from None
            raise

    def close(self) -> None:
        """End the snapshot."""
        for handle in (self._exporter, self._database):
            if handle is not None:
                handle.close()

    def stream(
        self, query: str, convert: Callable[[pa.RecordBatch], Any] = lambda block: block
    ) -> Iterator[Any]:
        """The rows of a query, a block at a time, each converted while the next one is fetched.

        Raises:
            IngestionError: PostgreSQL refused the query, or ended it in the middle.
            SourceGone: there is no PostgreSQL, or no snapshot, any more.
            RecoveryConflict: any of these, by a replica that had to.
        """
        imported = False
        try:
            # Closed at its end, also of its transaction and of a COPY that still runs: all is read-only.
            with closing(adbc_driver_manager.AdbcConnection(self._database)) as connection:
                _execute(connection, *self._begin, f"set transaction snapshot '{self.name}'")
                imported = True
                with _blocks(connection, query) as blocks:
                    yield from map(convert, blocks)
        except adbc_driver_manager.Error as error:
            raise self._problem(error, imported) from None
        except pa.ArrowException as error:
            raise IngestionError(f"PostgreSQL's rows cannot be read ({type(error).__name__})") from None

    def query(self, query: str) -> list[tuple[Any, ...]]:
        """The few rows of a query; raises as `stream`."""
        return _rows(self.stream(query))

    @contextmanager
    def psycopg(self) -> "Iterator[psycopg.Connection]":
        """A connection for queries with parameters, in one transaction; raises as `stream`."""
        import psycopg

        imported = False
        try:
            with psycopg.connect(self._conninfo, autocommit=True) as connection:
                for command in (*self._begin, f"set transaction snapshot '{self.name}'"):
                    connection.execute(command)
                imported = True
                yield connection
        except psycopg.Error as error:
            raise self._problem(error, imported) from None

    def columns(self, table: TableConfig) -> list[tuple[Any, ...]]:
        """What `CATALOGUE` says of each column of a table, [] when there is none; raises as `stream`."""
        self._describe([table], self.query)
        return self._columns[table.options["schema"], table.relation]

    def _describe(self, tables: Iterable[TableConfig], fetch: Callable[[str], list[tuple[Any, ...]]]) -> None:
        """Have the columns of tables, all that are not known yet by one query."""
        names = {(t.options["schema"], t.relation) for t in tables if t.kind == "postgres"}
        names -= self._columns.keys()
        if names:
            listed = ", ".join(f"({_literal(schema)}, {_literal(name)})" for schema, name in names)
            self._columns |= {name: [] for name in names}
            for schema, name, *described in fetch(CATALOGUE.format(tables=listed)):
                self._columns[schema, name].append(tuple(described))

    def _problem(self, error: Exception, imported: bool = True) -> Exception:
        """What an error means for the run; when the snapshot was not even `imported`, it is gone."""
        code = getattr(error, "sqlstate", None) or ""
        if self.in_recovery and (not imported or not code or code.startswith(_CONFLICT)):
            return RecoveryConflict(message(error))
        if not imported:
            return SourceGone(f"PostgreSQL went away: {message(error)}; run again to finish")
        return IngestionError(f"PostgreSQL {'refused' if code else 'went away'}: {message(error)}")


def _check_dsn(dsn: str) -> None:
    """Refuse what is no connection string: PostgreSQL's own message would quote it, and the password."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict

    try:
        found = conninfo_to_dict(dsn)
        # A password with a bare @ or / ends there: its rest would be quoted as a host, port or database.
        is_whole = all("@" not in str(found.get(part, ""))[1:] for part in ("host", "dbname"))
        is_whole &= str(found.get("port") or 0).replace(",", "").isdigit()
    except psycopg.ProgrammingError:
        is_whole = False
    if not is_whole:
        raise ConfigurationError(
            "SOURCE_DSN is no connection string; write it as postgresql://user:password@host:5432/database"
            " (special characters percent-encoded)"
        )


def _execute(connection: adbc_driver_manager.AdbcConnection, *commands: str) -> None:
    for command in commands:
        with closing(adbc_driver_manager.AdbcStatement(connection)) as statement:
            statement.set_sql_query(command)
            statement.execute_update()


@contextmanager
def _blocks(connection: adbc_driver_manager.AdbcConnection, query: str) -> Iterator[Iterator[pa.RecordBatch]]:
    """The rows of a query, fetched with COPY, each block while the one before is in use."""
    with closing(adbc_driver_manager.AdbcStatement(connection)) as statement:
        statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BLOCK_BYTES)})
        statement.set_sql_query(query)
        handle, _ = _result(Background(statement.execute_query), statement)
        # As pyarrow's own reader, but its errors have PostgreSQL's message and SQLSTATE.
        reader = _reader.AdbcRecordBatchReader._import_from_c(handle.address)
        try:
            with closing(_fetched_ahead(iter(reader), statement)) as ahead:
                yield ahead
        finally:
            reader.close()


def _fetched_ahead(
    blocks: Iterator[pa.RecordBatch], statement: adbc_driver_manager.AdbcStatement
) -> Iterator[pa.RecordBatch]:
    fetched = Background(partial(next, blocks, None))
    try:
        while (block := fetched.result()) is not None:
            fetched = Background(partial(next, blocks, None))
            yield block
    finally:
        _end(fetched, statement)


def _result(asked: Background[T], statement: adbc_driver_manager.AdbcStatement) -> T:
    """What PostgreSQL answers; a thread waits for it, since no signal ends a wait inside of libpq."""
    try:
        return asked.result()
    finally:
        _end(asked, statement)


def _end(asked: Background[Any], statement: adbc_driver_manager.AdbcStatement) -> None:
    """Have PostgreSQL give up what it still works on: nothing is closed while a thread waits for it."""
    if not asked.has_ended:
        with suppress(adbc_driver_manager.Error):
            statement.cancel()
    asked.wait()


def _fetch(connection: adbc_driver_manager.AdbcConnection, query: str) -> list[tuple[Any, ...]]:
    with _blocks(connection, query) as blocks:
        return _rows(blocks)


def _rows(blocks: Iterable[pa.RecordBatch]) -> list[tuple[Any, ...]]:
    return [row for block in blocks for row in zip(*(c.to_pylist() for c in block.columns), strict=True)]


@contextmanager
def connect(dsn: str, timeout: str = "6h", tables: Iterable[TableConfig] = ()) -> Iterator[Snapshot]:
    """A snapshot of the database, read-only.

    Args:
        dsn: a libpq connection string: of a primary or of a replica, with TLS as it says (`sslmode`, …).
        timeout: what one statement, such as reading a table, may take: `6h`, `90s`, ….
        tables: those whose columns will be asked for: they are read together.

    Raises:
        SourceGone: PostgreSQL cannot be reached.
        RecoveryConflict: a replica went away in the middle.
    """
    if not dsn:
        raise ConfigurationError(
            "SOURCE_DSN is not set; set it, or start the sandbox with `python -m sandbox up`"
        )
    with closing(Snapshot(dsn, timeout, tables)) as snapshot:
        yield snapshot


def each(
    dsn: str, tables: list[TableConfig], land: Callable[[TableConfig, Snapshot], None], timeout: str = "6h"
) -> None:
    """Call `land` for every table, all of them with one snapshot.

    A replica may end the snapshot (a recovery conflict): the table under way and those after it are then
    read from a fresh one. What has been published by then stays; of the table under way nothing has.

    Raises:
        IngestionError: PostgreSQL cannot be reached, went away, or is a replica that ended every attempt.
    """
    left = list(tables)
    for attempt in range(1, ATTEMPTS_ON_A_REPLICA + 1):
        try:
            with connect(dsn, timeout, left) as snapshot:
                while left:
                    land(left[0], snapshot)
                    del left[0]
            return
        except RecoveryConflict as conflict:
            if attempt == ATTEMPTS_ON_A_REPLICA:
                raise IngestionError(
                    f"{left[0].name}: the replica ended {ATTEMPTS_ON_A_REPLICA} attempts to read it"
                    f" ({conflict}); set hot_standby_feedback or a longer max_standby_streaming_delay there,"
                    " or read the primary"
                ) from None
            # tenacity would wait so as well, but even where there is no conflict it costs a start 50 ms.
            time.sleep(random.uniform(0, min(60, 2**attempt / 2)))


def schema(table: TableConfig, run: "Run") -> pa.Schema:
    """The table's columns with their types in the lake."""
    return lake_schema(describe(run.postgres, table))


def lake_schema(columns: list[Column]) -> pa.Schema:
    """The schema of the columns' types in the lake."""
    return pa.schema([(c.name, c.type) for c in columns])


def replay(table: TableConfig, run: "Run", letters: "list[DeadLetter]", out: "BatchWriter") -> None:
    """Read the rows of dead letters again by their keys; see `reconcile.replay`."""
    from ingestion import reconcile

    reconcile.replay(table, run, letters, out)


def is_empty(snapshot: Snapshot, table: TableConfig) -> bool:
    """Whether the source's table has no row at all."""
    ((empty,),) = snapshot.query(f"select not exists (select from {source(table)})")  # noqa: S608 - quoted
    return empty


def extract(table: TableConfig, run: "Run", out: "BatchWriter") -> None:
    """Write the rows of `table` that are not in the lake yet.

    The first run reads everything. Later ones read from `overlap_seconds` before the watermark, so that
    rows whose transaction committed late are found, and leave out what has landed with equal content. Rows
    without a cursor are compared on every run. Rows that the lake cannot hold become dead letters.

    Raises:
        IngestionError: the table or a column of it cannot be landed.
    """
    columns = describe(run.postgres, table)
    ordering = next(c for c in columns if c.name == table.cursor)
    cursor = quoted(table.cursor)
    where = "true"
    known: list[Callable[[], pa.Table]] = []
    if out.watermark_from is None:
        # Rows can have landed all the same: by a replay or a backfill, which set no watermark.
        known.append(partial(run.lake.landed_since, table, _EARLIEST, out.schema.names))
    else:
        since = out.watermark_from - timedelta(seconds=table.options.get("overlap_seconds", 3600))
        if pa.types.is_date(ordering.type):
            since = since.replace(hour=0, minute=0, second=0, microsecond=0)
        known.append(partial(run.lake.landed_since, table, since, out.schema.names))
        where = f"{cursor} >= '{since.astimezone(UTC).isoformat()}'"
    if ordering.nullable:
        known.append(partial(run.lake.landed_without_cursor, table, out.schema.names))
        where = f"({where} or {cursor} is null)"
    # Read while PostgreSQL answers.
    landed = Background(lambda: [rows() for rows in known])
    try:
        land(table, run, out, where, lambda rows: _not_landed(rows, landed.result(), table.key))
    except TooManyRows:
        # After an update of a whole table, say. What is done on disk takes more time, but no more memory.
        from ingestion import reconcile

        reconcile.increment(table, run, out, where)


def land(
    table: TableConfig,
    run: "Run",
    out: "BatchWriter",
    where: str,
    changed: Callable[[pa.Table], pa.Table],
) -> None:
    """Write the rows of `table` for which `where` holds, of each block those that `changed` returns."""
    columns = describe(run.postgres, table)
    unfit = 0
    # Closed at once when writing fails, so that no COPY is left running.
    with closing(read(run.postgres, table, columns, where)) as blocks:
        for rows, left_out in blocks:
            new = changed(rows)
            unfit += left_out
            out.extracted += rows.num_rows + left_out
            out.skip(rows.num_rows - new.num_rows)
            out.write(new)
    if unfit:
        reject(run.postgres, table, columns, where, unfit, out)


def describe(snapshot: Snapshot, table: TableConfig) -> list[Column]:
    """The columns of a table in their order.

    Raises:
        IngestionError: the table does not exist or is not what sources.yml says.
    """
    found = snapshot.columns(table)
    if not found:
        raise IngestionError(
            f"{table.name}: PostgreSQL has no table {table.options['schema']}.{table.relation}; "
            "check SOURCE_DSN and sources.yml"
        )
    kinds = {name: kind for name, kind, *_ in found}
    missing = [c for c in (*table.key, table.cursor) if c and c not in kinds]
    if missing:
        raise IngestionError(
            f"{table.name}: sources.yml names columns that are not there: {', '.join(missing)}"
        )
    if table.cursor and not kinds[table.cursor].startswith(("timestamp", "date")):
        raise IngestionError(
            f"{table.name}: the cursor {table.cursor} is no date or timestamp; choose another"
        )
    numeric = table.options.get("numeric")
    # What a column is called in the lake, where one of before stands in its way.
    renamed = table.options.get("rename", {})
    columns = []
    for name, kind, nullable, domain, composite, element in found:
        policy = numeric.get(name) if isinstance(numeric, dict) else numeric
        try:
            described = column(
                name,
                kind,
                nullable=nullable,
                domain=domain,
                composite=composite,
                element=element,
                cursor=name == table.cursor,
                numeric=policy,
            )
        except ValueError:
            raise IngestionError(
                f"{table.name}: sources.yml says numeric: {policy}; write string or decimal(38,9)"
            ) from None
        columns.append(replace(described, name=renamed.get(name, name)))
    # DuckDB and Athena tell no upper from lower case, and find the partition among the columns.
    taken = set(LANDING_NAMES)
    for described, (name, *_) in zip(columns, found, strict=True):
        if described.name.lower() in taken:
            raise IngestionError(
                f"{table.name}: the lake has another column called {described.name}, whatever its case; give"
                f" this one another name there, rename: {{{name}: {name}_2}} in sources.yml"
            )
        taken.add(described.name.lower())
    return columns


# Domains are followed to the type they are based on; an array type is one that its element calls its own.
CATALOGUE = """
    with recursive resolved as (
        select n.nspname, c.relname, a.attnum, a.attname, a.atttypid as type, a.atttypmod as modifier,
            not a.attnotnull as nullable, false as domain
        from pg_attribute as a
        join pg_class as c on c.oid = a.attrelid
        join pg_namespace as n on n.oid = c.relnamespace
        where (n.nspname, c.relname) in ({tables}) and a.attnum > 0 and not a.attisdropped
        union all
        select r.nspname, r.relname, r.attnum, r.attname, t.typbasetype, t.typtypmod, r.nullable, true
        from resolved as r
        join pg_type as t on t.oid = r.type and t.typtype = 'd'
    )
    select
        r.nspname::text,
        r.relname::text,
        r.attname::text,
        format_type(r.type, r.modifier),
        r.nullable,
        r.domain,
        t.typtype = 'c',
        format_type(e.oid, r.modifier)
    from resolved as r
    join pg_type as t on t.oid = r.type and t.typtype <> 'd'
    left join pg_type as e on e.oid = t.typelem and e.typarray = t.oid
    order by r.attnum
"""


def read(
    snapshot: Snapshot, table: TableConfig, columns: list[Column], where: str
) -> Iterator[tuple[pa.Table, int]]:
    """Stream the table's rows for which `where` holds, with the number of those left out as unfit.

    Rows come as PostgreSQL reads them: of a table that grows, that is nearly the order of its cursor.
    """
    names = [c.name for c in columns]
    guard = " or ".join(c.guard for c in columns if c.guard)
    select = [c.select for c in columns] + ([guard] if guard else [])
    # Names of our own: the driver is not asked to keep two columns of one name apart.
    listed = ", ".join(f"{expression} as c{i}" for i, expression in enumerate(select))
    query = f"select {listed} from {source(table)} where {where}"  # noqa: S608 - all names are quoted

    def convert(block: pa.RecordBatch) -> tuple[pa.Table, int]:
        decoded = [c.decode(values) for c, values in zip(columns, block.columns, strict=False)]
        masks = [mask for _, mask in decoded if mask is not None]
        if guard:
            masks.append(block.columns[-1])
        rows = pa.table([values for values, _ in decoded], names=names)
        if masks:
            rows = rows.filter(pc.invert(reduce(pc.or_, masks)))
        return rows, block.num_rows - rows.num_rows

    with closing(snapshot.stream(query, convert)) as blocks:
        yield from blocks


def reject(
    snapshot: Snapshot,
    table: TableConfig,
    columns: list[Column],
    where: str,
    expected: int,
    out: "BatchWriter",
) -> None:
    """Make dead letters of the rows that `read` left out: the same rows, as PostgreSQL itself finds them."""
    unfit = [c for c in columns if c.unfit]
    reasons = ", ".join(f"case when {c.unfit} then {_literal(f'{c.name}: {c.reason}')} end" for c in unfit)
    key = ", ".join(f"{_literal(name)}, {quoted(name)}::text" for name in table.key)
    query = f"""
        select to_json(source_row)::text, concat_ws('; ', {reasons}), json_build_object({key})::text
        from {source(table)} as source_row
        where {where} and ({" or ".join(c.unfit for c in unfit)})
    """  # noqa: S608 - all names and texts are quoted
    found = 0
    with closing(snapshot.stream(query)) as batches:
        for batch in batches:
            for payload, reason, origin in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                out.reject(payload, reason, origin=json.dumps(json.loads(origin)))
                found += 1
    if found != expected:
        raise IngestionError(
            f"{expected} rows hold what the lake cannot, but {found} were found again; nothing was landed:"
            " this is a defect of ingestion/postgres_types.py"
        )


def source(table: TableConfig) -> str:
    """The source's table as an SQL identifier."""
    return f"{quoted(table.options['schema'])}.{quoted(table.relation)}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _not_landed(rows: pa.Table, landed: list[pa.Table], key: tuple[str, ...]) -> pa.Table:
    """The rows that are in none of `landed`, where a record is in each at most once."""
    for part in landed:
        if part.num_rows and rows.num_rows:
            rows = rows.filter(pc.invert(_are_in(rows, part, key)))
    return rows


def _are_in(rows: pa.Table, landed: pa.Table, key: tuple[str, ...]) -> pa.ChunkedArray:
    """For each row, whether it has landed with equal content."""
    mine, theirs = keys(rows, key), keys(landed, key)
    if mine.type != theirs.type:
        mine, theirs = (pc.cast(part, pa.string()) for part in (mine, theirs))
    place = pc.index_in(mine, value_set=theirs)
    others = landed.take(place)
    same = pc.is_valid(place)
    for name in rows.column_names:
        same = pc.and_(same, _equal(rows[name].combine_chunks(), others[name].combine_chunks()))
    return same


def _equal(some: pa.Array, others: pa.Array) -> pa.Array:
    """Whether values are the same, pair by pair: null is equal to null, NaN to NaN."""
    if some.type != others.type:
        try:
            others = others.cast(some.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            some, others = some.cast(pa.string()), others.cast(pa.string())
    if pa.types.is_list(some.type):
        some, others = texts(some), texts(others)
    if pa.types.is_floating(some.type):
        bits = pa.int32() if some.type == pa.float32() else pa.int64()
        some, others = some.view(bits), others.view(bits)
    both_null = pc.and_(pc.is_null(some), pc.is_null(others))
    return pc.or_(pc.fill_null(pc.equal(some, others), False), both_null)


def message(error: Exception) -> str:
    """PostgreSQL's primary message without a value of a row; the driver would add the query."""
    if (diagnosis := getattr(error, "diag", None)) is not None:
        primary = diagnosis.message_primary
    else:
        # Names are bytes or not, with the version of the driver's manager.
        found = {str(name): value for name, value in getattr(error, "details", None) or ()}
        primary = next((v.decode() for k, v in found.items() if "MESSAGE_PRIMARY" in k), None)
    if primary:
        code = getattr(error, "sqlstate", None) or ""
        if code.startswith("P0"):
            return f"an exception raised by a function of its own (SQLSTATE {code})"
        # What a view computes may fail, and such errors quote the value.
        return re.sub('".*"', '"…"', primary, flags=re.DOTALL) if code.startswith("22") else primary
    # What libpq itself says, such as that the server closed the connection.
    text = str(error).partition("failed: ")[2].strip()
    return text.splitlines()[0] if text else type(error).__name__
