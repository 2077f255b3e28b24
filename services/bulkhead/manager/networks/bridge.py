"""Networks on bridges: the default one and those of users; NAT to the world, published ports in the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Network, IPv6Address, IPv6Network, NetmaskValueError

import structlog

from bulkhead.errors import BulkheadError, Conflict, InvalidArgument, NotFound
from bulkhead.manager.networks import opening
from bulkhead.manager.networks.elsewhere import use_of
from bulkhead.manager.networks.firewall import Firewall
from bulkhead.manager.networks.hostports import HostPorts
from bulkhead.manager.networks.leases import Leases
from bulkhead.manager.networks.ports import FAMILIES, AddressWish, Bridge, Interface, Kernel, Survey, Wire
from bulkhead.model.instance import Instance
from bulkhead.model.network import (
    ANY,
    ANY6,
    DEFAULT_NETWORK,
    INTERFACE_NAME,
    MAC,
    AddressPlan,
    BridgePlan,
    Endpoint,
    GatewayMode,
    IPAddress,
    IPInterface,
    IPNetwork,
    Netns,
    Plan,
    PortBinding,
    Reconciled,
)

_log = structlog.get_logger()
_INTERFACE_LENGTH = 15  # IFNAMSIZ less its NUL
_DEFAULT_ID_DIGITS = 12
# A busy machine takes its time with a dead network namespace.
_LEAVING_SECONDS = 10.0
_SETTLE_SECONDS = 0.1
_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Net:
    """One network: its plan, its bridge, who has which of its addresses."""

    plan: BridgePlan
    bridge: Bridge
    leases: Leases


class _Names:
    """The names of the bridges that there are to be, as they are when somebody asks."""

    def __init__(self, nets: Mapping[str, _Net]) -> None:
        self._nets = nets

    def __contains__(self, name: object) -> bool:
        return any(net.bridge.name == name for net in self._nets.values())


class BridgeNetwork:
    """`bulkhead.manager.networks.ports.Network` on bridges of the host: the default one, and those planned."""

    def __init__(self, instance: Instance, kernel: Kernel, *, open_forward: bool = True) -> None:
        self._kernel = kernel
        elsewhere = functools.partial(kernel.published_elsewhere, instance.nft_table)
        self._ports = HostPorts(kernel.bindable, elsewhere, kernel.ephemeral_ports, kernel.reserve, kernel.unreserve)
        self._table = instance.nft_table
        self._prefix = instance.veth_prefix
        self._alias = instance.network_alias
        self._nets: dict[str, _Net] = {}
        self._unmade: dict[str, Conflict] = {}
        self._planned, self._carried_out = 0, 0  # changes of what the kernel should have, and how many of them it has
        self.plan(_default_plan(instance))
        self._mtu = 1500
        self._live: dict[str, Endpoint] = {}
        self._converging = asyncio.Lock()
        self._adopted = False  # until the records are known, what is unknown is not foreign
        self._converged_once = False  # and nothing that was to be done then has failed since
        self._plugging: set[str] = set()  # those of _live that are being attached just now
        self._leaving: dict[str, float] = {}  # when who is gone was detached: his veth goes with his namespace
        self._owing = asyncio.Event()  # something that had to be taken away is there
        self._firewall = Firewall(
            kernel,
            instance.nft_table,
            self._bridges,
            lambda: self._live.values(),
            mark=instance.forward_mark,
            opens=open_forward,
        )

    def plan(self, wanted: Plan) -> None:
        if not isinstance(wanted, BridgePlan):
            raise InvalidArgument(f"cannot make network {wanted.key}: {wanted.driver} is not made of bridges")
        if not INTERFACE_NAME.fullmatch(wanted.bridge):
            raise InvalidArgument(
                f"cannot use bridge name {wanted.bridge!r}: an interface name has 1 to 15 characters of "
                "A-Z a-z 0-9 _ . - (BULKHEAD_BRIDGE)"
            )
        leases = Leases(wanted.families)
        bridge = Bridge(
            name=wanted.bridge,
            mac=mac_of(wanted.families[0].gateway),
            v4=wanted.v4,
            v6=wanted.v6,
            internal=wanted.internal,
            interconnected=wanted.interconnected,
            masquerade=wanted.masquerade,
            alias=self._alias if wanted.key != DEFAULT_NETWORK else "",
        )
        self._nets[wanted.key] = _Net(plan=wanted, bridge=bridge, leases=leases)
        self._planned += 1

    async def forget(self, key: str) -> None:
        if any(endpoint.network == key for endpoint in self._live.values()):
            raise Conflict(f"cannot remove network {key}: containers are plugged into it")
        gone = self._nets.pop(key, None)
        if gone is None:
            return
        self._planned += 1
        # One that could not be made has another's bridge, or none.
        was_made = self._unmade.pop(key, None) is None
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
        if network in self._unmade:
            raise self._unmade[network]
        await self._firewall.warn_of_others()

    async def _founded(self, key: str) -> bool:
        """Make one network more, at a price that does not depend on how many there are. False when more is to be done:
        then all that is there must be looked at."""
        async with self._converging:
            net = self._nets.get(key)
            if net is None or key == DEFAULT_NETWORK or not (self._adopted and self._converged_once):
                return False
            survey = await self._kernel.look(net.bridge.name, [plan.subnet for plan, _ in net.bridge.families])
            try:
                if not _bridge_is_missing(net.bridge, survey):
                    return self._carried_out == self._planned  # who watches was here first
                if not await self._found(net):
                    return False
            except Conflict:
                return False  # with what a predecessor left, say
            await self._firewall.open_to(net.bridge, prune=self._adopted)
            self._unmade.pop(key, None)
            self._note_one_carried_out()
            return True

    async def _found(self, net: _Net) -> bool:
        bridge = net.bridge
        if bridge.v6 is not None:
            await self._kernel.forward_ipv6()
        with self._firewall.admission_of_bridge(bridge) as changes:
            done = await self._kernel.found_bridge(bridge, {**_FORWARDING, **_bridge_settings(bridge)}, changes)
        if self._nets.get(net.plan.key) is not net:
            await self._kernel.delete_links([bridge.name])
            await self._clear_place(bridge, alone=False)
        return done

    async def reconcile(self, live: Iterable[Endpoint]) -> Reconciled:
        self._adopt(live)
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
        return self._reserve(self._net(DEFAULT_NETWORK), container_id, wishes, "eth0", routed, mac, ports, name)

    async def plug_reserved(
        self, endpoint: Endpoint, *, routed: Collection[int] = FAMILIES, link_local: Sequence[IPInterface] = ()
    ) -> int:
        async with self._plugged_or_undone(endpoint):
            wire = self._wire(self._net(endpoint.network), endpoint, routed=routed, link_local=link_local)
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
        net = self._net(network)
        endpoint = self._reserve(net, container_id, wishes, interface, routed, mac, ports, name)
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
            self._settle(endpoint)

    def _settle(self, endpoint: Endpoint) -> None:
        """It is no longer being attached: it is there, or nothing of it is."""
        self._plugging.discard(endpoint.host_interface)
        if not self._plugging:
            self._ports.settle()

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
                    self._leaving.pop(endpoint.host_interface, None)
                    await self._kernel.delete_links([endpoint.host_interface])
        except BulkheadError as error:
            _log.warning("cannot unplug all of an endpoint", container=endpoint.container_id, reason=str(error))

    async def detach(self, endpoint: Endpoint) -> None:
        known = self._live.pop(endpoint.host_interface, None)
        self._settle(endpoint)
        if known is None:
            return
        self._note_leaving(known)
        try:
            with self._owed():
                await self._unplug(known)
        finally:
            self._release(known)

    def _note_leaving(self, endpoint: Endpoint) -> None:
        now = time.monotonic()
        while self._leaving and now - self._leaving[oldest := next(iter(self._leaving))] > _LEAVING_SECONDS:
            del self._leaving[oldest]
        self._leaving[endpoint.host_interface] = now

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
        ours = [name for name in survey.interfaces if self._is_ours(name, survey)]
        bridges = [bridge.name for bridge in self._bridges() if bridge.name in survey.interfaces]
        await self._kernel.delete_links([*ours, *bridges])
        await self._firewall.remove()
        for endpoint in (*self._live.values(),):
            self._release(endpoint)
        self._live.clear()

    def close(self) -> None:
        self._kernel.close()

    async def _disturbed(self) -> None:
        """Return when somebody has changed what is ours, or when we owe the kernel a change."""
        bridges = _Names(self._nets)
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

    def _net(self, key: str) -> _Net:
        net = self._nets.get(key)
        if net is None:
            raise NotFound(f"network {key} not found")
        if key in self._unmade:
            raise self._unmade[key]
        return net

    def _bridges(self) -> list[Bridge]:
        return [net.bridge for net in self._nets.values()]

    def _reserve(
        self,
        net: _Net,
        container_id: str,
        wishes: Sequence[AddressWish],
        interface: str,
        routed: Collection[int],
        mac: str | None,
        ports: Sequence[PortBinding],
        name: str | None,
    ) -> Endpoint:
        """Book addresses and host ports, or nothing; from here on the endpoint counts as live."""
        given = net.leases.take(container_id, wishes)
        try:
            chosen_mac = None if mac is None else parse_mac(mac)
            published = self._published(net, container_id, routed, ports, name)
        except BulkheadError:
            net.leases.release(container_id, given)
            if not self._plugging:
                self._ports.settle()
            raise
        endpoint = Endpoint(
            container_id=container_id,
            mac=chosen_mac or mac_of(given[0]),
            host_interface=self._interface_name(),
            ports=published,
            network=net.plan.key,
            interface=interface,
            **net.leases.fields(given),
        )
        self._live[endpoint.host_interface] = endpoint
        self._plugging.add(endpoint.host_interface)
        return endpoint

    def _published(
        self, net: _Net, container_id: str, routed: Collection[int], ports: Sequence[PortBinding], name: str | None
    ) -> tuple[PortBinding, ...]:
        """Host ports for the bindings of routed families; an internal network publishes nothing."""
        plan = net.plan
        open_to = [each for each in plan.families if each.subnet.version in routed and not plan.internal]
        translated = [each.subnet.version for each in open_to if each.mode is not GatewayMode.ROUTED]
        try:
            kept = [port for port in ports if _is_answered(port, plan, open_to)]
            wildcards = _wildcards(plan, translated)
            booked = [port for port in kept if _is_booked(port, plan, translated)]
            if wildcards == [ANY] and plan.v6 is None and 6 in routed and self._kernel.has_ipv6():
                wildcards = [ANY, ANY6]  # the container's shim listens there
                booked = [_unrelayed(port) for port in booked]
            given = self._ports.allocate(container_id, booked, wildcards)
        except BulkheadError as error:
            raise type(error)(_docker_text(name, container_id, error)) from error
        return (*given, *_reached_directly(kept, open_to))

    def _interface_name(self) -> str:
        """A new name for a veth's host end, such that instances recognise their own (`_is_ours`)."""
        while True:
            name = self._prefix + secrets.token_hex(_INTERFACE_LENGTH)[: self._digits]
            if name not in self._live:
                return name

    @property
    def _digits(self) -> int:
        # The default instance's prefix begins every other's: its names are one character shorter.
        return min(_DEFAULT_ID_DIGITS, _INTERFACE_LENGTH - len(self._prefix))

    def _is_ours(self, name: str, survey: Survey) -> bool:
        """Whether an interface is a veth that this instance made."""
        found = survey.interfaces[name]
        return (
            found.kind == "veth"
            and (not found.master or any(found.master == bridge.name for bridge in self._bridges()))
            and re.fullmatch(rf"{self._prefix}[0-9a-f]{{{self._digits}}}", name) is not None
        )

    async def _unplug(self, endpoint: Endpoint) -> None:
        with self._firewall.dismissal(endpoint) as change:
            done = await self._kernel.silence(endpoint.host_interface, change)
        if not done:
            await self._firewall.converge(prune=self._adopted)

    def _wire(
        self, net: _Net, endpoint: Endpoint, *, routed: Collection[int], link_local: Sequence[IPInterface]
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
        self._live.pop(endpoint.host_interface, None)
        with self._owed():
            try:
                await self._unplug(endpoint)
            finally:
                try:
                    await self._kernel.delete_links([endpoint.host_interface])
                finally:
                    self._release(endpoint)

    def _release(self, endpoint: Endpoint) -> None:
        net = self._nets.get(endpoint.network)
        if net is not None:
            net.leases.release(endpoint.container_id, [each.ip for each in endpoint.addresses])
        self._ports.release(endpoint.container_id, endpoint.ports)

    def _adopt(self, live: Iterable[Endpoint]) -> None:
        """Rebuild the books from the manager's records and the attachments under way."""
        self._adopted = True
        pending = {name: endpoint for name, endpoint in self._live.items() if name in self._plugging}
        self._live = {**{endpoint.host_interface: endpoint for endpoint in live}, **pending}
        for net in self._nets.values():
            net.leases.forget()
        self._ports.forget()
        for endpoint in self._live.values():
            found = self._nets.get(endpoint.network)
            if found is not None and not found.leases.claim(endpoint):
                _log.error("two live containers have one address", address=endpoint.address, id=endpoint.container_id)
            self._ports.claim(endpoint.container_id, endpoint.ports)

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
        stale = self._stale(survey) if self._adopted else ()
        survey = _without(survey, stale)
        missing = [net.bridge for net in self._nets.values() if self._is_missing(net, survey)]
        self._mtu = survey.default_mtu
        # Before a bridge comes up: an interface inherits what is set for all.
        settings = await self._kernel.configure(_FORWARDING)
        if any(bridge.v6 is not None for bridge in self._bridges()):
            settings += await self._kernel.forward_ipv6()
        if stale:
            # First: what is made next may want their subnets.
            await self._kernel.delete_links(stale)
        for bridge in missing:
            await self._make(bridge)
        # In one go: of networks there may be hundreds, and each call has a thread of its own.
        of_bridges = [_bridge_settings(bridge) for bridge in self._bridges()]
        settings += await self._kernel.configure({path: value for each in of_bridges for path, value in each.items()})
        loose = self._loose(survey)
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
            lost=self._lost(survey),
        )

    async def _make(self, bridge: Bridge) -> None:
        """Make a bridge, unless its network has been forgotten since that was decided, or is meanwhile."""
        if bridge in self._bridges():
            await self._kernel.make_bridge(bridge)
            if bridge not in self._bridges():
                await self._kernel.delete_links([bridge.name])

    def _is_missing(self, net: _Net, survey: Survey) -> bool:
        """As `_bridge_is_missing`; one network of a user that cannot be does not take the others with it."""
        self._unmade.pop(net.plan.key, None)
        try:
            return _bridge_is_missing(net.bridge, survey)
        except Conflict as error:
            if net.plan.key == DEFAULT_NETWORK:
                raise
            self._unmade[net.plan.key] = error
            _log.error("a network cannot be made", network=net.plan.key, reason=str(error))
            return False

    def _stale(self, survey: Survey) -> tuple[str, ...]:
        known = self._live.keys() | self._leaving_now()
        veths = tuple(name for name in survey.interfaces if name not in known and self._is_ours(name, survey))
        planned = {bridge.name for bridge in self._bridges()}
        bridges = (each for each in survey.interfaces.values() if each.kind == "bridge" and each.alias == self._alias)
        return (*veths, *(bridge.name for bridge in bridges if bridge.name not in planned))

    def _leaving_now(self) -> set[str]:
        """Veths that nobody has to delete: their namespaces are dying, or have just died."""
        since = time.monotonic() - _LEAVING_SECONDS
        return {name for name, at in self._leaving.items() if at > since}

    def _loose(self, survey: Survey) -> dict[str, list[str]]:
        """By bridge: live veths that are not, or will not be when the bridge is made, its ports."""
        found: dict[str, list[str]] = {}
        for name, endpoint in self._live.items():
            net = self._nets.get(endpoint.network)
            veth = survey.interfaces.get(name)
            if net is not None and veth is not None and veth.master != net.bridge.name:
                found.setdefault(net.bridge.name, []).append(name)
        return found

    def _lost(self, survey: Survey) -> tuple[str, ...]:
        return tuple(
            endpoint.container_id
            for name, endpoint in self._live.items()
            if name not in survey.interfaces and name not in self._plugging
        )


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


