"""Lands files of records that others drop in a folder: JSON lines or CSV, plain, gzip or zstd.

A file lands once, by the content it had. Every line of it has one fate: it lands, or it is a dead letter
that names file and line. Of an archive that ends too early the whole lines land, and the rest is a dead
letter; of a damaged one nothing does. A file that changed under its name lands what it holds beyond what
has landed of it, and takes back the dead letters that its former content had.

What has been seen is in the manifests of the committed batches: `files`, packed, of that batch alone or,
in every `WHOLE_EVERY`th, of all before it too (`files_whole`), so a run reads few of them. A file of the
size and time it had is not opened again. docs/sources.md says what `sources.yml` may declare.
"""

import base64
import hashlib
import json
import os
import re
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion.config import TableConfig
from ingestion.drop import KEEP_BYTES, Drop, Entry, open_drop
from ingestion.errors import IngestionError
from ingestion.json_lines import JsonParser
from ingestion.lake import BatchWriter, DeadLetter, Lake
from ingestion.lines import (
    Bad,
    BadRecord,
    CsvParser,
    CsvSplitter,
    Layout,
    Lines,
    LineSplitter,
    payload_bytes,
    payload_text,
)
from ingestion.run import Run

PLACE = [("_source_file", pa.string()), ("_source_line", pa.int64())]
MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}
CHUNK_BYTES = 128 * 1024
BLOCK_BYTES = 1536 * 1024
BLOCKS_AHEAD = 16  # what is parsed while a whole row group is written
LINE_BYTES = 256  # what a line takes in objects besides its text: a block of `{}` is not a million of them
WHOLE_EVERY = 200
RACY_SECONDS = 2.0
_BOM = b"\xef\xbb\xbf"
# file:17 is a line whose payload is whole; file:17-17 and file:18- are lines only the file itself holds.
_ORIGIN = re.compile(r"(?P<file>.*):(?P<line>\d+)(?P<unread>-\d*)?", re.DOTALL)


def schema(table: TableConfig, run: Run | None) -> pa.Schema:
    """The declared columns, those of `Layout.schema` besides, and each record's file and line."""
    return pa.schema([*Layout.of(table).schema, *pa.schema(PLACE)])


def extract(table: TableConfig, run: Run, out: BatchWriter) -> None:
    """Write the records of every file that has not landed with this content.

    Raises:
        IngestionError: the folder is missing, an option is wrong, or a file changed while it was read.
    """
    source = _Source(table, run)
    history = _History.of(run.lake, table)
    entries = list(source.entries(history))
    # Letters of files that are new cannot be met again: there may be very many.
    known = {entry.name for entry in entries} & history.names.keys()
    letters = _LettersByFile(
        lambda: run.lake.dead_letters(table.source, table.table, lambda origin: _file_of(origin) in known)
    )
    _land(source, history, entries, letters, run, out)
    history.keep_in(out)


def replay(table: TableConfig, run: Run, letters: list[DeadLetter], out: BatchWriter) -> None:
    """Try dead letters again: by their payload, or, where that is not the whole of it, by their file.

    Raises:
        IngestionError: see `extract`.
    """
    source = _Source(table, run)
    history = _History.of(run.lake, table)
    of_file = _LettersByFile(lambda: letters)
    places = [_ORIGIN.fullmatch(letter.origin) for letter in letters]
    unread = {p["file"] for p in places if p and p["unread"]}
    entries = [entry for entry in source.drop.entries() if entry.name in unread]
    read_again = {entry.name for entry in entries}
    met = _land(source, history, entries, of_file, run, out, again=True)
    landed: dict[str, _Landed] = {}
    for letter, place in zip(letters, places, strict=True):
        if letter.dead_letter_id in of_file.retired:
            # What its file held has been counted by line.
            out.extracted += 1
            out.skip(1)
            continue
        reason = letter.reason
        if place is None or (place["unread"] and place["file"] not in read_again):
            reason = "its file is not there any more"
        elif place["file"] not in read_again:
            name = place["file"]
            seen = history.names.get(name, _Seen([], None, []))
            if name not in landed:
                landed[name] = _Landed(run.lake, table, name, seen.batches, by_line=True)
            reason = _land_payload(source, landed[name], letter, place, out)
            if reason is None:
                history.note_batches({name}, run.batch_id)
                continue
        elif letter.dead_letter_id not in met:
            reason = "its file has changed beyond recognition; replay once more to land the payload"
        out.extracted += 1
        out.reject_again(letter, reason)
    history.keep_in(out)


