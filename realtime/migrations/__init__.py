"""The schema of the real-time service, by Alembic, on top of the app's tables (`sandbox/schema.sql`)."""

from pathlib import Path

import alembic.command
from alembic import op
from alembic.config import Config

from realtime.errors import RealtimeError


def migrate(dsn: str) -> None:
    """Brings the database at `dsn` to this version's schema. Safe to run again, and by several at once.

    Raises:
        RealtimeError: the database cannot be reached, or lacks the app's tables.
    """
    from sqlalchemy.exc import DBAPIError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["dsn"] = dsn
    try:
        alembic.command.upgrade(config, "head")
    except DBAPIError as error:
        code = getattr(error.orig, "sqlstate", None) or "no connection"
        raise RealtimeError(
            f"the database could not be migrated ({code}): REALTIME_DSN must name an owner of schema app"
        ) from None


def run_sql_beside(file: str) -> None:
    """Runs the `.sql` of the same name: what a migration is made of."""
    text = Path(file).with_suffix(".sql").read_text(encoding="utf-8")
    # without parameters the driver takes % for what it is
    op.get_bind().execution_options(no_parameters=True).exec_driver_sql(text)
