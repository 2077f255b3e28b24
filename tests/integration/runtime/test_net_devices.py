"""Interfaces that a container gets from the host: renamed, up, with their addresses."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator

import pytest

from bulkhead.errors import LaunchFailed
from tests.support.containers import Box, Config


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def device() -> Iterator[str]:
    name = f"bhd{secrets.token_hex(3)}"
    ip("link", "add", name, "type", "veth", "peer", "name", f"{name}p")
    yield name
    subprocess.run(["ip", "link", "del", f"{name}p"], stderr=subprocess.DEVNULL, check=False)


def giving(name: str, new: str) -> object:
    def edit(config: Config) -> None:
        config["linux"]["netDevices"] = {name: {"name": new}}

    return edit


def test_an_interface_goes_over_with_its_addresses(box: Box, device: str) -> None:
    ip("address", "add", "198.18.7.1/24", "dev", device)
    ip("address", "add", "2001:db8:7::1/64", "dev", device, "nodad")
    ip("link", "set", device, "up")
    done = box.run("sh", "-c", "ip address show dev inside; ls /sys/class/net", edit=giving(device, "inside"))  # type: ignore[arg-type]
    assert "inet 198.18.7.1/24" in done.output
    assert "inet6 2001:db8:7::1/64" in done.output
    assert ",UP" in done.output.splitlines()[0]
    assert done.output.split()[-2:] == ["inside", "lo"]


def test_an_interface_that_is_not_there(box: Box) -> None:
    with pytest.raises(LaunchFailed, match="net-device bhdnosuch: no such device"):
        box.run("true", edit=giving("bhdnosuch", "inside"))  # type: ignore[arg-type]
