"""Typed rows out of lines of JSON: a block of lines at a time where they are regular, one by one where not.

`JsonParser._of_line` defines what is right. `JsonParser._of_block` finds the fields of all lines of a block
without an object per line: it takes those it can be certain of, with equal values, and names the others.
"""

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion.lines import EXTRA, VARIANT, BadRecord, Layout, Parsed, Variant, finish, transcode, typed

_QUOTED_TEXT = ("text", "date", "timestamptz")
_MOST_EXTRAS = 64
"""Unknown names that a block may have: where there are more, they are data, and nothing is made of each."""
_ROUNDS = 4
_TILE = 128 * 1024
# Whether such a quote ends its string depends on how many backslashes there are.
_ESCAPED_ESCAPE = b'\\\\"'
_LINE_END = ord("\n") | 32


class _Odd(Exception):
    """Some lines of a block, counted from 0, must be looked at one by one."""

    def __init__(self, lines: Any) -> None:
        super().__init__()
        self.lines = lines


class JsonParser:
    """Reads lines of JSON that may be of any of `variants`."""

    def __init__(self, layout: Layout, variants: tuple[Variant, ...]) -> None:
        import msgspec

        types = {
            "text": str,
            "bigint": Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
            "double": float,
            "boolean": bool,
            "date": str,
            "timestamptz": str,
        }
        self._layout = layout
        self._variants = variants
        self._decoders = [
            msgspec.json.Decoder(types[c.kind] | None if c.kind in types else msgspec.Raw)
            for c in layout.columns
        ]
        self._fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
        self._any_object = msgspec.json.Decoder(msgspec.defstruct("AnyObject", [], gc=False))
        # Which field fills which column is known of a block when it does not depend on the record.
        names = self._names(variants[0] if variants else None)
        self._block_names = (
            None
            if any(v.where for v in variants)
            or len(set(names)) < len(names)
            or any("." in n or re.search(r'["\\\x00-\x1f]', n) for n in names)
            else names
        )

    def _names(self, variant: Variant | None) -> list[str]:
        mapped = variant.fields if variant else {}
        return [mapped.get(c.name, c.name) for c in self._layout.columns]

    def payload(self, record: bytes) -> bytes:
        """A record as a document of its own: itself."""
        return record

    def parse(self, data: bytes) -> Parsed:
        """The rows of whole lines of JSON."""
        import numpy as np

        utf8, bad = transcode(data, lambda: data.split(b"\n"), self._layout.encoding)
        if utf8 is None:
            # Lines that are no text stay out, as if they were blank.
            lines = [b"" if i in bad else line for i, line in enumerate(data.split(b"\n"))]
            utf8 = b"\n".join(lines).decode(self._layout.encoding).encode()
        columns, wrong, left, odd = self._regular(utf8)
        bad |= {int(left[place]): reason for place, reason in wrong.items()}
        if len(odd):
            lines = utf8.split(b"\n")
            one_by_one, places = self._of_lines({i: lines[i] for i in odd if i not in bad}, bad)
            columns = {n: pa.concat_arrays([columns[n], one_by_one[n]]) for n in columns}
            left = np.concatenate([left, np.array(places, np.int64)])
            order = np.argsort(left)
            columns = {n: array.take(pa.array(order)) for n, array in columns.items()}
            left = left[order]
        return finish(self._layout, columns, pa.array(left), bad)

    def _regular(self, data: bytes) -> tuple[dict[str, pa.Array], dict[int, str], Any, list[int]]:
        """The columns of the regular lines, what is wrong in them, their numbers, and those of the others."""
        import numpy as np

        left, odd, lines = None, [], []
        block = data
        for _ in range(_ROUNDS if self._block_names else 0):
            if not block:
                break
            try:
                columns, wrong = self._of_block(block)
            except _Odd as found:
                if left is None:
                    lines = data.split(b"\n")[:-1]
                    left = np.arange(len(lines))
                odd += left[found.lines].tolist()
                left = left[~found.lines]
                block = b"".join(lines[i] + b"\n" for i in left)
            else:
                left = np.arange(len(columns[EXTRA])) if left is None else left
                return columns, wrong, left, sorted(odd)
        nothing = {f.name: pa.array([], f.type) for f in self._layout.schema}
        return nothing, {}, np.empty(0, np.int64), list(range(data.count(b"\n")))

    # ------------------------------------------------------------ one by one

    def _of_lines(
        self, lines: dict[int, bytes], bad: dict[int, str]
    ) -> tuple[dict[str, pa.Array], list[int]]:
        """The columns of lines, and the numbers of those that gave a row; the others are `bad`, or blank."""
        records: dict[int, tuple[list[Any], dict[str, bytes], str | None]] = {}
        for number, line in lines.items():
            if line.strip():
                try:
                    records[number] = self._of_line(line)
                except BadRecord as error:
                    bad[number] = str(error)
        numbers = list(records)
        columns: dict[str, pa.Array] = {}
        arrow = {"bigint": pa.int64(), "double": pa.float64(), "boolean": pa.bool_()}
        for i, column in enumerate(self._layout.columns):
            values = pa.array([r[0][i] for r in records.values()], arrow.get(column.kind, pa.string()))
            columns[column.name], places = _typed(column, values)
            for place in places:
                bad.setdefault(numbers[place], f"{column.name} is no {column.kind}")
        if self._layout.variants:
            columns[VARIANT] = pa.array([r[2] for r in records.values()], pa.string())
        extra = [_object_of(r[1]) if r[1] else None for r in records.values()]
        columns[EXTRA] = pa.array(extra, pa.string())
        return columns, numbers

    def _of_line(self, line: bytes) -> tuple[list[Any], dict[str, bytes], str | None]:
        """One record: its values, its other fields as they came, and its variant.

        Raises:
            BadRecord: what is wrong with it.
        """
        import msgspec

        try:
            fields = self._fields.decode(line)
            names = json.loads(line, object_pairs_hook=list, parse_int=str, parse_float=str)
        except msgspec.ValidationError:
            raise BadRecord("no JSON object") from None
        except (ValueError, RecursionError):
            raise BadRecord("not JSON") from None
        if len(names) != len(fields):
            raise BadRecord("a field is there twice")
        variant = next((v for v in self._variants if _matches(v, fields)), None)
        values: list[Any] = []
        used = set()
        for column, decoder, name in zip(
            self._layout.columns, self._decoders, self._names(variant), strict=True
        ):
            raw = _at(fields, name)
            if raw is None:
                values.append(None)
                continue
            if name in fields:
                used.add(name)
            try:
                value = decoder.decode(raw)
            except (msgspec.DecodeError, RecursionError):
                raise BadRecord(f"{column.name} is no {column.kind}") from None
            if isinstance(value, msgspec.Raw):
                text = bytes(value).decode()
                value = None if text == "null" else text
                if value and column.kind == "numeric" and value[0] == '"':
                    value = json.loads(value)
            values.append(value)
        others = {name: bytes(raw) for name, raw in fields.items() if name not in used}
        return values, others, variant and variant.name

    # ------------------------------------------------------------ a block at a time

    def _of_block(self, data: bytes) -> tuple[dict[str, pa.Array], dict[int, str]]:
        """The columns of all lines of a block, and what is wrong in which line.

        Raises:
            _Odd: lines to look at one by one.
        """
        import numpy as np

        fields = self._scan(data)
        odd = np.zeros(fields.lines, bool)
        occurrences = fields.of_name
        unknown = sorted(occurrences.keys() - set(self._block_names))
        for name, at in occurrences.items():
            rows = fields.line[at]
            odd[rows[1:][rows[1:] == rows[:-1]]] = True  # a field is there twice
            if "\\" in name or (len(unknown) > _MOST_EXTRAS and name in unknown):
                odd[rows] = True
        if odd.any():
            raise _Odd(odd)
        columns: dict[str, pa.Array] = {}
        wrong: dict[int, str] = {}
        nowhere = np.empty(0, np.int64)
        for column, name in zip(self._layout.columns, self._block_names, strict=True):
            texts = fields.texts(occurrences.get(name, nowhere), column.kind, odd)
            if odd.any():
                continue  # every column is looked at: all odd lines are found at once
            try:
                columns[column.name], places = _typed(column, texts)
            except pa.ArrowInvalid:
                sound = pc.match_substring_regex(texts, "^-?[0-9]{1,18}$").fill_null(True)
                odd |= ~sound.to_numpy(zero_copy_only=False)
            else:
                for place in places:
                    wrong.setdefault(place, f"{column.name} is no {column.kind}")
        extra = pa.nulls(fields.lines, pa.string())
        if unknown and not odd.any():
            # Arrow leaves rows out where all that it has to join is null: nulls become empty first.
            parts = [
                pc.binary_join_element_wise(f',"{name}":', fields.texts(occurrences[name], None, odd), "")
                for name in unknown
            ]
            text = pc.binary_join_element_wise(*(part.fill_null("") for part in parts), "")
            text = pc.if_else(pc.equal(text, ""), None, pc.utf8_slice_codeunits(text, 1))
            extra = pc.binary_join_element_wise("{", text, "}", "")
        if odd.any():
            raise _Odd(odd)
        if self._layout.variants:
            variant = self._variants[0].name if self._variants else None
            columns[VARIANT] = pa.repeat(pa.scalar(variant, pa.string()), fields.lines)
        columns[EXTRA] = extra
        return columns, wrong

    def _scan(self, data: bytes) -> "_Fields":
        """Where the names and values of the fields of each line are.

        Raises:
            _Odd: lines that are no objects, or not written as usual.
        """
        import numpy as np

        has_escapes = b"\\" in data
        if has_escapes and _ESCAPED_ESCAPE in data:
            raise _Odd(np.array([_ESCAPED_ESCAPE in line for line in data.split(b"\n")[:-1]], bool))
        count = self._count(data)
        buffer = pa.py_buffer(data)
        octets = np.frombuffer(data, np.uint8)
        places = _marks(octets)
        kind = octets[places] | 32
        ends = places[kind == _LINE_END]
        starts = np.concatenate([[0], ends[:-1] + 1])
        # Each line is "{...}": then no value goes over a line's end, as "}" and "{" never meet within one.
        if len(ends) != count or (octets[starts] != 123).any() or (octets[ends - 1] != 125).any():
            raise _Odd(np.array([not self._is_object(line) for line in data.split(b"\n")[:-1]], bool))
        is_open, is_close = kind == 123, kind == 125
        depth = np.cumsum(is_open.view(np.int8) - is_close.view(np.int8), dtype=np.int32)
        # A field stands between two of these: the brace that begins its line, commas, the brace that ends it.
        at = np.flatnonzero(((depth == 1) & (is_open | (kind == 44))) | ((depth == 0) & is_close))
        begins = np.flatnonzero(~is_close[at[:-1]]) if len(at) else at
        line = np.cumsum(is_close[at], dtype=np.int32)[begins]
        value_end = places[at[begins + 1]]
        colon = at[begins] + 1
        name_start = places[colon - 1] + 1
        name_start += octets[name_start] == 32
        name_end = places[colon] - 1
        value_start = name_end + 2
        value_start += octets[value_start] == 32
        usual = (
            (kind[colon] == 58)
            & (octets[name_start] == 34)
            & (octets[name_end] == 34)
            & (octets[value_start] > 32)
            & (octets[value_end - 1] > 32)
        )
        if not usual.all():
            odd = np.zeros(count, bool)
            odd[line[~usual]] = True
            raise _Odd(odd)
        name_start += 1
        of_name = _by_column(octets, name_start, name_end, count) or _by_name(buffer, name_start, name_end)
        return _Fields(count, buffer, octets, line, of_name, value_start, value_end, has_escapes)

    def _count(self, data: bytes) -> int | None:
        """How many objects there are one after the other, None when it is not only objects."""
        import msgspec

        try:
            return len(self._any_object.decode_lines(data))
        except (msgspec.DecodeError, RecursionError):
            return None

    def _is_object(self, line: bytes) -> bool:
        return line.startswith(b"{") and line.endswith(b"}") and self._count(line) == 1


