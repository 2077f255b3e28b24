"""Networks with IPv6: addresses, names, published ports, what is refused; dockerd 20.10 is the control where it can."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_network

import pytest

from bulkhead.ctl.doctor import doctor
from bulkhead.linux.netns import in_netns, netns_of
from bulkhead.model.instance import SERVICES
from tests.compat.conftest import Target
from tests.compat.test_networks import cleaned, fetch, real, resolves, serve
from tests.support.engine import Engine, free_subnet
from tests.support.eventually import until
from tests.support.ports import free_port, free_ports

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
    either.ok("network", "create", "--ipv6", "--subnet", SUBNET, "--subnet", free_subnet(), "dual")
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
    port = free_port()
    serve(target, "web", "--network", "six", "-p", f"{port}:80")
    target.ok("run", "-d", "--name", "client", "--network", "six", "busybox", "sleep", "1000")
    web = settings(target, "web", "six")
    assert (web["IPAddress"], web["IPPrefixLen"], web["Gateway"]) == ("", 0, "")
    assert resolves(target, "client", "web") == {web["GlobalIPv6Address"]}
    assert fetch(target, "client", "http://web/") == "web"
    assert "eth0" not in target.ok("exec", "client", "ip", "-4", "route")
    assert inspected(target, "six")["EnableIPv4"] is False
    assert target.ok("port", "web") == f"80/tcp -> [::]:{port}"
    target.ok("network", "connect", "bridge", "client")
    assert "default via" in target.ok("exec", "client", "ip", "-4", "route")
    assert f"default via {NET}:1 dev eth0" in target.ok("exec", "client", "ip", "-6", "route")


def test_routed_containers_are_reached_at_their_own_addresses(target: Target) -> None:
    routed = "com.docker.network.bridge.gateway_mode_ipv6=routed"
    target.ok("network", "create", "--ipv6", "--subnet", SUBNET, "-o", routed, "dual")
    port = free_port()
    serve(target, "web", "--network", "dual", "-p", f"{port}:80")
    bindings = json.loads(target.ok("inspect", "-f", '{{json (index .NetworkSettings.Ports "80/tcp")}}', "web"))
    assert bindings == [{"HostIp": "0.0.0.0", "HostPort": str(port)}, {"HostIp": "::", "HostPort": ""}]
    odd = target.docker("network", "create", "--ipv6", "-o", "com.docker.network.bridge.gateway_mode_ipv6=odd", "x")
    assert "unknown gateway mode odd" in odd.stderr


def read_from_host(host: str, port: int) -> bytes:
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return connection.makefile("rb").read().splitlines()[-1]


def test_published_ports_answer_on_both_families(target: Target) -> None:
    target.ok("network", "create", "--ipv6", "--subnet", SUBNET, "dual")
    everywhere = free_ports(2)
    there = everywhere + 1
    serve(target, "web", "--network", "dual", "-p", f"{everywhere}:80", "-p", f"[{NET}:1]:{there}:80")
    assert fetch(target, "web", "http://127.0.0.1/") == "web"
    lines = target.ok("port", "web").splitlines()
    assert sorted(lines) == sorted(
        [f"80/tcp -> 0.0.0.0:{everywhere}", f"80/tcp -> [::]:{everywhere}", f"80/tcp -> [{NET}:1]:{there}"]
    )
    for host, port in (("127.0.0.1", everywhere), (f"{NET}:1", everywhere), (f"{NET}:1", there)):
        assert read_from_host(host, port) == b"web"
    # A port of the wildcard is every address's, of its own family alone.
    target.ok("network", "create", "v4")
    taken = target.docker("run", "--rm", "--network", "dual", "-p", f"[::]:{everywhere}:80", "busybox", "true")
    assert f"Bind for [::]:{everywhere} failed: port is already allocated" in taken.stderr


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
    port = free_port()
    serve(target, "web", "--network", "dual", "-p", f"{port}:80")
    fetch(target, "web", "http://127.0.0.1/")
    engine.kill("manager")
    assert read_from_host(f"{NET}:1", port) == b"web"
    subprocess.run(["nft", "delete", "table", "inet", engine.instance.nft_table], check=True)
    engine.start("manager")
    assert read_from_host(f"{NET}:1", port) == b"web"
    target.ok("restart", "-t", "0", "web")
    assert fetch(target, "web", f"http://[{NET}:2]/") == "web"
    assert read_from_host(f"{NET}:1", port) == b"web"


@pytest.mark.parametrize("family", ["default", "v4 only", "dual"])
def test_a_port_of_no_address_answers_on_ipv6s_localhost(either: Target, family: str) -> None:
    """`localhost` is [::1] first to most programs, and a port that names no address is not one of IPv4 alone."""
    port = free_port()
    options = ["--ipv6", "--subnet", SUBNET] if family == "dual" else []
    if family != "default":
        either.ok("network", "create", *options, "net")
    serve(either, "web", "--network", "bridge" if family == "default" else "net", "-p", f"{port}:80")
    until(lambda: answers("::1", port))
    assert {read_from_host(each, port) for each in ("::1", "127.0.0.1")} == {b"web"}
    assert sorted(either.ok("port", "web").splitlines()) == [f"80/tcp -> 0.0.0.0:{port}", f"80/tcp -> [::]:{port}"]
    taken = either.docker("run", "--rm", "-p", f"[::]:{port}:80", "busybox", "true")
    assert taken.returncode == 125
    either.ok("rm", "-f", "web")
    assert not answers("::1", port)


@pytest.mark.parametrize("end", ["stop -t 0", "kill", "its own"])
def test_ports_are_answered_in_every_run(target: Target, end: str) -> None:
    """Whoever ended the run before: a user, or the container itself, which its policy starts again."""
    port = free_port()
    serve(target, "web", "--restart=always", "-p", f"{port}:80")
    for _ in range(2):
        begun, pid = target.ok("inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", "web").split()
        if end == "its own":
            os.kill(int(pid), signal.SIGKILL)
        else:
            target.ok(*end.split(), "web")
            target.ok("start", "web")
        until(partial(runs_since_another_time, target, "web", begun))
        for host in ("127.0.0.1", "::1"):
            until(partial(answers, host, port))


def runs_since_another_time(target: Target, name: str, than: str) -> bool:
    runs, begun = target.ok("inspect", "-f", "{{.State.Running}} {{.State.StartedAt}}", name).split()
    return runs == "true" and begun != than


def test_a_network_of_both_families_joins_a_container_with_ports(target: Target) -> None:
    """The ports stay where they are, and so does the way out for who is answered; IPv6's way is new."""
    port = free_port()
    target.ok("network", "create", "--ipv6", "--subnet", SUBNET, "dual")
    serve(target, "web", "--network", "bridge", "-p", f"{port}:80")
    before = ways_out(target, "web")
    target.ok("network", "connect", "dual", "web")
    assert ways_out(target, "web") == [*before, f"default via {NET}:1"]
    assert {read_from_host(each, port) for each in ("127.0.0.1", "::1")} == {b"web"}
    target.ok("restart", "-t", "0", "web")
    assert ways_out(target, "web")[0] != before[0]
    for host in ("127.0.0.1", "::1"):
        until(partial(answers, host, port))
        assert read_from_host(host, port) == b"web"


