"""macvlan and ipvlan networks, and drivers that are not there: the docker CLI, beside dockerd where it is installed."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from bulkhead.ctl import failpoints
from tests.compat.conftest import Target
from tests.compat.test_networks import address, cleaned, fetch, real, resolves, serve
from tests.support.engine import Engine, free_subnet
from tests.support.eventually import until
from tests.support.ports import free_port

PARENT = f"bhp{os.getpid()}"  # tests run side by side


@pytest.fixture
def parent() -> Iterator[str]:
    """An interface of the host with a carrier."""
    far = f"{PARENT}f"
    subprocess.run(["ip", "link", "add", PARENT, "type", "veth", "peer", "name", far], check=True)
    for end in (PARENT, far):
        subprocess.run(["ip", "link", "set", end, "up"], check=True)
    yield PARENT
    subprocess.run(["ip", "link", "del", PARENT], check=True)


@pytest.fixture(params=["real", "dockerd"])
def either(parent: str, request: pytest.FixtureRequest) -> Iterator[Target]:
    """The whole engine, and dockerd as the control."""
    if request.param == "dockerd":
        yield from cleaned(request.getfixturevalue("dockerd_target"))
    else:
        yield from cleaned(real(request.getfixturevalue("engine")))


@pytest.fixture
def target(parent: str, engine: Engine) -> Iterator[Target]:
    """The whole engine alone."""
    yield from cleaned(real(engine))


def test_containers_on_an_interface_of_the_host(either: Target, parent: str) -> None:
    subnet = free_subnet()
    net = subnet.removesuffix("0/24")
    options = ["-d", "macvlan", "-o", f"parent={parent}", "--subnet", subnet, "--ip-range", f"{net}128/25"]
    either.ok("network", "create", *options, "--gateway", f"{net}1", "wire")
    serve(either, "web", "--network", "wire", "-p", f"{free_port()}:80")
    either.ok("run", "-d", "--name", "client", "--network", "wire", "--ip", f"{net}9", "busybox", "sleep", "1000")
    assert resolves(either, "client", "web") == {address(either, "web", "wire")}
    assert address(either, "web", "wire").startswith(f"{net}1")
    assert fetch(either, "client", "http://web/") == "web"
    assert f"default via {net}1 dev eth0" in either.ok("exec", "client", "ip", "route")
    (seen,) = json.loads(either.ok("network", "inspect", "wire"))
    assert (seen["Driver"], seen["Options"], seen["Internal"]) == ("macvlan", {"parent": parent}, False)
    assert len(seen["Containers"]) == 2
    assert either.ok("port", "web") == "", "no port of the host is answered there"
    # While it runs, and again.
    either.ok("network", "disconnect", "wire", "client")
    either.ok("network", "connect", "--ip", f"{net}10", "wire", "client")
    assert fetch(either, "client", "http://web/") == "web"
    either.ok("restart", "-t", "0", "client")
    assert address(either, "client", "wire") == f"{net}10"
    assert fetch(either, "client", "http://web/") == "web"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-d", "macvlan", "-o", "parent=lo"], "loopback interface is not a valid macvlan parent link"),
        (["-d", "macvlan", "-o", "parent=nosuch"], "invalid subinterface vlan name nosuch, example formatting is"),
        (["-d", "macvlan", "-o", "parent={parent}.9999"], "vlan id must be between 1-4094, received: 9999"),
        (["-d", "macvlan", "-o", "parent={parent}.x"], "unable to parse a valid vlan id from: x (ex. eth0.10 for"),
        (["-d", "macvlan", "-o", "parent={parent}.1.1"], "required interface name format is: name.vlan_id, ex. eth0"),
        (
            ["-d", "macvlan", "-o", "macvlan_mode=odd", "-o", "parent={parent}"],
            "requested macvlan mode 'odd' is not valid, 'bridge' mode is the macvlan driver default",
        ),
        (
            ["-d", "ipvlan", "-o", "ipvlan_mode=odd", "-o", "parent={parent}"],
            "requested ipvlan mode 'odd' is not valid, 'l2' mode is the ipvlan driver default",
        ),
        (["-d", "overlay"], 'This node is not a swarm manager. Use "docker swarm init"'),
        (["-d", "overlay", "--scope", "swarm"], "cannot create a swarm scoped network when swarm is not active"),
        (["-d", "nosuch"], 'plugin "nosuch" not found'),
        (["-d", "host"], 'only one instance of "host" network is allowed'),
        (["-d", "null"], 'only one instance of "null" network is allowed'),
    ],
)
def test_what_cannot_be_made(either: Target, parent: str, arguments: list[str], words: str) -> None:
    arguments = [each.format(parent=parent) for each in arguments]
    done = either.docker("network", "create", *arguments, "--subnet", free_subnet(), "odd")
    assert done.returncode == 1 and words in done.stderr, done.stderr
    assert "odd" not in either.ok("network", "ls", "--format", "{{.Name}}").split()


def links(engine: Engine) -> set[str]:
    """The interfaces that networks of this engine may have left."""
    listed = json.loads(subprocess.run(["ip", "-j", "link"], check=True, capture_output=True).stdout)
    alias = engine.instance.network_alias
    return {link["ifname"] for link in listed if link.get("ifalias") == alias or link["ifname"].startswith(PARENT)}


@pytest.mark.parametrize("deed", ["connect", "disconnect"])
def test_what_a_dying_manager_leaves_inside_is_cleared(target: Target, engine: Engine, parent: str, deed: str) -> None:
    """A connect that is on no record, and a disconnect that is, with the link in the container."""
    target.ok("network", "create", "-d", "macvlan", "-o", f"parent={parent}", "--subnet", free_subnet(), "wire")
    target.ok("run", "-d", "--name", "web", "busybox", "sleep", "1000")
    pid = target.ok("inspect", "-f", "{{.State.Pid}}", "web").strip()

    def inside() -> str:
        return subprocess.run(
            ["nsenter", "-t", pid, "-n", "ip", "link"], check=True, capture_output=True, text=True
        ).stdout

    if deed == "disconnect":
        target.ok("network", "connect", "wire", "web")
    failpoints.put(engine.settings, f"manager.connect.{'plugged' if deed == 'connect' else 'recorded'}=kill")
    try:
        target.docker("network", deed, "wire", "web")
        until(lambda: engine.pid("manager") is None)
    finally:
        failpoints.put(engine.settings, "")
    assert "eth1@if" in inside(), "what this is about"
    engine.start("manager")
    assert "eth1" not in inside()
    assert set(json.loads(target.ok("inspect", "web"))[0]["NetworkSettings"]["Networks"]) == {"bridge"}
    target.ok("network", "connect", "wire", "web")
    assert "eth1@if" in inside()


def test_it_survives_the_manager_and_goes_whole(target: Target, engine: Engine, parent: str) -> None:
    before = links(engine)
    target.ok("network", "create", "-d", "macvlan", "--subnet", free_subnet(), "island")
    target.ok("network", "create", "-d", "macvlan", "-o", f"parent={parent}", "--ipv6", "wire")
    for name in ("web", "client"):
        serve(target, name, "--network", "island")
        target.ok("network", "connect", "wire", name)
    assert len(links(engine) - before) == 1, "the parent of the one that names none"
    engine.kill("manager")
    engine.start("manager")
    assert fetch(target, "client", "http://web.island/") == fetch(target, "client", "http://web.wire/") == "web"
    target.ok("run", "-d", "--name", "late", "--network", "island", "busybox", "sleep", "1000")
    assert len({address(target, name, "island") for name in ("web", "client", "late")}) == 3
    target.ok("rm", "-f", "web", "client", "late")
    target.ok("network", "rm", "island", "wire")
    assert links(engine) == before
