"""Reads a statement: which kind it is, and what it is about."""

import re
from dataclasses import dataclass, field
from typing import ClassVar

from ..errors import InvalidRequest
from .lexer import Dialect, Lexer, SyntaxFailure, split_list, unquote

DDL, DML, UTILITY = "DDL", "DML", "UTILITY"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """Any statement."""

    type: ClassVar[str] = DDL
    """StatementType in the API."""

    @property
    def substatement(self) -> str:
        """SubstatementType in the API, as far as known: the class in capitals."""
        return re.sub(r"(?<!\A)([A-Z])", r"_\1", self.__class__.__name__).upper()


Columns = list[dict[str, str]]
"""As Glue has them: Name, Type, perhaps Comment."""


@dataclass(frozen=True, kw_only=True)
class Query(Statement):
    """What Trino runs as it stands: SELECT, INSERT, UPDATE, DELETE, MERGE."""

    type = DML
    verb: str
    sql: str

    @property
    def substatement(self) -> str:
        """The verb; everything that reads is a SELECT."""
        return self.verb


@dataclass(frozen=True, kw_only=True)
class Explain(Statement):
    """EXPLAIN and EXPLAIN ANALYZE."""

    type = UTILITY
    sql: str


@dataclass(frozen=True, kw_only=True)
class CreateTableAsSelect(Statement):
    """CTAS."""

    type = DML
    table: list[str]
    if_not_exists: bool
    properties: dict[str, str]
    """As written: strings have their quotes."""
    body: str
    with_data: bool


@dataclass(frozen=True, kw_only=True)
class CreateView(Statement):
    """CREATE [OR REPLACE] VIEW."""

    view: list[str]
    replace: bool
    body: str


@dataclass(frozen=True, kw_only=True)
class DropView(Statement):
    """DROP VIEW."""

    view: list[str]
    if_exists: bool


@dataclass(frozen=True, kw_only=True)
class CreateDatabase(Statement):
    """CREATE DATABASE."""

    database: str
    if_not_exists: bool
    comment: str | None = None
    location: str | None = None
    properties: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DropDatabase(Statement):
    """DROP DATABASE."""

    database: str
    if_exists: bool
    cascade: bool


@dataclass(kw_only=True, frozen=True)
class CreateTable(Statement):
    """CREATE EXTERNAL TABLE, and CREATE TABLE of an Iceberg table."""

    table: list[str]
    external: bool
    if_not_exists: bool
    columns: Columns
    partitions: Columns = field(default_factory=list)
    transforms: list[str] = field(default_factory=list)
    """The items of PARTITIONED BY as written: for Iceberg they are columns or transforms of them."""
    comment: str | None = None
    location: str | None = None
    stored_as: str | None = None
    input_format: str | None = None
    output_format: str | None = None
    serde: str | None = None
    serde_properties: dict[str, str] = field(default_factory=dict)
    delimiters: dict[str, str] = field(default_factory=dict)
    bucket_columns: list[str] = field(default_factory=list)
    bucket_count: int = -1
    properties: dict[str, str] = field(default_factory=dict)

    @property
    def iceberg(self) -> bool:
        """Whether it is an Iceberg table."""
        return self.properties.get("table_type", "").upper() == "ICEBERG"


@dataclass(frozen=True, kw_only=True)
class DropTable(Statement):
    """DROP TABLE."""

    table: list[str]
    if_exists: bool


@dataclass(frozen=True, kw_only=True)
class RenameTable(Statement):
    """ALTER TABLE … RENAME TO."""

    table: list[str]
    to: list[str]


@dataclass(frozen=True, kw_only=True)
class SetProperties(Statement):
    """ALTER TABLE … SET TBLPROPERTIES."""

    table: list[str]
    properties: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class UnsetProperties(Statement):
    """ALTER TABLE … UNSET TBLPROPERTIES."""

    table: list[str]
    names: list[str]


@dataclass(frozen=True, kw_only=True)
class SetLocation(Statement):
    """ALTER TABLE … [PARTITION …] SET LOCATION."""

    table: list[str]
    location: str
    partition: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class AddColumns(Statement):
    """ALTER TABLE … ADD COLUMNS."""

    table: list[str]
    columns: Columns


