"""`docker login`: whether a registry takes credentials, asked in the very way in which it is pulled from."""

from __future__ import annotations

import re
from dataclasses import replace
from urllib.parse import urlsplit

from bulkhead.content.auth import Credentials
from bulkhead.errors import InvalidArgument
from bulkhead.manager.images.ports import Registries
from bulkhead.model.reference import DEFAULT_DOMAIN

_HUB_NAMES = frozenset(("", DEFAULT_DOMAIN, "index.docker.io", "registry-1.docker.io"))
_HOST = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::[0-9]{1,5})?")


class Login:
    """Checks credentials."""

    def __init__(self, registries: Registries) -> None:
        self._registries = registries

    async def check(self, server: str, credentials: Credentials) -> str:
        """An identity token, mostly empty. Raises Unauthorized when the registry does not take the credentials."""
        return await self._registries.login(registry_host(server), replace(credentials, wants_identity=True))


def registry_host(server: str) -> str:
    """The host (and port) that `serveraddress` names: a URL, `https://index.docker.io/v1/`, or a bare host."""
    host = urlsplit(server).netloc if "://" in server else server.partition("/")[0]
    if host in _HUB_NAMES:
        return DEFAULT_DOMAIN
    if not _HOST.fullmatch(host):
        raise InvalidArgument(f"invalid registry server address: {server}")
    return host
