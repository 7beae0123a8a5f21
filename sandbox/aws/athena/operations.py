"""What each statement does: on the catalogue, on Trino, or on both."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import singledispatchmethod
from typing import Any

from ..errors import QueryFailed, semantic_error, table_not_found
from ..trino import HIVE, ICEBERG, EngineError
from . import describing, rules, translation, types
from . import statements as s
from .catalogue import TableInput, columns, is_iceberg, is_view, matching
from .lexer import (
    Dialect,
    Lexer,
    decimals_as_doubles,
    quote_name,
    quote_string,
    split_list,
    strip_statement,
    unquote,
)
from .results import render

_OPENX_JSON = "org.openx.data.jsonserde.JsonSerDe"
_VACUUM_MAX_AGE = "432000"  # seconds: Athena's default

_FORMATS = {
    "PARQUET": (
        "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
        "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
        "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe",
    ),
    "ORC": (
        "org.apache.hadoop.hive.ql.io.orc.OrcInputFormat",
        "org.apache.hadoop.hive.ql.io.orc.OrcOutputFormat",
        "org.apache.hadoop.hive.ql.io.orc.OrcSerde",
    ),
    "AVRO": (
        "org.apache.hadoop.hive.ql.io.avro.AvroContainerInputFormat",
        "org.apache.hadoop.hive.ql.io.avro.AvroContainerOutputFormat",
        "org.apache.hadoop.hive.serde2.avro.AvroSerDe",
    ),
    "RCFILE": (
        "org.apache.hadoop.hive.ql.io.RCFileInputFormat",
        "org.apache.hadoop.hive.ql.io.RCFileOutputFormat",
        "org.apache.hadoop.hive.serde2.columnar.ColumnarSerDe",
    ),
    "SEQUENCEFILE": (
        "org.apache.hadoop.mapred.SequenceFileInputFormat",
        "org.apache.hadoop.hive.ql.io.HiveSequenceFileOutputFormat",
        "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe",
    ),
    "TEXTFILE": (
        "org.apache.hadoop.mapred.TextInputFormat",
        "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
        "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe",
    ),
    "JSONFILE": (
        "org.apache.hadoop.mapred.TextInputFormat",
        "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
        "org.apache.hive.hcatalog.data.JsonSerDe",
    ),
}


class Operations:
    """The work of one execution."""

    def __init__(self, execution: Any) -> None:
        """`execution` is an `Execution`: it has the context, and takes the results."""
        self._execution = execution
        self._catalogue, self._storage = execution.catalogue, execution.storage

    @singledispatchmethod
    def run(self, statement: s.Statement) -> None:
        """Does what the statement says.

        Raises:
            QueryFailed, EngineError, EngineGone, QueryCancelled: it does not go through.
        """
        raise NotImplementedError(type(statement).__name__)

    # helpers

    def _trino(self, sql: str, session: list[str] | tuple[str, ...] = (), *, keep: bool = False) -> Any:
        return self._execution.run_on_trino(sql, session, keep=keep)

    def _text(self, names: list[str], lines: list[str], kind: str = "string") -> None:
        self._execution.results.set_text(names, lines, kind)

    def _place(self, name: list[str]) -> tuple[str, str]:
        """Database and table of a name of up to three parts."""
        if len(name) == 3 and name[0] != HIVE:
            raise QueryFailed(f"CATALOG_NOT_FOUND: Catalog '{name[0]}' not found")
        return (name[-2] if len(name) > 1 else self._execution.database), name[-1]

    def _find(self, name: list[str]) -> tuple[str, str, TableInput]:
        database, table = self._place(name)
        return database, table, self._catalogue.table(database, table)

    def _hive_table(self, name: list[str], what: str) -> tuple[str, str, TableInput]:
        database, table, definition = self._find(name)
        if is_iceberg(definition):
            raise QueryFailed(f"FAILED: SemanticException: {what} is not supported for Iceberg tables")
        return database, table, definition

    def _columns_of(self, body: str) -> list[tuple[str, str]]:
        """Names and types of what a query returns, without running it; its errors have their true places."""
        query = self._execution.query
        start = max(query.find(body), 0)
        before = re.sub(r"[^\n]", " ", query[:start])
        # The query begins where the client wrote it, if there is room for the words before it.
        wrapped = "SELECT * FROM ("
        before = wrapped + before[len(wrapped) :] if before[: len(wrapped)].strip(" ") == "" else wrapped
        result = self._trino(self._with_parameters(f"{before}{body}\n) LIMIT 0"))
        return [(column["name"], column["type"]) for column in result.columns]

    def _with_parameters(self, sql: str) -> str:
        """The statement with the execution's parameters for its question marks."""
        if not self._execution.parameters:
            return sql
        rules.check_catalogs(sql)
        # The literal has the statement's own lines, so places in errors are off by this prefix only.
        literal = quote_string(decimals_as_doubles(sql))
        return f"EXECUTE IMMEDIATE {literal} USING {', '.join(self._execution.parameters)}"

    @contextmanager
    def _listing_writes(self, location: str) -> Iterator[None]:
        """Writes the manifest: the list of files that appear below a location in the block."""
        self._execution.manifest = f"{self._execution.output}/{self._execution.id}-manifest.csv"
        before = set(self._storage.list(location))
        yield
        written = [address for address in self._storage.list(location) if address not in before]
        self._storage.write(self._execution.manifest, "".join(f"{address}\n" for address in written).encode())

    # queries

    @run.register
    def _(self, statement: s.Query) -> None:
        sql = self._with_parameters(statement.sql)
        target = self._target_of(statement)
        if target is not None and statement.verb != "INSERT" and not (is_iceberg(target) or is_view(target)):
            # Trino would drop whole partitions of files; Athena's DELETE is for Iceberg tables only:
            # https://docs.aws.amazon.com/athena/latest/ug/delete-statement.html
            raise QueryFailed(
                "NOT_SUPPORTED: Modifying Hive table rows is only supported for transactional tables"
            )
        if target is None or statement.verb != "INSERT":
            self._trino(sql, keep=True)
            return
        with self._listing_writes(target["StorageDescriptor"]["Location"]):
            self._trino(sql, keep=True)

    def _target_of(self, statement: s.Query) -> TableInput | None:
        """The table that a statement writes to; None if it writes to none that is there."""
        lexer = Lexer(statement.sql)
        if not any(map(lexer.accept, ("INSERT INTO", "DELETE FROM", "UPDATE", "MERGE INTO"))):
            return None
        try:
            database, table = self._place(lexer.name(Dialect.TRINO))
        except QueryFailed:
            return None
        return self._catalogue.find(database, table)

    @run.register
    def _(self, statement: s.Explain) -> None:
        rows = self._trino(statement.sql).rows
        plan = [line for row in rows for line in str(row[0]).split("\n")]
        self._text(["Query Plan"], ["Query Plan", *plan], "varchar")

    @run.register
    def _(self, statement: s.ShowFunctions) -> None:
        found = self._trino(statement.sql)
        signatures = [column["typeSignature"] for column in found.columns]
        lines = [
            "\t".join(
                render(value, signature) or "" for value, signature in zip(row, signatures, strict=True)
            )
            for row in found.rows
        ]
        self._text([column["name"] for column in found.columns], lines, "varchar")

    @run.register
    def _(self, statement: s.CreateTableAsSelect) -> None:
        database, table = self._place(statement.table)
        execution = self._execution
        rules.check_ctas(statement)
        iceberg = rules.is_iceberg_ctas(statement)
        rules.check_ctas_columns(self._columns_of(statement.body), iceberg=iceberg)
        if self._catalogue.find(database, table) is not None:
            if statement.if_not_exists:
                execution.results.update_count = 0
                return
            raise QueryFailed(
                f"TABLE_ALREADY_EXISTS: line 1:1: Destination table '{HIVE}.{database}.{table}' already"
                " exists"
            )
        location = self._ctas_location(statement, database, table)
        translated = translation.create_table_as(statement, database, table, location)
        with self._listing_writes(location):
            try:
                self._trino(self._with_parameters(translated.sql), translated.session, keep=True)
            except EngineError as error:
                # A Hive CTAS that fails must leave no table behind.
                if error.name == "HIVE_TOO_MANY_OPEN_PARTITIONS" or not iceberg:
                    self._catalogue.drop_table(database, table)
                raise
        if translated.parameters:
            self._catalogue.amend_table(
                database, table, lambda t: t.setdefault("Parameters", {}).update(translated.parameters)
            )

    def _ctas_location(self, statement: s.CreateTableAsSelect, database: str, table: str) -> str:
        given = statement.properties.get("external_location") or statement.properties.get("location")
        location = (
            unquote(given).rstrip("/") if given else f"{self._execution.output}/tables/{self._execution.id}"
        )
        if self._storage.list(location):
            raise QueryFailed(
                f"HIVE_PATH_ALREADY_EXISTS: Target directory for table '{database}.{table}' already exists:"
                f" {location}. You may need to manually clean the data at location '{location}' before"
                " retrying."
                " Athena will not delete data in your account."
            )
        return location

    @run.register
    def _(self, statement: s.CreateView) -> None:
        database, view = self._place(statement.view)
        rules.check_view_columns(self._columns_of(statement.body))
        replace = "OR REPLACE " if statement.replace else ""
        self._trino(f"CREATE {replace}VIEW {quote_name(HIVE, database, view)} AS\n{statement.body}")
        self._catalogue.amend_table(database, view, _show_columns_of_view)

    @run.register
    def _(self, statement: s.DropView) -> None:
        database, view = self._place(statement.view)
        exists = "IF EXISTS " if statement.if_exists else ""
        self._trino(f"DROP VIEW {exists}{quote_name(HIVE, database, view)}")

    @run.register
    def _(self, statement: s.Unload) -> None:
        rules.check_unload(statement)
        location = statement.location.rstrip("/")
        if self._storage.list(location):
            raise QueryFailed(f"HIVE_PATH_ALREADY_EXISTS: Target directory already exists: {location}")
        database, table = "default", "unload_" + self._execution.id.replace("-", "_")
        translated = translation.unload(statement, database, table)
        rules.check_ctas_columns(self._columns_of(statement.body), iceberg=False)
        with self._listing_writes(location):
            try:
                self._trino(self._with_parameters(translated.sql), translated.session, keep=True)
            finally:
                self._catalogue.drop_table(database, table)

    # prepared statements

    @run.register
    def _(self, statement: s.Prepare) -> None:
        self._execution.prepared[statement.name] = statement.body
        self._text([], [])

    @run.register
    def _(self, statement: s.Deallocate) -> None:
        self._prepared(statement.name)
        del self._execution.prepared[statement.name]
        self._text([], [])

    @run.register
    def _(self, statement: s.Execute) -> None:
        prepared = s.parse(strip_statement(self._prepared(statement.name)))
        if prepared.type != s.DML or isinstance(prepared, s.Execute):
            # https://docs.aws.amazon.com/athena/latest/ug/querying-with-prepared-statements.html, limitations
            raise QueryFailed(f"NOT_SUPPORTED: {statement.name} is no SELECT, INSERT INTO, CTAS or UNLOAD")
        self._execution.performs(prepared, split_list(statement.using))
        self.run(prepared)

    def _prepared(self, name: str) -> str:
        try:
            return self._execution.prepared[name]
        except KeyError:
            raise QueryFailed(
                f"PreparedStatement {name} was not found in workGroup {self._execution.workgroup}"
            ) from None

    # databases

    @run.register
    def _(self, statement: s.CreateDatabase) -> None:
        if self._catalogue.database(statement.database) and statement.if_not_exists:
            return self._text([], [])
        definition: dict[str, Any] = {"Parameters": statement.properties}
        if statement.location:
            definition["LocationUri"] = statement.location
        if statement.comment:
            definition["Description"] = statement.comment
        self._catalogue.create_database(statement.database, definition)
        return self._text([], [])

    @run.register
    def _(self, statement: s.DropDatabase) -> None:
        self._text([], [])
        if self._catalogue.database(statement.database) is None:
            if statement.if_exists:
                return
            raise semantic_error(10072, f"Database does not exist: {statement.database}")
        tables = self._catalogue.tables(statement.database)
        if tables and not statement.cascade:
            raise QueryFailed(
                "FAILED: Execution Error, return code 1 from org.apache.hadoop.hive.ql.exec.DDLTask."
                f" InvalidOperationException(message:Database {statement.database} is not empty."
                " One or more tables exist.)"
            )
        for name, definition in tables.items():
            if is_iceberg(definition):
                self._trino(f"DROP TABLE IF EXISTS {quote_name(ICEBERG, statement.database, name)}")
        self._catalogue.drop_database(statement.database)

    # tables

    @run.register
    def _(self, statement: s.CreateTable) -> None:
        self._text([], [])
        database, table = self._place(statement.table)
        rules.check_create_table(statement)
        if statement.if_not_exists and self._catalogue.find(database, table) is not None:
            return
        if not statement.iceberg:
            self._catalogue.create_table(database, _external_table(statement, table))
            return
        if self._catalogue.database(database) is None:
            raise semantic_error(10072, f"Database does not exist: {database}")
        translated = translation.create_iceberg_table(statement, database, table)
        self._trino(translated.sql, translated.session)
        if translated.parameters:
            self._catalogue.amend_table(
                database, table, lambda t: t.setdefault("Parameters", {}).update(translated.parameters)
            )

    @run.register
    def _(self, statement: s.DropTable) -> None:
        self._text([], [])
        database, table = self._place(statement.table)
        definition = self._catalogue.find(database, table)
        if definition is None:
            if statement.if_exists:
                return
            raise table_not_found(database, table)
        if is_view(definition):
            raise QueryFailed("FAILED: SemanticException [Error 10001]: Cannot drop a view with DROP TABLE")
        if is_iceberg(definition):  # with its data
            self._trino(f"DROP TABLE IF EXISTS {quote_name(ICEBERG, database, table)}")
        else:
            self._catalogue.drop_table(database, table)

    @run.register
    def _(self, statement: s.RenameTable) -> None:
        self._text([], [])
        database, table, definition = self._find(statement.table)
        if not is_iceberg(definition):
            raise QueryFailed("FAILED: SemanticException: RENAME TO is only supported for Iceberg tables")
        to = quote_name(ICEBERG, *self._place(statement.to))
        self._trino(f"ALTER TABLE {quote_name(ICEBERG, database, table)} RENAME TO {to}")

    @run.register
    def _(self, statement: s.SetProperties) -> None:
        self._text([], [])
        database, table, definition = self._find(statement.table)
        if is_iceberg(definition):
            rules.check_iceberg_properties(statement.properties)
        self._catalogue.update_table(
            database, table, lambda t: t.setdefault("Parameters", {}).update(statement.properties)
        )

    @run.register
    def _(self, statement: s.UnsetProperties) -> None:
        self._text([], [])
        database, table, _ = self._find(statement.table)

        def unset(definition: TableInput) -> None:
            for name in statement.names:
                definition.get("Parameters", {}).pop(name, None)

        self._catalogue.update_table(database, table, unset)

    @run.register
    def _(self, statement: s.SetLocation) -> None:
        self._text([], [])
        database, table, definition = self._hive_table(statement.table, "SET LOCATION")
        if statement.partition is None:
            self._catalogue.update_table(
                database, table, lambda t: t["StorageDescriptor"].update(Location=statement.location)
            )
            return
        values = _partition_values(definition, statement.partition)
        if not self._catalogue.drop_partition(database, table, values):
            raise semantic_error(10006, f"Partition not found {statement.partition}")
        self._catalogue.create_partition(database, table, values, statement.location)

    # columns

    @run.register
    def _(self, statement: s.AddColumns) -> None:
        self._text([], [])
        database, table, definition = self._find(statement.table)
        known = {column["Name"] for column in columns(definition)}
        for column in statement.columns:
            if column["Name"] in known:
                raise semantic_error(10036, f"Duplicate column name: {column['Name']}")
        if is_iceberg(definition):
            for column in statement.columns:
                rules.check_hive_type(column["Type"], types.ICEBERG_TYPES)
            for column in statement.columns:
                comment = f" COMMENT {quote_string(column['Comment'])}" if "Comment" in column else ""
                self._trino(
                    f"ALTER TABLE {quote_name(ICEBERG, database, table)} ADD COLUMN"
                    f" {quote_name(column['Name'])} {types.hive_to_trino(column['Type'])}{comment}"
                )
            return
        for column in statement.columns:
            rules.check_hive_type(column["Type"], types.HIVE_TYPES)
        self._catalogue.update_table(
            database, table, lambda t: t["StorageDescriptor"]["Columns"].extend(statement.columns)
        )

    @run.register
    def _(self, statement: s.ReplaceColumns) -> None:
        self._text([], [])
        database, table, _ = self._hive_table(statement.table, "REPLACE COLUMNS")
        for column in statement.columns:
            rules.check_hive_type(column["Type"], types.HIVE_TYPES)
        self._catalogue.update_table(
            database, table, lambda t: t["StorageDescriptor"].update(Columns=statement.columns)
        )

    @run.register
    def _(self, statement: s.ChangeColumn) -> None:
        self._text([], [])
        database, table, definition = self._find(statement.table)
        known = {column["Name"]: column for column in columns(definition)}
        if statement.old not in known:
            raise semantic_error(10002, f"Invalid column reference {statement.old}")
        new = statement.column
        if not is_iceberg(definition):
            rules.check_hive_type(new["Type"], types.HIVE_TYPES)

            def change(definition: TableInput) -> None:
                found = definition["StorageDescriptor"]["Columns"]
                place = [column["Name"] for column in found].index(statement.old)
                found[place] = {**found[place], **new}

            self._catalogue.update_table(database, table, change)
            return
        rules.check_hive_type(new["Type"], types.ICEBERG_TYPES)
        name = quote_name(ICEBERG, database, table)
        if statement.old != new["Name"]:
            self._trino(
                f"ALTER TABLE {name} RENAME COLUMN {quote_name(statement.old)} TO {quote_name(new['Name'])}"
            )
        if known[statement.old]["Type"] != new["Type"]:
            kind = types.hive_to_trino(new["Type"])
            self._trino(f"ALTER TABLE {name} ALTER COLUMN {quote_name(new['Name'])} SET DATA TYPE {kind}")

    @run.register
    def _(self, statement: s.DropColumn) -> None:
        self._text([], [])
        database, table, definition = self._find(statement.table)
        if not is_iceberg(definition):
            raise QueryFailed("FAILED: SemanticException: DROP COLUMN is only supported for Iceberg tables")
        name = quote_name(ICEBERG, database, table)
        self._trino(f"ALTER TABLE {name} DROP COLUMN {quote_name(statement.column)}")

    # partitions

    @run.register
    def _(self, statement: s.AddPartitions) -> None:
        self._text([], [])
        database, table, definition = self._hive_table(statement.table, "ADD PARTITION")
        for given, location in statement.partitions:
            values = _partition_values(definition, given)
            folder = _folder(definition, values)
            location = location or f"{definition['StorageDescriptor']['Location'].rstrip('/')}/{folder}"
            added = self._catalogue.create_partition(database, table, values, location)
            if not added and not statement.if_not_exists:
                raise QueryFailed(
                    "FAILED: Execution Error, return code 1 from org.apache.hadoop.hive.ql.exec.DDLTask."
                    f" AlreadyExistsException(message:Partition already exists: {folder})"
                )

    @run.register
    def _(self, statement: s.DropPartitions) -> None:
        self._text([], [])
        database, table, definition = self._hive_table(statement.table, "DROP PARTITION")
        for given in statement.partitions:
            dropped = self._catalogue.drop_partition(database, table, _partition_values(definition, given))
            if not dropped and not statement.if_exists:
                raise semantic_error(10006, f"Partition not found {given}")

    @run.register
    def _(self, statement: s.RenamePartition) -> None:
        self._text([], [])
        database, table, definition = self._hive_table(statement.table, "RENAME PARTITION")
        old, new = (_partition_values(definition, given) for given in (statement.old, statement.new))
        parts = self._catalogue.partitions(database, table)
        location = next((p["StorageDescriptor"]["Location"] for p in parts if p["Values"] == old), None)
        if location is None:
            raise semantic_error(10006, f"Partition not found {statement.old}")
        self._catalogue.drop_partition(database, table, old)
        self._catalogue.create_partition(database, table, new, location)

    @run.register
    def _(self, statement: s.MsckRepair) -> None:
        database, table, definition = self._hive_table(statement.table, "MSCK REPAIR TABLE")
        before = {tuple(part["Values"]) for part in self._catalogue.partitions(database, table)}
        if not _keys(definition):
            raise semantic_error(10241, f"Table {database}.{table} is not a partitioned table")
        self._trino(
            f"CALL {HIVE}.system.sync_partition_metadata({quote_string(database)}, {quote_string(table)},"
            " 'ADD')"
        )
        new = [
            p["Values"]
            for p in self._catalogue.partitions(database, table)
            if tuple(p["Values"]) not in before
        ]
        names = [f"{table}:{_folder(definition, values)}" for values in new]
        lines = ["Partitions not in metastore:\t" + "\t".join(names)] if names else []
        self._text([""], lines + [f"Repair: Added partition to metastore {name}" for name in names])

    # Iceberg maintenance

    @run.register
    def _(self, statement: s.Optimize) -> None:
        database, table, _ = self._iceberg_table(statement.table, "OPTIMIZE")
        self._trino(translation.optimize(statement, database, table).sql)
        self._text([], [])

    @run.register
    def _(self, statement: s.Vacuum) -> None:
        database, table, definition = self._iceberg_table(statement.table, "VACUUM")
        age = definition.get("Parameters", {}).get("vacuum_max_snapshot_age_seconds", _VACUUM_MAX_AGE)
        for translated in translation.vacuum(database, table, age):
            self._trino(translated.sql)
        self._text([], [])

    def _iceberg_table(self, name: list[str], verb: str) -> tuple[str, str, TableInput]:
        database, table = self._place(name)
        definition = self._catalogue.find(database, table)
        if definition is None:
            raise QueryFailed(f"TABLE_NOT_FOUND: line 1:1: Table '{HIVE}.{database}.{table}' does not exist")
        if not is_iceberg(definition):
            raise QueryFailed(f"NOT_SUPPORTED: {verb} is only supported for Iceberg tables")
        return database, table, definition

    # SHOW and DESCRIBE

    @run.register
    def _(self, statement: s.ShowDatabases) -> None:
        names = [database["Name"] for database in self._catalogue.databases()]
        self._text(["database_name"], matching(names, statement.pattern))

    @run.register
    def _(self, statement: s.ShowTables) -> None:
        tables = self._catalogue.tables(statement.database or self._execution.database)
        self._text(["tab_name"], matching(list(tables), statement.pattern))

    @run.register
    def _(self, statement: s.ShowViews) -> None:
        tables = self._catalogue.tables(statement.database or self._execution.database)
        self._text(["views"], matching([n for n, t in tables.items() if is_view(t)], statement.pattern))

    @run.register
    def _(self, statement: s.ShowColumns) -> None:
        found = columns(self._find(statement.table)[2])
        # Hive's width: https://github.com/pyathena-dev/PyAthena/blob/v3.34.0/tests/pyathena/arrow/test_cursor.py
        self._text(["field"], [column["Name"].ljust(20) for column in found])

    @run.register
    def _(self, statement: s.ShowPartitions) -> None:
        database, table, definition = self._find(statement.table)
        keys = _keys(definition)
        if not keys:
            raise semantic_error(10241, f"Table {table} is not a partitioned table")
        if definition.get("Parameters", {}).get("projection.enabled", "").lower() == "true":
            return self._text(["partition"], [])  # projected ones are registered nowhere
        return self._text(
            ["partition"],
            [_folder(definition, part["Values"]) for part in self._catalogue.partitions(database, table)],
        )

    @run.register
    def _(self, statement: s.ShowTableProperties) -> None:
        database, table, definition = self._find(statement.table)
        parameters = definition.get("Parameters") or {}
        if statement.name is not None:
            missing = f"Table {database}.{table} does not have property: {statement.name}"
            return self._text(["prpt_name"], [parameters.get(statement.name, missing)])
        return self._text(["prpt_name", "prpt_value"], [f"{n}\t{v}" for n, v in sorted(parameters.items())])

    @run.register
    def _(self, statement: s.ShowCreateTable) -> None:
        database, table, definition = self._find(statement.table)
        if is_view(definition):
            return self._show_create_view(database, table)
        if not is_iceberg(definition):
            name = ".".join(statement.table)
            return self._text(["createtab_stmt"], describing.show_create_hive(name, definition))
        created = self._trino(f"SHOW CREATE TABLE {quote_name(ICEBERG, database, table)}").rows[0][0]
        return self._text(
            ["createtab_stmt"], describing.show_create_iceberg(database, table, definition, created)
        )

    @run.register
    def _(self, statement: s.ShowCreateView) -> None:
        database, view, definition = self._find(statement.table)
        if not is_view(definition):
            raise QueryFailed(
                f"NOT_SUPPORTED: line 1:1: Relation '{HIVE}.{database}.{view}' is a table, not a view"
            )
        self._show_create_view(database, view)

    def _show_create_view(self, database: str, view: str) -> None:
        created = self._trino(f"SHOW CREATE VIEW {quote_name(HIVE, database, view)}").rows[0][0]
        self._text(["Create View"], describing.show_create_view(database, view, created), "varchar")

    @run.register
    def _(self, statement: s.DescribeTable) -> None:
        database, table, definition = self._find(statement.table)
        partitioning = ""
        if is_iceberg(definition):
            partitioning = self._trino(f"SHOW CREATE TABLE {quote_name(ICEBERG, database, table)}").rows[0][0]
        self._text(["col_name", "data_type", "comment"], describing.describe(definition, partitioning))


