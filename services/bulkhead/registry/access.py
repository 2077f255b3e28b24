"""Who sent a request, by its Authorization header, and what they may do.

nothing                anonymous: what the rights give `anonymous`, where anonymous pull is on
Basic name:password    a user of the htpasswd file: what the rights give them
Bearer token           what the token allows; of our own tokens no more than the rights give now
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from aiohttp import web

from bulkhead.errors import Unauthorized
from bulkhead.registry import limits, scopes
from bulkhead.registry.callers import ALL, NOTHING, READ, Action, Caller
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.htpasswd import Users
from bulkhead.registry.limits import Rates
from bulkhead.registry.rights import Rights
from bulkhead.registry.watched import Watched

if TYPE_CHECKING:
    from bulkhead.registry.tokens import Tokens

REALM = "bulkhead-registry"
MAX_HEADER = 64 << 10
# Wrong passwords from one address for one user: so many at once, then one every few seconds. A job that goes on
# with an old password must not lock out everybody behind its address, so those get more together.
WRONG_BURST = 30
WRONG_PER_SECOND = 0.2
ADDRESS_TIMES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a request asks for."""

    repository: str = ""
    actions: frozenset[Action] = NOTHING
    catalog: bool = False

    @property
    def scope(self) -> str:
        """The scope that a token for it has."""
        if self.catalog:
            return "registry:catalog:*"
        # Docker's order, which some clients compare.
        named = [action.value for action in (Action.PULL, Action.PUSH, Action.DELETE) if action in self.actions]
        return f"repository:{self.repository}:{','.join(named)}" if named else ""


class Policy:
    """What users, and nobody, may do: the rights file, or everything for those who logged in."""

    def __init__(self, rights: Watched[Rights] | None, *, anonymous_pull: bool) -> None:
        self._rights = rights
        self.anonymous_pull = anonymous_pull

    def of(self, user: str) -> Callable[[str], frozenset[Action]]:
        """The rights of `user`, empty for anonymous, by repository."""
        if self._rights is None:
            allowed = ALL if user else READ if self.anonymous_pull else NOTHING
            return lambda _: allowed
        rights = self._rights
        if user:
            return lambda repository: rights.value.of(user, repository)
        limit = READ if self.anonymous_pull else NOTHING
        return lambda repository: rights.value.of("", repository) & limit


