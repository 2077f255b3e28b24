"""Bridges, and the pairs of interfaces that plug network namespaces into them, by rtnetlink.

A thread that has entered a namespace here stays in it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bulkhead.errors import InvalidArgument
from bulkhead.linux import netlink
from bulkhead.linux.netlink import Netlink
from bulkhead.linux.netns import enter_netns, netns_of
from bulkhead.manager.adapters import sysctls
from bulkhead.manager.networks.ports import LINK_GATEWAY, Bridge, Wire
from bulkhead.manager.networks.settings import refusal
from bulkhead.model.network import IPAddress, IPInterface, Netns, ProcessNetns

_LOOPBACK_INDEX = 1  # of every network namespace
_OWN_NETNS = Path("/proc/thread-self/ns/net")
# Set before the interface is born, so there is no moment in which it believes a router or has an address; and with
# IPv6 its own link-local one serves at once.
_NEWBORN = {"net/ipv6/conf/default/accept_ra": "0", "net/ipv6/conf/default/accept_dad": "0"}
_DISABLE_IPV6 = "net/ipv6/conf/default/disable_ipv6"
_BRIDGE_IPV6 = {
    True: {"accept_ra": "0", "accept_dad": "0", "disable_ipv6": "0"},
    False: {"accept_ra": "0", "disable_ipv6": "1"},
}
_GONE = (errno.ENODEV, errno.ENXIO)


def make_bridge(bridge: Bridge) -> None:
    with Netlink() as host:
        # Down at first: its IPv6 cannot be told anything before it exists. In one go with the note whose it is: a
        # death between them would leave a bridge that nobody sweeps.
        noted = [netlink.link_alias(bridge.name, bridge.alias)] if bridge.alias else []
        host.request(netlink.bridge(bridge.name, bridge.mac, up=False), *noted)
        for setting, value in _BRIDGE_IPV6[bridge.v6 is not None].items():
            sysctls.write(f"net/ipv6/conf/{bridge.name}/{setting}", value)
        index = socket.if_nametoindex(bridge.name)
        host.request(netlink.link_up(index))
        own = (*bridge.addresses, LINK_GATEWAY) if bridge.v6 else bridge.addresses
        for address in own:
            host.request(netlink.add_address(index, address))


def plug(netns: Netns, wire: Wire) -> None:
    # A socket belongs to the namespace in which it is opened: the host's before this thread leaves it.
    with opened(netns) as target, Netlink() as host:
        bridge = socket.if_nametoindex(wire.bridge)
        enter_netns(target)
        newborn(wire.addresses)
        wire_up(host, target, bridge, wire)


def wire_up(host: Netlink, netns: int, bridge: int, wire: Wire) -> None:
    """The calling thread stands in `netns`, which is as for a newborn."""
    with Netlink() as inside:
        host.request(_pair(wire, netns, bridge))
        try:
            inside.request(*_container_side(wire))
            if wire.hairpin:
                host.request(netlink.hairpin_port(wire.host_interface))
            if wire.isolated:
                host.request(netlink.isolated_port(wire.host_interface))
        except BaseException:
            host.request(netlink.delete_link(wire.host_interface))
            raise


def newborn(addresses: Sequence[IPInterface]) -> None:
    """Set what the next interface of the calling thread's namespace is born with."""
    for path, value in _NEWBORN.items():
        sysctls.write(path, value)
    sysctls.write(_DISABLE_IPV6, "0" if wants_ipv6(addresses) else "1")


def wants_ipv6(addresses: Sequence[IPInterface]) -> bool:
    return any(each.version == 6 for each in addresses)


def _pair(wire: Wire, netns: int, bridge: int) -> bytes:
    return netlink.veth(
        host=wire.host_interface, peer=wire.interface, peer_mac=wire.mac, netns=netns, master=bridge, mtu=wire.mtu
    )


def _container_side(wire: Wire) -> tuple[bytes, ...]:
    """What is left to do inside: the calling thread stands in the container's namespace."""
    index = socket.if_nametoindex(wire.interface)
    return (
        netlink.link_up(_LOOPBACK_INDEX),
        netlink.link_up(index),
        *(netlink.add_address(index, address) for address in wire.addresses),
        *(netlink.set_default_route(index, gateway) for gateway in wire.gateways),
    )


def route(netns: Netns, interface: str, gateways: Sequence[IPAddress]) -> None:
    with opened(netns) as target:
        enter_netns(target)
        with Netlink() as inside:
            index = socket.if_nametoindex(interface)
            inside.request(*(netlink.set_default_route(index, gateway) for gateway in gateways))


def loopback(netns: Netns) -> None:
    with opened(netns) as target:
        enter_netns(target)
        with Netlink() as inside:
            inside.request(netlink.link_up(_LOOPBACK_INDEX))


def tune(netns: Netns, settings: Mapping[str, str]) -> None:
    with opened(netns) as target:
        enter_netns(target)
        for path, value in settings.items():
            try:
                (sysctls.ROOT / path).write_bytes(value.encode())
            except OSError as error:
                raise refusal(path, error) from error


@contextmanager
def opened(netns: Netns) -> Iterator[int]:
    """A descriptor of the namespace. Raises InvalidArgument when it is the host's: no container owns that."""
    if isinstance(netns, ProcessNetns):
        with netns_of(netns.pid, netns.start_time) as descriptor:
            _refuse_own(descriptor)
            yield descriptor
    else:
        _refuse_own(netns)
        yield netns


def _refuse_own(netns: int) -> None:
    """By the calling thread's own namespace, which is the host's: it has entered no other yet."""
    if os.path.samestat(os.fstat(netns), _OWN_NETNS.stat()):
        raise InvalidArgument("cannot attach a network namespace: it is the host's own")


def replug(bridge: str, names: Sequence[str]) -> None:
    index = socket.if_nametoindex(bridge)
    with Netlink() as host:
        for name in names:
            with _unless_gone():
                host.request(netlink.link_master(name, index))


def silence(name: str) -> None:
    with Netlink() as host, _unless_gone():
        host.request(netlink.silence_port(name))


def reflect(name: str) -> None:
    with Netlink() as host, _unless_gone():
        host.request(netlink.hairpin_port(name))


def delete_links(names: Sequence[str]) -> None:
    with Netlink() as host:
        for name in names:
            with _unless_gone():
                host.request(netlink.delete_link(name))


@contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise
