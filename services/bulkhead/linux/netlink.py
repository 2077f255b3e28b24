"""rtnetlink(7): links, bridges, veth pairs, addresses, routes.

A request is bytes; `Netlink.request` sends any number of them in one datagram and waits for all
acknowledgements. Attribute numbers are those of linux/if_link.h, linux/rtnetlink.h, linux/if_bridge.h.
Everything raises OSError with the kernel's errno and, where it gave one, its own words (extack).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)

IPInterface = IPv4Interface | IPv6Interface

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # family, device type, index, flags, mask of flags to change
_IFADDR = struct.Struct("=BBBBi")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst_len, src_len, tos, table, protocol, scope, type, flags
_RTATTR = struct.Struct("=HH")

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _GETADDR = 20, 22
_NEWROUTE, _GETROUTE = 24, 26
_F_REQUEST, _F_ACK, _F_DUMP, _F_DUMP_INTR = 0x1, 0x4, 0x300, 0x10
_F_REPLACE, _F_EXCL, _F_CREATE = 0x100, 0x200, 0x400
_F_CAPPED, _F_ACK_TLVS = 0x100, 0x200
_ATTR_TYPE = 0x3FFF  # without the flags NESTED and NET_BYTEORDER
_NESTED = 0x8000

_IFF_UP = 0x1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_NET_NS_FD, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID = 18, 20, 28, 29, 37
_IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 31, 32
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1
_IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 4, 5
_IFLA_LINK, _IFLA_MACVLAN_MODE, _IFLA_VLAN_ID, _IFLA_IPVLAN_MODE, _IFLA_IPVLAN_FLAGS = 5, 1, 1, 1, 2
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}
_IFLA_BRPORT_STATE, _IFLA_BRPORT_MODE, _IFLA_BRPORT_FLUSH, _IFLA_BRPORT_ISOLATED = 1, 4, 24, 33
# Learning of MACs; flooding of unknown unicast, multicast, broadcast.
_BRPORT_TRAFFIC = (8, 9, 27, 30)
_BR_STATE_DISABLED = 0
_SKIP_STATISTICS = 1 << 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFA_F_NODAD = 0x02
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_ROUTE_KIND = 7  # where a route's message has it
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_RT_TABLE_MAIN, _RTPROT_BOOT, _RTN_UNICAST = 254, 3, 1
_RT_SCOPE_LINK = 253
_RTNLGRP_LINK = 1
_RECEIVE = 1 << 16
_SO_RCVBUFFORCE, _NEWS_BYTES = 33, 4 << 20
_SOCKET_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK

_BPF = struct.Struct("=HBBI")  # code, jump if true, jump if false, operand
_BPF_LOAD, _BPF_LOAD_HALF, _BPF_LOAD_BYTE, _BPF_JUMP_EQUAL, _BPF_RETURN = 0x20, 0x28, 0x30, 0x15, 0x06
_BPF_SET, _BPF_SET_INDEX, _BPF_TO_INDEX, _BPF_LOAD_AT, _BPF_LOAD_HALF_AT, _BPF_LOAD_BYTE_AT = 0, 1, 7, 0x40, 0x48, 0x50
# Places whose "load" finds the attribute number X, from the accumulator's place on or within the attribute there.
_BPF_ATTRIBUTE, _BPF_ATTRIBUTE_WITHIN = 0xFFFFF000 + 12, 0xFFFFF000 + 16
_SO_ATTACH_FILTER = 26


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface. `kind` is the driver's name ("bridge", "veth") or empty, `master` the index of its bridge or 0.

    `parent` is the index of the interface that it branches off or is tied to, or 0; `parent_netns` is -1 when that is
    in the same network namespace, else the id by which this one knows the other.
    """

    index: int
    name: str
    kind: str = ""
    master: int = 0
    mac: str = ""
    mtu: int = 0
    up: bool = False
    alias: str = ""
    parent: int = 0
    parent_netns: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A unicast route; `index` is 0 for one through several interfaces."""

    destination: IPv4Network | IPv6Network
    index: int
    table: int


class Netlink:
    """A netlink socket of the network namespace in which the calling thread stood when it was opened."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._sequence = 0
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.bind((0, 0))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, *requests: bytes) -> None:
        """Have the kernel carry out `requests`, in order, in one call.

        One that fails does not stop those after it; the first failure is raised.
        """
        if not requests:
            return  # the kernel takes no empty datagram
        first = self._sequence + 1
        datagram, last = self._numbered(requests)
        self._socket.sendall(datagram)
        while last:
            for kind, flags, sequence, body in self._receive():
                if kind != _NLMSG_ERROR or sequence < first:
                    continue  # of an earlier datagram, whose failure was raised before its end was heard
                error = _error(flags, body)
                if error is not None:
                    raise error
                if sequence == last:
                    return

    def links(self) -> tuple[Link, ...]:
        """All interfaces."""
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(
            _IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATISTICS)
        )
        return tuple(_link(message) for message in self.dump(_GETLINK, body))

    def link(self, name: str) -> Link | None:
        """The interface of a name, if there is one."""
        self._sequence += 1
        body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
        self._socket.sendall(_NLMSG.pack(_NLMSG.size + len(body), _GETLINK, _F_REQUEST, self._sequence, 0) + body)
        while True:
            for kind, flags, sequence, content in self._receive():
                if sequence != self._sequence:
                    continue
                if kind != _NLMSG_ERROR:
                    return _link(content)
                error = _error(flags, content) or OSError("netlink: no answer")
                if error.errno == errno.ENODEV:
                    return None
                raise error

    def addresses_within(
        self, networks: Sequence[IPv4Network | IPv6Network], *, of: int = 0
    ) -> list[tuple[int, IPInterface]]:
        """The addresses that lie in one of these, each with the index of its interface; all of the interface `of`."""
        found: list[tuple[int, IPInterface]] = []
        ranges = _ranges(networks)
        for version in _FAMILIES if of else ranges:
            listed = self.dump(_GETADDR, _IFADDR.pack(_FAMILIES[version], 0, 0, 0, 0))
            near = [_address(message) for message in listed if _is_within(message, ranges.get(version, ()), of)]
            found += [address for address in near if address is not None]
        return found

    def routes_across(self, networks: Sequence[IPv4Network | IPv6Network]) -> list[Route]:
        """The routes, of those that `routes` gives, whose destination shares addresses with one of these."""
        found: list[Route] = []
        for version, ranges in _ranges(networks).items():
            body = _RTMSG.pack(_FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)
            near = [_route(message) for message in self.dump(_GETROUTE, body) if _crosses(message, ranges)]
            found += [route for route in near if route is not None and not route.destination.is_link_local]
        return found

    def addresses(self) -> tuple[tuple[int, IPv4Interface | IPv6Interface], ...]:
        """All addresses, IPv4's first, each with the index of its interface."""
        bodies = [_IFADDR.pack(family, 0, 0, 0, 0) for family in _FAMILIES.values()]
        found = (_address(message) for body in bodies for message in self.dump(_GETADDR, body))
        return tuple(address for address in found if address is not None)

    def routes(self) -> tuple[Route, ...]:
        """All unicast routes of all tables, IPv4's first; no link-local ones, which every interface has."""
        bodies = [_RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) for family in _FAMILIES.values()]
        found = (_route(message) for body in bodies for message in self.dump(_GETROUTE, body))
        return tuple(route for route in found if route is not None and not route.destination.is_link_local)

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all answers to a question; asked anew when the tables changed under the kernel's hand."""
        while True:
            bodies, whole = self._dump_once(kind, body)
            if whole:
                return bodies

    def _numbered(self, requests: Sequence[bytes]) -> tuple[bytes, int]:
        """One datagram, and the number of the request that is answered when all are carried out; 0 for none.

        A failure is told of each, and before that: more answers would only have to be read.
        """
        headers = [_NLMSG.unpack_from(request) for request in requests]
        last = max((place for place, header in enumerate(headers) if header[2] & _F_ACK), default=-1)
        parts = []
        for place, (length, kind, flags, _, _) in enumerate(headers):
            asked = flags if place == last else flags & ~_F_ACK
            parts += [_NLMSG.pack(length, kind, asked, self._sequence + 1 + place, 0), requests[place][_NLMSG.size :]]
        answered = self._sequence + 1 + last if last >= 0 else 0
        self._sequence += len(requests)
        return b"".join(parts), answered

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        self._sequence += 1
        header = _NLMSG.pack(_NLMSG.size + len(body), kind, _F_REQUEST | _F_DUMP, self._sequence, 0)
        self._socket.sendall(header + body)
        bodies: list[bytes] = []
        whole = True
        while True:
            for answer, flags, sequence, content in self._receive():
                if sequence != self._sequence:
                    continue
                whole = whole and not flags & _F_DUMP_INTR
                if answer == _NLMSG_DONE:
                    return bodies, whole
                if answer == _NLMSG_ERROR:
                    raise _error(flags, content) or OSError("netlink: dump ended without an answer")
                bodies.append(content)

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        return _messages(self._socket.recv(_RECEIVE))


