# ruff: noqa: S608, the names in these statements are quoted and no value of a record is in them
"""Proves that a lake is whole and that it holds what PostgreSQL holds.

Every file is read to its end: is its content what its manifest says, and the manifest that of this very
batch? Then, for tables with keys, every version of every record is compared: none twice, and for PostgreSQL
the newest one equal to the source's row. Of each version a key and two hashes are kept, in a DuckDB file
that spills to disk, so memory does not grow with the table. The source's rows come over the path that
extracts them: hashes that PostgreSQL makes itself would need a second account of every type.

No value of a record is ever shown: a key is, unless sources.yml says `pii: true` of its table, or names a
column of the key there; then the key's hash is.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingestion import audit, postgres
from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.lake import LANDING_FIELDS, MANIFEST_KEY, TIMESTAMP, DeadLetter, Lake, fingerprint, letters_of
from ingestion.reconcile import comparable

MEMORY = "256MB"
FINDINGS_SHOWN = 100
"""Of one problem of one table; the others are counted."""
KEYED = ("postgres", "bureau", "fx")
"""Kinds of source that never land a record twice."""
_CHUNK = 1024 * 1024
_UNREADABLE = (OSError, KeyError, TypeError, ValueError, AttributeError, pa.ArrowException)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: what, where (a file below the lake, or a key), and in which way."""

    table: str
    problem: str
    where: str
    detail: str


@dataclass
class Verified:
    """What was found of one table. `waiting` are rows of the source newer than the lake's watermark."""

    table: TableConfig
    batches: int = 0
    rows: int = 0
    source_rows: int | None = None
    waiting: int = 0
    findings: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, problem: str, where: str, detail: str) -> None:
        """Note a finding; too many of one problem are only counted."""
        self.counts[problem] += 1
        if self.counts[problem] <= FINDINGS_SHOWN:
            self.findings.append(Finding(self.table.name, problem, where, detail))


def verify(
    lake: Lake,
    tables: list[TableConfig],
    dsn: str | None,
    *,
    done: Callable[[Verified], None] = lambda _: None,
) -> list[Verified]:
    """Check `tables`, one by one, with `done` called after each; without a `dsn`, PostgreSQL is not asked.

    Raises:
        IngestionError: the lake or PostgreSQL cannot be used.
    """
    recorded = audit.read(lake.storage)
    found: list[Verified] = []

    def check(table: TableConfig, snapshot: postgres.Snapshot | None) -> None:
        verified = Verified(table)
        files = _check_files(lake, verified)
        watermark = _check_audit(lake, verified, files, recorded)
        if table.kind in KEYED:
            source = snapshot if table.kind == "postgres" else None
            _check_records(lake, verified, list(files), watermark, source)
        found.append(verified)
        done(verified)

    if dsn is None or not any(t.kind == "postgres" for t in tables):
        for table in tables:
            check(table, None)
    else:
        postgres.each(dsn, tables, check)
    return found


# ---------------------------------------------------------------- files


def _check_files(lake: Lake, verified: Verified) -> dict[PurePosixPath, dict[str, Any]]:
    """Check every file of a table by itself and in its order; returns the manifests of the readable ones."""
    table = verified.table
    batches = lake.batches(table.source, table.table)
    for name in lake.storage.names(f"raw/{table.source}/{table.table}"):
        if PurePosixPath(name) not in batches:
            verified.add("stray file", name, "is no batch by its name; readers of the folder may read it")
    letters = set(lake.storage.names(f"dead_letter/{table.source}/{table.table}"))
    manifests: dict[PurePosixPath, dict[str, Any]] = {}
    watermark: datetime | None = None
    for batch in batches:
        verified.batches += 1
        try:
            with lake.storage.open(str(batch)) as file:
                manifest = _check_file(lake, verified, batch, file)
        except _UNREADABLE as error:
            verified.add("unreadable", str(batch), f"cannot be read as a batch ({type(error).__name__})")
            continue
        before, watermark = watermark, _moment(manifest["watermark_to"])
        if _moment(manifest["watermark_from"]) != before:
            verified.add("watermark", str(batch), "does not begin where the batch before it ended")
        if before and (watermark is None or watermark < before):
            verified.add("watermark", str(batch), "falls behind the batch before it")
        if any(batch.stem == other.stem for other in manifests):
            verified.add("batch id", str(batch), "its id is also another batch's")
        if manifest["dead_letters"]:
            _check_letters(lake, verified, batch, manifest, letters)
        manifests[batch] = manifest
        verified.rows += manifest["rows"]
    return manifests


def _moment(text: str | None) -> datetime | None:
    return text and datetime.fromisoformat(text)


