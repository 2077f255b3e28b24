"""Requests that a web page made a browser send: refused before anything is looked up.

A page can name this daemon's port on the loopback, or have a name of its own resolve to it (DNS rebinding). It
cannot keep the browser from telling where the page came from, nor choose the Host that is sent for that name. No
client of the Engine API sends an Origin of somebody else.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from aiohttp import web

from bulkhead.api.plain import Headers, PlainRequest
from bulkhead.errors import Forbidden

_PORT = re.compile(r":[0-9]{1,5}$")
_TELLING = frozenset(("sec-fetch-site", "origin", "referer"))
_FOREIGN_FETCHES = frozenset(("cross-site", "same-site"))


class Admission:
    """What is asked of each request; `names` are the daemon's own besides `localhost` and addresses.

    `remote`: they come over TCP.
    """

    def __init__(self, names: Iterable[str] = (), *, remote: bool = False) -> None:
        self._remote = remote
        self._names = frozenset(name.lower() for name in ("localhost", *names))

    def check(self, request: web.BaseRequest | PlainRequest) -> None:
        """Raise Forbidden for a request of a foreign page, or over TCP for a Host that is not ours."""
        headers = request.headers
        if not self._remote and isinstance(headers, Headers) and _TELLING.isdisjoint(headers):
            return  # as nearly all
        if headers.get("Sec-Fetch-Site", "").lower() in _FOREIGN_FETCHES:
            raise Forbidden("request refused: it comes from another site")
        if self._remote or "Origin" in headers or "Referer" in headers:
            self._check_names(headers)

    def _check_names(self, headers: Mapping[str, str]) -> None:
        host = _name(headers.get("Host", ""))
        for header in ("Origin", "Referer"):
            told = headers.get(header)
            if told is not None and _name(_authority(told)) != host:
                raise Forbidden(f"request refused: its {header} is not this engine")
        if self._remote and not self._ours(host):
            raise Forbidden(f"request refused: this engine is not called {host!r} (name it in [api] hosts)")

    def _ours(self, host: str) -> bool:
        if host in self._names:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return any(name.startswith("*.") and host.partition(".")[2] == name[2:] for name in self._names)
        return True  # an address cannot be rebound


def _name(authority: str) -> str:
    return _PORT.sub("", authority).strip("[]").lower()


def _authority(url: str) -> str:
    try:
        return urlsplit(url).netloc or "null"
    except ValueError:
        return "null"
