"""Addresses: none given twice, none lost."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from types import FrameType
from typing import Any

import pytest

from bulkhead.errors import InvalidArgument, ResourceExhausted
from bulkhead.manager.networks import ipam
from bulkhead.manager.networks.ipam import AddressPool, Runs
from bulkhead.model.network import IPAddress


def _pool(subnet: str = "10.0.0.0/29") -> AddressPool:
    return AddressPool(IPv4Network(subnet))


def test_gateway_network_and_broadcast_are_never_given() -> None:
    pool = _pool()
    given = [str(pool.lease(f"c{number}")) for number in range(5)]
    assert given == ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
    assert pool.gateway == IPv4Address("10.0.0.1")


def test_a_full_subnet_says_so_and_serves_again_after_a_release() -> None:
    pool = _pool()
    given = [pool.lease("c") for _ in range(5)]
    with pytest.raises(ResourceExhausted, match=r"no available IPv4 addresses.*10\.0\.0\.0/29"):
        pool.lease("d")
    pool.release(given[3], "c")
    assert pool.lease("d") == given[3]


@pytest.mark.parametrize("taboo", ["10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.0.8", "9.9.9.9"])
def test_a_wish_for_an_address_that_is_no_containers_is_not_granted(taboo: str) -> None:
    assert _pool().lease("c", IPv4Address(taboo)) == IPv4Address("10.0.0.2")


def test_a_granted_wish_does_not_move_the_place_where_the_next_is_sought() -> None:
    pool = _pool()
    assert pool.lease("a", IPv4Address("10.0.0.6")) == IPv4Address("10.0.0.6")
    assert pool.lease("b") == IPv4Address("10.0.0.2")


def test_only_the_holder_releases() -> None:
    pool = _pool()
    address = pool.lease("a")
    pool.release(address, "b")
    assert len(pool) == 1
    pool.release(address, "a")
    pool.release(address, "a")
    assert len(pool) == 0


def test_claims_after_a_restart_are_respected_and_new_addresses_come_after_them() -> None:
    pool = _pool()
    assert pool.claim(IPv4Address("10.0.0.4"), "a")
    assert pool.claim(IPv4Address("10.0.0.4"), "a")
    assert not pool.claim(IPv4Address("10.0.0.4"), "b")
    assert pool.lease("b") == IPv4Address("10.0.0.5")


def test_a_claim_outside_the_subnet_is_another_configurations_and_ignored() -> None:
    pool = _pool()
    assert pool.claim(IPv4Address("192.168.1.4"), "a")
    assert len(pool) == 0


@pytest.mark.parametrize("subnet", ["10.0.0.0/31", "10.0.0.0/32"])
def test_a_subnet_without_room_is_refused(subnet: str) -> None:
    with pytest.raises(InvalidArgument, match="no room"):
        _pool(subnet)


def test_an_ipv6_subnet_has_no_broadcast_address_and_any_number_of_others() -> None:
    pool = AddressPool(ip_network("fd00::/64"))
    assert [str(pool.lease(owner)) for owner in "ab"] == ["fd00::2", "fd00::3"]
    assert pool.lease("c", ip_address("fd00::ffff:ffff:ffff:ffff"), fixed=True) == ip_network("fd00::/64")[-1]
    small = AddressPool(ip_network("fd00::/126"))
    assert [str(small.lease(owner)) for owner in "ab"] == ["fd00::2", "fd00::3"]
    with pytest.raises(ResourceExhausted, match="no available IPv6 addresses on this network's address pools"):
        small.lease("c")


def _steps(deed: Callable[[], object]) -> int:
    """How many lines of the allocator a deed takes: what a clock would measure, without the clock."""
    steps = 0

    def trace(frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
        nonlocal steps
        if frame.f_code.co_filename != ipam.__file__:
            return None
        steps += event == "line"
        return trace

    sys.settrace(trace)
    try:
        deed()
    finally:
        sys.settrace(None)
    return steps


@pytest.mark.parametrize("subnet", ["10.0.0.0/16", "fd00::/64"])
def test_a_lease_takes_no_more_steps_when_all_but_one_are_taken(subnet: str) -> None:
    pool = AddressPool(ip_network(subnet))
    first = _steps(lambda: pool.lease("first"))
    number = 0
    with contextlib.suppress(ResourceExhausted):
        while number < 66_000:
            pool.lease(f"c{number}")
            number += 1
    hole = ip_address(int(pool.subnet[0]) + 40_000)
    pool.release(hole, f"c{40_000 - 3}")
    assert _steps(lambda: pool.lease("last")) <= first + 10
    if pool.version == 4:
        assert len(pool) == 65_533 and pool.claim(hole, "last")


def test_70_000_cycles_leave_the_pool_as_it_was_and_take_no_more_steps() -> None:
    """M19: a leak of one in a thousand stops every start within a day. Starts, restarts, and the books made anew."""
    chance = random.Random(19)
    pool = AddressPool(IPv4Network("10.0.0.0/24"), reserved=[IPv4Address("10.0.0.77")])
    most = _steps(lambda: pool.release(pool.lease("probe"), "probe")) + 30
    held: dict[str, IPAddress] = {}
    last: dict[str, IPAddress] = {}
    for cycle in range(70_000):
        owner = f"c{chance.randrange(200)}"
        if owner in held:
            last[owner] = held.pop(owner)
            pool.release(last[owner], owner)
        else:
            wish = last.get(owner)
            free = wish is not None and wish not in held.values()
            held[owner] = pool.lease(owner, wish)
            assert not free or held[owner] == wish, "an address is kept where it is free"
        if cycle % 1000 == 0:
            assert len(set(held.values())) == len(held) == len(pool)
            assert _steps(lambda: pool.release(pool.lease("probe"), "probe")) <= most
        if cycle % 10_000 == 0:
            pool.forget()
            assert all(pool.claim(address, owner) for owner, address in held.items())
    for owner, address in held.items():
        pool.release(address, owner)
    assert len(pool) == 0
    assert len({pool.lease(f"n{number}") for number in range(252)}) == 252
    with pytest.raises(ResourceExhausted):
        pool.lease("one too many")


def test_runs_hold_what_a_set_holds() -> None:
    chance = random.Random(1)
    runs, numbers = Runs(), set[int]()
    for _ in range(5000):
        number = chance.randrange(120)
        if chance.random() < 0.5:
            runs.add(number)
            numbers.add(number)
        else:
            runs.discard(number)
            numbers.discard(number)
        start = chance.randrange(120)
        assert runs.free_from(start) == next(free for free in range(start, 200) if free not in numbers)
    assert len(runs) == sum(number - 1 not in numbers for number in numbers)