def _bridge_is_missing(bridge: Bridge, survey: Survey) -> bool:
    """Whether the bridge must be made. Raises Conflict when its name or its subnet is another's."""
    found = survey.interfaces.get(bridge.name)
    if found is not None and found.kind != "bridge":
        raise Conflict(
            f"cannot use {bridge.name} as bridge: an interface of that name exists and is no bridge; "
            "set another with BULKHEAD_BRIDGE"
        )
    if found is not None and set(bridge.addresses) <= set(found.addresses):
        return not found.up
    _refuse_strangers(bridge, found)
    clash = _clash(bridge, survey)
    if clash is not None:
        raise Conflict(
            f"cannot use subnet {clash[0]} for bridge {bridge.name}: it overlaps {clash[1]}; "
            "set another with BULKHEAD_SUBNET"
        )
    return True


def _without(survey: Survey, gone: Collection[str]) -> Survey:
    """What will be found when the links `gone` are."""
    return replace(
        survey,
        interfaces={name: each for name, each in survey.interfaces.items() if name not in gone},
        routes=tuple(route for route in survey.routes if route[1] not in gone),
    )


def _refuse_strangers(bridge: Bridge, found: Interface | None) -> None:
    """Raise Conflict for a bridge with addresses that are not ours; IPv6's own link-local ones are no matter."""
    strange = [each for each in found.addresses if each not in bridge.addresses] if found is not None else []
    strange = [each for each in strange if not each.ip.is_link_local]
    if strange:
        own = ", ".join(map(str, bridge.addresses)) or "none"
        raise Conflict(
            f"cannot use bridge {bridge.name}: it has the address {strange[0]}, not "
            f"{own}; delete it, or set BULKHEAD_BRIDGE or BULKHEAD_SUBNET"
        )


