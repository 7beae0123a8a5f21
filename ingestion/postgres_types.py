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

import pyarrow as pa
import pyarrow.compute as pc

from ingestion.lake import TIMESTAMP

Mask = pa.Array | None
"""Per value, whether the lake cannot hold it (never null); None when it can hold all of them."""
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
        return Column(name, source, pa.date32(), _within(*limits), *_finite(source, cursor))
    if found := re.fullmatch(r"timestamp(\(\d\))? (with|without) time zone", kind):
        arrow = TIMESTAMP if found[2] == "with" else pa.timestamp("us")
        limits = _CURSOR_MICROSECONDS if cursor else _MICROSECONDS
        unfit, reason = _finite(source, cursor)
        if not cursor:
            unfit = f"({unfit} or {source} > '{_LAST_TIMESTAMP}')"
        return Column(name, source, arrow, _within(*limits), unfit, reason)
    if re.fullmatch(r"time(\(\d\))? without time zone", kind):
        decode = _within(0, _DAY - 1)
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


def _within(first: int, last: int | None) -> Decoder:
    """Check days or microseconds."""

    def decode(values: pa.Array) -> tuple[pa.Array, Mask]:
        numbers = values.view(pa.int32() if values.type.bit_width == 32 else pa.int64())
        lowest, highest = pc.min_max(numbers).values()
        if not lowest.is_valid or (lowest.as_py() >= first and (last is None or highest.as_py() <= last)):
            return values, None
        unfit = pc.less(numbers, first)
        if last is not None:
            unfit = pc.or_(unfit, pc.greater(numbers, last))
        return values, pc.fill_null(unfit, False)

    return decode


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
        fits = pc.match_substring_regex(values, pattern)
        unfit = None
        if pc.all(fits).as_py() is False:
            unfit = pc.invert(fits).fill_null(False)
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
    # powers[weight - i - lowest] for the digits that a value can have; the last entry stands for digits that
    # are not there.
    lowest, highest = -(wide // 4), (18 - wide) // 4
    powers = pa.array([10 ** (4 * e + wide) for e in range(lowest, highest + 1)] + [0], pa.int64())
    longest = len(powers) - 1
    absent = pa.scalar(longest, pa.int32())
    # A null has no words, a short value fewer than the longest: reading on has to stay inside.
    padding = pa.array([0] * (4 + len(powers)), pa.uint16())
    octet, one = pa.scalar(8, pa.uint16()), pa.scalar(1, pa.int32())

    def decode(values: pa.Array) -> tuple[pa.Array, Mask]:
        count = len(values)
        _, offsets, data = values.buffers()
        if data is None or count == 0:
            return pa.nulls(count, decimal), None
        starts = pa.Array.from_buffers(pa.int32(), count + 1, [None, offsets], offset=values.offset)
        starts = pc.shift_right(starts, one)
        words = pa.Array.from_buffers(pa.uint16(), starts[-1].as_py(), [None, data])
        words = pc.bit_wise_or(pc.shift_left(words, octet), pc.shift_right(words, octet))
        words = pa.concat_arrays([words, padding])
        starts = starts.slice(0, count)

        def word(number: int) -> pa.Array:
            return pc.take(words, pc.add(starts, pa.scalar(number, pa.int32())), boundscheck=False)

        digits, sign = pc.cast(word(0), pa.int32()), word(2)
        if values.null_count:
            digits = pc.if_else(values.is_valid(), digits, pa.scalar(0, pa.int32()))
            sign = pc.if_else(values.is_valid(), sign, pa.scalar(0, pa.uint16()))
        exponent = pc.subtract(pc.cast(word(1).view(pa.int16()), pa.int32()), pa.scalar(lowest, pa.int32()))
        most = pc.max(digits).as_py()
        if most > longest or pc.any(pc.less(exponent, pc.subtract(digits, one))).as_py():
            raise pa.ArrowInvalid(f"more digits than {decimal}")
        total = None
        for i in range(most):
            number = pa.scalar(i, pa.int32())
            present = pc.greater(digits, number)
            power = pc.take(powers, pc.if_else(present, pc.subtract(exponent, number), absent))
            part = pc.multiply(power, pc.cast(word(4 + i), pa.int64()))
            total = part if total is None else pc.add(total, part)
        if total is None:
            total = pa.repeat(pa.scalar(0, pa.int64()), count)
        if shrink > 1:
            total = pc.divide(total, shrink)
        total = pc.if_else(pc.equal(sign, 0x4000), pc.negate(total), total)
        if values.null_count:
            total = pc.if_else(values.is_valid(), total, None)
        # The digits as they are, without and with their point: a cast would look at each of them again.
        plain = pc.cast(total, pa.decimal128(19, 0))
        array = pa.Array.from_buffers(decimal, count, plain.buffers())
        unfit = pc.greater_equal(sign, 0xC000)  # NaN 0xC000, infinity 0xD000, -infinity 0xF000
        return array, unfit if pc.any(unfit).as_py() else None

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
        rows = pa.array(range(len(values)), pa.int64())
        return lists, pc.is_in(rows, value_set=pc.list_parent_indices(values).filter(bad))

    return Column(name, select, pa.list_(element.type), decode, f"({unfit})", reason, guard)
