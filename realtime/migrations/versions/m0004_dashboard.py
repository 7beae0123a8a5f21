"""What the live dashboard follows: each event once more, by the transaction that made it."""

from realtime.migrations import run_sql_beside

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Runs the SQL beside this file."""
    run_sql_beside(__file__)
