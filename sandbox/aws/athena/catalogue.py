"""The Glue catalogue, as moto keeps it in this process: what DDL changes and reads without the engine."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

from moto.glue.models import FakeDatabase, FakeTable, GlueBackend, glue_backends

from ..corrections.glue import LOCK
from ..errors import QueryFailed, semantic_error, table_not_found

TableInput = dict[str, Any]


class Catalogue:
    """Databases and tables of one account and region. Every method is atomic."""

    def __init__(self, account: str, region: str) -> None:
        self._account, self._region = account, region
        with LOCK:
            if "default" not in self._glue.databases:  # every account's catalogue has it
                self._glue.create_database("default", {"Name": "default"})

    @property
    def _glue(self) -> GlueBackend:
        # Looked up each time: moto's reset makes a new one.
        return glue_backends[self._account][self._region]

    def databases(self) -> list[dict[str, Any]]:
        """All databases by name, as the Athena API has them."""
        with LOCK:
            found = sorted(self._glue.databases.values(), key=lambda database: database.name)
            return [_described(database) for database in found]

    def database(self, name: str) -> dict[str, Any] | None:
        """One database, if it exists."""
        with LOCK:
            found = self._glue.databases.get(name.lower())
            return found and _described(found)

    def create_database(self, name: str, definition: dict[str, Any]) -> None:
        """Makes a database."""
        with LOCK:
            if name in self._glue.databases:
                raise QueryFailed(f"FAILED: Execution Error, return code 1. Database {name} already exists")
            self._glue.create_database(name, {"Name": name, **definition})

    def drop_database(self, name: str) -> None:
        """Removes a database and what it has."""
        with LOCK:
            self._glue.databases.pop(name, None)

    def tables(self, database: str) -> dict[str, TableInput]:
        """The tables of a database by name, in order."""
        with LOCK:
            found = self._glue.databases.get(database.lower())
            if found is None:
                raise semantic_error(10072, f"Database does not exist: {database}")
            return {name: _current(table) for name, table in sorted(found.tables.items())}

    def find(self, database: str, table: str) -> TableInput | None:
        """A table's definition, as Glue's TableInput, if it exists."""
        with LOCK:
            found = self._find(database, table)
            return found and _current(found)

    def table(self, database: str, table: str) -> TableInput:
        """A table's definition.

        Raises:
            QueryFailed: there is no such table.
        """
        found = self.find(database, table)
        if found is None:
            raise table_not_found(database, table)
        return found

    def create_table(self, database: str, definition: TableInput) -> None:
        """Makes a table of a complete definition."""
        with LOCK:
            if database not in self._glue.databases:
                raise semantic_error(10072, f"Database does not exist: {database}")
            if self._find(database, definition["Name"]):
                raise QueryFailed(
                    "FAILED: Execution Error, return code 1 from org.apache.hadoop.hive.ql.exec.DDLTask."
                    f" AlreadyExistsException(message:Table {definition['Name']} already exists.)"
                )
            self._glue.create_table(database, definition["Name"], definition)

    def update_table(self, database: str, table: str, change: Callable[[TableInput], None]) -> None:
        """Lets `change` change a table's definition; it becomes a new version."""
        with LOCK:
            found = self._find(database, table)
            if found is None:
                raise table_not_found(database, table)
            definition = _current(found)
            change(definition)
            found.update(definition)

    def amend_table(self, database: str, table: str, change: Callable[[TableInput], None]) -> None:
        """Like `update_table`, without a new version: completes what the engine has just written."""
        with LOCK:
            if found := self._find(database, table):
                change(found.versions[str(found._current_version)])

    def drop_table(self, database: str, table: str) -> None:
        """Removes a table; its data stay."""
        with LOCK:
            if self._find(database, table):
                self._glue.delete_table(database, table)

    def partitions(self, database: str, table: str) -> list[dict[str, Any]]:
        """A table's partitions, as Glue's PartitionInput, in order of their values."""
        with LOCK:
            found = self._find(database, table)
            inputs = [copy.deepcopy(part.partition_input) for part in found.partitions.values()]
            return sorted(inputs, key=lambda part: part["Values"])

    def create_partition(self, database: str, table: str, values: list[str], location: str) -> bool:
        """Adds a partition; False if there is one of these values."""
        with LOCK:
            found = self._find(database, table)
            if str(values) in found.partitions:
                return False
            storage = _current(found)["StorageDescriptor"] | {"Location": location}
            found.create_partition({"Values": values, "StorageDescriptor": storage, "Parameters": {}})
            return True

    def drop_partition(self, database: str, table: str, values: list[str]) -> bool:
        """Removes a partition; False if there is none of these values."""
        with LOCK:
            return self._find(database, table).partitions.pop(str(values), None) is not None

    def _find(self, database: str, table: str) -> FakeTable | None:
        found = self._glue.databases.get(database.lower())
        return found.tables.get(table.lower()) if found else None


def is_iceberg(definition: TableInput | None) -> bool:
    """Whether a definition is an Iceberg table's."""
    return (
        definition is not None
        and (definition.get("Parameters") or {}).get("table_type", "").upper() == "ICEBERG"
    )


def is_view(definition: TableInput) -> bool:
    """Whether a definition is a view's."""
    return definition.get("TableType") == "VIRTUAL_VIEW"


def columns(definition: TableInput) -> list[dict[str, str]]:
    """All columns of a table; those it is partitioned by come last."""
    return [*definition["StorageDescriptor"].get("Columns", []), *(definition.get("PartitionKeys") or [])]


def matching(names: list[str], pattern: str | None) -> list[str]:
    """The names that match a pattern of SHOW: `*` for any characters, `|` between alternatives."""
    if not pattern:
        return names
    alternatives = "|".join(part.replace("*", ".*").replace("%", ".*") for part in pattern.lower().split("|"))
    try:
        return [name for name in names if re.fullmatch(alternatives, name)]
    except re.error:
        return []


def table_metadata(name: str, definition: TableInput) -> dict[str, Any]:
    """A table as GetTableMetadata has it."""
    storage = definition["StorageDescriptor"]
    serde = storage.get("SerdeInfo") or {}
    parameters = dict(definition.get("Parameters") or {})
    extra = {
        "location": storage.get("Location"),
        "inputformat": storage.get("InputFormat"),
        "outputformat": storage.get("OutputFormat"),
        "serde.serialization.lib": serde.get("SerializationLibrary"),
        **{f"serde.param.{key}": value for key, value in (serde.get("Parameters") or {}).items()},
    }
    parameters.update({key: value for key, value in extra.items() if value})
    return {
        "Name": name,
        "TableType": definition.get("TableType", ""),
        "Columns": [_column(column) for column in storage.get("Columns", [])],
        "PartitionKeys": [_column(column) for column in definition.get("PartitionKeys") or []],
        "Parameters": parameters,
    }


def _column(column: dict[str, Any]) -> dict[str, str]:
    return {key: column[key] for key in ("Name", "Type", "Comment") if column.get(key) is not None}


def _current(table: FakeTable) -> TableInput:
    definition = table.get_version(str(table._current_version))
    # Clients may send dates, which do not matter here.
    return json.loads(json.dumps(definition, default=str))


def _described(database: FakeDatabase) -> dict[str, Any]:
    described = {
        "Name": database.name,
        "Description": database.input.get("Description"),
        "Parameters": database.input.get("Parameters"),
        "LocationUri": database.input.get("LocationUri"),
    }
    return {key: value for key, value in described.items() if value}
