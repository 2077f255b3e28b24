"""Networks of users: the docker CLI, names, isolation, connecting while it runs, what survives the manager."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator

import docker
import pytest

from bulkhead.linux.netlink import Netlink
from bulkhead.linux.netns import in_netns, netns_of
from tests.compat.conftest import Target
from tests.integration.shim.test_names import AAAA, A, Reply, ask
from tests.support.engine import Engine, free_subnet
from tests.support.ports import free_ports

MX = 15
SLEEP = ("busybox", "sleep", "1000")
WEB = "mkdir -p /w; echo $NAME > /w/index.html; exec httpd -f -p 80 -h /w"


@pytest.fixture(params=["real", "dockerd"])
def either(request: pytest.FixtureRequest) -> Iterator[Target]:
    """The whole engine, and dockerd as the control; containers and networks of a test are removed."""
    if request.param == "dockerd":
        yield from cleaned(request.getfixturevalue("dockerd_target"))
    else:
        yield from cleaned(real(request.getfixturevalue("engine")))


@pytest.fixture
def target(engine: Engine) -> Iterator[Target]:
    """The whole engine alone: for what dockerd 20.10 without a firewall cannot do."""
    yield from cleaned(real(engine))


def real(engine: Engine) -> Target:
    return Target("real", f"unix://{engine.instance.docker_socket}", engine.base)


def cleaned(found: Target) -> Iterator[Target]:
    yield found
    left = found.docker("ps", "-aq").stdout.split()
    if left:
        found.docker("rm", "-f", "-v", *left)
    found.docker("network", "prune", "-f")


def serve(target: Target, name: str, *options: str) -> str:
    return target.ok("run", "-d", "--name", name, "-e", f"NAME={name}", *options, "busybox", "sh", "-c", WEB)


def fetch(target: Target, container: str, url: str) -> str:
    """What a container reads there; retried while the server is starting."""
    deadline = time.monotonic() + 60
    while True:
        done = target.docker("exec", container, "wget", "-qO-", url)
        if done.returncode == 0 or time.monotonic() > deadline:
            return done.stdout.strip() or done.stderr.strip()


def address(target: Target, container: str, network: str) -> str:
    return target.ok("inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}', container)


def resolves(target: Target, container: str, name: str) -> set[str]:
    done = target.docker("exec", container, "nslookup", name)
    lines = done.stdout.partition("Name:")[2].splitlines()
    return {line.split()[-1] for line in lines if line.startswith("Address")}


def test_containers_find_each_other_by_name_and_alias(either: Target) -> None:
    either.ok("network", "create", "app")
    serve(either, "web", "--network", "app", "--network-alias", "www")
    serve(either, "other", "--network", "app", "--network-alias", "www")
    either.ok("run", "-d", "--name", "client", "--network", "app", "busybox", "sleep", "1000")
    for name in ("web", "web.app"):
        assert fetch(either, "client", f"http://{name}/") == "web"
    both = {address(either, name, "app") for name in ("web", "other")}
    assert resolves(either, "client", "www") == both
    assert either.docker("exec", "client", "nslookup", "nosuch").returncode != 0
    either.ok("rename", "other", "renamed")
    assert resolves(either, "client", "renamed") == {address(either, "renamed", "app")}
    either.ok("stop", "-t", "0", "web")
    assert resolves(either, "client", "www") == {address(either, "renamed", "app")}


@pytest.mark.parametrize("network", ["bridge", "own", "two"])
def test_sysctls_of_interfaces_find_these(either: Target, network: str) -> None:
    """Written when the networks are there, and before the program: what an interface is born with changes none."""
    wanted = {
        "net.ipv4.conf.eth0.log_martians": "1",
        "net.ipv4.neigh.eth0.gc_stale_time": "77",
        "net.ipv4.conf.default.rp_filter": "2",
        "net.ipv6.conf.default.accept_ra": "2",
        "net.ipv6.conf.all.disable_ipv6": "0",
    }
    if network == "two":
        wanted["net.ipv4.conf.eth1.log_martians"] = "1"
    paths = [f"/proc/sys/{key.replace('.', '/')}" for key in wanted]
    on = ["bridge"] if network == "bridge" else [either.ok("network", "create", network)]
    options = [f"--sysctl={key}={value}" for key, value in wanted.items()]
    either.ok("create", "--name", "tuned", "--network", on[0], *options, "busybox", "cat", *paths)
    if network == "two":
        either.ok("network", "create", "further")
        either.ok("network", "connect", "further", "tuned")
    assert either.ok("start", "-a", "tuned").splitlines() == list(wanted.values())
    born = ["/proc/sys/net/ipv4/conf/eth0/rp_filter", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6"]
    told = either.ok("run", "--rm", "--network", on[0], *options[:5], "busybox", "cat", *born)
    assert told.split()[1] == "0"
    assert told.split()[0] != "2"


@pytest.mark.parametrize("network", ["bridge", "own", "none"])
def test_a_sysctl_of_no_interface_is_refused_and_nothing_is_left(either: Target, network: str) -> None:
    if network == "own":
        either.ok("network", "create", "own")
    option = f"--sysctl=net.ipv4.conf.{'eth0' if network == 'none' else 'eth1'}.forwarding=0"
    done = either.docker("run", "--name", "refused", "--network", network, option, "busybox", "true")
    assert done.returncode == 127
    assert "forwarding: no such file or directory: unknown" in done.stderr
    assert either.ok("inspect", "-f", "{{.State.Status}}", "refused") == "created"


def test_addresses_for_one_link_alone(either: Target) -> None:
    either.ok("network", "create", "one")
    either.ok("network", "create", "two")
    mine = ["--link-local-ip", "169.254.7.7", "--link-local-ip", "169.254.7.8"]
    either.ok("run", "-d", "--name", "web", "--network", "one", *mine, "busybox", "sleep", "1000")
    either.ok("run", "-d", "--name", "client", "--network", "one", "--link-local-ip", "169.254.9.9", *SLEEP)
    either.ok("exec", "client", "ping", "-c1", "-W5", "169.254.7.8")
    either.ok("network", "connect", "--link-local-ip", "169.254.3.3", "two", "web")
    either.ok("restart", "-t", "0", "web")
    shown = either.ok("exec", "web", "ip", "-o", "-4", "addr")
    for each in ("7.7", "7.8", "3.3"):
        assert f"inet 169.254.{each}/16 brd 169.254.255.255 scope global" in shown
    (seen,) = json.loads(either.ok("inspect", "web"))
    assert seen["NetworkSettings"]["Networks"]["two"]["IPAMConfig"] == {"LinkLocalIPs": ["169.254.3.3"]}
    either.ok("network", "disconnect", "two", "web")
    for bad, words in (
        ("10.1.1.1", "invalid link local IP address: 10.1.1.1"),
        ("zz", "Invalid link-local IP address"),
    ):
        done = either.docker("network", "connect", "--link-local-ip", bad, "two", "web")
        assert done.returncode == 1 and words in done.stderr, done.stderr
    assert either.docker("network", "connect", "--link-local-ip", "fe80::9", "two", "web").returncode == 1
    if either.kind == "real":  # dockerd keeps what it could not connect
        assert set(json.loads(either.ok("inspect", "web"))[0]["NetworkSettings"]["Networks"]) == {"one"}


@pytest.mark.parametrize("subnets", [("10.230.0.0/24", "10.230.1.0/24"), ("fd00:9::/64", "fd00:99::/64")])
def test_a_bridge_has_one_subnet_of_a_family(either: Target, subnets: tuple[str, str]) -> None:
    family = ["--ipv6"] if ":" in subnets[0] else []
    done = either.docker("network", "create", *family, "--subnet", subnets[0], "--subnet", subnets[1], "app")
    assert done.returncode == 1 and "bridge driver doesn't support multiple subnets" in done.stderr


def test_networks_are_listed_under_either_path(either: Target) -> None:
    """Docker has both; go-dockerclient was written against the one with a slash."""
    with contextlib.closing(docker.DockerClient(either.socket)) as client:
        listed = [client.api.get(f"{client.api.base_url}/v1.41/{path}").json() for path in ("networks", "networks/")]
    assert len(listed[0]) == len(listed[1]) >= 3


def test_packets_of_names(either: Target) -> None:
    """Codes, flags, counts and the time to live are Docker's."""
    either.ok("network", "create", "App")
    for each in ("web", "db"):
        serve(either, each, "--network", "App", "--network-alias", "www")
    pid = int(either.ok("inspect", "-f", "{{.State.Pid}}", "web"))
    one = [("web", A), ("WEB", A), ("web.App", A)]
    for (name, kind), count in {**dict.fromkeys(one, 1), ("www", A): 2, ("web", AAAA): 0, ("web", MX): 0}.items():
        reply = asked(pid, ask(name, kind))
        assert (reply.flags, reply.answers) == (0x8180, count), (name, kind)
        assert not count or reply.packet[-10:-4] == b"\0\0\2\x58\0\4", "600 seconds, four bytes"


