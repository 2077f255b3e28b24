"""Plugging containers in and out of networks, and what users are shown of it.

The network may be away (no libnftables, a clashing subnet): containers that need none start all the same, the others
are refused with the reason, and the next one tries again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial

import structlog

from bulkhead import failpoints
from bulkhead.errors import BulkheadError, InvalidArgument
from bulkhead.manager.index import Index
from bulkhead.manager.networks.blocks import version_of
from bulkhead.manager.networks.known import KnownNetworks
from bulkhead.manager.networks.names import NamedHost, NameFiles
from bulkhead.manager.networks.plans import plan_of
from bulkhead.manager.networks.ports import FAMILIES, AddressWish, Network, Survey
from bulkhead.manager.networks.settings import of_interfaces
from bulkhead.manager.publishing import as_before, published, to_publish
from bulkhead.manager.sharing import may_have_links
from bulkhead.model.container import Container, NetworkEndpoint
from bulkhead.model.ids import short
from bulkhead.model.network import (
    DEFAULT_NETWORK,
    Endpoint,
    IPInterface,
    IPNetwork,
    Netns,
    NetworkRecord,
    ProcessNetns,
    parse_link_local,
)
from bulkhead.model.replacing import replace

log = structlog.get_logger()
_DEFAULT_NAMES = ("bridge", "default", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugged:
    """What a container got: for its users, and for whoever unplugs it."""

    endpoints: tuple[NetworkEndpoint, ...] = ()
    attachments: tuple[Endpoint, ...] = ()


class Networking:
    """The manager's side of networks."""

    def __init__(self, network: Network, index: Index, known: KnownNetworks, names: NameFiles) -> None:
        self.known = known
        self.names = names
        self._network = network
        self._index = index
        self._up = False
        self._trouble = ""
        self._raising = asyncio.Lock()

    @property
    def trouble(self) -> str:
        """Why the network is away, or nothing."""
        return self._trouble

    async def recover(self) -> None:
        """Bring up the networks with what the records say is alive; a network that is away is only noted.

        Before anything is started, so that no address or port is given away twice.
        """
        users = [network for network in self.known if self.known.is_users(network)]
        for network in users:
            self._network.plan(plan_of(network))
        alive = [each.id for each in self._index if each.phase.alive]
        self.names.begin({network.id: network.name for network in users}, self._named(), alive)
        try:
            await self._ensure()
        except BulkheadError as error:
            log.warning("the network is not available", reason=str(error))

    async def watch(self) -> None:
        """Until cancelled: mend what others break."""
        while True:
            if self._up:
                try:
                    await self._network.watch()
                except BulkheadError as error:
                    log.warning("cannot watch the network", reason=str(error))
            await asyncio.sleep(5)

    # ---- networks ----

    async def look(self, name: str, networks: Sequence[IPNetwork]) -> Survey:
        return await self._network.look(name, networks)

    def choosing(self) -> AbstractAsyncContextManager[None]:
        return self._network.choosing()

    async def add(self, network: NetworkRecord) -> None:
        """Make a new network in the kernel, or leave nothing of it. Raises Conflict, Unavailable, Internal."""
        self._network.plan(plan_of(network))
        try:
            await self._ensure()
            await self._network.ensure(network.id)
            self.names.add_network(network.id, network.name)
        except BaseException:
            await self._network.forget(network.id)
            raise

    async def drop(self, network: NetworkRecord) -> None:
        """Take a network that nobody is on out of the kernel."""
        await self._network.forget(network.id)
        self.names.remove_network(network.id)

    async def restore(self, network: NetworkRecord) -> None:
        """What was dropped but stays on record is planned again; if it cannot be made now, as after a start."""
        self._network.plan(plan_of(network))
        try:
            self.names.add_network(network.id, network.name)
            await self._ensure()
            await self._network.ensure(network.id)
        except BulkheadError as error:
            log.warning("a network cannot be made again", network=network.id, reason=str(error))

    # ---- containers ----

    def plugs_ahead(self, container: Container) -> bool:
        """Whether the container can be plugged in before it is there: it is on the default network, and there alone.

        Who is remapped needs a namespace that its own user namespace owns; on others it asks its shim for names.
        """
        return (
            may_have_links(container)
            and container.remapping is None
            and len(container.endpoints) == 1
            and container.endpoints[0].network_name in _DEFAULT_NAMES
        )

    async def reserve(self, container: Container) -> Plugged:
        """What a container that `plugs_ahead` will get, so far in the books alone: `plug_reserved` is next, or
        `unplug`. Raises as `plug` does."""
        await self._ensure()
        (wish,) = container.endpoints
        ways, routed = self._ways(wish)
        endpoint = self._network.reserve(
            container.id,
            routed=routed,
            wishes=_address_wishes(wish),
            mac=wish.fixed_mac or None,
            ports=to_publish(container.spec, ways, routed, ()),
            name=container.name,
        )
        return Plugged(endpoints=(self._shown(wish, endpoint),), attachments=(endpoint,))

    async def plug_reserved(self, container: Container, reserved: Plugged) -> int:
        """Make it, in a new network namespace: a descriptor of that, the caller's. Raises as `plug` does."""
        (wish,), (endpoint,) = container.endpoints, reserved.attachments
        _, routed = self._ways(wish)
        link_local = _link_locals(wish, self.known.find(wish.network_id or wish.network_name))
        return await self._network.plug_reserved(endpoint, routed=routed, link_local=link_local)

    def _ways(self, wish: NetworkEndpoint) -> tuple[Collection[int], Sequence[int]]:
        """Of who is on one network alone."""
        ways = gateways_of([(wish, self.known.find(wish.network_id or wish.network_name))])
        return ways, _through(ways, 0)

    async def plug(self, container: Container, netns: Netns) -> Plugged:
        """Connect a container that does not run yet to its networks, or to none of them, and set up its interfaces.

        Raises what `Network` does, and NotFound.
        """
        if not may_have_links(container):
            return Plugged(endpoints=tuple(self._shown(wish) for wish in container.endpoints))
        wishes = [(wish, self.known.find(wish.network_id or wish.network_name)) for wish in container.endpoints]
        await self._ensure()
        ways = gateways_of(wishes)
        done = Plugged()
        try:
            for number, (wish, network) in enumerate(wishes):
                done = await self._plug_one(
                    container, netns, done, wish, network, number, ways, routed=_through(ways, number)
                )
            if settings := of_interfaces(container.spec.sysctls):
                await self._network.tune(netns, settings)
        except BaseException:
            await self.unplug(done.attachments)
            raise
        return done

    async def plug_live(self, container: Container, wish: NetworkEndpoint, network: NetworkRecord) -> Plugged:
        """One more network for a container that runs; all that it is on now."""
        if network.driver == "null":
            return Plugged(endpoints=(*container.endpoints, self._shown(wish)), attachments=container.attachments)
        await self._ensure()
        netns = ProcessNetns(pid=container.pid, start_time=container.pid_start_time)
        number = _free_number(container.attachments)
        done = Plugged(endpoints=container.endpoints, attachments=container.attachments)
        others = [(each, self.known.find(each.network_id or each.network_name)) for each in container.endpoints]
        wishes = [*others, (wish, network)]
        ways = gateways_of(wishes) | _answering(container.attachments)
        routed = _through(ways, len(wishes) - 1)
        return await self._plug_one(container, netns, done, wish, network, number, ways, routed=routed)

    def parting(self, container: Container, network: NetworkRecord) -> Plugged:
        """What a container that runs will be on without this network; the ports that the host answers by it are then
        those of the one that leads out. So far it is promised alone: `unplug_live` is next, or `keep`.
        """
        left = self._without(container, network)
        ways = self._ways_out(container.endpoints, container.attachments)
        if all(container.attachments[number] in left.attachments for number in ways.values()):
            return left
        ways = self._ways_out(left.endpoints, left.attachments)
        for number in sorted({*ways.values()}):
            left = self._promised(container, left, number, ways)
        return left

    def _promised(self, container: Container, left: Plugged, number: int, ways: Mapping[int, int]) -> Plugged:
        endpoint, routed = left.attachments[number], _through(ways, number)
        others = [each for each in left.attachments if each is not endpoint]
        held = [port for each in container.attachments for port in each.ports]
        asked = to_publish(container.spec, ways, routed, others)
        promise = partial(self._network.promise, endpoint, routed=routed, held=held, name=container.name)
        try:
            with suppress(BulkheadError):
                return _with(left, number, promise(ports=as_before(asked, held)))
            return _with(left, number, promise(ports=asked))
        except BulkheadError as error:
            log.warning("cannot publish ports by another network", container=container.id, reason=str(error))
            return left

    async def unplug_live(self, container: Container, network: NetworkRecord, left: Plugged) -> None:
        """One network less for a container that runs, which is on what is left now. Raises only when nothing was freed.

        First it leads out and is reached by another: who dies here leaves a link by which his successor knows.
        """
        staying = {each.interface for each in left.attachments}
        leaving = [each for each in container.attachments if each.interface not in staying]
        await self._network.publish([*left.attachments, *(replace(each, ports=()) for each in leaving)])
        failpoints.hit("manager.disconnect.published")
        await self._route_again([replace(container, endpoints=left.endpoints, attachments=left.attachments)])
        netns = ProcessNetns(pid=container.pid, start_time=container.pid_start_time)
        for endpoint in leaving:
            await self._network.unplug(endpoint, netns)
        try:
            self.names.leave(network.id, container.id)
        except BulkheadError as error:
            log.warning("cannot take a name away", container=container.id, reason=str(error))

    async def keep(self, container: Container) -> None:
        """Nothing came of its parting: it leads out, and the host answers its ports, as its record says."""
        await self._network.publish(container.attachments)
        await self._route_again([container])

    def _without(self, container: Container, network: NetworkRecord) -> Plugged:
        """What a container is on when it is off this network."""
        key = _key(self.known, network)
        return Plugged(
            endpoints=tuple(each for each in container.endpoints if each.network_id != network.id),
            attachments=tuple(each for each in container.attachments if each.network != key),
        )

    async def _route(self, container: Container) -> None:
        """Let what it is on lead to everywhere else."""
        ways = self._ways_out(container.endpoints, container.attachments)
        netns = ProcessNetns(pid=container.pid, start_time=container.pid_start_time)
        for number, endpoint in enumerate(container.attachments):
            if families := _through(ways, number):
                await self._network.route(netns, endpoint, families)

    def _ways_out(self, endpoints: Sequence[NetworkEndpoint], attachments: Sequence[Endpoint]) -> dict[int, int]:
        """By family, which of its networks leads a running container out, and the host's ports in."""
        if not attachments:
            return {}
        ways = gateways_of([(each, self.known.find(each.network_id)) for each in endpoints])
        return ways | _answering(attachments)

    async def _route_again(self, containers: Iterable[Container]) -> None:
        """Links are gone: one of them may have been a running container's way out.

        What a container has set up in its network (no IPv6, say) may refuse a route: that undoes nothing.
        """
        for container in containers:
            try:
                await self._route(container)
            except BulkheadError as error:
                log.warning("cannot route", container=container.id, reason=str(error))

    async def unplug(self, endpoints: Iterable[Endpoint]) -> None:
        """Free what endpoints held. What fails here is mended by the next reconciliation."""
        for endpoint in endpoints:
            try:
                await self._network.detach(endpoint)
                if endpoint.network != DEFAULT_NETWORK:
                    self.names.leave(endpoint.network, endpoint.container_id)
            except BulkheadError as error:
                log.warning("cannot detach", container=endpoint.container_id, reason=str(error))

    def rename(self, container: Container) -> None:
        """The container has another name by now."""
        for network, host in self._named_of(container):
            self.names.enter(network, host)

    def needs_names(self, endpoints: Iterable[NetworkEndpoint]) -> bool:
        """Whether names resolve for a container on these."""
        return any(each.network_name not in ("bridge", "host", "none", "", "default") for each in endpoints)

    async def _plug_one(
        self,
        container: Container,
        netns: Netns,
        done: Plugged,
        wish: NetworkEndpoint,
        network: NetworkRecord,
        number: int,
        ways: Collection[int],
        *,
        routed: Sequence[int],
    ) -> Plugged:
        key = _key(self.known, network)
        endpoint = await self._network.attach(
            container.id,
            netns,
            network=key,
            interface=f"eth{number}",
            routed=routed,
            wishes=_address_wishes(wish),
            mac=wish.fixed_mac or None,
            link_local=_link_locals(wish, network),
            ports=to_publish(container.spec, ways, routed, done.attachments),
            name=container.name,
        )
        plugged = self._shown(replace(wish, network_id=network.id, network_name=network.name), endpoint)
        done = Plugged(endpoints=(*done.endpoints, plugged), attachments=(*done.attachments, endpoint))
        if self.known.is_users(network):
            try:
                self.names.enter(network.id, _host(container, plugged))
            except BaseException:
                await self._network.unplug(endpoint, netns)
                raise
        return done

    def _shown(self, wish: NetworkEndpoint, endpoint: Endpoint | None = None) -> NetworkEndpoint:
        """What inspect says of an endpoint that has just been plugged in."""
        network = self.known.find(wish.network_id or wish.network_name)
        plain = replace(wish, network_id=network.id, network_name=network.name, endpoint_id=secrets.token_hex(32))
        if endpoint is None:
            return plain
        return replace(
            plain,
            address=endpoint.address,
            prefix_len=endpoint.prefix_len,
            gateway=endpoint.gateway,
            address6=endpoint.address6,
            prefix_len6=endpoint.prefix_len6,
            gateway6=endpoint.gateway6,
            mac=endpoint.mac if network.driver != "ipvlan" else "",
            ports=tuple(published(each) for each in endpoint.ports),
        )

    async def _ensure(self) -> None:
        if self._up:
            return
        async with self._raising:
            if self._up:
                return
            try:
                await self._network.ensure()
                mended = await self._network.reconcile(self._live())
            except BulkheadError as error:
                self._trouble = str(error)
                raise
            await self._clear()
            self._up, self._trouble = True, ""
            if mended.links_deleted:
                await self._route_again([each for each in self._index if each.phase.alive and each.attachments])
            if mended.lost:
                log.warning("containers without a network", endpoints=list(mended.lost))

    async def _clear(self) -> None:
        """Nobody is being plugged in yet: what is in a container and not on its record is a dead manager's."""
        for container in self._index:
            if container.phase.alive and may_have_links(container):
                netns = ProcessNetns(pid=container.pid, start_time=container.pid_start_time)
                try:
                    await self._network.clear(netns, container.attachments)
                except BulkheadError as error:
                    log.warning("cannot clear a network namespace", container=container.id, reason=str(error))

    def _live(self) -> list[Endpoint]:
        return [endpoint for each in self._index if each.phase.alive for endpoint in each.attachments]

    def _named(self) -> list[tuple[str, NamedHost]]:
        return [named for each in self._index if each.phase.alive for named in self._named_of(each)]

    def _named_of(self, container: Container) -> list[tuple[str, NamedHost]]:
        on = [each for each in container.endpoints if (each.address or each.address6) and self.needs_names([each])]
        return [(each.network_id, _host(container, each)) for each in on]


