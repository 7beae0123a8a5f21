"""Structured logs: one JSON object a line on standard error. Ids, counts and codes; never personal data."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


def event(name: str, level: str = "info", **fields: Any) -> None:
    """Writes one line: `ts` (UTC), `level`, `event`, and what belongs to the event."""
    ts = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"ts": ts, "level": level, "event": name, **fields}, default=str)
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class _Handler(logging.Handler):
    """What libraries log, without the values that they would put into it."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        event("library", record.levelname.lower(), logger=record.name, text=str(record.msg), error=kind)


def catch_libraries() -> None:
    """Lets what libraries log at warning and above come here."""
    logging.basicConfig(level=logging.WARNING, handlers=[_Handler()], force=True)