# Of classic BPF (linux/filter.h), as _BPF has it.
Instruction = tuple[int, int, int, int]


class Deletions:
    """News of what anyone deletes in the network namespace in which the calling thread stands.

    A kernel-side filter lets nothing but what is wanted through, so a busy host does not wake the reader.
    """

    def __init__(self, protocol: int, group: int, program: Sequence[Instruction]) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | _SOCKET_FLAGS, protocol)
        try:
            _filter(self._socket, program)
            # What is lost has to be looked for in all there is: others may delete thousands while we are held up.
            with suppress(PermissionError):
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _NEWS_BYTES)
            self._socket.bind((0, 1 << (group - 1)))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """Readable when there is news."""
        return self._socket.fileno()

    def read(self) -> list[tuple[int, bytes]] | None:
        """Kinds and bodies of the messages that wait, or None when some were lost."""
        found: list[tuple[int, bytes]] = []
        while True:
            try:
                found += [(kind, body) for kind, _, _, body in _messages(self._socket.recv(_RECEIVE))]
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return None
                raise

    def close(self) -> None:
        self._socket.close()


def bridge_deletions() -> Deletions:
    """News of deleted bridges; see `deleted_link`. Of veths, which come and go with containers, nothing is heard."""
    return Deletions(socket.NETLINK_ROUTE, _RTNLGRP_LINK, _deleted_bridges())


