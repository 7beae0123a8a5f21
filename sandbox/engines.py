"""The two engines as the report at the end of a demo reads them: a query in, its rows out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sandbox.errors import SandboxError

Rows = list[tuple[Any, ...]]


class Engine(Protocol):
    """A warehouse that dbt built. `place` says to a person where it is."""

    command: str
    """What builds its next day."""

    @property
    def place(self) -> str:
        """Where it is."""
        ...

    def opened(self) -> Any:
        """A context manager of a function: SQL in, rows out. SandboxError where it cannot be read."""
        ...


@dataclass(frozen=True)
class DuckDB:
    """The embedded default: a file."""

    file: Path
    command: str = "make demo"

    @property
    def place(self) -> str:
        """See `Engine`."""
        return f"{self.file} (DuckDB; query the schema `marts`)"

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """See `Engine`."""
        import duckdb

        try:
            with duckdb.connect(str(self.file), read_only=True) as connection:
                yield lambda sql: connection.execute(sql).fetchall()
        except duckdb.Error as error:
            raise SandboxError(f"the warehouse cannot be read: {str(error).splitlines()[0]}") from None


@dataclass(frozen=True)
class Athena:
    """Athena, as the environment says where: the results of queries go below the lake."""

    lake: str
    command: str = "make athena"

    @property
    def place(self) -> str:
        """See `Engine`."""
        return "Athena (databases `marts`, `staging`, …; docs/athena.md)"

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """See `Engine`."""
        from pyathena import connect
        from pyathena.error import Error

        def query(sql: str) -> Rows:
            return connection.cursor().execute(sql).fetchall()

        try:
            workgroup = os.environ.get("ATHENA_WORKGROUP") or "primary"
            with connect(work_group=workgroup, s3_staging_dir=f"{self.lake}/query-results/") as connection:
                yield query
        except Error as error:
            raise SandboxError(f"Athena cannot be read: {str(error).splitlines()[0]}") from None