def _land_payload(
    source: "_Source", landed: "_Landed", letter: DeadLetter, place: re.Match[str], out: BatchWriter
) -> str | None:
    """Land a dead letter's payload under the rules of today; what is wrong with it where that fails."""
    try:
        payload = payload_bytes(letter.payload, source.layout.encoding)
        rows, bad = source.block_of(place["file"], payload, int(place["line"])).parsed()
    except BadRecord as error:
        return str(error)
    if bad or rows.num_rows != 1:
        return bad[0].reason if bad else "not one record"
    fresh = landed.beyond(rows)
    out.extracted += 1
    out.skip(rows.num_rows - fresh.num_rows)
    out.write(fresh)
    out.retire(letter)
    return None


# ---------------------------------------------------------------- what has been seen


@dataclass
class _Seen:
    """What was under a name: SHA-256 of its contents, newest last, its version, batches with rows of it."""

    contents: list[str]
    version: str | None
    batches: list[str]


class _History:
    """Which files the committed batches have landed, and what this one adds."""

    def __init__(self) -> None:
        self.names: dict[str, _Seen] = {}
        self.contents: set[str] = set()
        self._changed: set[str] = set()
        self._is_news = False
        self._is_whole = False

    @classmethod
    def of(cls, lake: Lake, table: TableConfig) -> "_History":
        """Read back from the newest batch to the one that holds all before it."""
        history, found = cls(), []
        for path in reversed(lake.batches(table.source, table.table)):
            manifest = lake.manifest(path)
            if "files" in manifest:
                found.append(_unpacked(manifest["files"], manifest["batch_id"]))
            if manifest.get("files_whole"):
                break
        else:
            history._is_whole = True  # nothing came before: this batch holds all there is
        history._is_whole |= len(found) >= WHOLE_EVERY
        for files in reversed(found):
            for name, seen in files.items():
                history._add(name, seen)
        return history

    def _add(self, name: str, seen: _Seen) -> None:
        before = self.names.get(name)
        if before:
            seen = _Seen(
                list(dict.fromkeys(before.contents + seen.contents)),
                seen.version,
                list(dict.fromkeys(before.batches + seen.batches)),
            )
        self.names[name] = seen
        self.contents.update(seen.contents)

    def is_unchanged(self, entry: Entry) -> bool:
        """Whether the file is as it was when it was read."""
        seen = self.names.get(entry.name)
        return seen is not None and seen.version == entry.version

    def note(self, entry: Entry, content: str, batch_id: str | None) -> None:
        """Remember a file; `batch_id` when this run has read its lines, for the first time or again."""
        self._is_news |= batch_id is not None
        # What changed a moment ago may change once more within the tick of the file system's clock.
        settled = time.time() - entry.modified >= RACY_SECONDS
        batches = [batch_id] if batch_id else []
        self._add(entry.name, _Seen([content], entry.version if settled else None, batches))
        self._changed.add(entry.name)

    def note_batches(self, names: set[str], batch_id: str) -> None:
        """Remember that lines of these files have landed in a batch."""
        self._is_news = True
        for name in names & self.names.keys():
            seen = self.names[name]
            self._add(name, _Seen([], seen.version, [batch_id]))
            self._changed.add(name)

    def keep_in(self, out: BatchWriter) -> None:
        """Have the batch's manifest remember what this run has read."""
        names = self.names if self._is_whole else {n: self.names[n] for n in self._changed}
        entries = {n: [s.contents, s.version, s.batches] for n, s in sorted(names.items())}
        packed = zlib.compress(json.dumps(entries, separators=(",", ":")).encode(), 6)
        out.extra |= {"files": base64.b64encode(packed).decode(), "files_whole": self._is_whole}
        # That a file is only where or when it was not before is remembered with the next news.
        out.is_news = self._is_news


