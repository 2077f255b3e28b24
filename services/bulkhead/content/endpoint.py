"""One registry endpoint over HTTP: scheme, authorization, redirects. What is asked is the client's business."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from yarl import URL

from bulkhead.content import hosts
from bulkhead.content.auth import Authorizer, Credentials, parse_challenges
from bulkhead.content.later import aiohttp
from bulkhead.content.remote_errors import MAX_ERROR_BODY, Unreachable, refusal, unreachable
from bulkhead.content.transport import Transport
from bulkhead.errors import InvalidArgument, Unauthorized

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Body = Callable[[], Any]
if TYPE_CHECKING:
    Answer = aiohttp.ClientResponse
else:  # not before it is used
    Answer = object


class Endpoint:
    """A registry at one address. The first request finds out its scheme and its challenges."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        address: str,
        *,
        transport: Transport,
        credentials: Credentials | None = None,
    ) -> None:
        """`address` is `host[:port]`, or a URL with a scheme for one that is to be spoken."""
        self._session = session
        scheme, separator, rest = address.rpartition("://")
        self._authority = rest.rstrip("/")
        self._scheme = scheme if separator else ""
        hosts.split_authority(self._authority)
        self._transport = transport
        self._credentials = credentials
        self._base: URL | None = None
        self._authorizer: Authorizer | None = None
        self._greeting = asyncio.Lock()

    def __str__(self) -> str:
        return self._authority

    @property
    def url(self) -> str:
        """Where its API is; its address alone while the scheme is not known."""
        return str(self._base) if self._base is not None else self._authority

    @property
    def identity_token(self) -> str:
        """What a token service gave that stands for the password; empty when none did."""
        return self._authorizer.identity_token if self._authorizer is not None else ""

    @asynccontextmanager
    async def request(
        self,
        method: str,
        target: str | URL,
        *,
        scopes: tuple[str, ...],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        expect: Collection[int] = (200,),
    ) -> AsyncIterator[Answer]:
        """One request; `target` is a path below /v2/, or a URL that the registry gave.

        `body()` makes a fresh body for each try. Raises RemoteRefusal for any status not expected,
        Unreachable when there was no whole answer, Unauthorized when the realm is not to be trusted.
        """
        base = await self._greet()
        url = base.join(URL(f"/v2/{target}", encoded=True)) if isinstance(target, str) else target
        answer = await self._answered(method, url, scopes, headers, body)
        try:
            if answer.status not in expect:
                raise await _refused(answer, method)
            yield answer
        except (TimeoutError, aiohttp.ClientError, ConnectionError) as error:
            raise unreachable(error, method, str(answer.url.with_query(None))) from error
        finally:
            answer.release()

    def resolve(self, answer: Answer, location: str) -> URL:
        """Where a Location header of `answer` leads; raises InvalidArgument for a place not to go to."""
        try:
            url = answer.url.join(URL(location, encoded=True))
        except ValueError as error:
            raise InvalidArgument(f"cannot follow registry {self}: {error}") from error
        hosts.check_destination(url, self._transport.insecure)
        return url

    async def _answered(
        self, method: str, url: URL, scopes: tuple[str, ...], headers: Mapping[str, str] | None, body: Body | None
    ) -> Answer:
        answer = await self._follow(method, url, scopes, headers, body)
        if answer.status == 401 and self._authorizer is not None:
            challenges = parse_challenges(answer.headers.getall("WWW-Authenticate", []))
            if self._authorizer.has_basic_only:
                answer.release()
                raise Unauthorized(f'{method.capitalize()} "{url}": no basic auth credentials')
            if self._authorizer.forget(scopes) and challenges:
                answer.release()
                answer = await self._follow(method, url, scopes, headers, body)
        return answer

    async def _follow(
        self, method: str, url: URL, scopes: tuple[str, ...], headers: Mapping[str, str] | None, body: Body | None
    ) -> Answer:
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._send(method, url, await self._headers(url, scopes, headers), body)
            if answer.status not in _REDIRECTS or "Location" not in answer.headers or method not in ("GET", "HEAD"):
                return answer
            answer.release()
            followed = self.resolve(answer, answer.headers["Location"])
            if url.scheme == "https" and followed.scheme == "http":
                raise InvalidArgument(f"cannot follow registry {self} from https to http")
            url = followed
        raise InvalidArgument(f"cannot follow registry {self}: more than {MAX_REDIRECTS} redirects")

    async def _headers(self, url: URL, scopes: tuple[str, ...], headers: Mapping[str, str] | None) -> dict[str, str]:
        merged = dict(headers or {})
        # Who we are is told to the registry alone, wherever it sends us.
        if self._authorizer is not None and self._base is not None and hosts.same_origin(url, self._base):
            authorization = await self._authorizer.header(scopes)
            if authorization is not None:
                merged["Authorization"] = authorization
        return merged

    async def _send(self, method: str, url: URL, headers: Mapping[str, str], body: Body | None) -> Answer:
        options = self._transport.options(url, self._authority)
        try:
            return await self._session.request(
                method,
                url,
                headers=headers,
                data=body() if body is not None else None,
                allow_redirects=False,
                **options,
            )
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise unreachable(error, method, str(url.with_query(None))) from error

    async def _greet(self) -> URL:
        async with self._greeting:
            if self._base is None:
                self._base, self._authorizer = await self._find_scheme()
            return self._base

    async def _find_scheme(self) -> tuple[URL, Authorizer]:
        failure: Unreachable | None = None
        for scheme in self._schemes():
            try:
                return await self._ping(scheme)
            except Unreachable as error:
                # Another scheme may mean another port. Of two failures Docker tells the one over plain http.
                if failure is None or scheme == "http":
                    failure = error
        assert failure is not None
        raise failure

    def _schemes(self) -> tuple[str, ...]:
        insecure = self._transport.is_insecure(self._authority)
        if self._scheme == "http" and not insecure:
            raise InvalidArgument(f"cannot use registry {self}: plain http, and the host is not marked insecure")
        if self._scheme:
            return (self._scheme,)
        if not insecure:
            return ("https",)
        # On loopback TLS is the exception; elsewhere it is tried first, as Docker does.
        loopback = hosts.is_loopback(hosts.split_authority(self._authority)[0])
        return ("http", "https") if loopback else ("https", "http")

    async def _ping(self, scheme: str) -> tuple[URL, Authorizer]:
        base = URL(f"{scheme}://{self._authority}/v2/")
        answer = await self._send("GET", base, {}, None)
        try:
            if scheme == "http" and answer.status == 400:
                raise Unreachable(f'Get "{base}": the server wants https')
            if answer.status not in (200, 401):
                raise await _refused(answer, "GET")
            challenges = parse_challenges(answer.headers.getall("WWW-Authenticate", [])) if answer.status == 401 else {}
        finally:
            answer.release()
        return base, Authorizer(self._session, base, challenges, self._credentials, self._transport)


async def _refused(answer: Answer, method: str) -> Exception:
    try:
        body = await answer.content.read(MAX_ERROR_BODY)
    except (TimeoutError, aiohttp.ClientError, ConnectionError):
        body = b""
    return refusal(str(answer.url.with_query(None)), method, answer.status, answer.headers, body)


def pull_scope(path: str) -> tuple[str, ...]:
    """The token scope for reading a repository."""
    return (f"repository:{path}:pull",)


def push_scope(path: str) -> tuple[str, ...]:
    """The token scope for writing a repository."""
    return (f"repository:{path}:pull,push",)