def deleted_link(body: bytes) -> str:
    """The name of the interface that a message of `bridge_deletions` is about."""
    return _link(body).name


def bridge(name: str, mac: str, *, up: bool = True) -> bytes:
    """Create a bridge if there is no such link; bring it up unless told not to.

    With a MAC of its own: one that is left to the kernel changes as ports come and go.
    """
    info = _text(_IFLA_INFO_KIND, "bridge")
    settings = _text(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, _mac(mac)) + nest(_IFLA_LINKINFO, info)
    return _link_request(_NEWLINK, _F_CREATE, settings, up=up)


def link_alias(name: str, alias: str) -> bytes:
    """Note at an interface whose it is (`ip link` shows it)."""
    return _link_request(_NEWLINK, 0, _text(_IFLA_IFNAME, name) + _text(_IFLA_IFALIAS, alias), up=False)


def veth(*, host: str, peer: str, peer_mac: str, netns: int, master: int, mtu: int) -> bytes:
    """Create a veth pair: `host`, up, a port of bridge `master` (its index), and `peer` in the namespace `netns`.

    The peer cannot be born up: it is made first, and a veth alone does not open. The kernel undoes
    all of it when any part fails. Each end has the one queue that it would have anyway: told so at once, the kernel has
    none to take away again, for which it holds the network lock through an RCU grace period.
    """
    queues = _number(_IFLA_NUM_TX_QUEUES, 1) + _number(_IFLA_NUM_RX_QUEUES, 1)
    far = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    far += _text(_IFLA_IFNAME, peer) + attribute(_IFLA_ADDRESS, _mac(peer_mac)) + _number(_IFLA_MTU, mtu)
    far += _number(_IFLA_NET_NS_FD, netns) + queues
    info = _text(_IFLA_INFO_KIND, "veth") + nest(_IFLA_INFO_DATA, nest(_VETH_INFO_PEER, far))
    near = _text(_IFLA_IFNAME, host) + _number(_IFLA_MTU, mtu) + _number(_IFLA_MASTER, master) + queues
    near += nest(_IFLA_LINKINFO, info)
    return _link_request(_NEWLINK, _F_CREATE | _F_EXCL, near)


