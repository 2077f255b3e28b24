"""H24: a container that lies about who it is, frame by frame, and its neighbour that must not hear it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import pytest

from bulkhead.manager.networks.ports import AddressWish
from bulkhead.model.instance import Instance
from bulkhead.model.network import Endpoint, link_local
from tests.integration.network.private_host import PATIENCE, Host, inside, on_private_host

pytestmark = pytest.mark.root

TABLE = Instance().nft_table
ETH_P_ALL, IPV4, ARP, IPV6, EXPERIMENTAL = 0x0003, 0x0800, 0x0806, 0x86DD, 0x88B5
ARP_REPLY, UDP = 2, 17
MARK = b"the end of the lies"


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbourhood:
    """Three containers: one that lies, one that listens, one that is impersonated."""

    liar: Endpoint
    listener: Endpoint
    model: Endpoint
    gateway_mac: str
    liar_netns: int
    listener_netns: int


async def _neighbourhood(host: Host, instance: Instance | None = None) -> Neighbourhood:
    network = host.network(instance)
    await network.ensure()
    await network.reconcile([])
    namespaces = [host.netns() for _ in range(3)]
    liar, listener, model = [await network.attach(letter * 64, n) for letter, n in zip("abc", namespaces, strict=True)]
    return Neighbourhood(
        liar=liar,
        listener=listener,
        model=model,
        gateway_mac=host.links()[Instance().bridge].mac,
        liar_netns=namespaces[0],
        listener_netns=namespaces[1],
    )


def _lies(place: Neighbourhood) -> Mapping[str, bytes]:
    """Frames from the liar to the listener, by what is wrong with them."""
    me, model, gateway = place.liar, place.model, place.liar.gateway
    to = place.listener.mac
    return {
        "the gateway's address by ARP": _frame(to, me.mac, ARP, _arp(me.mac, gateway)),
        "another's address by ARP": _frame(to, me.mac, ARP, _arp(me.mac, model.address)),
        "my address at another's MAC by ARP": _frame(to, me.mac, ARP, _arp(model.mac, me.address)),
        "the gateway's address": _frame(to, me.mac, IPV4, _udp(gateway, place.listener.address, b"lie")),
        "another's address": _frame(to, me.mac, IPV4, _udp(model.address, place.listener.address, b"lie")),
        "another's MAC": _frame(to, model.mac, IPV4, _udp(me.address, place.listener.address, b"lie")),
        "another's MAC, nobody's address": _frame(
            to, model.mac, IPV4, _udp("10.9.9.9", place.listener.address, b"lie")
        ),
        "another's MAC, no address at all": _frame(to, model.mac, EXPERIMENTAL, b"lie" * 20),
        "the gateway's MAC": _frame(to, place.gateway_mac, IPV4, _udp(me.address, place.listener.address, b"lie")),
        "another's MAC and address": _frame(to, model.mac, IPV4, _udp(model.address, place.listener.address, b"lie")),
        "a router advertisement": _frame("33:33:00:00:00:01", me.mac, IPV6, _router_advertisement()),
    }


def _lies6(place: Neighbourhood) -> Mapping[str, bytes]:
    """The same over IPv6."""
    me, model = place.liar, place.model
    mine, theirs = str(link_local(me.mac)), str(link_local(model.mac))
    to, there = place.listener.mac, place.listener.address6

    def frame(source: str, packet: bytes) -> bytes:
        return _frame(to, source, IPV6, packet)

    return {
        "the gateway's address": frame(me.mac, _udp6(me.gateway6, there, b"lie")),
        "another's address": frame(me.mac, _udp6(model.address6, there, b"lie")),
        "another's link-local address": frame(me.mac, _udp6(theirs, there, b"lie")),
        "every router's address": frame(me.mac, _udp6("fe80::1", there, b"lie")),
        "another's MAC": frame(model.mac, _udp6(me.address6, there, b"lie")),
        "another's MAC and address": frame(model.mac, _udp6(model.address6, there, b"lie")),
        "the gateway is here": frame(me.mac, _advertisement(me.address6, there, me.gateway6, me.mac)),
        "every router is here": frame(me.mac, _advertisement(mine, there, "fe80::1", me.mac)),
        "another is here": frame(me.mac, _advertisement(me.address6, there, model.address6, me.mac)),
        "another's link-local address is here": frame(me.mac, _advertisement(mine, there, theirs, me.mac)),
        "I am a router": frame(me.mac, _icmp6(mine, there, 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0))),
        "better go through me": frame(me.mac, _icmp6(mine, there, 137, bytes(4) + _ip6(mine) + _ip6(model.address6))),
    }


def _ip6(text: str) -> bytes:
    return IPv6Address(text).packed


def _packet6(source: str, destination: str, kind: int, body: bytes) -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(body), kind, 255) + _ip6(source) + _ip6(destination) + body


def _udp6(source: str, destination: str, text: bytes) -> bytes:
    return _packet6(source, destination, UDP, struct.pack("!HHHH", 53, 53, 8 + len(text), 1) + text)


def _icmp6(source: str, destination: str, kind: int, rest: bytes) -> bytes:
    pseudo = _ip6(source) + _ip6(destination) + struct.pack("!II", 4 + len(rest), 58)
    checksum = _checksum(pseudo + struct.pack("!BBH", kind, 0, 0) + rest)
    return _packet6(source, destination, 58, struct.pack("!BBH", kind, 0, checksum) + rest)


def _advertisement(source: str, destination: str, target: str, mac: str) -> bytes:
    """`target` is at `mac`: solicited, and to be believed more than what was known."""
    return _icmp6(source, destination, 136, struct.pack("!I", 3 << 29) + _ip6(target) + bytes((2, 1)) + _mac(mac))


def _heard(place: Neighbourhood, frames: Mapping[str, bytes]) -> set[str]:
    """Which of the liar's frames reach the listener; an honest one, sent last, ends the waiting."""
    address = place.listener.address
    honest = _frame(place.listener.mac, place.liar.mac, IPV4, _udp(place.liar.address, address, MARK))
    with _wire(place.listener_netns) as ear, _wire(place.liar_netns) as mouth:
        for frame in (*frames.values(), honest):
            mouth.send(frame)
        heard = set(_until_mark(ear))
    return {name for name, frame in frames.items() if frame in heard}


