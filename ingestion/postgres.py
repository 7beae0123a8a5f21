"""Lands PostgreSQL tables: in full the first time, afterwards what changed since the watermark.

PostgreSQL casts what has no exact CSV form (arrays to JSON, timestamps to microseconds since 1970) and
streams `COPY`; pyarrow parses it in blocks, so memory does not grow with the table. CSV keeps null
(nothing) and the empty string ("") apart.
"""

import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.lake import TIMESTAMP, BatchWriter
from ingestion.run import Run

BLOCK_BYTES = 16 * 1024 * 1024
_SIMPLE_TYPES = {
    "bigint": pa.int64(),
    "integer": pa.int32(),
    "smallint": pa.int16(),
    "boolean": pa.bool_(),
    "text": pa.string(),
    "uuid": pa.string(),
    "jsonb": pa.string(),
    "json": pa.string(),
    "date": pa.date32(),
    "double precision": pa.float64(),
    "real": pa.float32(),
}


@dataclass(frozen=True)
class Column:
    """A source column: how PostgreSQL sends it, how CSV is parsed, and its type in the lake."""

    name: str
    select: sql.Composable
    csv_type: pa.DataType
    lake_type: pa.DataType


@contextmanager
def connect(dsn: str) -> Iterator[psycopg.Connection]:
    """A read-only connection whose one transaction sees one snapshot of the database.

    Raises:
        IngestionError: PostgreSQL cannot be reached, or went away in the middle.
    """
    if not dsn:
        raise IngestionError(
            "SOURCE_DSN is not set; set it, or start the sandbox with `python -m sandbox up`"
        )
    try:
        conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        # PostgreSQL's own message would quote the string, and with it the password.
        raise IngestionError(
            "SOURCE_DSN is no connection string; write it as postgresql://user:password@host:5432/database"
            " (special characters percent-encoded)"
        ) from None
    try:
        connection = psycopg.connect(dsn, application_name="credit-lakehouse ingestion", connect_timeout=10)
    except psycopg.Error as error:
        raise IngestionError(
            f"PostgreSQL cannot be reached ({_reason(error)}); check SOURCE_DSN or run `python -m sandbox up`"
        ) from None
    with connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        try:
            connection.execute("set local timezone = 'UTC'")
            connection.execute("set local datestyle = 'ISO'")
            connection.execute("set local extra_float_digits = 3")
            yield connection
        except psycopg.OperationalError as error:
            raise IngestionError(f"PostgreSQL went away: {_reason(error)}; run again to finish") from None


def schema(table: TableConfig, run: Run) -> pa.Schema:
    """The table's columns with their types in the lake."""
    return pa.schema([(c.name, c.lake_type) for c in describe(run.postgres, table)])


def extract(table: TableConfig, run: Run, out: BatchWriter) -> None:
    """Write the rows of `table` that are not in the lake yet.

    The first run reads everything. Later ones read from `overlap_seconds` before the watermark, so that
    rows whose transaction committed late are found, and leave out what has landed with equal content.

    Raises:
        IngestionError: the table or a column of it cannot be landed.
    """
    columns = describe(run.postgres, table)
    since = landed = None
    if out.watermark_from:
        since = out.watermark_from - timedelta(seconds=table.options.get("overlap_seconds", 3600))
        landed = run.lake.landed_since(table, since, out.schema.names)
    # Closed at once when writing fails, so that no COPY is left running on the connection.
    with closing(read(run.postgres, table, columns, since)) as blocks:
        for rows in blocks:
            out.extracted += rows.num_rows
            new = rows if landed is None else _not_landed(rows, landed, table)
            out.skip(rows.num_rows - new.num_rows)
            out.write(new)


def describe(connection: psycopg.Connection, table: TableConfig) -> list[Column]:
    """The columns of a table in their order.

    Raises:
        IngestionError: the table does not exist or has a column whose type is not supported.
    """
    found = connection.execute(
        """
        select a.attname, format_type(a.atttypid, a.atttypmod)
        from pg_attribute as a
        join pg_class as c on c.oid = a.attrelid
        join pg_namespace as n on n.oid = c.relnamespace
        where n.nspname = %s and c.relname = %s and a.attnum > 0 and not a.attisdropped
        order by a.attnum
        """,
        (table.options["schema"], table.table),
    ).fetchall()
    if not found:
        raise IngestionError(
            f"{table.name}: PostgreSQL has no table {table.options['schema']}.{table.table}; "
            "check SOURCE_DSN and sources.yml"
        )
    names = [name for name, _ in found]
    missing = [c for c in (*table.key, table.cursor) if c not in names]
    if missing:
        raise IngestionError(
            f"{table.name}: sources.yml names columns that are not there: {', '.join(missing)}"
        )
    return [_column(table, name, kind) for name, kind in found]