def _check_file(lake: Lake, verified: Verified, batch: PurePosixPath, file: Any) -> dict[str, Any]:
    """Check one data file against the manifest in its footer."""
    name, table = str(batch), verified.table
    metadata = pq.read_metadata(file)
    manifest = json.loads(metadata.metadata[MANIFEST_KEY])
    place = {
        "batch_id": batch.stem,
        "world": lake.world,
        "source": table.source,
        "table": table.table,
        "extract_date": batch.parent.name.partition("=")[2],
    }
    if wrong := [what for what, value in place.items() if manifest[what] != value]:
        verified.add("manifest", name, f"is another batch's: {', '.join(wrong)} differ")
    if _checksum(file, manifest["data_bytes"]) != manifest["content_checksum"]:
        verified.add("checksum", name, "the content is not what was written")
    if metadata.num_rows != manifest["rows"]:
        verified.add("rows", name, f"holds {metadata.num_rows} rows, its manifest says {manifest['rows']}")
    fates = [manifest[fate] for fate in ("rows", "skipped", "rejected")]
    if sum(fates) != manifest["extracted"]:
        verified.add(
            "fates", name, f"{manifest['extracted']} extracted, but written, skipped, rejected: {fates}"
        )
    schema = metadata.schema.to_arrow_schema()
    source = pa.schema([f for f in schema if f.name not in {landing.name for landing in LANDING_FIELDS}])
    if fingerprint(source) != manifest["schema_fingerprint"]:
        verified.add("schema", name, "its columns are not those of its manifest")
    return manifest


