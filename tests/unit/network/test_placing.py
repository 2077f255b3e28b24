"""Where the default network is when the host has its usual subnet elsewhere."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Interface, IPv4Network

import pytest

from bulkhead.manager.networks.placing import USUAL, place
from bulkhead.manager.networks.ports import Survey
from bulkhead.model.instance import Instance
from tests.support.fake_network import FakeKernel, fake_network

DOCKERS = [IPv4Network(f"172.{second}.0.0/16") for second in range(17, 20)]


def _host(*routes: str, address: str = "") -> FakeKernel:
    kernel = FakeKernel()
    kernel.routes += [(IPv4Network(route), "tun0") for route in routes]
    kernel.add_interface("tun0", *([IPv4Interface(address)] if address else []))
    return kernel


def _survey(kernel: FakeKernel) -> Survey:
    return asyncio.run(kernel.survey())


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        ((), USUAL),
        (("10.0.0.0/8", "0.0.0.0/1", "128.0.0.0/1"), USUAL),
        (("172.30.7.0/24",), "172.17.0.0/16"),
        (("172.16.0.0/12",), "192.168.0.0/20"),
        (("172.30.0.0/16", "172.17.0.0/16"), "172.18.0.0/16"),
    ],
)
def test_the_next_free_one_is_taken(routes: tuple[str, ...], expected: str) -> None:
    assert place(USUAL, Instance(), _survey(_host(*routes)), []) == expected


def test_users_networks_and_addresses_without_a_route_are_not_free() -> None:
    host = _host("172.30.0.0/16", address="172.20.0.9/24")
    host.routes = [route for route in host.routes if str(route[0]) != "172.20.0.0/24"]
    assert place(USUAL, Instance(), _survey(host), DOCKERS) == "172.21.0.0/16"
    assert place("172.20.0.0/16", Instance(), _survey(host), DOCKERS) == "172.21.0.0/16"


def test_what_was_chosen_stays() -> None:
    assert place("172.18.0.0/16", Instance(), _survey(_host()), []) == "172.18.0.0/16"


def test_a_bridge_that_is_there_is_kept_whatever_was_routed_since() -> None:
    host = _host("172.30.7.0/24")
    host.add_interface(Instance().bridge, IPv4Interface("172.30.0.1/16"), kind="bridge")
    assert place(USUAL, Instance(), _survey(host), []) == USUAL


def test_where_nothing_is_free_the_network_says_so() -> None:
    host = _host("172.16.0.0/12", "192.168.0.0/16")
    assert place(USUAL, Instance(), _survey(host), []) == USUAL


async def test_the_network_is_made_there() -> None:
    host = _host("172.30.7.0/24")
    chosen = Instance(subnet=place(USUAL, Instance(), await host.survey(), []))
    network = fake_network(chosen, host)
    await network.ensure()
    assert (await network.attach("a" * 64, 1)).address == "172.17.0.2"
