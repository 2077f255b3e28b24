"""Links between containers on the default bridge (`--link`): who is linked, and what a container is told of them.

A container is told of another by variables and a line in /etc/hosts when it starts. Networks of users know aliases
instead: there a link is a matter of names alone (networks/catalogue.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from bulkhead.errors import Internal, InvalidArgument, NotFound
from bulkhead.manager.index import Index
from bulkhead.model.container import Container, ContainerSpec
from bulkhead.model.filters import port_range

BRIDGE = "bridge"
_PLAIN_MODES = frozenset(("", "default", "none", BRIDGE))
_HOST_CHILD = (
    "conflicting options: host type networking can't be used with links. This would result in undefined behavior"
)
# Of every container: they say nothing about the linked one.
_NOT_TOLD = frozenset(("HOME", "PATH"))
Port = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A container as another one knows it."""

    child: Container
    alias: str


def resolve(spec: ContainerSpec, index: Index) -> tuple[str, ...]:
    """The links of a new container with ids in place of names. Raises InvalidArgument with Docker's texts."""
    if spec.network_mode not in _PLAIN_MODES:
        return ()
    return tuple(f"{_child(name, index).id}:{alias}" for name, alias in map(_parse, spec.links))


def of(container: Container, index: Index) -> list[Link]:
    """The container's links to those that are still there."""
    pairs = (text.split(":", 1) for text in container.spec.links)
    return [Link(child=index.get(child), alias=alias) for child, alias in pairs if index.knows(child)]


def shown(container: Container, index: Index) -> list[str]:
    """As inspect has them: `/child:/parent/alias`."""
    return [f"/{link.child.name}:/{container.name}/{link.alias}" for link in of(container, index)]


def names(index: Index) -> dict[str, list[str]]:
    """What links call containers, by their ids: `parent/alias`."""
    found: dict[str, list[str]] = {}
    for parent in index:
        for text in parent.spec.links:
            child, alias = text.split(":", 1)
            found.setdefault(child, []).append(f"{parent.name}/{alias}")
    return found


def parents(child: Container, index: Index) -> list[tuple[Container, str]]:
    """Who runs and knows a container by a link, and by which alias."""
    return [
        (parent, text.split(":", 1)[1])
        for parent in index.linkers(child.id)
        if parent.phase.alive
        for text in parent.spec.links
        if text.startswith(f"{child.id}:")
    ]


def without(container: Container, alias: str) -> tuple[str, ...] | None:
    """The container's links but that one; None when there is no such link."""
    kept = tuple(text for text in container.spec.links if text.split(":", 1)[1] != alias)
    return kept if len(kept) < len(container.spec.links) else None


def hosts(container: Container, index: Index) -> list[tuple[str, str]]:
    """Lines for /etc/hosts: an address, and the names by which the container knows it."""
    found = []
    for link in of(container, index):
        names = [link.alias, link.child.spec.hostname or link.child.id[:12], link.child.name]
        if address := _address(link.child):
            found.append((address, " ".join(dict.fromkeys(names))))
    return found


def environment(container: Container, index: Index) -> list[str]:
    """The variables of the container's links; none when it is not on the default bridge.

    Raises Internal with Docker's texts for a linked container that does not run there.
    """
    if not any(each.network_name == BRIDGE for each in container.endpoints):
        return []
    found: list[str] = []
    for link in of(container, index):
        if not link.child.phase.alive:
            raise Internal(
                f"Cannot link to a non running container: /{link.child.name} AS /{container.name}/{link.alias}"
            )
        address = _address(link.child)
        if not address:
            raise Internal(f"container {link.child.id} not attached to default bridge network")
        found += _variables(container, link, address)
    return found


def _parse(text: str) -> tuple[str, str]:
    if not text:
        raise InvalidArgument("empty string specified for links")
    name, separator, alias = text.partition(":")
    if ":" in alias or not name:
        raise InvalidArgument(f"bad format for links: {text}")
    if name.startswith("/"):  # as inspect shows it
        alias = alias.rpartition("/")[2]
    return name, alias if separator else name.removeprefix("/")


def _child(name: str, index: Index) -> Container:
    try:
        child = index.find(name)
        while child.spec.network_mode.startswith("container:"):
            child = index.find(child.spec.network_mode.removeprefix("container:"))
    except NotFound as error:
        raise InvalidArgument(f"could not get container for {name}: {error}") from error
    if child.spec.network_mode == "host":
        raise InvalidArgument(_HOST_CHILD)
    return child


def _address(child: Container) -> str:
    return next((each.address for each in child.endpoints if each.network_name == BRIDGE and child.phase.alive), "")


def _variables(container: Container, link: Link, address: str) -> Iterator[str]:
    prefix = link.alias.upper().replace("-", "_")
    ports = _ports(link.child.spec.exposed_ports)
    if ports:
        protocol, number = ports[0]
        yield f"{prefix}_PORT={protocol}://{address}:{number}"
    for first, last in _runs(ports):
        yield from _run_variables(prefix, address, first, last)
    for protocol, number in ports:
        yield f"{prefix}_PORT_{number}_{protocol.upper()}={protocol}://{address}:{number}"
        yield f"{prefix}_PORT_{number}_{protocol.upper()}_ADDR={address}"
        yield f"{prefix}_PORT_{number}_{protocol.upper()}_PORT={number}"
        yield f"{prefix}_PORT_{number}_{protocol.upper()}_PROTO={protocol}"
    yield f"{prefix}_NAME=/{container.name}/{link.alias}"
    for entry in link.child.spec.env:
        name, separator, value = entry.partition("=")
        if separator and name not in _NOT_TOLD:
            yield f"{prefix}_ENV_{name}={value}"


def _run_variables(prefix: str, address: str, first: Port, last: Port) -> Iterator[str]:
    """Of ports that follow each other."""
    protocol, number = first
    name = f"{prefix}_PORT_{number}_{protocol.upper()}"
    yield f"{name}_START={protocol}://{address}:{number}"
    yield f"{name}_ADDR={address}"
    yield f"{name}_PROTO={protocol}"
    yield f"{name}_PORT_START={number}"
    yield f"{name}_END={last[0]}://{address}:{last[1]}"
    yield f"{name}_PORT_END={last[1]}"


def _ports(exposed: Sequence[str]) -> list[Port]:
    """By number, TCP before others on one number."""
    found = {(protocol, port) for text in exposed for protocol, port in _each(text)}
    return sorted(found, key=lambda port: (port[1], port[0] != "tcp", port[0]))


def _each(text: str) -> Iterator[Port]:
    protocol, first, last = port_range(text)
    return ((protocol, port) for port in range(first, last + 1))


def _runs(ports: Sequence[Port]) -> Iterator[tuple[Port, Port]]:
    """First and last of each two or more ports of one protocol in a row."""
    for protocol in dict.fromkeys(protocol for protocol, _ in ports):
        numbers = sorted(number for each, number in ports if each == protocol)
        for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
            run = [number for _, number in group]
            if len(run) > 1:
                yield (protocol, run[0]), (protocol, run[-1])