@dataclass(frozen=True, kw_only=True)
class ReplaceColumns(Statement):
    """ALTER TABLE … REPLACE COLUMNS."""

    table: list[str]
    columns: Columns


@dataclass(frozen=True, kw_only=True)
class ChangeColumn(Statement):
    """ALTER TABLE … CHANGE COLUMN."""

    table: list[str]
    old: str
    column: dict[str, str]
    first: bool = False
    after: str | None = None


@dataclass(frozen=True, kw_only=True)
class DropColumn(Statement):
    """ALTER TABLE … DROP COLUMN."""

    table: list[str]
    column: str


@dataclass(frozen=True, kw_only=True)
class AddPartitions(Statement):
    """ALTER TABLE … ADD PARTITION."""

    table: list[str]
    if_not_exists: bool
    partitions: list[tuple[dict[str, str], str | None]]
    """Values by column, and the location if given."""


@dataclass(frozen=True, kw_only=True)
class DropPartitions(Statement):
    """ALTER TABLE … DROP PARTITION."""

    table: list[str]
    if_exists: bool
    partitions: list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class RenamePartition(Statement):
    """ALTER TABLE … PARTITION … RENAME TO PARTITION."""

    table: list[str]
    old: dict[str, str]
    new: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class MsckRepair(Statement):
    """MSCK REPAIR TABLE."""

    table: list[str]


@dataclass(frozen=True, kw_only=True)
class Optimize(Statement):
    """OPTIMIZE … REWRITE DATA USING BIN_PACK."""

    type = DML
    table: list[str]
    where: str


@dataclass(frozen=True, kw_only=True)
class Vacuum(Statement):
    """VACUUM."""

    type = DML
    table: list[str]


@dataclass(frozen=True, kw_only=True)
class Unload(Statement):
    """UNLOAD (…) TO …."""

    type = DML
    body: str
    location: str
    properties: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Prepare(Statement):
    """PREPARE … FROM …."""

    type = UTILITY
    name: str
    body: str


@dataclass(frozen=True, kw_only=True)
class Execute(Statement):
    """EXECUTE … [USING …]."""

    type = DML
    name: str
    using: str


@dataclass(frozen=True, kw_only=True)
class Deallocate(Statement):
    """DEALLOCATE PREPARE."""

    type = UTILITY
    name: str


@dataclass(frozen=True, kw_only=True)
class ShowDatabases(Statement):
    """SHOW DATABASES or SCHEMAS."""

    type = UTILITY
    pattern: str | None = None


@dataclass(frozen=True, kw_only=True)
class ShowTables(Statement):
    """SHOW TABLES."""

    type = UTILITY
    database: str | None = None
    pattern: str | None = None


@dataclass(frozen=True, kw_only=True)
class ShowViews(ShowTables):
    """SHOW VIEWS."""


@dataclass(frozen=True, kw_only=True)
class ShowColumns(Statement):
    """SHOW COLUMNS."""

    type = UTILITY
    table: list[str]


@dataclass(frozen=True, kw_only=True)
class ShowFunctions(Statement):
    """SHOW FUNCTIONS."""

    type = UTILITY
    sql: str


@dataclass(frozen=True, kw_only=True)
class ShowPartitions(Statement):
    """SHOW PARTITIONS."""

    type = UTILITY
    table: list[str]


@dataclass(frozen=True, kw_only=True)
class ShowTableProperties(Statement):
    """SHOW TBLPROPERTIES."""

    type = UTILITY
    table: list[str]
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class ShowCreateTable(Statement):
    """SHOW CREATE TABLE."""

    type = UTILITY
    table: list[str]


@dataclass(frozen=True, kw_only=True)
class ShowCreateView(Statement):
    """SHOW CREATE VIEW."""

    type = UTILITY
    table: list[str]


@dataclass(frozen=True, kw_only=True)
class DescribeTable(Statement):
    """DESCRIBE, of a table or a view."""

    type = UTILITY
    table: list[str]
    partition: bool = False


