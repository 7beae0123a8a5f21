"""Lands PostgreSQL tables, API answers and event files in the lake as typed Parquet.

`python -m ingestion --help` lists the commands; `sources.yml` says what is landed.
"""
