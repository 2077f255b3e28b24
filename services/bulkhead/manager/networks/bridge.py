"""The default network: one bridge, NAT to the world, published ports in the kernel."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network, NetmaskValueError

import structlog

from bulkhead.errors import BulkheadError, Conflict, InvalidArgument, NotImplementedYet
from bulkhead.manager.networks.firewall import Firewall
from bulkhead.manager.networks.hostports import HostPorts
from bulkhead.manager.networks.ipam import AddressPool
from bulkhead.manager.networks.ports import Bridge, Kernel, Survey, Wire
from bulkhead.model.instance import Instance
from bulkhead.model.network import INTERFACE_NAME, MAC, Endpoint, Netns, PortBinding, Reconciled

_log = structlog.get_logger()
_INTERFACE_LENGTH = 15  # IFNAMSIZ less its NUL
_DEFAULT_ID_DIGITS = 12
# A split default route, as VPNs set it, covers half of all addresses and clashes with none.
_SHORTEST_CLASH = 2
_SETTLE_SECONDS = 0.1
_RETRY_SECONDS = 5.0


class BridgeNetwork:
    """`bulkhead.manager.networks.ports.Network` on a bridge of the host."""

    def __init__(self, instance: Instance, kernel: Kernel) -> None:
        subnet = _parse_subnet(instance.subnet)
        if not INTERFACE_NAME.fullmatch(instance.bridge):
            raise InvalidArgument(
                f"cannot use bridge name {instance.bridge!r}: an interface name has 1 to 15 characters of "
                "A-Z a-z 0-9 _ . - (BULKHEAD_BRIDGE)"
            )
        self._kernel = kernel
        self._pool = AddressPool(subnet)
        self._ports = HostPorts(kernel.bindable, kernel.ephemeral_ports)
        self._table = instance.nft_table
        self._prefix = instance.veth_prefix
        gateway = IPv4Interface((self._pool.gateway, subnet.prefixlen))
        self._bridge = Bridge(name=instance.bridge, address=gateway, mac=_mac_of(self._pool.gateway))
        self._mtu = 1500
        self._live: dict[str, Endpoint] = {}
        self._adopted = False  # until the records are known, what is unknown is not foreign
        self._plugging: set[str] = set()  # those of _live that are being attached just now
        self._firewall = Firewall(kernel, instance.nft_table, [self._bridge], lambda: self._live.values())

    async def ensure(self) -> None:
        await self._converge()
        await self._firewall.warn_of_others()

    async def reconcile(self, live: Iterable[Endpoint]) -> Reconciled:
        self._adopt(live)
        return await self._converge()

    async def attach(
        self,
        container_id: str,
        netns: Netns,
        *,
        address: str | None = None,
        mac: str | None = None,
        ports: Sequence[PortBinding] = (),
        name: str | None = None,
    ) -> Endpoint:
        endpoint = self._reserve(container_id, address, mac, ports, name)
        try:
            await self._plug(endpoint, netns)
        except BaseException:
            await self._undo(endpoint)
            raise
        finally:
            self._plugging.discard(endpoint.host_interface)
        return endpoint

    async def attach_loopback(self, netns: Netns) -> None:
        await self._kernel.loopback(netns)

    async def detach(self, endpoint: Endpoint) -> None:
        known = self._live.pop(endpoint.host_interface, None)
        if known is None:
            return
        try:
            await self._unplug(known)
        finally:
            self._release(known)

    async def watch(self) -> None:
        healthy = True
        while True:
            if healthy:
                await self._kernel.disturbed(self._table, self._bridge.name)
            # A firewall's reload deletes much in one go; and whoever fights us gets no faster.
            await asyncio.sleep(_SETTLE_SECONDS if healthy else _RETRY_SECONDS)
            healthy = await self._mended()

    async def teardown(self) -> None:
        survey = await self._kernel.survey()
        ours = [name for name in survey.interfaces if self._is_ours(name, survey)]
        bridge = [self._bridge.name] if self._bridge.name in survey.interfaces else []
        await self._kernel.delete_links([*ours, *bridge])
        await self._firewall.remove()
        for endpoint in (*self._live.values(),):
            self._release(endpoint)
        self._live.clear()

    def close(self) -> None:
        self._kernel.close()

    async def _mended(self) -> bool:
        """Converge for `watch`, which must outlive a failure; whether it worked."""
        try:
            done = await self._converge()
        except BulkheadError as error:
            _log.warning("cannot mend the network", reason=str(error))
            return False
        if done:
            _log.warning("mended the network, which something had changed", done=str(done))
        return True

    def _reserve(
        self, container_id: str, address: str | None, mac: str | None, ports: Sequence[PortBinding], name: str | None
    ) -> Endpoint:
        """Book an address and host ports, all or nothing; from here on the endpoint counts as live."""
        wish = None if address is None else _parse_address(address)
        chosen_mac = None if mac is None else _parse_mac(mac)
        for port in ports:
            _refuse_ipv6(port)
        given = self._pool.lease(container_id, wish)
        try:
            published = self._ports.allocate(container_id, ports)
        except BulkheadError as error:
            self._pool.release(given, container_id)
            raise type(error)(_docker_text(name, container_id, error)) from error
        endpoint = Endpoint(
            container_id=container_id,
            address=str(given),
            prefix_len=self._pool.subnet.prefixlen,
            gateway=str(self._pool.gateway),
            mac=chosen_mac or _mac_of(given),
            host_interface=self._interface_name(),
            ports=published,
        )
        self._live[endpoint.host_interface] = endpoint
        self._plugging.add(endpoint.host_interface)
        return endpoint

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
            and found.master in ("", self._bridge.name)
            and re.fullmatch(rf"{self._prefix}[0-9a-f]{{{self._digits}}}", name) is not None
        )

    async def _plug(self, endpoint: Endpoint, netns: Netns) -> None:
        if not await self._kernel.plug(netns, self._wire(endpoint), self._firewall.admission(endpoint)):
            await self._firewall.converge(prune=self._adopted)

    async def _unplug(self, endpoint: Endpoint) -> None:
        if not await self._kernel.silence(endpoint.host_interface, self._firewall.dismissal(endpoint)):
            await self._firewall.converge(prune=self._adopted)

    def _wire(self, endpoint: Endpoint) -> Wire:
        return Wire(
            host_interface=endpoint.host_interface,
            bridge=self._bridge.name,
            mac=endpoint.mac,
            address=IPv4Interface((endpoint.address, endpoint.prefix_len)),
            gateway=self._pool.gateway,
            mtu=self._mtu,
            hairpin=bool(endpoint.ports),
        )

    async def _undo(self, endpoint: Endpoint) -> None:
        """Leave nothing of an attachment that failed; what cannot be removed now, `reconcile` will."""
        self._live.pop(endpoint.host_interface, None)
        try:
            await self._unplug(endpoint)
        finally:
            try:
                await self._kernel.delete_links([endpoint.host_interface])
            finally:
                self._release(endpoint)

    def _release(self, endpoint: Endpoint) -> None:
        self._pool.release(IPv4Address(endpoint.address), endpoint.container_id)
        self._ports.release(endpoint.container_id, endpoint.ports)

    def _adopt(self, live: Iterable[Endpoint]) -> None:
        """Rebuild the books from the manager's records and the attachments under way."""
        self._adopted = True
        pending = {name: endpoint for name, endpoint in self._live.items() if name in self._plugging}
        self._live = {**{endpoint.host_interface: endpoint for endpoint in live}, **pending}
        self._pool.forget()
        self._ports.forget()
        for endpoint in self._live.values():
            if not self._pool.claim(IPv4Address(endpoint.address), endpoint.container_id):
                _log.error("two live containers have one address", address=endpoint.address, id=endpoint.container_id)
            self._ports.claim(endpoint.container_id, endpoint.ports)

    async def _converge(self) -> Reconciled:
        """Bring bridge, links and firewall to what the books say; nothing is taken away before they are known."""
        survey = await self._kernel.survey()
        missing = self._bridge_is_missing(survey)
        self._mtu = survey.default_mtu
        # Before the bridge comes up: an interface inherits what is set for all.
        settings = await self._kernel.configure(_FORWARDING)
        if missing:
            await self._kernel.make_bridge(self._bridge)
        settings += await self._kernel.configure(_bridge_settings(self._bridge.name))
        stale = self._stale(survey) if self._adopted else ()
        loose = self._loose(survey)
        if loose:
            await self._kernel.replug(self._bridge.name, loose)
        if stale:
            await self._kernel.delete_links(stale)
        return Reconciled(
            bridge_made=missing,
            settings_changed=settings,
            links_deleted=stale,
            links_plugged=loose,
            table_changes=await self._firewall.converge(prune=self._adopted),
            lost=self._lost(survey),
        )

    def _bridge_is_missing(self, survey: Survey) -> bool:
        """Whether the bridge must be made. Raises Conflict when its name or its subnet is another's."""
        found = survey.interfaces.get(self._bridge.name)
        if found is not None and found.kind != "bridge":
            raise Conflict(
                f"cannot use {self._bridge.name} as bridge: an interface of that name exists and is no bridge; "
                "set another with BULKHEAD_BRIDGE"
            )
        if found is not None and self._bridge.address in found.addresses:
            return not found.up
        if found is not None and found.addresses:
            raise Conflict(
                f"cannot use bridge {self._bridge.name}: it has the address {found.addresses[0]}, not "
                f"{self._bridge.address}; delete it, or set BULKHEAD_BRIDGE or BULKHEAD_SUBNET"
            )
        clash = _clash(self._bridge, survey)
        if clash is not None:
            raise Conflict(
                f"cannot use subnet {self._bridge.subnet} for bridge {self._bridge.name}: it overlaps {clash}; "
                "set another with BULKHEAD_SUBNET"
            )
        return True

    def _stale(self, survey: Survey) -> tuple[str, ...]:
        return tuple(name for name in survey.interfaces if name not in self._live and self._is_ours(name, survey))

    def _loose(self, survey: Survey) -> tuple[str, ...]:
        """Live veths that are not, or will not be when the bridge is made, its ports."""
        there = (survey.interfaces[name] for name in self._live if name in survey.interfaces)
        return tuple(veth.name for veth in there if veth.master != self._bridge.name)

    def _lost(self, survey: Survey) -> tuple[str, ...]:
        return tuple(
            endpoint.container_id
            for name, endpoint in self._live.items()
            if name not in survey.interfaces and name not in self._plugging
        )


