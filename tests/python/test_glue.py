"""What ingestion tells Glue of a lake on S3 (moto's server): a table's columns, partitions and descriptions."""

import subprocess
import sys
from collections.abc import Callable
from datetime import date
from typing import Any

import boto3
import psycopg
import pyarrow as pa
import pytest
from conftest import ROOT, SETTINGS
from landing import things

from ingestion import drift
from ingestion.config import TableConfig, load_sources
from ingestion.errors import ConfigurationError, IngestionError
from ingestion.glue import Catalogue, athena_type
from ingestion.lake import Lake

FIRST, SECOND = date(2025, 12, 31), date(2026, 1, 1)


@pytest.fixture
def lake(bucket: str) -> Lake:
    return Lake.open(f"{bucket}/lake", "synthetic")


@pytest.fixture
def database(bucket: str) -> str:
    """A name that no other test uses: all share one Glue."""
    return bucket.removeprefix("s3://").replace("-", "_")


@pytest.fixture
def known(database: str) -> Callable[[str], dict[str, Any]]:
    """A table as Glue has it."""
    glue = boto3.client("glue")
    return lambda name: glue.get_table(DatabaseName=database, Name=name)["Table"]


def land(lake: Lake, table: TableConfig, day: date, **columns: pa.Array) -> None:
    rows = pa.table(columns)
    with lake.lock():
        last = lake.last_manifest(table.source, table.table)
        found = drift.resolve(table, rows.schema, last)
        with lake.begin(table, found.schema, lake.next_batch_id(), day) as out:
            out.extra |= found.manifest
            out.extracted = rows.num_rows
            out.write(rows)


def columns_of(table: dict[str, Any]) -> dict[str, str]:
    return {column["Name"]: column["Type"] for column in table["StorageDescriptor"]["Columns"]}


def test_a_table_is_registered_as_it_was_landed(lake: Lake, database: str, known: Callable) -> None:
    table = things(cursor=None)
    land(
        lake, table, FIRST,
        id=pa.array([1], pa.int32()), name=pa.array(["Ana"]), amount=pa.array([1], pa.decimal128(14, 2)),
        tags=pa.array([["a"]], pa.list_(pa.string())), at=pa.array([0], pa.timestamp("us", tz="UTC")),
        born=pa.array([0], pa.date32()), is_new=pa.array([True]),
    )  # fmt: skip
    Catalogue(lake, database).register(table)
    found = known("things")
    assert columns_of(found) == {
        "id": "int", "name": "string", "amount": "decimal(14,2)", "tags": "array<string>", "at": "timestamp",
        "born": "date", "is_new": "boolean",
        "_batch_id": "string", "_extracted_at": "timestamp", "_source_deleted": "boolean",
    }  # fmt: skip
    assert [(key["Name"], key["Type"]) for key in found["PartitionKeys"]] == [("extract_date", "string")]
    location = f"{lake.root}/raw/app/things"
    assert found["StorageDescriptor"]["Location"] == location
    parameters = found["Parameters"]
    assert parameters["storage.location.template"] == location + "/extract_date=${extract_date}"
    assert parameters["projection.extract_date.range"] == "2025-12-30,2025-12-31"
    assert parameters["lakehouse.last_day"] == "2025-12-31"


