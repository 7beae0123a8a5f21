"""The lake's one way to write and read a batch.

The data object is the commit: a batch of a table is one Parquet file that appears whole under its final
name or not at all, and its footer holds the manifest (rows, watermark, checksum). There is no other state
that could disagree with the data; watermarks are read back from committed footers.

    LAKE/lakehouse.json                                             which world this lake belongs to
    LAKE/raw/<source>/<table>/extract_date=YYYY-MM-DD/<batch>.parquet
    LAKE/.partial/                                                  files being written, never read
"""

import fcntl
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
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
_DAY_FOLDER = re.compile(r"^extract_date=\d{4}-\d{2}-\d{2}$")
_BATCH_FILE = re.compile(r"^\d{8}\.parquet$")


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
    what a source wants to keep in the manifest.
    """

    def __init__(
        self, lake: Lake, table: TableConfig, schema: pa.Schema, batch_id: str, extract_date: date
    ) -> None:
        self.table = table
        self.schema = schema
        self.rows = 0
        self.extra: dict[str, Any] = {}
        self.path = (
            lake.root
            / "raw"
            / table.source
            / table.table
            / f"extract_date={extract_date.isoformat()}"
            / f"{batch_id}.parquet"
        )
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
        self._partial = lake.root / ".partial" / f"{table.name}.{batch_id}"
        self._sink = _HashingFile(self._partial)
        self._writer = pq.ParquetWriter(
            pa.PythonFile(self._sink, mode="w"), pa.schema([*schema, *LANDING_FIELDS]), compression="zstd"
        )

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
        self._writer.write_table(rows.cast(self._writer.schema), row_group_size=ROW_GROUP_ROWS)

    def __enter__(self) -> "BatchWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._commit()
        finally:
            self._partial.unlink(missing_ok=True)
            self._writer.close()
            self._sink.close()

    def _commit(self) -> None:
        if (
            self.rows == 0
            and self._previous
            and self._previous["extract_date"] == self._extract_date.isoformat()
        ):
            return
        if self.rows == 0 and self._previous is None and not self.table.may_be_empty:
            raise IngestionError(
                f"{self.table.name} has no rows; if that is right, say may_be_empty: true in sources.yml"
            )
        if self._pending:
            self._flush()
        self._writer.add_key_value_metadata({MANIFEST_KEY.decode(): json.dumps(self._manifest())})
        self._writer.close()
        self._sink.sync()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The lake's lock is held, so nobody else can be publishing the same name.
        self._partial.rename(self.path)
        _sync_folder(self.path.parent)
        self.published = True

    def _manifest(self) -> dict[str, Any]:
        watermark_to = max(filter(None, (self.watermark_from, self._cursor_max)), default=None)
        described = "\n".join(f"{f.name} {f.type}" for f in self.schema)
        return {
            "batch_id": self._batch_id,
            "world": self._lake.world,
            "source": self.table.source,
            "table": self.table.table,
            "extract_date": self._extract_date.isoformat(),
            "rows": self.rows,
            "watermark_from": self.watermark_from and self.watermark_from.astimezone(UTC).isoformat(),
            "watermark_to": watermark_to and watermark_to.astimezone(UTC).isoformat(),
            "schema_fingerprint": hashlib.sha256(described.encode()).hexdigest(),
            # sha256 of the file's first `data_bytes` bytes, everything before the footer.
            "content_checksum": f"sha256:{self._sink.digest.hexdigest()}",
            "data_bytes": self._sink.size,
            "started_at": self._started_at.isoformat(),
            "finished_at": datetime.now(UTC).isoformat(),
            **self.extra,
        }


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
