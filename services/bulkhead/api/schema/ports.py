"""Exposed and published ports: `80`, `80/tcp`, `8000-8010/udp`, and the map that inspect shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bulkhead.api.schema import hostconfig as wire
from bulkhead.errors import InvalidArgument
from bulkhead.model.container import NetworkEndpoint, PublishedPort

_PORT = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?(?:/([A-Za-z]+))?")
_PROTOCOLS = frozenset(("tcp", "udp", "sctp"))


def parse_port(text: str) -> tuple[range, str]:
    """The ports and the protocol that `text` names."""
    match = _PORT.fullmatch(text)
    first = int(match[1]) if match else 0
    last = int(match[2] or first) if match else 0
    protocol = (match[3] or "tcp").lower() if match else ""
    if protocol not in _PROTOCOLS or not first <= last <= 65535:
        raise InvalidArgument(f'invalid port specification: "{text}"')
    return range(first, last + 1), protocol


def parse_exposed(texts: Iterable[str]) -> tuple[str, ...]:
    """`80` becomes `80/tcp`; ranges are kept apart, port by port."""
    found = [f"{port}/{protocol}" for ports, protocol in map(parse_port, texts) for port in ports]
    return tuple(dict.fromkeys(found))


def parse_bindings(bindings: Mapping[str, Sequence[wire.PortBinding] | None]) -> tuple[PublishedPort, ...]:
    """HostConfig.PortBindings. A range of host ports for one container port gives the first of them that is free."""
    published = []
    for text, wanted in bindings.items():
        ports, protocol = parse_port(text)
        # An entry without bindings publishes on a port of the host's choice.
        for binding in wanted or (wire.PortBinding(),):
            host = _host_ports(binding.HostPort or "")
            for port, candidates in zip(ports, _shared_out(host, ports, text), strict=True):
                published.append(
                    PublishedPort(
                        container_port=port,
                        protocol=protocol,
                        host_ip=binding.HostIp or "",
                        host_port=candidates.start if candidates else 0,
                        host_port_end=candidates[-1] if len(candidates) > 1 else 0,
                    )
                )
    return tuple(published)


def _shared_out(host: range, ports: range, text: str) -> list[range]:
    """Which host ports each container port may get. Raises InvalidArgument when the numbers do not fit."""
    if len(ports) == 1 or not host:
        return [host] * len(ports)
    if len(host) != len(ports):
        raise InvalidArgument(f"invalid ranges specified for container and host Ports: {text} and {_span(host)}")
    return [range(port, port + 1) for port in host]


def _span(ports: range) -> str:
    return f"{ports.start}-{ports[-1]}" if len(ports) > 1 else str(ports.start)


def _host_ports(text: str) -> range:
    if not text:
        return range(0)
    try:
        ports, _ = parse_port(text)
        return ports if ports.start else range(0)
    except InvalidArgument:
        raise InvalidArgument(f'invalid port specification: "{text}"') from None


def port_map(endpoints: Iterable[NetworkEndpoint], exposed: Iterable[str], running: bool) -> dict[str, Any]:
    """NetworkSettings.Ports: every exposed port, null where it is not published; empty when it does not run."""
    if not running:
        return {}
    shown: dict[str, Any] = dict.fromkeys(exposed)
    for port in (port for endpoint in endpoints for port in endpoint.ports):
        key = f"{port.container_port}/{port.protocol}"
        binding = {"HostIp": port.host_ip or "0.0.0.0", "HostPort": str(port.host_port or "")}
        shown[key] = [*(shown.get(key) or ()), binding]
    return shown


def port_list(endpoints: Iterable[NetworkEndpoint], exposed: Iterable[str]) -> list[dict[str, Any]]:
    """The `Ports` of a list item: what is published, then what is only exposed."""
    published = [port for endpoint in endpoints for port in endpoint.ports if port.host_port]
    named = {f"{port.container_port}/{port.protocol}" for port in published}
    shown = [
        {
            "IP": port.host_ip or "0.0.0.0",
            "PrivatePort": port.container_port,
            "PublicPort": port.host_port,
            "Type": port.protocol,
        }
        for port in published
    ]
    for text in exposed:
        ports, protocol = parse_port(text)
        shown += [{"PrivatePort": port, "Type": protocol} for port in ports if f"{port}/{protocol}" not in named]
    return shown
