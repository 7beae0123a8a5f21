"""Types in the words of Hive and Glue, of Trino, and of Athena's results."""

import re
from typing import Any

from .lexer import Lexer, quote_name, split_list, unquote

_TO_TRINO = {"string": "varchar", "int": "integer", "float": "real", "binary": "varbinary"}
_TO_HIVE = {"integer": "int", "real": "float", "varbinary": "binary"}
_NESTED = re.compile(r"(array|map|struct)\s*<(.*)>\s*\Z", re.S | re.I)
_NESTED_TRINO = re.compile(r"(array|map|row)\s*\((.*)\)\s*\Z", re.S | re.I)

HIVE_TYPES = frozenset(
    "boolean tinyint smallint int integer bigint double float decimal char varchar string binary date"
    " timestamp".split()
)
"""What a column of CREATE TABLE may have: https://docs.aws.amazon.com/athena/latest/ug/data-types.html."""

ICEBERG_TYPES = frozenset(
    "boolean int integer long bigint double float decimal string binary date timestamp timestamptz"
    " uuid".split()
)
"""https://docs.aws.amazon.com/athena/latest/ug/querying-iceberg-supported-data-types.html."""


def hive_to_trino(text: str) -> str:
    """A column's type of an Iceberg table, as Trino reads it; timestamps have microseconds there."""
    text = text.strip()
    if nested := _NESTED.match(text):
        kind, parts = nested[1].lower(), split_list(nested[2])
        if kind == "struct":
            fields = (part.split(":", 1) for part in parts)
            inside = ", ".join(f"{quote_name(unquote(n.strip()))} {hive_to_trino(t)}" for n, t in fields)
            return f"row({inside})"
        return f"{kind}({', '.join(hive_to_trino(part) for part in parts)})"
    text = text.lower()
    if text == "timestamp":
        return "timestamp(6)"
    if text == "timestamptz":
        return "timestamp(6) with time zone"
    if text == "long":
        return "bigint"
    return _TO_TRINO.get(text, text)


def trino_to_hive(text: str) -> str:
    """A type of Trino, as Glue has it."""
    text = text.strip()
    if nested := _NESTED_TRINO.match(text):
        kind, parts = nested[1].lower(), split_list(nested[2])
        if kind == "row":
            fields = []
            for part in parts:
                name = Lexer(part).take()
                fields.append(f"{unquote(name.text)}:{trino_to_hive(part[name.end :])}")
            return f"struct<{','.join(fields)}>"
        return f"{kind}<{','.join(trino_to_hive(part) for part in parts)}>"
    text = text.lower()
    if text.startswith("timestamp"):
        return "timestamp"
    if text == "varchar":
        return "string"
    return _TO_HIVE.get(text, text)


def base_type(text: str) -> str:
    """The type without its parameters: `decimal(10,2)` → `decimal`."""
    return re.split(r"[(<\s]", text.strip().lower(), maxsplit=1)[0]


def leaf_types(text: str) -> list[str]:
    """The simple types within a type of Hive."""
    if nested := _NESTED.match(text.strip()):
        parts = split_list(nested[2])
        if nested[1].lower() == "struct":
            parts = [part.partition(":")[2] for part in parts]
        return [leaf for part in parts for leaf in leaf_types(part)]
    return [text.strip().lower()]


# Precision as Athena reports it for types that have no parameter of their own.
_PRECISION = {
    "varchar": 2147483647,
    "tinyint": 3,
    "smallint": 5,
    "integer": 10,
    "bigint": 19,
    "float": 17,
    "double": 17,
    "timestamp": 3,
    "timestamp with time zone": 3,
    "time": 3,
    "varbinary": 1073741824,
}


def column_info(column: dict[str, Any]) -> dict[str, Any]:
    """A column of a result as GetQueryResults describes it: types without their parameters."""
    text = column["type"].lower()
    precision = scale = 0
    if found := re.fullmatch(r"decimal\((\d+),\s*(\d+)\)", text):
        precision, scale = int(found[1]), int(found[2])
    if found := re.fullmatch(r"(?:varchar|char)\((\d+)\)", text):
        precision = int(found[1])
    if text.startswith(("timestamp", "time(", "time ")):
        kind = re.sub(r"\(\d+\)", "", text)
    else:
        kind = base_type(text)
    kind = {"real": "float"}.get(kind, kind)
    return {
        "CatalogName": "hive",
        "SchemaName": "",
        "TableName": "",
        "Name": column["name"],
        "Label": column["name"],
        "Type": kind,
        "Precision": precision or _PRECISION.get(kind, 0),
        "Scale": scale,
        "Nullable": "UNKNOWN",
        "CaseSensitive": kind in ("varchar", "char"),
    }
