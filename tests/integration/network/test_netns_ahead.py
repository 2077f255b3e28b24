"""A network namespace that was made before anybody asked for one: the next container's, or nobody's."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import cast

import pytest

from bulkhead.manager.adapters.netlink_network import NetlinkKernel
from bulkhead.manager.adapters.netns_ahead import NetnsAhead
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.model.instance import Instance
from tests.integration.network.private_host import Host, eventually, inside, on_private_host, run_inside, setting
from tests.support.containers import namespace
from tests.support.descriptors import open_descriptors

pytestmark = pytest.mark.root

IPV6 = "net/ipv6/conf"
ID, ID2 = "a" * 64, "b" * 64


def _namespaces() -> Counter[str]:
    """The network namespaces that this process holds."""
    return Counter(name for name in open_descriptors().elements() if name.startswith("net:"))


def _kept_by(network: BridgeNetwork) -> list[int]:
    return cast(NetlinkKernel, network._kernel)._ahead._made


def _name(netns: int) -> str:
    return str(Path(f"/proc/self/fd/{netns}").readlink())


@on_private_host
async def test_it_is_new_and_the_takers(host: Host) -> None:
    home, before = namespace("thread-self", "net"), _namespaces()
    ahead = NetnsAhead(pause=0.0)
    assert ahead.take() == []
    ahead.expect()
    await eventually(lambda: bool(ahead._made))
    (netns,) = ahead.take()
    try:
        assert _name(netns) not in {home, *before}
        assert namespace("thread-self", "net") == home
        assert inside(netns, host.links).keys() == {"lo"}
        assert ahead.take() == []
        ahead.close()
        assert _namespaces() - before == Counter([_name(netns)])
    finally:
        os.close(netns)


@on_private_host
async def test_what_nobody_wants_is_given_back(host: Host) -> None:
    # What the host's administrator changes is to be true of the containers that start afterwards.
    made: list[str] = []
    ahead = NetnsAhead(lambda: made.append(namespace("thread-self", "net")), pause=0.0, seconds=0.2)
    ahead.expect()
    await eventually(lambda: bool(made))
    await eventually(lambda: made[0] not in _namespaces())
    assert ahead.take() == []


@on_private_host
async def test_none_is_kept_when_all_is_over(host: Host) -> None:
    before = _namespaces()
    ahead = NetnsAhead(pause=0.0)
    ahead.expect()
    await eventually(lambda: bool(ahead._made))
    assert _namespaces() - before
    ahead.close()
    assert not _namespaces() - before
    ahead.expect()
    assert ahead.take() == []


@on_private_host
async def test_the_next_container_is_plugged_in_there(host: Host) -> None:
    # Whose network is made ahead finds in it what any other does.
    network = host.network()
    await network.ensure()
    await network.reconcile([])
    first = await network.plug_reserved(network.reserve(ID))
    try:
        await eventually(lambda: bool(_kept_by(network)))
        (made,) = map(_name, _kept_by(network))
        endpoint = network.reserve(ID2)
        second = await network.plug_reserved(endpoint)
        try:
            assert _name(second) == made
            assert str(endpoint.addresses[0]) in run_inside(second, "ip", "-4", "addr", "show", "dev", "eth0")
            assert "default via" in run_inside(second, "ip", "route")
            assert inside(second, lambda: setting(f"{IPV6}/eth0/disable_ipv6")) == "1"
        finally:
            os.close(second)
    finally:
        os.close(first)


@on_private_host
async def test_ipv6_is_on_where_the_network_has_it(host: Host) -> None:
    # What is made ahead is as for most: without.
    network = host.network(Instance(subnet6="fd00:1::/64"))
    await network.ensure()
    await network.reconcile([])
    os.close(await network.plug_reserved(network.reserve(ID)))
    known = _namespaces()
    await eventually(lambda: bool(_kept_by(network)))
    endpoint = network.reserve(ID2)
    netns = await network.plug_reserved(endpoint)
    try:
        assert _name(netns) in _namespaces() - known
        assert inside(netns, lambda: setting(f"{IPV6}/eth0/disable_ipv6")) == "0"
        assert "fd00:1::" in run_inside(netns, "ip", "-6", "addr", "show", "dev", "eth0")
    finally:
        os.close(netns)
