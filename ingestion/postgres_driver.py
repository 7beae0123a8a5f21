"""Opens the ADBC driver's view of a PostgreSQL database, which asks it for its types first."""

import re
import threading

import adbc_driver_manager
import adbc_driver_postgresql

APPLICATION = "credit-lakehouse ingestion"


class _Opening(threading.Thread):
    def __init__(self, conninfo: str) -> None:
        super().__init__(daemon=True)  # a run that ends before it needs PostgreSQL does not wait for it
        self._conninfo = conninfo
        self._database: adbc_driver_manager.AdbcDatabase | None = None
        self._error: adbc_driver_manager.Error | None = None

    def run(self) -> None:
        try:
            self._database = adbc_driver_postgresql.connect(self._conninfo)
        except adbc_driver_manager.Error as error:
            self._error = error

    def result(self) -> adbc_driver_manager.AdbcDatabase:
        self.join()
        if self._database is None:
            raise self._error
        return self._database


_early: dict[str, _Opening] = {}


def open_early(dsn: str) -> None:
    """Begin to open a database that `open_database` will be asked for."""
    conninfo = with_our_name(dsn)
    _early[conninfo] = _Opening(conninfo)
    _early[conninfo].start()


def open_database(conninfo: str) -> adbc_driver_manager.AdbcDatabase:
    """The database at a libpq connection string; raises the driver's errors."""
    if early := _early.pop(conninfo, None):
        return early.result()
    return adbc_driver_postgresql.connect(conninfo)


def with_our_name(dsn: str) -> str:
    """A connection string with our name, and a time limit unless it has one: the last value counts."""
    uri = re.fullmatch(r"(postgres(?:ql)?://(?:[^@/]*@)?[^?]*)\??(.*)", dsn, re.DOTALL)
    if uri is None:
        return f"connect_timeout=10 {dsn} application_name='{APPLICATION}'"
    name = f"application_name={APPLICATION.replace(' ', '%20')}"
    return f"{uri[1]}?" + "&".join(filter(None, ("connect_timeout=10", uri[2], name)))
