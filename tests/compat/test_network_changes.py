"""Onto a network and off it: what is refused, with which status and words, and what a start makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from bulkhead.ctl.engine_client import call
from tests.compat.conftest import Target
from tests.compat.test_networks import SLEEP, cleaned, real

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
