"""What `python -m sandbox.cleanup` deletes in a bucket (moto's)."""

import uuid
from datetime import UTC, datetime, timedelta

import boto3
import pytest
import typer
from typer.testing import CliRunner

from sandbox import cleanup

LOST, USED, ODD = (
    f"lake/{part}/tables/marts__x__a/{uuid.uuid4()}" for part in ("curated", "curated", "other")
)
KEYS = [f"{LOST}/data/1.parquet", f"{LOST}/metadata/1.json", f"{USED}/data/1.parquet", f"{ODD}/data/1.parquet",
        "lake/raw/app/customers/extract_date=2025-12-31/1.parquet", "lake/processed/staging/by_hand/1.parquet",
        f"another/{LOST}/data/1.parquet"]  # fmt: skip


@pytest.fixture
def lake(bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A lake with a folder that a table is in, one that none is in, and what is none of its business."""
    monkeypatch.setenv("LAKE", f"{bucket}/lake")
    name = bucket.removeprefix("s3://")
    for key in KEYS:
        boto3.client("s3").put_object(Bucket=name, Key=key, Body=b"x")
    glue = boto3.client("glue")
    glue.create_database(DatabaseInput={"Name": name})
    glue.create_table(
        DatabaseName=name,
        TableInput={"Name": "x", "StorageDescriptor": {"Location": f"{bucket}/{USED}"}},
    )
    return name


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(cleanup.main)
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    return done.output


def keys(bucket: str) -> list[str]:
    return [entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]]


def test_only_folders_that_no_table_is_in_are_deleted_and_only_when_told(lake: str) -> None:
    said = run("--hours", "0")
    assert f"{LOST}/  2 objects" in said
    assert "1 folders that no table is in, 0.0 MB: `--delete` deletes them" in said
    assert sorted(keys(lake)) == sorted(KEYS)
    run("--hours", "0", "--delete")
    assert sorted(keys(lake)) == sorted(key for key in KEYS if not key.startswith(LOST))


def test_what_a_build_may_be_writing_stays(lake: str) -> None:
    assert "nothing to delete" in run("--delete")
    assert sorted(keys(lake)) == sorted(KEYS)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    found = cleanup.orphans(boto3.client("s3"), boto3.client("glue"), f"s3://{lake}/lake/", tomorrow)
    assert [folder.prefix for folder in found] == [f"{LOST}/"]


def test_where_glue_shows_no_table_nothing_is_an_orphan(lake: str) -> None:
    """Another region, or a caller who may not see the database: every table would look forgotten."""
    boto3.client("glue").delete_table(DatabaseName=lake, Name="x")
    assert "nothing to delete" in run("--hours", "0", "--delete")
    assert sorted(keys(lake)) == sorted(KEYS)


def test_a_lake_in_a_folder_is_none_to_clean_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE", "lake")
    app = typer.Typer()
    app.command()(cleanup.main)
    assert CliRunner().invoke(app, ["--delete"]).exit_code == 2
