"""A firewall beside ours that drops what is forwarded: told to accept our bridges, and else left as it is."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Interface, ip_address, ip_network

import pytest
import structlog
import structlog.testing

from bulkhead.ctl import purging
from bulkhead.linux import netlink
from bulkhead.linux.netlink import Netlink
from bulkhead.manager.adapters.netlink_network import NetlinkKernel
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.model.instance import Instance
from bulkhead.model.network import AddressPlan, BridgePlan, Endpoint, PortBinding
from tests.integration.network.private_host import (
    PATIENCE,
    UPLINK,
    WORLD,
    Host,
    eventually,
    inside,
    on_private_host,
    run,
)

pytestmark = [pytest.mark.root, pytest.mark.skipif(shutil.which("iptables-nft") is None, reason="no iptables-nft")]

BRIDGE = Instance().bridge
ID = "a" * 64
WEB = PortBinding(container_port=80, host_port=8080)
ACCEPTS = [
    f'-A {{}} -{way} {BRIDGE} -m comment --comment "bulkhead: {word} {BRIDGE}" -j ACCEPT'
    for way, word in (("i", "from"), ("o", "to"))
]


def iptables(*arguments: str) -> str:
    return run("iptables-nft", *arguments)


def accepts(chain: str = "FORWARD") -> set[str]:
    return {line.format(chain) for line in ACCEPTS}


def rules() -> set[str]:
    """What iptables says of the host's rules; it fails on a table that it cannot read."""
    return set(iptables("-S").splitlines())


def dockers_chains() -> None:
    iptables("-P", "FORWARD", "DROP")
    iptables("-N", "DOCKER-USER")
    iptables("-A", "DOCKER-USER", "-s", "203.0.113.9", "-j", "DROP")
    iptables("-A", "DOCKER-USER", "-j", "RETURN")
    iptables("-A", "FORWARD", "-j", "DOCKER-USER")


async def booted(host: Host) -> BridgeNetwork:
    network = host.network()
    await network.ensure()
    await network.reconcile([])
    return network


@contextlib.asynccontextmanager
async def watching(network: BridgeNetwork) -> AsyncIterator[None]:
    task = asyncio.create_task(network.watch())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def reachable(host: Host, namespace: int | None, address: str, port: int, *, timeout: float = PATIENCE) -> bool:
    try:
        host.connect(namespace, address, port, timeout=timeout)
    except OSError:
        return False
    return True


async def container(host: Host, network: BridgeNetwork) -> tuple[int, Endpoint]:
    namespace = host.netns()
    endpoint = await network.attach(ID, namespace, ports=[WEB])
    host.listen(namespace, "0.0.0.0", 80)
    return namespace, endpoint


@on_private_host
async def test_traffic_passes_a_chain_that_drops_and_its_owner_finds_it_as_before_at_the_end(host: Host) -> None:
    iptables("-P", "FORWARD", "DROP")
    iptables("-A", "FORWARD", "-i", "eth9", "-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT")
    before = rules()
    world = host.world()
    with structlog.testing.capture_logs() as logs:
        network = await booted(host)
    assert [(line["chain"], len(line["rules"])) for line in logs] == [("ip filter FORWARD", 2)]
    assert rules() == before | accepts()
    namespace, endpoint = await container(host, network)
    host.listen(world, "0.0.0.0", 90)
    assert reachable(host, world, str(UPLINK.ip), 8080)
    assert reachable(host, namespace, str(WORLD.ip), 90)
    assert not reachable(host, world, endpoint.address, 80, timeout=0.3)
    assert not await network.reconcile([endpoint])
    await network.teardown()
    assert rules() == before


@on_private_host
async def test_in_docker_user_what_users_drop_stays_dropped(host: Host) -> None:
    dockers_chains()
    before = iptables("-S").splitlines()
    network = await booted(host)
    after = iptables("-S").splitlines()
    place = before.index("-A DOCKER-USER -j RETURN")
    assert after[:place] == before[:place] and after[place + 2 :] == before[place:]
    assert set(after[place : place + 2]) == accepts("DOCKER-USER")
    await network.teardown()
    assert iptables("-S").splitlines() == before


@on_private_host
async def test_it_is_opened_again_and_when_it_comes_later(host: Host) -> None:
    network = await booted(host)
    assert not accepts() & rules()
    async with watching(network):
        await asyncio.sleep(0)
        iptables("-P", "FORWARD", "DROP")
        await eventually(lambda: accepts() <= rules())
        iptables("-F", "FORWARD")
        await eventually(lambda: accepts() <= rules())
        dockers_chains()
        iptables("-D", "FORWARD", "1")
        await eventually(lambda: accepts("DOCKER-USER") <= rules() and not accepts() & rules())
        host.nft("flush ruleset")
        dockers_chains()
        await eventually(lambda: accepts("DOCKER-USER") <= rules())


@on_private_host
async def test_a_chain_that_rejects_what_is_left_is_opened_as_firewalld_s(host: Host) -> None:
    host.nft(
        "add table inet theirs\n"
        "add chain inet theirs filter_FORWARD { type filter hook forward priority 10; policy accept; }\n"
        "add rule inet theirs filter_FORWARD ct state established,related accept\n"
        "add rule inet theirs filter_FORWARD counter reject with icmpx type admin-prohibited"
    )
    world = host.world()
    network = await booted(host)
    await container(host, network)
    assert reachable(host, world, str(UPLINK.ip), 8080)


