"""What became of each table the last time, in `LAKE/audit/last_<command>.json`.

A table that fails leaves no batch, so its failure can be read from nowhere else. Nothing but `status` reads
these files: a lake without them lands as before.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ingestion.errors import IngestionError
from ingestion.lake import Lake

if TYPE_CHECKING:
    from ingestion.run import Landed

RUNNING, FINISHED, INTERRUPTED = "running", "finished", "interrupted"


@contextmanager
def recorded(lake: Lake, command: str, results: list["Landed"]) -> Iterator[None]:
    """Keep what becomes of a command while the block runs; `results` is filled by it.

    What other runs said of tables that this one does not touch stays.
    """
    tables = last(lake, command).get("tables", {})
    record: dict[str, Any] = {"started_at": _now(), "outcome": RUNNING, "error": None}

    def keep() -> None:
        for landed in results:
            tables[landed.table.name] = {
                "at": record["started_at"],
                "rows": landed.rows,
                "bytes": landed.bytes,
                "seconds": round(landed.seconds, 3),
                "error": landed.error,
            }
        lake.put_text(f"audit/last_{command}.json", json.dumps(record | {"tables": tables}) + "\n")

    keep()
    record["outcome"] = INTERRUPTED
    try:
        yield
        record["outcome"] = FINISHED
    except Exception as error:
        # The text of any other error may hold a value of a record.
        known = isinstance(error, IngestionError)
        record |= {"outcome": FINISHED, "error": str(error) if known else type(error).__name__}
        raise
    finally:
        record["finished_at"] = _now()
        with suppress(OSError):  # the error of the run itself is the one to show
            keep()


def last(lake: Lake, command: str) -> dict[str, Any]:
    """What the last run of a command left, `{}` when there is nothing that can be read.

    `outcome` is `running` also after a run that was killed: it had no time to say so.
    """
    try:
        return json.loads(lake.get_text(f"audit/last_{command}.json"))
    except (OSError, ValueError):
        return {}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