def _until_mark(ear: socket.socket) -> Iterator[bytes]:
    while MARK not in (frame := ear.recv(2000)):
        yield frame


def _wire(namespace: int) -> socket.socket:
    """Raw frames at a namespace's eth0."""

    def make() -> socket.socket:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        wire.bind(("eth0", ETH_P_ALL))
        wire.settimeout(PATIENCE)
        return wire

    return inside(namespace, make)


def _frame(to: str, source: str, kind: int, payload: bytes) -> bytes:
    return _mac(to) + _mac(source) + struct.pack("!H", kind) + payload


def _arp(mac: str, address: str) -> bytes:
    """`address` is at `mac`, to all who hear."""
    sender = _mac(mac) + IPv4Address(address).packed
    return struct.pack("!HHBBH", 1, IPV4, 6, 4, ARP_REPLY) + sender + sender


def _udp(source: str, destination: str, text: bytes) -> bytes:
    addresses = IPv4Address(source).packed + IPv4Address(destination).packed
    datagram = struct.pack("!HHHH", 53, 53, 8 + len(text), 0) + text
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 0, 0, 64, UDP, 0) + addresses
    checksum = struct.pack("!H", _checksum(header))
    return header[:10] + checksum + header[12:] + datagram


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _router_advertisement() -> bytes:
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0)
    source, everyone = b"\xfe\x80" + bytes(13) + b"\x01", b"\xff\x02" + bytes(13) + b"\x01"
    return struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source + everyone + body


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


@on_private_host
async def test_no_lie_is_heard(host: Host) -> None:
    place = await _neighbourhood(host)
    assert _heard(place, _lies(place)) == set()


@on_private_host
async def test_every_lie_would_be_heard_without_the_guard(host: Host) -> None:
    """Examines the exam: the frames are such that a bridge and br_netfilter let them through."""
    place = await _neighbourhood(host)
    host.nft(f"delete table bridge {TABLE}")
    lies = _lies(place)
    assert _heard(place, lies) == set(lies)


DUAL = Instance(subnet6="fd00:61::/64")


@on_private_host
async def test_no_lie_is_heard_over_ipv6(host: Host) -> None:
    place = await _neighbourhood(host, DUAL)
    assert _heard(place, _lies6(place)) == set()
    truths = {
        "I am here": _frame(
            place.listener.mac,
            place.liar.mac,
            IPV6,
            _advertisement(place.liar.address6, place.listener.address6, place.liar.address6, place.liar.mac),
        ),
        "a pod's address is here": _frame(
            place.listener.mac,
            place.liar.mac,
            IPV6,
            _advertisement("fd00:99::1", place.listener.address6, "fd00:99::1", place.liar.mac),
        ),
    }
    assert _heard(place, truths) == set(truths)


@on_private_host
async def test_every_such_lie_would_be_heard_without_the_guard(host: Host) -> None:
    place = await _neighbourhood(host, DUAL)
    host.nft(f"delete table bridge {TABLE}")
    lies = _lies6(place)
    assert _heard(place, lies) == set(lies)


@on_private_host
async def test_addresses_of_nobody_may_be_used(host: Host) -> None:
    """Containers that route for others do: kind's nodes send their pods' packets as they are."""
    place = await _neighbourhood(host)
    frames = {
        "a pod's address": _frame(
            place.listener.mac, place.liar.mac, IPV4, _udp("10.244.0.7", place.listener.address, b"truth")
        ),
        "a nested MAC": _frame(
            place.listener.mac, "02:00:00:00:77:77", IPV4, _udp("10.244.0.8", place.listener.address, b"truth")
        ),
        "a nested ARP": _frame(place.listener.mac, place.liar.mac, ARP, _arp(place.liar.mac, "10.244.0.1")),
    }
    assert _heard(place, frames) == set(frames)


@on_private_host
async def test_a_freed_address_is_nobodys_and_a_new_holders_at_once(host: Host) -> None:
    network = host.network()
    await network.ensure()
    await network.reconcile([])
    guard = host.table(family="bridge")
    old, new = host.netns(), host.netns()
    first = await network.attach("a" * 64, old)
    await network.detach(first)
    assert host.table(family="bridge") == guard
    second = await network.attach("b" * 64, new, wishes=[AddressWish(address=first.address)])
    held = host.table(family="bridge")
    assert held is not None
    assert set(held.elements["holders"]) == {(second.host_interface, second.mac, second.address)}
    server = host.listen(new, "0.0.0.0", 80)
    assert host.caller(server, None, second.address, 80) == second.gateway


@on_private_host
async def test_a_deleted_guard_is_mended(host: Host) -> None:
    network = host.network()
    await network.ensure()
    endpoint = await network.attach("a" * 64, host.netns())
    await network.reconcile([endpoint])
    guard = host.table(family="bridge")
    host.nft(f"flush chain bridge {TABLE} ingress\ndelete element bridge {TABLE} addresses {{ {endpoint.address} }}")
    assert await network.reconcile([endpoint])
    assert host.table(family="bridge") == guard
    await network.teardown()
    assert host.table(family="bridge") is None