def _checksum(file: Any, size: int) -> str:
    """SHA-256 of the first `size` bytes, as a manifest writes it."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (chunk := file.read(min(_CHUNK, size))):
        digest.update(chunk)
        size -= len(chunk)
    return f"sha256:{digest.hexdigest()}"


def _check_letters(
    lake: Lake, verified: Verified, batch: PurePosixPath, manifest: dict[str, Any], there: set[str]
) -> None:
    """Check that the dead letters which a manifest counts are there and whole."""
    name = letters_of(batch)
    if name not in there:
        verified.add("dead letters", name, f"is gone; {batch} says it holds {manifest['dead_letters']}")
        return
    try:
        with lake.storage.open(name) as file:
            rows = pq.ParquetFile(file).read().num_rows
            own = json.loads(pq.read_metadata(file).metadata[MANIFEST_KEY])
            whole = _checksum(file, own["data_bytes"]) == own["content_checksum"]
    except _UNREADABLE as error:
        verified.add("dead letters", name, f"cannot be read ({type(error).__name__})")
        return
    if not whole or rows != manifest["dead_letters"] or own["batch_id"] != batch.stem:
        verified.add("dead letters", name, f"is not what {batch} says it is")


def _check_audit(
    lake: Lake, verified: Verified, manifests: dict[PurePosixPath, dict[str, Any]], recorded: pa.Table
) -> datetime | None:
    """Compare the audit table with the footers: it remembers files that are gone.

    Returns the watermark that the table has reached, by all that is known.
    """
    table = verified.table
    mine = pc.and_(pc.equal(recorded["source"], table.source), pc.equal(recorded["table"], table.table))
    there = {str(b) for b in lake.batches(table.source, table.table)}
    watermarks = [_moment(m["watermark_to"]) for m in manifests.values()]
    for row in recorded.filter(mine).to_pylist():
        watermarks.append(row["watermark_to"])
        manifest = manifests.get(PurePosixPath(row["file"]))
        if row["file"] not in there:
            verified.add(
                "gone", row["file"], f"was committed with {row['rows']} rows and is not there any more"
            )
        elif manifest and row["content_checksum"] != manifest["content_checksum"]:
            verified.add("audit", row["file"], "is not the file that was committed: their checksums differ")
    return max(filter(None, watermarks), default=None)


# ---------------------------------------------------------------- records


def _check_records(
    lake: Lake,
    verified: Verified,
    batches: list[PurePosixPath],
    watermark: datetime | None,
    snapshot: postgres.Snapshot | None,
) -> None:
    """Compare the versions of every record with each other, and the newest with the source."""
    table = verified.table
    columns = postgres.describe(snapshot, table) if snapshot else []
    if columns and verified.batches == 0:
        verified.add("missing", table.name, "has never been landed")
        return
    source_schema = postgres.lake_schema(columns) if columns else None
    with _Versions(lake, verified, batches, source_schema) as versions:
        versions.check_doubles()
        if snapshot is None:
            return
        with closing(postgres.read(snapshot, table, columns, "true")) as blocks:
            for rows, unfit in blocks:  # what the lake cannot hold is among the dead letters
                versions.add_source(rows, watermark)
                verified.source_rows += unfit
        # Where they cannot be read, that is a finding already.
        letters: list[DeadLetter] = []
        with suppress(IngestionError):
            letters = lake.dead_letters(table.source, table.table)
        versions.compare(letters)


class _Versions:
    """Key and content of every version in the lake, and of every row of the source, on disk."""

    def __init__(
        self, lake: Lake, verified: Verified, batches: list[PurePosixPath], source: pa.Schema | None
    ) -> None:
        self._verified = verified
        self._table = verified.table
        self._folder = tempfile.TemporaryDirectory(prefix="verify-")
        self._connection = duckdb.connect(str(Path(self._folder.name, "versions.duckdb")))
        self._connection.execute(f"set memory_limit = '{MEMORY}'")
        self._connection.execute("set timezone = 'UTC'")
        self._connection.execute("set preserve_insertion_order = false")
        self._connection.execute("set enable_progress_bar = false")
        self._connection.execute(
            "create table landed (batch bigint, key varchar, content ubigint, whole ubigint, deleted boolean)"
        )
        self._connection.execute("create table source (key varchar, content ubigint, is_newer boolean)")
        self._types: dict[str, str] = {}
        for batch in batches:
            with lake.storage.open(str(batch)) as file:
                self._learn(pq.read_schema(file))
        for landing in LANDING_FIELDS:
            self._types.pop(landing.name, None)
        # A version is compared in the columns and types that the source has now.
        if source is not None:
            self._learn(source)
        self._columns = source.names if source is not None else list(self._types)
        for batch in batches:
            try:
                for rows in lake.blocks(batch):
                    self._add_landed(rows, int(batch.stem))
            except _UNREADABLE as error:
                verified.add("unreadable", str(batch), f"its rows cannot be read ({type(error).__name__})")

    def __enter__(self) -> "_Versions":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._folder.cleanup()

    def _learn(self, schema: pa.Schema) -> None:
        described = self._with_block(schema.empty_table(), "describe block")
        self._types |= {name: kind for name, kind, *_ in described}

    def _with_block(self, rows: pa.Table, statement: str, values: list[Any] | None = None) -> list:
        self._connection.register("block", _comparable(rows))
        try:
            return self._connection.execute(statement, values).fetchall()
        finally:
            self._connection.unregister("block")

    def _value(self, name: str, there: list[str]) -> str:
        """A column in its present type; null where the file lacks it, or holds what has no such form."""
        kind = self._types[name]
        return f"try_cast({postgres.quoted(name)} as {kind})" if name in there else f"cast(null as {kind})"

    def _key(self, there: list[str]) -> str:
        parts = ", ".join(f"cast({self._value(k, there)} as varchar)" for k in self._table.key)
        return f"cast(to_json([{parts}]) as varchar)"

    def _hash(self, columns: list[str], there: list[str]) -> str:
        return f"hash({', '.join(self._value(c, there) for c in columns)})"

    def _add_landed(self, rows: pa.Table, batch: int) -> None:
        there = rows.column_names
        self._with_block(
            rows,
            f"insert into landed select ?, {self._key(there)}, {self._hash(self._columns, there)},"
            f" {self._hash(list(self._types), there)}, _source_deleted from block",
            [batch],
        )

    def add_source(self, rows: pa.Table, watermark: datetime | None) -> None:
        """Add rows of the source; `watermark` tells those that no run can have seen yet."""
        self._verified.source_rows = (self._verified.source_rows or 0) + rows.num_rows
        is_newer = pa.repeat(pa.scalar(False), rows.num_rows)
        if self._table.cursor:
            cursor = pc.cast(rows[self._table.cursor], TIMESTAMP)
            reached = pa.scalar(watermark, TIMESTAMP)
            is_newer = pc.is_valid(cursor) if watermark is None else pc.greater(cursor, reached)
            is_newer = pc.fill_null(is_newer, False)
        there = rows.column_names
        self._with_block(
            rows.append_column("_is_newer", is_newer),
            f"insert into source select {self._key(there)}, {self._hash(self._columns, there)}, _is_newer"
            " from block",
        )

    def check_doubles(self) -> None:
        """Find versions that landed twice: in one batch, or again with nothing in between."""
        self._report(
            "doubled",
            """
            select key, 'is ' || count(*) || ' times in batch ' || format('{:08d}', batch)
            from landed group by key, batch having count(*) > 1
            """,
        )
        self._report(
            "doubled",
            """
            select
                key,
                format('is the same in the batches {:08d} and {:08d}', before, batch)
            from (
                select
                    key, batch, whole, deleted,
                    lag(batch) over versions as before,
                    lag(whole) over versions as whole_before,
                    lag(deleted) over versions as deleted_before
                from landed
                where key in (select key from landed group by key having count(*) > 1)
                window versions as (partition by key order by batch)
            )
            where batch > before and whole = whole_before and deleted = deleted_before
            """,
        )

    def compare(self, letters: list[DeadLetter]) -> None:
        """Compare the newest version of each record with the source's row."""
        self._verified.source_rows = self._verified.source_rows or 0
        run = self._connection.execute
        run("""
            create table newest as
            select key, arg_max(content, batch) as content, arg_max(deleted, batch) as deleted
            from landed group by key
        """)
        run("create table dead (key varchar)")
        if keys := [[key] for key in map(self._origin, letters) if key]:
            self._connection.executemany("insert into dead values (?)", keys)
        self._report(
            "key",
            "select key, 'names ' || count(*) || ' rows of the source' from source"
            " group by key having count(*) > 1",
        )
        (self._verified.waiting,) = run("""
            select count(*) from source left join newest using (key)
            where is_newer and (newest.content is distinct from source.content or deleted)
        """).fetchone()
        self._report(
            "missing",
            "select key, 'is in the source and not in the lake' from source anti join newest using (key)"
            " where not is_newer",
        )
        self._report(
            "missing",
            "select key, 'is in the source and deleted in the lake' from source join newest using (key)"
            " where deleted and not is_newer",
        )
        self._report(
            "differs",
            "select key, 'is another version than the source has' from source join newest using (key)"
            " where newest.content <> source.content and not deleted and not is_newer",
        )
        self._report(
            "extra",
            "select key, 'is in the lake and not in the source' from newest"
            " anti join source using (key) anti join dead using (key) where not deleted",
        )

    def _origin(self, letter: DeadLetter) -> str | None:
        """The key of a row that became a dead letter, as `_key` writes it."""
        try:
            origin = json.loads(letter.origin)
            parts = [origin[k] for k in self._table.key]
        except (ValueError, LookupError, TypeError):
            return None
        return self._connection.execute("select cast(to_json(?::varchar[]) as varchar)", [parts]).fetchone()[
            0
        ]

    def _report(self, problem: str, query: str) -> None:
        result = self._connection.execute(query)
        while rows := result.fetchmany(10_000):
            for key, detail in rows:
                self._verified.add(problem, _name(self._table, key), detail)


