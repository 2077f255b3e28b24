"""Who reaches whom, over TCP and UDP, IPv4 and IPv6: the whole matrix as declared, whatever may happen to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

import pytest

from bulkhead.linux.netns import in_netns
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.model.instance import Instance
from bulkhead.model.network import AddressPlan, BridgePlan, Endpoint, GatewayMode, PortBinding
from tests.integration.network.private_host import (
    UPLINK,
    UPLINK6,
    WORLD,
    WORLD6,
    Host,
    eventually,
    on_private_host,
    run_inside,
)

pytestmark = pytest.mark.root

TABLE = Instance().nft_table
PORT, OPEN, LOCAL = 7, 7000, 7001
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
PUBLISHED = tuple(
    PortBinding(container_port=PORT, host_port=port, host_ip=ip, protocol=protocol)
    for protocol in KINDS
    for port, ip in ((OPEN, ""), (LOCAL, "127.0.0.1"))
)
# Each container's networks; the first one leads to everywhere else, if it can.
HOMES = {
    "web": ["app"],
    "api": ["app", "inner"],
    "lone": ["other"],
    "base": ["inner"],
    "left": ["apart"],
    "right": ["apart"],
    "old": ["bridge"],
    "new": ["six", "bridge"],
}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
# Networks that lack a family.
LACKS = {"bridge": 6, "six": 4}
QUIET = 0.6

Reach = set[tuple[str, str, str]]


def plan(number: int, key: str, *, internal: bool = False, interconnected: bool = True) -> BridgePlan:
    subnets = {4: ip_network(f"10.{number}.0.0/24"), 6: ip_network(f"fd00:{number}::/64")}
    plans = {
        version: None if LACKS.get(key) == version else AddressPlan(subnet=subnet, gateway=subnet[1])
        for version, subnet in subnets.items()
    }
    return BridgePlan(
        key=key,
        bridge=f"br-{key}",
        v4=plans[4],
        v6=plans[6],
        internal=internal,
        interconnected=interconnected,
    )


PLANS = (
    plan(1, "app"),
    plan(2, "other"),
    plan(3, "inner", internal=True),
    plan(4, "apart", interconnected=False),
    plan(5, "six"),
)


@dataclass
class Site:
    """Networks, containers, the host, and a machine outside that has routes to all of them."""

    host: Host
    network: BridgeNetwork
    namespaces: dict[str, int]
    homes: dict[str, list[str]] = field(default_factory=lambda: {name: list(keys) for name, keys in HOMES.items()})
    endpoints: dict[tuple[str, str], Endpoint] = field(default_factory=dict)

    async def plug(self, name: str, key: str) -> None:
        routed = [version for version in FAMILIES if self.way(name, version) == key]
        self.endpoints[name, key] = await self.network.attach(
            name.ljust(64, "0"),
            self.namespaces[name],
            network=key,
            interface=f"eth{self.homes[name].index(key)}",
            routed=routed,
            ports=PUBLISHED if name == "web" and routed else (),
        )

    def way(self, name: str, version: int) -> str | None:
        """The network that leads a container to everywhere else."""
        able = [key for key in self.homes[name] if LACKS.get(key) != version]
        return able[0] if able else None

    async def connect(self, name: str, key: str) -> None:
        self.homes[name].append(key)
        await self.plug(name, key)

    async def disconnect(self, name: str, key: str) -> None:
        await self.network.unplug(self.endpoints.pop((name, key)), self.namespaces[name])
        self.homes[name].remove(key)

    async def restart(self, name: str) -> None:
        self.namespaces[name] = self.host.netns()
        for key in self.homes[name]:
            await self.network.unplug(self.endpoints.pop((name, key)), self.namespaces[name])
        for key in self.homes[name]:
            await self.plug(name, key)

    def targets(self, version: int) -> dict[str, tuple[str, int]]:
        """All that may be called."""
        own = {
            f"{name}@{key}": (str(address.ip), PORT)
            for (name, key), end in self.endpoints.items()
            for address in end.addresses
            if address.version == version
        }
        if version == 6:
            return {**own, "open": (str(UPLINK6.ip), OPEN), "world": (str(WORLD6.ip), PORT)}
        return {**own, "open": (str(UPLINK.ip), OPEN), "local": ("127.0.0.1", LOCAL), "world": (str(WORLD.ip), PORT)}

    def declared(self, version: int) -> Reach:
        """Who reaches what, and who answers there."""
        found: Reach = {("world", "open", "web"), ("world", "world", "world")}
        public = {("open", "web"), ("world", "world")}
        ends = [(name, key) for name, key in self.endpoints if LACKS.get(key) != version]
        members = {(f"{name}@{key}", name) for name, key in ends}
        local = {("local", "web")} if version == 4 else set()
        found |= {("host", *each) for each in {*members, *public, *local}}
        for name, mine in self.homes.items():
            near = {(other, key) for other, key in ends if key in mine and key != "apart"}
            near |= {(name, key) for key in mine if (name, key) in ends}
            found |= {(name, f"{other}@{key}", other) for other, key in near}
            if self.way(name, version) not in ("inner", None):
                found |= {(name, *each) for each in public}
        return found

    def reached(self, protocol: str, version: int) -> Reach:
        """The same, tried."""
        with contextlib.ExitStack() as stack:
            exchange = Exchange(stack, version)
            for name, namespace in self.namespaces.items():
                exchange.serve(name, namespace, protocol)
            exchange.call("host", None, protocol, self.targets(version))
            for name, namespace in self.namespaces.items():
                exchange.call(name, namespace, protocol, self.targets(version))
            return exchange.answers()

    async def holds(self) -> None:
        for protocol, version in itertools.product(KINDS, FAMILIES):
            found, wanted = await asyncio.to_thread(self.reached, protocol, version), self.declared(version)
            assert found == wanted, (protocol, version, {"lacking": wanted - found, "leaking": found - wanted})


class Exchange:
    """Servers that answer with their name, and callers that ask all at once."""

    def __init__(self, stack: contextlib.ExitStack, version: int) -> None:
        self._stack = stack
        self._family = FAMILIES[version]
        self._servers: dict[int, tuple[socket.socket, str]] = {}
        self._calls: dict[int, tuple[socket.socket, str, str]] = {}
        self._poll = select.poll()

    def serve(self, name: str, namespace: int, protocol: str) -> None:
        def listen() -> socket.socket:
            server = socket.socket(self._family, KINDS[protocol])
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("", PORT))
            if protocol == "tcp":
                server.listen(64)
            return server

        server = self._stack.enter_context(in_netns(namespace, listen))
        self._servers[server.fileno()] = (server, name)
        self._poll.register(server, select.POLLIN)

    def call(self, caller: str, namespace: int | None, protocol: str, targets: dict[str, tuple[str, int]]) -> None:
        def make() -> Iterator[tuple[str, socket.socket]]:
            for target, where in targets.items():
                client = socket.socket(self._family, KINDS[protocol] | socket.SOCK_NONBLOCK)
                with contextlib.suppress(BlockingIOError):
                    try:
                        client.connect(where)
                        client.send(b"?")
                    except OSError as error:
                        if not isinstance(error, BlockingIOError):
                            client.close()  # no route
                            continue
                yield target, client

        calls = list(make()) if namespace is None else in_netns(namespace, lambda: list(make()))
        for target, client in calls:
            self._stack.enter_context(client)
            self._calls[client.fileno()] = (client, caller, target)
            self._poll.register(client, select.POLLIN)

    def answers(self) -> Reach:
        """Until nothing has come for a while, by the kernel's word: we may be kept from our core for as long."""
        found: Reach = set()
        while ready := self._poll.poll(QUIET * 1000):
            for descriptor, _ in ready:
                if descriptor in self._servers:
                    self._answer(*self._servers[descriptor])
                else:
                    client, caller, target = self._calls[descriptor]
                    self._poll.unregister(client)
                    with contextlib.suppress(OSError):
                        found.add((caller, target, client.recv(64).decode()))
        return found

    def _answer(self, server: socket.socket, name: str) -> None:
        if server.type == socket.SOCK_DGRAM:
            _, client = server.recvfrom(64)
            server.sendto(name.encode(), client)
        else:
            accepted, _ = server.accept()
            self._stack.enter_context(accepted)
            accepted.sendall(name.encode())


