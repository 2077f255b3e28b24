"""Onto a network and off it: what is refused, with which status and words, and what a start makes of it."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bulkhead.ctl import failpoints
from bulkhead.ctl.engine_client import call
from bulkhead.linux.nftables import Nftables
from tests.compat.conftest import Target
from tests.compat.test_networks import SLEEP, cleaned, real
from tests.support.engine import Engine
from tests.support.eventually import until
from tests.support.ports import free_port

_NONE = "container cannot be connected to multiple networks with one of the networks in private (none) mode"
_SHARED = "container sharing network namespace with another container or host cannot be connected to any other network"
_HOST = "container cannot be disconnected from host network or connected to host network"


@pytest.fixture(params=["real", "dockerd"])
def either(request: pytest.FixtureRequest) -> Iterator[Target]:
    """The whole engine, and dockerd as the control."""
    if request.param == "dockerd":
        yield from cleaned(request.getfixturevalue("dockerd_target"))
    else:
        yield from cleaned(real(request.getfixturevalue("engine")))


@pytest.mark.parametrize("runs", [False, True], ids=["created", "running"])
def test_a_container_without_a_network_is_given_one(either: Target, runs: bool) -> None:
    """What counts is what it is on, not what it was created with."""
    either.ok("network", "create", "given")
    try:
        either.ok(*(("run", "-d") if runs else ("create",)), "--name", "box", "--network", "none", *SLEEP)
        assert _change(either, "connect", "given") == (400, _NONE)
        assert _change(either, "disconnect", "none") == (200, "")
        assert _change(either, "connect", "given") == (200, "")
        assert _change(either, "connect", "none") == (400, _NONE)
        if not runs:
            either.ok("start", "box")
        for _ in range(2):
            assert "eth0" in either.ok("exec", "box", "ls", "/sys/class/net").split()
            assert list(_networks(either)) == ["given"] and _networks(either)["given"]["IPAddress"]
            either.ok("restart", "-t", "0", "box")
        assert _change(either, "disconnect", "given") == (200, "")
        assert _change(either, "connect", "none") == (200, "")
        assert either.ok("exec", "box", "ls", "/sys/class/net") == "lo"
        either.ok("restart", "-t", "0", "box")
        assert either.ok("exec", "box", "ls", "/sys/class/net") == "lo"
        assert list(_networks(either)) == ["none"]
    finally:
        either.ok("rm", "-f", "box")
        either.ok("network", "rm", "given")


def test_what_a_container_cannot_be_connected_to(either: Target) -> None:
    box = either.ok("run", "-d", "--name", "box", "--network", "none", *SLEEP)
    try:
        assert _change(either, "connect", "host") == (400, _HOST)
        assert _change(either, "connect", "none") == (403, "endpoint with name box already exists in network none")
        assert _change(either, "disconnect", "host") == (500, f"container {box} is not connected to network host")
        assert _change(either, "disconnect", "nowhere") == (404, "network nowhere not found")
        missing = (500, f"container {box} is not connected to the network nowhere")
        assert _change(either, "disconnect", "nowhere", Force=True) == missing
        either.ok("rm", "-f", "box")
        either.ok("run", "-d", "--name", "box", "--network", "host", *SLEEP)
        assert _change(either, "connect", "none") == (400, _SHARED)
        assert _change(either, "disconnect", "host") == (400, _HOST)
    finally:
        either.ok("rm", "-f", "box")


def _change(either: Target, verb: str, network: str, **told: bool) -> tuple[int, str]:
    """What the API answers, the status with it."""
    answer = call(
        Path(urlsplit(either.socket).path), "POST", f"/networks/{network}/{verb}", {"Container": "box", **told}
    )
    return answer.status, answer.json["message"] if answer.body else ""


def _networks(either: Target) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(either.ok("inspect", "-f", "{{json .NetworkSettings.Networks}}", "box"))
    return shown


def test_address_options_are_shown_as_they_were_told(either: Target) -> None:
    """None at all, which is what a client leaves out, are not the same as no option."""
    socket = Path(urlsplit(either.socket).path)
    for told in (None, {}, {"a": "b"}):
        body = {"Name": "plain", "IPAM": {"Options": told} if told is not None else {}}
        assert call(socket, "POST", "/networks/create", body).status == 201
        shown = call(socket, "GET", "/networks/plain").json
        either.ok("network", "rm", "plain")
        assert shown["IPAM"]["Options"] == told


SERVED = ("busybox", "sh", "-c", "mkdir /w; echo hi > /w/x; httpd -f -p 80 -h /w")


def test_published_ports_stay_when_their_network_is_left(either: Target) -> None:
    """Whatever of its networks leads out answers them, and who is on none again gets them with the next one."""
    port = free_port()
    for name in ("first", "second"):
        either.ok("network", "create", name)
    try:
        either.ok("run", "-d", "--name", "box", "--network", "first", "-p", f"{port}:80", "-p", "80", *SERVED)
        either.ok("network", "connect", "second", "box")
        for change in (("disconnect", "first"), ("disconnect", "second"), ("connect", "first"), ("connect", "bridge")):
            either.ok("network", *change, "box")
            if change == ("disconnect", "second"):
                assert not _ports(either), "there is no network"
            else:
                _check_ports(either, port)
        either.ok("network", "disconnect", "first", "box")
        _check_ports(either, port)
    finally:
        either.ok("rm", "-f", "box")
        either.ok("network", "rm", "first", "second")


def _check_ports(either: Target, port: int) -> None:
    """The one that was asked for and one of the engine's choice lead into the container."""
    ports = _ports(either)
    assert port in ports and len(ports) == 2
    assert {_fetched(each) for each in ports} == {b"hi\n"}


