"""Connections to PostgreSQL as this service wants them."""

import asyncio

import asyncpg

from realtime import log

# What a caller may see while PostgreSQL restarts, fails over or is too busy; the request is safe to repeat.
UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # a connection that broke in the middle of an answer
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
)

_SESSION = {
    "application_name": "realtime",
    # An acknowledged order is on disk, whatever the server's default is.
    "synchronous_commit": "on",
    "timezone": "UTC",
    "idle_in_transaction_session_timeout": "30s",
    "jit": "off",
}


# A queue is empty when PostgreSQL looks and full when it matters: what its statistics say of it is wrong, and
# a plan that reads all that waits (300 ms of 10,000) would be chosen over the indexes (1.4 ms).
BY_INDEX = dict.fromkeys(
    (
        *("enable_hashjoin", "enable_mergejoin", "enable_material", "enable_bitmapscan"),
        *("enable_seqscan", "enable_sort"),
    ),
    "off",
)


def open_pool(dsn: str, size: int, settings: dict[str, str] | None = None) -> asyncpg.Pool:
    """A pool of up to `size` connections, made when needed; `await` it or use it as a context manager.

    `settings` are PostgreSQL's, for every session.
    """
    return asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=size,
        max_queries=10**9,
        timeout=5,
        command_timeout=10,
        server_settings=_SESSION | (settings or {}),
        reset=_leave_as_it_is,
    )


async def _leave_as_it_is(connection: asyncpg.Connection) -> None:
    """Nobody here changes a session: to reset one would cost a round trip each time it is given back."""


async def connect(dsn: str, settings: dict[str, str] | None = None) -> asyncpg.Connection:
    """A connection outside of any pool, to listen with; `settings` as of `open_pool`."""
    return await asyncpg.connect(
        dsn, timeout=5, command_timeout=10, server_settings=_SESSION | (settings or {})
    )


class Partitions:
    """The partitions of this month and the next two, without which no order could be stored.

    The service makes them as well as the worker: orders may be taken in for months where nobody decides.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self.trouble: str | None = None
        """Why they cannot be made, for whoever operates this."""

    async def make(self) -> bool:
        """Makes those that are missing; returns whether they are there now."""
        try:
            await self._pool.execute("select realtime.ensure_partitions()")
        except UNAVAILABLE as error:
            log.event("database_unavailable", "error", at="partitions", error=type(error).__name__)
            return False
        except asyncpg.PostgresError as error:
            self.trouble = "partitions cannot be made: run `python -m realtime migrate` as the owner"
            log.event("partitions_not_made", "error", error=type(error).__name__)
            return False
        self.trouble = None
        return True

    async def run(self) -> None:
        """Makes them again and again, until cancelled."""
        while True:
            await asyncio.sleep(3600 if await self.make() else 10)
