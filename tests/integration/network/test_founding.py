"""Networks that are added to those that there are, and taken away again: only what is theirs changes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace
from ipaddress import ip_interface, ip_network

import pytest
import structlog.testing

from bulkhead.linux import netlink, nftables
from bulkhead.linux.netlink import Netlink
from bulkhead.manager.adapters import sysctls
from bulkhead.manager.adapters.netlink_network import NetlinkKernel
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.manager.networks.elsewhere import use_of
from bulkhead.model.network import AddressPlan, BridgePlan, GatewayMode, PortBinding
from tests.integration.network.private_host import Host, eventually, on_private_host, run

pytestmark = pytest.mark.root

WEB = PortBinding(container_port=80, host_port=8080)


def _addresses(subnet: str, mode: GatewayMode = GatewayMode.NAT) -> AddressPlan:
    network = ip_network(subnet)
    return AddressPlan(subnet=network, gateway=network[1], mode=mode)


def _plan(letter: str, subnet: str, **options: bool) -> BridgePlan:
    return BridgePlan(key=letter * 64, bridge=f"br-{letter}", v4=_addresses(subnet), **options)  # type: ignore[arg-type]


PLANS = (
    _plan("a", "10.77.0.0/24"),
    # A neighbour: where the first ends this one begins.
    _plan("b", "10.77.1.0/24", interconnected=False),
    _plan("c", "10.77.2.0/23", internal=True),
    replace(_plan("d", "10.78.0.0/16", masquerade=False), v6=_addresses("fd00:77::/64")),
    replace(_plan("e", "10.79.0.0/30"), v4=_addresses("10.79.0.0/30", GatewayMode.ROUTED)),
    replace(_plan("f", "10.79.0.4/30"), v4=_addresses("10.79.0.4/30", GatewayMode.UNPROTECTED)),
)


async def _booted(host: Host) -> BridgeNetwork:
    network = host.network()
    await network.ensure()
    await network.reconcile([])
    return network


@on_private_host
async def test_what_is_added_one_by_one_is_what_is_wanted_of_all(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    network = await _booted(host)
    before = [host.table(family=family) for family in ("inet", "bridge")]
    with monkeypatch.context() as patch:
        # The way of all that there is, which mends what is not right.
        patch.delattr(NetlinkKernel, "table")
        for plan in PLANS:
            network.plan(plan)
            await network.ensure(plan.key)
    with_all = [host.table(family=family) for family in ("inet", "bridge")]
    assert not await network.reconcile([])
    host.nft("flush ruleset")
    await network.reconcile([])
    assert with_all == [host.table(family=family) for family in ("inet", "bridge")]
    with monkeypatch.context() as patch:
        patch.delattr(NetlinkKernel, "table")
        for plan in PLANS:
            await network.forget(plan.key)
    assert before == [host.table(family=family) for family in ("inet", "bridge")]
    assert not {name for name in host.links() if name.startswith("br-")}


@on_private_host
async def test_an_internal_network_reaches_no_port_of_another_whichever_was_first(host: Host) -> None:
    network = await _booted(host)
    outer, inner = host.netns(), host.netns()
    for plan in (PLANS[0], PLANS[2]):
        network.plan(plan)
        await network.ensure(plan.key)
    published = await network.attach("1" * 64, outer, network=PLANS[0].key, ports=[WEB])
    await network.attach("2" * 64, inner, network=PLANS[2].key)
    server = host.listen(outer, "0.0.0.0", 80)
    assert host.caller(server, None, "127.0.0.1", 8080) == "10.77.0.1"
    assert published.address == "10.77.0.2"
    with pytest.raises(OSError):
        host.connect(inner, "10.77.2.1", 8080, timeout=0.3)


@on_private_host
async def test_who_makes_and_removes_networks_is_not_mended_after_himself(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bulkhead.manager.networks.bridge._SETTLE_SECONDS", 0)
    network = await _booted(host)
    looked: list[str] = []
    survey = NetlinkKernel.survey

    async def counted(kernel: NetlinkKernel) -> object:
        looked.append("all")
        return await survey(kernel)

    watching = asyncio.create_task(network.watch())
    monkeypatch.setattr(NetlinkKernel, "survey", counted)
    try:
        await eventually(lambda: looked == ["all"])  # once, at first
        await network.ensure()  # one at a time: now that one is over
        looked.clear()
        for plan in PLANS[:2]:
            network.plan(plan)
            await network.ensure(plan.key)
        for plan in PLANS[:2]:
            await network.forget(plan.key)
        run("nft", "add table inet another; add chain inet another c; delete table inet another")
        with Netlink() as kernel:
            kernel.request(netlink.bridge("another", "02:00:00:00:00:07"), netlink.delete_link("another"))
        assert not looked
        with structlog.testing.capture_logs() as logs:
            host.nft(f"flush table inet {network._table}")
            await eventually(lambda: bool(logs))
        assert looked == ["all"]
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


@on_private_host
async def test_the_last_addresses_that_there_are_can_be_an_element(host: Host) -> None:
    host.nft("add table inet t\nadd set inet t s { type ipv4_addr; flags interval; }")
    with Netlink(nftables.NETFILTER) as kernel:
        for delete in (False, True):
            entries: nftables.Elements = {("255.255.255.0/24",): "", ("10.0.0.0/8",): ""}
            change = nftables.change_elements(
                "inet", "t", "s", ("ipv4_addr", ""), entries, delete=delete, interval=True
            )
            kernel.request(*nftables.transaction([change]))
            listed = run("nft", "list", "set", "inet", "t", "s")
            assert ("10.0.0.0/8, 255.255.255.0/24" in listed) is not delete


NETWORKS = [ip_network(text) for text in ("10.9.0.0/24", "172.16.0.0/12", "fd00:9::/64", "192.0.2.0/24")]


@on_private_host
async def test_a_look_finds_what_the_survey_of_all_does(host: Host) -> None:
    host.world()
    _bridge("br-here", "10.9.0.1/24", "198.51.0.9/24", "fd00:9::1/64")
    _bridge("br-near", "172.17.0.1/16")
    _bridge("br-wide", "10.8.0.1/13")
    _bridge("br-down", "192.0.2.9/32", up=False)
    run("ip", "route", "add", "blackhole", "10.9.0.128/25")
    run("ip", "route", "add", "10.9.0.64/26", "dev", "br-near", "table", "77")
    kernel = host.kernel()
    whole = await kernel.survey()
    for name in ("br-here", "br-down", "none", "uplink"):
        found = await kernel.look(name, NETWORKS)
        assert found.interfaces.get(name) == whole.interfaces.get(name)
        for network in NETWORKS:
            assert use_of(network, found, besides=name) == use_of(network, whole, besides=name)
    assert [use_of(network, whole, besides="") is not None for network in NETWORKS] == [True] * len(NETWORKS)
    assert (await kernel.look("none", [])).interfaces == {}


def _bridge(name: str, *addresses: str, up: bool = True) -> None:
    with Netlink() as kernel:
        kernel.request(netlink.bridge(name, "02:00:00:00:00:09", up=up))
        index = socket.if_nametoindex(name)
        kernel.request(*(netlink.add_address(index, ip_interface(each)) for each in addresses))


@on_private_host
async def test_ipv6_is_forwarded_although_interfaces_go_meanwhile(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every container's goes."""
    for name in ("leaves", "stays"):
        _bridge(name)
        run("sysctl", "-w", f"net.ipv6.conf.{name}.accept_ra=1")
    setting = sysctls.setting

    def slowly(path: str) -> str | None:
        if path.endswith("/leaves/accept_ra") and "leaves" in host.links():
            run("ip", "link", "delete", "leaves")
        return setting(path)

    monkeypatch.setattr(sysctls, "setting", slowly)
    changed = await host.kernel().forward_ipv6()
    assert {"net/ipv6/conf/stays/accept_ra", "net/ipv6/conf/all/forwarding"} <= set(changed)