def asked(pid: int, query: bytes) -> Reply:
    """What 127.0.0.11 answers in a container's network."""

    def exchange() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.sendto(query, ("127.0.0.11", 53))
            return client.recv(65535)

    with open(f"/proc/{pid}/ns/net", "rb") as namespace:  # noqa: PTH123 (a namespace, not a file)
        return Reply(in_netns(namespace.fileno(), exchange))


def test_an_address_is_kept_while_nobody_else_has_it(target: Target, engine: Engine) -> None:
    target.ok("network", "create", "isle")
    for name in ("one", "two"):
        serve(target, name, "--network", "isle")
    before = {name: address(target, name, "isle") for name in ("one", "two")}
    target.ok("stop", "-t", "0", "one")
    engine.kill("manager")
    engine.start("manager")
    serve(target, "three", "--network", "isle")
    target.ok("restart", "-t", "0", "two")
    target.ok("start", "one")
    assert {name: address(target, name, "isle") for name in ("one", "two")} == before
    assert address(target, "three", "isle") not in before.values()


def test_networks_are_islands(target: Target) -> None:
    for name in ("one", "two"):
        target.ok("network", "create", name)
        serve(target, name, "--network", name)
    assert resolves(target, "one", "two") == set()
    there = address(target, "two", "two")
    done = target.docker("exec", "one", "ping", "-c1", "-W1", there)
    assert done.returncode == 1, "a packet crossed"
    assert target.docker("exec", "one", "ping", "-c1", "-W1", address(target, "one", "one")).returncode == 0


