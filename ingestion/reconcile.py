# ruff: noqa: S608, the names in these statements are quoted and no value of a record is in them
"""Compares PostgreSQL tables with the lake by key and content, whatever their cursors say.

It finds what no watermark can: rows changed without their cursor, written with an old one or with none, and
rows deleted. Both sides are read once and in blocks; of the lake, the key and a hash of the content of each
record's newest version are kept, in a DuckDB file that spills to disk, so memory does not grow with the
table. The source sends its rows over the path that extracts them and not hashes of them: those cost its
processor more, and would need a second account of every type, which could disagree with the first.
"""

import json
import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from ingestion import postgres
from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.lake import BatchWriter, DeadLetter
from ingestion.run import Run
from ingestion.settings import BUSINESS_ZONE

MEMORY = "256MB"
KEYS_AT_ONCE = 10_000


def extract(table: TableConfig, run: Run, out: BatchWriter) -> None:
    """Write every row that the lake does not hold as its newest version, and every record that is gone.

    A record that is gone is written once more as it landed last, `_source_deleted`.

    Raises:
        IngestionError: the key names more than one row, or the table lost all its rows and may not be empty.
    """
    _check_key(table, run.postgres)
    with Newest(table, run, out.schema) as newest:
        postgres.land(table, run, out, "true", newest.changed)
        if out.extracted == 0 and not table.may_be_empty and any(True for _ in newest.unseen()):
            raise IngestionError(
                f"{table.name} has no rows any more, and the lake holds some; if that is right, say"
                " may_be_empty: true in sources.yml"
            )
        for keys in newest.unseen():
            # What was not among the rows may be there all the same: among those that cannot be landed.
            present = _present(
                table, run.postgres, [dict(zip(table.key, key, strict=True)) for _, key in keys]
            )
            newest.delete([row for number, (row, _) in enumerate(keys, start=1) if number not in present])
        for rows in newest.deleted():
            out.extracted += rows.num_rows
            out.write(rows, deleted=True)


def backfill(
    table: TableConfig, run: Run, out: BatchWriter, newest: "Newest", first: date, last: date
) -> None:
    """Write what the lake lacks of the rows whose cursor is on a day (BUSINESS_ZONE) of `first` to `last`."""
    bounds: tuple[date, date] = (first, last + timedelta(days=1))
    if not pa.types.is_date(out.schema.field(table.cursor).type):
        bounds = tuple(datetime.combine(day, time(), BUSINESS_ZONE) for day in bounds)
    start, end = map(sql.Literal, bounds)
    where = sql.SQL("{cursor} >= {start} and {cursor} < {end}").format(
        cursor=sql.Identifier(table.cursor), start=start, end=end
    )
    postgres.land(table, run, out, where.as_string(), newest.changed)


def replay(table: TableConfig, run: Run, letters: list[DeadLetter], out: BatchWriter) -> None:
    """Read the rows of dead letters again by their keys, and land those that can be landed by now.

    A letter is closed when its row has landed, also before, or is gone from the source.
    """
    columns = postgres.describe(run.postgres, table)
    found: list[pa.Table] = []
    origins: set[str] = set()
    for letter in letters:
        out.extracted += 1
        if letter.origin in origins:  # an earlier version of the same row
            out.skip(1)
            out.retire(letter)
            continue
        key = _origin_key(table, letter)
        if key is None:
            out.reject_again(letter, "its origin is no key of this table")
            continue
        where = _has_key(table, run.postgres, [key])
        rows = [r for r, _ in postgres.read(run.postgres, table, columns, where) if r.num_rows]
        if rows:
            origins.add(letter.origin)
            found += rows
            out.retire(letter)
        elif _present(table, run.postgres, [key]):
            out.reject_again(letter, letter.reason)
        else:
            out.skip(1)
            out.retire(letter, "gone from the source")
    if found:
        with Newest(table, run, out.schema) as newest:
            rows = pa.concat_tables(found)
            changed = newest.changed(rows)
            out.write(changed)
            out.skip(rows.num_rows - changed.num_rows)


def increment(table: TableConfig, run: Run, out: BatchWriter, where: str) -> None:
    """Write what the lake does not hold as its newest version of the rows for which `where` holds."""
    with Newest(table, run, out.schema) as newest:
        postgres.land(table, run, out, where, newest.changed)