@on_private_host
async def test_a_removed_network_s_rules_go(host: Host) -> None:
    iptables("-P", "FORWARD", "DROP")
    network = await booted(host)
    before = rules()
    gateway = IPv4Interface("10.77.0.1/24")
    addresses = AddressPlan(subnet=gateway.network, gateway=gateway.ip)
    network.plan(BridgePlan(key="b" * 64, bridge="br-other", v4=addresses))
    await network.ensure("b" * 64)
    assert len(rules() - before) == 2
    await network.forget("b" * 64)
    assert rules() == before
    assert [line for line in purging.remove_network(Instance()) if "FORWARD" in line]
    assert not accepts() & rules()


OTHER = BridgePlan(
    key="b" * 64, bridge="br-other", v4=AddressPlan(subnet=ip_network("10.77.0.0/24"), gateway=ip_address("10.77.0.1"))
)


@on_private_host
async def test_a_further_network_s_rules_come_and_go_without_a_look_at_all_of_them(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    dockers_chains()
    network = await booted(host)
    before = iptables("-S").splitlines()
    monkeypatch.delattr(NetlinkKernel, "forward_chains")
    network.plan(OTHER)
    await network.ensure(OTHER.key)
    after = iptables("-S").splitlines()
    added = [line for line in after if "br-other" in line]
    assert [line.split()[:3] for line in added] == [["-A", "DOCKER-USER", way] for way in ("-i", "-o")]
    assert after.index(added[-1]) + 1 == after.index("-A DOCKER-USER -j RETURN")
    await network.forget(OTHER.key)
    assert iptables("-S").splitlines() == before


@on_private_host
async def test_a_firewall_that_was_changed_meanwhile_is_looked_at_again(host: Host) -> None:
    dockers_chains()
    network = await booted(host)
    iptables("-D", "DOCKER-USER", "-j", "RETURN")
    iptables("-A", "DOCKER-USER", "-j", "RETURN")
    network.plan(OTHER)
    with structlog.testing.capture_logs():
        await network.ensure(OTHER.key)
    lines = iptables("-S").splitlines()
    assert len([line for line in lines if "br-other" in line]) == 2
    assert lines.index("-A DOCKER-USER -j RETURN") > max(n for n, line in enumerate(lines) if "br-other" in line)
    iptables("-F", "DOCKER-USER")
    iptables("-F", "FORWARD")
    await network.forget(OTHER.key)
    assert not [line for line in iptables("-S").splitlines() if "br-other" in line]


@on_private_host
async def test_the_networks_of_others_stay_out_of_reach(host: Host) -> None:
    """dockerd's chain FORWARD keeps strangers from its containers by its policy alone."""
    iptables("-P", "FORWARD", "DROP")
    world, theirs = host.world(), host.netns()
    with Netlink() as kernel:
        kernel.request(netlink.bridge("docker9", "02:00:00:00:09:01"))
        index = socket.if_nametoindex("docker9")
        kernel.request(netlink.add_address(index, IPv4Interface("10.9.0.1/24")))
        kernel.request(
            netlink.veth(
                host="docker9a", peer="eth0", peer_mac="02:00:00:00:09:02", netns=theirs, master=index, mtu=1500
            )
        )
    inside(theirs, lambda: run("ip", "address", "add", "10.9.0.2/24", "dev", "eth0"))
    inside(theirs, lambda: run("ip", "link", "set", "eth0", "up"))
    inside(theirs, lambda: run("ip", "route", "add", "default", "via", "10.9.0.1"))
    host.listen(theirs, "0.0.0.0", 80)
    host.listen(world, "0.0.0.0", 90)
    network = await booted(host)
    namespace, _ = await container(host, network)
    assert reachable(host, None, "10.9.0.2", 80)
    assert not reachable(host, namespace, "10.9.0.2", 80, timeout=0.3)
    assert reachable(host, namespace, str(WORLD.ip), 90)
    iptables("-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "81", "-j", "DNAT", "--to", "10.9.0.2:80")
    assert reachable(host, namespace, str(UPLINK.ip), 81), "what they publish is for everybody"


@on_private_host
async def test_switched_off_it_is_only_told_of(host: Host) -> None:
    iptables("-P", "FORWARD", "DROP")
    before = rules()
    network = BridgeNetwork(Instance(), NetlinkKernel(), open_forward=False)
    try:
        with structlog.testing.capture_logs() as logs:
            await network.ensure()
            assert [(line["chain"], line["bridges"]) for line in logs] == [("ip filter FORWARD", [BRIDGE])]
            assert rules() == before
    finally:
        network.close()


@pytest.mark.skipif(shutil.which("iptables-legacy") is None, reason="no iptables-legacy")
@on_private_host
async def test_legacy_iptables_are_told_of(host: Host) -> None:
    try:
        run("iptables-legacy", "-A", "FORWARD", "-i", "lo", "-j", "ACCEPT")
    except Exception:
        pytest.skip("this kernel has no legacy iptables")
    with structlog.testing.capture_logs() as logs:
        await booted(host)
    assert not logs
    run("iptables-legacy", "-P", "FORWARD", "DROP")
    with structlog.testing.capture_logs() as logs:
        await booted(host)
    assert [line["chain"] for line in logs] == ["legacy iptables filter FORWARD"]
