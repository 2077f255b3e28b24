"""How a client shows a registry who it is: challenges, Basic, and bearer tokens from a realm.

A password goes to the registry itself, or to a realm that is https or the registry's very origin, and
nowhere else (CVE-2020-15157 class).
"""

from __future__ import annotations

import base64
import re
import time
from dataclasses import dataclass, field

import msgspec
from yarl import URL

from bulkhead.content import hosts
from bulkhead.content.later import aiohttp
from bulkhead.content.remote_errors import MAX_ERROR_BODY, refusal, unreachable
from bulkhead.content.transport import Transport
from bulkhead.errors import InvalidArgument, Unauthorized

CLIENT_ID = "bulkhead"
# Docker's default and least life of a token that does not say its own, in seconds.
TOKEN_LIFE = 60.0
_CHALLENGE = re.compile(r'([A-Za-z][A-Za-z0-9_-]*)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^",\s]+))')


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What `docker login` left: a name and password, or a token in their place."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    wants_identity: bool = False
    """Ask token services for an identity token beside each token: it stands for the password from then on."""

    @property
    def basic(self) -> str | None:
        """The value of an Authorization header with name and password."""
        if not self.username:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One `WWW-Authenticate` header."""

    scheme: str
    parameters: dict[str, str]


class _Token(msgspec.Struct):
    token: str | None = None
    access_token: str | None = None
    expires_in: float | None = None
    refresh_token: str | None = None


def parse_challenges(headers: list[str]) -> dict[str, Challenge]:
    """Challenges by lower-case scheme; what cannot be read is left out."""
    found = {}
    for header in headers:
        scheme, _, rest = header.strip().partition(" ")
        parameters = {match[1].lower(): match[2] or match[3] or "" for match in _CHALLENGE.finditer(rest)}
        found[scheme.lower()] = Challenge(scheme=scheme.lower(), parameters=parameters)
    return found


class Authorizer:
    """Makes the Authorization header of one registry's requests."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        registry: URL,
        challenges: dict[str, Challenge],
        credentials: Credentials | None,
        transport: Transport,
    ) -> None:
        self._session = session
        self._registry = registry
        self._challenges = challenges
        self._credentials = credentials or Credentials()
        self._transport = transport
        self.identity_token = ""
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}

    async def header(self, scopes: tuple[str, ...]) -> str | None:
        """The Authorization header for `scopes`, None for none. Raises Unauthorized, Unavailable."""
        if not self._challenges:
            return None
        if self._credentials.registry_token:
            return f"Bearer {self._credentials.registry_token}"
        bearer = self._challenges.get("bearer")
        if bearer is None:
            return self._credentials.basic
        token, expires = self._tokens.get(scopes, ("", 0.0))
        if time.monotonic() >= expires:
            token, life = await self._fetch(bearer, scopes)
            self._tokens[scopes] = (token, time.monotonic() + life * 0.9)
        return f"Bearer {token}"

    def forget(self, scopes: tuple[str, ...]) -> bool:
        """Drop a token that the registry no longer takes; whether there was one."""
        return self._tokens.pop(scopes, None) is not None

    @property
    def has_basic_only(self) -> bool:
        """Whether the registry wants Basic and there is nothing to give."""
        return "basic" in self._challenges and "bearer" not in self._challenges and not self._credentials.basic

    async def _fetch(self, challenge: Challenge, scopes: tuple[str, ...]) -> tuple[str, float]:
        realm = self._realm(challenge)
        service = challenge.parameters.get("service", "")
        if self._credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": self._credentials.identity_token,
                "service": service,
                "client_id": CLIENT_ID,
                "scope": " ".join(scopes),
            }
            return await self._ask("POST", realm, form=form)
        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        if self._credentials.username:
            query.append(("account", self._credentials.username))
        if self._credentials.wants_identity:
            query += [("client_id", CLIENT_ID), ("offline_token", "true")]
        basic = self._credentials.basic
        return await self._ask("GET", realm.update_query(query), headers={"Authorization": basic} if basic else {})

    def _realm(self, challenge: Challenge) -> URL:
        try:
            realm = URL(challenge.parameters.get("realm", ""))
            hosts.check_destination(realm, self._transport.insecure)
        except (ValueError, InvalidArgument) as error:
            raise Unauthorized(f"cannot log in to {self._registry.authority}: its realm is refused: {error}") from error
        if realm.scheme != "https" and not hosts.same_origin(realm, self._registry):
            reason = "its realm is neither https nor the registry itself"
            raise Unauthorized(f"cannot log in to {self._registry.authority}: {reason}")
        return realm

    async def _ask(
        self, method: str, url: URL, *, headers: dict[str, str] | None = None, form: dict[str, str] | None = None
    ) -> tuple[str, float]:
        options = self._transport.options(url, self._registry.authority)
        try:
            # No redirects: the realm is who was checked, and the password goes to nobody else.
            async with self._session.request(
                method, url, headers=headers, data=form, allow_redirects=False, **options
            ) as response:
                body = await response.content.read(MAX_ERROR_BODY)
                if response.status != 200:
                    told = refusal(str(url.with_query(None)), method, response.status, response.headers, body)
                    raise Unauthorized(str(told))
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(error, method, str(url.with_query(None))) from error
        token, life, identity = _token(body, self._registry.authority)
        self.identity_token = identity or self.identity_token
        return token, life


def _token(body: bytes, registry: str) -> tuple[str, float, str]:
    try:
        answer = msgspec.json.decode(body, type=_Token)
    except msgspec.MsgspecError as error:
        raise Unauthorized(f"cannot log in to {registry}: its token cannot be read: {error}") from error
    token = answer.token or answer.access_token or ""
    if not token or not token.isascii() or not token.isprintable():
        raise Unauthorized(f"cannot log in to {registry}: authorization server did not include a token in the response")
    return token, max(TOKEN_LIFE, answer.expires_in or TOKEN_LIFE), answer.refresh_token or ""