_FORWARDING = {"net/ipv4/ip_forward": "1"}


def _bridge_settings(name: str) -> dict[str, str]:
    return {
        # Clients on the host's 127.0.0.1 reach published ports; the firewall's guard closes the way back.
        f"net/ipv4/conf/{name}/route_localnet": "1",
        # An IPv4 network: no router of a container's making is believed, no link-local address answers it.
        f"net/ipv6/conf/{name}/accept_ra": "0",
        f"net/ipv6/conf/{name}/disable_ipv6": "1",
    }


def _clash(bridge: Bridge, survey: Survey) -> str | None:
    """A route or address of another interface inside the bridge's subnet, in words."""
    for destination, name in survey.routes:
        if name != bridge.name and destination.prefixlen >= _SHORTEST_CLASH and destination.overlaps(bridge.subnet):
            return f"the route to {destination} by interface {name or '(several)'}"
    for interface in survey.interfaces.values():
        for address in interface.addresses:
            if interface.name != bridge.name and address.ip in bridge.subnet:
                return f"the address {address} of interface {interface.name}"
    return None


def _docker_text(name: str | None, container_id: str, reason: BulkheadError) -> str:
    return (
        "driver failed programming external connectivity on endpoint "
        f"{name or container_id[:12]} ({container_id}): {reason}"
    )


def _mac_of(address: IPv4Address) -> str:
    """The MAC that goes with an address: whoever has it cached stays right when the address moves on."""
    return bytes((0x02, 0x42, *address.packed)).hex(":")


def _parse_subnet(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise InvalidArgument(f"cannot use subnet {text!r}: {error} (BULKHEAD_SUBNET)") from None


def _parse_address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError as error:
        raise InvalidArgument(f"invalid IPv4 address: {text}") from error


def _parse_mac(text: str) -> str:
    """A unicast MAC in lower case with colons."""
    mac = text.lower().replace("-", ":")
    if not MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidArgument(f"invalid MAC address: {text}")
    return mac


def _refuse_ipv6(port: PortBinding) -> None:
    if ":" in port.host_ip:
        raise NotImplementedYet(f"cannot publish a port on [{port.host_ip}]: networks have no IPv6 yet")
