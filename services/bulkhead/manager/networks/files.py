"""The files that name hosts inside a container: /etc/hosts, /etc/hostname, /etc/resolv.conf.

Pure: contents in, contents out. Formats are hosts(5), hostname(5), resolv.conf(5); contents and
error texts are those of Docker's default bridge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address

from bulkhead.errors import InvalidArgument

OWN_SERVER = "127.0.0.11"  # answered by the container's shim
FALLBACK_SERVERS = ("8.8.8.8", "8.8.4.4")
_LOCAL_LINE = "127.0.0.1\tlocalhost"
_LOCAL_LINES6 = (
    "::1\tlocalhost ip6-localhost ip6-loopback",
    "fe00::\tip6-localnet",
    "ff00::\tip6-mcastprefix",
    "ff02::1\tip6-allnodes",
    "ff02::2\tip6-allrouters",
)
# One word that cannot break out of its line.
_NAME = re.compile(r"[^\s#]+", re.ASCII)
# What Docker takes as a host's own name is anything; a line it must be.
_LINE = re.compile(r"[^\x00-\x1f\x7f]+")


def hostname_file(hostname: str) -> str:
    """/etc/hostname."""
    return f"{_one_line(hostname)}\n"


def hosts_file(
    *,
    hostname: str,
    domainname: str = "",
    addresses: Sequence[str] = (),
    extra_hosts: Iterable[str] = (),
    host_gateway: str | None = None,
    linked: Iterable[tuple[str, str]] = (),
    ipv6: bool = True,
) -> str:
    """/etc/hosts: the local names, `extra_hosts` ("name:address"), `linked` (an address and its
    names), then the container's own addresses.

    Without `ipv6` the local names are IPv4's alone. `host-gateway` as an address stands for `host_gateway`. Raises
    InvalidArgument with Docker's texts.
    """
    local = (_LOCAL_LINE, *_LOCAL_LINES6) if ipv6 else (_LOCAL_LINE,)
    lines = [*local, *(_extra_host(entry, host_gateway) for entry in extra_hosts)]
    lines += [f"{ip_address(address)}\t{' '.join(map(_one_word, known.split()))}" for address, known in linked]
    names = f"{hostname}.{domainname} {hostname}" if domainname else hostname
    lines += [f"{ip_address(address)}\t{_one_line(names)}" for address in addresses]
    return "\n".join(lines) + "\n"


def readdressed(hosts: bytes, alias: str, address: str) -> bytes:
    """/etc/hosts, which its container may have edited, once what it knows as `alias` has another address."""
    line = re.compile(rb"^[^\s#]+\t(?=" + re.escape(alias.encode()) + rb"(?:[ \t\r]|$))", re.MULTILINE)
    return line.sub(f"{ip_address(address)}\t".encode(), hosts)


def resolv_conf(
    host: str,
    *,
    servers: Sequence[str] = (),
    search: Sequence[str] = (),
    options: Sequence[str] = (),
) -> str:
    """/etc/resolv.conf from the host's file, each part replaced when given.

    Servers on the host's loopback cannot be reached from inside: they are left out, and public ones
    stand in when none remain. A search domain of "." alone means none. Raises InvalidArgument.
    """
    kept = _directives(host)
    chosen = [_server(server) for server in servers] or [
        server for server in kept["nameserver"] if not _is_loopback(server)
    ]
    domains = [_one_word(domain) for domain in search] or kept["search"]
    lines = [f"nameserver {server}" for server in chosen or FALLBACK_SERVERS]
    if domains and domains != ["."]:
        lines.append(f"search {' '.join(domains)}")
    if settings := [_one_word(option) for option in options] or kept["options"]:
        lines.append(f"options {' '.join(settings)}")
    return "\n".join(lines) + "\n"


def servers_of(host: str) -> list[str]:
    """Whom the host asks, its own loopback servers included: a shim asks from the host's network."""
    return _directives(host)["nameserver"]


def options_beside_own_server(host: str, chosen: Sequence[str] = ()) -> list[str]:
    """The resolver's options where it asks us: the user's or the host's; names without a dot are asked as they are."""
    options = list(chosen) or _directives(host)["options"]
    return options if any(option.startswith("ndots:") for option in options) else [*options, "ndots:0"]


def keeps_dotless(options: Iterable[str]) -> bool:
    """Whether a name without a dot is for the search domains alone: then nobody else is asked about it, as Docker has
    it where a user or the host set ndots."""
    dots = [option.removeprefix("ndots:") for option in options if option.startswith("ndots:")]
    return bool(dots) and dots[-1] not in ("", "0")


def _directives(text: str) -> dict[str, list[str]]:
    """What a resolv.conf says: every server, the last search list, the last options."""
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in text.splitlines():
        words = line.split()
        if not words or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            found["nameserver"] += words[1:2]
        elif words[0] in ("search", "domain"):
            found["search"] = words[1:]
        elif words[0] == "options":
            found["options"] = words[1:]
    return found


@lru_cache(maxsize=64)
def _is_loopback(server: str) -> bool:
    try:
        return ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return True


def _server(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise InvalidArgument(f"invalid IP address: {text}") from None


def _extra_host(entry: str, host_gateway: str | None) -> str:
    name, separator, address = entry.partition("=" if "=" in entry.partition(":")[0] else ":")
    if not separator or not _NAME.fullmatch(name):
        raise InvalidArgument(f"bad format for add-host: {entry!r}")
    if address == "host-gateway":
        if host_gateway is None:
            raise InvalidArgument("unable to derive the IP value for host-gateway")
        address = host_gateway
    try:
        return f"{ip_address(address.removeprefix('[').removesuffix(']'))}\t{name}"
    except ValueError:
        raise InvalidArgument(f"invalid IP address in add-host: {address!r}") from None


def _one_word(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise InvalidArgument(f"invalid name {text!r}: it must be one word")
    return text


def _one_line(text: str) -> str:
    if not _LINE.fullmatch(text):
        raise InvalidArgument(f"invalid name {text!r}: it must be one line")
    return text