# Trino knows them, Athena does not: https://docs.aws.amazon.com/athena/latest/ug/other-notable-limitations.html
_UNSUPPORTED = {
    "ANALYZE", "CALL", "COMMENT", "COMMIT", "DENY", "EXPORT", "GRANT", "IMPORT", "LOAD", "LOCK", "REFRESH",
    "RESET", "REVOKE", "ROLLBACK", "SET", "START", "TRUNCATE", "UNLOCK", "USE",
}  # fmt: skip

_UNSUPPORTED_AFTER = {
    "CREATE": {"CATALOG", "FUNCTION", "INDEX", "MACRO", "MATERIALIZED", "ROLE", "TEMPORARY"},
    "DROP": {"CATALOG", "FUNCTION", "INDEX", "MACRO", "MATERIALIZED", "ROLE"},
    "ALTER": {"CATALOG", "INDEX", "MATERIALIZED", "SCHEMA", "VIEW"},
    "SHOW": {
        "BRANCHES", "CATALOGS", "COMPACTIONS", "CONF", "CURRENT", "GRANT", "GRANTS", "INDEX",
        "INDEXES", "LOCKS", "PRINCIPALS", "ROLE", "ROLES", "SESSION", "STATS", "TRANSACTIONS",
    },
}  # fmt: skip


def parse(sql: str) -> Statement:
    """Reads one statement, without comments before it and without its semicolon.

    Raises:
        InvalidRequest: Athena does not take statements of this kind.
        SyntaxFailure: DDL that cannot be read.
    """
    lexer = Lexer(sql)
    verb = lexer.word()
    if verb in _UNSUPPORTED or lexer.word(1) in _UNSUPPORTED_AFTER.get(verb, ()):
        raise InvalidRequest("Queries of this type are not supported", "NOT_SUPPORTED")
    reader = _READERS.get(verb)
    if reader is None:
        raise InvalidRequest(
            f"line 1:1: mismatched input '{lexer.peek().text}'. Expecting: {_EXPECTED}", "MALFORMED_QUERY"
        )
    lexer.take()
    return reader(lexer)


_EXPECTED = ", ".join(
    "'ALTER' 'ANALYZE' 'CALL' 'COMMIT' 'CREATE' 'DEALLOCATE' 'DELETE' 'DESC' 'DESCRIBE' 'DROP' 'EXECUTE'"
    " 'EXPLAIN'"
    " 'GRANT' 'INSERT' 'MERGE' 'OPTIMIZE' 'PREPARE' 'RESET' 'REVOKE' 'ROLLBACK' 'SET' 'SHOW' 'START' 'UNLOAD'"
    " 'UPDATE' 'USE' 'VACUUM' <query>".split()
)


def _query(lexer: Lexer) -> Statement:
    verb = Lexer(lexer.sql).word()
    if verb == "WITH" and lexer.word() in ("FUNCTION", "SESSION") and lexer.word(1) not in ("AS", "("):
        raise InvalidRequest(  # newer than Athena's Trino
            f"line 1:1: mismatched input '{lexer.peek(1).text}'. Expecting: '(', 'AS'", "MALFORMED_QUERY"
        )
    writes = verb in ("INSERT", "UPDATE", "DELETE", "MERGE")
    return Query(verb=verb if writes else "SELECT", sql=lexer.sql)


def _explain(lexer: Lexer) -> Statement:
    return Explain(sql=lexer.sql)


def _create(lexer: Lexer) -> Statement:
    if lexer.accept("DATABASE") or lexer.accept("SCHEMA"):
        return _create_database(lexer)
    replace = lexer.accept("OR REPLACE")
    if lexer.accept("VIEW") or lexer.accept("PROTECTED MULTI DIALECT VIEW"):
        view = lexer.name(Dialect.TRINO, "view name")
        lexer.accept("SECURITY DEFINER")
        if not lexer.accept("AS"):
            raise InvalidRequest(
                f"line 1:1: mismatched input '{lexer.peek().text}'. Expecting: 'AS'", "MALFORMED_QUERY"
            )
        return CreateView(view=view, replace=replace, body=lexer.rest())
    if replace:
        raise InvalidRequest("Queries of this type are not supported", "NOT_SUPPORTED")
    external = lexer.accept("EXTERNAL")
    lexer.expect("TABLE")
    if_not_exists = lexer.accept("IF NOT EXISTS")
    if not external and _is_ctas(lexer):
        return _create_table_as(lexer, if_not_exists)
    return _create_table(lexer, external, if_not_exists)


