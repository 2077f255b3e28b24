"""Which of a container's sysctls are about its interfaces, and nothing else of the host's /proc."""

from __future__ import annotations

import pytest

from bulkhead.manager.networks.settings import of_interfaces, of_no_interface


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.conf.eth0.forwarding", "net/ipv4/conf/eth0/forwarding"),
        ("net.ipv6.conf.default.accept_ra", "net/ipv6/conf/default/accept_ra"),
        ("net.ipv4.neigh.eth1.gc_stale_time", "net/ipv4/neigh/eth1/gc_stale_time"),
        ("net/ipv4/conf/eth0.100/rp_filter", "net/ipv4/conf/eth0.100/rp_filter"),
    ],
)
def test_of_interfaces(key: str, path: str) -> None:
    assert of_interfaces({key: "1"}) == {path: "1"}
    assert of_no_interface({key: "1"}) == {}


@pytest.mark.parametrize(
    "key",
    [
        "net.ipv4.ip_forward",
        "net.core.somaxconn",
        "kernel.msgmax",
        "net.ipv4.route.eth0.flush",
        "net/ipv4/conf/../forwarding",
        "net/ipv4/conf/./forwarding",
        "net/ipv4/conf/eth0/../../ip_forward",
        "net/ipv4/conf/eth0/a/b",
        "net/ipv4/../conf/eth0/forwarding",
        "/net/ipv4/conf/eth0/forwarding",
        "net/ipv4/conf//forwarding",
        "net/ipv4/conf/eth0/forwarding\n",
    ],
)
def test_all_else_is_left_to_the_runtime_to_judge(key: str) -> None:
    assert of_interfaces({key: "1"}) == {}
    assert of_no_interface({key: "1"}) == {key: "1"}
