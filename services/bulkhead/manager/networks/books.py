"""The books of networks on bridges: which are planned, who is plugged in, and what of a survey is not as they say.

Nothing here touches the kernel, and nothing waits: what is decided is whole before anybody else has his turn.
"""

from __future__ import annotations

import functools
import re
import secrets
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import structlog

from bulkhead.errors import BulkheadError, Conflict, InvalidArgument, NotFound
from bulkhead.manager.networks import bindings
from bulkhead.manager.networks.hostports import HostPorts
from bulkhead.manager.networks.leases import Leases
from bulkhead.manager.networks.macs import mac_of, parse_mac
from bulkhead.manager.networks.ports import AddressWish, Bridge, Kernel, Survey
from bulkhead.model.instance import Instance
from bulkhead.model.network import (
    ANY,
    ANY6,
    DEFAULT_NETWORK,
    INTERFACE_NAME,
    BridgePlan,
    Endpoint,
    GatewayMode,
    Plan,
    PortBinding,
)
from bulkhead.model.replacing import replace

_log = structlog.get_logger()
_INTERFACE_LENGTH = 15  # IFNAMSIZ less its NUL
_DEFAULT_ID_DIGITS = 12
# A busy machine takes its time with a dead network namespace.
_LEAVING_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """One network: its plan, its bridge, who has which of its addresses."""

    plan: BridgePlan
    bridge: Bridge
    leases: Leases