def _keys(definition: TableInput) -> list[str]:
    return [key["Name"] for key in definition.get("PartitionKeys") or []]


def _folder(definition: TableInput, values: list[str]) -> str:
    """A partition's name: `year=2024/month=1`."""
    return "/".join(f"{key}={value}" for key, value in zip(_keys(definition), values, strict=True))


def _partition_values(definition: TableInput, given: dict[str, str]) -> list[str]:
    """Values in the order of the table's partition columns."""
    if set(given) != set(_keys(definition)):
        raise semantic_error(
            10041, f"No partition predicate found or partition columns do not match: {list(given)}"
        )
    return [given[key] for key in _keys(definition)]


def _external_table(statement: s.CreateTable, table: str) -> TableInput:
    """Glue's definition of a CREATE EXTERNAL TABLE."""
    stored = statement.stored_as or "TEXTFILE"
    if stored not in _FORMATS:
        raise QueryFailed(
            f"FAILED: SemanticException Unrecognized file format in STORED AS clause: '{stored}'"
        )
    input_format, output_format, serde = _FORMATS[stored]
    if statement.serde == _OPENX_JSON:
        # As `test_create_table_json` of PyAthena has seen it:
        # https://github.com/pyathena-dev/PyAthena/blob/v3.34.0/tests/pyathena/sqlalchemy/test_base.py
        output_format = "org.apache.hadoop.hive.ql.io.IgnoreKeyTextOutputFormat"
    parameters = {"serialization.format": "1", **statement.serde_properties, **statement.delimiters}
    if delimiter := statement.delimiters.get("field.delim"):
        parameters["serialization.format"] = delimiter
    return {
        "Name": table,
        "Owner": "hadoop",
        "Retention": 0,
        "TableType": "EXTERNAL_TABLE",
        "PartitionKeys": [{**column, "Type": column["Type"] or "string"} for column in statement.partitions],
        "Parameters": {
            "EXTERNAL": "TRUE",
            **({"comment": statement.comment} if statement.comment else {}),
            **statement.properties,
        },
        "StorageDescriptor": {
            "Columns": statement.columns,
            "Location": _folder_of(statement.location),
            "InputFormat": statement.input_format or input_format,
            "OutputFormat": statement.output_format or output_format,
            "Compressed": False,
            "NumberOfBuckets": statement.bucket_count,
            "SerdeInfo": {"SerializationLibrary": statement.serde or serde, "Parameters": parameters},
            "BucketColumns": statement.bucket_columns,
            "SortColumns": [],
            "Parameters": {},
            "StoredAsSubDirectories": False,
        },
    }


def _folder_of(location: str) -> str:
    """A location as Hive's paths have it: without a slash at the end, unless it is a bucket's root.

    `test_reflect_table` of PyAthena, which runs on AWS, sees it so
    (https://github.com/laughingman7743/PyAthena/blob/master/tests/pyathena/sqlalchemy/test_base.py).
    """
    return location if re.fullmatch(r"\w+://[^/]+/*", location) else location.rstrip("/")


def _show_columns_of_view(definition: TableInput) -> None:
    """Puts a view's columns where Glue's clients look for them.

    Trino writes one column named `dummy` and keeps the real ones within the encoded text of the view; Athena
    writes both.
    """
    encoded = re.search(r"/\* Presto View: (\S+) \*/", definition.get("ViewOriginalText", ""))
    if not encoded:
        return
    view = json.loads(base64.b64decode(encoded[1]))
    definition["StorageDescriptor"]["Columns"] = [
        {
            "Name": column["name"],
            "Type": types.trino_to_hive(column["type"]),
            **({"Comment": column["comment"]} if column.get("comment") else {}),
        }
        for column in view["columns"]
    ]
