"""The dashboard over HTTP: page, stream, JSON and CSV, for those who have logged in."""

import asyncio
import gc
import gzip
import hashlib
import html
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import asyncpg
import msgspec

from realtime import log
from realtime.api import _last_line, _stop_if_failed
from realtime.dashboard import assets
from realtime.dashboard.access import Door, EndedSessions, Session, Signer, User, Users
from realtime.dashboard.board import Board, Cache, View, Viewer
from realtime.dashboard.figures import STATUSES, WINDOWS, Filter, span
from realtime.dashboard.history import list_orders, tell_story, write_csv
from realtime.dashboard.oidc import Begun, Provider
from realtime.database import UNAVAILABLE, open_pool
from realtime.errors import RealtimeError
from realtime.http import (
    Receive,
    Scope,
    Send,
    Server,
    respond,
    respond_json,
    respond_problem,
    respond_to_operator,
)
from realtime.orders import Refusal
from realtime.policy import REASONS
from realtime.settings import Settings

_ROOT = "/dashboard"
_STATIC = Path(__file__).parent / "static"
_ORDER = re.compile(
    _ROOT + r"/api/orders/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})", re.ASCII
)
_VERSIONED = re.compile(_ROOT + r"/static/([0-9a-f]{12})/([A-Za-z.-]+)", re.ASCII)
_STALE = 15  # seconds without a database after which this instance is not healthy
_MAX_FORM = 4096
_MAX_VIEWERS = 5000
_KEEPALIVE = 15.0
_SEND_SECONDS = 60  # a viewer who takes nothing for so long is gone
_PAGE = 100
_CSV_ROWS = 50_000
_TYPES = {
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
        b" form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)


class _Server(Server):
    """Streams never end by themselves: they are ended before the server waits for them."""

    before_shutdown: Callable[[], None]

    async def shutdown(self, sockets: Any = None) -> None:
        """Ends."""
        self.before_shutdown()
        await super().shutdown(sockets)


class Dashboard:
    """The application; `run` it.

    Raises:
        RealtimeError: the page's library is missing, the users cannot be read, or settings contradict.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = settings.clock()
        self._users = Users(settings.realtime_dashboard_users)
        self._door = Door(self._users)
        self._signer = Signer(settings.realtime_dashboard_secret)
        self._cache = Cache()
        self._exports = asyncio.Semaphore(2)
        self._viewers = 0
        self._files = _read_files()
        self._version = _version(self._files)
        self._index = _template("index.html")
        self._login = _template("login.html")
        self._origin = settings.realtime_dashboard_url.rstrip("/")
        self._is_secure = self._origin.startswith("https://")
        self._cookie = "__Host-dashboard" if self._is_secure else "dashboard"
        self._provider: Provider | None = None
        if settings.realtime_oidc_issuer:
            if not settings.realtime_oidc_client_id or not self._origin:
                raise RealtimeError(
                    "REALTIME_OIDC_ISSUER also needs REALTIME_OIDC_CLIENT_ID and REALTIME_DASHBOARD_URL"
                )
            self._provider = Provider(
                settings.realtime_oidc_issuer,
                settings.realtime_oidc_client_id,
                settings.realtime_oidc_client_secret,
                f"{self._origin}{_ROOT}/oidc/callback",
            )
        self._board: Board = None
        self._ended: EndedSessions = None
        self._primary: asyncpg.Pool = None
        self._history: asyncpg.Pool = None

    async def run(self) -> None:
        """Serves until it is told to stop.

        Raises:
            RealtimeError: the port is taken.
        """
        settings = self._settings
        server = _Server(
            self, settings.realtime_host, settings.realtime_dashboard_port, "REALTIME_DASHBOARD_PORT"
        )
        if not self._users.all():
            log.event("no_users", "warning", text="REALTIME_DASHBOARD_USERS names no user: nobody can log in")
        if not settings.realtime_dashboard_secret:
            log.event(
                "no_secret", "warning", text="REALTIME_DASHBOARD_SECRET: sessions end with this process"
            )
        async with (
            open_pool(settings.realtime_dsn, 3) as self._primary,
            open_pool(settings.realtime_replica_dsn or settings.realtime_dsn, 4) as self._history,
        ):
            self._board = Board(settings.realtime_dsn, self._primary, self._history, self._clock)
            server.before_shutdown = self._board.stop
            self._ended = EndedSessions(self._primary)
            helpers = [asyncio.create_task(part.run()) for part in (self._board, self._ended)]
            for helper in helpers:
                helper.add_done_callback(lambda task: _stop_if_failed(task, server))
            gc.collect()
            gc.freeze()
            try:
                await server.run_until_stopped()
            finally:
                for helper in helpers:
                    helper.cancel()
                await asyncio.gather(*helpers, return_exceptions=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""

        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
                if self._is_secure:
                    message["headers"].append((b"strict-transport-security", b"max-age=31536000"))
            await send(message)

        try:
            await self._answer(scope, receive, with_headers)
        except Refusal as refusal:
            await respond_problem(with_headers, refusal)
        except UNAVAILABLE as error:
            log.event("database_unavailable", "error", at="dashboard", error=type(error).__name__)
            await respond_problem(
                with_headers, Refusal(503, "unavailable", "the database is away; try again", wait=1)
            )
        except Exception as error:
            log.event("failed", "error", error=type(error).__name__, line=_last_line(error))
            await respond_problem(
                with_headers, Refusal(500, "internal", "this is our fault; it is in our log")
            )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        query = _query(scope)
        if method == "POST":
            self._check_origin(headers)
            if path == f"{_ROOT}/login" and self._provider is None:
                await self._log_in(scope, receive, send)
            elif path == f"{_ROOT}/logout":
                if session := self._session(headers):
                    await self._ended.end(session)
                await _redirect(send, f"{_ROOT}/login", [self._set_cookie(self._cookie, "", 0)])
            else:
                raise Refusal(404, "not-found", "there is no such resource")
            return
        if method != "GET":
            raise Refusal(405, "method", "use GET", allow="GET")
        if match := _VERSIONED.fullmatch(path):
            await self._send_file(send, headers, match[1], match[2])
            return
        if path == f"{_ROOT}/login":
            await self._show_login(send, headers, query)
            return
        if path == f"{_ROOT}/oidc/start" and self._provider:
            await self._begin_oidc(send, query)
            return
        if path == f"{_ROOT}/oidc/callback" and self._provider:
            await self._finish_oidc(send, headers, query)
            return
        if await respond_to_operator(scope, send, self._trouble()):
            return
        found = self._session(headers)
        if path in ("/", _ROOT, f"{_ROOT}/"):
            if found is None:
                back = _ROOT + (f"?{scope['query_string'].decode('latin-1')}" if query else "")
                await _redirect(send, f"{_ROOT}/login?{urlencode({'next': back})}")
            else:
                await self._show_page(send, found.user)
            return
        if not path.startswith(f"{_ROOT}/api/"):
            raise Refusal(404, "not-found", "there is no such resource")
        if found is None:
            raise Refusal(401, "unauthorized", "log in first")
        await self._answer_api(path, query, headers, found, receive, send)

    def _trouble(self) -> str | None:
        if time.monotonic() - self._board.feed.read_at > _STALE:
            return "the database is away"
        return None if self._board.is_ready else "the figures are being read"

    async def _answer_api(
        self,
        path: str,
        query: dict[str, str],
        headers: dict[bytes, bytes],
        session: Session,
        receive: Receive,
        send: Send,
    ) -> None:
        user = session.user
        view = _view(query, user)
        if match := _ORDER.fullmatch(path):
            story = await tell_story(self._history, match[1], user.partner)
            if story is None and self._settings.realtime_replica_dsn:  # it may be newer than the replica
                story = await tell_story(self._primary, match[1], user.partner)
            if story is None:
                raise Refusal(404, "not-found", "there is no such order")
            await respond_json(send, 200, story)
            return
        if path == f"{_ROOT}/api/orders":
            after = _after(query)
            page = await self._cache.get((view, after), lambda: self._list(view, after, _PAGE))
            await respond(send, 200, b"[" + b",".join(row.data for row in page) + b"]")
            return
        if path == f"{_ROOT}/api/orders.csv":
            async with self._exports:
                body = write_csv(await self._list(view, None, _CSV_ROWS))
            name = f"credit-orders-{view.window}-{self._clock.now():%Y%m%dT%H%M}.csv"
            disposition = f'attachment; filename="{name}"'.encode()
            await respond(
                send, 200, body, b"text/csv; charset=utf-8", [(b"content-disposition", disposition)]
            )
            return
        if path not in (f"{_ROOT}/api/state", f"{_ROOT}/api/stream"):
            raise Refusal(404, "not-found", "there is no such resource")
        if not self._board.is_ready:
            raise Refusal(503, "starting", "the figures are being read; try again", wait=1)
        if path == f"{_ROOT}/api/state":
            await respond(send, 200, self._board.state_json(view))
            return
        if self._viewers >= _MAX_VIEWERS:
            raise Refusal(503, "busy", "too many are looking; try again later", wait=5)
        place = headers.get(b"last-event-id", b"").decode("latin-1") or query.get("last_event_id")
        self._viewers += 1
        try:
            await self._stream(view, place, session, receive, send)
        finally:
            self._viewers -= 1

    async def _list(self, view: View, after: tuple[datetime, str] | None, limit: int) -> list[Any]:
        since, before = span(view.window, self._clock.now())
        return await list_orders(self._history, view.wanted, since, before, after, limit)

    async def _stream(
        self, view: View, place: str | None, session: Session, receive: Receive, send: Send
    ) -> None:
        """Sends events until the viewer goes, the session ends, or this process does."""
        _, user, until = session
        viewer = Viewer()
        gone = asyncio.ensure_future(_until_gone(receive))
        gone.add_done_callback(lambda _: viewer.close())
        first = self._board.join(view, viewer, place)
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [
                        (b"content-type", b"text/event-stream"),
                        (b"cache-control", b"no-store"),
                        (b"x-content-type-options", b"nosniff"),
                        (b"x-accel-buffering", b"no"),
                    ],
                }
            )
            chunk: bytes | None = b"retry: 1000\n\n" + first
            while True:
                async with asyncio.timeout(_SEND_SECONDS):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                chunk = await viewer.take(min(_KEEPALIVE, max(0.0, until - time.time())))
                # whoever has logged out, been struck off the list or given another role begins anew
                is_over = time.time() >= until or self._ended.holds(session.session_id)
                if viewer.is_closed or is_over or self._users.all().get(user.name) != user:
                    break
                if chunk is None:
                    while not self._board.is_ready and not viewer.is_closed:
                        await asyncio.sleep(0.2)
                    if viewer.is_closed:
                        break
                    chunk = self._board.state(view, "resync")
                elif not chunk:
                    chunk = self._board.keepalive()
            await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            log.event("viewer_does_not_read", "warning")
        finally:
            self._board.leave(view, viewer)
            gone.cancel()

    def _session(self, headers: dict[bytes, bytes]) -> Session | None:
        """Who asks, and until when they may; None where nobody has logged in."""
        read = self._signer.read("session", _cookies(headers).get(self._cookie))
        user = self._users.all().get(read["name"]) if read else None
        if user is None or "id" not in read or self._ended.holds(read["id"]):
            return None
        return Session(read["id"], user, read["until"])

    def _check_origin(self, headers: dict[bytes, bytes]) -> None:
        """A change is only taken from our own pages."""
        site = headers.get(b"sec-fetch-site")
        ours = self._origin or f"http://{headers.get(b'host', b'').decode('latin-1')}"
        given = headers.get(b"origin", b"").decode("latin-1")
        if site not in (None, b"same-origin") or ((given or site is None) and given != ours):
            raise Refusal(
                403,
                "cross-site",
                "this is only taken from the dashboard's own pages, at REALTIME_DASHBOARD_URL",
            )

    async def _log_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        form = await _read_form(scope, receive)
        name, back = form.get("name", ""), _safe(form.get("next"))
        user = await self._door.enter(name, form.get("password", ""))
        if user is None:
            log.event("login_failed", "warning")
            query = {"next": back, "failed": "1"}
            await _redirect(send, f"{_ROOT}/login?{urlencode(query)}")
            return
        log.event("login", user=user.name)
        await _redirect(send, back, [self._session_cookie(user)])

    def _session_cookie(self, user: User) -> tuple[bytes, bytes]:
        seconds = self._settings.realtime_dashboard_session_minutes * 60
        return self._set_cookie(
            self._cookie,
            self._signer.sign("session", {"name": user.name, "id": secrets.token_hex(16)}, seconds),
            seconds,
        )

    def _set_cookie(self, name: str, value: str, seconds: int) -> tuple[bytes, bytes]:
        secure = "; Secure" if self._is_secure else ""
        return (
            b"set-cookie",
            f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}".encode(),
        )

    async def _begin_oidc(self, send: Send, query: dict[str, str]) -> None:
        where, begun = await self._provider.begin()
        kept = self._signer.sign("oidc", asdict(begun) | {"next": _safe(query.get("next"))}, 600)
        await _redirect(send, where, [self._set_cookie(f"{self._cookie}-login", kept, 600)])

    async def _finish_oidc(self, send: Send, headers: dict[bytes, bytes], query: dict[str, str]) -> None:
        kept = self._signer.read("oidc", _cookies(headers).get(f"{self._cookie}-login"))
        if kept is None or not secrets.compare_digest(
            kept["state"].encode(), query.get("state", "").encode()
        ):
            raise Refusal(403, "login-failed", "this login was not begun here; begin again")
        if "code" not in query:
            raise Refusal(403, "login-failed", "the identity provider refuses the login")
        begun = Begun(kept["state"], kept["nonce"], kept["verifier"])
        subject = await self._provider.finish(begun, query["code"])
        user = self._users.of_subject(subject)
        if user is None:
            log.event("login_unknown", "warning")
            raise Refusal(403, "forbidden", "you are known, but not admitted to this dashboard")
        log.event("login", user=user.name)
        await _redirect(
            send, kept["next"], [self._session_cookie(user), self._set_cookie(f"{self._cookie}-login", "", 0)]
        )

    async def _show_login(self, send: Send, headers: dict[bytes, bytes], query: dict[str, str]) -> None:
        back = _safe(query.get("next"))
        if self._provider:
            await _redirect(send, f"{_ROOT}/oidc/start?{urlencode({'next': back})}")
            return
        language = headers.get(b"accept-language", b"").decode("latin-1").lower()
        words = _LOGIN_WORDS["en" if language.startswith("en") else "pt-BR"]
        failed = f'<p class="failed" role="alert">{words["failed"]}</p>' if "failed" in query else ""
        text = _fill(
            self._login,
            static=f"{_ROOT}/static/{self._version}",
            next=html.escape(back),
            failed_html=failed,
            **words,
        )
        await respond(send, 200, text, b"text/html; charset=utf-8")

    async def _show_page(self, send: Send, user: User) -> None:
        text = _fill(
            self._index,
            static=f"{_ROOT}/static/{self._version}",
            name=html.escape(user.name),
            partner=html.escape(user.partner or ""),
            reasons=html.escape(msgspec.json.encode(REASONS).decode()),
        )
        await respond(send, 200, text, b"text/html; charset=utf-8")

    async def _send_file(self, send: Send, headers: dict[bytes, bytes], version: str, name: str) -> None:
        if name not in self._files:
            raise Refusal(404, "not-found", "there is no such resource")
        body, packed = self._files[name]
        more = [(b"vary", b"accept-encoding")]
        if b"gzip" in headers.get(b"accept-encoding", b""):
            body, more = packed, [*more, (b"content-encoding", b"gzip")]
        # of another version of this service, while it is being replaced: good for once
        cache = b"public, max-age=31536000, immutable" if version == self._version else b"no-store"
        await respond(send, 200, body, _TYPES[Path(name).suffix], more, cache)


_LOGIN_WORDS = {
    "pt-BR": {
        "lang": "pt-BR",
        "title": "Pedidos de crédito",
        "lead": "Painel ao vivo",
        "user": "Usuário",
        "password": "Senha",
        "enter": "Entrar",
        "failed": "Usuário ou senha não conferem.",
    },
    "en": {
        "lang": "en",
        "title": "Credit orders",
        "lead": "Live dashboard",
        "user": "User",
        "password": "Password",
        "enter": "Log in",
        "failed": "User or password is wrong.",
    },
}


def _template(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


def _fill(template: str, **values: str) -> bytes:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template).encode()


def _read_files() -> dict[str, tuple[bytes, bytes]]:
    paths = [path for path in sorted(_STATIC.iterdir()) if path.suffix in _TYPES]
    paths += [assets.find("uplot", "uPlot.iife.min.js"), assets.find("uplot", "uPlot.min.css")]
    return {path.name: (path.read_bytes(), gzip.compress(path.read_bytes(), 9, mtime=0)) for path in paths}


def _version(files: dict[str, tuple[bytes, bytes]]) -> str:
    return hashlib.sha256(b"".join(body for body, _ in files.values())).hexdigest()[:12]


def _query(scope: Scope) -> dict[str, str]:
    """The parameters of a request; of one that comes twice, the last."""
    try:
        given = parse_qs(scope["query_string"].decode("ascii"), max_num_fields=20)
    except ValueError:
        raise Refusal(400, "malformed", "the query cannot be read") from None
    return {name: values[-1] for name, values in given.items()}


def _view(query: dict[str, str], user: User) -> View:
    window, status = query.get("window", "hour"), query.get("status") or None
    if window not in WINDOWS:
        raise Refusal(422, "invalid", f"window must be one of {', '.join(WINDOWS)}")
    if status is not None and status not in STATUSES:
        raise Refusal(422, "invalid", f"status must be one of {', '.join(STATUSES)}")
    chosen = {name: query.get(name) or None for name in ("partner", "product")}
    if any(value and (len(value) > 100 or "\0" in value) for value in chosen.values()):
        raise Refusal(422, "invalid", "a partner or product has no such name")
    return View(window, Filter(**chosen, status=status, scope=user.partner))


def _after(query: dict[str, str]) -> tuple[datetime, str] | None:
    """The order after which a page begins: when it was made (milliseconds since 1970) and its id."""
    if "after" not in query:
        return None
    at, _, order_id = query["after"].partition(".")
    if not re.fullmatch(r"[0-9]{1,14}", at, re.ASCII) or not re.fullmatch(
        r"[0-9a-f-]{36}", order_id, re.ASCII
    ):
        raise Refusal(422, "invalid", "after must be <milliseconds>.<order id>")
    return datetime.fromtimestamp(int(at) / 1000, UTC), order_id


def _cookies(headers: dict[bytes, bytes]) -> dict[str, str]:
    pairs = (part.partition("=") for part in headers.get(b"cookie", b"").decode("latin-1").split(";"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _safe(back: str | None) -> str:
    """Where to go after the login: only to the dashboard itself."""
    if not back or len(back) > 2000 or re.search(r"[\x00-\x20\\]", back):
        return _ROOT
    parts = urlsplit(back)
    return back if not parts.scheme and not parts.netloc and parts.path == _ROOT else _ROOT


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _redirect(send: Send, where: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    target = quote(where, safe="/:?&=%#.,;+-_~!*'()@$")
    await respond(send, 303, b"", b"text/plain", [(b"location", target.encode()), *(headers or [])])


async def _read_form(scope: Scope, receive: Receive) -> dict[str, str]:
    headers = dict(scope["headers"])
    if (
        headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        != b"application/x-www-form-urlencoded"
    ):
        raise Refusal(415, "media-type", "send a form")
    body = b""
    try:
        async with asyncio.timeout(10):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > _MAX_FORM:
                    raise Refusal(413, "too-large", f"a form may have {_MAX_FORM} bytes")
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise Refusal(408, "timeout", "the form did not come in time") from None
    try:
        return {name: values[-1] for name, values in parse_qs(body.decode(), max_num_fields=10).items()}
    except ValueError:
        raise Refusal(400, "malformed", "the form cannot be read") from None