def _clash(bridge: Bridge, survey: Survey) -> tuple[IPNetwork, str] | None:
    """A subnet of the bridge and, in words, what the host has there."""
    for subnet in (plan.subnet for plan, _ in bridge.families):
        if (use := use_of(subnet, survey, besides=bridge.name)) is not None:
            return subnet, use
    return None


def _wildcards(plan: BridgePlan, translated: Collection[int]) -> list[str]:
    """Where the host answers ports that name no address of it."""
    found = {4: plan.host_binding} if plan.host_binding else {4: ANY, 6: ANY6}
    return [address for version, address in found.items() if version in translated]


def _is_answered(port: PortBinding, plan: BridgePlan, open_to: Sequence[AddressPlan]) -> bool:
    """Whether the host can answer there for a container with these families.

    Raises InvalidArgument for an IPv4 address when the network has no IPv4, and for what cannot be relayed.
    """
    version = port.version
    relayed = port.is_ipv6 and (plan.v6 is None or IPv6Address(port.host_ip).is_loopback)
    if relayed and open_to and port.protocol == "sctp":
        raise InvalidArgument(
            f"cannot publish port {port.container_port}/sctp on [{port.host_ip}]: the kernel does not lead from there "
            "to the container's network, and only tcp and udp are carried over by hand"
        )
    if not port.host_ip or relayed or any(each.subnet.version == version for each in open_to):
        return bool(open_to)
    if open_to and not any(each.subnet.version == version for each in plan.families):
        raise InvalidArgument(
            f"cannot publish port {port.container_port}/{port.protocol} on {port.host_ip}: "
            f"the container's network has no IPv{version}"
        )
    return False