async def build(host: Host) -> Site:
    outside = host.world()
    for near in (UPLINK, UPLINK6):
        run_inside(outside, "ip", f"-{near.version}", "route", "add", "default", "via", str(near.ip))
    site = Site(host, network(host), {"world": outside, **{name: host.netns() for name in HOMES}})
    await site.network.ensure()
    await site.network.reconcile([])
    for name, keys in HOMES.items():
        for key in keys:
            await site.plug(name, key)
    return site


def network(host: Host) -> BridgeNetwork:
    made = host.network()
    for each in PLANS:
        made.plan(each)
    return made


@on_private_host
async def test_the_matrix_holds_whatever_happens(host: Host) -> None:
    site = await build(host)
    await site.holds()
    # The manager dies; its successor knows the records.
    site.network = network(host)
    await site.network.ensure()
    await site.network.reconcile(site.endpoints.values())
    await site.holds()
    before = host.table()
    watching = asyncio.create_task(site.network.watch())
    await asyncio.sleep(0)
    try:
        host.nft("flush ruleset")
        await eventually(lambda: host.table() == before)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    await site.holds()


@on_private_host
async def test_the_matrix_follows_containers(host: Host) -> None:
    site = await build(host)
    for name in ("web", "api"):
        await site.restart(name)
    await site.holds()
    await site.connect("lone", "app")
    await site.connect("old", "inner")
    await site.disconnect("api", "inner")
    await site.holds()