def _is_ctas(lexer: Lexer) -> bool:
    """Whether a body follows: looks past the name, in whatever quotes it is."""
    ahead = 1
    while lexer.word(ahead) == ".":
        ahead += 2
    return lexer.word(ahead) in ("WITH", "AS")


def _create_table_as(lexer: Lexer, if_not_exists: bool) -> Statement:
    if any(lexer.peek(ahead).kind == "backquoted" for ahead in (0, 2, 4)):
        raise InvalidRequest(
            "line 1:1: backquoted identifiers are not supported; use double quotes to quote identifiers",
            "MALFORMED_QUERY",
        )
    table = lexer.name(Dialect.TRINO)
    properties = _trino_properties(lexer) if lexer.accept("WITH (") else {}
    lexer.expect("AS")
    body = lexer.rest()
    without = re.search(r"\bWITH\s+(NO\s+)?DATA\s*\Z", body, re.I)
    return CreateTableAsSelect(
        table=table,
        if_not_exists=if_not_exists,
        properties=properties,
        body=body[: without.start()] if without else body,
        with_data=not (without and without[1]),
    )


def _trino_properties(lexer: Lexer) -> dict[str, str]:
    """`name = expression, …` up to the closing parenthesis."""
    properties = {}
    for item in split_list(lexer.parenthesised()):
        name, equals, value = item.partition("=")
        if not equals or "." in name:
            raise InvalidRequest(
                f"line 1:1: mismatched input '{item.split()[0]}'. Expecting: '='", "MALFORMED_QUERY"
            )
        properties[unquote(name.strip()).lower()] = value.strip()
    return properties


def _create_database(lexer: Lexer) -> Statement:
    if_not_exists = lexer.accept("IF NOT EXISTS")
    name = lexer.name(Dialect.HIVE, "database name")
    found: dict[str, object] = {}
    while not lexer.at_end:
        if lexer.accept("COMMENT"):
            found["comment"] = lexer.comment()
        elif lexer.accept("LOCATION"):
            found["location"] = lexer.string()
        elif lexer.accept("WITH DBPROPERTIES ("):
            found["properties"] = _hive_properties(lexer)
        else:
            lexer.expect_end()
    return CreateDatabase(database=name[-1], if_not_exists=if_not_exists, **found)


def _hive_properties(lexer: Lexer) -> dict[str, str]:
    """`'name' = 'value', …` up to the closing parenthesis."""
    inside = Lexer(lexer.parenthesised(), Dialect.HIVE)
    properties = {}
    while not inside.at_end:
        name = inside.string()
        inside.expect("=")
        properties[name] = inside.string()
        if not inside.accept(","):
            inside.expect_end()
    return properties


def _columns(text: str, *, typed: bool = True) -> Columns:
    """Definitions of columns; without types, only names are needed."""
    columns = []
    for item in split_list(text, Dialect.HIVE):
        lexer = Lexer(item, Dialect.HIVE)
        column = {"Name": lexer.identifier(Dialect.HIVE, "column specification")}
        start = lexer.peek().start
        while not lexer.at_end and lexer.word() != "COMMENT":
            lexer.take()
        column["Type"] = re.sub(r"\s+", "", item[start : lexer.peek().start]).lower()
        if typed and not column["Type"]:
            raise lexer.failure("column type")
        if lexer.accept("COMMENT"):
            column["Comment"] = lexer.comment()
        columns.append(column)
    return columns


