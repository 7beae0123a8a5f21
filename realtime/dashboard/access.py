"""Who may look, and at what: users of a file, sessions in signed cookies, counted attempts."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import math
import os
import secrets
import tempfile
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import asyncpg
import msgspec

from realtime import log
from realtime.database import UNAVAILABLE
from realtime.errors import RealtimeError
from realtime.orders import Refusal

_SCRYPT = {"n": 2**15, "r": 8, "p": 1, "maxmem": 64 * 2**20, "dklen": 32}
_ATTEMPTS = 5  # wrong passwords for a name
_ATTEMPTS_IN_ALL = 100
_MINUTE = 60.0
_REFRESH = 2.0  # seconds until the logouts of other instances are known here


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Somebody who may look. With a partner: at its orders only; without: at all."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    partner: str | None = None
    salt: str | None = None
    password: str | None = None
    """scrypt of the password, in hexadecimal."""
    subject: str | None = None
    """Who this is to the identity provider (claim `sub`)."""


class Users:
    """The users of a file; a change is noticed at once, also by who is logged in."""

    def __init__(self, path: str) -> None:
        self._path = Path(path) if path else None
        self._stamp: tuple[int, int] | None = None
        self._users: dict[str, User] = {}

    def all(self) -> dict[str, User]:
        """By name; those of before where the file cannot be read now."""
        if self._path is None:
            return {}
        with contextlib.suppress(OSError):
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._users = read_users(self._path)
                except RealtimeError as error:
                    log.event("users_unreadable", "error", text=str(error))
        return self._users

    def of_subject(self, subject: str) -> User | None:
        """Whom the identity provider means."""
        return next((user for user in self.all().values() if user.subject == subject), None)


def read_users(path: Path) -> dict[str, User]:
    """The users of a file, by name.

    Raises:
        RealtimeError: it is there and is no list of users.
    """
    try:
        users = msgspec.json.decode(path.read_bytes(), type=list[User])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, OSError):
        raise RealtimeError(f"{path} is no list of users: `python -m realtime add-user` makes one") from None
    return {user.name: user for user in users}


def add_user(path: Path, name: str, partner: str | None, subject: str | None) -> str | None:
    """Writes a user into the file, in the place of one of the same name; returns a new password.

    None with a `subject`, who has a password elsewhere.

    Raises:
        RealtimeError: the file cannot be read or written.
    """
    users = read_users(path)
    password = None if subject else secrets.token_urlsafe(12)
    salt = secrets.token_hex(16)
    users[name] = User(
        name=name,
        partner=partner,
        salt=salt if password else None,
        password=_hash(password, salt) if password else None,
        subject=subject,
    )
    content = json.dumps([msgspec.to_builtins(user) for user in users.values()], indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent)  # nobody else may read it
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
        Path(beside).replace(path)
    except OSError as error:
        raise RealtimeError(f"{path} cannot be written: {error.strerror}") from None
    return password


def _hash(password: str, salt: str) -> str:
    return hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), **_SCRYPT).hex()


class Attempts:
    """Wrong passwords of the last minute, by name and in all: after some, nobody is asked any more."""

    def __init__(self) -> None:
        self._by_name: dict[str, deque[float]] = {}

    def check(self, name: str) -> None:
        """May this one try?

        Raises:
            Refusal: there were too many.
        """
        for who, limit in ((name, _ATTEMPTS), ("", _ATTEMPTS_IN_ALL)):
            times = self._by_name.get(who, deque())
            while times and times[0] < time.monotonic() - _MINUTE:
                times.popleft()
            if len(times) >= limit:
                wait = max(1, int(times[0] + _MINUTE - time.monotonic()) + 1)
                raise Refusal(429, "too-many-attempts", "wait a minute, then try again", wait=wait)

    def failed(self, name: str) -> None:
        """This one was wrong."""
        if len(self._by_name) > 10_000:
            self._by_name.clear()
        for who in (name, ""):
            self._by_name.setdefault(who, deque(maxlen=_ATTEMPTS_IN_ALL)).append(time.monotonic())

    def succeeded(self, name: str) -> None:
        """This one was right, so what was before was a slip."""
        self._by_name.pop(name, None)


class Door:
    """Checks passwords; two at a time, since each takes a tenth of a second of a processor."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._attempts = Attempts()
        self._busy = asyncio.Semaphore(2)

    async def enter(self, name: str, password: str) -> User | None:
        """The user of this name and password, None where they do not fit.

        Raises:
            Refusal: there were too many wrong ones.
        """
        self._attempts.check(name)
        self._attempts.failed(name)  # before it is known: many at once are no way around
        user = self._users.all().get(name)
        # A name that nobody has takes as long as one that somebody has.
        salt, wanted = (user.salt, user.password) if user and user.password and user.salt else ("00" * 16, "")
        async with self._busy:
            given = await asyncio.to_thread(_hash, password[:1000], salt)
        if not hmac.compare_digest(given, wanted):
            return None
        self._attempts.succeeded(name)
        return user