def _comparable(rows: pa.Table) -> pa.Table:
    """Rows as DuckDB can read them: it has no decimals of more than 38 digits."""
    return rows.cast(pa.schema([(f.name, comparable(f.type)) for f in rows.schema]))


def _name(table: TableConfig, key: str) -> str:
    """A key as it may be shown."""
    pii = table.options.get("pii", False)
    if pii is True or (pii and set(table.key) & set(pii)):
        return f"key sha256:{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return ", ".join(f"{k}={v}" for k, v in zip(table.key, json.loads(key), strict=True))


# ---------------------------------------------------------------- command line


def report(
    lake: Lake, tables: list[TableConfig], dsn: str | None, *, for_people: bool, write: Callable[[str], None]
) -> bool:
    """Verify and say what was found, by `write`, which gets one line at a time; True when all is well.

    For people a line per table and per finding, otherwise each of these as a JSON object.

    Raises:
        IngestionError: the lake or PostgreSQL cannot be used.
    """
    lines = _lines_for_people if for_people else _lines_of_json

    def say(verified: Verified) -> None:
        for line in lines(verified):
            write(line)

    return not any(verified.findings for verified in verify(lake, tables, dsn, done=say))


def _lines_for_people(verified: Verified) -> Iterator[str]:
    source = "" if verified.source_rows is None else f"{verified.source_rows:>12,} in the source"
    waiting = f", {verified.waiting:,} newer than the last run" if verified.waiting else ""
    found = sum(verified.counts.values())
    verdict = f"{found:,} findings" if found else "ok"
    yield (
        f"{verified.table.name:<28}{verified.batches:>6,} batches{verified.rows:>12,} rows{source}"
        f"  {verdict}{waiting}"
    )
    for finding in verified.findings:
        yield f"  {finding.problem:<14} {finding.where}: {finding.detail}"
    for problem, count in verified.counts.items():
        if count > FINDINGS_SHOWN:
            yield f"  {problem:<14} … and {count - FINDINGS_SHOWN:,} more"


def _lines_of_json(verified: Verified) -> Iterator[str]:
    for finding in verified.findings:
        yield json.dumps({"event": "finding", **asdict(finding)})
    summary = {
        "event": "verified",
        "table": verified.table.name,
        "batches": verified.batches,
        "rows": verified.rows,
        "source_rows": verified.source_rows,
        "newer_in_source": verified.waiting,
        "findings": dict(verified.counts),
    }
    yield json.dumps(summary)