def _create_table(lexer: Lexer, external: bool, if_not_exists: bool) -> Statement:
    found: dict[str, object] = {"table": lexer.name(Dialect.HIVE), "columns": []}
    delimiters: dict[str, str] = {}
    if lexer.accept("("):
        found["columns"] = _columns(lexer.parenthesised())
    while not lexer.at_end:
        if lexer.accept("COMMENT"):
            found["comment"] = lexer.comment()
        elif lexer.accept("PARTITIONED BY ("):
            text = lexer.parenthesised()
            found["transforms"] = split_list(text)
            if all("(" not in item or re.match(r"\S+\s+\w+\s*\(", item) for item in found["transforms"]):
                found["partitions"] = _columns(text, typed=False)
        elif lexer.accept("CLUSTERED BY ("):
            found["bucket_columns"] = [unquote(item).lower() for item in split_list(lexer.parenthesised())]
            lexer.expect("INTO")
            found["bucket_count"] = int(lexer.take().text)
            lexer.expect("BUCKETS")
        elif lexer.accept("ROW FORMAT SERDE"):
            found["serde"] = lexer.string()
        elif lexer.accept("WITH SERDEPROPERTIES ("):
            found["serde_properties"] = _hive_properties(lexer)
        elif lexer.accept("ROW FORMAT DELIMITED"):
            pass
        elif lexer.accept("FIELDS TERMINATED BY"):
            delimiters["field.delim"] = lexer.string()
        elif lexer.accept("ESCAPED BY"):
            delimiters["escape.delim"] = lexer.string()
        elif lexer.accept("COLLECTION ITEMS TERMINATED BY"):
            delimiters["collection.delim"] = lexer.string()
        elif lexer.accept("MAP KEYS TERMINATED BY"):
            delimiters["mapkey.delim"] = lexer.string()
        elif lexer.accept("LINES TERMINATED BY"):
            delimiters["line.delim"] = lexer.string()
        elif lexer.accept("NULL DEFINED AS"):
            delimiters["serialization.null.format"] = lexer.string()
        elif lexer.accept("STORED AS INPUTFORMAT"):
            found["input_format"] = lexer.string()
            lexer.expect("OUTPUTFORMAT")
            found["output_format"] = lexer.string()
        elif lexer.accept("STORED AS"):
            found["stored_as"] = lexer.take().text.upper()
        elif lexer.accept("LOCATION"):
            found["location"] = lexer.string()
        elif lexer.accept("TBLPROPERTIES ("):
            found["properties"] = _hive_properties(lexer)
        else:
            lexer.expect_end()
    return CreateTable(external=external, if_not_exists=if_not_exists, delimiters=delimiters, **found)


def _drop(lexer: Lexer) -> Statement:
    if lexer.accept("VIEW"):
        if_exists = lexer.accept("IF EXISTS")
        if lexer.peek().kind == "backquoted":
            raise InvalidRequest(
                "line 1:1: backquoted identifiers are not supported; use double quotes to quote identifiers",
                "MALFORMED_QUERY",
            )
        view = lexer.name(Dialect.TRINO, "view name")
        lexer.expect_end()
        return DropView(view=view, if_exists=if_exists)
    if lexer.accept("TABLE"):
        if_exists = lexer.accept("IF EXISTS")
        table = lexer.name(Dialect.HIVE)
        lexer.accept("PURGE")
        lexer.expect_end()
        return DropTable(table=table, if_exists=if_exists)
    if lexer.accept("DATABASE") or lexer.accept("SCHEMA"):
        if_exists = lexer.accept("IF EXISTS")
        database = lexer.name(Dialect.HIVE, "database name")[-1]
        cascade = lexer.accept("CASCADE") or (lexer.accept("RESTRICT") and False)
        lexer.expect_end()
        return DropDatabase(database=database, if_exists=if_exists, cascade=cascade)
    raise lexer.failure("drop statement")


def _partition_values(lexer: Lexer) -> dict[str, str]:
    """`(column = value, …)`; numbers are taken like strings."""
    lexer.expect("(")
    values = {}
    for item in split_list(lexer.parenthesised(), Dialect.HIVE):
        inside = Lexer(item, Dialect.HIVE)
        name = inside.identifier(Dialect.HIVE)
        inside.expect("=")
        values[name] = unquote(inside.rest().strip())
    return values


def _alter(lexer: Lexer) -> Statement:
    if not lexer.accept("TABLE"):
        raise InvalidRequest("Queries of this type are not supported", "NOT_SUPPORTED")
    table = lexer.name(Dialect.HIVE)
    statement = _alter_table(lexer, table)
    lexer.expect_end()
    return statement


