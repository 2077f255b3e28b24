"""macvlan and ipvlan on the real kernel: who meets whom on a parent's wire, what is made for it, what is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network

import pytest

from bulkhead.errors import Conflict, Forbidden, Internal, InvalidArgument
from bulkhead.linux.netns import new_netns
from bulkhead.manager.adapters.netlink_branches import NetlinkBranches
from bulkhead.manager.networks.link_options import link_plan
from bulkhead.manager.networks.parents import ParentNetworks
from bulkhead.manager.networks.ports import AddressWish
from bulkhead.model.network import AddressPlan, Endpoint, LinkPlan, NetworkRecord
from tests.integration.network.private_host import Host, on_private_host, run, run_inside
from tests.integration.network.test_reachability import Exchange

pytestmark = pytest.mark.root

ALIAS = "bulkhead network"
KEY, KEY2 = "a" * 64, "b" * 64
LAN = {4: ip_interface("10.70.0.200/24"), 6: ip_interface("fd00:70::200/64")}
PORT = 7


def plan(key: str, driver: str = "macvlan", *, internal: bool = False, **options: str) -> LinkPlan:
    subnets = [each.network for each in LAN.values()]
    v4, v6 = (AddressPlan(subnet=ip_network(each), gateway=each[1]) for each in subnets)
    return link_plan(NetworkRecord(id=key, name="n", driver=driver, internal=internal, options=options), v4, v6, 0)


@dataclass
class Site:
    """A host with an interface `p0`; at the other end is a machine `lan` with addresses of the containers' subnets."""

    host: Host
    networks: ParentNetworks
    namespaces: dict[str, int] = field(default_factory=dict)
    endpoints: dict[str, Endpoint] = field(default_factory=dict)

    async def attach(self, name: str, key: str = KEY, **fixed: str) -> Endpoint:
        wishes = [AddressWish(address=each, fixed=True) for each in fixed.values()]
        self.namespaces[name] = self.host.netns()
        self.endpoints[name] = await self.networks.attach(
            name.ljust(64, "0"), self.namespaces[name], network=key, wishes=wishes
        )
        return self.endpoints[name]

    def met(self, version: int) -> set[tuple[str, str]]:
        """Who reaches whom by TCP, the host included as a caller; everyone reaches himself."""
        targets: Mapping[str, tuple[str, int]] = {
            name: (str(each.ip), PORT)
            for name, end in self.endpoints.items()
            for each in end.addresses
            if each.version == version
        }
        with contextlib.ExitStack() as stack:
            exchange = Exchange(stack, version)
            for name, namespace in self.namespaces.items():
                exchange.serve(name, namespace, "tcp")
            callers: dict[str, int | None] = {**self.namespaces, "host": None}
            for name, calling in callers.items():
                exchange.call(name, calling, "tcp", {**targets, "lan": (str(LAN[version].ip), PORT)})
            answers = exchange.answers()
        assert all(target == answering for _, target, answering in answers)
        return {(caller, target) for caller, target, _ in answers if caller != target}


def build(host: Host) -> Site:
    lan = host.netns()
    host.cable(lan, (), tuple(LAN.values()), bridge="p0")
    return Site(host, networks(host), {"lan": lan})


def networks(host: Host) -> ParentNetworks:
    return ParentNetworks(NetlinkBranches(host.kernel()), ALIAS)


BOTH_WAYS = {("one", "two"), ("two", "one")}
WITH_LAN = {("one", "lan"), ("two", "lan"), ("lan", "one"), ("lan", "two")}


@pytest.mark.parametrize(("mode", "wanted"), [("bridge", BOTH_WAYS | WITH_LAN), ("private", WITH_LAN)])
@on_private_host
async def test_containers_stand_on_the_parents_wire(host: Host, mode: str, wanted: set[tuple[str, str]]) -> None:
    site = build(host)
    site.networks.plan(plan(KEY, parent="p0", macvlan_mode=mode))
    await site.networks.ensure(KEY)
    before = set(host.links())
    first = await site.attach("one")
    await site.attach("two")
    assert (first.address, first.address6, first.host_interface) == ("10.70.0.2", "fd00:70::2", "p0")
    assert set(host.links()) == before, "nothing of a container is left on the host"
    for version in (4, 6):
        assert site.met(version) == wanted
    routes = run_inside(site.namespaces["one"], "ip", "route") + run_inside(site.namespaces["one"], "ip", "-6", "route")
    assert "default via 10.70.0.1" in routes and "default via fd00:70::1" in routes


