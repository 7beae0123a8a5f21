"""Lines of files: how they are declared, cut and typed, exactly; and rows out of CSV.

A column's value is taken only when it can be held exactly: a number with more decimals than declared, a
time without a zone, a field given twice or a character that is not of the declared encoding refuses the
line. Whatever else a record holds goes to `_extra`. Blank lines are no records.

Many values are read at once where they are written as usual; `_EXACT` defines what is right, one by one.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Sequence
from csv import reader as csv_reader
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from typing import Any, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa
import pyarrow.compute as pc

from ingestion.config import TableConfig
from ingestion.errors import IngestionError
from ingestion.lake import TIMESTAMP

T = TypeVar("T")
TYPES = {
    "text": pa.string(),
    "bigint": pa.int64(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamptz": TIMESTAMP,
    "json": pa.string(),
}
"""Types of columns, by PostgreSQL's names; besides them numeric(precision, scale)."""
ENCODINGS = {"utf-8": "utf-8", "latin-1": "latin-1"}
EXTRA = "_extra"
VARIANT = "_variant"
BASE64 = "base64:"
_WINDOW_BYTES = 4096
_NUMERIC = re.compile(r"numeric\((\d{1,2}), ?(\d{1,2})\)")
_NUMBER = r"[+-]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?"
_COMMA_NUMBER = r"[+-]?([0-9]{1,40}|[0-9]{1,3}(\.[0-9]{3}){1,12})(,[0-9]{1,40})?"
_TOO_FINE = re.compile(r"[.,]\d{6}\d*[1-9]")
_CONTROL_1 = re.compile(rb"[\x80-\x9f]")


@dataclass(frozen=True)
class Column:
    """One declared column; `zone` is whose time a time without an offset is, `format` its strptime form."""

    name: str
    kind: str
    type: pa.DataType
    required: bool = False
    zone: ZoneInfo | None = None
    format: str | None = None


@dataclass(frozen=True)
class Variant:
    """One partner's or version's way to send the records.

    It is meant by files whose name matches `files` and, in JSON, by records whose fields equal `where`.
    `fields` maps a column to the record's field, a dot going into an object.
    """

    name: str
    files: str
    where: dict[str, Any]
    fields: dict[str, str]


@dataclass(frozen=True)
class Layout:
    """How the lines of a source are read: what `sources.yml` says of a table."""

    format: str
    encoding: str
    columns: tuple[Column, ...]
    variants: tuple[Variant, ...] = ()
    delimiter: str = ","
    decimal_comma: bool = False
    header: bool = True
    max_line_bytes: int = 1024 * 1024

    @classmethod
    def of(cls, table: TableConfig) -> "Layout":
        """The layout that an entry of `sources.yml` declares.

        Raises:
            IngestionError: an option is missing or wrong; the message names it.
        """
        options = table.options

        def choice(name: str, default: T, allowed: Iterable[T]) -> T:
            value = options.get(name, default)
            if value not in allowed:
                raise _wrong(table, f"{name} must be one of {', '.join(map(str, allowed)).lower()}")
            return value

        columns = options.get("columns")
        if not isinstance(columns, dict) or not columns:
            raise _wrong(table, "columns must name every column and its type")
        delimiter = options.get("delimiter", ",")
        if (
            not isinstance(delimiter, str)
            or len(delimiter) != 1
            or delimiter in '"\r\n'
            or ord(delimiter) > 126
        ):
            raise _wrong(table, "delimiter must be one ASCII character")
        limit = options.get("max_line_bytes", cls.max_line_bytes)
        if type(limit) is not int or limit < 1:
            raise _wrong(table, "max_line_bytes must be a number of bytes")
        layout = cls(
            format=choice("format", "jsonl", ("jsonl", "csv")),
            encoding=choice("encoding", "utf-8", ENCODINGS),
            columns=tuple(_column(table, name, entry) for name, entry in columns.items()),
            variants=tuple(_variant(table, *v) for v in (options.get("variants") or {}).items()),
            delimiter=delimiter,
            decimal_comma=choice("decimal", ".", (".", ",")) == ",",
            header=choice("header", True, (True, False)),
            max_line_bytes=limit,
        )
        names = {c.name for c in layout.columns}
        for variant in layout.variants:
            if unknown := sorted(set(variant.fields) - names):
                raise _wrong(table, f"variant {variant.name} maps {', '.join(unknown)}, which is no column")
            if variant.where and layout.format == "csv":
                raise _wrong(table, f"variant {variant.name}: where needs format jsonl; use files")
        return layout

    @property
    def schema(self) -> pa.Schema:
        """The declared columns, `_variant` where variants are declared, and `_extra`."""
        fields = [(c.name, c.type) for c in self.columns]
        if self.variants:
            fields.append((VARIANT, pa.string()))
        return pa.schema([*fields, (EXTRA, pa.string())])

    def variants_of(self, file: str) -> tuple[Variant, ...]:
        """The variants that records of a file may be of."""
        return tuple(v for v in self.variants if fnmatchcase(file, v.files))


