"""Typed rows out of lines of JSON: a block of lines at a time where they are regular, one by one where not.

`JsonParser._of_line` defines what is right. `JsonParser._regular` decodes all lines of a block at once, and
takes those of which it is certain to have the same values. A decoder passes over fields that it does not
know, and of one that is given twice it takes the last; but each field that it found takes so many octets at
least, spaces aside. A line that has no more than these holds nothing else.
"""

import json
import re
from collections import Counter
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc

from ingestion.lines import EXTRA, VARIANT, BadRecord, Layout, Parsed, Variant, finish, transcode, typed

_ARROW_TYPES = {
    "text": pa.string(),
    "bigint": pa.int64(),
    "boolean": pa.bool_(),
    "date": pa.string(),
    "timestamptz": pa.string(),
}
"""Kinds whose values JSON has a type for, with the size of a value known by it."""
_MOST_EXTRAS = 64
"""Unknown names that are looked for in blocks: where there are more, they are data."""
_OFTEN = 8  # they are learnt when they are in one of so many lines that were looked at one by one
_ODD_NAME = re.compile(r'[."\\\x00-\x1f]')
_NUMBER = "^-?[0-9]"
_NUMBER_OR_TEXT = r'^(-?[0-9]|"[^\\]*$)'


class JsonParser:
    """Reads lines of JSON that may be of any of `variants`."""

    def __init__(self, layout: Layout, variants: tuple[Variant, ...]) -> None:
        import msgspec

        types = _json_types() | {"double": float}
        self._layout = layout
        self._variants = variants
        self._decoders = [
            msgspec.json.Decoder(types[c.kind] | None if c.kind in types else msgspec.Raw)
            for c in layout.columns
        ]
        self._any_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
        # Which field fills which column is known of a block when it does not depend on the record.
        names = self._names(variants[0] if variants else None)
        self._has_blocks = (
            not any(v.where for v in variants)
            and len(set(names)) == len(names)
            and not any(map(_ODD_NAME.search, names))
        )
        self._kinds: dict[str, str | None] = dict(zip(names, (c.kind for c in layout.columns), strict=True))
        if self._has_blocks:
            self._fields = _BlockFields(self._kinds, [])

    def _names(self, variant: Variant | None) -> list[str]:
        mapped = variant.fields if variant else {}
        return [mapped.get(c.name, c.name) for c in self._layout.columns]

    def _notice(self, unknown: Counter[str], records: int) -> None:
        """Look in the blocks that come for the names that are often unknown in records of this one."""
        extras = self._fields.extras
        often = [n for n, times in unknown.items() if times * _OFTEN >= records and n not in extras]
        if often := [n for n in often if not _ODD_NAME.search(n)][: _MOST_EXTRAS - len(extras)]:
            # Replaced whole: another thread's block goes on with those it began with.
            self._fields = _BlockFields(self._kinds, sorted([*extras, *often]))

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
        columns, wrong, numbers, odd = self._regular(utf8)
        bad |= wrong
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
            arrow = pa.float64() if column.kind == "double" else _ARROW_TYPES.get(column.kind, pa.string())
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

    def _regular(self, data: bytes) -> tuple[dict[str, pa.Array], dict[int, str], Any, list[int]]:
        """The columns of the regular lines, what is wrong in which line, their numbers, and the odd lines."""
        import numpy as np

        octets = np.frombuffer(data, np.uint8)
        ends = np.flatnonzero(octets == 10)
        starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
        last = ends - 1 - (octets[ends - 1] == 13)
        # "}" and "{" never meet within a value: where every line is {...}, none goes over a line's end.
        numbers = np.flatnonzero((octets[starts] == 123) & (octets[last] == 125))
        lines = _Block(data, len(ends))
        fields, records = None, []
        if self._has_blocks:
            fields = self._fields
            records = _decoded(fields.by_kind.decoder, lines.only(numbers), len(numbers))
        if None in records:
            numbers = numbers[[record is not None for record in records]]
            records = [record for record in records if record is not None]
        if not records:
            nothing = {f.name: pa.array([], f.type) for f in self._layout.schema}
            return nothing, {}, np.empty(0, np.int64), list(range(len(ends)))
        arrays, absent = fields.by_kind.columns(records)
        is_odd = np.zeros(len(records), bool)
        taken = np.frombuffer(lines.only(numbers), np.uint8)
        size = np.count_nonzero(taken != 32) - int((ends - last)[numbers].sum())
        # No line takes less than its fields: where all together take no more, none does.
        if fields.by_kind.total(arrays, absent) != size:
            spaces = np.diff(np.searchsorted(np.flatnonzero(octets == 32), ends), prepend=0)
            sizes = (last + 1 - starts - spaces)[numbers]
            is_odd = fields.by_kind.least(arrays, absent) != sizes
            # An escape takes more than the text it means: what came is measured instead.
            unsure = np.flatnonzero(is_odd)
            came = fields.as_they_came.decoder.decode_lines(lines.only(numbers[unsure]))
            if len(unsure):
                is_odd[unsure] = (
                    fields.as_they_came.least(*fields.as_they_came.columns(came)) != sizes[unsure]
                )
        columns: dict[str, pa.Array] = {}
        wrong: dict[int, str] = {}
        for column, array in zip(self._layout.columns, arrays, strict=False):
            if column.kind not in _ARROW_TYPES:
                array = pc.if_else(pc.equal(array, "null"), None, array)
            if column.kind in ("double", "numeric"):
                form = _NUMBER if column.kind == "double" else _NUMBER_OR_TEXT
                fits = pc.match_substring_regex(array, form).fill_null(True)
                is_odd |= ~fits.to_numpy(zero_copy_only=False)
                array = pc.utf8_trim(pc.if_else(fits, array, None), '"')
            if column.kind == "double":
                array = _floats(array)
                is_odd |= ~pc.is_finite(array).fill_null(True).to_numpy(zero_copy_only=False)
            columns[column.name], places = _typed(column, array)
            for place in places:
                wrong.setdefault(place, f"{column.name} is no {column.kind}")
        if self._layout.variants:
            variant = self._variants[0].name if self._variants else None
            columns[VARIANT] = pa.repeat(pa.scalar(variant, pa.string()), len(records))
        columns[EXTRA] = _objects(fields.extras, arrays[len(self._layout.columns) :], len(records))
        wrong = {int(numbers[place]): reason for place, reason in wrong.items() if not is_odd[place]}
        if is_odd.any():
            keep = pa.array(~is_odd)
            columns = {name: array.filter(keep) for name, array in columns.items()}
            numbers = numbers[~is_odd]
        others = np.ones(len(ends), bool)
        others[numbers] = False
        return columns, wrong, numbers, np.flatnonzero(others).tolist()


