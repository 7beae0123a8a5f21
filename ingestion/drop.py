"""Where others drop files for us: a folder, or `s3://bucket/prefix`, behind one small interface."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, Protocol

from ingestion.errors import IngestionError
from ingestion.storage import error_code

UNFINISHED = (".tmp", ".part")
KEEP_BYTES = 1024 * 1024
"""How much of a file is kept in memory rather than in a temporary file."""


@dataclass(frozen=True)
class Entry:
    """A file of a drop: name below it, seconds since 1970 of its last change, and its version.

    Files of equal name and version have equal content.
    """

    name: str
    modified: float
    version: str


class Drop(Protocol):
    """A place that files are dropped in."""

    def entries(self) -> Iterator[Entry]:
        """Every file by name, but those that begin with `.` or `_` or end with `.tmp` or `.part`."""

    def holds(self, name: str) -> bool:
        """Whether there is a file of this name, whatever it is."""

    def open(self, entry: Entry) -> IO[bytes] | None:
        """A file as a seekable stream of bytes; None when it is not there any more, or in another version."""

    def check(self, entry: Entry, file: IO[bytes]) -> None:
        """Raise IngestionError when a file has changed since it was opened."""


def open_drop(location: str, said: str) -> Drop:
    """The drop at `location`; `said` is what an error calls it.

    Raises:
        IngestionError: there is none.
    """
    if location.startswith("s3://"):
        bucket, _, prefix = location.removeprefix("s3://").strip("/").partition("/")
        if bucket:
            return S3Drop(bucket, prefix, said)
    if not location or not Path(location).is_dir():
        raise IngestionError(f"{said} is no folder; set it to the folder of the files, or s3://bucket/prefix")
    return LocalDrop(Path(location))


def _is_finished(name: str) -> bool:
    parts = name.split("/")
    return not any(p.startswith((".", "_")) or p.endswith(UNFINISHED) for p in parts)


class LocalDrop:
    """A drop folder on this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self) -> Iterator[Entry]:
        """See `Drop`."""
        return iter(sorted(self._walk(str(self.root), ""), key=lambda entry: entry.name))

    def _walk(self, folder: str, prefix: str) -> Iterator[Entry]:
        with os.scandir(folder) as found:
            for item in found:
                if not _is_finished(item.name):
                    continue
                # Whoever drops files may take them away at any moment.
                with suppress(FileNotFoundError):
                    if item.is_dir():
                        yield from self._walk(item.path, f"{prefix}{item.name}/")
                    elif item.is_file():
                        yield entry_of(prefix + item.name, item.stat())

    def holds(self, name: str) -> bool:
        """See `Drop`."""
        return (self.root / name).is_file()

    def open(self, entry: Entry) -> IO[bytes] | None:
        """See `Drop`."""
        try:
            file = (self.root / entry.name).open("rb")
        except FileNotFoundError:
            return None
        if entry_of(entry.name, os.fstat(file.fileno())).version != entry.version:
            file.close()
            return None
        return file

    def check(self, entry: Entry, file: IO[bytes]) -> None:
        """See `Drop`."""
        if entry_of(entry.name, os.fstat(file.fileno())).version != entry.version:
            raise IngestionError(
                f"{entry.name} changed while it was read; run again, and set quiet_seconds in sources.yml"
                " above the pauses of whoever writes it"
            )


def entry_of(name: str, stat: os.stat_result) -> Entry:
    """A file by what the file system says of it."""
    # The time of change cannot be set by a program: a file replaced with its old time kept is noticed.
    version = f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}"
    return Entry(name, max(stat.st_mtime, stat.st_ctime), version)


class S3Drop:
    """Objects of a bucket below a prefix. Credentials, region and AWS_ENDPOINT_URL are boto3's to find."""

    def __init__(self, bucket: str, prefix: str, said: str) -> None:
        import boto3

        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._said = said
        with self._errors():
            self._client = boto3.client("s3")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            code = error_code(error) or type(error).__name__
            raise IngestionError(
                f"{self._said} cannot be read: {code}; check bucket, region and credentials"
            ) from None

    def entries(self) -> Iterator[Entry]:
        """See `Drop`."""
        with self._errors():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            found = [item for page in pages for item in page.get("Contents", ())]
        for item in sorted(found, key=lambda item: item["Key"]):
            name = item["Key"][len(self._prefix) :]
            if not name.endswith("/") and _is_finished(name):
                yield Entry(name, item["LastModified"].timestamp(), item["ETag"])

    def holds(self, name: str) -> bool:
        """See `Drop`."""
        with self._errors():
            found = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + name, MaxKeys=1)
        return any(item["Key"] == self._prefix + name for item in found.get("Contents", ()))

    def open(self, entry: Entry) -> IO[bytes] | None:
        """See `Drop`; the object is copied once, so it cannot change any more."""
        from botocore.exceptions import ClientError

        copy: Any = SpooledTemporaryFile(KEEP_BYTES)  # noqa: SIM115 (whoever asked for it closes it)
        with self._errors():
            try:
                found = self._client.get_object(
                    Bucket=self._bucket, Key=self._prefix + entry.name, IfMatch=entry.version
                )
            except ClientError as error:
                if error_code(error) in ("NoSuchKey", "404", "PreconditionFailed", "412"):
                    copy.close()
                    return None
                raise
            for chunk in found["Body"].iter_chunks(1024 * 1024):
                copy.write(chunk)
        copy.seek(0)
        return copy

    def check(self, entry: Entry, file: IO[bytes]) -> None:
        """See `Drop`."""
