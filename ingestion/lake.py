"""The lake's one way to write and read a batch.

The data object is the commit: a batch of a table is one Parquet file that appears whole under its final
name or not at all, and its footer holds the manifest (rows, watermark, checksum). There is no other state
that could disagree with the data; watermarks are read back from committed footers.

    LAKE/lakehouse.json                                             which world this lake belongs to
    LAKE/raw/<source>/<table>/extract_date=YYYY-MM-DD/<batch>.parquet
    LAKE/dead_letter/<source>/<table>/extract_date=YYYY-MM-DD/<batch>.parquet
    LAKE/.partial/                                                  files being written, never read

Dead letters are published before their batch, and count once the batch's manifest names them: what a run
that died in between left there is replaced by the next run, which has the same batch id.
"""

import fcntl
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ingestion.config import TableConfig
from ingestion.errors import IngestionError

MANIFEST_KEY = b"credit_lakehouse.manifest"
TIMESTAMP = pa.timestamp("us", tz="UTC")
LANDING_FIELDS = [
    pa.field("_batch_id", pa.string(), nullable=False),
    pa.field("_extracted_at", TIMESTAMP, nullable=False),
    pa.field("_source_deleted", pa.bool_(), nullable=False),
]
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
_DAY_FOLDER = re.compile(r"^extract_date=\d{4}-\d{2}-\d{2}$")
_BATCH_FILE = re.compile(r"^\d{8}\.parquet$")


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


