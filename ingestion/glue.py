"""Raw tables in the Glue catalogue, so that Athena reads what was landed on S3.

A table of the lake is an external table of the same name in the database GLUE_DATABASE. It follows from the
newest batch's manifest: its columns are all that any batch holds, its partitions are projected up to the last
`extract_date`, so nothing is crawled and no partition is registered. A run registers its tables whether or
not it landed anything: what a run that died left out, the next one makes good.

Descriptions are those of dbt's sources (`models/staging/<source>/_<source>__sources.yml`), where it has any.
"""

import re
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml12

from ingestion.config import TableConfig
from ingestion.errors import ConfigurationError, IngestionError
from ingestion.lake import LANDING_FIELDS, Lake
from ingestion.storage import error_code

MODELS = Path(__file__).resolve().parents[1] / "models"
PARTITION = "extract_date"
# Glue's own limits.
COMMENT_CHARACTERS, DESCRIPTION_CHARACTERS = 255, 2048
_SERDE = {
    "InputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
    "OutputFormat": "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
    "SerdeInfo": {
        "SerializationLibrary": "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe",
        "Parameters": {"serialization.format": "1"},
    },
}
_TYPES = {
    "bool": "boolean",
    "int8": "tinyint",
    "int16": "smallint",
    "int32": "int",
    "int64": "bigint",
    "halffloat": "float",
    "float": "float",
    "double": "double",
    "string": "string",
    "large_string": "string",
    "binary": "binary",
    "date32[day]": "date",
}
_DECIMAL = re.compile(r"decimal(?:32|64|128|256)\((\d+), (-?\d+)\)")
_LIST = re.compile(r"(?:large_)?list<[^:]+: (.+)>")


class Catalogue:
    """The tables of one lake in one Glue database, which is made when it is missing.

    Raises:
        ConfigurationError: the lake is in no bucket.
        IngestionError: Glue cannot be used.
    """

    def __init__(self, lake: Lake, database: str) -> None:
        if not lake.root.startswith("s3://"):
            raise ConfigurationError(
                f"GLUE_DATABASE={database} needs a lake on S3, and LAKE is {lake.root}: unset one of them"
            )
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self._lake = lake
        self._database = database
        try:
            self._glue = boto3.client(
                "glue", config=Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10)
            )
        except (BotoCoreError, ValueError) as error:
            raise self._problem(error) from None

    def register(self, table: TableConfig) -> None:
        """Make the table of Glue what the lake holds; nothing is called when it is that already.

        Raises:
            IngestionError: Glue refuses, or has a table of that name that is another lake's.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        manifest = self._lake.last_manifest(table.source, table.table)
        if manifest is None:
            return
        try:
            found = self._tables.get(table.table)
            wanted = self._wanted(table, manifest, found)
            if found is None:
                self._glue.create_table(DatabaseName=self._database, TableInput=wanted)
            elif not _holds(found, wanted):
                self._glue.update_table(DatabaseName=self._database, TableInput=wanted, SkipArchive=True)
        except (ClientError, BotoCoreError) as error:
            raise self._problem(error) from None
        self._tables[table.table] = wanted

    @cached_property
    def _tables(self) -> dict[str, dict[str, Any]]:
        """Name → table, of the database."""
        from botocore.exceptions import ClientError

        try:
            pages = self._glue.get_paginator("get_tables").paginate(DatabaseName=self._database)
            return {found["Name"]: found for page in pages for found in page["TableList"]}
        except ClientError as error:
            if error_code(error) != "EntityNotFoundException":
                raise
        self._glue.create_database(
            DatabaseInput={
                "Name": self._database,
                "Description": "What was landed, as the sources gave it; written by ingestion alone.",
                "LocationUri": f"{self._lake.root}/raw/",
            }
        )
        return {}

    def _wanted(
        self, table: TableConfig, manifest: dict[str, Any], found: dict[str, Any] | None
    ) -> dict[str, Any]:
        location = f"{self._lake.root}/raw/{table.source}/{table.table}"
        if found and found["StorageDescriptor"]["Location"].rstrip("/") != location:
            raise IngestionError(
                f"{table.name}: Glue's table {self._database}.{table.table} is at"
                f" {found['StorageDescriptor']['Location']} and not at {location}: set GLUE_DATABASE to"
                " another database, or drop that table if nobody needs it"
            )
        about = _descriptions(MODELS, table)
        days = sorted(b.parent.name.partition("=")[2] for b in self._lake.batches(table.source, table.table))
        # Athena wants two days that differ.
        first = date.fromisoformat(days[0]) - timedelta(days=1)
        columns = manifest.get("landed_columns") or {}
        types = columns | {field.name: str(field.type) for field in LANDING_FIELDS}
        described = [
            {"Name": name.lower(), "Type": athena_type(table, name, kind)} | about.comment(name)
            for name, kind in types.items()
        ]
        return {
            "Name": table.table,
            **about.table,
            "TableType": "EXTERNAL_TABLE",
            "PartitionKeys": [{"Name": PARTITION, "Type": "string"} | about.comment(PARTITION)],
            "StorageDescriptor": {"Columns": described, "Location": location, **_SERDE},
            # What others have added stays.
            "Parameters": (found or {}).get("Parameters", {})
            | {
                "EXTERNAL": "TRUE",
                "classification": "parquet",
                "projection.enabled": "true",
                f"projection.{PARTITION}.type": "date",
                f"projection.{PARTITION}.format": "yyyy-MM-dd",
                f"projection.{PARTITION}.range": f"{first},{days[-1]}",
                "storage.location.template": f"{location}/{PARTITION}=${{{PARTITION}}}",
                # Rows cannot tell: a batch may have none. dbt asks these for its day and for freshness.
                "lakehouse.source": table.name,
                "lakehouse.last_day": days[-1],
                "lakehouse.landed_at": manifest["finished_at"],
                "lakehouse.batch_id": manifest["batch_id"],
            },
        }

    def _problem(self, error: Exception) -> IngestionError:
        code = error_code(error) or type(error).__name__
        return IngestionError(
            f"the rows are in the lake, but Glue's database {self._database} could not be told: {code}; check"
            " AWS_REGION and the permissions on glue (docs/athena.md lists them), then run again"
        )


def _holds(found: Any, wanted: Any) -> bool:
    """Is `wanted` what Glue has? Glue adds fields of its own to those it was given."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_holds(found.get(name), wanted[name]) for name in wanted)
    if isinstance(wanted, list) and isinstance(found, list) and len(found) == len(wanted):
        return all(map(_holds, found, wanted))
    return bool(found == wanted)


