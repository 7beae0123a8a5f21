"""Athena: reads statements, refuses what Athena refuses, translates and runs the rest on Trino."""
