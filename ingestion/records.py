"""Turns the records of an API into rows: what fits lands, what is new is kept, what is wrong is named.

A source says once which fields it reads (`Field`). A field that is not among them goes, as it came, into
the column `_extra`; a missing field that may be missing is null; anything else that is not as promised
makes the record one for the dead letters.
"""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

_TOO_FINE = re.compile(r"[.,]\d{6}\d*[1-9]")
EXTRA = pa.field("_extra", pa.string())
"""The column of unknown fields: a JSON object, null when there are none."""


@dataclass(frozen=True)
class Field:
    """A field of a record: its name there, the column it fills, and how its value is read.

    `read` takes the JSON value (numbers with a fraction are Decimal) and raises ValueError or TypeError
    when it is not what was promised.
    """

    name: str
    column: str
    read: Callable[[Any], Any]
    required: bool = True


class BadRecord(Exception):
    """The record cannot be landed; the text says why and holds no value of it."""


def shape(record: Any, fields: Collection[Field], ignored: Collection[str] = ()) -> dict[str, Any]:
    """The record as a row: the columns of `fields` and `_extra`. `ignored` are known and not landed.

    Raises:
        BadRecord: it is no object, or a field is missing or of the wrong type.
    """
    if not isinstance(record, dict):
        raise BadRecord("the record is not an object")
    row: dict[str, Any] = {}
    for field in fields:
        value = record.get(field.name)
        if value is None and field.required:
            raise BadRecord(f"{field.name} is missing")
        try:
            row[field.column] = None if value is None else field.read(value)
        except (ValueError, TypeError, ArithmeticError):
            raise BadRecord(f"{field.name} has the wrong type or range") from None
    known = {field.name for field in fields}.union(ignored)
    extra = {name: value for name, value in record.items() if name not in known}
    row[EXTRA.name] = to_json(extra) if extra else None
    return row


def to_json(value: Any) -> str:
    """JSON in ASCII, every number with the digits it came with."""
    # The encoder knows no Decimal: each goes through it as a text with a mark that no other text begins with.
    for mark in map(chr, range(0xE000, 0xF900)):
        numbers = 0

        def marked(number: Decimal, mark: str = mark) -> str:
            nonlocal numbers
            numbers += 1
            return f"{mark}{number}"

        encoded = json.dumps(value, default=marked, separators=(",", ":"))
        text, found = re.subn(f'"\\\\u{ord(mark):04x}([^"]*)"', r"\1", encoded)
        if found == numbers:
            return text
    raise ValueError("a text for every mark there is")


def from_json(text: str) -> Any:
    """What `to_json` wrote."""
    return json.loads(text, parse_float=Decimal)


# ---------- how values are read; each raises ValueError or TypeError


def text(value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError
    value.encode()  # half a surrogate pair is no text
    return value


def whole(low: int, high: int) -> Callable[[Any], int]:
    """A whole number from `low` to `high`."""

    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError
        return value

    return read


def decimal(digits: int, places: int) -> Callable[[Any], Decimal]:
    """A number that a decimal of so many digits, so many of them places, holds exactly."""
    limit, step = Decimal(10) ** (digits - places), Decimal(1).scaleb(-places)

    def read(value: Any) -> Decimal:
        if type(value) is int:
            value = Decimal(value)
        if type(value) is not Decimal or not -limit < value < limit or value != round(value, places):
            raise ValueError
        return value.quantize(step)

    return read


def moment(value: Any) -> datetime:
    """A time with its zone, in UTC, no finer than a microsecond."""
    read = datetime.fromisoformat(value)
    if read.tzinfo is None or _TOO_FINE.search(value):
        raise ValueError
    return read.astimezone(UTC)
