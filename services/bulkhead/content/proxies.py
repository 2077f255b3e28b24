"""Which proxy a request goes through, by the rules of curl and Go: `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from yarl import URL

from bulkhead.content import hosts
from bulkhead.errors import InvalidArgument

_SCHEMES = ("http", "https")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxies:
    """Proxies by the scheme of what is asked for; loopback is never asked through one."""

    http: str = field(default="", repr=False)
    https: str = field(default="", repr=False)
    exempt: tuple[str, ...] = ()
    """Hosts (subdomains included), addresses, networks, each perhaps with a port; `*` is everything."""

    def __post_init__(self) -> None:
        for text in (self.http, self.https):
            if text:
                _proxy_url(text)

    @staticmethod
    def of(environ: Mapping[str, str] = os.environ) -> Proxies:
        """What the environment says; the lower-case names win, as with curl. Raises InvalidArgument."""
        http, https, exempt = (environ.get(name) or environ.get(name.upper(), "") for name in _VARIABLES)
        return Proxies(http=http, https=https, exempt=no_proxy(exempt))

    def through(self, url: URL) -> URL | None:
        """The proxy for `url`, None when it is asked directly."""
        text = self.https if url.scheme == "https" else self.http
        host = url.host or ""
        if not text or hosts.is_loopback(host) or any(_matches(rule, host, url.port) for rule in self.exempt):
            return None
        return _proxy_url(text)


_VARIABLES = ("http_proxy", "https_proxy", "no_proxy")


def no_proxy(text: str) -> tuple[str, ...]:
    """The rules in a comma-separated list."""
    return tuple(rule for rule in (part.strip().lower() for part in text.split(",")) if rule)


def without_password(proxy: str) -> str:
    """A proxy as users are shown it."""
    if not proxy or _proxy_url(proxy).user is None:
        return proxy
    return str(_proxy_url(proxy).with_user("xxxxx").with_password("xxxxx"))


def _proxy_url(text: str) -> URL:
    try:
        url = URL(text if "://" in text else f"http://{text}")
    except ValueError:
        url = URL()
    if url.scheme not in _SCHEMES or not url.host:
        # Not quoted whole: it may hold a password.
        raise InvalidArgument(f"cannot use proxy {url.host or text.rpartition('@')[2]!r}: it is no http(s) URL")
    return url


def _matches(rule: str, host: str, port: int | None) -> bool:
    if rule == "*":
        return True
    if "/" in rule:
        return _in_network(rule, host)
    name, separator, wanted_port = rule.rpartition(":")
    if not separator or not wanted_port.isdigit() or name.count(":"):
        name, wanted_port = rule, ""
    if wanted_port and wanted_port != str(port):
        return False
    name = name.removeprefix("*").strip("[]")
    suffix = name if name.startswith(".") else f".{name}"
    return host == name or (host.endswith(suffix) and _address(host) is None)


def _in_network(rule: str, host: str) -> bool:
    address = _address(host)
    try:
        return address is not None and address in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
