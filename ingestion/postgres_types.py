"""How each PostgreSQL type gets to the lake: what is selected, how it is decoded, and what cannot be held.

    PostgreSQL                                      lake
    smallint, integer, bigint, oid                  int16, int32, int64, int64
    real, double precision                          float, double (where NaN and infinity are values)
    numeric(p,s), p up to 76                        decimal128(p,s), decimal256(p,s); NaN, infinity: rejected
    numeric without p, or p over 76                 string, or what `numeric` says in sources.yml
    boolean, bytea                                  bool, binary
    date, timestamp, timestamptz                    date32, timestamp[us], timestamp[us, UTC];
                                                    infinity, and what is after 294246: rejected
    time                                            time64[us]; 24:00:00: rejected
    text, varchar, name, uuid, json, jsonb, enum, … string: PostgreSQL's own text
    char(n)                                         string without its padding, as PostgreSQL casts it
    interval                                        string, ISO 8601 (`P1Y2M3DT4H`)
    composite                                       string: JSON
    array with one dimension                        list of the element's type; other dimensions: rejected
    domain                                          as the type it is based on

A rejected value makes its row a dead letter: nothing is rounded, cut or replaced. DuckDB and Athena know
decimals of up to 38 digits (DuckDB reads a wider one as double): for wider columns say `numeric: string`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from ingestion.lake import TIMESTAMP

Mask = np.ndarray | None
"""Per value, whether the lake cannot hold it; None when it can hold all of them."""
Decoder = Callable[[pa.Array], tuple[pa.Array, Mask]]

# The driver adds 1970-to-2000 to PostgreSQL's integers; what overflows, as both infinities do, wraps round to
# before 4713 BC, where PostgreSQL itself has no value.
_FIRST_DAY = -2_440_588
# DuckDB reads the very last microsecond as infinity.
_LAST_TIMESTAMP = "294247-01-10 04:00:54.775806"
_DAY = 86_400_000_000
_MICROSECONDS = (_FIRST_DAY * _DAY, 2**63 - 2)
# The years 1 to 9999, which every reader of a watermark knows.
_CURSOR_DAYS = (-719_162, 2_932_896)
_CURSOR_MICROSECONDS = (-719_162 * _DAY, 2_932_897 * _DAY - 1)


@dataclass(frozen=True)
class Column:
    """A source column on its way to the lake.

    `select` is the SQL expression that the driver fetches and `decode` makes of it an array of `type`.
    `unfit` is an SQL condition that holds for exactly the values that the lake cannot hold (None: it holds
    all), and `reason` says what is wrong with those. Most are found by `decode`, which costs nothing; those
    that the driver hides are found by PostgreSQL, with the SQL condition `guard`.
    """

    name: str
    select: str
    type: pa.DataType
    decode: Decoder
    unfit: str | None = None
    reason: str = ""
    guard: str | None = None
    nullable: bool = True


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def column(
    name: str,
    kind: str,
    *,
    nullable: bool = True,
    domain: bool = False,
    composite: bool = False,
    element: str | None = None,
    cursor: bool = False,
    numeric: str | None = None,
) -> Column:
    """How a column is landed.

    Args:
        name: the column's name.
        kind: its type as `format_type` writes it; of a domain, the type it is based on.
        nullable: whether it may hold nulls.
        domain: whether the column's own type is a domain over `kind`.
        composite: whether `kind` is a composite type.
        element: of an array, the type of its elements; `kind` is then the array type.
        cursor: whether the column orders the table's versions: it has to fit the years 1 to 9999.
        numeric: `string` or `decimal(p,s)`: the type of numeric without precision or beyond 38 digits;
            unless given, decimal256 where the precision is known, string where it is not.

    Raises:
        ValueError: `numeric` is neither.
    """
    source = quoted(name)
    if element is not None:
        made = _list(name, source, element, numeric)
    elif composite:
        made = Column(name, f"to_json({source})::text", pa.string(), _as_it_is)
    else:
        made = _scalar(name, f"{source}::{kind}" if domain else source, kind, cursor, numeric)
    return replace(made, nullable=nullable)


def _scalar(name: str, source: str, kind: str, cursor: bool, numeric: str | None) -> Column:
    if kind in _SIMPLE:
        return Column(name, source, _SIMPLE[kind], _as_it_is)
    if kind == "oid":
        return Column(name, f"{source}::bigint", pa.int64(), _as_it_is)
    if kind == "date":
        limits = _CURSOR_DAYS if cursor else (_FIRST_DAY, None)
        return Column(name, source, pa.date32(), _within(np.int32, *limits), *_finite(source, cursor))
    if found := re.fullmatch(r"timestamp(\(\d\))? (with|without) time zone", kind):
        arrow = TIMESTAMP if found[2] == "with" else pa.timestamp("us")
        limits = _CURSOR_MICROSECONDS if cursor else _MICROSECONDS
        unfit, reason = _finite(source, cursor)
        if not cursor:
            unfit = f"({unfit} or {source} > '{_LAST_TIMESTAMP}')"
        return Column(name, source, arrow, _within(np.int64, *limits), unfit, reason)
    if re.fullmatch(r"time(\(\d\))? without time zone", kind):
        decode = _within(np.int64, 0, _DAY - 1)
        return Column(name, source, pa.time64("us"), decode, f"{source} = '24:00'", "24:00:00 is no time")
    if kind.startswith("numeric") and (decimal := _decimal(kind, numeric)):
        return _numeric(name, source, decimal, exact=decimal == _decimal(kind, None))
    return Column(name, f"{source}::text", pa.string(), _as_it_is)


_SIMPLE = {
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "boolean": pa.bool_(),
    "text": pa.string(),
    "bytea": pa.binary(),
}


def _as_it_is(values: pa.Array) -> tuple[pa.Array, Mask]:
    return values, None


def _finite(source: str, cursor: bool) -> tuple[str, str]:
    """The condition for a date or timestamp that cannot be held, and its reason."""
    if cursor:
        return (
            f"({source} < '0001-01-01' or {source} >= '10000-01-01')",
            "a cursor beyond the years 1 to 9999",
        )
    return f"not isfinite({source})", "infinite, or beyond the year 294246"


def _within(integers: type, first: int, last: int | None) -> Decoder:
    """Check days or microseconds, the null ones aside: the driver writes 0 there."""

    def decode(values: pa.Array) -> tuple[pa.Array, Mask]:
        numbers = np.frombuffer(values.buffers()[1], integers)[values.offset : values.offset + len(values)]
        if numbers.min(initial=first) >= first and (last is None or numbers.max(initial=last) <= last):
            return values, None
        unfit = numbers < first if last is None else (numbers < first) | (numbers > last)
        return values, unfit & _valid(values)

    return decode


def _valid(values: pa.Array) -> np.ndarray:
    return values.is_valid().to_numpy(zero_copy_only=False)


# ---------------------------------------------------------------- numeric


def _decimal(kind: str, policy: str | None) -> pa.DataType | None:
    """The decimal for a numeric type, None when it is landed as a string."""
    if found := re.fullmatch(r"numeric\((\d+),(-?\d+)\)", kind):
        precision, scale = int(found[1]), int(found[2])
        # PostgreSQL also has numeric(2,-3), thousands, and numeric(2,5), hundred-thousandths.
        precision, scale = max(precision, scale, precision - scale), max(scale, 0)
        if precision <= 38 or (precision <= 76 and policy is None):
            return _arrow_decimal(precision, scale)
    if policy in (None, "string"):
        return None
    found = re.fullmatch(r"decimal\((\d{1,2}),\s*(\d{1,2})\)", policy)
    if not found or not 0 < int(found[1]) <= 76 or int(found[2]) > int(found[1]):
        raise ValueError(policy)
    return _arrow_decimal(int(found[1]), int(found[2]))


def _arrow_decimal(precision: int, scale: int) -> pa.DataType:
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def _numeric(name: str, source: str, decimal: pa.DataType, *, exact: bool) -> Column:
    """A numeric column; `exact` says that only NaN and infinity, and no number, can be unfit."""
    if exact and _fits_int64(decimal):
        unfit = f"{source}::text in ('NaN', 'Infinity', '-Infinity')"
        return Column(
            name,
            f"numeric_send({source})",
            decimal,
            _from_binary(decimal),
            unfit,
            f"no {decimal}: not a number",
        )
    pattern = rf"^-?0*[0-9]{{0,{decimal.precision - decimal.scale}}}(\.[0-9]{{0,{decimal.scale}}}0*)?$"
    unfit = f"{source}::text !~ '{pattern}'"
    reason = f"no {decimal}: not a number, too large, or with more decimal places"
    return Column(name, f"{source}::text", decimal, _from_text(decimal, pattern), unfit, reason)


def _from_text(decimal: pa.DataType, pattern: str) -> Decoder:
    def decode(values: pa.Array) -> tuple[pa.Array, Mask]:
        import pyarrow.compute as pc

        fits = pc.match_substring_regex(values, pattern)
        unfit = None
        if pc.all(fits).as_py() is False:
            unfit = pc.invert(fits).fill_null(False).to_numpy(zero_copy_only=False)
            values = pc.if_else(fits, values, None)
        # Zeros beyond the scale are no part of the value.
        values = pc.replace_substring_regex(values, r"(\.[0-9]*?)0+$", r"\1")
        return pc.cast(values, decimal), unfit

    return decode


def _fits_int64(decimal: pa.DataType) -> bool:
    return decimal.precision - decimal.scale + _whole_digits(decimal.scale) <= 18


def _whole_digits(scale: int) -> int:
    return -(-scale // 4) * 4


def _from_binary(decimal: pa.DataType) -> Decoder:
    """Decode PostgreSQL's binary numeric, which has digits of base 10,000, a whole column at a time.

    A value is the big-endian int16s ndigits, weight, sign, dscale, digit, digit, …, and means the sum of
    digit[i] * 10,000 ** (weight - i); trailing zero digits are left out.
    """
    wide = _whole_digits(decimal.scale)
    shrink = 10 ** (wide - decimal.scale)
    # powers[weight - i] for the digits that a value can have, negative ones (decimals) from the end;
    # the last but one entry stands for digits that are not there.
    lowest, highest = -(wide // 4), (18 - wide) // 4
    powers = np.array([10 ** (4 * e + wide) for e in range(lowest, highest + 1)] + [0], np.int64)

    def decode(values: pa.Array) -> tuple[pa.Array, Mask]:
        count = len(values)
        _, offsets, data = values.buffers()
        if data is None or count == 0:
            return pa.nulls(count, decimal), None
        starts = np.frombuffer(offsets, np.int32, count + 1, values.offset * 4) >> 1
        words = np.frombuffer(data, ">i2", starts[-1]).astype(np.int16)
        # A null has no words, a short value fewer than the longest: reading on has to stay inside.
        words = np.concatenate([words, np.zeros(4 + len(powers), np.int16)])
        starts = starts[:-1]
        digits, weight, sign = words[starts], words[starts + 1], words[starts + 2]
        nulls = None
        if values.null_count:
            nulls = ~_valid(values)
            digits[nulls] = 0
            sign[nulls] = 0
        total = np.zeros(count, np.int64)
        exponent = weight.astype(np.intp) - lowest
        if digits.max(initial=0) >= len(powers) or (exponent < digits - 1).any():
            raise pa.ArrowInvalid(f"more digits than {decimal}")
        for i in range(digits.max(initial=0)):
            present = digits > i
            power = powers[np.where(present, exponent - i, -1)]
            total += power * words[starts + (4 + i)]
        if shrink > 1:
            total //= shrink
        negative = sign == 0x4000
        np.negative(total, out=total, where=negative)
        unfit = sign < 0  # NaN 0xC000, infinity 0xD000, -infinity 0xF000
        pair = np.empty((count, 2), np.int64)
        pair[:, 0] = total
        pair[:, 1] = total >> 63
        # The validity is copied with its offset, if any, by building the array from a mask.
        validity = None if nulls is None else pa.array(~nulls).buffers()[1]
        array = pa.Array.from_buffers(decimal, count, [validity, pa.py_buffer(pair)])
        return array, unfit if unfit.any() else None

    return decode


# ---------------------------------------------------------------- arrays


def _list(name: str, source: str, kind: str, numeric: str | None) -> Column:
    """An array of one dimension, as a list; the driver would flatten the others without a word."""
    element = _scalar("", "element", kind, False, numeric)
    if element.select == "element":
        select = source
    else:
        # Only text is cast by element at once; a binary numeric in a list is read from its text too.
        select = f"{source}::text[]"
        if pa.types.is_decimal(element.type):
            element = _numeric("", "element", element.type, exact=False)
        elif element.type != pa.string():
            select = f"{source}::{element.select.rpartition('::')[2]}[]"
    guard = f"(coalesce(array_ndims({source}), 1) > 1 or coalesce(array_lower({source}, 1), 1) <> 1)"
    unfit = guard
    if element.unfit:
        unfit += f" or exists (select from unnest({source}) as element where {element.unfit})"
    reason = "more than one dimension, or not counted from 1" + (
        f", or an element that is {element.reason}" if element.unfit else ""
    )

    def decode(values: pa.Array) -> tuple[pa.Array, Mask]:
        elements, bad = element.decode(values.values)
        lists = pa.Array.from_buffers(
            pa.list_(element.type),
            len(values),
            values.buffers()[:2],
            values.null_count,
            values.offset,
            [elements],
        )
        if bad is None:
            return lists, None
        unfit = np.zeros(len(values), bool)
        ends = np.asarray(values.offsets)[1:]
        unfit[np.searchsorted(ends, np.flatnonzero(bad), side="right")] = True
        return lists, unfit

    return Column(name, select, pa.list_(element.type), decode, f"({unfit})", reason, guard)
