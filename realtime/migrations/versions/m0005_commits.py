"""Nothing that takes in or decides orders notifies in its own transaction; sessions that were ended."""

from realtime.migrations import run_sql_beside

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Runs the SQL beside this file."""
    run_sql_beside(__file__)
