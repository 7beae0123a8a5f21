"""Lands the app's event log: gzipped JSON lines in `EVENT_LOG/YYYY-MM-DD/HH*.jsonl.gz`.

A file is landed once, by the content it had; the manifests of committed batches remember which. A file
that arrives late lands on the day it arrives. Duplicates of an event stay as they came.
"""

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import duckdb
import pyarrow as pa

from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.lake import TIMESTAMP, BatchWriter
from ingestion.run import Run

SCHEMA = pa.schema(
    [
        ("event_id", pa.string()),
        ("customer_id", pa.int64()),
        ("actor", pa.string()),
        ("session_id", pa.string()),
        ("event_type", pa.string()),
        ("occurred_at", TIMESTAMP),
        ("properties", pa.string()),
        ("received_at", TIMESTAMP),
        ("_source_file", pa.string()),
        ("_source_line", pa.int64()),
    ]
)
FILES_AT_ONCE = 256
# try_cast and try: a value that is no number or time becomes null, which `_check` then refuses by line.
PARSE = """
    select
        json_extract_string(line, '$.event_id') as event_id,
        try_cast(json_extract_string(line, '$.customer_id') as bigint) as customer_id,
        json_extract_string(line, '$.actor') as actor,
        json_extract_string(line, '$.session_id') as session_id,
        json_extract_string(line, '$.event_type') as event_type,
        try_cast(json_extract_string(line, '$.occurred_at') as timestamptz) as occurred_at,
        cast(json_extract(line, '$.properties') as varchar) as properties,
        try_cast(json_extract_string(line, '$.received_at') as timestamptz) as received_at,
        file as _source_file,
        number as _source_line
    from lines
    order by received_at, event_id, _source_file, _source_line
"""
REQUIRED = ("event_id", "event_type", "actor", "occurred_at", "received_at")


def schema(table: TableConfig, run: Run) -> pa.Schema:
    """The columns of the event log in the lake: its fields, and the file and line each event came from."""
    return SCHEMA


def extract(table: TableConfig, run: Run, out: BatchWriter) -> None:
    """Write the events of every file that has not landed with this content.

    The manifest gets `files`: path below the log's folder → SHA-256 of the file.

    Raises:
        IngestionError: the folder is missing, or a file is broken; the message names file and line.
    """
    folder = Path(run.settings.event_log)
    if not run.settings.event_log or not folder.is_dir():
        raise IngestionError(
            f"{table.name}: EVENT_LOG={folder} is no folder; set it to the event log's folder"
        )
    landed = {
        name: digest
        for m in run.lake.manifests(table.source, table.table)
        for name, digest in m["files"].items()
    }
    known = set(landed.values())
    files: dict[str, str] = {}
    out.extra["files"] = files
    paths = iter(sorted(folder.glob("*/*.jsonl.gz")))
    while chunk := list(islice(paths, FILES_AT_ONCE)):
        fresh: dict[str, bytes] = {}
        for path in chunk:
            name, data = path.relative_to(folder).as_posix(), path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            if digest not in known:
                known.add(digest)
                fresh[name] = data
                files[name] = digest
        if fresh:
            run.progress(f"{len(files)} files")
            events = _parse(table, fresh)
            out.extracted += events.num_rows
            out.write(events)


def _parse(table: TableConfig, files: dict[str, bytes]) -> pa.Table:
    names: list[str] = []
    numbers: list[int] = []
    lines: list[str] = []
    for name, data in files.items():
        for number, line in _lines(table, name, data):
            names.append(name)
            numbers.append(number)
            lines.append(line)
    table_of_lines = pa.table({"file": names, "number": pa.array(numbers, pa.int64()), "line": lines})
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.register("lines", table_of_lines)
        broken = connection.execute(
            "select file, number from lines where not json_valid(line) order by file, number limit 1"
        ).fetchone()
        if broken:
            raise IngestionError(
                f"{table.name}: {broken[0]} line {broken[1]} is not JSON; mend or remove the file"
            )
        rows = connection.sql(PARSE).to_arrow_table().cast(SCHEMA)
    _check(table, rows)
    return rows


def _lines(table: TableConfig, name: str, data: bytes) -> Iterator[tuple[int, str]]:
    try:
        text = gzip.decompress(data).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise IngestionError(
            f"{table.name}: {name} cannot be read ({type(error).__name__}); mend or remove the file"
        ) from None
    return ((i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip())


def _check(table: TableConfig, rows: pa.Table) -> None:
    for column in REQUIRED:
        if rows[column].null_count:
            bad = rows.filter(rows[column].is_null()).slice(0, 1).to_pylist()[0]
            raise IngestionError(
                f"{table.name}: {bad['_source_file']} line {bad['_source_line']} has no valid {column}; "
                "mend or remove the file"
            )
