"""How hosts are reached: which without TLS, by whose certificates, through which proxy."""

from __future__ import annotations

import ssl
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TypedDict

from yarl import URL

from bulkhead.content import hosts
from bulkhead.content.proxies import Proxies
from bulkhead.content.trust import Trust


class Options(TypedDict):
    """What aiohttp is told beside the request itself."""

    ssl: ssl.SSLContext | bool
    proxy: URL | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """One installation's ways to registries; `insecure` see hosts.is_insecure."""

    insecure: Collection[str] = ()
    trust: Trust = field(default_factory=Trust)
    proxies: Proxies = field(default_factory=Proxies)

    def is_insecure(self, authority: str) -> bool:
        """Whether a host may be spoken to without TLS, or with any certificate."""
        return hosts.is_insecure(authority, self.insecure)

    def options(self, url: URL, home: str) -> Options:
        """For a request to `url`, sent there by the registry `home` (host[:port]). Raises InvalidArgument."""
        context: ssl.SSLContext | bool = True
        if url.scheme == "https":
            context = self.trust.context(url.authority, home, insecure=self.is_insecure(url.authority))
        return Options(ssl=context, proxy=self.proxies.through(url))