def _with(plugged: Plugged, number: int, endpoint: Endpoint) -> Plugged:
    """The same with other ports on one of its networks."""
    shown = replace(plugged.endpoints[number], ports=tuple(published(each) for each in endpoint.ports))
    return Plugged(
        endpoints=(*plugged.endpoints[:number], shown, *plugged.endpoints[number + 1 :]),
        attachments=(*plugged.attachments[:number], endpoint, *plugged.attachments[number + 1 :]),
    )


def gateways_of(wishes: Sequence[tuple[NetworkEndpoint, NetworkRecord]]) -> dict[int, int]:
    """Which of the networks leads to everywhere else, by family.

    By priority, internal ones never, those of both families before others, then the first.
    """
    found: dict[int, int] = {}
    for version in FAMILIES:
        able = [number for number, (_, network) in enumerate(wishes) if _leads_out(network, version)]
        ranks = {number: _rank(*wishes[number]) for number in able}
        if able:
            found[version] = min(able, key=lambda number: (*ranks[number], number))
    return found


def _answering(attachments: Iterable[Endpoint]) -> dict[int, int]:
    """By family, the network by which the host answers ports of a running container, if one does.

    Who has been let in there is answered the same way: whatever joins, that stays the way out until the next start.
    """
    return {
        port.version: number
        for number, endpoint in enumerate(attachments)
        for port in endpoint.ports
        if not endpoint.relays_port(port)
    }


