"""The lake's one way to write and read a batch.

The data object is the commit: a batch of a table is one Parquet file that appears whole under its final
name or not at all, and its footer holds the manifest (rows, watermark, checksum). There is no other state
that could disagree with the data; watermarks are read back from committed footers.

    LAKE/lakehouse.json                                             which world this lake belongs to
    LAKE/raw/<source>/<table>/extract_date=YYYY-MM-DD/<batch>.parquet
    LAKE/dead_letter/<source>/<table>/extract_date=YYYY-MM-DD/<batch>.parquet
    LAKE/audit/batches/<batch>.parquet                              a row per table; see `ingestion.audit`

Dead letters are published before their batch, and count once the batch's manifest names them: what a run
that died in between left there is replaced by the next run, which has the same batch id.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingestion import audit
from ingestion.config import TableConfig
from ingestion.errors import ConfigurationError, IngestionError
from ingestion.storage import Storage, Upload, open_storage

MANIFEST_KEY = b"credit_lakehouse.manifest"
TIMESTAMP = pa.timestamp("us", tz="UTC")
LANDING_FIELDS = [
    pa.field("_batch_id", pa.string(), nullable=False),
    pa.field("_extracted_at", TIMESTAMP, nullable=False),
    pa.field("_source_deleted", pa.bool_(), nullable=False),
]
LANDING_NAMES = (*(f.name for f in LANDING_FIELDS), "extract_date")
"""What every table has in the lake besides the columns of its source."""
ROW_GROUP_ROWS = 128 * 1024
DEAD_LETTER_SCHEMA = pa.schema(
    [
        ("dead_letter_id", pa.string()),
        ("table", pa.string()),
        ("origin", pa.string()),
        ("reason", pa.string()),
        ("payload", pa.string()),
        ("attempts", pa.int32()),
        ("first_seen_at", TIMESTAMP),
        ("last_tried_at", TIMESTAMP),
        ("outcome", pa.string()),
    ]
)
LETTERS_AT_ONCE = 10_000
FOOTERS_AT_ONCE = 16
ROWS_IN_MEMORY = 250_000
"""Of a table's landed rows, those that an increment compares its own with: about 400 octets each."""
MARKER = "lakehouse.json"
_BATCH_NAME = re.compile(r"raw/[^/]+/[^/]+/extract_date=(\d{4}-\d{2}-\d{2})/(\d{8})\.parquet")


@dataclass(frozen=True)
class DeadLetter:
    """A record that could not be landed, as the source gave it.

    `dead_letter_id` is the same for equal table, origin and payload; `outcome` is `open` or `replayed`.
    """

    dead_letter_id: str
    table: str
    origin: str
    reason: str
    payload: str
    attempts: int
    first_seen_at: datetime
    last_tried_at: datetime
    outcome: str


class TooManyRows(Exception):
    """More rows than ROWS_IN_MEMORY would have to be compared with: see `ingestion.reconcile`."""