def macvlan(name: str, parent: int, *, netns: int, mac: str, mode: str, mtu: int) -> bytes:
    """Create a macvlan link of the interface `parent` (its index) in the namespace `netns`."""
    data = _number(_IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])
    return _branch("macvlan", name, parent, netns, mtu, data, attribute(_IFLA_ADDRESS, _mac(mac)))


def ipvlan(name: str, parent: int, *, netns: int, mode: str, flag: str, mtu: int) -> bytes:
    """Create an ipvlan link of the interface `parent` (its index), whose MAC it has, in the namespace `netns`."""
    data = _short(_IFLA_IPVLAN_MODE, IPVLAN_MODES[mode]) + _short(_IFLA_IPVLAN_FLAGS, IPVLAN_FLAGS[flag])
    return _branch("ipvlan", name, parent, netns, mtu, data, b"")


def vlan(name: str, parent: int, number: int) -> bytes:
    """Create an 802.1Q link of the interface `parent` (its index), up."""
    info = _text(_IFLA_INFO_KIND, "vlan") + nest(_IFLA_INFO_DATA, _short(_IFLA_VLAN_ID, number))
    settings = _text(_IFLA_IFNAME, name) + _number(_IFLA_LINK, parent) + nest(_IFLA_LINKINFO, info)
    return _link_request(_NEWLINK, _F_CREATE | _F_EXCL, settings)


def dummy(name: str) -> bytes:
    """Create an interface that leads nowhere, up."""
    info = _text(_IFLA_INFO_KIND, "dummy")
    return _link_request(_NEWLINK, _F_CREATE | _F_EXCL, _text(_IFLA_IFNAME, name) + nest(_IFLA_LINKINFO, info))


def cable(name: str, peer: str) -> bytes:
    """Create a veth pair with both ends here, both down: one alone does not open."""
    far = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _text(_IFLA_IFNAME, peer)
    info = _text(_IFLA_INFO_KIND, "veth") + nest(_IFLA_INFO_DATA, nest(_VETH_INFO_PEER, far))
    settings = _text(_IFLA_IFNAME, name) + nest(_IFLA_LINKINFO, info)
    return _link_request(_NEWLINK, _F_CREATE | _F_EXCL, settings, up=False)


def _branch(kind: str, name: str, parent: int, netns: int, mtu: int, data: bytes, settings: bytes) -> bytes:
    settings += _text(_IFLA_IFNAME, name) + _number(_IFLA_LINK, parent) + _number(_IFLA_NET_NS_FD, netns)
    settings += _number(_IFLA_MTU, mtu) if mtu else b""
    settings += nest(_IFLA_LINKINFO, _text(_IFLA_INFO_KIND, kind) + nest(_IFLA_INFO_DATA, data))
    return _link_request(_NEWLINK, _F_CREATE | _F_EXCL, settings, up=False)