@dataclass(frozen=True)
class _Fields:
    """The fields of a block of lines, in the order they stand in."""

    lines: int
    buffer: pa.Buffer
    octets: Any
    line: Any
    of_name: dict[str, Any]
    """Which of them have a name."""
    start: Any
    end: Any
    has_escapes: bool

    def texts(self, at: Any, kind: str | None, odd: Any) -> pa.Array:
        """Values of one name as text, one for each line; in `odd` are marked the lines of another type.

        Without a kind they are as they came, null included.
        """
        import numpy as np

        line, start, end = self.line[at], self.start[at], self.end[at]
        first = self.octets[start]
        is_null, is_text = (first == 110) & (kind is not None), first == 34
        if kind not in ("json", None):
            fits = is_null
            if kind in (*_QUOTED_TEXT, "numeric"):
                fits = fits | is_text
            if kind in ("bigint", "double", "numeric"):
                fits = fits | (first == 45) | ((first >= 48) & (first <= 57))
            if kind == "boolean":
                fits = fits | (first == 116) | (first == 102)
            odd[line[~fits]] = True
            if odd.any():
                return pa.nulls(self.lines, pa.string())
            start, end = start + is_text, end - is_text
        if len(line) == self.lines and not is_null.any():
            values = _slices(self.buffer, start, end)
        else:
            place, absent = np.zeros(self.lines, np.int64), np.ones(self.lines, bool)
            place[line], absent[line] = np.arange(len(line)), is_null
            values = _slices(self.buffer, start, end).take(pa.array(place, mask=absent))
        return _unescaped(values) if self.has_escapes and kind not in ("json", None) else values


