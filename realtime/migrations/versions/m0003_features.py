"""The online feature store: what the warehouse knows, kept current by what happens since."""

from realtime.migrations import run_sql_beside

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Runs the SQL beside this file."""
    run_sql_beside(__file__)
