"""What DNS in containers answers from: a file for each network of a user, read by the shims of its containers.

    <run>/names/<network id>   {"name": ..., "hosts": [{"container": id, "names": [...], "address": ...,
                                                "address6": ...}]}
    <run>/names/<container id> {"networks": [ids], "servers": [...], "links": {alias: name}, "internal": bool,
                                "inside": bool, "dotless": bool, "follow": path}

Each is replaced by rename, so that a reader sees a whole one, and names resolve while the manager is away.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bulkhead.content.durable import disk_errors
from bulkhead.linux import atomicfile

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedHost:
    """A container on a network and what it is called there."""

    container: str
    names: tuple[str, ...]
    address: str
    address6: str = ""


class NameFiles:
    """The files below one directory. Every method blocks, for microseconds: the directory is a tmpfs's."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._hosts: dict[str, dict[str, NamedHost]] = {}
        self._called: dict[str, str] = {}

    def begin(
        self, networks: Mapping[str, str], hosts: Iterable[tuple[str, NamedHost]], alive: Iterable[str] = ()
    ) -> None:
        """Start from the records: names of networks by id, and (network id, host).

        Files of others are removed, but for those of containers that are `alive`: one that has left its last network
        still asks its shim about the rest of the world.
        """
        self._called = dict(networks)
        self._hosts = {network: {} for network in networks}
        for network, host in hosts:
            self._hosts.setdefault(network, {})[host.container] = host
        with disk_errors("write the names of networks"):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            present = {place.name for place in self._directory.iterdir()}
        members = {container for hosts_of in self._hosts.values() for container in hosts_of}
        for name in present - set(self._hosts) - members - set(alive):
            self._remove(name)
        for network in self._hosts:
            self._write(network)

    def add_network(self, network: str, name: str) -> None:
        """An empty network."""
        self._called[network] = name
        self._hosts.setdefault(network, {})
        self._write(network)

    def remove_network(self, network: str) -> None:
        self._called.pop(network, None)
        self._hosts.pop(network, None)
        self._remove(network)

    def enter(self, network: str, host: NamedHost) -> None:
        """The container is on the network, from now on or under other names."""
        self._hosts.setdefault(network, {})[host.container] = host
        self._write(network)

    def leave(self, network: str, container: str) -> None:
        if self._hosts.get(network, {}).pop(container, None) is not None:
            self._write(network)

    def describe(
        self,
        container: str,
        *,
        networks: Sequence[str],
        servers: Sequence[str],
        links: Mapping[str, str],
        internal: bool,
        inside: bool = False,
        dotless: bool = True,
        follow: str = "",
    ) -> None:
        """Tell the container's shim where to look, and whom to ask about the rest of the world.

        With `inside` the servers are asked from the container's own network, else from the host's; `dotless` says
        whether about names without a dot, too; `follow` is a resolv.conf whose servers are asked instead as it changes.
        """
        content = {"networks": list(networks), "servers": list(servers), "links": dict(links)}
        asking = {"internal": internal, "inside": inside, "dotless": dotless, "follow": follow}
        self._replace(container, _encode({**content, **asking}))

    def describes(self, container: str) -> bool:
        """Whether the container's shim has been told anything."""
        return os.path.exists(f"{self._directory}/{container}")  # noqa: PTH110 -- on the way of each exit

    def forget(self, container: str) -> None:
        """The container does not run any more."""
        self._remove(container)

    def _write(self, network: str) -> None:
        hosts = [
            {
                "container": host.container,
                "names": list(host.names),
                "address": host.address,
                "address6": host.address6,
            }
            for host in self._hosts[network].values()
        ]
        self._replace(network, _encode({"name": self._called.get(network, ""), "hosts": hosts}))

    def _replace(self, name: str, content: bytes) -> None:
        with disk_errors("write the names of networks"):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            atomicfile.write(self._directory / name, content, durable=False)

    def _remove(self, name: str) -> None:
        with disk_errors("remove the names of networks"):
            atomicfile.remove(self._directory / name, durable=False)