def _alter_table(lexer: Lexer, table: list[str]) -> Statement:
    if lexer.accept("RENAME TO"):
        return RenameTable(table=table, to=lexer.name(Dialect.HIVE))
    if lexer.accept("SET TBLPROPERTIES ("):
        return SetProperties(table=table, properties=_hive_properties(lexer))
    if lexer.accept("UNSET TBLPROPERTIES ("):
        return UnsetProperties(
            table=table, names=[unquote(name) for name in split_list(lexer.parenthesised(), Dialect.HIVE)]
        )
    if lexer.accept("SET LOCATION"):
        return SetLocation(table=table, location=lexer.string())
    if lexer.accept("ADD COLUMNS ("):
        return AddColumns(table=table, columns=_columns(lexer.parenthesised()))
    if lexer.accept("REPLACE COLUMNS ("):
        return ReplaceColumns(table=table, columns=_columns(lexer.parenthesised()))
    if lexer.accept("DROP COLUMN"):
        return DropColumn(table=table, column=lexer.identifier(Dialect.HIVE, "column name"))
    if lexer.accept("CHANGE"):
        return _change_column(lexer, table)
    if lexer.accept("ADD"):
        if_not_exists = lexer.accept("IF NOT EXISTS")
        partitions = []
        while lexer.accept("PARTITION"):
            values = _partition_values(lexer)
            partitions.append((values, lexer.string() if lexer.accept("LOCATION") else None))
        if not partitions:
            raise lexer.failure("add partition statement")
        return AddPartitions(table=table, if_not_exists=if_not_exists, partitions=partitions)
    if lexer.accept("DROP"):
        if_exists = lexer.accept("IF EXISTS")
        dropped = []
        while lexer.accept("PARTITION"):
            dropped.append(_partition_values(lexer))
            lexer.accept(",")
        if not dropped:
            raise lexer.failure("drop partition statement")
        return DropPartitions(table=table, if_exists=if_exists, partitions=dropped)
    if lexer.accept("PARTITION"):
        values = _partition_values(lexer)
        if lexer.accept("RENAME TO PARTITION"):
            return RenamePartition(table=table, old=values, new=_partition_values(lexer))
        if lexer.accept("SET LOCATION"):
            return SetLocation(table=table, location=lexer.string(), partition=values)
    raise lexer.failure("alter table statement")


def _change_column(lexer: Lexer, table: list[str]) -> Statement:
    lexer.accept("COLUMN")
    old = lexer.identifier(Dialect.HIVE, "column name")
    definition = lexer.rest()
    place = re.search(r"\s+(FIRST|AFTER\s+(\S+))\s*\Z", definition, re.I)
    columns = _columns(definition[: place.start()] if place else definition)
    while not lexer.at_end:
        lexer.take()
    if len(columns) != 1:
        raise lexer.failure("change column statement")
    after = unquote(place[2]).lower() if place and place[2] else None
    return ChangeColumn(table=table, old=old, column=columns[0], first=bool(place and not after), after=after)


def _either_quotes(lexer: Lexer) -> list[str]:
    """A table's name where Athena takes both kinds of quotes."""
    parts = []
    while True:
        dialect = Dialect.HIVE if lexer.peek().kind == "backquoted" else Dialect.TRINO
        parts.append(lexer.identifier(dialect, "table name"))
        if not lexer.accept("."):
            return parts


def _optimize(lexer: Lexer) -> Statement:
    table = _either_quotes(lexer)
    lexer.expect("REWRITE DATA USING BIN_PACK")
    if not lexer.at_end and lexer.word() != "WHERE":
        raise lexer.failure("optimize statement")
    return Optimize(table=table, where=lexer.rest())


def _vacuum(lexer: Lexer) -> Statement:
    table = _either_quotes(lexer)
    lexer.expect_end()
    return Vacuum(table=table)


def _msck(lexer: Lexer) -> Statement:
    lexer.expect("REPAIR TABLE")
    table = lexer.name(Dialect.HIVE)
    lexer.expect_end()
    return MsckRepair(table=table)


