"""The manager's networks in memory, over gRPC: the predefined ones, and what a client makes."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from bulkhead import errors
from bulkhead.manager.networks.known import KnownNetworks
from bulkhead.model.instance import Instance
from bulkhead.model.network import NetworkRecord
from bulkhead.wire.convert import to_message, to_model
from bulkhead.wire.gen.bulkhead.manager import v1 as wire


class FakeNetworks(wire.NetworksBase):
    """Networks without bridges. `members` tells who runs on the default one."""

    def __init__(self, instance: Instance, members: Callable[[], Sequence[wire.NetworkMember]]) -> None:
        self._made: dict[str, NetworkRecord] = {}
        self._known = KnownNetworks(instance, self._made)
        self._members = members

    async def create(self, message: wire.CreateNetworkRequest) -> wire.CreateNetworkResponse:
        assert message.network is not None
        network = to_model(NetworkRecord, message.network)
        made = NetworkRecord(id=secrets.token_hex(32), name=network.name, created_at=1)
        self._made[made.id] = made
        return wire.CreateNetworkResponse(id=made.id)

    async def list(self, message: wire.ListNetworksRequest) -> wire.ListNetworksResponse:
        wanted = {key: values.items for key, values in message.filters.items()}
        found = [each for each in self._known if all(self._passes(each, *item) for item in wanted.items())]
        return wire.ListNetworksResponse(networks=[to_message(wire.Network, each) for each in found])

    def _passes(self, network: NetworkRecord, key: str, values: Sequence[str]) -> bool:
        kind = "custom" if network.id in self._made else "builtin"
        facts = {"name": network.name, "id": network.id, "driver": network.driver, "scope": "local", "type": kind}
        return any(value in facts.get(key, "") for value in values)

    async def inspect(self, message: wire.InspectNetworkRequest) -> wire.Network:
        found = self._known.find(message.ref)
        shown = to_message(wire.Network, found)
        shown.members = [*self._members()] if found.name == "bridge" else []
        return shown

    async def remove(self, message: wire.RemoveNetworkRequest) -> wire.RemoveNetworkResponse:
        found = self._known.find(message.ref)
        if found.id not in self._made:
            raise errors.Forbidden(f"{found.name} is a pre-defined network and cannot be removed")
        del self._made[found.id]
        return wire.RemoveNetworkResponse()

    async def prune(self, message: wire.PruneNetworksRequest) -> wire.PruneNetworksResponse:
        names = [each.name for each in self._made.values()]
        self._made.clear()
        return wire.PruneNetworksResponse(names=names)
