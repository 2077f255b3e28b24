"""Subnets of new networks: the user's, checked, or the next free default."""

from __future__ import annotations

from ipaddress import IPv4Network, ip_network

import pytest

from bulkhead.errors import BulkheadError, Forbidden, InvalidArgument, NotFound
from bulkhead.manager.networks.blocks import choose, unique_local
from bulkhead.model.network import AddressBlock


def nets(*texts: str) -> list[IPv4Network]:
    return [IPv4Network(text) for text in texts]


def test_defaults_avoid_networks_and_the_host_s_routes() -> None:
    chosen = choose((), nets("172.17.0.0/16"), nets("172.18.5.0/24"))
    assert (chosen.subnet, chosen.gateway) == ("172.19.0.0/16", "172.19.0.1")
    small = choose((), [*nets("172.16.0.0/12")], nets("192.168.0.0/20"))
    assert small.subnet == "192.168.16.0/20"
    with pytest.raises(NotFound, match="non-overlapping IPv4 address pool"):
        choose((), nets("172.16.0.0/12", "192.168.0.0/16"), [])


def test_a_users_subnet_may_be_routed_but_not_taken() -> None:
    wanted = [AddressBlock(subnet="10.9.0.0/24", reserved={"router": "10.9.0.1"})]
    assert choose(wanted, [], nets("10.0.0.0/8")).gateway == "10.9.0.2"
    with pytest.raises(Forbidden, match="Pool overlaps with other one on this address space"):
        choose(wanted, nets("10.9.0.128/25"), [])


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        (AddressBlock(subnet="nonsense"), InvalidArgument),
        (AddressBlock(subnet="10.9.0.1/24"), InvalidArgument),
        (AddressBlock(subnet="10.9.0.0/31"), InvalidArgument),
        (AddressBlock(subnet="10.9.0.0/24", gateway="10.8.0.1"), InvalidArgument),
        (AddressBlock(subnet="10.9.0.0/24", ip_range="10.8.0.0/25"), InvalidArgument),
        (AddressBlock(subnet="10.9.0.0/24", reserved={"x": "y"}), InvalidArgument),
        (AddressBlock(subnet="", gateway="10.9.0.1"), InvalidArgument),
    ],
)
def test_what_cannot_be(block: AddressBlock, kind: type[BulkheadError]) -> None:
    with pytest.raises(kind):
        choose([block], [], [])


def test_ipv6_comes_from_the_installations_own_addresses() -> None:
    own = unique_local("an engine")
    assert own == unique_local("an engine") != unique_local("another")
    first = choose([AddressBlock(subnet="10.9.0.0/24")], nets("10.0.0.0/8"), [], own, version=6)
    assert first.subnet.startswith("fd") and first.gateway == str(ip_network(first.subnet)[1])
    second = choose((), [ip_network(first.subnet)], [], own, version=6)
    assert second.subnet != first.subnet
    with pytest.raises(NotFound, match="non-overlapping IPv6 address pool"):
        choose((), [ip_network("fd00::/8")], [], own, version=6)
    wanted = [AddressBlock(subnet="10.9.0.0/24"), AddressBlock(subnet="fd00:5::/64", ip_range="fd00:5::8000:0/97")]
    assert choose(wanted, [], [], version=6).gateway == "fd00:5::1"
    with pytest.raises(InvalidArgument, match="no matching subnet"):
        choose([AddressBlock(subnet="fd00:5::/64", ip_range="10.9.0.0/24")], [], [], version=6)
