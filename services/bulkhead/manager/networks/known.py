"""Which networks there are: the three that every engine has, and those that users made."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network

from bulkhead.errors import InvalidArgument, NotFound
from bulkhead.model.instance import Instance
from bulkhead.model.network import AddressBlock, NetworkRecord

PREDEFINED = ("bridge", "host", "none")
_DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}


def network_id(name: str) -> str:
    """The id of a predefined network: the same for ever, on every instance."""
    return hashlib.sha256(f"bulkhead network {name}".encode()).hexdigest()


class KnownNetworks:
    """The networks of an instance, found as Docker finds them."""

    def __init__(self, instance: Instance, records: Mapping[str, NetworkRecord]) -> None:
        self._predefined = {network_id(name): _predefined(instance, name) for name in PREDEFINED}
        self._records = records

    def __iter__(self) -> Iterator[NetworkRecord]:
        yield from self._predefined.values()
        yield from tuple(self._records.values())

    def find(self, ref: str) -> NetworkRecord:
        """By id, then by name, then by unique prefix of an id. Raises NotFound, InvalidArgument."""
        name = "bridge" if ref in ("", "default") else ref
        exact = self._predefined.get(name) or self._records.get(name)
        if exact is not None:
            return exact
        known = list(self)
        for found in known:
            if found.name == name:
                return found
        candidates = [found for found in known if found.id.startswith(name)]
        if len(candidates) > 1:
            raise InvalidArgument(f"network {ref} is ambiguous ({len(candidates)} matches found based on ID prefix)")
        if not candidates:
            raise NotFound(f"network {ref} not found")
        return candidates[0]

    def is_users(self, network: NetworkRecord) -> bool:
        """Whether a user made it: only there do names resolve."""
        return network.id not in self._predefined


def _predefined(instance: Instance, name: str) -> NetworkRecord:
    if name != "bridge":
        return NetworkRecord(id=network_id(name), name=name, driver=_DRIVERS[name])
    subnet = IPv4Network(instance.subnet)
    options = {
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": "true",
        "com.docker.network.bridge.enable_ip_masquerade": "true",
        "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
        "com.docker.network.bridge.name": instance.bridge,
        "com.docker.network.driver.mtu": "1500",
    }
    blocks = [AddressBlock(subnet=str(subnet), gateway=str(subnet[1]))]
    if instance.subnet6:
        subnet6 = IPv6Network(instance.subnet6)
        blocks.append(AddressBlock(subnet=str(subnet6), gateway=str(subnet6[1])))
    return NetworkRecord(
        id=network_id(name),
        name=name,
        enable_ipv6=bool(instance.subnet6),
        blocks=tuple(blocks),
        options=options,
    )
