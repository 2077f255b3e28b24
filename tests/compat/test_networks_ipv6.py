"""Networks with IPv6: addresses, names, published ports, what is refused; dockerd 20.10 is the control where it can."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from bulkhead.ctl.doctor import doctor
from tests.compat.conftest import Target
from tests.compat.test_networks import cleaned, fetch, real, resolves, serve
from tests.support.engine import Engine

# Of this process alone: the bridges of tests that run beside each other would clash.
NET = f"fd00:6:7:{os.getpid() % 0xFFFF:x}:"
SUBNET = f"{NET}:/64"


@pytest.fixture(params=["real", "dockerd"])
def either(request: pytest.FixtureRequest) -> Iterator[Target]:
    """The whole engine, and dockerd as the control."""
    if request.param == "dockerd":
        yield from cleaned(request.getfixturevalue("dockerd_target"))
    else:
        yield from cleaned(real(request.getfixturevalue("engine")))


@pytest.fixture
def target(engine: Engine) -> Iterator[Target]:
    """The whole engine alone."""
    yield from cleaned(real(engine))


def settings(target: Target, container: str, network: str) -> dict[str, object]:
    text = target.ok("inspect", "-f", f'{{{{json (index .NetworkSettings.Networks "{network}")}}}}', container)
    found: dict[str, object] = json.loads(text)
    return found


def inspected(target: Target, network: str) -> dict[str, object]:
    found: list[dict[str, object]] = json.loads(target.ok("network", "inspect", network))
    return found[0]


def test_both_families_side_by_side(either: Target) -> None:
    either.ok("network", "create", "--ipv6", "--subnet", SUBNET, "--subnet", "10.232.0.0/24", "dual")
    serve(either, "web", "--network", "dual")
    either.ok("run", "-d", "--name", "client", "--network", "dual", "--ip6", f"{NET}:99", "busybox", "sleep", "1000")
    web, client = (settings(either, name, "dual") for name in ("web", "client"))
    assert (web["GlobalIPv6Address"], web["GlobalIPv6PrefixLen"], web["IPv6Gateway"]) == (
        f"{NET}:2",
        64,
        f"{NET}:1",
    )
    assert client["GlobalIPv6Address"] == f"{NET}:99"
    assert client["IPAMConfig"] == {"IPv6Address": f"{NET}:99"}
    for url in (f"http://[{NET}:2]/", f"http://{web['IPAddress']}/", "http://web/"):
        assert fetch(either, "client", url) == "web"
    assert resolves(either, "client", "web") == {web["GlobalIPv6Address"], web["IPAddress"]}
    assert "web.dual" in either.ok("exec", "client", "nslookup", f"{NET}:2")
    assert f"{NET}:99" in either.ok("exec", "client", "cat", "/etc/hosts")
    assert f"default via {NET}:1 dev eth0" in either.ok("exec", "client", "ip", "-6", "route")
    seen = inspected(either, "dual")
    assert seen["EnableIPv6"] is True
    containers = seen["Containers"]
    assert isinstance(containers, dict)
    assert {each["IPv6Address"] for each in containers.values()} == {f"{NET}:2/64", f"{NET}:99/64"}


def test_a_subnet_of_the_engines_own_where_none_is_named(target: Target) -> None:
    for name in ("one", "two"):
        target.ok("network", "create", "--ipv6", name)
    both = [
        ip_network(block["Subnet"])
        for name in ("one", "two")
        for block in inspected(target, name)["IPAM"]["Config"]  # type: ignore[index]
        if ":" in block["Subnet"]
    ]
    assert len({each.supernet(new_prefix=48) for each in both}) == 1
    assert all(each.prefixlen == 64 and each.subnet_of(ip_network("fd00::/8")) for each in both)  # type: ignore[arg-type]
    assert both[0] != both[1]


def test_ipv6_alone(target: Target) -> None:
    target.ok("network", "create", "--ipv6", "--ipv4=false", "--subnet", SUBNET, "six")
    serve(target, "web", "--network", "six", "-p", "8186:80")
    target.ok("run", "-d", "--name", "client", "--network", "six", "busybox", "sleep", "1000")
    web = settings(target, "web", "six")
    assert (web["IPAddress"], web["IPPrefixLen"], web["Gateway"]) == ("", 0, "")
    assert resolves(target, "client", "web") == {web["GlobalIPv6Address"]}
    assert fetch(target, "client", "http://web/") == "web"
    assert "eth0" not in target.ok("exec", "client", "ip", "-4", "route")
    assert inspected(target, "six")["EnableIPv4"] is False
    assert target.ok("port", "web") == "80/tcp -> [::]:8186"
    target.ok("network", "connect", "bridge", "client")
    assert "default via" in target.ok("exec", "client", "ip", "-4", "route")
    assert f"default via {NET}:1 dev eth0" in target.ok("exec", "client", "ip", "-6", "route")


def test_routed_containers_are_reached_at_their_own_addresses(target: Target) -> None:
    routed = "com.docker.network.bridge.gateway_mode_ipv6=routed"
    target.ok("network", "create", "--ipv6", "--subnet", SUBNET, "-o", routed, "dual")
    serve(target, "web", "--network", "dual", "-p", "8189:80")
    bindings = json.loads(target.ok("inspect", "-f", '{{json (index .NetworkSettings.Ports "80/tcp")}}', "web"))
    assert bindings == [{"HostIp": "0.0.0.0", "HostPort": "8189"}, {"HostIp": "::", "HostPort": ""}]
    odd = target.docker("network", "create", "--ipv6", "-o", "com.docker.network.bridge.gateway_mode_ipv6=odd", "x")
    assert "unknown gateway mode odd" in odd.stderr


def read_from_host(host: str, port: int) -> bytes:
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return connection.makefile("rb").read().splitlines()[-1]


def test_published_ports_answer_on_both_families(target: Target) -> None:
    target.ok("network", "create", "--ipv6", "--subnet", SUBNET, "dual")
    serve(target, "web", "--network", "dual", "-p", "8184:80", "-p", f"[{NET}:1]:8185:80")
    assert fetch(target, "web", "http://127.0.0.1/") == "web"
    lines = target.ok("port", "web").splitlines()
    assert sorted(lines) == ["80/tcp -> 0.0.0.0:8184", "80/tcp -> [::]:8184", f"80/tcp -> [{NET}:1]:8185"]
    for host, port in (("127.0.0.1", 8184), (f"{NET}:1", 8184), (f"{NET}:1", 8185)):
        assert read_from_host(host, port) == b"web"
    # A port of the wildcard is every address's, of its own family alone.
    target.ok("network", "create", "v4")
    taken = target.docker("run", "--rm", "--network", "dual", "-p", "[::]:8184:80", "busybox", "true")
    assert "Bind for [::]:8184 failed: port is already allocated" in taken.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "--ipv4=false", "x"], "IPv4 or IPv6 must be enabled"),
        (["create", "--ipv6", "--subnet", "fd00:6:8::1/64", "x"], "invalid subnet fd00:6:8::1/64"),
        (["create", "--ipv6", "--subnet", "fd00:6:8::/64", "--gateway", "fd00:6:9::1", "x"], "no matching subnet"),
    ],
)
def test_bad_networks(target: Target, arguments: list[str], words: str) -> None:
    done = target.docker("network", *arguments)
    assert done.returncode == 1 and words in done.stderr, done.stderr


def test_without_ipv6_there_is_none(target: Target) -> None:
    shown = target.ok("run", "--rm", "busybox", "ip", "-6", "addr", "show", "dev", "eth0")
    assert shown == ""
    none = target.ok("run", "--rm", "--sysctl", "net.ipv6.conf.all.disable_ipv6=1", "busybox", "cat", "/etc/hosts")
    assert "::" not in none
    assert "::1\tlocalhost" in target.ok("run", "--rm", "busybox", "cat", "/etc/hosts")


def test_it_survives_the_manager_and_a_flush(target: Target, engine: Engine) -> None:
    target.ok("network", "create", "--ipv6", "--subnet", SUBNET, "dual")
    serve(target, "web", "--network", "dual", "-p", "8187:80")
    fetch(target, "web", "http://127.0.0.1/")
    engine.kill("manager")
    assert read_from_host(f"{NET}:1", 8187) == b"web"
    subprocess.run(["nft", "delete", "table", "inet", engine.instance.nft_table], check=True)
    engine.start("manager")
    assert read_from_host(f"{NET}:1", 8187) == b"web"
    target.ok("restart", "-t", "0", "web")
    assert fetch(target, "web", f"http://[{NET}:2]/") == "web"
    assert read_from_host(f"{NET}:1", 8187) == b"web"


def test_the_doctor_finds_nothing_wrong_with_it(target: Target, engine: Engine) -> None:
    target.ok("network", "create", "--ipv6", "--subnet", SUBNET, "dual")
    target.ok("network", "create", "-d", "macvlan", "island")
    serve(target, "web", "--network", "dual", "-p", "8188:80")
    target.ok("network", "connect", "island", "web")
    lines: list[str] = []
    doctor(engine.settings, repair=False, as_json=True, say=lines.append)
    (report,) = map(json.loads, lines)
    assert [each for each in report["findings"] if each["area"] == "instance" and each["level"] != "ok"] == []
