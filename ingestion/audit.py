"""The queryable audit table: one row per committed batch of a table, derived from the manifests.

    LAKE/audit/batches/<batch>.parquet

It is written when a run ends; what a run that died did not write, the next one derives from the footers.
Nothing reads it to decide anything: a lake without it is whole.
"""

import io
from collections.abc import Iterable
from datetime import date, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ingestion.storage import Storage

if TYPE_CHECKING:
    from ingestion.lake import Lake

FOLDER = "audit/batches"
_MOMENT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("batch_id", pa.string()),
        ("source", pa.string()),
        ("table", pa.string()),
        ("extract_date", pa.date32()),
        ("extracted", pa.int64()),
        ("rows", pa.int64()),
        ("skipped", pa.int64()),
        ("rejected", pa.int64()),
        ("watermark_from", _MOMENT),
        ("watermark_to", _MOMENT),
        ("bytes", pa.int64()),
        ("seconds", pa.float64()),
        ("started_at", _MOMENT),
        ("finished_at", _MOMENT),
        ("content_checksum", pa.string()),
        ("schema_fingerprint", pa.string()),
        ("file", pa.string()),
    ]
)


def row(manifest: dict[str, Any], file: PurePosixPath, size: int) -> dict[str, Any]:
    """The audit's row of a batch, from its manifest, its name below the lake and its bytes."""
    moments = {
        name: manifest[name] and datetime.fromisoformat(manifest[name])
        for name in ("watermark_from", "watermark_to", "started_at", "finished_at")
    }
    return {
        **{name: manifest[name] for name in SCHEMA.names if name in manifest},
        **moments,
        "extract_date": date.fromisoformat(manifest["extract_date"]),
        "bytes": size,
        "seconds": (moments["finished_at"] - moments["started_at"]).total_seconds(),
        "file": str(file),
    }


def record(storage: Storage, rows: list[dict[str, Any]]) -> None:
    """Publish the rows of batches that have none yet."""
    for batch_id in sorted({r["batch_id"] for r in rows}):
        data = io.BytesIO()
        of_batch = [r for r in rows if r["batch_id"] == batch_id]
        pq.write_table(pa.Table.from_pylist(of_batch, SCHEMA), data, compression="zstd")
        storage.put(f"{FOLDER}/{batch_id}.parquet", data.getvalue())


def repair(lake: "Lake") -> None:
    """Derive from the footers what runs that died did not record.

    Raises:
        IngestionError: a batch without a record cannot be read.
    """
    recorded = set(batch_ids(lake.storage))
    missing = [file for file in lake.all_batches() if file.stem not in recorded]
    record(lake.storage, list(rows(lake, missing)))


def rows(lake: "Lake", files: Iterable[PurePosixPath]) -> Iterable[dict[str, Any]]:
    """The rows that the audit should have of these files."""
    for file in files:
        manifest, size = lake.footer(file)
        yield row(manifest, file, size)


def batch_ids(storage: Storage) -> list[str]:
    """Ids of the batches that are recorded."""
    return [PurePosixPath(name).stem for name in storage.names(FOLDER)]


def read(storage: Storage) -> pa.Table:
    """The whole audit table."""
    parts = [pq.read_table(io.BytesIO(storage.read(name)), schema=SCHEMA) for name in storage.names(FOLDER)]
    return pa.concat_tables(parts) if parts else SCHEMA.empty_table()
