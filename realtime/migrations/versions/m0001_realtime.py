"""Events by month, the outbox, keys, and what the database itself forbids."""

from realtime.migrations import run_sql_beside

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Runs the SQL beside this file."""
    run_sql_beside(__file__)
