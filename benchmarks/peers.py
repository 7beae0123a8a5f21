"""One peer lands the table, in the environment of the peers: `python peers.py dlt|connectorx DSN FOLDER`."""

import sys
from pathlib import Path


def run_dlt(dsn: str, folder: Path) -> None:
    """The `sql_database` source of dlt, with its Arrow backend to Parquet files."""
    import dlt
    from dlt.destinations import filesystem
    from dlt.sources.sql_database import sql_table

    table = sql_table(dsn, "bank_transactions", schema="app", backend="pyarrow", chunk_size=100_000)
    pipeline = dlt.pipeline(
        "bench",
        destination=filesystem(str(folder / "lake")),
        dataset_name="app",
        pipelines_dir=str(folder / "work"),
    )
    pipeline.run(table, loader_file_format="parquet").raise_on_failed_jobs()


def run_connectorx(dsn: str, folder: Path) -> None:
    """ConnectorX, streaming, with pyarrow writing zstd Parquet."""
    import connectorx
    import pyarrow.parquet as pq

    batches = connectorx.read_sql(
        dsn, "select * from app.bank_transactions", return_type="arrow_stream", batch_size=100_000
    )
    folder.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(folder / "out.parquet", batches.schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


if __name__ == "__main__":
    {"dlt": run_dlt, "connectorx": run_connectorx}[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