def test_connect_and_disconnect_while_it_runs(target: Target, engine: Engine) -> None:
    subnet = free_subnet()
    net = subnet.removesuffix("0/24")
    target.ok("network", "create", "--subnet", subnet, "late")
    serve(target, "web", "--network", "late")
    target.ok("run", "-d", "--name", "client", "busybox", "sleep", "1000")
    target.ok("network", "connect", "--ip", f"{net}77", "--alias", "me", "late", "client")
    assert fetch(target, "client", "http://web/") == "web"
    assert address(target, "client", "late") == f"{net}77" and resolves(target, "web", "me") == {f"{net}77"}
    target.ok("network", "disconnect", "bridge", "client")
    assert f"default via {net}1 dev eth1" in target.ok("exec", "client", "ip", "route")
    target.ok("restart", "-t", "0", "client")
    assert address(target, "client", "late") == f"{net}77"
    assert "eth0" in target.ok("exec", "client", "ip", "route")
    target.ok("network", "disconnect", "late", "client")
    assert resolves(target, "web", "me") == set()
    names = engine.instance.run / "names"
    me = target.ok("inspect", "-f", "{{.Id}}", "client")
    for _ in range(2):
        assert json.loads((names / me).read_text())["networks"] == [], "it left, and knows no name there any more"
        engine.kill("manager")
        engine.start("manager")
    target.ok("rm", "-f", "client")
    assert not (names / me).exists()


