"""Addresses: none given twice, none lost."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

import pytest

from bulkhead.errors import InvalidArgument, ResourceExhausted
from bulkhead.manager.networks.ipam import AddressPool
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


def test_seventy_thousand_comings_and_goings_lose_and_double_nothing() -> None:
    """M19: a leak of one address in a thousand stops every start within a day."""
    pool = _pool("10.0.0.0/24")
    luck = random.Random(1)
    held: dict[IPAddress, str] = {}
    for number in range(70_000):
        if held and (len(held) == 253 or luck.random() < 0.5):
            address = luck.choice(list(held)) if number % 100 == 0 else next(iter(held))
            pool.release(address, held.pop(address))
        else:
            address = pool.lease(str(number))
            assert address not in held
            held[address] = str(number)
    assert len(pool) == len(held)
