"""H24: a container that lies about who it is, frame by frame, and its neighbour that must not hear it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

import pytest

from bulkhead.manager.networks.ports import AddressWish
from bulkhead.model.instance import Instance
from bulkhead.model.network import Endpoint
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


async def _neighbourhood(host: Host) -> Neighbourhood:
    network = host.network()
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