def _marks(octets: Any) -> Any:
    """Where braces, brackets, colons, commas and line ends stand outside strings."""
    import numpy as np

    places = []
    opened = escaping = False
    # A tile at a time, what is computed stays in the processor's cache and in memory that is used again.
    for start in range(0, len(octets), _TILE):
        tile = octets[start : start + _TILE]
        quotes = tile == 34
        slashes = tile == 92
        if escaping:
            quotes[0] = False
        escaping = bool(slashes[-1])
        if slashes.any():
            quotes[1:] &= ~slashes[:-1]
        # 64 octets at a time: each bit becomes the parity of the quotes up to it.
        bits = np.packbits(quotes, bitorder="little")
        words = np.pad(bits, (0, -len(bits) % 8)).view("<u8")
        for shift in (1, 2, 4, 8, 16, 32):
            words = words ^ (words << np.uint64(shift))
        before = np.bitwise_xor.accumulate(words >> np.uint64(63))
        words[1:] ^= before[:-1] * np.uint64(2**64 - 1)
        if opened:
            words = ~words
        opened ^= bool(before[-1])
        inside = np.unpackbits(words.view(np.uint8), count=len(tile), bitorder="little").view(bool)
        # Brackets and braces differ in one bit, and with it are like nothing else that JSON may have there.
        folded = tile | 32
        marks = (folded == 123) | (folded == 125) | (tile == 44) | (tile == 58) | (tile == 10)
        places.append((np.flatnonzero(marks & ~inside) + start).astype(np.int32))
    return np.concatenate(places)


