"""Opens the ADBC driver's view of a PostgreSQL database, which asks it for its types first."""

import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import adbc_driver_manager

from ingestion.background import Background

APPLICATION = "credit-lakehouse ingestion"


_early: dict[str, Background[adbc_driver_manager.AdbcDatabase]] = {}


def open_early(dsn: str) -> None:
    """Begin to open a database that `open_database` will be asked for."""
    conninfo = with_our_name(dsn)
    _early[conninfo] = Background(partial(_open, conninfo))


def open_database(conninfo: str) -> adbc_driver_manager.AdbcDatabase:
    """The database at a libpq connection string; raises the driver's errors."""
    if early := _early.pop(conninfo, None):
        return early.result()
    return _open(conninfo)


def _open(conninfo: str) -> adbc_driver_manager.AdbcDatabase:
    # As the driver's own `connect`, which takes 25 ms to import what finds the library beside it.
    package = Path(find_spec("adbc_driver_postgresql").origin).parent
    return adbc_driver_manager.AdbcDatabase(
        driver=str(package / "libadbc_driver_postgresql.so"), uri=conninfo
    )


def with_our_name(dsn: str) -> str:
    """A connection string with our name, and a time limit unless it has one: the last value counts."""
    uri = re.fullmatch(r"(postgres(?:ql)?://(?:[^@/]*@)?[^?]*)\??(.*)", dsn, re.DOTALL)
    if uri is None:
        return f"connect_timeout=10 {dsn} application_name='{APPLICATION}'"
    name = f"application_name={APPLICATION.replace(' ', '%20')}"
    return f"{uri[1]}?" + "&".join(filter(None, ("connect_timeout=10", uri[2], name)))