def _short(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def link_up(index: int) -> bytes:
    """Bring an interface up."""
    return _link_request(_NEWLINK, 0, b"", index=index)


def link_master(name: str, master: int) -> bytes:
    """Make an interface a port of the bridge with index `master`, and bring it up."""
    return _link_request(_NEWLINK, 0, _text(_IFLA_IFNAME, name) + _number(_IFLA_MASTER, master))


def delete_link(name: str) -> bytes:
    """Delete an interface; a veth takes its peer with it. Slow (an RCU grace period): never on a request's path."""
    return _link_request(_DELLINK, 0, _text(_IFLA_IFNAME, name), up=False)


def silence_port(name: str) -> bytes:
    """Let a bridge port send and receive nothing any more, and forget the MACs behind it.

    For a port whose container is gone and whose deletion the kernel still owes: without it, frames
    for a successor with the same MAC go to the dead one. The state alone would not do, because a
    late news of the link's carrier sets it back; the flags stay.
    """
    settings = attribute(_IFLA_BRPORT_STATE, bytes((_BR_STATE_DISABLED,)))
    settings += b"".join(attribute(flag, b"\0") for flag in _BRPORT_TRAFFIC)
    return _port_request(name, settings + attribute(_IFLA_BRPORT_FLUSH, b""))


def hairpin_port(name: str) -> bytes:
    """Let a bridge port send a frame back where it came from: a container that calls its own published port."""
    return _port_request(name, attribute(_IFLA_BRPORT_MODE, b"\1"))


def isolated_port(name: str) -> bytes:
    """Let a bridge port exchange frames with the bridge alone, not with other such ports."""
    return _port_request(name, attribute(_IFLA_BRPORT_ISOLATED, b"\1"))


def add_address(index: int, address: IPv4Interface | IPv6Interface) -> bytes:
    """Give an interface an address with its on-link route; no error if it has it.

    An IPv6 address serves at once: who gives it knows that nobody else has it.
    """
    six = address.version == 6
    body = _IFADDR.pack(_FAMILIES[address.version], address.network.prefixlen, _IFA_F_NODAD if six else 0, 0, index)
    body += attribute(_IFA_LOCAL, address.ip.packed) + attribute(_IFA_ADDRESS, address.ip.packed)
    if not six:
        body += attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
    return message(_NEWADDR, _F_CREATE | _F_REPLACE, body)


def set_default_route(index: int, gateway: IPv4Address | IPv6Address) -> bytes:
    """Route everything else of the gateway's family through it on the interface `index`, whatever the route was."""
    family = _FAMILIES[gateway.version]
    body = _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, 0, _RTN_UNICAST, 0)
    body += attribute(_RTA_GATEWAY, gateway.packed) + _number(_RTA_OIF, index)
    return message(_NEWROUTE, _F_CREATE | _F_REPLACE, body)


def set_direct_route(index: int, version: int) -> bytes:
    """Route everything else of a family (4 or 6) out of an interface, without a gateway."""
    scope = _RT_SCOPE_LINK if version == 4 else 0
    body = _RTMSG.pack(_FAMILIES[version], 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, scope, _RTN_UNICAST, 0)
    return message(_NEWROUTE, _F_CREATE | _F_REPLACE, body + _number(_RTA_OIF, index))