def ways_out(target: Target, name: str) -> list[str]:
    """IPv4's and IPv6's, without their interfaces."""
    lines = [
        *target.ok("exec", name, "ip", "route").splitlines(),
        *target.ok("exec", name, "ip", "-6", "route").splitlines(),
    ]
    return [" ".join(line.split()[:3]) for line in lines if line.startswith("default")]


def test_a_network_of_ipv6_joins_a_container_whose_ports_are_carried_over(target: Target) -> None:
    port = free_port()
    target.ok("network", "create", "--ipv6", "--ipv4=false", "--subnet", SUBNET, "six")
    serve(target, "web", "-p", f"{port}:80")
    target.ok("network", "connect", "six", "web")
    until(lambda: answers("::1", port))
    assert read_from_host("127.0.0.1", port) == b"web"
    target.ok("restart", "-t", "0", "web")
    until(lambda: answers(f"{NET}:1", port))
    assert sorted(target.ok("port", "web").splitlines()) == [f"80/tcp -> 0.0.0.0:{port}", f"80/tcp -> [::]:{port}"]


@pytest.mark.parametrize("family", ["v4 only", "dual"])
def test_ports_that_are_carried_by_hand(target: Target, engine: Engine, family: str) -> None:
    """On [::1], and without IPv6 on any other: whatever dies, and for as long as the container is on the network."""
    port, udp = free_port(), free_port()
    options = ["--ipv6", "--subnet", SUBNET] if family == "dual" else []
    target.ok("network", "create", *options, "hand")
    target.ok("network", "create", "spare")
    published = ["-p", f"[::1]:{port}:80", "-p", f"127.0.0.1:{port}:80", "-p", f"[::1]:{udp}:53/udp"]
    serve(target, "web", "--network", "hand", *published)
    fetch(target, "web", "http://127.0.0.1/")
    assert {read_from_host(each, port) for each in ("::1", "127.0.0.1")} == {b"web"}
    assert echoed(target, "web", udp) == b"ping"
    assert sorted(target.ok("port", "web").split("\n"))[:2] == [f"53/udp -> [::1]:{udp}", f"80/tcp -> 127.0.0.1:{port}"]
    taken = target.docker("run", "--rm", "-p", f"[::1]:{port}:80", "busybox", "true")
    assert f"Bind for [::1]:{port} failed: port is already allocated" in taken.stderr
    engine.kill(*SERVICES)
    assert read_from_host("::1", port) == b"web"
    engine.start()
    assert read_from_host("::1", port) == b"web"
    # A successor of the shim listens again.
    os.kill(shim_of(engine, target, "web"), signal.SIGKILL)
    until(lambda: answers("::1", port))
    target.ok("network", "disconnect", "hand", "web")
    assert not answers("::1", port)
    target.ok("network", "connect", "hand", "web")
    assert read_from_host("::1", port) == b"web"
    target.ok("network", "connect", "spare", "web")
    target.ok("restart", "-t", "0", "web")
    until(lambda: answers("::1", port))
    target.ok("rm", "-f", "web")
    assert not answers("::1", port)
    serve(target, "again", "--network", "spare", *published)
    until(lambda: answers("::1", port))


