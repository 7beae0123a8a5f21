"""What the tests of ingestion share: settings of a lake of their own, and the lake as its readers see it."""

from datetime import date
from pathlib import Path
from typing import Any

import duckdb

from ingestion.config import TableConfig
from ingestion.run import Landed, run
from ingestion.settings import Settings

DAY = date(2025, 12, 31)


def things(**options: Any) -> TableConfig:
    """The table `app.things` with key `id`; keywords are fields of `TableConfig`."""
    fields = {"key": ("id",), "cursor": "updated_at", "options": {"schema": "app"}} | options
    return TableConfig(source="app", table="things", kind="postgres", **fields)


def settings_of(dsn: str, folder: Path) -> Settings:
    return Settings(lake=str(folder / "lake"), source_dsn=dsn, extract_date=DAY)


def land(settings: Settings, *tables: TableConfig, day: date | None = None, **how: Any) -> Landed:
    """Run; what became of the first table, which must not have failed."""
    if day:
        settings.extract_date = day
    results = run(settings, list(tables) or [things()], **how)
    assert results[0].error is None, results[0].error
    return results[0]


def query(settings: Settings, sql: str, table: str = "app/things") -> list[tuple]:
    """Rows of a query on `raw`, the table as DuckDB reads it."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute(
            f"create view raw as select * from read_parquet('{settings.lake}/raw/{table}/*/*.parquet',"
            " union_by_name = true, hive_partitioning = true)"
        )
        connection.execute(
            "create view newest as select * from raw qualify row_number() over (partition by id order by _batch_id"
            " desc) = 1"
        )
        return connection.execute(sql).fetchall()


def current(settings: Settings, columns: str = "*") -> list[tuple]:
    """The records of `app.things` that are not deleted, in their newest version."""
    return query(settings, f"select {columns} from newest where not _source_deleted order by all")
