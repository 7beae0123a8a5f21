"""How far the shards of a Kinesis stream are worked off."""

from realtime.migrations import run_sql_beside

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Runs the SQL beside this file."""
    run_sql_beside(__file__)