def athena_type(table: TableConfig, column: str, kind: str) -> str:
    """Athena's name of an Arrow type, given as Arrow prints it.

    Raises:
        IngestionError: Athena has no such type.
    """
    if kind in _TYPES:
        return _TYPES[kind]
    if kind.startswith("timestamp["):
        return "timestamp"
    if decimal := _DECIMAL.fullmatch(kind):
        return f"decimal({decimal[1]},{decimal[2]})"
    if items := _LIST.fullmatch(kind):
        return f"array<{athena_type(table, column, items[1])}>"
    raise IngestionError(
        f"{table.name}: column {column} is a {kind}, which Athena cannot read: leave it out, or have the"
        " source give it as a text"
    )


class _About:
    """What dbt's sources say of a table."""

    def __init__(self, source: dict[str, Any], entry: dict[str, Any], docs: dict[str, str]) -> None:
        self._docs = docs
        self._columns = {column["name"].lower(): column for column in entry.get("columns") or []}
        owner = (_meta(source) | _meta(entry)).get("owner")
        known = {"Description": self._text(entry, DESCRIPTION_CHARACTERS), "Owner": str(owner or "")}
        self.table = {name: text for name, text in known.items() if text}  # Glue takes no empty owner

    def comment(self, column: str) -> dict[str, str]:
        """The column's comment, as Glue takes it."""
        text = self._text(self._columns.get(column.lower(), {}), COMMENT_CHARACTERS)
        return {"Comment": text} if text else {}

    def _text(self, entry: dict[str, Any], characters: int) -> str:
        text = str(entry.get("description") or "")
        text = _DOC.sub(lambda found: self._docs.get(found[1], ""), text)
        text = " ".join(text.split())
        return text if len(text) <= characters else f"{text[: characters - 1]}…"


_DOC = re.compile(r"\{\{\s*doc\('(\w+)'\)\s*\}\}")
_DOCS = re.compile(r"\{% docs (\w+) %\}(.*?)\{% enddocs %\}", re.DOTALL)


def _meta(entry: dict[str, Any]) -> dict[str, Any]:
    return (entry.get("config") or {}).get("meta") or {}


def _descriptions(models: Path, table: TableConfig) -> _About:
    for file in models.glob("staging/*/_*__sources.yml"):
        for source in yaml12.parse_yaml(file.read_text(encoding="utf-8")).get("sources") or []:
            for entry in source.get("tables") or []:
                if (source["name"], entry["name"]) == (table.source, table.table):
                    return _About(source, entry, _docs(models))
    return _About({}, {}, {})


def _docs(models: Path) -> dict[str, str]:
    """Name → text of every block of documentation."""
    texts = (file.read_text(encoding="utf-8") for file in models.glob("**/*.md"))
    return {name: text for found in texts for name, text in _DOCS.findall(found)}