def _is_booked(port: PortBinding, plan: BridgePlan, translated: Collection[int]) -> bool:
    """Whether a port of the host is needed; IPv6's for a network without it is relayed to its IPv4."""
    if not port.host_ip:
        return bool(_wildcards(plan, translated))
    return port.version in translated or (port.is_ipv6 and plan.v6 is None and 4 in translated)


def _unrelayed(port: PortBinding) -> PortBinding:
    """What cannot be carried over by hand has IPv4 alone where the network has no IPv6."""
    return replace(port, host_ip=ANY) if port.protocol == "sctp" and not port.host_ip else port


def _reached_directly(ports: Sequence[PortBinding], open_to: Sequence[AddressPlan]) -> tuple[PortBinding, ...]:
    """The bindings of routed families: without a port of the host."""
    routed = [ANY if each.subnet.version == 4 else ANY6 for each in open_to if each.mode is GatewayMode.ROUTED]
    return tuple(
        replace(port, host_ip=wildcard, host_port=0, host_port_end=0)
        for port in ports
        for wildcard in routed
        if not port.host_ip or (":" in port.host_ip) is (":" in wildcard)
    )


def _docker_text(name: str | None, container_id: str, reason: BulkheadError) -> str:
    return (
        "driver failed programming external connectivity on endpoint "
        f"{name or container_id[:12]} ({container_id}): {reason}"
    )