def _unpacked(files: Any, batch_id: str) -> dict[str, _Seen]:
    if isinstance(files, dict):  # lakes of the first version: path → SHA-256
        return {name: _Seen([digest], None, [batch_id]) for name, digest in files.items()}
    entries = json.loads(zlib.decompress(base64.b64decode(files)))
    return {name: _Seen(*entry) for name, entry in entries.items()}


# ---------------------------------------------------------------- from files to rows


@dataclass
class _File:
    """A file being read: what was seen under its name, and its part that could not be read."""

    entry: Entry
    seen: _Seen | None
    content: str = ""
    rest: Bad | None = None


@dataclass
class _Block:
    """Lines of one or more files that one parser reads at once."""

    parser: JsonParser | CsvParser | None = None
    parts: list[tuple[_File, Lines | None]] = field(default_factory=list)
    ended: list[_File] = field(default_factory=list)
    size: int = 0

    def parsed(self) -> tuple[pa.Table | None, list["_Letter"]]:
        """The rows with their file and line, and the lines that gave none."""
        import numpy as np

        if not self.parts:
            return None, []

        letters = [
            _Letter(file, bad.line, bad.payload, bad.reason, bad.unread)
            for file, lines in self.parts
            for bad in lines.bad
        ]
        parts = [(file, lines) for file, lines in self.parts if len(lines.numbers)]
        data = b"".join(lines.data for _, lines in parts)
        counts = [len(lines.numbers) for _, lines in parts]
        numbers = np.concatenate([_as_array(lines.numbers) for _, lines in parts] or [np.empty(0, np.int64)])
        files = np.repeat(np.arange(len(parts)), counts)
        if isinstance(self.parser, CsvParser):
            shifts = np.cumsum([0, *(len(lines.data) for _, lines in parts)])
            ends = [lines.ends + shift for (_, lines), shift in zip(parts, shifts, strict=False)]
            ends = np.concatenate(ends or [np.empty(0, np.int64)])
            parsed = self.parser.parse(data, ends)
            records = [data[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)] if parsed.bad else []
        else:
            parsed = self.parser.parse(data)
            records = data.split(b"\n") if parsed.bad else []
        for place, reason in sorted(parsed.bad.items()):
            payload = self.parser.payload(records[place])
            letters.append(_Letter(parts[files[place]][0], int(numbers[place]), payload, reason))
        index = parsed.index.to_numpy(zero_copy_only=False)
        names = pa.array([file.entry.name for file, _ in parts], pa.string())
        rows = parsed.rows.append_column("_source_file", names.take(pa.array(files[index])))
        self.parts = [(file, None) for file, _ in self.parts]  # it may wait for long to be written
        return rows.append_column("_source_line", pa.array(numbers[index])), letters


@dataclass(frozen=True)
class _Letter:
    file: _File
    line: int
    payload: bytes
    reason: str
    unread: bool = False
    """Only its beginning is the payload."""


def _as_array(numbers: Any) -> Any:
    import numpy as np

    if isinstance(numbers, range):
        return np.arange(numbers.start, numbers.stop, dtype=np.int64)
    return np.asarray(numbers, np.int64)


