"""Which hosts a registry client may talk to, and how."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

from yarl import URL

from bulkhead.errors import InvalidArgument
from bulkhead.model.reference import DEFAULT_DOMAIN

# Docker Hub's API lives on another host than the one that its images are named by.
HUB_API = "registry-1.docker.io"
_METADATA_NAMES = frozenset({"metadata.google.internal", "metadata"})


def api_host(domain: str) -> str:
    """`host[:port]` that serves the images of `domain`."""
    return HUB_API if domain == DEFAULT_DOMAIN else domain


def is_loopback(host: str) -> bool:
    """Whether `host` (no port) is this machine's loopback: Docker takes such registries as insecure."""
    if host == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def is_insecure(authority: str, insecure: Collection[str]) -> bool:
    """Whether `host[:port]` may be spoken to without TLS, or with a certificate that nobody vouches for.

    `insecure` holds hosts, host:port pairs and networks in CIDR form; loopback always is.
    """
    host = split_authority(authority)[0]
    if authority in insecure or host in insecure or is_loopback(host):
        return True
    address = _address(host)
    return address is not None and any(address in network for network in _networks(insecure))


def split_authority(authority: str) -> tuple[str, int | None]:
    """(host without brackets, port or None) of `host[:port]`; raises InvalidArgument."""
    try:
        url = URL(f"//{authority}")
    except ValueError as error:
        raise InvalidArgument(f"cannot use registry {authority!r}: {error}") from error
    if not url.host:
        raise InvalidArgument(f"cannot use registry {authority!r}: no host")
    return url.host, url.explicit_port


def check_destination(url: URL, insecure: Collection[str]) -> None:
    """Refuse where no registry may send us: no http(s), credentials in it, plain http, link-local addresses.

    Raises InvalidArgument. Battery H12: redirects, upload locations and token realms come from outside.
    """
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidArgument(f"cannot follow registry to {url.scheme or 'no'} URL")
    if url.user is not None or url.password is not None:
        raise InvalidArgument(f"cannot follow registry to {url.host}: credentials in URL")
    address = _address(url.host)
    if url.host in _METADATA_NAMES or (address is not None and (address.is_link_local or address.is_multicast)):
        raise InvalidArgument(f"cannot follow registry to {url.host}: link-local address")
    if url.scheme == "http" and not is_insecure(url.authority, insecure):
        raise InvalidArgument(f"cannot follow registry to {url.host}: plain http")


def same_origin(one: URL, other: URL) -> bool:
    """Whether two URLs are of one scheme, host and port."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _networks(insecure: Collection[str]) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    found = []
    for text in insecure:
        if "/" in text:
            try:
                found.append(ipaddress.ip_network(text, strict=False))
            except ValueError as error:
                raise InvalidArgument(f"cannot use insecure registry {text!r}: {error}") from error
    return found