class Access:
    """Answers who a request is from; raises the challenge or the denial that the distribution spec asks for."""

    def __init__(self, users: Users | None, tokens: Tokens | None, policy: Policy, *, realm: str) -> None:
        """`realm` is the token server's URL; empty for the built-in one, under the name the client used."""
        self._users = users
        self._tokens = tokens
        self._policy = policy
        self._realm = realm
        self._wrong_user = Rates(WRONG_PER_SECOND, WRONG_BURST)
        self._wrong_address = Rates(WRONG_PER_SECOND * ADDRESS_TIMES, WRONG_BURST * ADDRESS_TIMES)

    async def identify(self, request: web.BaseRequest, need: Need) -> Caller:
        """The caller; raises Refusal(UNAUTHORIZED) for wrong credentials, never for none."""
        header = request.headers.get("Authorization", "")
        scheme, _, value = header.partition(" ")
        if len(header) > MAX_HEADER:
            self.challenge(request, need, "the Authorization header is too long")
        if scheme.lower() == "bearer" and self._tokens is not None:
            return self._by_token(request, need, value.strip())
        if scheme.lower() == "basic" and self._users is not None:
            user = await self.logged_in(request, value)
            if user is None:
                self.challenge(request, need, "wrong user name or password")
            return self._caller(request, user)
        if header:
            self.challenge(request, need, "this kind of authorization is not taken")
        return self._caller(request, "")

    async def logged_in(self, request: web.BaseRequest, credentials: str) -> str | None:
        """The user of Basic credentials, empty for empty ones, None for wrong ones; raises Refusal(TOOMANYREQUESTS)."""
        told = _basic(credentials)
        if told is None:
            return None
        user, password = told
        if not user and not password:
            return ""
        return user if await self.password_of(request, user, password) else None

    async def password_of(self, request: web.BaseRequest, user: str, password: str) -> bool:
        """Whether the password is right; after too many wrong ones it is refused without a look."""
        address = limits.network(request.remote or "")
        pair = f"{address} {user[:255]}"
        self._wrong_address.check(address)
        self._wrong_user.check(pair)
        right = self._users is not None and await self._users.verify(user, password)
        if not right:
            self._wrong_address.count(address)
            self._wrong_user.count(pair)
        return right

    def permit(self, request: web.BaseRequest, caller: Caller, need: Need) -> None:
        """Pass, or raise Refusal: UNAUTHORIZED where other credentials may help, else DENIED."""
        bearer = request.headers.get("Authorization", "").lower().startswith("bearer ")
        if need.repository:
            allowed = caller.may(need.repository, *need.actions)
        elif need.catalog:
            allowed = caller.lists
        else:
            # Clients learn by this where to log in: who did not yet is asked to, even where pulls need no name.
            allowed = bool(caller.name) or (bearer and self._policy.anonymous_pull)
        if allowed:
            return
        if caller.name and not bearer:
            raise Refusal(Code.DENIED, detail=_detail(need))
        self.challenge(request, need, "", error="insufficient_scope" if bearer else "")

    def challenge(self, request: web.BaseRequest, need: Need, reason: str, *, error: str = "") -> NoReturn:
        """Raise Refusal(UNAUTHORIZED) that says where to log in."""
        if self._tokens is None:
            value = f'Basic realm="{REALM}"'
        else:
            parts = [f'Bearer realm="{self._realm or own_realm(request)}"', f'service="{self._tokens.service}"']
            parts += [f'scope="{need.scope}"'] if need.scope and '"' not in need.scope else []
            parts += [f'error="{error}"'] if error else []
            value = ",".join(parts)
        raise Refusal(Code.UNAUTHORIZED, reason, detail=_detail(need), headers={"WWW-Authenticate": value})

    def _by_token(self, request: web.BaseRequest, need: Need, token: str) -> Caller:
        assert self._tokens is not None
        try:
            claims = self._tokens.verify(token)
            if claims.own and claims.subject and (self._users is None or claims.subject not in self._users):
                raise Unauthorized("its user is gone")
        except Unauthorized as error:
            self.challenge(request, need, f"invalid token: {error}", error="invalid_token")
        in_token, lists = scopes.rights_of(claims.access), scopes.has_catalog(claims.access)
        address, name = request.remote or "", claims.subject
        if not claims.own:
            # Whom another server vouches for is not in our rights file: the token is all there is.
            return Caller(
                name=name or "token", address=address, rights=_read_all if need.catalog else in_token, lists=lists
            )
        now = self._policy.of(name)
        if need.catalog:
            return Caller(name=name, address=address, rights=now, lists=lists)
        return Caller(name=name, address=address, rights=lambda repository: in_token(repository) & now(repository))

    def _caller(self, request: web.BaseRequest, user: str) -> Caller:
        lists = bool(user) or self._policy.anonymous_pull
        return Caller(name=user, address=request.remote or "", rights=self._policy.of(user), lists=lists)


def _read_all(_: str) -> frozenset[Action]:
    return READ


def _basic(credentials: str) -> tuple[str, str] | None:
    try:
        text = base64.b64decode(credentials.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    user, colon, password = text.partition(":")
    return (user, password) if colon else None


def claimed_user(request: web.BaseRequest) -> str:
    """Whom a request says it is from, for the log: never a secret, so of a token only that it was one."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        told = _basic(value)
        return told[0][:64] if told is not None else "(unreadable)"
    return f"({scheme.lower()[:16]})" if scheme else ""


def own_realm(request: web.BaseRequest) -> str:
    """The built-in token server as this client sees us. Behind a proxy the realm must be configured."""
    host = request.headers.get("Host", "")
    if not host or any(character in host for character in '"\\<> \t/@?#'):
        raise Refusal(Code.UNAUTHORIZED, "the Host header cannot be used")
    return f"{request.scheme}://{host}/token"


def _detail(need: Need) -> list[dict[str, str]]:
    """Docker's form of it: one entry per action."""
    if need.catalog:
        return [{"Type": "registry", "Name": "catalog", "Action": "*"}]
    return [{"Type": "repository", "Name": need.repository[:255], "Action": action} for action in sorted(need.actions)]