class Lake:
    """A lake in a local folder; open it with `Lake.open`."""

    def __init__(self, root: Path, world: str) -> None:
        self.root = root
        self.world = world

    @classmethod
    def open(cls, root: str, world: str, source_id: str = "") -> "Lake":
        """Open the lake at `root`, a folder that is made and marked with its owner when it is new.

        `world` and, where it is known, `source_id` say whose data the lake holds.

        Raises:
            IngestionError: `root` cannot be a lake of this world and source.
        """
        if "://" in root:
            raise IngestionError(
                f"LAKE={root}: this version lands in a local folder only; set LAKE to a folder"
            )
        path = Path(root)
        try:
            path.mkdir(parents=True, exist_ok=True)
            marker = path / "lakehouse.json"
            if not marker.exists():
                if any(p.name not in (".lock", ".partial") for p in path.iterdir()):
                    raise IngestionError(f"LAKE={root} is not empty and not a lake; set LAKE to a new folder")
                _write_atomically(marker, json.dumps({"world": world, "source_id": source_id}) + "\n")
            owner = json.loads(marker.read_text(encoding="utf-8"))
            owner_world, owner_source = owner["world"], owner.get("source_id")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise IngestionError(
                f"LAKE={root} cannot be used: {reason}; set LAKE to a writable folder"
            ) from None
        if owner_world != world:
            raise IngestionError(
                f"LAKE={root} belongs to the world {owner_world}, not {world}; set LAKE to another folder"
            )
        if source_id and owner_source and owner_source != source_id:
            raise IngestionError(
                f"LAKE={root} was filled from {owner_source}, not {source_id}; set LAKE to another folder"
            )
        return cls(path, world)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lake for one writer; leftovers of a writer that died are cleared first.

        Raises:
            IngestionError: another run holds it.
        """
        with (self.root / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise IngestionError(
                    f"another run is writing to the lake {self.root}; wait until it has finished"
                ) from None
            partial = self.root / ".partial"
            partial.mkdir(exist_ok=True)
            for leftover in partial.iterdir():
                leftover.unlink()
            yield

    def batches(self, source: str, table: str) -> list[Path]:
        """Committed files of a table, oldest batch first."""
        folder = self.root / "raw" / source / table
        files = (p for p in folder.glob("extract_date=*/*.parquet") if _BATCH_FILE.match(p.name))
        return sorted(files, key=lambda p: (p.name, p.parent.name))

    def manifests(self, source: str, table: str) -> list[dict[str, Any]]:
        """Manifests of a table's committed batches, oldest first."""
        return [read_manifest(path) for path in self.batches(source, table)]

    def last_manifest(self, source: str, table: str) -> dict[str, Any] | None:
        """Manifest of the newest batch of a table, or None before the first."""
        files = self.batches(source, table)
        return read_manifest(files[-1]) if files else None

    def next_batch_id(self) -> str:
        """One more than the highest batch id in the lake: eight digits, the same for all tables of a run."""
        names = (p.stem for p in self.root.glob("raw/*/*/extract_date=*/*.parquet"))
        return f"{max((int(n) for n in names if n.isdigit()), default=0) + 1:08d}"

    def read(self, source: str, table: str, columns: list[str]) -> pa.Table:
        """All committed rows of a table, just these columns, in batch order."""
        return self._select(self.batches(source, table), columns)

    def landed_since(self, table: TableConfig, since: datetime, columns: list[str]) -> pa.Table:
        """Committed rows whose cursor is `since` or later."""
        files = []
        for path in reversed(self.batches(table.source, table.table)):
            watermark = read_manifest(path)["watermark_to"]
            # watermark_to never falls from one batch to the next, so nothing older can reach the window.
            if watermark is None or datetime.fromisoformat(watermark) < since:
                break
            files.append(path)
        return self._select(
            files, columns, duckdb.ColumnExpression(table.cursor) >= duckdb.ConstantExpression(since)
        )

    def dead_letters(self, source: str, table: str) -> list[DeadLetter]:
        """The records of a table that could not be landed and wait for `replay`, oldest first."""
        latest: dict[str, DeadLetter] = {}
        for path in self.batches(source, table):
            letters = self.root.joinpath("dead_letter", *path.relative_to(self.root / "raw").parts)
            if letters.exists() and read_manifest(path)["dead_letters"]:
                for record in pq.read_table(letters, partitioning=None).to_pylist():
                    latest[record["dead_letter_id"]] = DeadLetter(**record)
        return [letter for letter in latest.values() if letter.outcome == "open"]

    @staticmethod
    def _select(files: list[Path], columns: list[str], where: duckdb.Expression | None = None) -> pa.Table:
        if not files:
            return pa.table({c: pa.nulls(0) for c in columns})
        with duckdb.connect() as connection:
            connection.execute("set timezone = 'UTC'")
            rows = connection.read_parquet(
                [str(f) for f in files], union_by_name=True, hive_partitioning=False
            )
            if where is not None:
                rows = rows.filter(where)
            # A column the source has got since is null in what landed before.
            return rows.select(
                *(
                    duckdb.ColumnExpression(c) if c in rows.columns else duckdb.SQLExpression("null").alias(c)
                    for c in columns
                )
            ).to_arrow_table()

    def last_extract_date(self) -> date | None:
        """The latest extract_date of any table, None in an empty lake."""
        days = (p.name for p in self.root.glob("raw/*/*/extract_date=*") if _DAY_FOLDER.match(p.name))
        return max((date.fromisoformat(d.partition("=")[2]) for d in days), default=None)

    def begin(
        self, table: TableConfig, schema: pa.Schema, batch_id: str, extract_date: date
    ) -> "BatchWriter":
        """Start a batch; see `BatchWriter`."""
        return BatchWriter(self, table, schema, batch_id, extract_date)


