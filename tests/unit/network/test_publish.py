"""What must change in the firewall: everything that differs, and nothing that does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from bulkhead.manager.networks import publish, tables
from bulkhead.manager.networks.ports import Bridge
from bulkhead.model.network import AddressPlan, Endpoint, PortBinding
from tests.support.fake_network import FakeKernel


def _plan(subnet: str) -> AddressPlan:
    return AddressPlan(subnet=ip_network(subnet), gateway=ip_network(subnet)[1])


BRIDGE = Bridge(name="br0", v4=_plan("10.0.0.0/24"), mac="02:42:0a:00:00:01")
OTHER = Bridge(name="br1", v4=_plan("10.1.0.0/24"), v6=_plan("fd00::/64"), mac="02:42:0a:01:00:01")


def _endpoint(address: str, *ports: tuple[str, int]) -> Endpoint:
    bindings = tuple(PortBinding(container_port=80, host_ip=ip, host_port=port) for ip, port in ports)
    return Endpoint(
        container_id="c",
        address=address,
        prefix_len=24,
        gateway="10.0.0.1",
        mac="02:42:0a:00:00:02",
        host_interface="v",
        ports=bindings,
    )


WEB = _endpoint("10.0.0.2", ("0.0.0.0", 8080), ("127.0.0.1", 8081))
DB = _endpoint("10.0.0.3", ("0.0.0.0", 5432))
WANTED = publish.desired("t", [BRIDGE], [WEB, DB])


async def _listed(*transactions: list[str]) -> list[dict[str, Any]]:
    """The table's listing after some transactions on an empty host."""
    kernel = FakeKernel()
    for commands in transactions:
        await kernel.apply(commands)
    return kernel.tables["inet t"].listing("t")


async def _table(*transactions: list[str]) -> tables.Table:
    table = tables.actual("inet", "t", await _listed(*transactions))
    assert table is not None
    return table


MAKE = tables.changes(WANTED, None, prune=True)


async def test_a_table_that_was_made_needs_no_change() -> None:
    assert tables.changes(WANTED, await _table(MAKE), prune=True) == []


async def test_one_container_more_touches_its_elements_only() -> None:
    more = publish.desired("t", [BRIDGE], [WEB, DB, _endpoint("10.0.0.4", ("0.0.0.0", 25))])
    assert tables.changes(more, await _table(MAKE), prune=True) == [
        "add element inet t published_any { 6 . 25 : 10.0.0.4 . 80 }"
    ]


async def test_one_container_less_is_pruned_only_when_asked() -> None:
    less = publish.desired("t", [BRIDGE], [WEB])
    assert tables.changes(less, await _table(MAKE), prune=False) == []
    assert tables.changes(less, await _table(MAKE), prune=True) == ["delete element inet t published_any { 6 . 5432 }"]


async def test_a_port_that_leads_to_the_wrong_container_is_corrected_even_without_pruning() -> None:
    moved = publish.desired("t", [BRIDGE], [WEB, _endpoint("10.0.0.9", ("0.0.0.0", 5432))])
    assert tables.changes(moved, await _table(MAKE), prune=False) == [
        "delete element inet t published_any { 6 . 5432 }",
        "add element inet t published_any { 6 . 5432 : 10.0.0.9 . 80 }",
    ]


async def test_another_bridge_adds_elements_and_leaves_the_rules_alone() -> None:
    both = publish.desired("t", [BRIDGE, OTHER], [WEB, DB])
    commands = tables.changes(both, await _table(MAKE), prune=True)
    assert commands and all(command.startswith("add element inet t ") for command in commands)
    assert tables.changes(both, await _table(MAKE, commands), prune=True) == []


async def test_a_bridge_that_is_a_word_of_nft_s_language_is_quoted() -> None:
    named = publish.desired("t", [replace(BRIDGE, name="accept")], [])
    assert 'add element inet t home { 10.0.0.0/24 . "accept" }' in tables.changes(named, None, prune=True)


async def test_subnets_that_overlap_are_masqueraded_as_the_widest() -> None:
    """The kernel refuses intervals that overlap, and with them all that is changed beside them."""
    inner = replace(OTHER, v4=_plan("10.0.0.128/25"))
    wanted = publish.desired("t", [inner, BRIDGE], [])
    assert wanted.elements["masqueraded"] == {("10.0.0.0/24",): ""}
    assert wanted.elements["home"].keys() == {("10.0.0.0/24", "br0"), ("10.0.0.128/25", "br1")}


def _with_a_foreign_chain(objects: list[dict[str, Any]]) -> None:
    objects.append({"chain": {"name": "mine", "type": "filter", "hook": "input", "prio": 0}})


def _with_a_foreign_set(objects: list[dict[str, Any]]) -> None:
    objects.append({"set": {"name": "mine", "type": "ipv4_addr"}})


def _without_a_chain(objects: list[dict[str, Any]]) -> None:
    objects[:] = [
        item
        for item in objects
        if item.get("chain", {}).get("name") != "guard" and item.get("rule", {}).get("chain") != "guard"
    ]


def _with_another_hook(objects: list[dict[str, Any]]) -> None:
    next(item["chain"] for item in objects if "chain" in item)["prio"] = 7


@pytest.mark.parametrize("distort", [_with_a_foreign_chain, _with_a_foreign_set, _without_a_chain, _with_another_hook])
async def test_a_table_of_another_shape_is_replaced_in_one_transaction_with_its_elements(
    distort: Callable[[list[dict[str, Any]]], None],
) -> None:
    objects = await _listed(MAKE)
    distort(objects)
    nobody = publish.desired("t", [BRIDGE], [])
    commands = tables.changes(nobody, tables.actual("inet", "t", objects), prune=False)
    assert commands[:2] == ["delete table inet t", "add table inet t"]
    assert (await _table(MAKE, commands)).elements == WANTED.elements
    pruned = tables.changes(nobody, tables.actual("inet", "t", objects), prune=True)
    kept = (await _table(MAKE, pruned)).elements
    assert kept == nobody.elements
    assert not kept["published_any"] and not kept["published"]


async def test_what_another_version_keyed_otherwise_is_not_taken_along() -> None:
    objects = await _listed(MAKE)
    home = next(item["set"] for item in objects if item.get("set", {}).get("name") == "home")
    home["type"], home["elem"] = ["ifname", "ipv4_addr"], [{"concat": ["gone", "10.9.0.0"]}]
    commands = tables.changes(WANTED, tables.actual("inet", "t", objects), prune=False)
    assert (await _table(MAKE, commands)).elements == WANTED.elements


async def test_removals_do_not_mind_what_is_gone_already() -> None:
    kernel = FakeKernel()
    await kernel.apply(MAKE)
    removals = publish.LAYOUT.removals("t", publish.elements_of(DB))
    for _ in range(2):
        assert await kernel.change_elements(removals)
        assert kernel.tables["inet t"].elements["published_any"] == {"6 . 8080": "10.0.0.2 . 80"}


def test_a_host_without_the_table_is_told_apart_from_an_empty_one() -> None:
    assert tables.actual("inet", "t", None) is None


def test_protocols_are_known_by_name_and_by_number() -> None:
    listing = [
        {
            "map": {
                "name": "m",
                "type": ["a"],
                "map": "b",
                "elem": [[{"concat": [name, 53]}, {"concat": ["10.0.0.2", 53]}]],
            }
        }
        for name in ("udp", 17)
    ]
    found = [tables.actual("inet", "t", [item]) for item in listing]
    assert found[0] == found[1]