class Lake:
    """A lake in a local folder or on S3; open it with `Lake.open`.

    `root` is how people call the place; files are named by their path below it.
    """

    def __init__(self, storage: Storage, world: str) -> None:
        self.storage = storage
        self.root = storage.url
        self.world = world
        self._committed: list[dict[str, Any]] = []
        self._listed: dict[str, list[PurePosixPath]] | None = None
        self._newest: dict[PurePosixPath, dict[str, Any]] = {}

    @classmethod
    def open(cls, root: str, world: str, source_id: str = "") -> "Lake":
        """Open the lake at `root`, a folder or `s3://bucket/prefix`, marked with its owner when it is new.

        `world` and, where it is known, `source_id` say whose data the lake holds.

        Raises:
            ConfigurationError: `root` cannot be a lake of this world and source.
        """
        try:
            storage = open_storage(root)
            owner = json.loads(_marker(storage, world, source_id))
            owner_world, owner_source = owner["world"], owner.get("source_id")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ConfigurationError(
                f"LAKE={root} cannot be used: {reason}; set LAKE to a writable folder"
            ) from None
        if owner_world != world:
            raise ConfigurationError(
                f"LAKE={root} belongs to the world {owner_world}, not {world}; set LAKE to another folder"
            )
        if source_id and owner_source and owner_source != source_id:
            raise ConfigurationError(
                f"LAKE={root} was filled from {owner_source}, not {source_id}; set LAKE to another folder"
            )
        return cls(storage, world)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lake for one writer; leftovers of a writer that died are cleared first.

        Raises:
            LakeBusy: another run holds it.
        """
        with self.storage.lock():
            # Nobody else commits meanwhile: the lake, which may be large, is listed once.
            self._committed, self._listed = [], {}
            for batch in self._list("raw"):
                self._listed.setdefault(str(batch.parents[1]), []).append(batch)
            try:
                audit.repair(self)
                yield
            finally:
                self._listed = None
                audit.record(self.storage, self._committed)

    def note(self, batch: PurePosixPath, recorded: dict[str, Any]) -> None:
        """Know a batch that was just committed, and its row of the audit, until the lock is let go."""
        self._committed.append(recorded)
        if self._listed is not None:
            known = self._listed.setdefault(str(batch.parents[1]), [])
            known.append(batch)
            known.sort(key=_order)

    def forget(self) -> None:
        """List the lake anew from now on: a batch may have been committed or not."""
        self._listed = None

    def batches(self, source: str, table: str) -> list[PurePosixPath]:
        """Committed files of a table below the lake's root, oldest batch first."""
        folder = f"raw/{source}/{table}"
        return self._list(folder) if self._listed is None else list(self._listed.get(folder, ()))

    def all_batches(self) -> list[PurePosixPath]:
        """Committed files of all tables, oldest batch first."""
        if self._listed is None:
            return self._list("raw")
        return sorted((batch for batches in self._listed.values() for batch in batches), key=_order)

    def _list(self, folder: str) -> list[PurePosixPath]:
        files = (PurePosixPath(n) for n in self.storage.names(folder) if _BATCH_NAME.fullmatch(n))
        return sorted(files, key=_order)

    def manifest(self, batch: PurePosixPath) -> dict[str, Any]:
        """The manifest in a committed file's footer.

        Raises:
            IngestionError: the file is no batch of this lake.
        """
        return self.footer(batch)[0]

    def footer(self, batch: PurePosixPath) -> tuple[dict[str, Any], int]:
        """The manifest of a committed file, and the file's bytes; raises as `manifest`."""
        try:
            with self.storage.open(str(batch)) as file:
                return json.loads(pq.read_metadata(file).metadata[MANIFEST_KEY]), file.seek(0, io.SEEK_END)
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise IngestionError(
                f"{self.root}/{batch} is not a readable batch ({type(error).__name__});"
                " move it out of the lake"
            ) from None

    def manifests(self, source: str, table: str) -> list[dict[str, Any]]:
        """Manifests of a table's committed batches, oldest first."""
        # A plain run reads the newest footer only, and does without this import.
        from concurrent.futures import ThreadPoolExecutor

        files = self.batches(source, table)
        with ThreadPoolExecutor(FOOTERS_AT_ONCE) as footers:
            return list(footers.map(self.manifest, files))

    def last_manifest(self, source: str, table: str) -> dict[str, Any] | None:
        """Manifest of the newest batch of a table, or None before the first."""
        files = self.batches(source, table)
        if not files:
            return None
        # A run asks for it more than once, and a batch does not change.
        if files[-1] not in self._newest:
            self._newest[files[-1]] = self.manifest(files[-1])
        return self._newest[files[-1]]

    def next_batch_id(self) -> str:
        """One more than the highest batch id in the lake: eight digits, the same for all tables of a run."""
        # Also of a batch that only the audit knows: whoever lost its file must not see its id again.
        taken = [*(p.stem for p in self.all_batches()), *audit.batch_ids(self.storage)]
        return f"{max(map(int, taken), default=0) + 1:08d}"

    def read(self, source: str, table: str, columns: list[str]) -> pa.Table:
        """All committed rows of a table, just these columns, in batch order.

        A column that some files lack is null in their rows.
        """
        return _concat([self._rows(f, columns) for f in self.batches(source, table)], columns)

    def landed_since(self, table: TableConfig, since: datetime, columns: list[str]) -> pa.Table:
        """The landed records whose cursor is `since` or later: the newest version of each, none deleted.

        Raises:
            TooManyRows: they are not for memory.
        """
        needed = list(dict.fromkeys([*columns, *table.key, "_batch_id", "_source_deleted"]))
        parts: list[pa.Table] = []
        for batch in reversed(self.batches(table.source, table.table)):
            highest = _cursor_max(self._newest.get(batch) or self.manifest(batch))
            # cursor_max never falls from one batch to the next, so nothing older can reach the window.
            if highest is None or datetime.fromisoformat(highest) < since:
                break
            _add(parts, self._late_rows(batch, needed, table.cursor, since))
        return _undeleted(parts, columns, needed, table.key)

    def landed_without_cursor(self, table: TableConfig, columns: list[str]) -> pa.Table:
        """The landed records whose cursor is null: the newest version of each, none deleted.

        Raises:
            TooManyRows: they are not for memory.
        """
        needed = list(dict.fromkeys([*columns, *table.key, "_batch_id", "_source_deleted"]))
        parts: list[pa.Table] = []
        for batch in self.batches(table.source, table.table):
            _add(parts, self._late_rows(batch, needed, table.cursor, None))
        return _undeleted(parts, columns, needed, table.key)

    def _rows(self, batch: PurePosixPath, columns: list[str]) -> pa.Table:
        """All rows of one file, of the columns it has."""
        with self.storage.open(str(batch)) as handle:
            file = pq.ParquetFile(handle, pre_buffer=True)
            present = [c for c in dict.fromkeys(columns) if c in file.schema_arrow.names]
            return file.read_row_groups(range(file.num_row_groups), columns=present)

    def _late_rows(
        self, batch: PurePosixPath, columns: list[str], cursor: str, since: datetime | None
    ) -> Iterator[pa.Table]:
        """Rows of one file whose cursor is `since` or later, or null where that is None, in parts.

        Only row groups that can have such rows are fetched.
        """
        with self.storage.open(str(batch)) as handle:
            file = pq.ParquetFile(handle, pre_buffer=True)
            present = [c for c in columns if c in file.schema_arrow.names]
            for number in range(file.num_row_groups):
                group = file.metadata.row_group(number)
                if not (_reaches(group, cursor, since) if since else _has_nulls(group, cursor)):
                    continue
                rows = file.read_row_group(number, columns=list({*present, cursor}))
                if since:
                    late = pc.greater_equal(pc.cast(rows[cursor], TIMESTAMP), pa.scalar(since, TIMESTAMP))
                else:
                    late = pc.is_null(rows[cursor])
                yield rows.filter(late).select(present)

    def blocks(self, batch: PurePosixPath) -> Iterator[pa.Table]:
        """All rows of one file with all its columns, a row group at a time."""
        with self.storage.open(str(batch)) as handle:
            file = pq.ParquetFile(handle, pre_buffer=True)
            for group in range(file.num_row_groups):
                yield file.read_row_group(group)

    def put_text(self, name: str, text: str) -> None:
        """Write a small file of the lake whole, in place of what has its name."""
        self.storage.put(name, text.encode(), replace=True)

    def get_text(self, name: str) -> str:
        """A small file of the lake; FileNotFoundError where there is none."""
        return self.storage.read(name).decode()

    def dead_letters(
        self, source: str, table: str, wanted: Callable[[str], bool] = lambda origin: True
    ) -> list[DeadLetter]:
        """The records of a table that could not be landed and wait for `replay`, oldest first.

        Only those whose origin is `wanted`: the others take no memory.

        Raises:
            IngestionError: a file of them, or of a batch, cannot be read.
        """
        found = (record for record in self._letters(source, table, None) if wanted(record["origin"]))
        latest = {record["dead_letter_id"]: record for record in found}
        return [DeadLetter(**record) for record in latest.values() if record["outcome"] == "open"]

    def dead_letter_ids(self, source: str, table: str) -> set[bytes]:
        """The ids of what `dead_letters` returns, 32 bytes each: without the payloads; raises alike."""
        found = self._letters(source, table, ["dead_letter_id", "outcome"])
        latest = {bytes.fromhex(record["dead_letter_id"]): record["outcome"] == "open" for record in found}
        return {letter for letter, is_open in latest.items() if is_open}

    def _letters(self, source: str, table: str, columns: list[str] | None) -> Iterator[dict[str, Any]]:
        """What became of a table's dead letters, oldest first."""
        letters = set(self.storage.names(f"dead_letter/{source}/{table}"))
        for batch in self.batches(source, table) if letters else ():
            name = letters_of(batch)
            if name in letters and self.manifest(batch)["dead_letters"]:
                try:
                    with self.storage.open(name) as file:
                        records = pq.ParquetFile(file).read(columns=columns)
                except (OSError, pa.ArrowException) as error:
                    raise IngestionError(
                        f"{self.root}/{name} cannot be read ({type(error).__name__}); restore it from a copy"
                    ) from None
                for block in records.to_batches(LETTERS_AT_ONCE):
                    yield from block.to_pylist()

    def last_extract_date(self) -> date | None:
        """The latest extract_date of any table, None in an empty lake."""
        days = (p.parent.name.partition("=")[2] for p in self.all_batches())
        return max(map(date.fromisoformat, days), default=None)

    def begin(
        self,
        table: TableConfig,
        schema: pa.Schema,
        batch_id: str,
        extract_date: date,
        *,
        is_increment: bool = True,
    ) -> "BatchWriter":
        """Start a batch; see `BatchWriter`."""
        return BatchWriter(self, table, schema, batch_id, extract_date, is_increment)