def _leads_out(network: NetworkRecord, version: int) -> bool:
    return not network.internal and any(version_of(block) == version for block in network.blocks)


def _rank(wish: NetworkEndpoint, network: NetworkRecord) -> tuple[int, int]:
    return (-wish.gateway_priority, -len(network.blocks))


def _through(ways: Mapping[int, int], number: int) -> tuple[int, ...]:
    """The families whose way to everywhere else is the network of that number.

    Who has no way for IPv6 has it where his IPv4's is: the host carries over what comes by it.
    """
    own = tuple(version for version, chosen in ways.items() if chosen == number)
    return (*own, 6) if 4 in own and 6 not in ways else own


def _address_wishes(wish: NetworkEndpoint) -> list[AddressWish]:
    """What a container must have, else what it had."""
    fixed = [AddressWish(address=text, fixed=True) for text in (wish.fixed_address, wish.fixed_address6) if text]
    last = ((wish.last_address, wish.fixed_address), (wish.last_address6, wish.fixed_address6))
    return [*fixed, *(AddressWish(address=text) for text, instead in last if text and not instead)]


def _link_locals(wish: NetworkEndpoint, network: NetworkRecord) -> list[IPInterface]:
    """The further addresses that a user wishes, as Docker has them.

    Raises InvalidArgument for IPv6's where the network has none: the interface takes no address of it.
    """
    found = [parse_link_local(text) for text in wish.link_local_addresses]
    if any(each.version == 6 for each in found) and not any(version_of(block) == 6 for block in network.blocks):
        listed = " ".join(map(str, found))
        raise InvalidArgument(f"cannot set link-local addresses [{listed}]: network {network.name} has no IPv6")
    return found


def _key(known: KnownNetworks, network: NetworkRecord) -> str:
    return network.id if known.is_users(network) else DEFAULT_NETWORK


def _free_number(attachments: Iterable[Endpoint]) -> int:
    taken = {endpoint.interface for endpoint in attachments}
    return next(number for number in range(len(taken) + 1) if f"eth{number}" not in taken)


def names_of(container: Container, endpoint: NetworkEndpoint) -> tuple[str, ...]:
    """What the container is called on a network."""
    names = (container.name, short(container.id), container.spec.hostname, *endpoint.aliases)
    return tuple(dict.fromkeys(name for name in names if name))


def _host(container: Container, endpoint: NetworkEndpoint) -> NamedHost:
    return NamedHost(
        container=container.id,
        names=names_of(container, endpoint),
        address=endpoint.address,
        address6=endpoint.address6,
    )