def _wrong(table: TableConfig, problem: str) -> IngestionError:
    return IngestionError(f"{table.name}: {problem}; mend sources.yml")


def _column(table: TableConfig, name: str, entry: Any) -> Column:
    entry = {"type": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or not entry.keys() <= {"type", "required", "zone", "format"}:
        raise _wrong(table, f"column {name} takes type, required, zone and format")
    kind = entry.get("type")
    numeric = _NUMERIC.fullmatch(str(kind))
    if not numeric and kind not in TYPES:
        raise _wrong(table, f"column {name}: type must be one of {', '.join(TYPES)}, numeric(p,s)")
    if not isinstance(entry.get("required", False), bool):
        raise _wrong(table, f"column {name}: required must be true or false")
    try:
        return Column(
            name,
            "numeric" if numeric else kind,
            pa.decimal128(*map(int, numeric.groups())) if numeric else TYPES[kind],
            entry.get("required", False),
            ZoneInfo(entry["zone"]) if "zone" in entry else None,
            entry.get("format"),
        )
    except (ValueError, TypeError, ZoneInfoNotFoundError):
        raise _wrong(table, f"column {name} has no such precision or zone") from None


def _variant(table: TableConfig, name: str, entry: Any) -> Variant:
    if not isinstance(entry, dict) or not entry.keys() <= {"files", "where", "fields"}:
        raise _wrong(table, f"variant {name} takes files, where and fields")
    return Variant(name, entry.get("files", "*"), entry.get("where") or {}, entry.get("fields") or {})


# ---------------------------------------------------------------- lines and what becomes of them


class BadRecord(Exception):
    """What is wrong with a record or a header, without a value of it."""


@dataclass(frozen=True)
class Bad:
    """A line that gives no row; `unread`: the payload is only its beginning, the rest is in the file."""

    line: int
    payload: bytes
    reason: str
    unread: bool = False


@dataclass
class Lines:
    """Whole records of one file, one after the other, and the broken lines that stood between them.

    `numbers` are the lines they begin at, `ends` where each ends in `data`; None: at every line end.
    """

    data: bytes
    numbers: Sequence[int]
    bad: list[Bad] = field(default_factory=list)
    ends: Any = None


class LineSplitter:
    """Cuts a stream of bytes into lines of at most `limit` bytes, in bounded memory."""

    header: bytes | None = None

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""
        self._line = 1
        self._skipping = False

    def feed(self, chunk: bytes) -> Lines:
        """The lines that are whole now."""
        return self._split(chunk, last=False)

    def finish(self, *, broken: bool) -> tuple[Lines, Bad | None]:
        """What is left at the end; of a `broken` stream the last line is not whole, and returned apart."""
        if broken and not self._skipping:
            return Lines(b"", ()), Bad(self._line, self._rest, "")
        return self._split(b"", last=True), Bad(self._line, b"", "") if broken else None

    def _split(self, chunk: bytes, *, last: bool) -> Lines:
        bad: list[Bad] = []
        if self._skipping:
            end = chunk.find(b"\n")
            if end < 0:
                return Lines(b"", ())
            chunk = chunk[end + 1 :]
            self._skipping = False
            self._line += 1
        data = self._rest + chunk
        cut = len(data) if last else data.rfind(b"\n") + 1
        data, self._rest = data[:cut], data[cut:]
        if last and data and not data.endswith(b"\n"):
            data += b"\n"
        import numpy as np

        # Several times as fast as `bytes.count`.
        first, count = self._line, int(np.count_nonzero(np.frombuffer(data, np.uint8) == 10))
        self._line += count
        if len(data) > self._limit and max(map(len, data.split(b"\n"))) > self._limit:
            lines = data.split(b"\n")
            for i, line in enumerate(lines):
                if len(line) > self._limit:
                    bad.append(self._too_long(first + i, line))
                    lines[i] = b""
            data = b"\n".join(lines)
        if len(self._rest) > self._limit:
            bad.append(self._too_long(self._line, self._rest))
            self._rest, self._skipping = b"", True
        return Lines(data, range(first, first + count), bad)

    def _too_long(self, number: int, line: bytes) -> Bad:
        return Bad(number, line[:1000], f"longer than max_line_bytes ({self._limit:,})", unread=True)


class CsvSplitter:
    """Cuts a stream of bytes into CSV records, whose quoted values may hold line ends.

    Quotes stand as RFC 4180 wants them: around a whole value, doubled within it. Where they do not, the
    line is broken, and records begin anew with the next line. With `header`, the first record is kept
    apart: in `header` once it is there.
    """

    def __init__(self, delimiter: str, limit: int, *, header: bool) -> None:
        self.header: bytes | None = None
        self._delimiter = ord(delimiter)
        self._limit = limit
        self._rest = b""
        self._line = 1
        self._wants_header = header

    def feed(self, chunk: bytes) -> Lines:
        """The records that are whole now."""
        return self._split(chunk, last=False)

    def finish(self, *, broken: bool) -> tuple[Lines, Bad | None]:
        """What is left at the end; of a `broken` stream the last record is not whole, and returned apart."""
        if broken:
            return Lines(b"", ()), Bad(self._line, self._rest, "")
        return self._split(b"", last=True), None

    def _split(self, chunk: bytes, *, last: bool) -> Lines:
        data, self._rest = self._rest + chunk, b""
        if last and data and not data.endswith(b"\n"):
            data += b"\n"
        records: list[bytes] = []
        numbers: list[int] = []
        bad: list[Bad] = []
        at, window = 0, len(data)
        while at < len(data):
            piece = data[at : at + window]
            is_rest = at + window >= len(data)
            spans, open_from, is_stray = self._spans(piece)
            for start, end in spans:
                record = piece[start:end]
                if record.strip(b"\r\n"):
                    records.append(record)
                    numbers.append(self._line)
                self._line += record.count(b"\n")
            at += open_from
            if not is_stray and not is_rest:
                window *= 2
                continue
            if not is_stray and not last and len(data) - at <= self._limit:
                self._rest = data[at:]  # a record that is not whole yet
                break
            cut = data.find(b"\n", at) + 1
            if not cut:
                # A line longer than any may be: its beginning is enough to know it by.
                self._rest = data[at : at + self._limit + 1]
                break
            bad.append(self._broken(data[at : cut - 1]))
            self._line += 1
            # Where one quote is wrong others are: not all that follows is looked at again for each of them.
            at, window = cut, _WINDOW_BYTES
        if self._wants_header and self.header is None and (records or bad):
            first = bool(records) and (not bad or numbers[0] < bad[0].line)
            self.header = records.pop(0) if first else bad.pop(0).payload
            del numbers[: int(first)]
        import numpy as np

        ends = np.cumsum(np.fromiter(map(len, records), np.int64, len(records)))
        return Lines(b"".join(records), numbers, bad, ends)

    def _spans(self, data: bytes) -> tuple[list[tuple[int, int]], int, bool]:
        """Where the sound records at the beginning are, what follows them, and whether a stray quote does."""
        import numpy as np

        octets = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(octets == 10) + 1
        quotes = np.flatnonzero(octets == 34)
        sound = len(ends)
        if len(quotes):
            ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
            around = np.concatenate(([10], octets, [10]))
            opening, closing = quotes[0::2], quotes[1::2]
            before, after = around[opening], around[closing + 2]
            stray = np.concatenate(
                (
                    opening[~np.isin(before, (self._delimiter, 10, 34))],
                    closing[~np.isin(after, (self._delimiter, 10, 13, 34))],
                )
            )
            sound = int(np.searchsorted(ends, stray.min(), side="right")) if len(stray) else len(ends)
        starts = np.concatenate(([0], ends))
        too_long = np.flatnonzero(ends - starts[:-1] > self._limit + 1)
        broken = min([int(too_long[0])] if len(too_long) else [len(ends)], [sound])[0]
        spans = list(zip(starts[:broken].tolist(), ends[:broken].tolist(), strict=True))
        return spans, int(starts[broken]), broken < len(ends)

    def _broken(self, line: bytes) -> Bad:
        if len(line) > self._limit:
            return Bad(self._line, line[:1000], f"longer than max_line_bytes ({self._limit:,})", unread=True)
        return Bad(self._line, line, "no CSV record: a quote stands where none may, or is not closed")


# ---------------------------------------------------------------- values


def _fits_bigint(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError("out of range")
    return value


def _to_number(column: Column, text: str, comma: bool) -> Decimal:
    if not re.fullmatch(_COMMA_NUMBER if comma else _NUMBER, text, re.ASCII):
        raise ValueError("not a number")
    return Decimal(text.replace(".", "").replace(",", ".") if comma else text)


def _to_numeric(column: Column, text: str, comma: bool) -> Decimal:
    value = _to_number(column, text, comma)
    scale = column.type.scale
    if value and (value.adjusted() >= column.type.precision - scale or value != round(value, scale)):
        raise ValueError("does not fit")
    return value.quantize(Decimal(1).scaleb(-scale))


def _to_double(column: Column, text: str, comma: bool) -> float:
    value = float(_to_number(column, text, comma))
    if value in (float("inf"), float("-inf")):
        raise ValueError("out of range")
    return value


def _to_date(column: Column, text: str, comma: bool) -> date:
    if column.format:
        return datetime.strptime(text, column.format).date()
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII):
        raise ValueError("not a date")
    return date.fromisoformat(text)


def _to_timestamp(column: Column, text: str, comma: bool) -> datetime:
    if _TOO_FINE.search(text):
        raise ValueError("finer than a microsecond")
    moment = datetime.strptime(text, column.format) if column.format else datetime.fromisoformat(text)
    if moment.tzinfo is None:
        if column.zone is None:
            raise ValueError("no zone")
        moment = moment.replace(tzinfo=column.zone)
        if moment.astimezone(UTC).astimezone(column.zone).replace(tzinfo=None) != moment.replace(tzinfo=None):
            raise ValueError("a time that its zone skipped")
    return moment.astimezone(UTC)


def _to_json(column: Column, text: str, comma: bool) -> str:
    import msgspec

    msgspec.json.decode(text.encode(), type=msgspec.Raw)
    return text


_EXACT: dict[str, Callable[[Column, str, bool], Any]] = {
    "text": lambda column, text, comma: text,
    "bigint": lambda column, text, comma: _fits_bigint(int(re.fullmatch(r"[+-]?[0-9]{1,40}", text)[0])),
    "numeric": _to_numeric,
    "double": _to_double,
    "boolean": lambda column, text, comma: {"true": True, "false": False}[text.lower()],
    "date": _to_date,
    "timestamptz": _to_timestamp,
    "json": _to_json,
}


def _cast(column: Column, texts: pa.Array, comma: bool) -> pa.Array:
    """What `_EXACT` gives, for all at once.

    Raises:
        pa.ArrowInvalid: not all of it can be had this way.
    """
    if column.kind == "text":
        return texts
    if column.kind in ("boolean", "json") or column.format or column.zone:
        raise pa.ArrowInvalid("only one by one")
    if column.kind in ("bigint", "numeric", "double"):
        whole = column.kind == "bigint"
        form = r"^-?[0-9]{1,40}$" if whole else r"^-?[0-9]{1,40}(,[0-9]+)?$" if comma else f"^({_NUMBER})$"
        if not pc.all(pc.match_substring_regex(texts, form)).as_py():
            raise pa.ArrowInvalid("another form of number")
        texts = pc.replace_substring(texts, ",", ".") if comma else texts
    return pc.cast(texts, column.type)


def typed(column: Column, texts: pa.Array, comma: bool = False) -> tuple[pa.Array, list[int]]:
    """The typed values of a column, and the places of those that cannot be held exactly (null there)."""
    if texts.null_count == len(texts):
        return pa.nulls(len(texts), column.type), []
    try:
        return _cast(column, texts, comma), []
    except pa.ArrowInvalid:
        pass
    encoded = texts.dictionary_encode()
    values: list[Any] = []
    for text in encoded.dictionary.to_pylist():
        try:
            values.append(_EXACT[column.kind](column, text, comma))
        except (ValueError, TypeError, KeyError, OverflowError, InvalidOperation, RecursionError):
            values.append(None)
    typed = pa.array(values, column.type).take(encoded.indices)
    wrong = pc.and_(pc.is_valid(texts), pc.is_null(typed))
    return typed, pc.indices_nonzero(wrong).to_pylist()


# ---------------------------------------------------------------- blocks of records


@dataclass
class Parsed:
    """Rows of a block, the place of each in the block, and what is wrong in the places without one."""

    rows: pa.Table
    index: pa.Array
    bad: dict[int, str]


def payload_text(payload: bytes, encoding: str) -> str:
    """A line as the text of a dead letter: itself, or `base64:` and its bytes when they are no such text."""
    if _utf8_problem(payload, encoding):
        return BASE64 + base64.b64encode(payload).decode()
    return payload.decode(encoding)


def payload_bytes(text: str, encoding: str) -> bytes:
    """The line that `payload_text` made `text` of.

    Raises:
        BadRecord: it cannot be written in the encoding that is declared now.
    """
    try:
        return base64.b64decode(text[len(BASE64) :]) if text.startswith(BASE64) else text.encode(encoding)
    except ValueError:
        raise BadRecord(f"not {encoding}") from None


def _utf8_problem(line: bytes, encoding: str) -> str | None:
    """Why bytes are not text of the encoding, None when they may be."""
    if line.isascii():
        return None
    try:
        line.decode()
        is_utf8 = True
    except UnicodeDecodeError:
        is_utf8 = False
    if encoding == "utf-8":
        return None if is_utf8 else "not UTF-8"
    # Every byte is some character of Latin-1, but text of it is hardly ever UTF-8, nor has it controls.
    if is_utf8:
        return "UTF-8, where latin-1 is declared"
    return "not Latin-1" if _CONTROL_1.search(line) else None


def transcode(data: bytes, records: Callable[[], list[bytes]], encoding: str) -> tuple[bytes | None, dict]:
    """A block in UTF-8, or None and what is wrong with its records."""
    if data.isascii():
        return data, {}
    if encoding == "utf-8":
        try:
            whole = [None, pa.array([0, len(data)], pa.int32()).buffers()[1], pa.py_buffer(data)]
            pa.Array.from_buffers(pa.string(), 1, whole).validate(full=True)
        except pa.ArrowInvalid:
            pass
        else:
            return data, {}
    problems = {i: p for i, r in enumerate(records()) if (p := _utf8_problem(r, encoding))}
    if problems:
        return None, problems
    return data.decode(encoding).encode(), {}


def finish(layout: Layout, columns: dict[str, pa.Array], index: pa.Array, bad: dict[int, str]) -> Parsed:
    """Leave out the records that lack a required value, and those found bad before."""
    for column in layout.columns:
        if column.required and columns[column.name].null_count:
            missing = index.filter(pc.is_null(columns[column.name]))
            for ordinal in missing.to_pylist():
                bad.setdefault(ordinal, f"{column.name} is missing")
    rows = pa.table(columns, schema=layout.schema)
    if bad:
        keep = pc.invert(pc.is_in(index, pa.array(list(bad), pa.int64())))
        rows, index = rows.filter(keep), index.filter(keep)
    return Parsed(rows, index, bad)


class CsvParser:
    """Reads CSV records under one header (the names in it, or the columns' own where a file has none)."""

    def __init__(self, layout: Layout, variant: Variant | None, header: bytes | None) -> None:
        """Take the header of a file.

        Raises:
            BadRecord: what is wrong with it.
        """
        self._layout = layout
        self._variant = variant
        self._header = header
        mapped = variant.fields if variant else {}
        wanted = [mapped.get(c.name, c.name) for c in layout.columns]
        if header is None:
            self._names = wanted
        else:
            if problem := _utf8_problem(header, layout.encoding):
                raise BadRecord(f"the header is {problem}")
            text = header.decode(layout.encoding).rstrip("\r\n")
            self._names = next(csv_reader([text], delimiter=layout.delimiter))
        if len(set(self._names)) != len(self._names):
            raise BadRecord("the header names a column twice")
        for column, name in zip(layout.columns, wanted, strict=True):
            if column.required and name not in self._names:
                raise BadRecord(f"the header lacks {column.name}")
        self._places = [self._names.index(n) if n in self._names else None for n in wanted]
        self._others = [(i, n) for i, n in enumerate(self._names) if n not in wanted]

    def payload(self, record: bytes) -> bytes:
        """A record as a document of its own, with the header."""
        return record if self._header is None else self._header.rstrip(b"\r\n") + b"\n" + record

    def parse(self, data: bytes, ends: Any) -> Parsed:
        """The rows of whole records; `ends` are their ends in `data`."""
        starts = [0, *ends[:-1].tolist()] if len(ends) else []
        records = [data[a:b] for a, b in zip(starts, ends.tolist(), strict=True)]
        bad = {
            i: "holds a NUL, which no text does" if b"\0" in r else problem
            for i, r in enumerate(records)
            if (problem := _utf8_problem(r, self._layout.encoding)) or b"\0" in r
        }
        good = [i for i in range(len(records)) if i not in bad]
        tables, index = [], []
        for chunk, rows in self._rows([records[i] for i in good], good, bad):
            tables.append(rows)
            index += chunk
        if not tables:
            empty = {f.name: pa.array([], f.type) for f in self._layout.schema}
            return Parsed(pa.table(empty, schema=self._layout.schema), pa.array([], pa.int64()), bad)
        texts = pa.concat_tables(tables).combine_chunks()
        columns, count = {}, texts.num_rows
        for column, place in zip(self._layout.columns, self._places, strict=True):
            if place is None:
                columns[column.name] = pa.nulls(count, column.type)
                continue
            array = texts.column(place).combine_chunks()
            if column.kind != "text":
                array = pc.if_else(pc.equal(array, ""), None, array)
            columns[column.name], places = typed(column, array, self._layout.decimal_comma)
            for p in places:
                bad.setdefault(index[p], f"{column.name} is no {column.kind}")
        if self._layout.variants:
            columns[VARIANT] = pa.repeat(pa.scalar(self._variant and self._variant.name, pa.string()), count)
        columns[EXTRA] = pa.nulls(count, pa.string())
        if self._others:
            others = zip(*(texts.column(i).to_pylist() for i, _ in self._others), strict=True)
            names = [n for _, n in self._others]
            columns[EXTRA] = pa.array(
                [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) for row in others],
                pa.string(),
            )
        return finish(self._layout, columns, pa.array(index, pa.int64()), bad)

    def _rows(self, records: list[bytes], index: list[int], bad: dict[int, str]) -> Any:
        """Tables of texts and the records they are of; records that are none go to `bad`."""
        if not records:
            return
        data = b"".join(records).decode(self._layout.encoding).encode()
        ragged: dict[int, str] = {}
        rows = self._read(data, ragged)
        if len(rows) + len(ragged) == len(records):
            for number, problem in ragged.items():
                bad[index[number]] = problem
            yield [i for n, i in enumerate(index) if n not in ragged], rows
        elif len(records) == 1:
            bad[index[0]] = "no CSV record: a line end stands where none may"
        else:
            half = len(records) // 2
            yield from self._rows(records[:half], index[:half], bad)
            yield from self._rows(records[half:], index[half:], bad)

    def _read(self, data: bytes, ragged: dict[int, str]) -> pa.Table:
        """The records as text: a value without quotes that is empty is null, with quotes it is empty.

        Records of another number of fields than the header are noted in `ragged` by their place.
        """
        from pyarrow import csv

        def skip(row: Any) -> str:
            ragged[row.number - 1] = f"{row.actual_columns} fields, where {row.expected_columns} belong"
            return "skip"

        names = [str(i) for i in range(len(self._names))]
        return csv.read_csv(
            pa.py_buffer(data),
            csv.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False),
            csv.ParseOptions(
                delimiter=self._layout.delimiter, newlines_in_values=True, invalid_row_handler=skip
            ),
            csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                null_values=[""],
            ),
        )