def _by_column(octets: Any, start: Any, end: Any, lines: int) -> dict[str, Any]:
    """Which fields have a name, where all lines have the same names in the same order; else nothing."""
    import numpy as np

    width, rest = divmod(len(start), lines)
    if rest:
        return {}
    starts, sizes = start.reshape(lines, width), (end - start).reshape(lines, width)
    if (sizes != sizes[0]).any():
        return {}
    found = {}
    for i, size in enumerate(sizes[0].tolist()):
        names = octets[starts[:, i, None] + np.arange(size)]
        if (names != names[0]).any():
            return {}
        found[names[0].tobytes().decode()] = slice(i, None, width)
    return found if len(found) == width else {}


def _by_name(buffer: pa.Buffer, start: Any, end: Any) -> dict[str, Any]:
    """Which fields have a name."""
    import numpy as np

    names = _slices(buffer, start, end).dictionary_encode()
    places = names.indices.to_numpy()
    return {name: np.flatnonzero(places == i) for i, name in enumerate(names.dictionary.to_pylist())}


def _slices(buffer: pa.Buffer, start: Any, end: Any) -> pa.Array:
    """The texts from each `start` to its `end`, which follow one another."""
    import numpy as np

    if not len(start):
        return pa.array([], pa.string())
    bounds = np.empty((len(start), 2), np.int32)
    bounds[:, 0], bounds[:, 1] = start, end
    # Every other one is what stands between two of them.
    all_texts = pa.Array.from_buffers(pa.string(), bounds.size - 1, [None, pa.py_buffer(bounds), buffer])
    return all_texts.take(pa.array(np.arange(0, bounds.size, 2, dtype=np.int32)))


def _unescaped(texts: pa.Array) -> pa.Array:
    """Inner parts of JSON strings as the texts they mean."""
    escaped = pc.match_substring(texts, "\\").fill_null(False)
    if not escaped.true_count:
        return texts
    meant = [json.loads(f'"{text}"') for text in texts.filter(escaped).to_pylist()]
    return pc.replace_with_mask(texts, escaped, pa.array(meant, pa.string()))


def _typed(column: Any, values: pa.Array) -> tuple[pa.Array, list[int]]:
    """The typed values, and the places of those that cannot be held exactly.

    Raises:
        pa.ArrowInvalid: a whole number is too large, or the like.
    """
    if column.kind in ("date", "timestamptz", "numeric"):
        return typed(column, values)
    array = pc.cast(values, column.type)
    if column.kind == "double":
        return array, pc.indices_nonzero(pc.invert(pc.is_finite(array)).fill_null(False)).to_pylist()
    return array, []


def _matches(variant: Variant, fields: dict[str, Any]) -> bool:
    for name, wanted in variant.where.items():
        raw = _at(fields, name)
        value = None if raw is None else json.loads(bytes(raw))
        # To Python true equals 1.
        if raw is None or value != wanted or isinstance(value, bool) != isinstance(wanted, bool):
            return False
    return True


def _at(fields: dict[str, Any], path: str) -> Any:
    """The raw value of a field, a dot going into an object; None where there is none."""
    import msgspec

    if path in fields or "." not in path:
        return fields.get(path)
    first, _, rest = path.partition(".")
    try:
        return _at(msgspec.json.decode(fields.get(first, b"{}"), type=dict[str, msgspec.Raw]), rest)
    except msgspec.DecodeError:
        return None


def _object_of(fields: dict[str, bytes]) -> str:
    """A JSON object of raw values, by name: equal records give equal text."""
    return (
        "{"
        + ",".join(f"{json.dumps(k, ensure_ascii=False)}:{raw.decode()}" for k, raw in sorted(fields.items()))
        + "}"
    )