class BatchWriter:
    """Writes one batch of one table, in bounded memory, and publishes it in one step.

    Use it as a context manager: leaving it normally commits, leaving it by an error discards. A batch
    without rows is published only when the table has none of this `extract_date` yet, so a rerun that
    finds nothing new adds nothing. Rows are given exactly as `schema`; the landing columns are added here.
    `watermark_from` is where the batches before this one ended (None before the first); `extra` takes
    what a source wants to keep in the manifest, and `is_news` says that it must be kept even if there is no
    row. `on_commit` is called once everything is committed.

    A batch that is no increment (`is_increment=False`: a backfill, a replay) did not look at all that came
    after the watermark: it leaves the watermark where it is, and is never published without a row.

    A source counts in `extracted` every record it got, and gives each of them one fate: `write`, `skip` or
    `reject`. The commit refuses a batch where these do not add up.
    """

    def __init__(
        self,
        lake: Lake,
        table: TableConfig,
        schema: pa.Schema,
        batch_id: str,
        extract_date: date,
        is_increment: bool,
    ) -> None:
        self.table = table
        self.schema = schema
        self.extracted = 0
        self.rows = 0
        self.deleted = 0
        self.skipped = 0
        self.rejected = 0
        self.extra: dict[str, Any] = {}
        self.is_news = False
        self.on_commit: Callable[[], None] = lambda: None
        day = f"extract_date={extract_date.isoformat()}"
        self.path = PurePosixPath("raw", table.source, table.table, day, f"{batch_id}.parquet")
        self.published = False
        self._lake = lake
        self._batch_id = batch_id
        self._extract_date = extract_date
        self._is_increment = is_increment
        self._started_at = datetime.now(UTC)
        self._previous = lake.last_manifest(table.source, table.table)
        before = self._previous and self._previous["watermark_to"]
        self.watermark_from = datetime.fromisoformat(before) if before else None
        self._cursor_max: datetime | None = None
        self._pending: list[pa.Table] = []
        self._data = _ParquetFile(lake.storage, str(self.path), pa.schema([*schema, *LANDING_FIELDS]))
        self._letters = _ParquetFile(lake.storage, letters_of(self.path), DEAD_LETTER_SCHEMA, replace=True)
        # A lake that cannot be written to is found before anything is read.
        self._data.open()
        self._pending_letters: list[DeadLetter] = []
        self._known_letters: set[bytes] | None = None

    @property
    def bytes(self) -> int:
        """Size of the published file; 0 when none was published."""
        return self._data.bytes if self.published else 0

    def write(self, rows: pa.Table, deleted: bool = False) -> None:
        """Add rows; their schema is the table's, whole row groups go to disk at once.

        `deleted` rows are records that the source holds no longer, with the content that landed last.
        """
        if rows.num_rows == 0:
            return
        rows = rows.cast(self.schema) if rows.schema != self.schema else rows
        self.rows += rows.num_rows
        self.deleted += rows.num_rows if deleted else 0
        if self.table.cursor:
            highest = pc.max(pc.cast(rows[self.table.cursor], TIMESTAMP)).as_py()
            self._cursor_max = max(filter(None, (self._cursor_max, highest)), default=None)
        self._pending.append(
            rows.append_column(LANDING_FIELDS[-1], pa.repeat(pa.scalar(deleted), rows.num_rows))
        )
        pending = sum(t.num_rows for t in self._pending)
        if pending >= ROW_GROUP_ROWS:
            self._flush(pending - pending % ROW_GROUP_ROWS)

    def skip(self, records: int) -> None:
        """Count records that have landed before with equal content."""
        self.skipped += records

    def reject(self, payload: str, reason: str, *, origin: str) -> None:
        """Put one record, as the source gave it, among the dead letters.

        Args:
            payload: the record as text (JSON where it has fields); it may hold personal data.
            reason: what is wrong with it, without a value of it.
            origin: where it is found again: its key as JSON, or file and line. Also without personal data.

        A record that is among them already, with equal origin and payload, counts as skipped.
        """
        identity = "\0".join((self.table.name, origin, payload))
        letter_id = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).digest()
        if self._known_letters is None:
            self._known_letters = self._lake.dead_letter_ids(self.table.source, self.table.table)
        if letter_id in self._known_letters:
            self.skipped += 1
            return
        self.rejected += 1
        now = self._started_at
        letter = DeadLetter(letter_id.hex(), self.table.name, origin, reason, payload, 1, now, now, "open")
        self._known_letters.add(letter_id)
        self._post(letter)

    def reject_again(self, letter: DeadLetter, reason: str) -> None:
        """Keep a dead letter that a replay could not land, with one attempt more."""
        self.rejected += 1
        tried = {"attempts": letter.attempts + 1, "last_tried_at": self._started_at}
        self._post(replace(letter, reason=reason, **tried))

    def retire(self, letter: DeadLetter, reason: str | None = None) -> None:
        """Close a dead letter: it has landed, in this batch or before, or `reason` says what became of it."""
        tried = {"attempts": letter.attempts + 1, "last_tried_at": self._started_at}
        self._post(replace(letter, outcome="replayed", reason=reason or letter.reason, **tried))

    def _post(self, letter: DeadLetter) -> None:
        self._pending_letters.append(letter)
        if len(self._pending_letters) >= LETTERS_AT_ONCE:
            self._flush_letters()

    def _flush_letters(self) -> None:
        records = [asdict(letter) for letter in self._pending_letters]
        self._pending_letters = []
        self._letters.write(pa.Table.from_pylist(records, DEAD_LETTER_SCHEMA))

    def _flush(self, count: int) -> None:
        """Write the first `count` pending rows."""
        rows = pa.concat_tables(self._pending)
        self._pending = [rows.slice(count)]
        rows = rows.slice(0, count)
        landing = (
            pa.repeat(pa.scalar(self._batch_id), count),
            pa.repeat(pa.scalar(self._started_at, TIMESTAMP), count),
        )
        for number, values in enumerate(landing):
            rows = rows.add_column(len(self.schema) + number, LANDING_FIELDS[number], values)
        self._data.write(rows)

    def __enter__(self) -> "BatchWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
                self.on_commit()
        except BaseException:
            self._lake.forget()
            raise
        finally:
            self._data.discard()
            self._letters.discard()

    def _commit(self) -> None:
        fates = self.rows + self.skipped + self.rejected
        if self.extracted != fates:
            raise IngestionError(
                f"{self.table.name}: {self.extracted} records were extracted, but {self.rows} written,"
                f" {self.skipped} skipped and {self.rejected} dead-lettered; nothing was landed: this is a"
                f" defect of the source's module `{self.table.kind}`"
            )
        if self._pending_letters:
            self._flush_letters()
        letters = self._letters.rows
        if (
            self.rows == 0
            and letters == 0
            and not self.is_news
            and self._previous
            and (not self._is_increment or self._previous["extract_date"] == self._extract_date.isoformat())
        ):
            return
        if self.extracted == 0 and self._previous is None and not self.table.may_be_empty:
            raise IngestionError(
                f"{self.table.name} has no rows; if that is right, say may_be_empty: true in sources.yml"
            )
        if pending := sum(t.num_rows for t in self._pending):
            self._flush(pending)
        if letters:
            self._letters.publish({"batch_id": self._batch_id})
        manifest = self._data.publish(self._manifest(letters))
        self.published = True
        self._lake.note(self.path, audit.row(manifest, self.path, self.bytes))

    def _manifest(self, letters: int) -> dict[str, Any]:
        before = self._previous and _cursor_max(self._previous)
        cursor_max = max(
            filter(None, (before and datetime.fromisoformat(before), self._cursor_max)), default=None
        )
        watermark_to = self.watermark_from
        if self._is_increment and self._cursor_max:
            # A row dated in the future must not hide those that are written until then.
            reached = min(self._cursor_max, self._started_at)
            watermark_to = max(watermark_to or reached, reached)
        return {
            "batch_id": self._batch_id,
            "world": self._lake.world,
            "source": self.table.source,
            "table": self.table.table,
            "extract_date": self._extract_date.isoformat(),
            "rows": self.rows,
            "deleted": self.deleted,
            "extracted": self.extracted,
            "skipped": self.skipped,
            "rejected": self.rejected,
            # Rows of the dead-letter file beside: rejected records, and those that a replay retired.
            "dead_letters": letters,
            "watermark_from": self.watermark_from and self.watermark_from.astimezone(UTC).isoformat(),
            "watermark_to": watermark_to and watermark_to.astimezone(UTC).isoformat(),
            # The highest cursor of any row up to this batch; the watermark may lag behind it.
            "cursor_max": cursor_max and cursor_max.astimezone(UTC).isoformat(),
            "schema_fingerprint": fingerprint(self.schema),
            "started_at": self._started_at.isoformat(),
            **self.extra,
        }


