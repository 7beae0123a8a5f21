"""What becomes of a table's schema when its source changes: compared with the manifest of the newest batch.

A column's type in the lake only ever widens, and only to what DuckDB (`union_by_name`) and Athena both read
together with the older files: a wider integer or float, a decimal with more digits. A narrower type in the
source goes on landing as the wide one. Everything else they do not read together: Athena refuses a text where
an integer was, and reads an integer as a hundredth where decimals are declared (trinodb/trino#21556).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ingestion.config import TableConfig
from ingestion.errors import IngestionError

_INTEGERS = ("int8", "int16", "int32", "int64")
_FLOATS = ("halffloat", "float", "double")
_DECIMAL = re.compile(r"decimal(?:32|64|128|256)\((\d+), (\d+)\)")
_MAX_PRECISION = 38  # Athena's


@dataclass(frozen=True)
class Drift:
    """The schema that a batch is landed with, and how its source differs from the batch before.

    `columns` are the source's, name → type; `landed` are all that any batch holds, with their types in the
    lake; `changes` are texts that name columns and types.
    """

    schema: pa.Schema
    columns: dict[str, str]
    landed: dict[str, str]
    changes: tuple[str, ...] = ()

    @property
    def manifest(self) -> dict[str, Any]:
        """What the batch's manifest keeps, so that the next one can be compared with it."""
        return {"columns": self.columns, "landed_columns": self.landed, "drift": list(self.changes)}


def resolve(table: TableConfig, source: pa.Schema, last: dict[str, Any] | None) -> Drift:
    """The schema to land `source` with, after the batch whose manifest is `last` (None before the first).

    Raises:
        IngestionError: the table is frozen and has changed, or no type holds what landed before and what
            would land now.
    """
    columns = {field.name: str(field.type) for field in source}
    if not last or "columns" not in last:
        return Drift(source, columns, columns)
    changes = tuple(differences(source, last["columns"]))
    if changes and table.schema_policy == "freeze":
        raise IngestionError(
            f"{table.name} is frozen and its columns have changed: {'; '.join(changes)}; nothing was landed:"
            " change the source back, or say schema_policy: evolve in sources.yml"
        )
    landed: dict[str, str] = last["landed_columns"]
    fields = []
    for field in source:
        wide = widest(landed[field.name], field.type) if field.name in landed else field.type
        if wide is None:
            raise IngestionError(
                f"{table.name}: column {field.name} landed as {landed[field.name]} and is now {field.type},"
                f" which cannot be read as one column; nothing was landed: give it another name in the lake,"
                f" rename: {{{field.name}: {field.name}_2}} in sources.yml"
            )
        fields.append(pa.field(field.name, wide))
    schema = pa.schema(fields)
    return Drift(schema, columns, landed | {f.name: str(f.type) for f in schema}, changes)


def differences(source: pa.Schema, before: dict[str, str]) -> Iterator[str]:
    """How the source's columns differ from those of a batch, as texts: `added x (int64)`."""
    for field in source:
        if field.name not in before:
            yield f"added {field.name} ({field.type})"
    for name in before:
        if name not in source.names:
            yield f"dropped {name}"
    for field in source:
        kind = before.get(field.name, str(field.type))
        if kind != str(field.type):
            yield f"{field.name} {kind} → {field.type}"


def widest(landed: str, new: pa.DataType) -> pa.DataType | None:
    """The type that holds every value of both and that every reader finds in both, or None."""
    if landed == str(new):
        return new
    for family in (_INTEGERS, _FLOATS):
        if landed in family and str(new) in family:
            return pa.type_for_alias(max(landed, str(new), key=family.index))
    was, now = _DECIMAL.fullmatch(landed), _DECIMAL.fullmatch(str(new))
    if was and now:
        scale = max(int(was[2]), int(now[2]))
        precision = scale + max(int(was[1]) - int(was[2]), int(now[1]) - int(now[2]))
        return pa.decimal128(precision, scale) if precision <= _MAX_PRECISION else None
    return None