def _ports(either: Target) -> set[int]:
    """Of the host's IPv4 addresses, as users are shown them."""
    return {int(line.rpartition(":")[2]) for line in either.ok("port", "box").splitlines() if " 0.0.0.0:" in line}


def _fetched(port: int) -> bytes:
    served: list[bytes] = []

    def fetch() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/x", timeout=5) as answer:
            served.append(answer.read())
        return bool(served)

    until(fetch)
    return served[0]


@pytest.mark.parametrize("point", ["connect.named", "connect.recorded", "disconnect.published"])
def test_published_ports_outlive_the_manager_that_moves_them(engine: Engine, point: str) -> None:
    """Whether the record was written or not, its network and no other answers them."""
    target = real(engine)
    port = free_port()
    for name in ("first", "second"):
        target.ok("network", "create", name)
    try:
        target.ok("run", "-d", "--name", "box", "--network", "first", "-p", f"{port}:80", "-p", "80", *SERVED)
        target.ok("network", "connect", "second", "box")
        before = _ports(target)
        failpoints.put(engine.settings, f"manager.{point}=kill")
        try:
            target.docker("network", "disconnect", "first", "box")
            until(lambda: engine.pid("manager") is None)
        finally:
            failpoints.put(engine.settings, "")
        engine.start("manager")
        kept = {"first", "second"} if point == "connect.named" else {"second"}
        assert _networks(target).keys() == kept
        assert _ports(target) == before
        _check_ports(target, port)
        address = _networks(target)[min(kept)]["IPAddress"]
        assert _led_to(engine) == {address}, "by its network and no other"
    finally:
        target.ok("rm", "-f", "box")
        target.ok("network", "rm", "first", "second")


def _led_to(engine: Engine) -> set[str]:
    """The containers' addresses to which ports of the host lead."""
    with contextlib.closing(Nftables()) as rules:
        maps = [each["map"] for each in rules.table(engine.instance.nft_table, "inet") or () if "map" in each]
    return {value["concat"][0] for each in maps for _, value in each.get("elem", ())}
