"""Statements of Athena in the words of Trino."""

import re
from dataclasses import dataclass, field

from ..trino import HIVE, ICEBERG
from . import types
from .lexer import quote_name, quote_string, unquote
from .rules import is_iceberg_ctas
from .statements import CreateTable, CreateTableAsSelect, Optimize, Unload

# What Athena keeps in Glue, and Trino does not know.
_ICEBERG_PARAMETERS = ("vacuum_", "optimize_", "write_target")


@dataclass
class Translated:
    """A statement for Trino."""

    sql: str
    session: list[str] = field(default_factory=list)
    """Session properties it needs."""
    parameters: dict[str, str] = field(default_factory=dict)
    """Of the Glue table, to be set afterwards."""


def create_table_as(statement: CreateTableAsSelect, database: str, table: str, location: str) -> Translated:
    """CTAS; `location` is where the data go."""
    iceberg = is_iceberg_ctas(statement)
    catalog = ICEBERG if iceberg else HIVE
    given = dict(statement.properties)
    properties = {"format": quote_string(unquote(given.pop("format", "PARQUET")).upper())}
    properties["location" if iceberg else "external_location"] = quote_string(location)
    for name in ("partitioned_by", "bucketed_by", "bucket_count"):
        if name in given:
            properties[name] = given[name]
    if "partitioning" in given:
        properties["partitioning"] = given["partitioning"]
    if "field_delimiter" in given:
        properties["textfile_field_separator"] = given["field_delimiter"]
    options = ", ".join(f"{name} = {value}" for name, value in properties.items())
    exists = "IF NOT EXISTS " if statement.if_not_exists else ""
    data = "" if statement.with_data else " WITH NO DATA"
    codec = next(
        (given[n] for n in ("write_compression", "parquet_compression", "orc_compression") if n in given), ""
    )
    return Translated(
        f"CREATE TABLE {exists}{quote_name(catalog, database, table)} WITH ({options}) AS"
        f" {statement.body}{data}",
        _compression(catalog, unquote(codec)),
        {name: unquote(value) for name, value in given.items() if name.startswith(_ICEBERG_PARAMETERS)},
    )


def create_iceberg_table(statement: CreateTable, database: str, table: str) -> Translated:
    """CREATE TABLE of an Iceberg table."""
    columns = ", ".join(
        f"{quote_name(column['Name'])} {types.hive_to_trino(column['Type'])}"
        + (f" COMMENT {quote_string(column['Comment'])}" if column.get("Comment") else "")
        for column in statement.columns
    )
    properties = {
        "location": quote_string(statement.location.rstrip("/")),
        "format": quote_string(statement.properties.get("format", "parquet").upper()),
    }
    if statement.transforms:
        items = ", ".join(quote_string(_transform(item)) for item in statement.transforms)
        properties["partitioning"] = f"ARRAY[{items}]"
    options = ", ".join(f"{name} = {value}" for name, value in properties.items())
    comment = f" COMMENT {quote_string(statement.comment)}" if statement.comment else ""
    return Translated(
        f"CREATE TABLE {quote_name(ICEBERG, database, table)} ({columns}){comment} WITH ({options})",
        _compression(ICEBERG, statement.properties.get("write_compression", "")),
        {
            name: value
            for name, value in statement.properties.items()
            if name.startswith(_ICEBERG_PARAMETERS) or name == "write_compression"
        },
    )


def _transform(item: str) -> str:
    """`bucket(16, x)` → `bucket(x, 16)`; names lose their quotes."""
    if found := re.fullmatch(r"(bucket|truncate)\s*\(\s*(\d+)\s*,\s*(.+?)\s*\)", item, re.I):
        return f"{found[1].lower()}({unquote(found[3]).lower()}, {found[2]})"
    return item.replace("`", "").lower()


def _compression(catalog: str, codec: str) -> list[str]:
    """The session property for a codec; what Trino calls otherwise or lacks is left to its default."""
    codec = {"UNCOMPRESSED": "NONE", "ZLIB": "GZIP", "DEFLATE": "GZIP", "BZIP2": "", "LZO": ""}.get(
        codec.upper(), codec.upper()
    )
    return [f"{catalog}.compression_codec={codec}"] if codec else []


def unload(statement: Unload, database: str, table: str) -> Translated:
    """UNLOAD, as a CTAS of a table that is forgotten afterwards."""
    given = statement.properties
    properties = {
        "format": quote_string(unquote(given["format"]).upper()),
        "external_location": quote_string(statement.location),
    }
    if "partitioned_by" in given:
        properties["partitioned_by"] = given["partitioned_by"]
    if "field_delimiter" in given:
        properties["textfile_field_separator"] = given["field_delimiter"]
    options = ", ".join(f"{name} = {value}" for name, value in properties.items())
    return Translated(
        f"CREATE TABLE {quote_name(HIVE, database, table)} WITH ({options}) AS {statement.body}",
        _compression(HIVE, unquote(given.get("compression", "GZIP"))),
    )


def optimize(statement: Optimize, database: str, table: str) -> Translated:
    """OPTIMIZE."""
    return Translated(
        f"ALTER TABLE {quote_name(ICEBERG, database, table)} EXECUTE optimize {statement.where}"
    )


def vacuum(database: str, table: str, max_age_seconds: str) -> list[Translated]:
    """VACUUM: expired snapshots, then files that nothing refers to."""
    name = quote_name(ICEBERG, database, table)
    return [
        Translated(
            f"ALTER TABLE {name} EXECUTE {procedure}(retention_threshold => '{int(max_age_seconds)}s')"
        )
        for procedure in ("expire_snapshots", "remove_orphan_files")
    ]


def in_athenas_words(text: str) -> str:
    """An error of Trino as Athena tells it."""
    text = re.sub(rf"(['\s]){ICEBERG}\.", rf"\1{HIVE}.", text)
    if re.search(r"Column '.*' cannot be resolved\Z", text):
        text += " or requester is not authorized to access requested resources"
    return text