class Books:
    """Networks by their keys, live endpoints by their interfaces on the host."""

    def __init__(self, instance: Instance, kernel: Kernel) -> None:
        elsewhere = functools.partial(kernel.published_elsewhere, instance.nft_table)
        self._ports = HostPorts(kernel.bindable, elsewhere, kernel.ephemeral_ports, kernel.reserve, kernel.unreserve)
        self._has_ipv6 = kernel.has_ipv6
        self._prefix = instance.veth_prefix
        self._alias = instance.network_alias
        self.nets: dict[str, Net] = {}
        self.unmade: dict[str, Conflict] = {}  # why they could not be
        self.live: dict[str, Endpoint] = {}
        self._plugging: set[str] = set()  # those of them that are being attached just now
        # Ports that they are to get, by their interfaces, beside those that their containers have.
        self._promised: dict[str, tuple[PortBinding, ...]] = {}
        self._leaving: dict[str, float] = {}  # when who is gone was detached: his veth goes with his namespace

    # -- networks

    def plan(self, wanted: Plan) -> None:
        """Enter a network. Raises InvalidArgument for what can never be one."""
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
        self.nets[wanted.key] = Net(plan=wanted, bridge=bridge, leases=leases)

    def strike(self, key: str) -> Net | None:
        """Take a network out, and give what was there. Raises Conflict while somebody is plugged into it."""
        if any(endpoint.network == key for endpoint in self.live.values()):
            raise Conflict(f"cannot remove network {key}: containers are plugged into it")
        return self.nets.pop(key, None)

    def net(self, key: str) -> Net:
        net = self.nets.get(key)
        if net is None:
            raise NotFound(f"network {key} not found")
        if key in self.unmade:
            raise self.unmade[key]
        return net

    def bridges(self) -> list[Bridge]:
        return [net.bridge for net in self.nets.values()]

    # -- endpoints

    def reserve(
        self,
        net: Net,
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
            self._settle_ports()
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
        self.live[endpoint.host_interface] = endpoint
        self._plugging.add(endpoint.host_interface)
        return endpoint

    def _published(
        self,
        net: Net,
        container_id: str,
        routed: Collection[int],
        ports: Sequence[PortBinding],
        name: str | None,
        held: Collection[PortBinding] = (),
    ) -> tuple[PortBinding, ...]:
        """Host ports for the bindings of routed families; an internal network publishes nothing."""
        plan = net.plan
        open_to = [each for each in plan.families if each.subnet.version in routed and not plan.internal]
        translated = [each.subnet.version for each in open_to if each.mode is not GatewayMode.ROUTED]
        try:
            kept = [port for port in ports if bindings.is_answered(port, plan, open_to)]
            wildcards = bindings.wildcards(plan, translated)
            booked = [port for port in kept if bindings.is_booked(port, plan, translated)]
            if wildcards == [ANY] and plan.v6 is None and 6 in routed and self._has_ipv6():
                wildcards = [ANY, ANY6]  # the container's shim listens there
                booked = [bindings.unrelayed(port) for port in booked]
            given = self._ports.allocate(container_id, booked, wildcards, held=held)
        except BulkheadError as error:
            raise error.told_as(_docker_text(name, container_id, error)) from error
        return (*given, *bindings.reached_directly(kept, open_to))

    def _interface_name(self) -> str:
        """A new name for a veth's host end, such that instances recognise their own (`is_ours`)."""
        while True:
            name = self._prefix + secrets.token_hex(_INTERFACE_LENGTH)[: self._digits]
            if name not in self.live:
                return name

    @property
    def _digits(self) -> int:
        # The default instance's prefix begins every other's: its names are one character shorter.
        return min(_DEFAULT_ID_DIGITS, _INTERFACE_LENGTH - len(self._prefix))

    def settle(self, endpoint: Endpoint) -> None:
        """It is no longer being attached: it is there, or nothing of it is."""
        self._plugging.discard(endpoint.host_interface)
        self._break_promise(endpoint)
        self._settle_ports()

    def _settle_ports(self) -> None:
        if not self._plugging and not self._promised:
            self._ports.settle()

    def promise(
        self,
        net: Net,
        endpoint: Endpoint,
        routed: Collection[int],
        ports: Sequence[PortBinding],
        held: Collection[PortBinding],
        name: str | None,
    ) -> Endpoint:
        """Book host ports for an endpoint that is live, or nothing; it stays what it is until an `exchange`."""
        self._break_promise(endpoint)
        try:
            given = self._published(net, endpoint.container_id, routed, ports, name, held)
        except BulkheadError:
            self._settle_ports()
            raise
        self._promised[endpoint.host_interface] = tuple(each for each in given if not _is_held(each, held))
        return replace(endpoint, ports=given)

    def _break_promise(self, endpoint: Endpoint) -> None:
        self._ports.release(endpoint.container_id, self._promised.pop(endpoint.host_interface, ()))

    def exchange(self, endpoints: Iterable[Endpoint]) -> tuple[list[Endpoint], list[Endpoint]]:
        """Have live endpoints of a container be these; what those were, and these. `settle` each when it is done."""
        after = [each for each in endpoints if each.host_interface in self.live]
        before = [self.live[each.host_interface] for each in after]
        for was in before:
            self._break_promise(was)
            self._ports.release(was.container_id, was.ports)
        for each in after:
            self.live[each.host_interface] = each
            self._plugging.add(each.host_interface)
            self._ports.claim(each.container_id, each.ports)
        return before, after

    def release(self, endpoint: Endpoint) -> None:
        """Free what it held."""
        net = self.nets.get(endpoint.network)
        if net is not None:
            net.leases.release(endpoint.container_id, [each.ip for each in endpoint.addresses])
        self._ports.release(endpoint.container_id, endpoint.ports)

    def adopt(self, live: Iterable[Endpoint]) -> None:
        """Rebuild the books from the manager's records and the attachments under way."""
        pending = {name: endpoint for name, endpoint in self.live.items() if name in self._plugging}
        self.live = {**{endpoint.host_interface: endpoint for endpoint in live}, **pending}
        for net in self.nets.values():
            net.leases.forget()
        self._ports.forget()
        for endpoint in self.live.values():
            found = self.nets.get(endpoint.network)
            if found is not None and not found.leases.claim(endpoint):
                _log.error("two live containers have one address", address=endpoint.address, id=endpoint.container_id)
            self._ports.claim(endpoint.container_id, endpoint.ports)
            self._ports.claim(endpoint.container_id, self._promised.get(endpoint.host_interface, ()))

    def note_leaving(self, endpoint: Endpoint) -> None:
        """It is detached, and its veth goes by itself."""
        now = time.monotonic()
        while self._leaving and now - self._leaving[oldest := next(iter(self._leaving))] > _LEAVING_SECONDS:
            del self._leaving[oldest]
        self._leaving[endpoint.host_interface] = now

    def note_gone(self, endpoint: Endpoint) -> None:
        """Its veth does not go by itself: somebody deletes it now."""
        self._leaving.pop(endpoint.host_interface, None)

    # -- a survey of the host

    def is_ours(self, name: str, survey: Survey) -> bool:
        """Whether an interface is a veth that this instance made."""
        found = survey.interfaces[name]
        return (
            found.kind == "veth"
            and (not found.master or any(found.master == bridge.name for bridge in self.bridges()))
            and re.fullmatch(rf"{self._prefix}[0-9a-f]{{{self._digits}}}", name) is not None
        )

    def stale(self, survey: Survey) -> tuple[str, ...]:
        """Veths and bridges that this instance made and nobody has any more."""
        known = self.live.keys() | self._leaving_now()
        veths = tuple(name for name in survey.interfaces if name not in known and self.is_ours(name, survey))
        planned = {bridge.name for bridge in self.bridges()}
        bridges = (each for each in survey.interfaces.values() if each.kind == "bridge" and each.alias == self._alias)
        return (*veths, *(bridge.name for bridge in bridges if bridge.name not in planned))

    def _leaving_now(self) -> set[str]:
        """Veths that nobody has to delete: their namespaces are dying, or have just died."""
        since = time.monotonic() - _LEAVING_SECONDS
        return {name for name, at in self._leaving.items() if at > since}

    def loose(self, survey: Survey) -> dict[str, list[str]]:
        """By bridge: live veths that are not, or will not be when the bridge is made, its ports."""
        found: dict[str, list[str]] = {}
        for name, endpoint in self.live.items():
            net = self.nets.get(endpoint.network)
            veth = survey.interfaces.get(name)
            if net is not None and veth is not None and veth.master != net.bridge.name:
                found.setdefault(net.bridge.name, []).append(name)
        return found

    def lost(self, survey: Survey) -> tuple[str, ...]:
        """Containers whose veths are not there."""
        return tuple(
            endpoint.container_id
            for name, endpoint in self.live.items()
            if name not in survey.interfaces and name not in self._plugging
        )


def _is_held(port: PortBinding, held: Iterable[PortBinding]) -> bool:
    place = port.protocol, port.host_ip, port.host_port
    return any(place == (each.protocol, each.host_ip, each.host_port) for each in held)


def _docker_text(name: str | None, container_id: str, reason: BulkheadError) -> str:
    return (
        "driver failed programming external connectivity on endpoint "
        f"{name or container_id[:12]} ({container_id}): {reason}"
    )
