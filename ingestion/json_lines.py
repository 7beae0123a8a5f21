"""Typed rows out of lines of JSON: a block of lines at a time where they are regular, one by one where not.

`JsonParser._of_line` defines what is right. `_Block` cuts the lines of a block at the names that are looked
for, all at once and without an object per line: what stands between two names is a value. A line is taken
only where each such value has been found to be one of its kind and nothing else, so that the line is proven
to be an object of just these fields; any other line is looked at by itself.
"""

import json
import re
from collections import Counter
from functools import cached_property
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion.lines import EXTRA, VARIANT, BadRecord, Layout, Parsed, Variant, finish, transcode, typed

_JSON_TYPES = {"text": str, "boolean": bool, "double": float, "date": str, "timestamptz": str}
_ARROW_TYPES = {"bigint": pa.int64(), "double": pa.float64(), "boolean": pa.bool_()}
"""What values of a kind are before `typed`, where that is not text."""
_MOST_EXTRAS = 64
"""Unknown names that are looked for in blocks: where there are more, they are data."""
_OFTEN = 8  # they are learnt when they are in one of so many lines that were looked at one by one
_ODD_NAME = re.compile(r'[."\\\x00-\x1f]')
_NUMBER = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?"
_FORMS = {
    "double": f"^{_NUMBER}$",
    "numeric": f'^({_NUMBER}|"[^"\\\\]*")$',
    "boolean": "^(true|false)$",
}
_WORD = 8
_NULL = int.from_bytes(b"null", "little")


class JsonParser:
    """Reads lines of JSON that may be of any of `variants`."""

    def __init__(self, layout: Layout, variants: tuple[Variant, ...]) -> None:
        import msgspec

        whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
        types = _JSON_TYPES | {"bigint": whole}
        self._layout = layout
        self._variants = variants
        self._decoders = [
            msgspec.json.Decoder(types[c.kind] | None if c.kind in types else msgspec.Raw)
            for c in layout.columns
        ]
        self._any_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
        # Which field fills which column is known of a block when it does not depend on the record.
        self._block_names = self._names(variants[0] if variants else None)
        self._has_blocks = (
            not any(v.where for v in variants)
            and len(set(self._block_names)) == len(self._block_names)
            and not any(map(_ODD_NAME.search, self._block_names))
        )
        self._extras: list[str] = []

    def _names(self, variant: Variant | None) -> list[str]:
        mapped = variant.fields if variant else {}
        return [mapped.get(c.name, c.name) for c in self._layout.columns]

    def _notice(self, unknown: Counter[str], records: int) -> None:
        """Look in the blocks that come for the names that are often unknown in records of this one."""
        extras = self._extras
        often = [n for n, times in unknown.items() if times * _OFTEN >= records and n not in extras]
        if often := [n for n in often if not _ODD_NAME.search(n)][: _MOST_EXTRAS - len(extras)]:
            self._extras = sorted([*extras, *often])

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
        columns, numbers, odd = self._regular(utf8)
        if odd:
            lines = utf8.split(b"\n")
            one_by_one, places = self._of_lines({i: lines[i] for i in odd if i not in bad}, bad)
            columns = {n: pa.concat_arrays([columns[n], one_by_one[n]]) for n in columns}
            numbers = np.concatenate([numbers, np.array(places, np.int64)])
            order = np.argsort(numbers)
            columns = {n: array.take(pa.array(order)) for n, array in columns.items()}
            numbers = numbers[order]
        return finish(self._layout, columns, pa.array(numbers), bad)

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
        for i, column in enumerate(self._layout.columns):
            arrow = _ARROW_TYPES.get(column.kind, pa.string())
            values = pa.array([r[0][i] for r in records.values()], arrow)
            columns[column.name], places = _typed(column, values)
            for place in places:
                bad.setdefault(numbers[place], f"{column.name} is no {column.kind}")
        if self._layout.variants:
            columns[VARIANT] = pa.array([r[2] for r in records.values()], pa.string())
        if self._has_blocks:
            self._notice(Counter(name for r in records.values() for name in r[1]), len(records))
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
            fields = self._any_fields.decode(line)
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

    def _regular(self, data: bytes) -> tuple[dict[str, pa.Array], Any, list[int]]:
        """The columns of the regular lines, their numbers, and those of the odd lines."""
        import numpy as np

        if not self._has_blocks or not data:
            nothing = {f.name: pa.array([], f.type) for f in self._layout.schema}
            return nothing, np.empty(0, np.int64), list(range(data.count(b"\n")))
        extras = self._extras
        block = _Block(data, [*self._block_names, *extras])
        columns: dict[str, pa.Array] = {}
        for place, column in enumerate(self._layout.columns):
            columns[column.name], wrong = _typed(column, block.values(place, column.kind))
            block.is_odd[wrong] = True
        if self._layout.variants:
            variant = self._variants[0].name if self._variants else None
            columns[VARIANT] = pa.repeat(pa.scalar(variant, pa.string()), len(block.is_odd))
        others = [block.values(place, None) for place in range(len(self._block_names), len(block.start))]
        columns[EXTRA] = _objects(extras, others, len(block.is_odd))
        if block.is_odd.any():
            regular = pa.array(~block.is_odd)
            columns = {name: array.filter(regular) for name, array in columns.items()}
        return columns, np.flatnonzero(~block.is_odd), np.flatnonzero(block.is_odd).tolist()


