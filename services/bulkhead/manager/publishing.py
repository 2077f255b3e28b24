"""Which ports of a container are published by which of its networks."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from bulkhead.model.container import ContainerSpec, PublishedPort
from bulkhead.model.filters import port_range
from bulkhead.model.network import ANY6, Endpoint, PortBinding

# A port of the container, its protocol, an address of the host.
_Key = tuple[int, str, str]


def to_publish(
    spec: ContainerSpec, ways: Collection[int], routed: Collection[int], others: Iterable[Endpoint]
) -> list[PortBinding]:
    """The ports for a network that leads `routed` families out, of those in `ways` that the container has a way for.

    A port of an address that the host answers for one of its other networks stays there, and one whose family leads out
    by another is published there.
    """
    if not routed:
        return []
    held = {_key_of(each) for end in others for each in end.ports}
    return [each for each in _bindings(spec) if _is_wanted(each, ways, routed, held)]


def as_before(wanted: Iterable[PortBinding], held: Iterable[PortBinding]) -> list[PortBinding]:
    """The same with the host ports that they were given last, where more than one would do."""
    wanted = list(wanted)
    named = {_key_of(each) for each in wanted if each.host_ip}
    fixed = {(each.protocol, each.host_port) for each in wanted if len(each.candidates) == 1}
    given: dict[_Key, dict[int, None]] = {}
    for each in held:
        if (each.protocol, each.host_port) not in fixed:
            asked = _key_of(each) if _key_of(each) in named else _key_of(replace(each, host_ip=""))
            given.setdefault(asked, {})[each.host_port] = None
    return [_as_before(each, given.get(_key_of(each), {})) for each in wanted]


def _as_before(asked: PortBinding, given: dict[int, None]) -> PortBinding:
    if len(asked.candidates) == 1:
        return asked
    port = next((each for each in given if not asked.candidates or each in asked.candidates), None)
    if not port:
        return asked
    del given[port]
    return replace(asked, host_port=port, host_port_end=0)


def _is_wanted(port: PortBinding, ways: Collection[int], routed: Collection[int], held: Collection[_Key]) -> bool:
    if port.host_ip:
        return (port.version in routed or port.version not in ways) and _key_of(port) not in held
    # IPv6's comes in by another network's IPv4, carried over by hand.
    return 4 in routed or _key_of(replace(port, host_ip=ANY6)) not in held


def _key_of(port: PortBinding) -> _Key:
    return port.container_port, port.protocol, port.host_ip


def _bindings(spec: ContainerSpec) -> list[PortBinding]:
    bindings = [
        PortBinding(
            container_port=port.container_port,
            protocol=port.protocol or "tcp",
            host_ip=port.host_ip,
            host_port=port.host_port,
            host_port_end=port.host_port_end,
        )
        for port in spec.ports
    ]
    if spec.publish_all_ports:
        named = {(each.protocol, each.container_port) for each in bindings}
        for text in spec.exposed_ports:
            protocol, first, last = port_range(text)
            missing = [port for port in range(first, last + 1) if (protocol, port) not in named]
            bindings += [PortBinding(container_port=port, protocol=protocol) for port in missing]
    return bindings


def published(binding: PortBinding) -> PublishedPort:
    """The same as users are shown it."""
    return PublishedPort(
        container_port=binding.container_port,
        protocol=binding.protocol,
        host_ip=binding.host_ip,
        host_port=binding.host_port,
    )