def test_an_internal_network_leads_nowhere(target: Target) -> None:
    target.ok("network", "create", "--internal", "inner")
    target.ok("run", "-d", "--name", "held", "--network", "inner", "-p", "80", "busybox", "sleep", "1000")
    assert "default" not in target.ok("exec", "held", "ip", "route")
    assert target.ok("port", "held") == ""


def test_without_icc_containers_do_not_meet(target: Target) -> None:
    target.ok("network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "apart")
    for name in ("here", "there"):
        target.ok("run", "-d", "--name", name, "--network", "apart", "busybox", "sleep", "1000")
    assert target.docker("exec", "here", "ping", "-c1", "-W1", address(target, "there", "apart")).returncode == 1


def test_several_networks_at_create_and_the_gateway_by_priority(target: Target) -> None:
    second = free_subnet()
    target.ok("network", "create", "first")
    target.ok("network", "create", "--subnet", second, "second")
    target.ok(
        *("run", "-d", "--name", "both", "--network", "first", "--network", "name=second,gw-priority=1"),
        *("busybox", "sleep", "1000"),
    )
    assert f"default via {second.removesuffix('0/24')}1 dev eth1" in target.ok("exec", "both", "ip", "route")
    shown = json.loads(target.ok("inspect", "both"))[0]["NetworkSettings"]["Networks"]
    assert set(shown) == {"first", "second"} and shown["second"]["GwPriority"] == 1


def test_published_ports_of_a_users_network(either: Target) -> None:
    either.ok("network", "create", "pub")
    serve(either, "web", "--network", "pub", "-p", "80", "--expose", "99")
    assert "99/tcp" in either.ok("ps", "--format", "{{.Ports}}").split(", ")
    port = either.ok("port", "web", "80").splitlines()[0].rpartition(":")[2]
    fetch(either, "web", "http://127.0.0.1/")
    assert subprocess.check_output(["curl", "-s", f"http://127.0.0.1:{port}/"], text=True) == "web\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["network", "create", "bridge"], "operation is not permitted on predefined bridge network"),
        (["network", "create", "-d", "nosuch", "x1"], 'plugin "nosuch" not found'),
        (["network", "create", "--subnet", "10.0.0.0/33", "x1"], "invalid"),
        (["network", "create", "--subnet", "10.0.0.0", "x1"], "invalid subnet 10.0.0.0: invalid CIDR block notation"),
        (["network", "create", "--ipam-driver", "zz", "x1"], 'plugin "zz" not found'),
        (
            ["network", "create", "-o", "com.docker.network.driver.mtu=abc", "x1"],
            'failed to parse com.docker.network.driver.mtu value: abc (strconv.Atoi: parsing "abc": invalid syntax)',
        ),
        (["network", "ls", "--filter", "type=bad"], "invalid filter: 'type'='bad'"),
        (["network", "disconnect", "-f", "bridge", "nosuch"], "endpoint nosuch not found"),
        (["create", "--network", "bridge", "--ip", "abc", "busybox"], "invalid IPv4 address: abc"),
        (["network", "rm", "bridge"], "bridge is a pre-defined network and cannot be removed"),
        (["network", "rm", "nosuch"], "network nosuch not found"),
        (["run", "--rm", "--network", "nosuch", "busybox", "true"], "network nosuch not found"),
        (
            ["run", "--rm", "--ip", "10.1.2.3", "busybox", "true"],
            "user specified IP address is supported on user defined",
        ),
    ],
)
def test_bad_requests(target: Target, arguments: list[str], words: str) -> None:
    done = target.docker(*arguments)
    assert done.returncode != 0 and words in done.stderr


