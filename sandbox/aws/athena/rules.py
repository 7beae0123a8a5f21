"""What Athena refuses although Trino would do it."""

import re
from collections.abc import Iterable

from ..errors import InvalidRequest, QueryFailed
from . import types
from .lexer import Lexer, quote_string, unquote
from .statements import CreateTable, CreateTableAsSelect, Unload

MAX_QUERY = 262144
MAX_REUSE = 10080
"""Minutes: https://docs.aws.amazon.com/athena/latest/APIReference/API_ResultReuseByAgeConfiguration.html."""

_CONSTANTS = frozenset(
    "NULL TRUE FALSE CURRENT_CATALOG CURRENT_DATE CURRENT_PATH CURRENT_SCHEMA CURRENT_TIME CURRENT_TIMESTAMP"
    " CURRENT_USER LOCALTIME LOCALTIMESTAMP".split()
)

# https://docs.aws.amazon.com/athena/latest/ug/create-table-as.html
_CTAS_PROPERTIES = frozenset(
    "table_type external_location location is_external format partitioned_by partitioning bucketed_by"
    " bucket_count"
    " write_compression orc_compression parquet_compression compression_level field_delimiter"
    " vacuum_min_snapshots_to_keep vacuum_max_snapshot_age_seconds vacuum_max_metadata_files_to_keep"
    " write_target_data_file_size_bytes optimize_rewrite_min_data_file_size_bytes"
    " optimize_rewrite_max_data_file_size_bytes optimize_rewrite_data_file_threshold"
    " optimize_rewrite_delete_file_threshold".split()
)
_ICEBERG_ONLY = frozenset(
    name for name in _CTAS_PROPERTIES if name.startswith(("vacuum_", "optimize_", "write_t"))
)
_HIVE_ONLY = frozenset(
    "external_location partitioned_by bucketed_by bucket_count orc_compression parquet_compression"
    " field_delimiter".split()
)
_FORMATS = {"hive": {"ORC", "PARQUET", "AVRO", "JSON", "TEXTFILE"}, "iceberg": {"PARQUET", "ORC", "AVRO"}}
_CODECS = {"NONE", "UNCOMPRESSED", "SNAPPY", "GZIP", "ZLIB", "ZSTD", "LZ4", "LZO", "DEFLATE", "BZIP2"}

# https://docs.aws.amazon.com/athena/latest/ug/querying-iceberg-creating-tables.html
_ICEBERG_TABLE_PROPERTIES = frozenset(
    "table_type format write_compression compression_level optimize_rewrite_data_file_threshold"
    " optimize_rewrite_delete_file_threshold optimize_rewrite_min_data_file_size_bytes"
    " optimize_rewrite_max_data_file_size_bytes write_target_data_file_size_bytes"
    " vacuum_min_snapshots_to_keep"
    " vacuum_max_snapshot_age_seconds vacuum_max_metadata_files_to_keep write_data_path_enabled"
    " write_object_storage_enabled write_object_storage_path external_location".split()
)

# https://docs.aws.amazon.com/athena/latest/ug/unload.html
_UNLOAD_PROPERTIES = frozenset("format partitioned_by compression compression_level field_delimiter".split())


def check_catalogs(sql: str) -> None:
    """Trino's own catalogue `system` (its queries, nodes, settings) is none of Athena's.

    Raises:
        QueryFailed: the statement reads it.
    """
    lexer, begins = Lexer(sql), False
    while not lexer.at_end:
        begins = lexer.word() in ("FROM", "JOIN", "INTO", "TABLE", ",") or (begins and lexer.word() == "(")
        lexer.take()
        token = lexer.peek()
        if begins and unquote(token.text).lower() == "system" and lexer.word(1) == "." == lexer.word(3):
            line, column = lexer.position(token)
            raise QueryFailed(f"CATALOG_NOT_FOUND: line {line}:{column + 1}: Catalog 'system' not found")


