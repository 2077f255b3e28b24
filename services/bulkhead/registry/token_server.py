"""The built-in token server: /token as Docker's registry token specification has it, and its public keys."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec
import structlog
from aiohttp import web

from bulkhead.content.blocking import Blocking
from bulkhead.errors import Unauthorized
from bulkhead.registry import bodies, scopes
from bulkhead.registry.access import REALM, Access, Policy
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.htpasswd import Users
from bulkhead.registry.keys import KeyRing
from bulkhead.registry.routes import Routes
from bulkhead.registry.tokens import Tokens

MAX_FORM = 64 << 10
_BASIC = {"WWW-Authenticate": f'Basic realm="{REALM}"'}


class TokenServer:
    """Hands out tokens to those who know a password, a refresh token, or who are content with anonymous rights."""

    def __init__(
        self,
        access: Access,
        users: Users,
        tokens: Tokens,
        ring: KeyRing,
        policy: Policy,
        blocking: Blocking,
        *,
        audiences: Iterable[str] = (),
    ) -> None:
        """`audiences` are other registries that tokens are made for; ours always is."""
        self._access = access
        self._users = users
        self._tokens = tokens
        self._ring = ring
        self._policy = policy
        self._blocking = blocking
        self._audiences = frozenset([tokens.service, *audiences])

    def rows(self) -> Routes:
        """The endpoints, for the registry's table."""
        return (
            ("token", re.compile(r"/token/?"), {"GET": self.get, "POST": self.post}),
            ("keys", re.compile(r"/token/keys"), {"GET": self.keys, "HEAD": self.keys}),
        )

    async def keys(self, request: web.BaseRequest) -> web.StreamResponse:
        """The public keys, for those who verify our tokens (a JWKS)."""
        return web.Response(body=msgspec.json.encode(self._ring.jwks), content_type="application/json")

    async def get(self, request: web.BaseRequest) -> web.StreamResponse:
        """A token for the user of the Basic header, or for nobody."""
        query = request.query
        service = self._service(query.get("service", ""))
        user = ""
        scheme, _, value = request.headers.get("Authorization", "").partition(" ")
        if scheme:
            found = await self._access.logged_in(request, value) if scheme.lower() == "basic" else None
            if found is None:
                raise _wrong("wrong user name or password")
            user = found
        offline = query.get("offline_token", "").lower() in ("true", "1")
        return await self._answer(user, service, query.getall("scope", []), offline=offline)

    async def post(self, request: web.BaseRequest) -> web.StreamResponse:
        """The same in OAuth2's form: by password, or by a refresh token."""
        form = _form(await bodies.whole(request, MAX_FORM))
        service = self._service(form.get("service", ""))
        grant = form.get("grant_type", "")
        if grant == "password":
            user = form.get("username", "")
            if not user or not await self._access.password_of(request, user, form.get("password", "")):
                raise _wrong("wrong user name or password")
        elif grant == "refresh_token":
            user = self._refreshed(form.get("refresh_token", ""), service)
        else:
            raise Refusal(Code.UNSUPPORTED, f"grant_type {grant[:32]!r} is not password or refresh_token")
        offline = form.get("access_type", "") == "offline"
        again = form["refresh_token"] if grant == "refresh_token" else ""
        return await self._answer(user, service, [form.get("scope", "")], offline=offline, refresh_token=again)

    async def _answer(
        self, user: str, service: str, asked: Iterable[str], *, offline: bool, refresh_token: str = ""
    ) -> web.StreamResponse:
        if self._ring.due:
            await self._blocking.run(self._ring.rotate)
        listing = bool(user) or self._policy.anonymous_pull
        granted = scopes.granted(scopes.parse(asked), self._policy.of(user), catalog=listing)
        token = self._tokens.access_token(user, service, granted)
        content: dict[str, Any] = {
            "token": token,
            "access_token": token,
            "expires_in": self._tokens.seconds,
            "issued_at": datetime.fromtimestamp(int(time.time()), UTC).isoformat().replace("+00:00", "Z"),
            "scope": " ".join(map(str, granted)),
        }
        stamp = self._users.stamp(user) if user else None
        if refresh_token:
            content["refresh_token"] = refresh_token
        elif offline and stamp is not None:
            content["refresh_token"] = self._tokens.refresh_token(user, service, stamp)
        structlog.get_logger().info("token", user=user, service=service, scope=content["scope"])
        headers = {"Cache-Control": "no-store"}
        return web.Response(body=msgspec.json.encode(content), content_type="application/json", headers=headers)

    def _refreshed(self, token: str, service: str) -> str:
        try:
            user, stamp = self._tokens.refreshed(token, service)
        except Unauthorized as error:
            raise _wrong(f"invalid refresh token: {error}") from error
        if self._users.stamp(user) != stamp:
            raise _wrong("invalid refresh token: the user is gone or has another password")
        return user

    def _service(self, told: str) -> str:
        service = told or self._tokens.service
        if service not in self._audiences:
            raise Refusal(Code.DENIED, f"no tokens are made for service {service[:64]!r}")
        return service


def _form(body: bytes) -> dict[str, str]:
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=32)
    except ValueError as error:
        raise Refusal(Code.UNSUPPORTED, "the form cannot be read") from error
    return {name: values[0] for name, values in fields.items()}


def _wrong(reason: str) -> Refusal:
    return Refusal(Code.UNAUTHORIZED, reason, headers=_BASIC)