class _Source:
    """A table's files and how they are read."""

    def __init__(self, table: TableConfig, run: Run) -> None:
        self.layout = Layout.of(table)
        self.drop = _drop(table, run)
        self._pattern = table.options.get("pattern", "*")
        self._marker = table.options.get("marker")
        self._quiet_seconds = float(table.options.get("quiet_seconds", 60))
        self._parsers: dict[Any, JsonParser | CsvParser] = {}

    def entries(self, history: _History) -> Iterator[Entry]:
        """The files to read: complete as far as their names, the marker and the clock tell, and changed."""
        quiet_since = time.time() - self._quiet_seconds
        marked: dict[str, bool] = {}
        for entry in self.drop.entries():
            if not fnmatchcase(entry.name, self._pattern) or history.is_unchanged(entry):
                continue
            if self._quiet_seconds and entry.modified > quiet_since:
                continue
            if self._marker:
                folder = entry.name.rpartition("/")[0]
                if folder not in marked:
                    marked[folder] = self.drop.holds(f"{folder}/{self._marker}".lstrip("/"))
                if not marked[folder]:
                    continue
            yield entry

    def blocks(self, entries: Iterable[Entry], history: _History, *, again: bool) -> Iterator[_Block]:
        """The lines of files in blocks; `again`: also of files whose content has landed."""
        block = _Block()
        for entry in entries:
            file = _File(entry, history.names.get(entry.name))
            for parser, lines in self._read(file, history, again=again):
                # Lines that are compared with what landed before stand alone in their block.
                if block.size >= BLOCK_BYTES or (
                    block.parts and (file.seen or block.parts[-1][0].seen or block.parser is not parser)
                ):
                    yield block
                    block = _Block()
                block.parser = parser
                block.parts.append((file, lines))
                block.size += len(lines.data) + LINE_BYTES * len(lines.numbers)
                block.size += sum(LINE_BYTES + len(bad.payload) for bad in lines.bad)
            if file.content:
                block.ended.append(file)
        yield block

    def _read(self, file: _File, history: _History, *, again: bool) -> Iterator[tuple[Any, Lines]]:
        """The whole lines of a file. Sets its content's SHA-256 and, when it ends, what could not be read."""
        opened = self.drop.open(file.entry)
        if opened is None:
            return  # gone, or changed since it was listed: then the next run reads it
        with opened as packed, SpooledTemporaryFile(KEEP_BYTES) as spool:
            content = hashlib.file_digest(packed, "sha256").hexdigest()
            if content in history.contents and not again:
                history.note(file.entry, content, None)
                return
            history.contents.add(content)
            file.content = content
            packed.seek(0)
            codec = MAGIC.get(packed.read(2))
            # An archive is read to its end before a line of it is used: only then is its checksum known.
            broken = _unpack(packed, codec, spool) if codec else None
            if broken and not broken.is_truncated:
                file.rest = Bad(1, b"", broken.problem, unread=True)
            else:
                for item in self._lines(file, spool if codec else packed, broken):
                    self.drop.check(file.entry, packed)
                    yield item
            self.drop.check(file.entry, packed)

    def _lines(
        self, file: _File, stream: IO[bytes], broken: "_BrokenArchive | None"
    ) -> Iterator[tuple[Any, Lines]]:
        layout = self.layout
        variants = layout.variants_of(file.entry.name)
        is_csv = layout.format == "csv"
        splitter = (
            CsvSplitter(layout.delimiter, layout.max_line_bytes, header=layout.header)
            if is_csv
            else LineSplitter(layout.max_line_bytes)
        )
        stream.seek(0)
        if layout.encoding != "utf-8" or stream.read(len(_BOM)) != _BOM:
            stream.seek(0)
        try:
            while chunk := stream.read(CHUNK_BYTES):
                lines = splitter.feed(chunk)
                if lines.data or lines.bad:
                    yield self._parser(variants, splitter.header), lines
            lines, rest = splitter.finish(broken=broken is not None)
            if lines.data or lines.bad or not is_csv or splitter.header is not None:
                yield self._parser(variants, splitter.header), lines
            if rest and broken:
                file.rest = Bad(rest.line, rest.payload[:1000], broken.problem, unread=True)
        except BadRecord as error:
            file.rest = Bad(1, b"", str(error), unread=True)

    def _parser(self, variants: tuple, header: bytes | None) -> Any:
        key = (tuple(v.name for v in variants), header)
        if key not in self._parsers:
            if self.layout.format == "csv":
                self._parsers[key] = CsvParser(self.layout, variants[0] if variants else None, header)
            else:
                self._parsers[key] = JsonParser(self.layout, variants)
        return self._parsers[key]

    def block_of(self, name: str, payload: bytes, line: int) -> _Block:
        """A dead letter's payload as a block of its own.

        Raises:
            BadRecord: its header is wrong.
        """
        file = _File(Entry(name, 0, ""), None)
        layout, variants = self.layout, self.layout.variants_of(name)
        if layout.format == "jsonl":
            lines = Lines(payload.rstrip(b"\n") + b"\n", range(line, line + 1))
            return _Block(self._parser(variants, None), [(file, lines)])
        splitter = CsvSplitter(layout.delimiter, layout.max_line_bytes, header=layout.header)
        lines = splitter.feed(payload.rstrip(b"\n") + b"\n")
        rest, _ = splitter.finish(broken=False)
        lines.bad += rest.bad
        lines.numbers = [line for _ in lines.numbers]
        return _Block(self._parser(variants, splitter.header), [(file, lines)])