class BatchWriter:
    """Writes one batch of one table, in bounded memory, and publishes it in one step.

    Use it as a context manager: leaving it normally commits, leaving it by an error discards. A batch
    without rows is published only when the table has none of this `extract_date` yet, so a rerun that
    finds nothing new adds nothing. Rows are given exactly as `schema`; the landing columns are added here.
    `watermark_from` is the highest cursor landed before this batch (None before the first); `extra` takes
    what a source wants to keep in the manifest, and is news by itself where it is not empty. `on_commit` is
    called once everything is committed.

    A source counts in `extracted` every record it got, and gives each of them one fate: `write`, `skip` or
    `reject`. The commit refuses a batch where these do not add up.
    """

    def __init__(
        self, lake: Lake, table: TableConfig, schema: pa.Schema, batch_id: str, extract_date: date
    ) -> None:
        self.table = table
        self.schema = schema
        self.extracted = 0
        self.rows = 0
        self.skipped = 0
        self.rejected = 0
        self.extra: dict[str, Any] = {}
        self.on_commit: Callable[[], None] = lambda: None
        place = Path(table.source, table.table, f"extract_date={extract_date.isoformat()}")
        self.path = lake.root / "raw" / place / f"{batch_id}.parquet"
        self.published = False
        self._lake = lake
        self._batch_id = batch_id
        self._extract_date = extract_date
        self._started_at = datetime.now(UTC)
        self._previous = lake.last_manifest(table.source, table.table)
        before = self._previous and self._previous["watermark_to"]
        self.watermark_from = datetime.fromisoformat(before) if before else None
        self._cursor_max: datetime | None = None
        self._pending: list[pa.Table] = []
        partial = lake.root / ".partial" / f"{table.name}.{batch_id}"
        self._data = _ParquetFile(partial, self.path, pa.schema([*schema, *LANDING_FIELDS]))
        self._letters = _ParquetFile(
            partial.with_name(f"{partial.name}.dead_letter"),
            lake.root / "dead_letter" / place / f"{batch_id}.parquet",
            DEAD_LETTER_SCHEMA,
        )
        # A lake that cannot be written to is found before anything is read.
        self._data.open()
        self._pending_letters: list[DeadLetter] = []
        self._known_letters: dict[str, DeadLetter] | None = None

    def write(self, rows: pa.Table) -> None:
        """Add rows; their schema is the table's, whole row groups go to disk at once."""
        if rows.num_rows == 0:
            return
        rows = rows.cast(self.schema) if rows.schema != self.schema else rows
        self.rows += rows.num_rows
        highest = pc.max(rows[self.table.cursor]).as_py()
        self._cursor_max = max(filter(None, (self._cursor_max, highest)), default=None)
        self._pending.append(rows)
        if sum(t.num_rows for t in self._pending) >= ROW_GROUP_ROWS:
            self._flush()

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
        letter_id = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
        if self._known_letters is None:
            letters = self._lake.dead_letters(self.table.source, self.table.table)
            self._known_letters = {letter.dead_letter_id: letter for letter in letters}
        if letter_id in self._known_letters:
            self.skipped += 1
            return
        self.rejected += 1
        letter = DeadLetter(
            letter_id, self.table.name, origin, reason, payload, 1, self._started_at, self._started_at, "open"
        )
        self._known_letters[letter_id] = letter
        self._post(letter)

    def reject_again(self, letter: DeadLetter, reason: str) -> None:
        """Keep a dead letter that a replay could not land, with one attempt more."""
        self.rejected += 1
        tried = {"attempts": letter.attempts + 1, "last_tried_at": self._started_at}
        self._post(replace(letter, reason=reason, **tried))

    def retire(self, letter: DeadLetter) -> None:
        """Note that a dead letter has landed, in this batch or before: it is open no more."""
        tried = {"attempts": letter.attempts + 1, "last_tried_at": self._started_at}
        self._post(replace(letter, outcome="replayed", **tried))

    def _post(self, letter: DeadLetter) -> None:
        self._pending_letters.append(letter)
        if len(self._pending_letters) >= LETTERS_AT_ONCE:
            self._flush_letters()

    def _flush_letters(self) -> None:
        records = [asdict(letter) for letter in self._pending_letters]
        self._pending_letters = []
        self._letters.write(pa.Table.from_pylist(records, DEAD_LETTER_SCHEMA))

    def _flush(self) -> None:
        rows = pa.concat_tables(self._pending)
        self._pending = []
        count = rows.num_rows
        landing = (
            pa.repeat(pa.scalar(self._batch_id), count),
            pa.repeat(pa.scalar(self._started_at, TIMESTAMP), count),
            pa.repeat(pa.scalar(False), count),
        )
        for field, values in zip(LANDING_FIELDS, landing, strict=True):
            rows = rows.append_column(field, values)
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
            and not any(self.extra.values())
            and self._previous
            and self._previous["extract_date"] == self._extract_date.isoformat()
        ):
            return
        if self.extracted == 0 and self._previous is None and not self.table.may_be_empty:
            raise IngestionError(
                f"{self.table.name} has no rows; if that is right, say may_be_empty: true in sources.yml"
            )
        if self._pending:
            self._flush()
        if letters:
            self._letters.publish({"batch_id": self._batch_id})
        self._data.publish(self._manifest(letters))
        self.published = True

    def _manifest(self, letters: int) -> dict[str, Any]:
        watermark_to = max(filter(None, (self.watermark_from, self._cursor_max)), default=None)
        described = "\n".join(f"{f.name} {f.type}" for f in self.schema)
        return {
            "batch_id": self._batch_id,
            "world": self._lake.world,
            "source": self.table.source,
            "table": self.table.table,
            "extract_date": self._extract_date.isoformat(),
            "rows": self.rows,
            "extracted": self.extracted,
            "skipped": self.skipped,
            "rejected": self.rejected,
            # Rows of the dead-letter file beside: rejected records, and those that a replay retired.
            "dead_letters": letters,
            "watermark_from": self.watermark_from and self.watermark_from.astimezone(UTC).isoformat(),
            "watermark_to": watermark_to and watermark_to.astimezone(UTC).isoformat(),
            "schema_fingerprint": hashlib.sha256(described.encode()).hexdigest(),
            "started_at": self._started_at.isoformat(),
            **self.extra,
        }


