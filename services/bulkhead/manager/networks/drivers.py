"""All networks behind one face: each is kept by its driver."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.manager.networks.parents import ParentNetworks
from bulkhead.manager.networks.ports import FAMILIES, AddressWish, Survey
from bulkhead.model.network import (
    DEFAULT_NETWORK,
    Endpoint,
    IPInterface,
    IPNetwork,
    LinkPlan,
    Netns,
    Plan,
    PortBinding,
    Reconciled,
)


class DrivenNetwork:
    """`bulkhead.manager.networks.ports.Network`: bridges, and what stands on interfaces of the host."""

    def __init__(self, bridges: BridgeNetwork, parents: ParentNetworks) -> None:
        self._bridges = bridges
        self._parents = parents

    def plan(self, wanted: Plan) -> None:
        if isinstance(wanted, LinkPlan):
            self._parents.plan(wanted)
        else:
            self._bridges.plan(wanted)

    async def forget(self, key: str) -> None:
        await (self._parents if key in self._parents else self._bridges).forget(key)

    async def look(self, name: str, networks: Sequence[IPNetwork]) -> Survey:
        return await self._bridges.look(name, networks)

    def choosing(self) -> AbstractAsyncContextManager[None]:
        return self._bridges.choosing()

    async def ensure(self, network: str = DEFAULT_NETWORK) -> None:
        if network in self._parents:
            await self._parents.ensure(network)
        else:
            await self._bridges.ensure(network)

    async def reconcile(self, live: Iterable[Endpoint]) -> Reconciled:
        live = list(live)
        branches = [endpoint for endpoint in live if endpoint.network in self._parents]
        swept = await self._parents.reconcile(branches)
        mended = await self._bridges.reconcile(endpoint for endpoint in live if endpoint not in branches)
        return mended if not swept else _joined(mended, swept)

    def reserve(
        self,
        container_id: str,
        *,
        routed: Collection[int] = FAMILIES,
        wishes: Sequence[AddressWish] = (),
        mac: str | None = None,
        ports: Sequence[PortBinding] = (),
        name: str | None = None,
    ) -> Endpoint:
        return self._bridges.reserve(container_id, routed=routed, wishes=wishes, mac=mac, ports=ports, name=name)

    async def plug_reserved(
        self, endpoint: Endpoint, *, routed: Collection[int] = FAMILIES, link_local: Sequence[IPInterface] = ()
    ) -> int:
        return await self._bridges.plug_reserved(endpoint, routed=routed, link_local=link_local)

    async def attach(
        self,
        container_id: str,
        netns: Netns,
        *,
        network: str = DEFAULT_NETWORK,
        interface: str = "eth0",
        routed: Collection[int] = FAMILIES,
        wishes: Sequence[AddressWish] = (),
        mac: str | None = None,
        link_local: Sequence[IPInterface] = (),
        ports: Sequence[PortBinding] = (),
        name: str | None = None,
    ) -> Endpoint:
        if network in self._parents:
            return await self._parents.attach(
                container_id,
                netns,
                network=network,
                interface=interface,
                routed=routed,
                wishes=wishes,
                mac=mac,
                link_local=link_local,
            )
        return await self._bridges.attach(
            container_id,
            netns,
            network=network,
            interface=interface,
            routed=routed,
            wishes=wishes,
            mac=mac,
            link_local=link_local,
            ports=ports,
            name=name,
        )

    async def attach_loopback(self, netns: Netns) -> None:
        await self._bridges.attach_loopback(netns)

    async def tune(self, netns: Netns, settings: Mapping[str, str]) -> None:
        await self._bridges.tune(netns, settings)

    async def detach(self, endpoint: Endpoint) -> None:
        await self._of(endpoint).detach(endpoint)

    async def unplug(self, endpoint: Endpoint, netns: Netns) -> None:
        await self._of(endpoint).unplug(endpoint, netns)

    def promise(
        self,
        endpoint: Endpoint,
        *,
        routed: Collection[int] = FAMILIES,
        ports: Sequence[PortBinding] = (),
        held: Collection[PortBinding] = (),
        name: str | None = None,
    ) -> Endpoint:
        if endpoint.network in self._parents:
            return endpoint
        return self._bridges.promise(endpoint, routed=routed, ports=ports, held=held, name=name)

    async def publish(self, endpoints: Sequence[Endpoint]) -> None:
        await self._bridges.publish([each for each in endpoints if each.network not in self._parents])

    async def route(self, netns: Netns, endpoint: Endpoint, families: Collection[int] = FAMILIES) -> None:
        await self._of(endpoint).route(netns, endpoint, families)

    async def clear(self, netns: Netns, kept: Collection[Endpoint]) -> None:
        await self._parents.clear(netns, kept)

    async def watch(self) -> None:
        await self._bridges.watch()

    async def teardown(self) -> None:
        await self._parents.teardown()
        await self._bridges.teardown()

    def close(self) -> None:
        self._bridges.close()

    def _of(self, endpoint: Endpoint) -> BridgeNetwork | ParentNetworks:
        return self._parents if endpoint.network in self._parents else self._bridges


def _joined(mended: Reconciled, swept: Reconciled) -> Reconciled:
    return replace(mended, links_deleted=(*mended.links_deleted, *swept.links_deleted))
