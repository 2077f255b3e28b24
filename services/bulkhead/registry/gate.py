"""What every request passes before its handler: who it is from, how often they come, what they may do.

A request that is turned away leaves one line in the log, `denied`, with who, what and why.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from yarl import URL

from bulkhead.registry import callers, limits
from bulkhead.registry.access import Access, Need, claimed_user
from bulkhead.registry.callers import READ, WRITE, Action, Caller
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.limits import Rates, Sessions
from bulkhead.registry.routes import Handler

# What anybody may ask for: is it alive, and where to log in.
OPEN = frozenset({"/healthz", "/livez", "/readyz", "/token", "/token/", "/token/keys"})
# Who opened an upload is said, sealed, in its URL: sessions survive restarts, and so does this.
OWNER = "_owner"
_DENIALS = frozenset({Code.UNAUTHORIZED, Code.DENIED, Code.TOOMANYREQUESTS})
_UPLOAD = re.compile(r"/v2/.+/blobs/uploads/([^/?]+)")


def need_of(method: str, path: str, arguments: dict[str, Any]) -> Need:
    """What a request needs by the distribution specification's own words; unknown paths need a login."""
    if "name" not in arguments:
        return Need(catalog=path.rstrip("/") == "/v2/_catalog")
    if "upload_id" in arguments:
        actions = WRITE
    elif method in ("GET", "HEAD"):
        actions = READ
    elif method == "DELETE":
        actions = frozenset({Action.DELETE})
    else:
        actions = WRITE
    return Need(repository=arguments["name"], actions=actions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The registry's rules for callers; each of them may be absent."""

    access: Access | None
    rates: Rates | None
    sessions: Sessions
    seal: bytes
    """The secret that owners are sealed with."""

    async def serve(self, request: web.BaseRequest, handler: Handler, arguments: dict[str, Any]) -> web.StreamResponse:
        """Let `handler` answer, if the caller may ask this; raises Refusal."""
        try:
            caller = await self._admitted(request, arguments)
        except Refusal as refusal:
            _audit(request, refusal)
            raise
        callers.mark(request, caller)
        if "/blobs/uploads" not in request.path:
            return await handler(request, **arguments)
        return await self._upload(request, caller, handler, arguments)

    async def _admitted(self, request: web.BaseRequest, arguments: dict[str, Any]) -> Caller:
        need = need_of(request.method, request.path, arguments)
        if self.access is None or request.path in OPEN:
            caller = Caller(address=request.remote or "")
        else:
            caller = await self.access.identify(request, need)
        if self.rates is not None and request.path != "/healthz":
            self.rates.take(_counted(caller))
        if self.access is not None and request.path not in OPEN:
            self.access.permit(request, caller, need)
            self._check_owner(request, caller, arguments.get("upload_id"))
        if request.method == "POST" and "/blobs/uploads" in request.path:
            self.sessions.check(_counted(caller))
        return caller

    async def _upload(
        self, request: web.BaseRequest, caller: Caller, handler: Handler, arguments: dict[str, Any]
    ) -> web.StreamResponse:
        try:
            answer = await handler(request, **arguments)
        except Refusal as refusal:
            self._follow(request, caller, arguments, refusal.code.status, refusal.headers)
            raise
        self._follow(request, caller, arguments, answer.status, answer.headers)
        return answer

    def _follow(
        self,
        request: web.BaseRequest,
        caller: Caller,
        arguments: dict[str, Any],
        status: int,
        headers: MutableMapping[str, str],
    ) -> None:
        """Count the session that an answer tells of, and seal its owner into where it goes on."""
        known = arguments.get("upload_id")
        match = _UPLOAD.fullmatch(URL(headers.get("Location", ""), encoded=True).path)
        session = match[1] if match is not None else known
        if session is None:
            return
        if status == 404 or (request.method in ("PUT", "DELETE") and status < 500 and status != 416):
            self.sessions.end(_counted(caller), session)
        elif status in (202, 204, 416):
            self.sessions.touch(_counted(caller), session)
        if match is not None and self.access is not None:
            location = URL(headers["Location"], encoded=True)
            headers["Location"] = str(location.update_query({OWNER: self._sealed(caller, session)}))

    def _check_owner(self, request: web.BaseRequest, caller: Caller, session: str | None) -> None:
        if session is not None:
            told = request.query.get(OWNER, "")
            if not hmac.compare_digest(told.encode(), self._sealed(caller, session).encode()):
                raise Refusal(Code.BLOB_UPLOAD_UNKNOWN)

    def _sealed(self, caller: Caller, session: str) -> str:
        return hmac.digest(self.seal, f"{session}\0{caller.name}".encode(), "sha256").hex()[:32]


def _counted(caller: Caller) -> str:
    return caller.key if caller.name else f"address {limits.network(caller.address)}"


def _audit(request: web.BaseRequest, refusal: Refusal) -> None:
    if refusal.code in _DENIALS:
        user = claimed_user(request)
        # The first request of every client comes without a name, to learn where to log in.
        log = structlog.get_logger().warning if user else structlog.get_logger().info
        log(
            "denied",
            method=request.method,
            path=request.path[:512],
            address=request.remote,
            user=user,
            code=refusal.code.name,
            reason=str(refusal),
        )