@on_private_host
async def test_a_container_that_starts_again_at_once_has_its_address_and_mac(host: Host) -> None:
    site = build(host)
    site.networks.plan(plan(KEY, parent="p0"))
    await site.networks.ensure(KEY)
    dying = new_netns()
    wishes = [AddressWish(address="10.70.0.9")]
    old = await site.networks.attach("one".ljust(64, "0"), dying, network=KEY, wishes=wishes)
    await site.networks.detach(old)
    os.close(dying)
    again = await site.attach("two", wished="10.70.0.9")
    assert (again.address, again.mac) == ("10.70.0.9", old.mac)


@on_private_host
async def test_one_container_has_the_whole_parent(host: Host) -> None:
    site = build(host)
    site.networks.plan(plan(KEY, parent="p0", macvlan_mode="passthru"))
    await site.networks.ensure(KEY)
    await site.attach("one")
    assert site.met(4) == {("one", "lan"), ("lan", "one")}
    site.networks.plan(plan(KEY2, parent="p0"))
    with pytest.raises(Forbidden, match="is already using parent interface p0 in mode passthru"):
        await site.networks.ensure(KEY2)


@on_private_host
async def test_a_network_for_one_container_is_made_again_at_once(host: Host) -> None:
    site = build(host)
    for _ in range(8):
        site.networks.plan(plan(KEY, parent="p0", macvlan_mode="passthru"))
        await site.networks.ensure(KEY)
        await site.networks.forget(KEY)


@on_private_host
async def test_without_a_parent_it_is_an_island_that_goes_with_the_network(host: Host) -> None:
    site = build(host)
    before = set(host.links())
    site.networks.plan(plan(KEY))
    await site.networks.ensure(KEY)
    ends = [await site.attach(name) for name in ("one", "two")]
    assert site.met(4) == BOTH_WAYS == site.met(6)
    assert "default" not in run_inside(site.namespaces["one"], "ip", "route")
    # A successor of the manager knows the records, and sweeps what no record owns.
    successor = networks(host)
    successor.plan(plan(KEY))
    await successor.reconcile(ends)
    made = set(host.links()) - before
    assert made and not await successor.reconcile(ends)
    assert (await successor.attach("e" * 64, host.netns(), network=KEY)).address not in {end.address for end in ends}
    other = networks(host)
    assert (await other.reconcile([])).links_deleted
    assert set(host.links()) == before


@on_private_host
async def test_disconnecting_while_it_runs(host: Host) -> None:
    site = build(host)
    site.networks.plan(plan(KEY, parent="p0"))
    await site.networks.ensure(KEY)
    end = await site.attach("one")
    netns = site.namespaces["one"]
    for _ in range(2):
        await site.networks.unplug(end, netns)
        assert "eth0" not in run_inside(netns, "ip", "link")
    assert (await site.attach("two", wished=end.address)).address == end.address


@pytest.mark.parametrize("mode", ["bridge", "passthru"])
@on_private_host
async def test_a_link_that_a_dead_manager_left_inside_is_replaced(host: Host, mode: str) -> None:
    site = build(host)
    netns = host.netns()
    for name in ("one", "two"):
        manager = networks(host)
        manager.plan(plan(KEY, parent="p0", macvlan_mode=mode))
        await manager.reconcile([])
        end = await manager.attach(name.ljust(64, "0"), netns, network=KEY)
        assert end.interface == "eth0"
    site.namespaces["two"], site.endpoints["two"] = netns, end
    assert site.met(4) == {("two", "lan"), ("lan", "two")}


@on_private_host
async def test_a_link_that_no_record_names_is_cleared(host: Host) -> None:
    site = build(host)
    site.networks.plan(plan(KEY, parent="p0"))
    netns = host.netns()
    # The container's own, of a parent with the same index as ours.
    index = host.links()["p0"].index
    run_inside(
        netns, "ip", "link", "add", "own", "index", str(index), "type", "veth", "peer", "index", "99", "name", "far"
    )
    run_inside(netns, "ip", "link", "add", "link", "own", "name", "theirs", "type", "macvlan")
    kept = await site.networks.attach("one".ljust(64, "0"), netns, network=KEY)
    await site.networks.attach("two".ljust(64, "0"), netns, network=KEY, interface="eth1")
    successor = networks(host)
    successor.plan(plan(KEY, parent="p0"))
    await successor.reconcile([kept])
    for _ in range(2):
        await successor.clear(netns, [kept])
        links = run_inside(netns, "ip", "-o", "link")
        assert "eth0@" in links and "eth1@" not in links and "theirs@own" in links