def in_touch(host: Host, namespace: int | None, address: str) -> bool:
    """Whether packets get there yet: the kernel takes its time to tell bridges that a cable is plugged in."""
    try:
        host.connect(namespace, address, 1, timeout=0.2)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("mode", "open_to_the_world"),
    [
        (GatewayMode.NAT, {"open"}),
        (GatewayMode.ROUTED, {"published"}),
        (GatewayMode.UNPROTECTED, {"open", "published", "other"}),
    ],
)
@pytest.mark.parametrize("version", [4, 6])
@on_private_host
async def test_what_the_world_reaches_of_a_routed_network(
    host: Host, version: int, mode: GatewayMode, open_to_the_world: set[str]
) -> None:
    """A route to the containers alone opens nothing."""
    outside = host.world()
    for near in (UPLINK, UPLINK6):
        run_inside(outside, "ip", f"-{near.version}", "route", "add", "default", "via", str(near.ip))
    made, base = host.network(), plan(1, "app")
    v4, v6 = (replace(each, mode=mode) for each in base.families)
    made.plan(replace(base, v4=v4, v6=v6))
    await made.ensure()
    web, other = host.netns(), host.netns()
    binding = PortBinding(container_port=PORT, host_port=OPEN)
    ends = [
        await made.attach("a" * 64, web, network="app", ports=[binding]),
        await made.attach("b" * 64, other, network="app"),
    ]
    at = [str(each.ip) for end in ends for each in end.addresses if each.version == version]
    hosts_own = str(UPLINK.ip if version == 4 else UPLINK6.ip)
    await eventually(lambda: in_touch(host, outside, hosts_own) and all(in_touch(host, None, each) for each in at))
    targets = {"open": (hosts_own, OPEN), "published": (at[0], PORT), "other": (at[1], PORT)}
    with contextlib.ExitStack() as stack:
        exchange = Exchange(stack, version)
        for name, namespace in (("web", web), ("other", other), ("world", outside)):
            exchange.serve(name, namespace, "tcp")
        exchange.call("world", outside, "tcp", targets)
        exchange.call("web", web, "tcp", {"world": (str((WORLD if version == 4 else WORLD6).ip), PORT)})
        answers = exchange.answers()
    assert {target for caller, target, _ in answers if caller == "world"} == open_to_the_world
    assert ("web", "world", "world") in answers
