"""What others break of our network is mended: at boot, and while we watch."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network

import pytest

from bulkhead.errors import Internal
from bulkhead.linux import netlink
from bulkhead.linux.netlink import Netlink
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.model.instance import Instance
from bulkhead.model.network import AddressPlan, BridgePlan, PortBinding
from tests.integration.network.private_host import PATIENCE, UPLINK, Host, eventually, on_private_host, run

pytestmark = pytest.mark.root

BRIDGE, TABLE = Instance().bridge, Instance().nft_table
GATEWAY = "172.30.0.1"
HOST = str(UPLINK.ip)
ID, ID2 = "a" * 64, "b" * 64
WEB = PortBinding(container_port=80, host_port=8080)


async def _booted(host: Host) -> BridgeNetwork:
    network = host.network()
    await network.ensure()
    await network.reconcile([])
    return network


BREAKAGES: dict[str, Callable[[Host], object]] = {
    "table deleted": lambda host: host.nft(f"delete table inet {TABLE}"),
    "everything flushed": lambda host: host.nft("flush ruleset"),
    "rules flushed": lambda host: host.nft(f"flush table inet {TABLE}"),
    "a rule inserted": lambda host: host.nft(f"insert rule inet {TABLE} forward drop"),
    "a chain deleted": lambda host: host.nft(f"flush chain inet {TABLE} output\ndelete chain inet {TABLE} output"),
    "elements flushed": lambda host: host.nft(f"flush map inet {TABLE} published_any"),
    "a port added": lambda host: host.nft(f"add element inet {TABLE} published_any {{ 6 . 22 : 172.30.0.2 . 22 }}"),
    "bridge deleted": lambda host: _delete_link(BRIDGE),
    "bridge down": lambda host: run("ip", "link", "set", BRIDGE, "down"),
    "address removed": lambda host: run("ip", "address", "flush", "dev", BRIDGE),
    "route_localnet off": lambda host: run("sysctl", "-w", f"net.ipv4.conf.{BRIDGE}.route_localnet=0"),
    "veth unplugged": lambda host: run(
        "ip", "link", "set", next(name for name in host.links() if re.match("bh[0-9a-f]{12}$", name)), "nomaster"
    ),
}


def _delete_link(name: str) -> None:
    with Netlink() as kernel:
        kernel.request(netlink.delete_link(name))


@on_private_host
async def test_a_bridge_that_is_half_made_when_its_maker_dies_is_swept(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = await _booted(host)

    def die(*_: object) -> None:
        raise OSError(errno.EIO, "as if it were dead")

    addresses = AddressPlan(subnet=ip_network("10.9.8.0/24"), gateway=ip_address("10.9.8.1"))
    network.plan(BridgePlan(key="b" * 64, bridge="br-half", v4=addresses))
    with monkeypatch.context() as patch:
        patch.setattr("bulkhead.manager.adapters.sysctls.write", die)
        with pytest.raises(Internal):
            await network.ensure("b" * 64)
    assert "br-half" in host.links()
    assert (await host.network().reconcile([])).links_deleted == ("br-half",)


@pytest.mark.parametrize("breakage", BREAKAGES)
@on_private_host
async def test_reconcile_mends(host: Host, breakage: str) -> None:
    network = await _booted(host)
    container, neighbour = host.netns(), host.netns()
    endpoint = await network.attach(ID, container, ports=[WEB])
    other = await network.attach(ID2, neighbour)
    before = host.table()
    BREAKAGES[breakage](host)
    live = [endpoint, other]
    assert await network.reconcile(live)
    assert not await network.reconcile(live)
    assert host.table() == before
    server = host.listen(container, "0.0.0.0", 80)
    assert host.caller(server, None, "127.0.0.1", 8080) == GATEWAY
    assert host.caller(server, neighbour, endpoint.address, 80) == other.address


@on_private_host
async def test_connections_survive_reconciliation_of_flushed_rules(host: Host) -> None:
    network = await _booted(host)
    world, container = host.world(), host.netns()
    endpoint = await network.attach(ID, container, ports=[WEB])
    server = host.listen(container, "0.0.0.0", 80)
    client = host.connect(world, HOST, 8080)
    accepted, _ = server.accept()
    with accepted:
        host.nft(f"flush table inet {TABLE}")
        await network.reconcile([endpoint])
        client.sendall(b"still here")
        accepted.settimeout(PATIENCE)
        assert accepted.recv(100) == b"still here"


@pytest.mark.parametrize("breakage", ["table deleted", "everything flushed", "rules flushed", "bridge deleted"])
@on_private_host
async def test_watch_mends_by_itself(host: Host, breakage: str) -> None:
    """H23: a firewall's reload takes our table away."""
    network = await _booted(host)
    container = host.netns()
    await network.attach(ID, container, ports=[WEB])
    before = host.table()
    host.listen(container, "0.0.0.0", 80)
    watching = asyncio.create_task(network.watch())
    try:
        for _ in range(2):
            BREAKAGES[breakage](host)
            await eventually(lambda: host.table() == before and BRIDGE in host.links())
            await eventually(lambda: _answers(host))
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


