"""SHOW CREATE TABLE and DESCRIBE in Athena's form."""

import re

from .catalogue import TableInput
from .lexer import quote_name

_NOT_SHOWN = ("EXTERNAL", "comment")
_ICEBERG_SHOWN = ("vacuum_", "optimize_", "write_", "compression_level")


def show_create_hive(name: str, definition: TableInput) -> list[str]:
    """The lines of SHOW CREATE TABLE of an external table: Hive's form, with its trailing spaces.

    The name is as the statement has it: `test_athena` of awswrangler, which runs on AWS, names the table
    alone and sees it alone (https://github.com/aws/aws-sdk-pandas/blob/main/tests/unit/test_athena.py).
    """
    storage = definition["StorageDescriptor"]
    serde = storage.get("SerdeInfo") or {}
    parameters = definition.get("Parameters") or {}
    lines = [f"CREATE EXTERNAL TABLE `{name}`("]
    lines += _columns(storage.get("Columns", []))
    if parameters.get("comment"):
        lines.append(f"COMMENT {_string(parameters['comment'])}")
    if definition.get("PartitionKeys"):
        lines += ["PARTITIONED BY ( ", *_columns(definition["PartitionKeys"])]
    if storage.get("BucketColumns"):
        lines += ["CLUSTERED BY ( "]
        lines += [f"  {', '.join(storage['BucketColumns'])}) ", f"INTO {storage['NumberOfBuckets']} BUCKETS"]
    lines += ["ROW FORMAT SERDE ", f"  {_string(serde.get('SerializationLibrary', ''))} "]
    told = dict(serde.get("Parameters") or {})
    if told.get("serialization.format") == "1":  # the default, which Hive leaves out
        del told["serialization.format"]
    if told:
        lines += ["WITH SERDEPROPERTIES ( ", *_pairs(told, " ")]
    lines += ["STORED AS INPUTFORMAT ", f"  {_string(storage.get('InputFormat', ''))} "]
    lines += ["OUTPUTFORMAT ", f"  {_string(storage.get('OutputFormat', ''))}"]
    lines += ["LOCATION", f"  {_string(storage.get('Location', ''))}"]
    shown = {name: value for name, value in sorted(parameters.items()) if name not in _NOT_SHOWN}
    return [*lines, "TBLPROPERTIES (", *_pairs(shown, "")]


def show_create_iceberg(database: str, table: str, definition: TableInput, created: str) -> list[str]:
    """The lines of SHOW CREATE TABLE of an Iceberg table; `created` is Trino's version of it."""
    columns = definition["StorageDescriptor"]["Columns"]
    lines = [f"CREATE TABLE {database}.{table} ("]
    for number, column in enumerate(columns):
        comment = f" COMMENT {_string(column['Comment'])}" if column.get("Comment") else ""
        lines.append(
            f"  {column['Name']} {column['Type']}{comment}{',' if number + 1 < len(columns) else ')'}"
        )
    if transforms := _transforms(created):
        lines.append(f"PARTITIONED BY ({', '.join(text for text, _, _ in transforms)})")
    lines += [f"LOCATION {_string(definition['StorageDescriptor'].get('Location', ''))}", "TBLPROPERTIES ("]
    properties = {"table_type": "iceberg"}
    if found := re.search(r"format = '(\w+)'", created):
        properties["format"] = found[1].lower()
    parameters = definition.get("Parameters") or {}
    properties.update({k: v for k, v in sorted(parameters.items()) if k.startswith(_ICEBERG_SHOWN)})
    pairs = [f"  '{name}'={_string(value)}" for name, value in properties.items()]
    return [*lines, *(pair + "," for pair in pairs[:-1]), pairs[-1], ");"]


def show_create_view(database: str, view: str, created: str) -> list[str]:
    """The lines of SHOW CREATE VIEW; `created` is Trino's version of it.

    `test_get_view_definition` of PyAthena, which runs on AWS, sees neither the catalogue nor quotes
    (https://github.com/laughingman7743/PyAthena/blob/master/tests/pyathena/sqlalchemy/test_base.py).
    """
    names = (name if re.fullmatch(r"[a-z]\w*", name) else quote_name(name) for name in (database, view))
    _, _, body = created.partition(" AS\n")
    return [f"CREATE VIEW {'.'.join(names)} AS", *body.split("\n")]


def describe(definition: TableInput, created: str) -> list[str]:
    """The lines of DESCRIBE; `created` is Trino's SHOW CREATE TABLE of an Iceberg table, else empty."""
    columns = definition["StorageDescriptor"].get("Columns", [])
    if created:
        lines = ["# Table schema:\t\t", "# col_name\tdata_type\tcomment"]
        lines += [f"{column['Name']}\t{column['Type']}\t{column.get('Comment', '')}" for column in columns]
        lines += ["\t\t", "# Partition spec:\t\t", "# field_name\tfield_transform\tcolumn_name"]
        return lines + [f"{column}\t{kind}\t{column}" for _, kind, column in _transforms(created)]
    keys = definition.get("PartitionKeys") or []
    lines = [_padded(column) for column in [*columns, *keys]]
    if keys:
        header = "\t".join(f"{name:<20}" for name in ("# col_name", "data_type", "comment"))
        lines += ["\t \t ", "# Partition Information\t \t ", header, "\t \t ", *map(_padded, keys)]
    return lines


def _padded(column: dict[str, str]) -> str:
    return "\t".join(f"{column.get(key) or '':<20}" for key in ("Name", "Type", "Comment"))


def _columns(columns: list[dict[str, str]]) -> list[str]:
    lines = []
    for number, column in enumerate(columns):
        comment = f" COMMENT {_string(column['Comment'])}" if column.get("Comment") else ""
        lines.append(
            f"  `{column['Name']}` {column['Type']}{comment}{', ' if number + 1 < len(columns) else ')'}"
        )
    return lines


def _pairs(properties: dict[str, str], end: str) -> list[str]:
    pairs = [f"  {_string(name)}={_string(value)}" for name, value in properties.items()]
    return [*(pair + ", " for pair in pairs[:-1]), *(pair + ")" + end for pair in pairs[-1:])] or [
        "  )" + end
    ]


def _string(text: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        text = text.replace(plain, escaped)
    return f"'{text}'"


def _transforms(created: str) -> list[tuple[str, str, str]]:
    """Partition fields: as Athena writes them, the name of the transform, the column."""
    found = re.search(r"partitioning = ARRAY\[(.*)\]", created)
    transforms = []
    for item in re.findall(r"'((?:[^']|'')*)'", found[1]) if found else []:
        parts = re.fullmatch(r'(\w+)\("?(.+?)"?(?:,\s*(\d+))?\)', item)
        if not parts:
            column = item.strip('"')
            transforms.append((f"`{column}`", "identity", column))
        elif parts[3]:
            kind = parts[1].lower()
            transforms.append((f"{kind}({parts[3]}, `{parts[2]}`)", f"{kind}[{parts[3]}]", parts[2]))
        else:
            transforms.append((f"{parts[1].lower()}(`{parts[2]}`)", parts[1].lower(), parts[2]))
    return transforms