class Newest:
    """Key and content hash of the newest version of each record of a table in the lake, and which were met.

    Its size in memory is bounded; use it as a context manager.
    """

    def __init__(self, table: TableConfig, run: Run, schema: pa.Schema) -> None:
        self._table = table
        self._schema = schema
        self._comparable = pa.schema([(f.name, comparable(f.type)) for f in schema])
        self._key = [postgres.quoted(k) for k in table.key]
        self._keys = ", ".join(self._key)
        self._content = f"hash({', '.join(postgres.quoted(f.name) for f in schema)})"
        self._lake = run.lake
        self._batches = run.lake.batches(table.source, table.table)
        self._folder = tempfile.TemporaryDirectory(prefix="reconcile-")
        self._connection = duckdb.connect(str(Path(self._folder.name, "newest.duckdb")))
        self._connection.execute(f"set memory_limit = '{MEMORY}'")
        self._connection.execute("set timezone = 'UTC'")
        self._connection.execute("set preserve_insertion_order = false")
        self._connection.execute("create table met (row bigint)")
        self._connection.execute("create table gone (row bigint)")
        self._hash_landed()

    def __enter__(self) -> "Newest":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._folder.cleanup()

    def changed(self, rows: pa.Table) -> pa.Table:
        """Those of the source's `rows` that are not the newest version in the lake; all count as met."""
        rows = rows.cast(self._schema)
        numbers = pa.array(range(rows.num_rows), pa.int64())
        with self._registered("block", rows.cast(self._comparable).append_column("_number", numbers)):
            compared = self._connection.sql(f"""
                select _number, newest.rowid as row, block.content = newest.content and not deleted as same
                from (select {self._keys}, {self._content} as content, _number from block) as block
                left join newest on {self._same_key("block", "newest")}
                order by _number
            """).to_arrow_table()
        self._insert("met", compared["row"].drop_null())
        return rows.filter(pc.invert(pc.fill_null(compared["same"], False)))

    def unseen(self) -> Iterator[list[tuple[int, list[Any]]]]:
        """Row numbers and keys of what the lake holds undeleted and was not met, some at a time."""
        found = self._connection.cursor().execute(f"""
            select rowid, {self._keys} from newest
            where not deleted and rowid not in (select row from met)
        """)
        while chunk := found.fetchmany(KEYS_AT_ONCE):
            yield [(row, key) for row, *key in chunk]

    def delete(self, rows: list[int]) -> None:
        """Note by their numbers that records are gone from the source."""
        self._insert("gone", pa.array(rows, pa.int64()))

    def deleted(self) -> Iterator[pa.Table]:
        """The newest version of every record noted as gone, in blocks."""
        found = self._connection.execute(
            "select distinct batch from newest where rowid in (select row from gone) order by batch"
        ).fetchall()
        for (number,) in found:
            for block in self._lake.blocks(self._batches[number]):
                rows = self._as_now(block)
                numbers = pa.array(range(rows.num_rows), pa.int64())
                with self._registered("block", rows.cast(self._comparable).append_column("_number", numbers)):
                    gone = self._connection.sql(f"""
                        select _number from block join newest on {self._same_key("block", "newest")}
                        where newest.rowid in (select row from gone) and batch = {number}
                        order by _number
                    """).to_arrow_table()
                yield rows.take(gone["_number"])

    def _hash_landed(self) -> None:
        empty = self._connection.from_arrow(self._comparable.empty_table())
        kinds = dict(zip(empty.columns, empty.types, strict=True))
        keys = ", ".join(f"{postgres.quoted(k)} {kinds[k]}" for k in self._table.key)
        self._connection.execute(
            f"create table versions ({keys}, content ubigint, deleted boolean, batch integer)"
        )
        for number, batch in enumerate(self._batches):
            for block in self._lake.blocks(batch):
                rows = self._as_now(block).cast(self._comparable)
                with self._registered("block", rows.append_column("_deleted", block["_source_deleted"])):
                    self._connection.execute(f"""
                        insert into versions
                        select {self._keys}, {self._content}, _deleted, {number} from block
                    """)
        self._connection.execute(f"""
            create table newest as
            select
                {self._keys}, arg_max(content, batch) as content, arg_max(deleted, batch) as deleted,
                max(batch) as batch
            from versions group by {self._keys}
        """)
        self._connection.execute("drop table versions")

    def _as_now(self, block: pa.Table) -> pa.Table:
        """Landed rows with the table's columns of now: wider types, null where a column came later."""
        columns = [
            block[f.name].cast(f.type) if f.name in block.column_names else pa.nulls(block.num_rows, f.type)
            for f in self._schema
        ]
        return pa.table(columns, schema=self._schema)

    def _same_key(self, left: str, right: str) -> str:
        return " and ".join(f"{left}.{key} is not distinct from {right}.{key}" for key in self._key)

    def _insert(self, name: str, rows: pa.Array | pa.ChunkedArray) -> None:
        with self._registered("numbers", pa.table({"row": rows})):
            self._connection.execute(f"insert into {name} select row from numbers")

    @contextmanager
    def _registered(self, name: str, rows: pa.Table) -> Iterator[None]:
        self._connection.register(name, rows)
        try:
            yield
        finally:
            self._connection.unregister(name)