def _drop(table: TableConfig, run: Run) -> Drop:
    location = table.options.get("location")
    if not isinstance(location, str) or not location:
        raise IngestionError(f"{table.name}: location must be a folder or $SETTING; mend sources.yml")
    said = f"location {location}"
    if location.startswith("$"):
        name = location[1:]
        location = getattr(run.settings, name.lower(), None) or os.environ.get(name, "")
        said = f"{name}={location}"
    return open_drop(location, f"{table.name}: {said}")


@dataclass(frozen=True)
class _BrokenArchive:
    problem: str
    is_truncated: bool


class _Bytes:
    """A file that whoever reads it cannot close."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        file.seek(0)
        self.read = file.read

    def close(self) -> None:
        pass


def _unpack(packed: IO[bytes], codec: str, spool: IO[bytes]) -> _BrokenArchive | None:
    """Write what an archive holds to `spool`: of one that ends too early, every byte before that."""

    def stream() -> pa.CompressedInputStream:
        return pa.CompressedInputStream(pa.PythonFile(_Bytes(packed), "r"), codec)

    unpacked = stream()
    try:
        while chunk := unpacked.read(CHUNK_BYTES):
            spool.write(chunk)
    except OSError as error:
        if error.errno is not None:
            raise  # the file cannot be read
        is_truncated = "Truncated" in str(error)
    else:
        return None
    # A read that meets the break gives nothing of what precedes it: go there again, byte by byte.
    unpacked = stream()
    left = spool.tell()
    while left:
        left -= len(unpacked.read(min(left, CHUNK_BYTES)))
    with suppress(OSError):
        while byte := unpacked.read(1):
            spool.write(byte)
    return _BrokenArchive(
        f"the {codec} archive {'ends too early' if is_truncated else 'is damaged'}", is_truncated
    )


# ---------------------------------------------------------------- fates


def _file_of(origin: str) -> str | None:
    place = _ORIGIN.fullmatch(origin)
    return place and place["file"]


class _LettersByFile:
    """The open dead letters by the file they are of, read when they are first asked for."""

    def __init__(self, read: Callable[[], list[DeadLetter]]) -> None:
        self._read = read
        self._letters: dict[str, dict[tuple[str, str], DeadLetter]] | None = None
        self.retired: set[str] = set()

    def of(self, name: str) -> dict[tuple[str, str], DeadLetter]:
        """The letters of a file by their origin and payload."""
        if self._letters is None:
            self._letters = {}
            for letter in self._read():
                if file := _file_of(letter.origin):
                    self._letters.setdefault(file, {})[letter.origin, letter.payload] = letter
        return self._letters.get(name, {})


def _land(
    source: _Source,
    history: _History,
    entries: Iterable[Entry],
    letters: _LettersByFile,
    run: Run,
    out: BatchWriter,
    *,
    again: bool = False,
) -> set[str]:
    """Give every line of some files its fate; returns the ids of open dead letters that were met again."""
    met: set[str] = set()
    encoding = source.layout.encoding
    again_landed: dict[str, _Landed] = {}
    count = 0
    for block, rows, bad in _parsed(source.blocks(entries, history, again=again)):
        if rows is not None and rows.num_rows:
            out.extracted += rows.num_rows
            file = block.parts[0][0]
            if file.seen:
                name = file.entry.name
                if name not in again_landed:
                    again_landed[name] = _Landed(run.lake, out.table, name, file.seen.batches)
                fresh = again_landed[name].beyond(rows)
                out.skip(rows.num_rows - fresh.num_rows)
                rows = fresh
            out.write(rows)
        for letter in bad:
            _reject(letter, encoding, letters, met, out)
        for file in block.ended:
            count += 1
            if file.rest:
                rest = file.rest
                tail = _Letter(file, rest.line, rest.payload, rest.reason, True)
                _reject(tail, encoding, letters, met, out, to_end=True)
            if file.seen:
                landed = again_landed.pop(file.entry.name, None)
                is_same = file.seen.contents == [file.content] or (landed and landed.is_mostly_there)
                for letter in letters.of(file.entry.name).values():
                    is_rest = bool(_ORIGIN.fullmatch(letter.origin)["unread"])
                    if letter.dead_letter_id not in met and (is_rest or is_same):
                        out.retire(letter)
                        letters.retired.add(letter.dead_letter_id)
            history.note(file.entry, file.content, run.batch_id)
            run.progress(f"{count:,} files")
    return met


def _reject(
    letter: _Letter,
    encoding: str,
    letters: _LettersByFile,
    met: set[str],
    out: BatchWriter,
    *,
    to_end: bool = False,
) -> None:
    span = f"-{'' if to_end else letter.line}" if letter.unread else ""
    origin = f"{letter.file.entry.name}:{letter.line}{span}"
    payload = payload_text(letter.payload, encoding)
    out.extracted += 1
    if letter.file.seen:
        known = letters.of(letter.file.entry.name).get((origin, payload))
        if known:
            met.add(known.dead_letter_id)
    out.reject(payload, letter.reason, origin=origin)


class _Landed:
    """What has landed of a file under its former contents, to tell what a new content adds to it."""

    def __init__(
        self, lake: Lake, table: TableConfig, name: str, batches: list[str], *, by_line: bool = False
    ) -> None:
        self._columns = [
            field
            for field in schema(table, None)
            if field.name not in dict(PLACE) or (by_line and field.name == "_source_line")
        ]
        self._left: Counter[bytes] = Counter()
        for batch in lake.batches(table.source, table.table):
            if batch.stem in batches:
                for rows in lake.blocks(batch):
                    self._left.update(self._digests(rows.filter(pc.equal(rows["_source_file"], name))))
        self._landed, self._found = self._left.total(), 0

    @property
    def is_mostly_there(self) -> bool:
        """Whether most of what had landed was in the new content: then it is the same file, mended."""
        return 0 < self._landed <= 2 * self._found

    def beyond(self, rows: pa.Table) -> pa.Table:
        """The rows that had not landed; equal ones as often as they are there more often than before."""
        is_new = []
        for digest in self._digests(rows):
            self._left[digest] -= 1
            is_new.append(self._left[digest] < 0)
        self._found += rows.num_rows - sum(is_new)
        return rows.filter(pa.array(is_new, pa.bool_()))

    def _digests(self, rows: pa.Table) -> list[bytes]:
        """A digest of each row's values, in the rows' order."""
        values = [
            # A column declared since then is null in what landed before.
            rows[f.name].to_pylist() if f.name in rows.column_names else [None] * rows.num_rows
            for f in self._columns
        ]
        rows_of_values = zip(*values, strict=True)
        return [hashlib.blake2b(repr(row).encode(), digest_size=16).digest() for row in rows_of_values]


def _parsed(blocks: Iterator[_Block]) -> Iterator[tuple[_Block, pa.Table | None, list[_Letter]]]:
    """Blocks with their rows and bad lines, in order: parsed while others are read and written."""
    # Blocks come and go: Arrow's own allocator holds on to 30 MB of them, and costs a fifth more time.
    pa.set_memory_pool(pa.system_memory_pool())

    # One thread: more of them wait for Python's lock and for each other.
    with ThreadPoolExecutor(1) as parser:
        upcoming: deque[tuple[_Block, Future]] = deque()
        for block in blocks:
            upcoming.append((block, parser.submit(block.parsed)))
            if len(upcoming) > BLOCKS_AHEAD:
                block, parsed = upcoming.popleft()
                yield block, *parsed.result()
        for block, parsed in upcoming:
            yield block, *parsed.result()