def _unload(lexer: Lexer) -> Statement:
    lexer.expect("(")
    body = lexer.parenthesised()
    lexer.expect("TO")
    location = lexer.string()
    properties = _trino_properties(lexer) if lexer.accept("WITH (") else {}
    lexer.expect_end()
    return Unload(body=body, location=location, properties=properties)


def _prepare(lexer: Lexer) -> Statement:
    name = lexer.identifier(Dialect.TRINO)
    lexer.expect("FROM")
    return Prepare(name=name, body=lexer.rest())


def _execute(lexer: Lexer) -> Statement:
    name = lexer.identifier(Dialect.TRINO)
    using = lexer.accept("USING")
    return Execute(name=name, using=lexer.rest() if using else "")


def _deallocate(lexer: Lexer) -> Statement:
    lexer.expect("PREPARE")
    return Deallocate(name=lexer.identifier(Dialect.TRINO))


def _show(lexer: Lexer) -> Statement:
    if lexer.accept("DATABASES") or lexer.accept("SCHEMAS"):
        lexer.accept("LIKE")
        statement = ShowDatabases(pattern=None if lexer.at_end else lexer.string())
    elif lexer.word() in ("TABLES", "VIEWS"):
        show = ShowViews if lexer.take().text.upper() == "VIEWS" else ShowTables
        database = None
        if lexer.accept("IN") or lexer.accept("FROM"):
            database = _either_quotes(lexer)[-1]
        lexer.accept("LIKE")
        statement = show(database=database, pattern=None if lexer.at_end else lexer.string())
    elif lexer.accept("FUNCTIONS"):
        return ShowFunctions(sql=lexer.sql)
    elif lexer.accept("COLUMNS"):
        if not (lexer.accept("IN") or lexer.accept("FROM")):
            raise lexer.failure("show statement")
        table = _either_quotes(lexer)
        if lexer.accept("IN") or lexer.accept("FROM"):
            table = [*_either_quotes(lexer), *table]
        statement = ShowColumns(table=table)
    elif lexer.accept("PARTITIONS"):
        statement = ShowPartitions(table=_either_quotes(lexer))
    elif lexer.accept("TBLPROPERTIES"):
        table = lexer.name(Dialect.HIVE)
        name = None
        if lexer.accept("("):
            name = unquote(lexer.parenthesised().strip())
        statement = ShowTableProperties(table=table, name=name)
    elif lexer.accept("CREATE TABLE"):
        statement = ShowCreateTable(table=_either_quotes(lexer))
    elif lexer.accept("CREATE VIEW"):
        statement = ShowCreateView(table=_either_quotes(lexer))
    else:
        raise lexer.failure("ddl statement")
    lexer.expect_end()
    return statement


def _describe(lexer: Lexer) -> Statement:
    if lexer.word() in ("INPUT", "OUTPUT") and lexer.peek(1).kind in ("word", "quoted"):
        raise InvalidRequest("Queries of this type are not supported", "NOT_SUPPORTED")
    lexer.accept("EXTENDED") or lexer.accept("FORMATTED")
    table = _either_quotes(lexer)
    partition = lexer.accept("PARTITION")
    if partition:
        _partition_values(lexer)
    elif lexer.peek().kind in ("word", "backquoted"):
        lexer.identifier(Dialect.HIVE)
    lexer.expect_end()
    return DescribeTable(table=table, partition=partition)


_READERS = {
    **dict.fromkeys(
        ("SELECT", "WITH", "VALUES", "TABLE", "(", "INSERT", "UPDATE", "DELETE", "MERGE"), _query
    ),
    "EXPLAIN": _explain,
    "CREATE": _create,
    "DROP": _drop,
    "ALTER": _alter,
    "OPTIMIZE": _optimize,
    "VACUUM": _vacuum,
    "MSCK": _msck,
    "UNLOAD": _unload,
    "PREPARE": _prepare,
    "EXECUTE": _execute,
    "DEALLOCATE": _deallocate,
    "SHOW": _show,
    "DESCRIBE": _describe,
    "DESC": _describe,
}

__all__ = [
    name
    for name, value in dict(globals()).items()
    if isinstance(value, type) and issubclass(value, Statement)
]
__all__ += ["DDL", "DML", "UTILITY", "Columns", "SyntaxFailure", "parse"]