def parameter(text: str) -> str:
    """An execution parameter as an expression: one word that is no constant is a string.

    https://docs.aws.amazon.com/athena/latest/ug/querying-with-prepared-statements.html asks for single quotes
    around strings; that Athena takes `Washington` for one as well is known from
    `test_athena_paramstyle_qmark_parameters` of
    https://github.com/aws/aws-sdk-pandas/blob/main/tests/unit/test_athena.py, which runs on AWS.
    """
    lexer = Lexer(text)
    is_word = lexer.peek().kind == "word" and lexer.peek(1).kind == "end"
    return quote_string(text.strip()) if is_word and lexer.word() not in _CONSTANTS else text


def check_ctas(statement: CreateTableAsSelect) -> None:
    """Properties of a CTAS: names, which table type they belong to, formats.

    Raises:
        QueryFailed: Athena refuses them.
    """
    iceberg = is_iceberg_ctas(statement)
    kind = "iceberg" if iceberg else "hive"
    for name in statement.properties:
        wrong_type = name in (_HIVE_ONLY if iceberg else _ICEBERG_ONLY | {"partitioning", "location"})
        if name not in _CTAS_PROPERTIES or wrong_type:
            raise QueryFailed(
                f"INVALID_TABLE_PROPERTY: line 1:1: Catalog 'awsdatacatalog' table property '{name}' does"
                " not exist"
            )
    table_type = unquote(statement.properties.get("table_type", "'HIVE'")).upper()
    if table_type not in ("HIVE", "ICEBERG"):
        raise QueryFailed(
            f"INVALID_TABLE_PROPERTY: Invalid value for table property table_type: {table_type}"
        )
    if iceberg and unquote(statement.properties.get("is_external", "true")).lower() != "false":
        # "For Iceberg tables, this must be set to false", and the default is true.
        raise QueryFailed(
            "NOT_SUPPORTED: External Iceberg tables are not supported: is_external must be false"
        )
    file_format = unquote(statement.properties.get("format", "'PARQUET'")).upper()
    if file_format not in _FORMATS[kind]:
        raise QueryFailed(
            f"INVALID_TABLE_PROPERTY: line 1:1: Unable to set catalog 'awsdatacatalog' table property"
            " 'format'"
            f" to ['{file_format}']: Invalid value [{file_format}]. Valid values: {sorted(_FORMATS[kind])}"
        )
    codec = unquote(statement.properties.get("write_compression", "'NONE'")).upper()
    if codec not in _CODECS:
        raise QueryFailed(f"INVALID_TABLE_PROPERTY: Unsupported compression codec: {codec}")


def check_ctas_columns(columns: Iterable[tuple[str, str]], *, iceberg: bool) -> None:
    """Types of what a CTAS writes.

    Args:
        columns: names, and types in Trino's words.
        iceberg: the type of the table.

    Raises:
        QueryFailed: Athena's Iceberg or Hive tables cannot hold them.
    """
    seen = set()
    for name, text in columns:
        if not name:
            raise QueryFailed("MISSING_COLUMN_NAME: line 1:1: Column name not specified at position 1")
        if name.lower() in seen:
            raise QueryFailed(
                f"DUPLICATE_COLUMN_NAME: line 1:1: Column name '{name}' specified more than once"
            )
        seen.add(name.lower())
        if text == "unknown":
            raise QueryFailed(f"COLUMN_TYPE_UNKNOWN: line 1:1: Column type is unknown: {name}")
        lowered = text.lower()
        if zoned := re.search(r"timestamp\(\d+\) with time zone|time\(\d+\) with time zone", lowered):
            raise QueryFailed(f"NOT_SUPPORTED: Unsupported Hive type: {zoned[0]}")
        if not iceberg:
            continue
        if precision := re.search(r"timestamp\((?!6\))(\d+)\)", lowered):
            raise QueryFailed(
                f"NOT_SUPPORTED: Timestamp precision ({precision[1]}) not supported for Iceberg."
                ' Use "timestamp(6)" instead.'
            )
        if unsupported := re.search(
            r"\b(tinyint|smallint|char(\(\d+\))?|time\(\d+\)|json|ipaddress)(?=$|[\s,)])", lowered
        ):
            raise QueryFailed(f"NOT_SUPPORTED: Type not supported for Iceberg: {unsupported[1]}")


