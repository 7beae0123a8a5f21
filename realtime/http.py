"""The little of HTTP that the service needs on top of ASGI: bodies with a limit, JSON, problems, a server."""

import asyncio
import signal
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from realtime import log
from realtime.errors import RealtimeError
from realtime.orders import MAX_BODY, Refusal

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_BODY_SECONDS = 10


async def respond(
    send: Send,
    status: int,
    body: bytes,
    content_type: bytes = b"application/json",
    headers: Iterable[tuple[bytes, bytes]] = (),
    cache: bytes = b"no-store",
) -> None:
    """Sends a whole response; `cache` says who may keep it."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", content_type),
                (b"content-length", b"%d" % len(body)),
                (b"cache-control", cache),
                (b"x-content-type-options", b"nosniff"),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, status: int, content: Any) -> None:
    """Sends JSON; amounts are texts, so that no reader makes floats of them."""
    await respond(send, status, msgspec.json.encode(content, enc_hook=str))


async def respond_problem(send: Send, refusal: Refusal) -> None:
    """Sends a problem (RFC 9457)."""
    problem: dict[str, Any] = {
        "type": f"urn:credit-lakehouse:problem:{refusal.kind}",
        "title": refusal.kind.replace("-", " "),
        "status": refusal.status,
        "detail": refusal.detail,
    }
    if refusal.pointer is not None:
        problem["errors"] = [{"pointer": refusal.pointer, "detail": refusal.detail}]
    headers = []
    if refusal.wait is not None:
        headers.append((b"retry-after", b"%d" % refusal.wait))
    if refusal.allow:
        headers.append((b"allow", refusal.allow.encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"ApiKey"))
    if refusal.status in (408, 413):
        headers.append((b"connection", b"close"))  # the rest of the body is never read
    await respond(send, refusal.status, msgspec.json.encode(problem), b"application/problem+json", headers)


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The body of a request, which must be JSON of at most `MAX_BODY` bytes.

    Raises:
        Refusal: it is not, or does not come in time.
    """
    headers = dict(scope["headers"])
    if headers.get(b"content-type", b"").split(b";")[0].strip().lower() != b"application/json":
        raise Refusal(415, "media-type", "send application/json")
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length) > MAX_BODY:
        raise Refusal(413, "too-large", f"a body may have {MAX_BODY} bytes")
    message = await receive()
    if not message.get("more_body"):
        body = message.get("body", b"")
        if len(body) > MAX_BODY:
            raise Refusal(413, "too-large", f"a body may have {MAX_BODY} bytes")
        return body
    body = bytearray(message.get("body", b""))
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while message.get("more_body"):
                message = await receive()
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    raise Refusal(413, "too-large", f"a body may have {MAX_BODY} bytes")
    except TimeoutError:
        raise Refusal(408, "timeout", "the body did not come in time") from None
    return bytes(body)


async def respond_to_operator(scope: Scope, send: Send, trouble: str | None) -> bool:
    """Answers /healthz and /metrics; whether it was one of them. `trouble` is what is wrong, if anything."""
    if scope["path"] == "/healthz":
        await respond_json(send, 503 if trouble else 200, {"status": trouble or "ok"})
    elif scope["path"] == "/metrics":
        await respond(send, 200, generate_latest(), CONTENT_TYPE_LATEST.encode())
    else:
        return False
    return True


class Server(uvicorn.Server):
    """Serves `app` until `SIGTERM` or `SIGINT`; requests that were begun are finished first.

    Raises:
        RealtimeError: the port is taken.
    """

    def __init__(self, app: App, host: str, port: int, setting: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
        except OSError as error:
            raise RealtimeError(f"port {port} cannot be used ({error.strerror}): set {setting}") from None
        self._socket.listen(2048)
        self.url = "http://{}:{}".format(*self._socket.getsockname())
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=20,
                backlog=2048,
            )
        )

    async def run_until_stopped(self) -> None:
        """Serves."""
        # uvicorn raises the signal once more when it is done: ending so is no failure
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        log.event("serving", url=self.url)
        await self.serve(sockets=[self._socket])
        log.event("stopped")