def test_names_are_unique_and_networks_in_use_stay(target: Target) -> None:
    made = target.ok("network", "create", "used")
    assert "network with name used already exists" in target.docker("network", "create", "used").stderr
    target.ok("run", "-d", "--name", "holder", "--network", made[:8], "busybox", "sleep", "1000")
    assert "has active endpoints" in target.docker("network", "rm", "used").stderr
    done = target.docker("network", "connect", "used", "holder")
    assert "endpoint with name holder already exists in network used" in done.stderr
    target.ok("rm", "-f", "holder")
    target.ok("network", "rm", "used")
    assert f"br-{made[:12]}" not in _interfaces()


def test_a_stopped_container_is_promised_networks(target: Target) -> None:
    """Those that it is promised already once only, and those that there will be by its start."""
    target.ok("create", "--name", "box", "busybox", "sleep", "600")
    for _ in range(2):
        target.ok("network", "connect", "--alias", "first", "later", "box")
    assert "network later not found" in target.docker("start", "box").stderr
    target.ok("network", "create", "later")
    try:
        target.ok("network", "connect", "--alias", "second", "later", "box")
        target.ok("start", "box")
        shown = json.loads(target.ok("inspect", "-f", "{{json .NetworkSettings.Networks}}", "box"))
        assert sorted(shown) == ["bridge", "later"] and shown["later"]["IPAddress"]
        assert "first" in shown["later"]["Aliases"] and "second" not in shown["later"]["Aliases"]
        target.ok("stop", "-t", "0", "box")
        target.ok("network", "disconnect", "later", "box")
        refused = target.docker("network", "disconnect", "nowhere", "box")
        assert (refused.returncode, "is not connected to the network nowhere" in refused.stderr) == (1, True)
    finally:
        target.ok("rm", "-f", "box")
        target.ok("network", "rm", "later")


def test_names_and_networks_survive_the_daemons(target: Target, engine: Engine) -> None:
    made = target.ok("network", "create", "app")
    serve(target, "web", "--network", "app")
    target.ok("run", "-d", "--name", "client", "--network", "app", "busybox", "sh", "-c", "while :; do sleep 1; done")
    pid = target.ok("inspect", "-f", "{{.State.Pid}}", "client")
    fetch(target, "client", "http://web/")
    for service in ("manager", "api", "supervisor"):
        engine.kill(service)
    inside = ["nsenter", "-t", pid, "-n", "busybox", "nslookup", "web", "127.0.0.11"]
    assert "Name:\tweb" in subprocess.check_output(inside, text=True)
    engine.start()
    assert target.ok("network", "inspect", "-f", "{{.Id}}", "app") == made
    assert fetch(target, "client", "http://web/") == "web"
    serve(target, "late", "--network", "app")
    assert fetch(target, "client", "http://late/") == "late"


def test_docker_py(target: Target) -> None:
    client = docker.DockerClient(base_url=target.socket, version="auto")
    try:
        subnet = free_subnet()
        net = subnet.removesuffix("0/24")
        pool = docker.types.IPAMPool(subnet=subnet, gateway=f"{net}254", iprange=f"{net}128/25")
        ipam = docker.types.IPAMConfig(pool_configs=[pool])
        network = client.networks.create("pynet", ipam=ipam, labels={"k": "v"}, internal=True)
        assert [each.name for each in client.networks.list(filters={"label": "k=v"})] == ["pynet"]
        container = client.containers.run("busybox", "sleep 1000", detach=True, network="pynet")
        network.reload()
        assert network.attrs["Containers"][container.id]["IPv4Address"] == f"{net}128/24"
        network.disconnect(container)
        network.connect(container, ipv4_address=f"{net}9", aliases=["nine"])
        container.reload()
        shown = container.attrs["NetworkSettings"]["Networks"]["pynet"]
        assert (shown["IPAddress"], shown["Aliases"]) == (f"{net}9", ["nine"])
        container.remove(force=True)
        network.remove()
    finally:
        client.close()


