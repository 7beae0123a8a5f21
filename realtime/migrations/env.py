"""Runs the migrations; Alembic calls it."""

import psycopg
from alembic import context
from sqlalchemy import create_engine, pool

_LOCK = 0x63726564  # one migration at a time, whoever else starts one

dsn = context.config.attributes["dsn"]
engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=pool.NullPool)
with engine.begin() as connection:
    connection.exec_driver_sql(f"select pg_advisory_xact_lock({_LOCK})")
    connection.exec_driver_sql("create schema if not exists realtime")
    context.configure(
        connection=connection,
        target_metadata=None,
        version_table_schema="realtime",
        version_table="migrations",
    )
    context.run_migrations()
