"""Removes what killed builds on Athena left in the bucket: folders that no table is in.

A table of dbt is alone in a folder, `processed/<database>/<table>/<uuid>/` or `curated/…`. A build that is
killed while it writes one, or between forgetting one and deleting it, leaves a folder that Glue knows nothing
of; so does Athena when it dies itself. `dbt run-operation maintain` removes what is superfluous within the
tables' folders.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import Console

_FOLDER = re.compile(r"(processed|curated)/[^/]+/[^/]+/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/")


@dataclass
class Folder:
    """A folder that dbt made for one table."""

    prefix: str
    """Key of its objects up to and with the uuid's slash."""
    keys: list[str]
    size: int
    """Bytes."""
    newest: datetime
    """When its last object was written."""


def orphans(s3: Any, glue: Any, lake: str, before: datetime) -> list[Folder]:
    """The folders below `lake` (`s3://bucket/prefix`) that no table is in, with nothing newer than `before`.

    The tables of all databases count; only folders beside one that a table is in are looked at.
    Clients are boto3's.
    """
    bucket, _, prefix = lake.removeprefix("s3://").rstrip("/").partition("/")
    # Folders first: a table that is made in between is in one that is too young.
    found = [each for each in _folders(s3, bucket, f"{prefix}/" if prefix else "") if each.newest < before]
    used = {
        re.sub(rf"^s3[an]?://{re.escape(bucket)}/", "", each).rstrip("/") + "/" for each in _locations(glue)
    }
    # Glue hides what the caller may not see, and another region has none of it: where it shows no table of a
    # database at all, nothing is known of that database's folders.
    return [
        folder
        for folder in found
        if any(place.startswith(folder.prefix.rsplit("/", 3)[0] + "/") for place in used)
        and not any(folder.prefix.startswith(place) or place.startswith(folder.prefix) for place in used)
    ]


def _folders(s3: Any, bucket: str, prefix: str) -> Iterator[Folder]:
    known: dict[str, Folder] = {}
    for part in ("processed/", "curated/"):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix + part):
            for entry in page.get("Contents", ()):
                match = _FOLDER.match(entry["Key"].removeprefix(prefix))
                if match is None:
                    continue
                name = prefix + match[0]
                folder = known.setdefault(name, Folder(name, [], 0, entry["LastModified"]))
                folder.keys.append(entry["Key"])
                folder.size += entry["Size"]
                folder.newest = max(folder.newest, entry["LastModified"])
    yield from known.values()


def _locations(glue: Any) -> Iterator[str]:
    for databases in glue.get_paginator("get_databases").paginate():
        for database in databases["DatabaseList"]:
            for tables in glue.get_paginator("get_tables").paginate(DatabaseName=database["Name"]):
                for table in tables["TableList"]:
                    if location := table.get("StorageDescriptor", {}).get("Location"):
                        yield location


def main(
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; else they are only listed.")] = False,
    hours: Annotated[
        float,
        typer.Option(min=0, help="Leave folders alone in which something is younger."),
    ] = 24,
) -> None:
    """List or delete what killed builds on Athena left below LAKE/processed and LAKE/curated."""
    import boto3

    lake = os.environ.get("LAKE", "")
    if not lake.startswith("s3://"):
        Console(stderr=True).print(
            "[red]error:[/red] set LAKE to the lake on S3, s3://bucket/prefix", highlight=False
        )
        raise typer.Exit(2)
    s3, bucket = boto3.client("s3"), lake.removeprefix("s3://").partition("/")[0]
    found = orphans(s3, boto3.client("glue"), lake, datetime.now(UTC) - timedelta(hours=hours))
    console = Console()
    for folder in found:
        for start in range(0, len(folder.keys) if delete else 0, 1000):
            some = [{"Key": key} for key in folder.keys[start : start + 1000]]
            failed = s3.delete_objects(Bucket=bucket, Delete={"Objects": some, "Quiet": True}).get("Errors")
            if failed:
                Console(stderr=True).print(
                    f"[red]error:[/red] {failed[0]['Key']}: {failed[0]['Code']}",
                    highlight=False,
                    soft_wrap=True,
                )
                raise typer.Exit(1)
        console.print(
            f"s3://{bucket}/{folder.prefix}  {len(folder.keys)} objects, {folder.size / 1e6:.1f} MB",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    said = "nothing to delete" if not found else "deleted" if delete else "`--delete` deletes them"
    size = sum(folder.size for folder in found) / 1e6
    console.print(f"{len(found)} folders that no table is in, {size:.1f} MB: {said}", highlight=False)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(prog_name="python -m sandbox.cleanup")
