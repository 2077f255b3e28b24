"""The gRPC face of networks: message in, use-case, message out."""

from __future__ import annotations

from dataclasses import dataclass

from bulkhead.errors import InvalidArgument
from bulkhead.manager.networks.catalogue import Networks
from bulkhead.manager.servicers.containers import filters_of
from bulkhead.model.container import NetworkEndpoint
from bulkhead.model.network import NetworkRecord
from bulkhead.wire.convert import to_message, to_model
from bulkhead.wire.gen.bulkhead.manager import v1 as api


@dataclass(frozen=True, slots=True)
class NetworksServicer(api.NetworksBase):
    """protos/bulkhead/manager/v1/networks.proto."""

    _networks: Networks

    async def create(self, message: api.CreateNetworkRequest) -> api.CreateNetworkResponse:
        if message.network is None:
            raise InvalidArgument("cannot create a network: nothing is said of it")
        made = await self._networks.create(to_model(NetworkRecord, message.network))
        return api.CreateNetworkResponse(id=made.id)

    async def list(self, message: api.ListNetworksRequest) -> api.ListNetworksResponse:
        found = self._networks.select(filters_of(message.filters))
        return api.ListNetworksResponse(networks=[to_message(api.Network, each) for each in found])

    async def inspect(self, message: api.InspectNetworkRequest) -> api.Network:
        network = self._networks.find(message.ref)
        shown = to_message(api.Network, network)
        shown.members = [
            api.NetworkMember(
                container_id=container.id,
                container_name=container.name,
                endpoint_id=endpoint.endpoint_id,
                mac=endpoint.mac,
                address=endpoint.address,
                prefix_len=endpoint.prefix_len,
                address6=endpoint.address6,
                prefix_len6=endpoint.prefix_len6,
            )
            for container, endpoint in self._networks.members(network)
        ]
        return shown

    async def remove(self, message: api.RemoveNetworkRequest) -> api.RemoveNetworkResponse:
        await self._networks.remove(message.ref)
        return api.RemoveNetworkResponse()

    async def prune(self, message: api.PruneNetworksRequest) -> api.PruneNetworksResponse:
        return api.PruneNetworksResponse(names=await self._networks.prune(filters_of(message.filters)))

    async def connect(self, message: api.ConnectNetworkRequest) -> api.ConnectNetworkResponse:
        wish = NetworkEndpoint() if message.endpoint is None else to_model(NetworkEndpoint, message.endpoint)
        await self._networks.connect(message.ref, message.container, wish)
        return api.ConnectNetworkResponse()

    async def disconnect(self, message: api.DisconnectNetworkRequest) -> api.DisconnectNetworkResponse:
        await self._networks.disconnect(message.ref, message.container, force=message.force)
        return api.DisconnectNetworkResponse()
