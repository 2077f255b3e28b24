"""Networks on bridges: the default one and those of users; NAT to the world, published ports in the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import structlog

from bulkhead.errors import BulkheadError, Conflict
from bulkhead.manager.networks import clashes, opening
from bulkhead.manager.networks.books import Books, Net
from bulkhead.manager.networks.default import default_plan
from bulkhead.manager.networks.firewall import Firewall
from bulkhead.manager.networks.ports import FAMILIES, AddressWish, Bridge, Kernel, Survey, Wire
from bulkhead.model.instance import Instance
from bulkhead.model.network import (
    DEFAULT_NETWORK,
    Endpoint,
    IPInterface,
    IPNetwork,
    Netns,
    Plan,
    PortBinding,
    Reconciled,
)

_log = structlog.get_logger()
_SETTLE_SECONDS = 0.1
_RETRY_SECONDS = 5.0


class _Names:
    """The names of the bridges that there are to be, as they are when somebody asks."""

    def __init__(self, nets: Mapping[str, Net]) -> None:
        self._nets = nets

    def __contains__(self, name: object) -> bool:
        return any(net.bridge.name == name for net in self._nets.values())


class BridgeNetwork:
    """`bulkhead.manager.networks.ports.Network` on bridges of the host: the default one, and those planned."""

    def __init__(self, instance: Instance, kernel: Kernel, *, open_forward: bool = True) -> None:
        self._kernel = kernel
        self._table = instance.nft_table
        self._books = Books(instance, kernel)
        self._planned, self._carried_out = 0, 0  # changes of what the kernel should have, and how many of them it has
        self.plan(default_plan(instance))
        self._mtu = 1500
        self._converging = asyncio.Lock()
        self._adopted = False  # until the records are known, what is unknown is not foreign
        self._converged_once = False  # and nothing that was to be done then has failed since
        self._owing = asyncio.Event()  # something that had to be taken away is there
        self._firewall = Firewall(
            kernel,
            instance.nft_table,
            self._books.bridges,
            lambda: self._books.live.values(),
            mark=instance.forward_mark,
            opens=open_forward,
        )

    def plan(self, wanted: Plan) -> None:
        self._books.plan(wanted)
        self._planned += 1

    async def forget(self, key: str) -> None:
        gone = self._books.strike(key)
        if gone is None:
            return
        self._planned += 1
        # One that could not be made has another's bridge, or none.
        was_made = self._books.unmade.pop(key, None) is None
        try:
            with self._owed():
                try:
                    await self._kernel.delete_links([gone.bridge.name] if was_made else [])
                finally:
                    await self._clear_place(gone.bridge, alone=was_made)
        except BulkheadError as error:
            _log.warning("cannot take away all of a network", network=key, reason=str(error))

    async def _clear_place(self, bridge: Bridge, *, alone: bool) -> None:
        """Take a bridge that is gone out of the firewalls; `alone` is what no other bridge has a part in."""
        done = False
        if alone and not self._firewall.overlapping:
            with self._firewall.dismissal_of_bridge(bridge) as changes:
                done = await self._kernel.change_elements(changes)
        if done:
            await self._firewall.close_to(bridge, prune=self._adopted)
            self._note_one_carried_out()
        else:
            await self._firewall.converge(prune=self._adopted)

    def _note_one_carried_out(self) -> None:
        self._carried_out = min(self._carried_out + 1, self._planned)

    async def look(self, name: str, networks: Sequence[IPNetwork]) -> Survey:
        return await self._kernel.look(name, networks)

    def choosing(self) -> AbstractAsyncContextManager[None]:
        return self._kernel.choosing()

    async def ensure(self, network: str = DEFAULT_NETWORK) -> None:
        if await self._founded(network):
            return
        await self._converge()
        if network in self._books.unmade:
            raise self._books.unmade[network]
        await self._firewall.warn_of_others()

    async def _founded(self, key: str) -> bool:
        """Make one network more, at a price that does not depend on how many there are. False when more is to be done:
        then all that is there must be looked at."""
        async with self._converging:
            net = self._books.nets.get(key)
            if net is None or key == DEFAULT_NETWORK or not (self._adopted and self._converged_once):
                return False
            survey = await self._kernel.look(net.bridge.name, [plan.subnet for plan, _ in net.bridge.families])
            try:
                if not clashes.is_missing(net.bridge, survey):
                    return self._carried_out == self._planned  # who watches was here first
                if not await self._found(net):
                    return False
            except Conflict:
                return False  # with what a predecessor left, say
            await self._firewall.open_to(net.bridge, prune=self._adopted)
            self._books.unmade.pop(key, None)
            self._note_one_carried_out()
            return True

    async def _found(self, net: Net) -> bool:
        bridge = net.bridge
        if bridge.v6 is not None:
            await self._kernel.forward_ipv6()
        with self._firewall.admission_of_bridge(bridge) as changes:
            done = await self._kernel.found_bridge(bridge, {**_FORWARDING, **_bridge_settings(bridge)}, changes)
        if self._books.nets.get(net.plan.key) is not net:
            await self._kernel.delete_links([bridge.name])
            await self._clear_place(bridge, alone=False)
        return done

    async def reconcile(self, live: Iterable[Endpoint]) -> Reconciled:
        self._adopted = True
        self._books.adopt(live)
        return await self._converge()

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
        return self._books.reserve(
            self._books.net(DEFAULT_NETWORK), container_id, wishes, "eth0", routed, mac, ports, name
        )

    async def plug_reserved(
        self, endpoint: Endpoint, *, routed: Collection[int] = FAMILIES, link_local: Sequence[IPInterface] = ()
    ) -> int:
        async with self._plugged_or_undone(endpoint):
            wire = self._wire(self._books.net(endpoint.network), endpoint, routed=routed, link_local=link_local)
            with self._firewall.admission(endpoint) as change:
                netns, done = await self._kernel.plug_new(wire, change)
            try:
                if not done:
                    await self._firewall.converge(prune=self._adopted)
            except BaseException:
                os.close(netns)
                raise
        return netns

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
        net = self._books.net(network)
        endpoint = self._books.reserve(net, container_id, wishes, interface, routed, mac, ports, name)
        async with self._plugged_or_undone(endpoint):
            wire = self._wire(net, endpoint, routed=routed, link_local=link_local)
            with self._firewall.admission(endpoint) as change:
                done = await self._kernel.plug(netns, wire, change)
            if not done:
                await self._firewall.converge(prune=self._adopted)
        return endpoint

    @asynccontextmanager
    async def _plugged_or_undone(self, endpoint: Endpoint) -> AsyncIterator[None]:
        try:
            yield
        except BaseException:
            await self._undo(endpoint)
            raise
        finally:
            self._books.settle(endpoint)

    def promise(
        self,
        endpoint: Endpoint,
        *,
        routed: Collection[int] = FAMILIES,
        ports: Sequence[PortBinding] = (),
        held: Collection[PortBinding] = (),
        name: str | None = None,
    ) -> Endpoint:
        return self._books.promise(self._books.net(endpoint.network), endpoint, routed, ports, held, name)

    async def publish(self, endpoints: Sequence[Endpoint]) -> None:
        before, after = self._books.exchange(endpoints)
        try:
            with self._owed():
                if before != after:
                    await self._exchange(before, after)
        except BulkheadError as error:
            _log.warning("cannot publish ports", container=after[0].container_id, reason=str(error))
        finally:
            for each in after:
                self._books.settle(each)

    async def _exchange(self, before: Sequence[Endpoint], after: Sequence[Endpoint]) -> None:
        with self._firewall.exchange(before, after) as change:
            done = await self._kernel.publish([each.host_interface for each in after if each.ports], change)
        if not done:
            await self._firewall.converge(prune=self._adopted)

    async def attach_loopback(self, netns: Netns) -> None:
        await self._kernel.loopback(netns)

    async def tune(self, netns: Netns, settings: Mapping[str, str]) -> None:
        await self._kernel.tune(netns, settings)

    async def route(self, netns: Netns, endpoint: Endpoint, families: Collection[int] = FAMILIES) -> None:
        ways = [gateway for gateway in endpoint.gateways if gateway.version in families]
        await self._kernel.route(netns, endpoint.interface, ways)

    async def clear(self, netns: Netns, kept: Collection[Endpoint]) -> None:
        """A veth goes with its end on the host."""

    async def unplug(self, endpoint: Endpoint, netns: Netns) -> None:
        try:
            with self._owed():
                try:
                    await self.detach(endpoint)
                finally:
                    self._books.note_gone(endpoint)
                    await self._kernel.delete_links([endpoint.host_interface])
        except BulkheadError as error:
            _log.warning("cannot unplug all of an endpoint", container=endpoint.container_id, reason=str(error))

    async def detach(self, endpoint: Endpoint) -> None:
        known = self._books.live.pop(endpoint.host_interface, None)
        self._books.settle(endpoint)
        if known is None:
            return
        self._books.note_leaving(known)
        try:
            with self._owed():
                await self._unplug(known)
        finally:
            self._books.release(known)

    async def watch(self) -> None:
        healthy = True
        while True:
            if healthy:
                await self._disturbed()
            # A firewall's reload deletes much in one go; and whoever fights us gets no faster.
            await asyncio.sleep(_SETTLE_SECONDS if healthy else _RETRY_SECONDS)
            healthy = await self._mended()

    async def teardown(self) -> None:
        survey = await self._kernel.survey()
        ours = [name for name in survey.interfaces if self._books.is_ours(name, survey)]
        bridges = [bridge.name for bridge in self._books.bridges() if bridge.name in survey.interfaces]
        await self._kernel.delete_links([*ours, *bridges])
        await self._firewall.remove()
        for endpoint in (*self._books.live.values(),):
            self._books.release(endpoint)
        self._books.live.clear()

    def close(self) -> None:
        self._kernel.close()

    async def _disturbed(self) -> None:
        """Return when somebody has changed what is ours, or when we owe the kernel a change."""
        bridges = _Names(self._books.nets)
        wanted = functools.partial(opening.is_wanted, mark=self._firewall.mark, bridges=bridges)
        signs = [
            asyncio.ensure_future(self._kernel.disturbed(self._table, bridges, self._firewall.opened, wanted)),
            asyncio.ensure_future(self._owing.wait()),
        ]
        try:
            done, _ = await asyncio.wait(signs, return_when=asyncio.FIRST_COMPLETED)
            for sign in done:
                sign.result()
        finally:
            for sign in signs:
                sign.cancel()
            await asyncio.gather(*signs, return_exceptions=True)

    @contextlib.contextmanager
    def _owed(self) -> Iterator[None]:
        """What is taken away here and cannot be, for want of descriptors say, `watch` takes away later."""
        try:
            yield
        except BaseException:
            self._owing.set()
            raise

    async def _mended(self) -> bool:
        """Converge for `watch`, which must outlive a failure; whether it worked."""
        owed, planned = self._owing.is_set(), self._carried_out
        self._owing.clear()
        try:
            done = await self._converge()
        except BulkheadError as error:
            _log.warning("cannot mend the network", reason=str(error))
            return False
        # What we have planned or owe may be done here as well as by who asked for it.
        if done and not owed and planned == self._planned:
            _log.warning("mended the network, which something had changed", done=str(done))
        return True

    async def _unplug(self, endpoint: Endpoint) -> None:
        with self._firewall.dismissal(endpoint) as change:
            done = await self._kernel.silence(endpoint.host_interface, change)
        if not done:
            await self._firewall.converge(prune=self._adopted)

    def _wire(
        self, net: Net, endpoint: Endpoint, *, routed: Collection[int], link_local: Sequence[IPInterface]
    ) -> Wire:
        ways = () if net.plan.internal else routed
        return Wire(
            host_interface=endpoint.host_interface,
            bridge=net.bridge.name,
            mac=endpoint.mac,
            addresses=(*endpoint.addresses, *link_local),
            gateways=tuple(gateway for gateway in endpoint.gateways if gateway.version in ways),
            mtu=net.plan.mtu or self._mtu,
            hairpin=bool(endpoint.ports),
            isolated=not net.plan.interconnected,
            interface=endpoint.interface,
        )

    async def _undo(self, endpoint: Endpoint) -> None:
        """Leave nothing of an attachment that failed; what cannot be removed now, `watch` will."""
        self._books.live.pop(endpoint.host_interface, None)
        with self._owed():
            try:
                await self._unplug(endpoint)
            finally:
                try:
                    await self._kernel.delete_links([endpoint.host_interface])
                finally:
                    self._books.release(endpoint)

    async def _converge(self) -> Reconciled:
        """Bring bridges, links and firewall to what the books say; nothing is taken away before they are known.

        One at a time: who looks while another makes a bridge may see its route before its name, and take it for a
        stranger's.
        """
        async with self._converging:
            return await self._converged()

    async def _converged(self) -> Reconciled:
        planned, self._converged_once = self._planned, False
        survey = await self._kernel.survey()
        stale = self._books.stale(survey) if self._adopted else ()
        survey = clashes.without(survey, stale)
        missing = [net.bridge for net in self._books.nets.values() if self._is_missing(net, survey)]
        self._mtu = survey.default_mtu
        # Before a bridge comes up: an interface inherits what is set for all.
        settings = await self._kernel.configure(_FORWARDING)
        if any(bridge.v6 is not None for bridge in self._books.bridges()):
            settings += await self._kernel.forward_ipv6()
        if stale:
            # First: what is made next may want their subnets.
            await self._kernel.delete_links(stale)
        for bridge in missing:
            await self._make(bridge)
        # In one go: of networks there may be hundreds, and each call has a thread of its own.
        of_bridges = [_bridge_settings(bridge) for bridge in self._books.bridges()]
        settings += await self._kernel.configure({path: value for each in of_bridges for path, value in each.items()})
        loose = self._books.loose(survey)
        for name, veths in loose.items():
            await self._kernel.replug(name, veths)
        table_changes = await self._firewall.converge(prune=self._adopted)
        self._carried_out, self._converged_once = planned, True
        return Reconciled(
            bridge_made=bool(missing),
            settings_changed=settings,
            links_deleted=stale,
            links_plugged=tuple(veth for veths in loose.values() for veth in veths),
            table_changes=table_changes,
            lost=self._books.lost(survey),
        )

    async def _make(self, bridge: Bridge) -> None:
        """Make a bridge, unless its network has been forgotten since that was decided, or is meanwhile."""
        if bridge in self._books.bridges():
            await self._kernel.make_bridge(bridge)
            if bridge not in self._books.bridges():
                await self._kernel.delete_links([bridge.name])

    def _is_missing(self, net: Net, survey: Survey) -> bool:
        """As `clashes.is_missing`; one network of a user that cannot be does not take the others with it."""
        self._books.unmade.pop(net.plan.key, None)
        try:
            return clashes.is_missing(net.bridge, survey)
        except Conflict as error:
            if net.plan.key == DEFAULT_NETWORK:
                raise
            self._books.unmade[net.plan.key] = error
            _log.error("a network cannot be made", network=net.plan.key, reason=str(error))
            return False


_FORWARDING = {"net/ipv4/ip_forward": "1"}


def _bridge_settings(bridge: Bridge) -> dict[str, str]:
    name = bridge.name
    settings = {
        # No router of a container's making is believed.
        f"net/ipv6/conf/{name}/accept_ra": "0",
        # Without IPv6 no link-local address answers it.
        f"net/ipv6/conf/{name}/disable_ipv6": "0" if bridge.v6 else "1",
    }
    if bridge.v4:
        # Clients on the host's 127.0.0.1 reach published ports; the firewall's guard closes the way back.
        settings[f"net/ipv4/conf/{name}/route_localnet"] = "1"
    return settings