class _ParquetFile:
    """A Parquet file that appears under its name in one step, with a manifest in its footer."""

    def __init__(self, storage: Storage, name: str, schema: pa.Schema, *, replace: bool = False) -> None:
        self.rows = 0
        self._storage = storage
        self._name = name
        self._schema = schema
        self._replace = replace
        self._sink: _HashingSink | None = None
        self._writer: pq.ParquetWriter | None = None

    @property
    def bytes(self) -> int:
        """Bytes written so far."""
        return self._sink.size if self._sink else 0

    def write(self, rows: pa.Table) -> None:
        """Add rows as whole row groups."""
        self.open().write_table(rows.cast(self._schema), row_group_size=ROW_GROUP_ROWS)
        self.rows += rows.num_rows

    def publish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Make the file durable and visible; returns `manifest` with its content's checksum and the time."""
        writer = self.open()
        manifest = {
            **manifest,
            # sha256 of the file's first `data_bytes` bytes, everything before indexes and footer.
            "content_checksum": f"sha256:{self._sink.digest.hexdigest()}",
            "data_bytes": self._sink.size,
            "finished_at": datetime.now(UTC).isoformat(),
        }
        writer.add_key_value_metadata({MANIFEST_KEY.decode(): json.dumps(manifest)})
        writer.close()
        self._sink.upload.publish()
        return manifest

    def discard(self) -> None:
        """Remove what was written, unless it was published."""
        if self._writer:
            self._sink.upload.discard()
            self._sink.discarded = True
            self._writer.close()

    def open(self) -> pq.ParquetWriter:
        """The writer; the file is begun at the first call."""
        if self._writer is None:
            self._sink = _HashingSink(self._storage.create(self._name, replace=self._replace))
            self._writer = pq.ParquetWriter(
                pa.PythonFile(self._sink, mode="w"),
                self._schema,
                compression="zstd",
                compression_level=1,
                # A column whose values hardly repeat is found out after a few thousand of them, instead of
                # being hashed to the end of each row group: half the time, and a smaller file.
                dictionary_pagesize_limit=32 * 1024,
                write_page_index=True,
            )
        return self._writer


