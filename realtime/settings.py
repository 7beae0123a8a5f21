"""Settings of the service, from the environment; `.env.example` lists them."""

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from realtime.errors import RealtimeError


@dataclass(frozen=True)
class Settings:
    """Where everything is, and what time it is."""

    realtime_dsn: str
    """PostgreSQL, by a role that may write in schemas app and realtime."""
    realtime_host: str = "127.0.0.1"
    realtime_port: int = 8090
    """Where orders come in; 0 takes any free port."""
    realtime_worker_port: int = 8091
    """Where the worker answers /healthz and /metrics; 0 takes any free port."""
    realtime_queue: str = "postgres"
    """Where the worker finds orders: `postgres`, the URL of an SQS FIFO queue, or `kinesis:<stream>`."""
    bureau_url: str = ""
    bureau_api_key: str = ""
    realtime_replica_dsn: str = ""
    """Where the dashboard reads history; unset: where everything is."""
    realtime_dashboard_port: int = 8092
    realtime_dashboard_url: str = ""
    """The address that viewers know it by, without a path; unset: that of host and port."""
    realtime_dashboard_users: str = ""
    """File of who may see what; `python -m realtime add-user` writes it."""
    realtime_dashboard_secret: str = ""
    """What sessions are signed with, the same on all instances; unset: they end with the process."""
    realtime_dashboard_session_minutes: int = 480
    realtime_oidc_issuer: str = ""
    """Whose logins hold instead of passwords."""
    realtime_oidc_client_id: str = ""
    realtime_oidc_client_secret: str = ""
    realtime_offset_seconds: int = 0
    """How far the time of business is ahead of the real one: a sandbox's world has a date of its own."""

    @classmethod
    def from_environment(cls) -> "Settings":
        """Reads the settings.

        Raises:
            RealtimeError: one is missing or makes no sense.
        """
        given = {name: os.environ.get(name.upper()) or None for name in cls.__dataclass_fields__}
        given["realtime_dsn"] = given["realtime_dsn"] or os.environ.get("SOURCE_DSN")
        if not given["realtime_dsn"]:
            raise RealtimeError("REALTIME_DSN is not set; set it to the app's PostgreSQL: postgresql://…")
        for name in ("realtime_port", "realtime_worker_port", "realtime_dashboard_port"):
            if given[name] is not None:
                if not given[name].isdigit() or int(given[name]) > 65535:
                    raise RealtimeError(f"{name.upper()} must be a port: 0 to 65535")
                given[name] = int(given[name])
        minutes = given["realtime_dashboard_session_minutes"]
        if minutes is not None:
            if not minutes.isdigit() or not 1 <= int(minutes) <= 43_200:
                raise RealtimeError("REALTIME_DASHBOARD_SESSION_MINUTES must be from 1 to 43200")
            given["realtime_dashboard_session_minutes"] = int(minutes)
        offset = given["realtime_offset_seconds"]
        if offset is not None:
            if not re.fullmatch(r"-?\d{1,10}", offset):
                raise RealtimeError("REALTIME_OFFSET_SECONDS must be a whole number of seconds")
            given["realtime_offset_seconds"] = int(offset)
        if given["realtime_dashboard_secret"] and len(given["realtime_dashboard_secret"]) < 32:
            raise RealtimeError("REALTIME_DASHBOARD_SECRET must have 32 characters or more")
        queue = given["realtime_queue"]
        if queue and queue != "postgres" and not re.match(r"https?://|kinesis:.", queue):
            raise RealtimeError(
                "REALTIME_QUEUE must be postgres, the URL of an SQS FIFO queue, or kinesis:<stream>"
            )
        return cls(**{name: value for name, value in given.items() if value is not None})

    def clock(self) -> "Clock":
        """The clock of business."""
        return Clock(timedelta(seconds=self.realtime_offset_seconds))


@dataclass(frozen=True)
class Clock:
    """The time of business: when an order was made, what was known then. The queue keeps the server's own."""

    offset: timedelta = timedelta()

    def now(self) -> datetime:
        """This moment, in UTC."""
        return datetime.now(UTC) + self.offset
