"""Packets on a private host: who reaches whom, as whom, and what is left when containers are gone."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from bulkhead.errors import Conflict, Internal, NotFound
from bulkhead.linux import netlink
from bulkhead.linux.netlink import Netlink
from bulkhead.linux.netns import netns_of, new_netns
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.manager.networks.ports import AddressWish
from bulkhead.model.instance import Instance
from bulkhead.model.network import Endpoint, PortBinding, ProcessNetns
from tests.integration.network.private_host import (
    PATIENCE,
    UPLINK,
    WORLD,
    Host,
    eventually,
    inside,
    on_private_host,
    run,
    run_inside,
    setting,
)
from tests.support.descriptors import left_since, open_descriptors

pytestmark = pytest.mark.root

BRIDGE, TABLE = Instance().bridge, Instance().nft_table
GATEWAY = "172.30.0.1"
HOST = str(UPLINK.ip)
ID, ID2 = "a" * 64, "b" * 64
WEB = PortBinding(container_port=80, host_port=8080)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    pid: int
    start_time: int


REFUSED = (ConnectionRefusedError, TimeoutError)


async def _booted(host: Host) -> BridgeNetwork:
    network = host.network()
    await network.ensure()
    await network.reconcile([])
    return network


@on_private_host
async def test_a_container_reaches_gateway_and_host_and_host_reaches_it(host: Host) -> None:
    network = await _booted(host)
    container = host.netns()
    endpoint = await network.attach(ID, container)
    server = host.listen(None, "0.0.0.0", 9000)
    assert host.caller(server, container, GATEWAY, 9000) == endpoint.address
    assert host.caller(host.listen(container, "0.0.0.0", 80), None, endpoint.address, 80) == GATEWAY


@on_private_host
async def test_two_containers_talk_as_themselves(host: Host) -> None:
    network = await _booted(host)
    one, two = host.netns(), host.netns()
    first = await network.attach(ID, one)
    second = await network.attach(ID2, two)
    assert host.caller(host.listen(two, "0.0.0.0", 80), one, second.address, 80) == first.address


@on_private_host
async def test_the_container_side_is_what_docker_gives(host: Host) -> None:
    network = await _booted(host)
    container = host.netns()
    endpoint = await network.attach(ID, container)

    def look() -> tuple[dict[str, netlink.Link], set[str], set[str], int]:
        with Netlink() as kernel:
            links = {link.name: link for link in kernel.links()}
            addresses = {str(address) for _, address in kernel.addresses()}
            routes = {str(route.destination) for route in kernel.routes()}
        return links, addresses, routes, links["eth0"].index

    links, addresses, routes, _ = inside(container, look)
    assert set(links) == {"lo", "eth0"}
    assert links["lo"].up
    assert links["eth0"].up
    assert links["eth0"].mac == endpoint.mac
    assert addresses == {"127.0.0.1/8", "::1/128", f"{endpoint.address}/16"}
    assert routes == {"0.0.0.0/0", "172.30.0.0/16"}


@on_private_host
async def test_ipv6_is_off_where_the_network_has_none(host: Host) -> None:
    """A router advertisement of a neighbour, or a link-local address, would be a way round the firewall."""
    network = await _booted(host)
    container = host.netns()
    await network.attach(ID, container)
    assert inside(container, lambda: setting("net/ipv6/conf/eth0/disable_ipv6")) == "1"
    assert inside(container, lambda: setting("net/ipv6/conf/eth0/accept_ra")) == "0"
    assert inside(container, lambda: setting("net/ipv6/conf/lo/disable_ipv6")) == "0"
    assert "fe80" not in run_inside(container, "ip", "-6", "address")
    assert setting(f"net/ipv6/conf/{BRIDGE}/disable_ipv6") == "1"
    assert "inet6" not in run("ip", "-6", "address", "show", "dev", BRIDGE)


@on_private_host
async def test_a_published_port_answers_the_host_the_world_and_the_containers(host: Host) -> None:
    network = await _booted(host)
    world, container, neighbour = host.world(), host.netns(), host.netns()
    endpoint = await network.attach(ID, container, ports=[WEB])
    other = await network.attach(ID2, neighbour)
    server = host.listen(container, "0.0.0.0", 80)
    # H25: whoever is not the host never looks like its loopback.
    assert host.caller(server, world, HOST, 8080) == str(WORLD.ip)
    assert host.caller(server, None, "127.0.0.1", 8080) == GATEWAY
    assert host.caller(server, None, "127.3.2.1", 8080) == GATEWAY
    assert host.caller(server, None, HOST, 8080) == HOST
    assert host.caller(server, neighbour, HOST, 8080) == GATEWAY
    assert host.caller(server, neighbour, GATEWAY, 8080) == GATEWAY
    assert host.caller(server, container, HOST, 8080) == GATEWAY
    assert host.caller(server, neighbour, endpoint.address, 80) == other.address
    await network.detach(endpoint)
    for client in (None, world):
        with pytest.raises(REFUSED):
            host.connect(client, HOST, 8080, timeout=0.3)


SYSLOG = PortBinding(container_port=514, host_port=5140, protocol="udp")


def _udp_server(namespace: int, port: int) -> socket.socket:
    def make() -> socket.socket:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", port))
        server.settimeout(PATIENCE)
        return server

    return inside(namespace, make)


def _udp_client(namespace: int | None, address: str, port: int) -> socket.socket:
    def make() -> socket.socket:
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(PATIENCE)
        client.connect((address, port))
        return client

    return make() if namespace is None else inside(namespace, make)


@on_private_host
async def test_udp_is_published_too(host: Host) -> None:
    network = await _booted(host)
    container = host.netns()
    await network.attach(ID, container, ports=[SYSLOG])
    with _udp_server(container, 514) as server, _udp_client(None, "127.0.0.1", 5140) as client:
        client.send(b"question")
        question, caller = server.recvfrom(100)
        server.sendto(b"answer", caller)
        assert (question, client.recv(100)) == (b"question", b"answer")


@on_private_host
async def test_a_udp_client_that_never_pauses_is_led_to_the_new_container(host: Host) -> None:
    """A logger keeps its source port, so the kernel would keep sending it where it was sent at first."""
    network = await _booted(host)
    world, old, new = host.world(), host.netns(), host.netns()
    with _udp_client(world, HOST, 5140) as client:
        with contextlib.suppress(ConnectionRefusedError):
            client.send(b"before anything is published")
            client.recv(1)
        first = await network.attach(ID, old, ports=[SYSLOG])
        with _udp_server(old, 514) as server:
            client.send(b"to the first")
            assert server.recv(100) == b"to the first"
        await network.detach(first)
        with contextlib.suppress(ConnectionRefusedError):
            client.send(b"to nobody")
            client.recv(1)
        second = await network.attach(ID2, new, ports=[SYSLOG])
        assert second.address != first.address
        with _udp_server(new, 514) as server:
            client.send(b"to the second")
            assert server.recv(100) == b"to the second"


@on_private_host
async def test_udp_flows_that_are_not_ours_are_left_alone(host: Host) -> None:
    """A container asks a name server in the world while another publishes port 53."""
    network = await _booted(host)
    world, asker, server = host.world(), host.netns(), host.netns()
    await network.attach(ID, asker)
    with _udp_server(world, 53) as resolver, _udp_client(asker, str(WORLD.ip), 53) as client:
        client.send(b"question")
        question, caller = resolver.recvfrom(100)
        name_server = PortBinding(container_port=53, host_port=53, protocol="udp")
        await network.detach(await network.attach(ID2, server, ports=[name_server]))
        resolver.sendto(b"answer", caller)  # back through the address it was given on its way out
        assert (question, client.recv(100)) == (b"question", b"answer")


@on_private_host
async def test_what_is_published_on_loopback_answers_the_host_alone(host: Host) -> None:
    """CVE-2025-54388's class: a neighbour that routes 127/8, or the containers' subnet, to us."""
    network = await _booted(host)
    world, container, neighbour = host.world(), host.netns(), host.netns()
    only_here = PortBinding(container_port=80, host_port=8080, host_ip="127.0.0.1")
    endpoint = await network.attach(ID, container, ports=[only_here])
    await network.attach(ID2, neighbour)
    server = host.listen(container, "0.0.0.0", 80)
    assert host.caller(server, None, "127.0.0.1", 8080) == GATEWAY
    with pytest.raises(ConnectionRefusedError):
        host.connect(world, HOST, 8080)
    _route_astray(world, ("127.0.0.1", endpoint.address), HOST)
    _route_astray(neighbour, ("127.0.0.1",), GATEWAY)
    for client, address, port in (
        (world, "127.0.0.1", 8080),
        (world, endpoint.address, 80),
        (neighbour, "127.0.0.1", 8080),
    ):
        with pytest.raises(TimeoutError):
            host.connect(client, address, port, timeout=0.5)


@on_private_host
async def test_a_container_never_reaches_the_hosts_own_loopback(host: Host) -> None:
    """C16: route_localnet, which published ports need, must not let 127.0.0.1 services out (CVE-2020-8558)."""
    network = await _booted(host)
    container = host.netns()
    await network.attach(ID, container)
    host.listen(None, "127.0.0.1", 5000)
    _route_astray(container, ("127.0.0.1",), GATEWAY)
    with pytest.raises(TimeoutError):
        host.connect(container, "127.0.0.1", 5000, timeout=0.5)


@on_private_host
async def test_a_container_cannot_pretend_to_be_the_hosts_loopback(host: Host) -> None:
    network = await _booted(host)
    container = host.netns()
    endpoint = await network.attach(ID, container)
    # Else the kernel would drop it by itself; some hosts need this setting.
    run("sysctl", "-w", f"net.ipv4.conf.{BRIDGE}.accept_local=1")

    def send(source: str) -> None:
        Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind((source, 0))
            client.sendto(source.encode(), (GATEWAY, 9000))

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 9000))
        server.settimeout(PATIENCE)
        for source in ("127.0.0.1", endpoint.address):
            inside(container, functools.partial(send, source))
        # The honest one was sent last: had the other come through, it would be here before.
        assert server.recv(100).decode() == endpoint.address


def _route_astray(namespace: int, addresses: tuple[str, ...], gateway: str) -> None:
    """Send packets for `addresses` to `gateway`, loopback ones included."""

    def configure() -> None:
        Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")
        Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("1")
        subprocess.run(["ip", "rule", "add", "pref", "0", "table", "99"], check=True)
        subprocess.run(["ip", "rule", "del", "pref", "0", "table", "local"], check=True)
        subprocess.run(["ip", "rule", "add", "pref", "1", "table", "local"], check=True)
        for address in addresses:
            route = ["ip", "route", "add", address, "via", gateway, "dev", "eth0", "table", "99"]
            subprocess.run(route, check=True)

    inside(namespace, configure)


@on_private_host
async def test_containers_leave_under_the_hosts_address(host: Host) -> None:
    network = await _booted(host)
    world, container = host.world(), host.netns()
    await network.attach(ID, container)
    server = host.listen(world, "0.0.0.0", 443)
    assert host.caller(server, container, str(WORLD.ip), 443) == HOST


@on_private_host
async def test_the_world_reaches_no_port_that_is_not_published(host: Host) -> None:
    network = await _booted(host)
    world, container = host.world(), host.netns()
    endpoint = await network.attach(ID, container, ports=[WEB])
    server = host.listen(container, "0.0.0.0", 80)
    host.listen(container, "0.0.0.0", 81)
    _via(world, "172.30.0.0/16", HOST)
    assert host.caller(server, world, HOST, 8080) == str(WORLD.ip)
    for port in (80, 81):
        with pytest.raises(TimeoutError):
            host.connect(world, endpoint.address, port, timeout=0.5)


def _via(namespace: int, destination: str, gateway: str) -> None:
    run_inside(namespace, "ip", "route", "add", destination, "via", gateway)


@on_private_host
async def test_two_instances_are_isolated_but_for_published_ports(host: Host) -> None:
    here = await _booted(host)
    there = host.network(Instance(run=Path("/run/other"), bridge="bhother0", subnet="172.29.0.0/16"))
    await there.ensure()
    one, two = host.netns(), host.netns()
    await here.attach(ID, one)
    target = await there.attach(ID, two, ports=[WEB])
    server = host.listen(two, "0.0.0.0", 80)
    with pytest.raises(TimeoutError):
        host.connect(one, target.address, 80, timeout=0.5)
    assert host.caller(server, one, GATEWAY, 8080)


@on_private_host
async def test_a_port_on_which_a_host_process_listens_is_refused(host: Host) -> None:
    network = await _booted(host)
    host.listen(None, "127.0.0.1", 8080)
    with pytest.raises(Internal, match=r"failed to bind host port for 0\.0\.0\.0:8080/tcp: address already in use"):
        await network.attach(ID, host.netns(), ports=[WEB])
    elsewhere = PortBinding(container_port=80, host_port=81, host_ip="203.0.113.1")
    with pytest.raises(Internal, match="cannot assign requested address"):
        await network.attach(ID, host.netns(), ports=[elsewhere])


@on_private_host
async def test_a_process_names_its_namespace_and_must_be_the_same_one(host: Host) -> None:
    network = await _booted(host)
    with own_namespace() as child:
        with pytest.raises(NotFound, match="another one now"):
            await network.attach(ID, ProcessNetns(pid=child.pid, start_time=child.start_time + 1))
        endpoint = await network.attach(ID, ProcessNetns(pid=child.pid, start_time=child.start_time))
        with netns_of(child.pid) as namespace:
            assert f"inet {endpoint.address}/16" in run_inside(namespace, "ip", "-4", "address")


@contextlib.contextmanager
def own_namespace() -> Iterator[Child]:
    """A process in a network namespace of its own."""
    command = ["unshare", "-n", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            status = Path(f"/proc/{child.pid}/stat").read_text()
            yield Child(pid=child.pid, start_time=int(status.rpartition(")")[2].split()[19]))
        finally:
            child.kill()


@on_private_host
async def test_a_subnet_that_is_in_use_is_refused_with_the_key_to_change(host: Host) -> None:
    host.cable(host.netns(), (IPv4Interface("172.30.4.1/24"),), (IPv4Interface("172.30.4.2/24"),))
    with pytest.raises(
        Conflict, match=r"it overlaps the route to 172\.30\.4\.0/24 by interface uplink;.*BULKHEAD_SUBNET"
    ):
        await host.network().ensure()
    assert BRIDGE not in host.links()
    assert host.table() is None


@on_private_host
async def test_a_subnet_that_comes_into_use_later_does_not_stop_a_restarted_manager(host: Host) -> None:
    await _booted(host)
    host.cable(host.netns(), (IPv4Interface("172.30.4.1/24"),), (IPv4Interface("172.30.4.2/24"),))
    await host.network().ensure()


@on_private_host
async def test_a_name_that_is_no_bridge_is_refused(host: Host) -> None:
    run("ip", "link", "add", BRIDGE, "type", "veth", "peer", "name", "other")
    with pytest.raises(Conflict, match="BULKHEAD_BRIDGE"):
        await host.network().ensure()
    await host.network(Instance(bridge="bhfine0")).ensure()
    with pytest.raises(Conflict, match=r"has the address 172\.30\.0\.1/16, not 10\.1\.0\.1/24"):
        await host.network(Instance(bridge="bhfine0", subnet="10.1.0.0/24")).ensure()


@on_private_host
async def test_a_hundred_containers_leave_nothing(host: Host) -> None:
    network = await _booted(host)
    links, table = set(host.links()), host.table()
    descriptors = open_descriptors()
    for _ in range(10):
        await asyncio.gather(*(_come_and_go(network, number) for number in range(10)))
    assert host.table() == table
    await eventually(lambda: set(host.links()) == links)  # the kernel buries namespaces at its leisure
    assert not left_since(descriptors)
    assert not await network.reconcile([])


async def _come_and_go(network: BridgeNetwork, number: int) -> None:
    namespace = new_netns()
    try:
        ports = [PortBinding(container_port=80), PortBinding(container_port=53, protocol="udp")]
        endpoint = await network.attach(f"{number:064x}", namespace, ports=ports)
    finally:
        os.close(namespace)
    await network.detach(endpoint)


@on_private_host
async def test_a_restarted_container_is_reached_at_once_at_its_old_address(host: Host) -> None:
    """Its dead veth is still a port of the bridge, with the same MAC behind it."""
    network = await _booted(host)
    old, new = host.netns(), host.netns()
    first = await network.attach(ID, old)
    host.caller(host.listen(old, "0.0.0.0", 80), None, first.address, 80)
    await network.detach(first)
    second: Endpoint = await network.attach(ID, new, wishes=[AddressWish(address=first.address)])
    assert second.address == first.address
    server = host.listen(new, "0.0.0.0", 80)
    assert host.caller(server, None, second.address, 80) == GATEWAY
    server.close()
    with pytest.raises(ConnectionRefusedError):  # by the new one, not answered by the old
        host.connect(None, second.address, 80)


@on_private_host
async def test_the_containers_mtu_is_that_of_the_way_out(host: Host) -> None:
    host.world()
    run("ip", "link", "set", "uplink", "mtu", "1400")
    network = await _booted(host)
    container = host.netns()
    endpoint = await network.attach(ID, container)
    assert "mtu 1400" in run_inside(container, "ip", "link", "show", "eth0")
    assert host.links()[endpoint.host_interface].mtu == 1400


@on_private_host
async def test_a_host_that_lives_by_its_routers_word_goes_on_to(host: Host) -> None:
    """Forwarding makes a host a router, and routers believe no other unless they are told to."""
    host.world()
    believer, stubborn = (Path(f"/proc/sys/net/ipv6/conf/{name}/accept_ra") for name in ("uplink", "uplink0"))
    believer.write_text("1")
    stubborn.write_text("0")
    network = host.network(Instance(subnet6="fd00:62::/64"))
    await network.ensure()
    assert (setting("net/ipv6/conf/all/forwarding"), believer.read_text(), stubborn.read_text()) == ("1", "2\n", "0\n")
    assert not await network.reconcile([])
    endpoint = await network.attach(ID, host.netns())
    assert (endpoint.address6, endpoint.gateway6) == ("fd00:62::2", "fd00:62::1")


@on_private_host
async def test_one_of_two_installations_gets_a_port_that_both_want_at_one_moment(host: Host) -> None:
    others = Instance(run=Path("/run/other"), bridge="bhother0", subnet="10.9.0.0/24")
    both = (host.network(), host.network(others))
    for network in both:
        await network.ensure()
        await network.reconcile([])
    binding = PortBinding(container_port=80, host_port=8080)
    for number in range(10):
        names = [f"{number}{each}".ljust(64, "0") for each in "ab"]
        attaching = [
            network.attach(name, host.netns(), ports=[binding]) for network, name in zip(both, names, strict=True)
        ]
        done = await asyncio.gather(*attaching, return_exceptions=True)
        (lost,) = [each for each in done if isinstance(each, BaseException)]
        assert isinstance(lost, Internal) and "Bind for 0.0.0.0:8080 failed: port is already allocated" in str(lost)
        for network, each in zip(both, done, strict=True):
            if isinstance(each, Endpoint):
                await network.detach(each)