class _HashingSink(io.RawIOBase):
    """Hands bytes on to an upload, and keeps their SHA-256 and count."""

    def __init__(self, upload: Upload) -> None:
        super().__init__()
        self.upload = upload
        self.discarded = False
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.discarded:  # a writer that is closed still wants to write its footer
            return len(data)
        self.digest.update(data)
        self.size += len(data)
        return self.upload.write(data)

    def tell(self) -> int:
        return self.size


def _order(batch: PurePosixPath) -> tuple[str, str]:
    """Batches by their id, then by their extract_date."""
    return batch.name, batch.parent.name


def fingerprint(schema: pa.Schema) -> str:
    """SHA-256 of the names and types of a table's columns, in their order."""
    # Parquet calls the values of a list otherwise than Arrow.
    described = "\n".join(f"{f.name} {f.type}".replace("<element: ", "<item: ") for f in schema)
    return hashlib.sha256(described.encode()).hexdigest()


def letters_of(batch: PurePosixPath) -> str:
    """The name of the dead letters that belong to a batch."""
    return str(PurePosixPath("dead_letter").joinpath(*batch.parts[1:]))


def _marker(storage: Storage, world: str, source_id: str) -> bytes:
    """The lake's mark, which is made in a new place."""
    try:
        return storage.read(MARKER)
    except FileNotFoundError:
        if not storage.is_new():
            raise ConfigurationError(
                f"LAKE={storage.url} is not empty and not a lake; set LAKE to a new folder"
            ) from None
    storage.put(MARKER, (json.dumps({"world": world, "source_id": source_id}) + "\n").encode())
    return storage.read(MARKER)