@on_private_host
async def test_what_is_in_the_way_and_not_of_the_parent_stays(host: Host) -> None:
    site = build(host)
    site.networks.plan(plan(KEY, parent="p0"))
    netns = host.netns()
    run_inside(netns, "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "own")
    with pytest.raises(Conflict, match="File exists"):
        await site.networks.attach("one".ljust(64, "0"), netns, network=KEY)
    assert "eth0@own" in run_inside(netns, "ip", "link")


@on_private_host
async def test_what_is_cancelled_while_its_link_is_made_leaves_nothing(host: Host) -> None:
    site = build(host)
    site.networks.plan(plan(KEY, parent="p0"))
    await site.networks.ensure(KEY)
    attaching = asyncio.create_task(site.attach("one"))
    await asyncio.sleep(0)  # the kernel is at it
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    assert "eth0" not in run_inside(site.namespaces["one"], "ip", "link")
    assert (await site.attach("two", wished="10.70.0.2")).address == "10.70.0.2"


@on_private_host
async def test_what_is_cancelled_while_its_link_is_deleted_is_off(host: Host) -> None:
    site = build(host)
    site.networks.plan(plan(KEY, parent="p0"))
    await site.networks.ensure(KEY)
    end = await site.attach("one")
    unplugging = asyncio.create_task(site.networks.unplug(end, site.namespaces["one"]))
    await asyncio.sleep(0)  # the kernel is at it
    unplugging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unplugging
    assert "eth0" not in run_inside(site.namespaces["one"], "ip", "link")
    assert (await site.attach("two", wished=end.address)).address == end.address


@pytest.mark.parametrize(
    ("parent", "words"),
    [
        ("nosuch", "invalid subinterface vlan name nosuch, example formatting is eth0.10"),
        ("nosuch.10", "-o parent interface was not found on the host: nosuch"),
        ("p0.9999", "vlan id must be between 1-4094, received: 9999"),
        ("p0.x", r"unable to parse a valid vlan id from: x \(ex. eth0.10 for vlan 10\)"),
        ("p0.1.1", "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received p0.1.1"),
    ],
)
@on_private_host
async def test_parents_that_are_not_there(host: Host, parent: str, words: str) -> None:
    site = build(host)
    site.networks.plan(plan(KEY, parent=parent))
    with pytest.raises(InvalidArgument, match=words):
        await site.networks.ensure(KEY)


@on_private_host
async def test_a_sub_interface_is_made_and_goes_with_the_last_network(host: Host) -> None:
    site = build(host)
    before = set(host.links())
    site.networks.plan(plan(KEY, parent="p0.10"))
    if not _knows("vlan", "id", "10"):
        with pytest.raises(Internal, match=r"cannot make interface p0\.10: Operation not supported"):
            await site.networks.ensure(KEY)
        return
    await site.networks.ensure(KEY)
    assert host.links()["p0.10"].alias == ALIAS
    await site.networks.reconcile([])
    await site.networks.forget(KEY)
    assert set(host.links()) == before


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
@on_private_host
async def test_ipvlan(host: Host, mode: str) -> None:
    site = build(host)
    site.networks.plan(plan(KEY, "ipvlan", parent="p0", ipvlan_mode=mode))
    if not _knows("ipvlan"):
        with pytest.raises(Internal, match="cannot make ipvlan links of p0: Operation not supported"):
            await site.networks.ensure(KEY)
        return
    await site.networks.ensure(KEY)
    for name in ("one", "two"):
        await site.attach(name)
    assert site.met(4) >= BOTH_WAYS


def _knows(kind: str, *settings: str) -> bool:
    """Whether this kernel has links of a kind."""
    try:
        run("ip", "link", "add", "link", "p0", "name", "trial", "type", kind, *settings)
    except subprocess.CalledProcessError:
        return False
    run("ip", "link", "del", "trial")
    return True