def _column(table: TableConfig, name: str, kind: str) -> Column:
    identifier = sql.Identifier(name)
    as_text = sql.SQL("{}::text").format(identifier)
    if kind in _SIMPLE_TYPES:
        arrow = _SIMPLE_TYPES[kind]
        return Column(name, as_text if kind in ("jsonb", "json") else identifier, arrow, arrow)
    if kind.startswith("character varying"):
        return Column(name, identifier, pa.string(), pa.string())
    if decimal := re.fullmatch(r"numeric\((\d+),(\d+)\)", kind):
        precision, scale = map(int, decimal.groups())
        if precision <= 38:
            return Column(name, identifier, pa.decimal128(precision, scale), pa.decimal128(precision, scale))
    if kind == "timestamp with time zone":
        # A whole number is exact and needs no parsing of dates.
        micros = sql.SQL("(extract(epoch from {}) * 1000000)::bigint").format(identifier)
        return Column(name, micros, pa.int64(), TIMESTAMP)
    if kind == "text[]":
        return Column(name, sql.SQL("to_json({})").format(identifier), pa.string(), pa.list_(pa.string()))
    raise IngestionError(f"{table.name}: column {name} is {kind}, a type that cannot be landed exactly yet")


def read(
    connection: psycopg.Connection, table: TableConfig, columns: list[Column], since: datetime | None
) -> Iterator[pa.Table]:
    """Stream the table's rows, all or those whose cursor is `since` or later, ordered by cursor and key.

    Raises:
        IngestionError: a value does not fit its column's type; the message names the column only.
    """
    query = sql.SQL(
        "copy (select {columns} from {table} {where} order by {order}) to stdout (format csv)"
    ).format(
        columns=sql.SQL(", ").join(c.select for c in columns),
        table=sql.Identifier(table.options["schema"], table.table),
        where=sql.SQL("where {} >= {}").format(sql.Identifier(table.cursor), sql.Literal(since))
        if since
        else sql.SQL(""),
        order=sql.SQL(", ").join(map(sql.Identifier, (table.cursor, *table.key))),
    )
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        source = _CopyStream(copy)
        stream = io.BufferedReader(source, BLOCK_BYTES)
        try:
            if not stream.peek(1):
                return
            blocks = pacsv.open_csv(
                stream,
                read_options=pacsv.ReadOptions(
                    column_names=[c.name for c in columns], block_size=BLOCK_BYTES, use_threads=True
                ),
                parse_options=pacsv.ParseOptions(newlines_in_values=True),
                convert_options=pacsv.ConvertOptions(
                    column_types={c.name: c.csv_type for c in columns},
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                    true_values=["t"],
                    false_values=["f"],
                ),
            )
            for block in blocks:
                yield _to_lake_types(pa.table(block), columns)
        except pa.ArrowInvalid as error:
            raise IngestionError(f"{table.name}: {_conversion_problem(str(error), columns)}") from None
        finally:
            source.stop()


def _to_lake_types(rows: pa.Table, columns: list[Column]) -> pa.Table:
    arrays = []
    for column in columns:
        values = rows[column.name]
        if pa.types.is_list(column.lake_type):
            parsed = [None if v is None else json.loads(v) for v in values.to_pylist()]
            values = pa.chunked_array([pa.array(parsed, column.lake_type)])
        elif column.csv_type != column.lake_type:
            values = pc.cast(values, column.lake_type)
        arrays.append(values)
    return pa.table(arrays, names=[c.name for c in columns])


def _not_landed(rows: pa.Table, landed: pa.Table, table: TableConfig) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("extracted", rows)
        connection.register("landed", landed)
        # `except all` on whole rows: nulls compare equal, a row is left out once per landed copy.
        left = connection.sql("select * from extracted except all select * from landed").to_arrow_table()
    return left.sort_by([(c, "ascending") for c in (table.cursor, *table.key)])


def _conversion_problem(message: str, columns: list[Column]) -> str:
    """What pyarrow said, without the value it names: that may be personal data."""
    if number := re.search(r"In CSV column #(\d+)", message):
        column = columns[int(number.group(1))]
        return f"column {column.name} holds a value that does not fit {column.lake_type}; nothing was landed"
    return "the extract could not be parsed; nothing was landed"


def _reason(error: psycopg.Error) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


class _CopyStream(io.RawIOBase):
    """The bytes of a running COPY as a file, until `stop`.

    pyarrow reads ahead in a thread of its own, also after it has failed: once the connection is used for
    something else, no read may reach it any more.
    """

    def __init__(self, copy: psycopg.Copy) -> None:
        super().__init__()
        self._copy = copy
        self._lock = threading.Lock()
        self._stopped = False
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def stop(self) -> None:
        """Be at the end from now on; a read under way is waited for."""
        with self._lock:
            self._stopped = True

    def readinto(self, buffer: memoryview) -> int:
        filled = 0
        while filled < len(buffer):
            if not self._rest:
                with self._lock:
                    self._rest = memoryview(b"" if self._stopped else self._copy.read())
                if not self._rest:
                    break
            taken = min(len(self._rest), len(buffer) - filled)
            buffer[filled : filled + taken] = self._rest[:taken]
            self._rest = self._rest[taken:]
            filled += taken
        return filled