def _reaches(group: pq.RowGroupMetaData, cursor: str, since: datetime) -> bool:
    """Whether a row group can have rows whose cursor is `since` or later."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema == cursor:
            known = column.statistics
            if known is None or not known.has_min_max:
                return True
            return pa.scalar(known.max).cast(TIMESTAMP).as_py() >= since
    return False


def _has_nulls(group: pq.RowGroupMetaData, column: str) -> bool:
    """Whether a row group can have rows where a column is null."""
    for number in range(group.num_columns):
        if group.column(number).path_in_schema == column:
            known = group.column(number).statistics
            return known is None or not known.has_null_count or known.null_count > 0
    return False


def _add(parts: list[pa.Table], more: Iterator[pa.Table]) -> None:
    """Add parts that have rows, as long as they are not too many."""
    count = sum(part.num_rows for part in parts)
    for part in more:
        count += part.num_rows
        if count > ROWS_IN_MEMORY:
            raise TooManyRows
        if part.num_rows:
            parts.append(part)


def _undeleted(
    parts: list[pa.Table], columns: list[str], needed: list[str], key: tuple[str, ...]
) -> pa.Table:
    """These columns of the newest version of each record, unless that is deleted."""
    if not parts:
        return _concat([], columns)
    rows = _concat(parts, needed)
    if pc.count_distinct(rows["_batch_id"]).as_py() > 1:  # no batch has a record twice
        rows = _newest(rows, key)
    return rows.filter(pc.invert(rows["_source_deleted"])).select(columns)


def _newest(rows: pa.Table, key: tuple[str, ...]) -> pa.Table:
    """The rows of each record that its newest batch landed, in their order."""
    places = pa.table({"key": keys(rows, key), "batch": rows["_batch_id"].cast(pa.int64())})
    newest = places.group_by("key").aggregate([("batch", "max")])
    group = pc.index_in(places["key"], value_set=newest["key"].combine_chunks())
    return rows.filter(pc.equal(places["batch"], newest["batch_max"].take(group)))


def keys(rows: pa.Table, key: tuple[str, ...]) -> pa.Array:
    """One value for each row's key: equal where all its parts are, null being equal to null."""
    if len(key) == 1 and pa.types.is_integer(rows[key[0]].type):
        return rows[key[0]].combine_chunks()
    parts = [_text(rows[name].combine_chunks()) for name in key]
    if len(parts) == 1:
        return parts[0]
    # The length of each part keeps ("ab", "c") and ("a", "bc") apart.
    lengths = [pc.cast(pc.binary_length(part), pa.string()) for part in parts]
    return pc.binary_join_element_wise(*lengths, *parts, " ", null_handling="replace", null_replacement="")


