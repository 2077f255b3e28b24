"""Requests for links that this machine's kernel may not know: the bytes that iproute2 6.1 sends for the same."""

from __future__ import annotations

import pytest

from bulkhead.linux import netlink


@pytest.mark.parametrize(
    ("mode", "flag", "data"),
    [
        ("l2", "bridge", "0600010000000000 0600020000000000"),
        ("l3", "vepa", "0600010001000000 0600020002000000"),
        ("l3s", "private", "0600010002000000 0600020001000000"),
    ],
)
def test_ipvlan(mode: str, flag: str, data: str) -> None:
    request = netlink.ipvlan("b0", 3, netns=9, mode=mode, flag=flag, mtu=1400)
    assert b"ipvlan\0" in request and request.endswith(bytes.fromhex(data))


def test_vlan() -> None:
    request = netlink.vlan("b0", 3, 10)
    assert b"vlan\0" in request and request.endswith(bytes.fromhex("06000100 0a000000"))


def test_macvlan() -> None:
    request = netlink.macvlan("b0", 3, netns=9, mac="02:42:00:00:00:01", mode="private", mtu=1400)
    assert b"macvlan\0" in request and request.endswith(bytes.fromhex("08000100 01000000"))