def message(kind: int, flags: int, body: bytes, *, acknowledged: bool = True) -> bytes:
    """A request of any netlink protocol."""
    flags |= _F_REQUEST | (_F_ACK if acknowledged else 0)
    return _NLMSG.pack(_NLMSG.size + len(body), kind, flags, 0, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute of a request, padded."""
    return _RTATTR.pack(_RTATTR.size + len(value), kind) + value + bytes(-len(value) % 4)


def nest(kind: int, value: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, value)


def _link_request(kind: int, flags: int, settings: bytes, *, index: int = 0, up: bool = True) -> bytes:
    wanted = _IFF_UP if up else 0
    return message(kind, flags, _IFINFO.pack(socket.AF_UNSPEC, 0, index, wanted, wanted) + settings)


def _port_request(name: str, settings: bytes) -> bytes:
    """Change a bridge port by its name; the kernel's other way to do it (AF_BRIDGE) wants its index."""
    info = _text(_IFLA_INFO_SLAVE_KIND, "bridge") + nest(_IFLA_INFO_SLAVE_DATA, settings)
    return _link_request(_NEWLINK, 0, _text(_IFLA_IFNAME, name) + nest(_IFLA_LINKINFO, info), up=False)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(kind, flags, sequence, body) of each message of a datagram."""
    offset = 0
    while offset + _NLMSG.size <= len(data):
        length, kind, flags, sequence, _ = _NLMSG.unpack_from(data, offset)
        yield kind, flags, sequence, data[offset + _NLMSG.size : offset + length]
        offset += (length + 3) & ~3


def of_kinds(kinds: Sequence[int]) -> list[Instruction]:
    """For `Deletions`: the messages whose type is in `kinds`."""
    # The type lies at offset 4 in host order; BPF loads in network order.
    wanted = [socket.htons(kind) for kind in kinds]
    jumps = [(_BPF_JUMP_EQUAL, len(wanted) - place, 0, kind) for place, kind in enumerate(wanted)]
    return [(_BPF_LOAD_HALF, 0, 0, 4), *jumps, (_BPF_RETURN, 0, 0, 0), (_BPF_RETURN, 0, 0, 0xFFFFFFFF)]


def _deleted_bridges() -> list[Instruction]:
    """DELLINK of an interface (family 0: of 7 it is a port that leaves its bridge) whose kind is "bridge"."""
    body, value, name = _NLMSG.size, _RTATTR.size, b"bridge\0"
    # What is loaded, or found; what it is to be.
    tests: list[tuple[list[tuple[int, int]], int]] = [
        ([(_BPF_LOAD_HALF, 4)], socket.htons(_DELLINK)),
        ([(_BPF_LOAD_BYTE, body)], socket.AF_UNSPEC),
        # Without the attribute the place found is 0, where no kind lies.
        (
            [
                (_BPF_SET, body + _IFINFO.size),
                (_BPF_SET_INDEX, _IFLA_LINKINFO),
                (_BPF_LOAD, _BPF_ATTRIBUTE),
                (_BPF_SET_INDEX, _IFLA_INFO_KIND),
                (_BPF_LOAD, _BPF_ATTRIBUTE_WITHIN),
                (_BPF_TO_INDEX, 0),
                (_BPF_LOAD_AT, value),
            ],
            int.from_bytes(name[:4], "big"),
        ),
        ([(_BPF_LOAD_HALF_AT, value + 4)], int.from_bytes(name[4:6], "big")),
        ([(_BPF_LOAD_BYTE_AT, value + 6)], name[6]),
    ]
    program: list[Instruction] = [(_BPF_RETURN, 0, 0, 0xFFFFFFFF), (_BPF_RETURN, 0, 0, 0)]
    for loads, wanted in reversed(tests):
        jump = (_BPF_JUMP_EQUAL, 0, len(program) - 1, wanted)
        program = [*((code, 0, 0, operand) for code, operand in loads), jump, *program]
    return program


def _filter(netlink: socket.socket, program: Sequence[Instruction]) -> None:
    """Have the kernel drop all messages but those that a program of classic BPF returns whole (socket(7))."""
    code = ctypes.create_string_buffer(b"".join(_BPF.pack(*instruction) for instruction in program))
    netlink.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    )


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes (type -> value) in a message's body after its fixed header."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _RTATTR.size <= len(data):
        length, kind = _RTATTR.unpack_from(data, offset)
        if length < _RTATTR.size:
            break
        found[kind & _ATTR_TYPE] = data[offset + _RTATTR.size : offset + length]
        offset += (length + 3) & ~3
    return found


def _error(flags: int, body: bytes) -> OSError | None:
    """The failure that an NLMSG_ERROR tells of; None is success."""
    (code,) = struct.unpack_from("=i", body)
    if code == 0:
        return None
    words = ""
    if flags & _F_ACK_TLVS:
        # The request's header comes back after the code, and its body too unless it was capped.
        (length,) = struct.unpack_from("=I", body, 4)
        offset = 4 + (_NLMSG.size if flags & _F_CAPPED else (length + 3) & ~3)
        words = attributes(body[offset:]).get(1, b"").rstrip(b"\0").decode(errors="replace")
    return OSError(-code, f"{os.strerror(-code)} ({words})" if words else os.strerror(-code))


def _link(message: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(message)
    found = attributes(message[_IFINFO.size :])
    info = attributes(found.get(_IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=_word(found[_IFLA_IFNAME]),
        kind=_word(info.get(_IFLA_INFO_KIND, b"")),
        master=_integer(found.get(_IFLA_MASTER)),
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
        mtu=_integer(found.get(_IFLA_MTU)),
        up=bool(flags & _IFF_UP),
        alias=_word(found.get(_IFLA_IFALIAS, b"")),
        parent=_integer(found.get(_IFLA_LINK)),
        parent_netns=struct.unpack("=i", found[_IFLA_LINK_NETNSID])[0] if _IFLA_LINK_NETNSID in found else -1,
    )


def _address(message: bytes) -> tuple[int, IPv4Interface | IPv6Interface] | None:
    _, prefix, _, _, index = _IFADDR.unpack_from(message)
    found = attributes(message[_IFADDR.size :])
    local = found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS))
    return None if local is None else (index, ip_interface((local, prefix)))


def _route(message: bytes) -> Route | None:
    family, prefix, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(message)
    found = attributes(message[_RTMSG.size :])
    if kind != _RTN_UNICAST:
        return None
    destination = ip_network((found.get(_RTA_DST, bytes(4 if family == socket.AF_INET else 16)), prefix))
    table = _integer(found.get(_RTA_TABLE)) or table
    return Route(destination=destination, index=_integer(found.get(_RTA_OIF)), table=table)


def _ranges(networks: Sequence[IPv4Network | IPv6Network]) -> dict[int, list[tuple[int, int]]]:
    """By family: the first and last addresses of each."""
    found: dict[int, list[tuple[int, int]]] = {}
    for each in networks:
        found.setdefault(each.version, []).append((int(each[0]), int(each[-1])))
    return found


def _is_within(message: bytes, ranges: Sequence[tuple[int, int]], index: int) -> bool:
    """Whether it is an address in a range, or of that interface; found without making objects of all that are not."""
    if index and _IFADDR.unpack_from(message)[-1] == index:
        return True
    held = _first(message, _IFADDR.size, _IFA_LOCAL) or _first(message, _IFADDR.size, _IFA_ADDRESS)
    number = int.from_bytes(held, "big")
    return any(first <= number <= last for first, last in ranges)


def _crosses(message: bytes, ranges: Sequence[tuple[int, int]]) -> bool:
    """Whether it is a unicast route that shares addresses with a range; likewise."""
    family, prefix = message[0], message[1]
    if message[_ROUTE_KIND] != _RTN_UNICAST:
        return False
    bits = 32 if family == socket.AF_INET else 128
    # Without a destination it leads everywhere.
    first = int.from_bytes(_first(message, _RTMSG.size, _RTA_DST), "big") if prefix else 0
    beyond = first + (1 << (bits - prefix))
    return any(first <= end and begin < beyond for begin, end in ranges)


def _first(message: bytes, offset: int, wanted: int) -> bytes:
    """An attribute of a message, whose attributes begin at the offset, or nothing."""
    while offset + _RTATTR.size <= len(message):
        length, kind = _RTATTR.unpack_from(message, offset)
        if kind & _ATTR_TYPE == wanted or length < _RTATTR.size:
            return message[offset + _RTATTR.size : offset + length]
        offset += (length + 3) & ~3
    return b""


def _integer(value: bytes | None) -> int:
    return 0 if value is None else int(struct.unpack_from("=I", value)[0])


def _word(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