def _text(values: pa.Array) -> pa.Array:
    return texts(values) if pa.types.is_list(values.type) else pc.cast(values, pa.string(), safe=False)


def texts(lists: pa.ListArray) -> pa.Array:
    """A text for each list: the same for lists of equal elements, whatever Python could make of these."""
    elements = pc.cast(lists.values, pa.string(), safe=False)
    lengths = pc.cast(pc.binary_length(elements), pa.string())
    elements = pc.fill_null(pc.binary_join_element_wise(lengths, elements, ":"), "null")
    joined = pc.binary_join(pa.ListArray.from_arrays(lists.offsets, elements), ",")
    return pc.if_else(lists.is_valid(), joined, None)


def _cursor_max(manifest: dict[str, Any]) -> str | None:
    """The highest cursor up to a batch; in a manifest that does not hold it yet, the watermark."""
    return manifest.get("cursor_max", manifest["watermark_to"])


def _concat(parts: list[pa.Table], columns: list[str]) -> pa.Table:
    """Parts under each other, with exactly these columns; a type that has changed becomes the wider one."""
    fields = [f for part in parts for f in part.schema]
    for name in {f.name for f in fields}:
        try:
            pa.unify_schemas([pa.schema([f]) for f in fields if f.name == name], promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            parts = [_as_text(part, name) for part in parts]
    rows = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({})
    for name in columns:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows))
    return rows.select(columns)


def _as_text(rows: pa.Table, name: str) -> pa.Table:
    if name not in rows.column_names:
        return rows
    number = rows.column_names.index(name)
    return rows.set_column(number, name, rows[name].cast(pa.string()))
