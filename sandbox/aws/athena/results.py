"""What a statement returns: values as Athena prints them, files in the output location, pages of rows."""

import base64
import json
import re
from decimal import Decimal
from typing import Any

from . import types

MAX_PAGE = 1000

Row = list[str | None]


def render(value: Any, signature: dict[str, Any], *, nested: bool = False) -> str | None:
    """A value of Trino's protocol as Athena prints it; None is null."""
    if value is None:
        return "null" if nested else None
    kind = signature["rawType"]
    arguments = signature.get("arguments") or []
    if kind == "boolean":
        return "true" if value else "false"
    if kind in ("double", "real"):
        return _render_float(value)
    if kind == "array":
        return "[" + ", ".join(render(item, arguments[0]["value"], nested=True) for item in value) + "]"
    if kind == "map":
        pairs = (f"{key}={render(item, arguments[1]['value'], nested=True)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if kind == "row":
        fields = []
        for number, (item, argument) in enumerate(zip(value, arguments, strict=True)):
            name = (argument["value"].get("fieldName") or {}).get("name", f"field{number}")
            fields.append(f"{name}={render(item, argument['value']['typeSignature'], nested=True)}")
        return "{" + ", ".join(fields) + "}"
    if kind == "varbinary":
        return base64.b64decode(value).hex(" ")
    return str(value)


def _render_float(value: float | str) -> str:
    """As Java prints it: plain from 0.001 to 10 million, else like `1.0E12`."""
    if isinstance(value, str):  # NaN, Infinity
        return value
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(float(value))
    sign, digits, exponent = Decimal(repr(float(value))).normalize().as_tuple()
    text = "".join(map(str, digits))
    return f"{'-' if sign else ''}{text[0]}.{text[1:] or '0'}E{exponent + len(text) - 1}"


class Results:
    """Collects the result of one statement, as the bytes of its file."""

    def __init__(self, *, with_header: bool) -> None:
        self.with_header = with_header
        self.columns: list[dict[str, Any]] = []
        """As GetQueryResults describes them."""
        self.update_count: int | None = None
        self._chunks: list[bytes] = []

    def add(self, columns: list[dict[str, Any]], rows: list[list[Any]]) -> None:
        """Adds rows of Trino's protocol."""
        if columns and not self.columns:
            self.columns = [types.column_info(column) for column in columns]
            if self.with_header:
                self._chunks.append(_csv_line([column["name"] for column in columns]))
        if rows:
            signatures = [column["typeSignature"] for column in columns]
            for row in rows:
                self._chunks.append(_csv_line([render(v, s) for v, s in zip(row, signatures, strict=True)]))

    def set_text(self, names: list[str], lines: list[str], kind: str = "string") -> None:
        """The result of DDL or a utility: text without a header; a line is a row.

        Args:
            names: of the columns.
            lines: without line breaks; columns are separated by tabs.
            kind: type of the columns. What Hive answers are strings, what Trino does `varchar`:
                https://github.com/pyathena-dev/PyAthena/blob/v3.34.0/tests/pyathena/arrow/test_cursor.py.
        """
        self.columns = [types.column_info({"name": name, "type": kind}) for name in names]
        self._chunks = [line.encode() + b"\n" for line in lines]

    def clear(self) -> None:
        """Forgets the rows: the statement returns none."""
        self.columns, self._chunks = [], []

    def release(self) -> None:
        """Forgets the rows, which are in the file now."""
        self._chunks = []

    def content(self) -> bytes:
        """The file."""
        return b"".join(self._chunks)

    def metadata(self) -> bytes:
        """The file beside it. Athena's is binary and undocumented; this one only says the same."""
        return json.dumps({"ColumnInfo": self.columns}).encode()


def _csv_line(values: Row) -> bytes:
    """Every value quoted; null is empty and has no quotes."""
    return (
        ",".join("" if value is None else '"' + value.replace('"', '""') + '"' for value in values) + "\n"
    ).encode()


_FIELD = re.compile(rb'(?:"((?:[^"]|"")*)"|([^",\n]*))(,|\n|\Z)')


def read_page(content: bytes, start: int, size: int, *, csv: bool) -> tuple[list[Row], int | None]:
    """Rows of a result file from a place in it, and the place of the next row, None at the end."""
    rows: list[Row] = []
    if not csv:
        while start < len(content) and len(rows) < size:
            end = content.find(b"\n", start)
            end = len(content) if end < 0 else end
            rows.append([content[start:end].decode()])
            start = end + 1
    else:
        while start < len(content) and len(rows) < size:
            row, start = _csv_row(content, start)
            rows.append(row)
    return rows, start if start < len(content) else None


def _csv_row(content: bytes, place: int) -> tuple[Row, int]:
    """The row that begins at a place, and the place of the next one."""
    row: Row = []
    while True:
        field = _FIELD.match(content, place)
        if field[1] is not None:
            row.append(field[1].replace(b'""', b'"').decode())
        else:
            row.append(field[2].decode() or None)
        place = field.end()
        if field[3] != b",":
            return row, place