class _ParquetFile:
    """A Parquet file that appears under its name in one step, with a manifest in its footer."""

    def __init__(self, partial: Path, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._partial = partial
        self._path = path
        self._schema = schema
        self._sink: _HashingFile | None = None
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table) -> None:
        """Add rows as whole row groups."""
        self.open().write_table(rows.cast(self._schema), row_group_size=ROW_GROUP_ROWS)
        self.rows += rows.num_rows

    def publish(self, manifest: dict[str, Any]) -> None:
        """Make the file durable and visible; `manifest` gets the checksum of its content and the time."""
        writer = self.open()
        manifest = {
            **manifest,
            # sha256 of the file's first `data_bytes` bytes, everything before the footer.
            "content_checksum": f"sha256:{self._sink.digest.hexdigest()}",
            "data_bytes": self._sink.size,
            "finished_at": datetime.now(UTC).isoformat(),
        }
        writer.add_key_value_metadata({MANIFEST_KEY.decode(): json.dumps(manifest)})
        writer.close()
        self._sink.sync()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The lake's lock is held, so nobody else can be publishing the same name.
        self._partial.rename(self._path)
        _sync_folder(self._path.parent)

    def discard(self) -> None:
        """Close the file, and remove it if it was not published."""
        if self._writer:
            self._partial.unlink(missing_ok=True)
            self._writer.close()
            self._sink.close()

    def open(self) -> pq.ParquetWriter:
        """The writer; the file is made at the first call."""
        if self._writer is None:
            self._sink = _HashingFile(self._partial)
            self._writer = pq.ParquetWriter(
                pa.PythonFile(self._sink, mode="w"), self._schema, compression="zstd"
            )
        return self._writer


class _HashingFile(io.RawIOBase):
    """A file that keeps the SHA-256 and the count of the bytes written to it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("wb")
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        # pyarrow closes its sink with the writer, before the bytes are known to be on disk.
        if not self._file.closed and not self.closed:
            self.sync()
            self._file.close()
        super().close()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in a committed file's footer.

    Raises:
        IngestionError: the file is no batch of this lake.
    """
    try:
        return json.loads(pq.read_metadata(path).metadata[MANIFEST_KEY])
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise IngestionError(
            f"{path} is not a readable batch ({type(error).__name__}); move it out of the lake"
        ) from None


def _write_atomically(path: Path, text: str) -> None:
    folder = path.parent / ".partial"
    folder.mkdir(exist_ok=True)
    partial = folder / f"{path.name}.{os.getpid()}"
    with partial.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    partial.rename(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
