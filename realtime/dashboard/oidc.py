"""Login by an OpenID Connect provider: authorization code with PKCE, and the id token checked by its keys."""

import base64
import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from realtime import log
from realtime.orders import Refusal

_ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]
_FRESH = 3600.0  # seconds for which what the provider says of itself holds


@dataclass(frozen=True)
class Begun:
    """A login that has begun; kept by the browser, signed."""

    state: str
    nonce: str
    verifier: str


class Provider:
    """The provider at `issuer`, to which we are `client_id`."""

    def __init__(self, issuer: str, client_id: str, client_secret: str, redirect_uri: str) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._client_secret = client_secret
        self._redirect_uri = redirect_uri
        self._about: dict[str, Any] = {}
        self._keys: KeySet | None = None
        self._read_at = -_FRESH

    async def begin(self) -> tuple[str, Begun]:
        """Where to send the browser, and what to compare with when it comes back.

        Raises:
            Refusal: the provider does not answer (503).
        """
        about = await self._read()
        begun = Begun(secrets.token_urlsafe(24), secrets.token_urlsafe(24), secrets.token_urlsafe(48))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(begun.verifier.encode()).digest()).decode()
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._redirect_uri,
            "scope": "openid",
            "state": begun.state,
            "nonce": begun.nonce,
            "code_challenge": challenge.rstrip("="),
            "code_challenge_method": "S256",
        }
        where = about["authorization_endpoint"]
        return f"{where}{'&' if '?' in where else '?'}{urlencode(query)}", begun

    async def finish(self, begun: Begun, code: str) -> str:
        """Who has logged in: the claim `sub`.

        Raises:
            Refusal: the provider does not answer (503), or what it says does not hold (403).
        """
        about = await self._read()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect_uri,
            "code_verifier": begun.verifier,
            "client_id": self._client_id,
        }
        auth = (self._client_id, self._client_secret) if self._client_secret else None
        answer = await _ask("POST", about["token_endpoint"], data=form, auth=auth)
        try:
            return await self._check(answer["id_token"], begun.nonce)
        except (JoseError, KeyError, ValueError, TypeError) as error:
            log.event("login_refused", "warning", error=type(error).__name__)
            raise Refusal(403, "login-failed", "the identity provider's answer does not hold") from None

    async def _check(self, token: str, nonce: str) -> str:
        try:
            read = jwt.decode(token, self._keys, algorithms=_ALGORITHMS)
        except (JoseError, ValueError):
            await self._read(anew=True)  # its keys may have changed
            read = jwt.decode(token, self._keys, algorithms=_ALGORITHMS)
        jwt.JWTClaimsRegistry(
            leeway=60,
            iss={"essential": True, "value": self._issuer},
            aud={"essential": True, "value": self._client_id},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
            nonce={"essential": True, "value": nonce},
        ).validate(read.claims)
        if "azp" in read.claims and read.claims["azp"] != self._client_id:
            raise ValueError("azp")
        return str(read.claims["sub"])

    async def _read(self, *, anew: bool = False) -> dict[str, Any]:
        if anew or time.monotonic() - self._read_at > _FRESH:
            where = f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"
            about = await _ask("GET", where)
            if about.get("issuer") != self._issuer:
                log.event("wrong_issuer", "error")
                raise Refusal(503, "unavailable", "the identity provider calls itself by another name")
            self._keys = KeySet.import_key_set(await _ask("GET", about["jwks_uri"]))
            self._about = about
            self._read_at = time.monotonic()
        return self._about


async def _ask(method: str, url: str, **more: Any) -> dict[str, Any]:
    try:
        async with httpx.AsyncClient(timeout=10) as client:
            answer = await client.request(method, url, **more)
    except httpx.HTTPError as error:
        log.event("identity_provider_unavailable", "error", error=type(error).__name__)
        raise Refusal(503, "unavailable", "the identity provider does not answer", wait=5) from None
    if answer.status_code != 200:
        log.event("identity_provider_refuses", "warning", status=answer.status_code)
        kind = 403 if 400 <= answer.status_code < 500 else 503
        raise Refusal(kind, "login-failed", "the identity provider does not agree; begin again")
    try:
        return answer.json()
    except ValueError:
        raise Refusal(503, "unavailable", "the identity provider's answer is not JSON") from None
