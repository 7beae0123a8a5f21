"""Who may call: API keys of partners and reviewers, and how often each may."""

import asyncio
import hashlib
import math
import secrets
import time
from dataclasses import dataclass, field

import asyncpg

from realtime import log
from realtime.database import UNAVAILABLE
from realtime.orders import Refusal

_REFRESH = 2.0  # seconds until a new or a revoked key is noticed
_READ = """
select key_sha256, name, partner_id, requests_per_second, burst
from realtime.api_keys
where revoked_at is null
"""


@dataclass
class Key:
    """A caller: a partner, or without a partner a reviewer of the lender's own staff."""

    name: str
    partner_id: str | None
    requests_per_second: float
    burst: int
    _tokens: float = field(default=0.0, init=False)
    _at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._tokens = float(self.burst)
        self._at = time.monotonic()

    def take(self) -> None:
        """Counts a request.

        Raises:
            Refusal: there were too many.
        """
        now = time.monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.requests_per_second)
        self._at = now
        if self._tokens < 1:
            wait = math.ceil((1 - self._tokens) / self.requests_per_second)
            raise Refusal(429, "too-many-requests", "wait as long as Retry-After says", wait=wait)
        self._tokens -= 1


class Keys:
    """The keys of the database, held in memory so that a guess costs no query."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._keys: dict[bytes, Key] = {}
        self.read_at = -math.inf
        """When they were last read, by the monotonic clock: how long ago the database answered."""

    def find(self, key: bytes | None) -> Key:
        """Who has this key.

        Raises:
            Refusal: nobody.
        """
        found = self._keys.get(hashlib.sha256(key).digest()) if key else None
        if found is None:
            if self.read_at == -math.inf:
                raise Refusal(503, "unavailable", "the service is starting", wait=1)
            raise Refusal(401, "unauthorized", "X-Api-Key is missing or wrong")
        return found

    async def refresh(self) -> None:
        """Reads them once; those that stay keep their count."""
        fresh = {}
        for digest, *values in await self._pool.fetch(_READ):
            old, new = self._keys.get(digest), Key(*values)
            same = old and (old.name, old.partner_id, old.requests_per_second, old.burst) == tuple(values)
            fresh[digest] = old if same else new
        self._keys = fresh
        self.read_at = time.monotonic()

    async def run(self) -> None:
        """Reads them again and again, until cancelled."""
        while True:
            try:
                await self.refresh()
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.event("database_unavailable", "error", at="keys", error=type(error).__name__)
            await asyncio.sleep(_REFRESH)


async def add_key(
    pool: asyncpg.Pool, name: str, partner_id: str | None, requests_per_second: float, burst: int
) -> str:
    """Makes a key and returns it; only its hash is kept."""
    key = secrets.token_urlsafe(32)
    await pool.execute(
        "insert into realtime.api_keys (key_sha256, name, partner_id, requests_per_second, burst)"
        " values ($1, $2, $3, $4, $5)",
        hashlib.sha256(key.encode()).digest(),
        name,
        partner_id,
        requests_per_second,
        burst,
    )
    return key