class _Block:
    """Lines one after the other, which are cut only where not all of them are wanted."""

    def __init__(self, data: bytes, count: int) -> None:
        self._data = data
        self._count = count
        self._lines: list[bytes] = []

    def only(self, numbers: Any) -> bytes:
        """The lines of these numbers."""
        if len(numbers) == self._count:
            return self._data
        self._lines = self._lines or self._data.split(b"\n")
        return b"".join(self._lines[i] + b"\n" for i in numbers)


class _BlockFields:
    """The fields to look for in blocks: those of columns, by kind, and `extras`, names nobody declared."""

    def __init__(self, kinds: dict[str, str | None], extras: list[str]) -> None:
        kinds = kinds | dict.fromkeys(extras)
        self.extras = extras
        self.by_kind = _Fields(kinds)
        self.as_they_came = _Fields(dict.fromkeys(kinds))


class _Fields:
    """The fields to look for in a block's records, by name, and the kind of each; None: as it came."""

    def __init__(self, kinds: dict[str, str | None]) -> None:
        import msgspec

        types = {kind: json_type | None | msgspec.UnsetType for kind, json_type in _json_types().items()}
        self._kinds = kinds
        record = msgspec.defstruct(
            "Record",
            [
                (f"f{i}", types[kind], msgspec.UNSET)
                if kind in types
                else (f"f{i}", msgspec.Raw, msgspec.Raw(b""))
                for i, kind in enumerate(kinds.values())
            ],
            rename={f"f{i}": name for i, name in enumerate(kinds)},
            gc=False,
        )
        self.decoder = msgspec.json.Decoder(record)

    def columns(self, records: list[Any]) -> tuple[list[pa.Array], list[Any]]:
        """The values of each field, and which records lack it (None: none does).

        Where a record lacks a field it is null; a value without a kind is text as it came, `null` too.
        """
        import msgspec

        fields = zip(*map(msgspec.structs.astuple, records), strict=True)
        found = [
            _array(values, _ARROW_TYPES.get(kind))
            for kind, values in zip(self._kinds.values(), fields, strict=True)
        ]
        return [array for array, _ in found], [absent for _, absent in found]

    def least(self, arrays: list[pa.Array], absent: list[Any]) -> Any:
        """The least number of octets, spaces aside, that each record takes."""
        import numpy as np

        total = np.ones(len(arrays[0]), np.int64)  # a brace more than commas
        for (name, kind), array, lacks in zip(self._kinds.items(), arrays, absent, strict=True):
            if array.type == pa.string():
                sizes = _octets(array) + (2 if kind in _ARROW_TYPES else 0)
            elif array.type == pa.bool_():
                sizes = np.where(array.fill_null(True).to_numpy(zero_copy_only=False), 4, 5)
            else:
                sizes = _octets(pc.cast(array, pa.string()))
            if array.null_count:
                sizes = np.where(array.is_valid().to_numpy(zero_copy_only=False), sizes, len("null"))
            sizes = sizes + _frame(name)
            total += sizes if lacks is None else np.where(lacks, 0, sizes)
        return total

    def total(self, arrays: list[pa.Array], absent: list[Any]) -> int:
        """The sum of `least`."""
        import numpy as np

        total = len(arrays[0])
        for (name, kind), array, lacks in zip(self._kinds.items(), arrays, absent, strict=True):
            missing = 0 if lacks is None else int(np.count_nonzero(lacks))
            present = len(array) - missing
            total += present * _frame(name) + len("null") * (array.null_count - missing)
            if array.type == pa.bool_():
                total += 5 * (len(array) - array.null_count) - array.true_count
                continue
            _, bounds, content = (
                array if array.type == pa.string() else pc.cast(array, pa.string())
            ).buffers()
            end = int(np.frombuffer(bounds, np.int32, len(array) + 1)[-1])
            if end:
                total += np.count_nonzero(np.frombuffer(content, np.uint8, end) != 32)
            if kind in _ARROW_TYPES and array.type == pa.string():
                total += 2 * (len(array) - array.null_count)
        return total