class Session(NamedTuple):
    """Somebody who has logged in."""

    session_id: str
    user: User
    until: float
    """In seconds since 1970."""


class EndedSessions:
    """Sessions whose user has logged out: their cookies are good for nothing, on any instance."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._ended: dict[str, float] = {}  # until when they would have lasted
        self._read_at = -math.inf

    def holds(self, session_id: str) -> bool:
        """Whether this session was ended.

        Raises:
            Refusal: it is not known yet, since this process has just begun.
        """
        if self._read_at == -math.inf:
            raise Refusal(503, "starting", "the dashboard is starting; try again", wait=1)
        return session_id in self._ended

    async def end(self, session: Session) -> None:
        """Ends a session: here at once, elsewhere within seconds."""
        await self._pool.execute(
            "insert into realtime.ended_sessions (session_id, until) values ($1, $2) on conflict do nothing",
            session.session_id,
            datetime.fromtimestamp(session.until, UTC),
        )
        self._ended[session.session_id] = session.until

    async def run(self) -> None:
        """Reads again and again what other instances have ended, until cancelled."""
        while True:
            try:
                await self._pool.execute("delete from realtime.ended_sessions where until < now()")
                rows = await self._pool.fetch("select session_id, until from realtime.ended_sessions")
                # one that was ended here meanwhile stays
                self._ended |= {name: until.timestamp() for name, until in rows}
                self._ended = {name: until for name, until in self._ended.items() if until > time.time()}
                self._read_at = time.monotonic()
            except (*UNAVAILABLE, asyncpg.PostgresError) as error:
                log.event("database_unavailable", "error", at="sessions", error=type(error).__name__)
            await asyncio.sleep(_REFRESH)


class Signer:
    """Makes and reads texts that nobody else can make, and that end."""

    def __init__(self, secret: str) -> None:
        self._key = (secret or secrets.token_hex(32)).encode()

    def sign(self, kind: str, content: dict[str, Any], seconds: float) -> str:
        """A text of `content`, good for one kind of use and for so long."""
        body = json.dumps(content | {"kind": kind, "until": time.time() + seconds}).encode()
        return f"{_encode(body)}.{_encode(self._mac(body))}"

    def read(self, kind: str, text: str | None) -> dict[str, Any] | None:
        """The content; None where the text is not ours, is of another kind or has ended."""
        body, _, mac = (text or "").partition(".")
        try:
            content, given = _decode(body), _decode(mac)
        except ValueError:
            return None
        if not hmac.compare_digest(self._mac(content), given):
            return None
        read = json.loads(content)
        return read if read["kind"] == kind and read["until"] > time.time() else None

    def _mac(self, body: bytes) -> bytes:
        return hmac.new(self._key, body, hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text.encode() + b"=" * (-len(text) % 4))