def test_what_is_registered_already_is_left_alone(
    lake: Lake, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(lake, things(cursor=None), FIRST, id=pa.array([1]))
    Catalogue(lake, database).register(things())
    again = Catalogue(lake, database)
    for call in ("create_table", "update_table", "create_database"):
        monkeypatch.setattr(again._glue, call, lambda **kwargs: pytest.fail("called"))
    again.register(things())


def test_days_and_columns_follow_the_lake_and_what_others_added_stays(
    lake: Lake, database: str, known: Callable
) -> None:
    table = things(cursor=None)
    land(lake, table, FIRST, id=pa.array([1], pa.int32()), gone=pa.array(["x"]))
    Catalogue(lake, database).register(table)
    first = known("things")
    boto3.client("glue").update_table(
        DatabaseName=database,
        TableInput={k: first[k] for k in ("Name", "TableType", "PartitionKeys", "StorageDescriptor")}
        | {"Parameters": first["Parameters"] | {"classified_by": "somebody"}},
    )
    land(lake, table, SECOND, id=pa.array([2], pa.int64()), added=pa.array([0.5]))
    Catalogue(lake, database).register(table)
    second = known("things")
    wide = {"id": "bigint", "gone": "string", "added": "double"}
    assert wide.items() <= columns_of(second).items()
    assert second["Parameters"]["projection.extract_date.range"] == "2025-12-30,2026-01-01"
    assert second["Parameters"]["lakehouse.batch_id"] == "00000002"
    assert second["Parameters"]["classified_by"] == "somebody"


def test_descriptions_and_owners_are_those_of_dbt_for_every_column(
    lake: Lake, database: str, known: Callable
) -> None:
    for name in ("app.customers", "bureau.scores"):
        table = next(t for t in load_sources() if t.name == name)
        cursor = {table.cursor: pa.array([0], pa.timestamp("us", tz="UTC"))}
        land(lake, table, FIRST, **{c: pa.array(["x"]) for c in (*table.key, "cpf", "extra")} | cursor)
        Catalogue(lake, database).register(table)
    customers, scores = known("customers"), known("scores")
    assert customers["Description"] == "People and their registration data as the app knows them."
    assert customers["Owner"] == "lending-app"
    comments = {c["Name"]: c.get("Comment") for c in customers["StorageDescriptor"]["Columns"]}
    assert comments.pop("extra") is None  # dbt knows no such column
    assert all(comments.values())
    assert "doc(" not in "".join(comments.values())
    assert max(map(len, comments.values())) <= 255
    assert customers["PartitionKeys"][0]["Comment"]
    assert scores["Owner"]


def test_the_table_of_another_lake_is_not_taken_over(lake: Lake, database: str, bucket: str) -> None:
    other = Lake.open(f"{bucket}/other", "synthetic")
    for each in (other, lake):
        land(each, things(cursor=None), FIRST, id=pa.array([1]))
    Catalogue(other, database).register(things())
    with pytest.raises(IngestionError, match=r"is at s3://.*/other/raw/app/things and not at"):
        Catalogue(lake, database).register(things())


def test_a_lake_in_a_folder_cannot_be_registered(tmp_path) -> None:
    lake = Lake.open(str(tmp_path / "lake"), "synthetic")
    with pytest.raises(ConfigurationError, match="needs a lake on S3"):
        Catalogue(lake, "raw")


def test_a_type_that_athena_lacks_is_named() -> None:
    with pytest.raises(IngestionError, match=r"app\.things: column opens_at is a time64\[us\]"):
        athena_type(things(), "opens_at", "time64[us]")


@pytest.mark.parametrize("glue_database", ["raw_of_a_run", ""])
def test_a_run_registers_what_it_landed_where_a_setting_says_so(
    app_schema: psycopg.Connection, server: str, bucket: str, tmp_path, monkeypatch, glue_database: str
) -> None:
    app_schema.execute("create table app.things (id int primary key, updated_at timestamptz)")
    app_schema.execute("insert into app.things values (1, '2025-01-01')")
    (tmp_path / "sources.yml").write_text(
        "app: {kind: postgres, schema: app, tables: {things: {key: [id], cursor: updated_at}}}"
    )
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    settings = {"LAKE": f"{bucket}/lake", "SOURCE_DSN": server, "EXTRACT_DATE": "2025-12-31", "GLUE_DATABASE": glue_database}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    if not glue_database:  # nobody listens there: a run that asked Glue for anything would fail
        monkeypatch.setenv("AWS_ENDPOINT_URL_GLUE", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    # as a program: one that lands PostgreSQL's tables alone spares itself imports, none that boto3 needs
    command = [sys.executable, "-m", "ingestion", "run", "--sources", str(tmp_path / "sources.yml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if not glue_database:
        return
    found = boto3.client("glue").get_table(DatabaseName=glue_database, Name="things")["Table"]
    assert columns_of(found)["updated_at"] == "timestamp"