def comparable(kind: pa.DataType) -> pa.DataType:
    """The type that DuckDB gets for a column: it holds no decimal of more than 38 digits."""
    if pa.types.is_list(kind):
        return pa.list_(comparable(kind.value_type))
    return pa.string() if pa.types.is_decimal256(kind) else kind


def _check_key(table: TableConfig, snapshot: postgres.Snapshot) -> None:
    """Refuse a key that names several rows: their versions could not be told apart."""
    key = sql.SQL(", ").join(map(sql.Identifier, table.key))
    doubles = sql.SQL("select 1 from {} group by {} having count(*) > 1 limit 1")
    with snapshot.psycopg() as connection:
        unique = connection.execute(
            """
            select 1 from pg_index
            where indrelid = %s::regclass and indisunique and indisvalid and indpred is null
                and indexprs is null and (
                    -- Of rows with a null there, it allows any number.
                    select array_agg(attname::text) filter (where attnotnull) from pg_attribute
                    where attrelid = indrelid and attnum = any (indkey[0:indnkeyatts - 1])
                ) <@ %s::text[]
            limit 1
            """,
            (_relation(table).as_string(), list(table.key)),
        ).fetchone()
        if unique or not connection.execute(doubles.format(_relation(table), key)).fetchone():
            return
    raise IngestionError(
        f"{table.name}: the key {', '.join(table.key)} names more than one row, so their versions"
        " cannot be told apart; mend `key` in sources.yml"
    )


def _present(table: TableConfig, snapshot: postgres.Snapshot, keys: list[dict[str, Any]]) -> set[int]:
    """Which of `keys` (column → value) are in the source, by their places from 1 on."""
    query = sql.SQL("""
        select wanted.ordinality
        from json_populate_recordset(null::{table}, {keys}) with ordinality as wanted
        where exists (select from {table} as t where {same})
    """).format(
        table=_relation(table),
        # A parameter would have psycopg look for more of them, and find a % in a column's name.
        keys=sql.Literal(_as_json(table, snapshot, keys)),
        # No index answers `is not distinct from`.
        same=sql.SQL(" and ").join(
            sql.SQL("t.{0} is not distinct from wanted.{0}" if c.nullable else "t.{0} = wanted.{0}").format(
                sql.Identifier(c.name)
            )
            for c in postgres.describe(snapshot, table)
            if c.name in table.key
        ),
    )
    with snapshot.psycopg() as connection:
        return {place for (place,) in connection.execute(query)}


def _has_key(table: TableConfig, snapshot: postgres.Snapshot, keys: list[dict[str, Any]]) -> str:
    """The SQL condition that a row has one of `keys`."""
    columns = sql.SQL(", ").join(map(sql.Identifier, table.key))
    condition = sql.SQL(
        "({columns}) in (select {columns} from json_populate_recordset(null::{table}, {keys}))"
    )
    keys = sql.Literal(_as_json(table, snapshot, keys))
    return condition.format(columns=columns, table=_relation(table), keys=keys).as_string()


def _origin_key(table: TableConfig, letter: DeadLetter) -> dict[str, Any] | None:
    """The key of the row that a dead letter came from, or None when its origin is something else."""
    try:
        origin = json.loads(letter.origin)
    except ValueError:
        return None
    return origin if isinstance(origin, dict) and set(origin) == set(table.key) else None


def _relation(table: TableConfig) -> sql.Identifier:
    return sql.Identifier(table.options["schema"], table.relation)


def _as_json(table: TableConfig, snapshot: postgres.Snapshot, keys: list[dict[str, Any]]) -> str:
    """Keys as `json_populate_recordset` reads them."""
    documents = {
        name
        for name, kind, _, _, composite, _ in snapshot.columns(table)
        if composite or kind in ("json", "jsonb")
    }

    def value(name: str, given: Any) -> Any:
        if isinstance(given, bytes):
            return f"\\x{given.hex()}"
        if isinstance(given, float) and not math.isfinite(given):
            return str(given)
        if name in documents and isinstance(given, str):
            # A composite is also given as PostgreSQL writes it, in round brackets.
            with suppress(ValueError):
                return json.loads(given)
        return given

    return json.dumps([{n: value(n, given) for n, given in key.items()} for key in keys], default=str)
