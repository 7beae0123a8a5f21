"""Structured logs: one JSON object a line on standard error. Ids, counts and codes; never personal data."""

import json
import sys
from datetime import UTC, datetime
from typing import Any


def event(name: str, level: str = "info", **fields: Any) -> None:
    """Writes one line: `ts` (UTC), `level`, `event`, and what belongs to the event."""
    ts = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = json.dumps({"ts": ts, "level": level, "event": name, **fields}, default=str)
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