def mac_of(address: IPAddress) -> str:
    """The MAC that goes with an address: whoever has it cached stays right when the address moves on."""
    tail = address.packed if address.version == 4 else hashlib.sha256(address.packed).digest()[:4]
    return bytes((0x02, 0x42, *tail)).hex(":")


def _default_plan(instance: Instance) -> BridgePlan:
    subnet = _parse_subnet(instance.subnet)
    return BridgePlan(
        key=DEFAULT_NETWORK,
        bridge=instance.bridge,
        v4=AddressPlan(subnet=subnet, gateway=subnet[1] if subnet.prefixlen < 31 else subnet[0]),
        v6=_plan6(instance.subnet6),
    )


def _plan6(subnet: str) -> AddressPlan | None:
    if not subnet:
        return None
    try:
        parsed = IPv6Network(subnet)
    except ValueError as error:
        raise InvalidArgument(f"cannot use subnet {subnet!r}: {error} (BULKHEAD_SUBNET6)") from None
    return AddressPlan(subnet=parsed, gateway=parsed[1])


def _parse_subnet(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise InvalidArgument(f"cannot use subnet {text!r}: {error} (BULKHEAD_SUBNET)") from None


def parse_mac(text: str) -> str:
    """A unicast MAC in lower case with colons."""
    mac = text.lower().replace("-", ":")
    if not MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidArgument(f"invalid MAC address: {text}")
    return mac
