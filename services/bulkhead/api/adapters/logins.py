"""Whether a registry accepts credentials: its `/v2/` is asked, with Basic or by the token service it names.

A token service gets the password only by https, or on loopback as the registry itself: a registry must not be
able to make us send it in the clear or elsewhere on this host.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp

from bulkhead.errors import InvalidArgument, Unauthorized, Unavailable

SECONDS = 20.0
HUB = "registry-1.docker.io"
_HUB_NAMES = frozenset(("", "docker.io", "index.docker.io", HUB))
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1"))
_HOST = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class _Credentials:
    username: str
    password: str = field(repr=False)

    @property
    def header(self) -> dict[str, str]:
        return {"Authorization": "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()}


class RegistryLogins:
    """`ports.Logins`."""

    def __init__(self, plain: Collection[str]) -> None:
        self._plain = frozenset(plain)

    async def check(self, server: str, username: str, password: str) -> str:
        host = registry_host(server)
        credentials = _Credentials(username, password)
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                await self._check(session, host, credentials)
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"cannot log in to {host}: {reason}") from error
        return ""

    async def _check(self, session: aiohttp.ClientSession, host: str, credentials: _Credentials) -> None:
        plain = host in self._plain or _is_loopback(host)
        url = f"{'http' if plain else 'https'}://{host}/v2/"
        async with session.get(url, allow_redirects=False) as answer:
            challenge = answer.headers.get("WWW-Authenticate", "")
            if answer.status == 200:
                return
            if answer.status != 401:
                raise Unavailable(f"cannot log in to {host}: {url} answers {answer.status}")
        kind, parameters = _challenge(challenge)
        asked = _token_url(parameters, plain) if kind == "bearer" else url
        query = {"account": credentials.username, "service": parameters.get("service", "")} if kind == "bearer" else {}
        async with session.get(asked, headers=credentials.header, params=query, allow_redirects=False) as answer:
            if answer.status in (401, 403):
                raise Unauthorized(f"login attempt to {url} failed with status: {answer.status} {answer.reason}")
            if answer.status != 200:
                raise Unavailable(f"cannot log in to {host}: {asked} answers {answer.status}")


def registry_host(server: str) -> str:
    """The host (and port) that `serveraddress` names: a URL, `https://index.docker.io/v1/`, or a bare host."""
    host = urlsplit(server).netloc if "://" in server else server.partition("/")[0]
    if host in _HUB_NAMES:
        return HUB
    if not _HOST.fullmatch(host):
        raise InvalidArgument(f"invalid registry server address: {server}")
    return host


def _is_loopback(host: str) -> bool:
    return (urlsplit(f"//{host}").hostname or "") in _LOOPBACK


def _challenge(header: str) -> tuple[str, dict[str, str]]:
    kind, _, rest = header.partition(" ")
    return kind.lower(), dict(_PARAMETER.findall(rest))


def _token_url(parameters: dict[str, str], plain: bool) -> str:
    realm = parameters.get("realm", "")
    parts = urlsplit(realm)
    if parts.scheme != "https" and not (plain and parts.scheme == "http" and _is_loopback(parts.netloc)):
        raise Unavailable(f"cannot log in: the registry names an unsafe token service {realm!r}")
    return realm