def answers(address: str, port: int) -> bool:
    try:
        return read_from_host(address, port) != b""
    except OSError:
        return False


def echoed(target: Target, name: str, port: int) -> bytes:
    """What comes back from [::1] when somebody in the container answers at port 53."""

    def listening() -> socket.socket:
        made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        made.bind(("::", 53))
        return made

    pid = int(target.ok("inspect", "-f", "{{.State.Pid}}", name))
    with netns_of(pid, None) as inside:
        server = in_netns(inside, listening)
    with server, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        for each in (server, client):
            each.settimeout(20)
        client.connect(("::1", port))
        client.send(b"ping")
        server.sendto(*server.recvfrom(100))
        return client.recv(100)


def shim_of(engine: Engine, target: Target, name: str) -> int:
    container_id = target.ok("inspect", "-f", "{{.Id}}", name)
    return int(json.loads((engine.instance.container_data(container_id) / "shim.json").read_text())["pid"])


def test_the_doctor_finds_nothing_wrong_with_it(target: Target, engine: Engine) -> None:
    target.ok("network", "create", "--ipv6", "--subnet", SUBNET, "dual")
    target.ok("network", "create", "-d", "macvlan", "island")
    serve(target, "web", "--network", "dual", "-p", f"{free_port()}:80")
    target.ok("network", "connect", "island", "web")
    lines: list[str] = []
    doctor(engine.settings, repair=False, as_json=True, say=lines.append)
    (report,) = map(json.loads, lines)
    assert [each for each in report["findings"] if each["area"] == "instance" and each["level"] != "ok"] == []