class _Block:
    """A block of lines, cut at the fields of some names.

    `start` and `end` have a row per name and a column per line: where the field's value is in `octets`; they
    are equal where the line lacks the field. What they say of a line that `is_odd` is not to be used.
    """

    def __init__(self, data: bytes, names: list[str]) -> None:
        import numpy as np

        keys = [f'"{name}"'.encode() for name in names]
        # From everywhere in the lines a whole key can be looked back at.
        margin = max(map(len, keys)) + _WORD
        self._buffer = pa.py_buffer(b" " * margin + data)
        self.octets = np.frombuffer(self._buffer, np.uint8)
        self._words = np.ndarray(len(self.octets) - _WORD + 1, "<u8", self._buffer, strides=(1,))
        controls = np.flatnonzero(self.octets < 32)
        ends = controls[self.octets[controls] == 10]
        self._first = np.concatenate([[margin], ends[:-1] + 1])
        self._last = ends - 1 - (self.octets[ends - 1] == 13)
        self.is_odd = (self.octets[self._first] != 123) | (self.octets[self._last] != 125)
        if len(controls) > len(ends):
            # A control belongs to no value; between values only the one that ends a line is usual.
            controls = controls[self.octets[controls] != 10]
            line = np.searchsorted(ends, controls)
            self.is_odd[line[controls != self._last[line] + 1]] = True
        self._key_ends = np.flatnonzero((self.octets[:-1] == 34) & (self.octets[1:] == 58))
        self._key_words = self._words[self._key_ends - _WORD + 1]
        self._cut(keys)

    def _cut(self, keys: list[bytes]) -> None:
        """Find where the value of each field begins, and where it ends: before the field that follows."""
        import numpy as np

        found = np.stack([self._places(key) for key in keys])
        absent = found < 0
        before = found - np.array([[len(key)] for key in keys])
        close = self._last - (self.octets[self._last - 1] == 32)
        comma = np.where(absent, close, before - (self.octets[before] == 32))
        self.end = np.empty_like(comma)
        order = np.argsort(comma[:, 0])
        in_order = comma[order]
        if (in_order[1:] > in_order[:-1]).all():
            self.end[order] = np.vstack([in_order[1:], close])
        else:  # not all lines are like the first
            order = np.argsort(comma, axis=0)
            in_order = np.take_along_axis(comma, order, axis=0)
            np.put_along_axis(self.end, order, np.vstack([in_order[1:], close]), axis=0)
        self.start = found + 2
        self.start += self.octets[self.start] == 32
        self.start = np.where(absent, self.end, self.start)
        # The first field stands where the object begins, and before each other one is a comma.
        is_right = (self.octets[comma] == 44) | (comma == self._first) | absent
        is_right &= (self.start < self.end) | absent
        self.is_odd |= ~is_right.all(axis=0) | (in_order[0] != self._first)

    def _places(self, key: bytes) -> Any:
        """Where in each line a key ends, -1 where it is not there."""
        import numpy as np

        found, words = self._key_ends, self._key_words
        for end in range(len(key), 0, -_WORD):
            part = key[max(end - _WORD, 0) : end]
            if end < len(key):
                words = self._words[found - (len(key) - end) - _WORD + 1]
            is_equal = words >> 8 * (_WORD - len(part)) == int.from_bytes(part, "little")
            found = found[is_equal]
        if len(found) == len(self._first) and ((found > self._first) & (found < self._last)).all():
            return found
        line = np.searchsorted(self._last, found)
        found, line = found[line < len(self._last)], line[line < len(self._last)]
        if (line[1:] == line[:-1]).any():
            # The name is there within another value too.
            is_top = self._depth(found) == self._depth(self._first)[line] + 1
            found, line = found[is_top], line[is_top]
        # Of a field that is given twice the first lies in what is taken for another's value.
        places = np.full(len(self._first), -1)
        places[line] = found
        return places

    @cached_property
    def _braces(self) -> tuple[Any, Any]:
        import numpy as np

        return np.flatnonzero(self.octets == 123), np.flatnonzero(self.octets == 125)

    def _depth(self, places: Any) -> Any:
        """How many more braces have been opened than closed before some places; those in texts count too."""
        import numpy as np

        opened, closed = self._braces
        return np.searchsorted(opened, places) - np.searchsorted(closed, places)

    def values(self, place: int, kind: str | None) -> pa.Array:
        """The values of the field that is `place`th, as what `typed` takes, and null where there is none.

        Lines with another kind of value become odd. Without a kind, it is any value as it came, `null` too.
        """
        start, end = self.start[place], self.end[place]
        wanted = (start < end) & ~self.is_odd
        if kind is not None:
            wanted &= (end - start != 4) | (self._words[end - _WORD] >> 32 != _NULL)
        if kind in ("text", "date", "timestamptz"):
            is_text = (self.octets[start] == 34) & (self.octets[end - 1] == 34) & (end - start > 1)
            self.is_odd |= wanted & ~is_text
            return self._unescaped(self._texts(start + 1, end - 1, wanted & is_text))
        texts = self._texts(start, end, wanted)
        if kind in ("json", None):
            return self._only(texts, pa.array(_are_json(texts), pa.bool_()))
        if kind == "bigint":
            return self._whole(texts)
        texts = self._only(texts, pc.match_substring_regex(texts, _FORMS[kind]))
        if kind == "boolean":
            return pc.equal(texts, "true")
        if kind == "numeric":
            return pc.utf8_trim(texts, '"')
        numbers = _floats(texts)
        return self._only(numbers, pc.is_finite(numbers))

    def _texts(self, start: Any, end: Any, wanted: Any) -> pa.Array:
        """What stands from each `start` to its `end`, null where it is not `wanted`."""
        import numpy as np

        bounds = np.empty(2 * len(start) + 2, np.int32)
        bounds[0], bounds[-1] = 0, len(self.octets)
        bounds[1:-1:2], bounds[2:-1:2] = start, end
        # Every other text is what stands between two of those that are meant.
        texts = pa.Array.from_buffers(
            pa.string(), len(bounds) - 1, [None, pa.py_buffer(bounds), self._buffer]
        )
        places = np.arange(1, len(bounds) - 1, 2, dtype=np.int32)
        return texts.take(pa.array(places, mask=None if wanted.all() else ~wanted))

    def _only(self, values: pa.Array, fits: pa.Array) -> pa.Array:
        """The values that fit; the lines of the others become odd."""
        unfit = pc.invert(fits).fill_null(False)
        if not unfit.true_count:
            return values
        self.is_odd |= unfit.to_numpy(zero_copy_only=False)
        return pc.if_else(unfit, None, values)

    def _unescaped(self, texts: pa.Array) -> pa.Array:
        """The texts that the inner parts of strings mean."""
        import numpy as np

        octets = np.frombuffer(texts.buffers()[2] or b"", np.uint8)
        if not ((octets == 34) | (octets == 92)).any():
            return texts
        escaped = pc.match_substring_regex(texts, r'["\\]').fill_null(False)
        meant = pa.array(map(_meant, texts.filter(escaped).to_pylist()), pa.string())
        texts = pc.replace_with_mask(texts, escaped, meant)
        return self._only(texts, pc.or_(pc.is_valid(texts), pc.invert(escaped)))

    def _whole(self, texts: pa.Array) -> pa.Array:
        """Whole numbers."""
        try:
            numbers = pc.cast(texts, pa.int64())
        except pa.ArrowInvalid:
            texts = self._only(texts, pc.match_substring_regex(texts, "^-?[0-9]{1,18}$"))
            numbers = pc.cast(texts, pa.int64())
        # What reads 007 or +7 as a number too is told by how it would write it.
        return self._only(numbers, pc.equal(pc.cast(numbers, pa.string()), texts))