def _answers(host: Host) -> bool:
    """Whether the published port does; shortly, because the event loop that mends it waits meanwhile."""
    try:
        host.connect(None, "127.0.0.1", 8080, timeout=0.2)
    except OSError:
        return False
    return True


# As it was when each bridge had rules of its own.
OLD = f"""
table inet {TABLE} {{
  map published {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
  map published_any {{
    type inet_proto . inet_service : ipv4_addr . inet_service
    elements = {{ 6 . 8080 : 172.30.0.2 . 80 }}
  }}
  map published6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
  map published6_any {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
  set exposed {{ type ipv4_addr . inet_proto . inet_service; }}
  set exposed6 {{ type ipv6_addr . inet_proto . inet_service; }}
  chain guard {{
    type filter hook prerouting priority -300; policy accept;
    iifname "{BRIDGE}" ip daddr 127.0.0.0/8 drop comment "a"
  }}
  chain prerouting {{
    type nat hook prerouting priority -100; policy accept;
    meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @published_any comment "b"
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @published_any comment "c"
  }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    oifname != "{BRIDGE}" ip saddr 172.30.0.0/24 masquerade comment "d"
    oifname "{BRIDGE}" ip saddr 127.0.0.0/8 masquerade comment "e"
    oifname "{BRIDGE}" ip saddr 172.30.0.0/24 ct status dnat masquerade comment "f"
  }}
  chain forward {{
    type filter hook forward priority 0; policy accept;
    ct state established,related accept comment "g"
    iifname "{BRIDGE}" oifname "{BRIDGE}" accept comment "h"
    oifname "{BRIDGE}" ct status dnat accept comment "i"
    oifname "{BRIDGE}" drop comment "j"
  }}
}}
"""


@on_private_host
async def test_a_successor_takes_over_the_table_of_an_older_version_under_traffic(host: Host) -> None:
    """Each bridge had rules of its own once: neither a connection nor a published port notices the change."""
    network = await _booted(host)
    world, container = host.world(), host.netns()
    endpoint = await network.attach(ID, container, ports=[WEB])
    as_it_should_be = host.table()
    host.nft(f"delete table inet {TABLE}\n{OLD}")
    server = host.listen(container, "0.0.0.0", 80)
    client = host.connect(world, HOST, 8080)
    kept, _ = server.accept()
    with kept, ThreadPoolExecutor(3) as pool:
        over = threading.Event()
        pool.submit(_accept_until, over, server)
        visits = [pool.submit(_visit_until, over, host, namespace) for namespace in (world, None)]
        successor = host.network()
        try:
            await successor.ensure()
            assert host.table() == as_it_should_be, "before the records are known what is published stays"
            await successor.reconcile([endpoint])
        finally:
            over.set()
        assert all(visit.result() for visit in visits)
        client.sendall(b"still here")
        kept.settimeout(PATIENCE)
        assert kept.recv(100) == b"still here"
    assert host.table() == as_it_should_be


def _accept_until(over: threading.Event, server: socket.socket) -> None:
    server.settimeout(0.1)
    while not over.is_set():
        with contextlib.suppress(TimeoutError):
            server.accept()[0].close()


def _visit_until(over: threading.Event, host: Host, namespace: int | None) -> int:
    """How many connections to the published port were made, one after the other; raises when one was not."""
    address, made = "127.0.0.1" if namespace is None else HOST, 0
    # Paced: a host that calls itself soon meets a port of its own that the kernel still holds.
    while not over.wait(0.005) or not made:
        host.connect(namespace, address, 8080, timeout=0.9).close()
        made += 1
    return made