def _frame(name: str) -> int:
    """What a field takes besides its value."""
    return len(f'"{name}":,'.replace(" ", "").encode())


def _json_types() -> dict[str, Any]:
    import msgspec

    whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    return dict.fromkeys(_ARROW_TYPES, str) | {"bigint": whole, "boolean": bool}


def _decoded(decoder: Any, data: bytes, count: int) -> list[Any]:
    """The record of each of so many lines, None for one that is none; each line is {...}."""
    import msgspec

    try:
        records = decoder.decode_lines(data)
        if len(records) == count:
            return records
    except (msgspec.DecodeError, RecursionError):
        pass
    if count <= 1:
        return [None] * count
    half = data.find(b"\n", len(data) // 2) + 1
    if half in (0, len(data)):
        half = data.rfind(b"\n", 0, -1) + 1
    first = data.count(b"\n", 0, half)
    return _decoded(decoder, data[:half], first) + _decoded(decoder, data[half:], count - first)


def _array(values: tuple[Any, ...], arrow: pa.DataType | None) -> tuple[pa.Array, Any]:
    """The values of a field, null where there is none, and where that is; None: nowhere."""
    import msgspec
    import numpy as np

    if arrow is None:
        bounds = np.zeros(len(values) + 1, np.int32)
        np.cumsum(np.fromiter(map(len, values), np.int32, len(values)), out=bounds[1:])
        is_absent = bounds[1:] == bounds[:-1]
        valid = pa.py_buffer(np.packbits(~is_absent, bitorder="little")) if is_absent.any() else None
        buffers = [valid, pa.py_buffer(bounds), pa.py_buffer(b"".join(values))]
        return pa.Array.from_buffers(pa.string(), len(values), buffers), is_absent if valid else None
    try:
        return pa.array(values, arrow), None
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        is_absent = np.array([value is msgspec.UNSET for value in values])
        return pa.array([None if value is msgspec.UNSET else value for value in values], arrow), is_absent


def _octets(texts: pa.Array) -> Any:
    """How many octets but spaces each text takes."""
    import numpy as np

    _, bounds, content = texts.buffers()
    sizes = np.diff(np.frombuffer(bounds, np.int32, len(texts) + 1))
    if content and (np.frombuffer(content, np.uint8) == 32).any():
        return sizes - pc.count_substring(texts, " ").fill_null(0).to_numpy()
    return sizes


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