def _meant(inner: str) -> str | None:
    """The text that the inner part of a string means; None: it is no inner part of one."""
    import msgspec

    try:
        return msgspec.json.decode(f'"{inner}"', type=str)
    except msgspec.DecodeError:
        return None


def _are_json(texts: pa.Array) -> list[bool]:
    """Of each text whether it is one JSON value and nothing else."""
    import msgspec

    decoder = msgspec.json.Decoder(list[msgspec.Raw])

    def check(values: list[bytes]) -> list[bool]:
        try:
            found = decoder.decode(b"[" + b",".join(values) + b"]")
        except (msgspec.DecodeError, RecursionError):
            found = []
        if list(map(len, found)) == list(map(len, values)):
            return [True] * len(values)
        if len(values) == 1:
            return [False]
        half = len(values) // 2
        return check(values[:half]) + check(values[half:])

    return check(texts.fill_null("null").cast(pa.binary()).to_pylist())


def _objects(names: list[str], values: list[pa.Array], count: int) -> pa.Array:
    """JSON objects of values as they came, null where there are none."""
    if not names:
        return pa.nulls(count, pa.string())
    # Arrow leaves rows out where all that it has to join is null: nulls become empty first.
    parts = [
        pc.binary_join_element_wise(f',"{name}":', array, "").fill_null("")
        for name, array in zip(names, values, strict=True)
    ]
    text = pc.binary_join_element_wise(*parts, "")
    text = pc.if_else(pc.equal(text, ""), None, pc.utf8_slice_codeunits(text, 1))
    return pc.binary_join_element_wise("{", text, "}", "")


def _floats(texts: pa.Array) -> pa.Array:
    try:
        return pc.cast(texts, pa.float64())
    except pa.ArrowInvalid:
        return pa.array([None if text is None else float(text) for text in texts.to_pylist()], pa.float64())


def _typed(column: Any, values: pa.Array) -> tuple[pa.Array, list[int]]:
    """The typed values, and the places of those that cannot be held exactly."""
    if column.kind in ("date", "timestamptz", "numeric"):
        return typed(column, values)
    return values, []


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