def check_view_columns(columns: Iterable[tuple[str, str]]) -> None:
    """Types that Glue can describe, because a view's columns are kept there.

    Raises:
        QueryFailed: one of them is not among those.
    """
    for name, text in columns:
        if "with time zone" in text:
            raise QueryFailed(f"Invalid column type for column {name}: Unsupported Hive type: {text}")


def is_iceberg_ctas(statement: CreateTableAsSelect) -> bool:
    """Whether a CTAS makes an Iceberg table."""
    return unquote(statement.properties.get("table_type", "'HIVE'")).upper() == "ICEBERG"


def check_create_table(statement: CreateTable) -> None:
    """CREATE TABLE: kind, types, location, properties.

    Raises:
        QueryFailed: Athena refuses it.
    """
    if statement.iceberg:
        if statement.external:
            raise QueryFailed(
                "FAILED: SemanticException: External keyword is not supported for Iceberg tables: use"
                " CREATE TABLE"
            )
        check_iceberg_properties(statement.properties)
        allowed = types.ICEBERG_TYPES
    else:
        if not statement.external:
            raise QueryFailed(
                "FAILED: SemanticException: CREATE TABLE without EXTERNAL is only supported for Iceberg"
                " tables:"
                " use CREATE EXTERNAL TABLE"
            )
        allowed = types.HIVE_TYPES
    if not statement.location:
        raise QueryFailed(
            "FAILED: SemanticException 1:1 LOCATION is required: Table location can not be null"
        )
    if not re.match(r"s3[an]?://[^/]+/", statement.location):
        raise QueryFailed(
            "FAILED: Execution Error, return code 1 from org.apache.hadoop.hive.ql.exec.DDLTask."
            f" MetaException(message:Location {statement.location} is not an S3 path ending in a folder)"
        )
    if statement.bucket_count > 0 and statement.iceberg:
        raise QueryFailed("FAILED: SemanticException: CLUSTERED BY is not supported for Iceberg tables")
    if not statement.columns:
        raise QueryFailed(
            "FAILED: Execution Error, return code 1 from org.apache.hadoop.hive.ql.exec.DDLTask."
            " MetaException(message:at least one column must be specified for the table)"
        )
    names = [
        column["Name"]
        for column in [*statement.columns, *([] if statement.iceberg else statement.partitions)]
    ]
    for name in names:
        if names.count(name) > 1:
            raise QueryFailed(f"FAILED: SemanticException [Error 10036]: Duplicate column name: {name}")
    for column in statement.columns:
        check_hive_type(column["Type"], allowed)


def check_hive_type(text: str, allowed: frozenset[str]) -> None:
    """A column's type must be one that DDL knows.

    Raises:
        QueryFailed: it is not.
    """
    for leaf in types.leaf_types(text):
        if types.base_type(leaf) not in allowed:
            raise QueryFailed(
                f"FAILED: ParseException line 1:0 cannot recognize input near '{leaf}' in column type"
            )


def check_iceberg_properties(properties: dict[str, str]) -> None:
    """Athena knows a fixed list of table properties for Iceberg.

    Raises:
        QueryFailed: one is not in it.
    """
    for name in properties:
        if name.lower() not in _ICEBERG_TABLE_PROPERTIES:
            raise QueryFailed(f"Unsupported table property key: {name}")


def check_unload(statement: Unload) -> None:
    """Properties of an UNLOAD.

    Raises:
        InvalidRequest: Athena does not know one, or the format is missing.
    """
    for name in statement.properties:
        if name not in _UNLOAD_PROPERTIES:
            raise QueryFailed(f"INVALID_FUNCTION_ARGUMENT: UNLOAD property '{name}' does not exist")
    if "format" not in statement.properties:
        raise InvalidRequest("UNLOAD requires the property 'format'", "MALFORMED_QUERY")
    file_format = unquote(statement.properties["format"]).upper()
    if file_format not in _FORMATS["hive"]:
        raise QueryFailed(f"NOT_SUPPORTED: Unsupported UNLOAD format: {file_format}")