def _interfaces() -> set[str]:
    with Netlink() as host:
        return {link.name for link in host.links()}


def test_a_container_may_have_port_53_for_every_address_itself(either: Target) -> None:
    either.ok("network", "create", "app")
    for name in ("dns", "client"):
        either.ok("run", "-d", "--name", name, "--network", "app", "busybox", "sleep", "1000")
    pid = int(either.ok("inspect", "-f", "{{.State.Pid}}", "dns"))
    with netns_of(pid) as netns, contextlib.ExitStack() as held:
        held.enter_context(in_netns(netns, lambda: socket.create_server(("", 53))))
        udp = held.enter_context(in_netns(netns, lambda: socket.socket(type=socket.SOCK_DGRAM)))
        udp.bind(("", 53))
        udp.settimeout(10)
        assert resolves(either, "dns", "client") == {address(either, "client", "app")}
        asking = either.spawn("exec", "client", "nslookup", "-timeout=1", "x", address(either, "dns", "app"))
        assert udp.recv(512)[12:15] == b"\x01x\0"
        asking.communicate()


def test_a_range_of_host_ports_gives_each_container_a_free_one(target: Target) -> None:
    first = free_ports(3)
    published = f"127.0.0.1:{first}-{first + 2}:80"
    for name in ("aa", "bb", "cc"):
        serve(target, name, "-p", published)
    given = {name: target.ok("port", name, "80") for name in ("aa", "bb", "cc")}
    assert set(given.values()) == {f"127.0.0.1:{first + number}" for number in range(3)}
    for name, where in given.items():
        fetch(target, name, "http://127.0.0.1/")
        assert subprocess.check_output(["curl", "-s", f"http://{where}/"], text=True) == f"{name}\n"
    done = target.docker("run", "--rm", "-p", published, "busybox", "true")
    assert done.returncode == 125 and f"Bind for 127.0.0.1:{first + 2} failed: port is already allocated" in done.stderr
    target.ok("rm", "-f", "bb")
    serve(target, "dd", "-p", published)
    assert target.ok("port", "dd", "80") == given["bb"]
    assert target.ok("inspect", "-f", '{{(index .HostConfig.PortBindings "80/tcp" 0).HostPort}}', "dd") == (
        f"{first}-{first + 2}"
    )


TAKEN = f"bht{os.getpid()}"  # suites run side by side


def test_a_subnet_that_the_host_has_elsewhere_is_refused_and_nothing_is_left(target: Target) -> None:
    subnet = free_subnet()
    subprocess.run(["ip", "link", "add", TAKEN, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", subnet.replace(".0/", ".1/"), "dev", TAKEN], check=True)
        subprocess.run(["ip", "link", "set", TAKEN, "up"], check=True)
        done = target.docker("network", "create", "--subnet", subnet, "clash")
        assert done.returncode == 1 and f"it overlaps the route to {subnet} by interface {TAKEN}" in done.stderr
        assert "clash" not in target.ok("network", "ls")
    finally:
        subprocess.run(["ip", "link", "del", TAKEN], check=True)
    target.ok("network", "create", "--subnet", subnet, "clash")


def test_a_link_whose_alias_has_capitals(either: Target) -> None:
    either.ok("network", "create", "app")
    serve(either, "web", "--network", "app")
    either.ok("run", "-d", "--name", "client", "--network", "app", "--link", "web:FirstOne", *SLEEP)
    assert fetch(either, "client", "http://FirstOne/") == "web"


def test_containers_by_the_beginning_of_their_networks_id(either: Target) -> None:
    network = either.ok("network", "create", "app")
    either.ok("run", "-d", "--name", "web", "--network", "app", *SLEEP)
    either.ok("run", "-d", "--name", "other", "--network", "none", *SLEEP)
    assert either.ok("ps", "--format", "{{.Names}}", "--filter", f"network={network[:8]}") == "web"
