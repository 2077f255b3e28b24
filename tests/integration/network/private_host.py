"""A host of the test's own: a network namespace in which a thread, its event loop and its threads live.

The machine's real network is never touched. /proc/sys/net shows the settings of the thread that
looks, so the code under test needs no mount namespace to see its own host.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import socket
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from bulkhead.linux import netlink
from bulkhead.linux.netlink import Link, Netlink
from bulkhead.linux.netns import in_netns, new_netns
from bulkhead.linux.nftables import Nftables
from bulkhead.manager.adapters.netlink_network import NetlinkKernel
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.manager.networks.tables import Table, actual
from bulkhead.model.instance import Instance
from bulkhead.model.network import IPAddress, IPInterface

P = ParamSpec("P")
T = TypeVar("T")

WORLD = IPv4Interface("198.51.100.2/24")  # a neighbour of the host, beyond no bridge of ours
UPLINK = IPv4Interface("198.51.100.1/24")  # the host's own address on that side
WORLD6, UPLINK6 = IPv6Interface("2001:db8::2/64"), IPv6Interface("2001:db8::1/64")
PATIENCE = 20.0


def run_on_private_host(body: Callable[[], Awaitable[T]]) -> T:
    """What `body` returns, run in an event loop of its own inside a new network namespace."""

    async def main() -> T:
        return await body()

    def boot() -> T:
        with Netlink() as host:
            host.request(netlink.link_up(1))
        # A new namespace may inherit this from the machine.
        Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("0")
        return asyncio.run(main())

    namespace = new_netns()
    try:
        return in_netns(namespace, boot)
    finally:
        os.close(namespace)


class Host:
    """What a test does and sees on its private host; everything is closed at the end of the block."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def network(self, instance: Instance | None = None) -> BridgeNetwork:
        network = BridgeNetwork(instance or Instance(), NetlinkKernel())
        self._stack.callback(network.close)
        return network

    def netns(self) -> int:
        """An empty network namespace, as a container is born with."""
        namespace = new_netns()
        self._stack.callback(os.close, namespace)
        return namespace

    def world(self) -> int:
        """A machine beside the host, on a cable of its own; the host's default route leads there."""
        namespace = self.netns()
        self.cable(namespace, (UPLINK, UPLINK6), (WORLD, WORLD6))
        for neighbour in (WORLD, WORLD6):
            self.default_route("uplink", neighbour.ip)
        return namespace

    def kernel(self) -> NetlinkKernel:
        made = NetlinkKernel()
        self._stack.callback(made.close)
        return made

    def cable(
        self, namespace: int, near: Sequence[IPInterface], far: Sequence[IPInterface], *, bridge: str = "uplink"
    ) -> None:
        """A veth pair `uplink` .. `eth0`; it passes through a bridge only because `netlink.veth` has no other."""
        with Netlink() as host:
            host.request(netlink.bridge(bridge, "02:00:00:00:00:01"))
            index = socket.if_nametoindex(bridge)
            host.request(*(netlink.add_address(index, each) for each in near))
            host.request(
                netlink.veth(
                    host="uplink0", peer="eth0", peer_mac="02:00:00:00:00:02", netns=namespace, master=index, mtu=1500
                )
            )

        def configure() -> None:
            with Netlink() as inside:
                index = socket.if_nametoindex("eth0")
                inside.request(netlink.link_up(1), netlink.link_up(index))
                inside.request(*(netlink.add_address(index, each) for each in far))

        in_netns(namespace, configure)

    def default_route(self, interface: str, gateway: IPAddress) -> None:
        with Netlink() as host:
            host.request(netlink.set_default_route(socket.if_nametoindex(interface), gateway))

    def listen(self, namespace: int | None, address: str, port: int) -> socket.socket:
        """A TCP listener inside a namespace, or on the host."""

        def make() -> socket.socket:
            return socket.create_server((address, port))

        server = make() if namespace is None else in_netns(namespace, make)
        server.settimeout(PATIENCE)
        self._stack.callback(server.close)
        return server

    def connect(self, namespace: int | None, address: str, port: int, *, timeout: float = PATIENCE) -> socket.socket:
        """A TCP connection from inside a namespace, or from the host."""

        def make() -> socket.socket:
            return socket.create_connection((address, port), timeout=timeout)

        client = make() if namespace is None else in_netns(namespace, make)
        self._stack.callback(client.close)
        return client

    def caller(self, server: socket.socket, namespace: int | None, address: str, port: int) -> str:
        """The address as which a client appears to `server`; the connection carries a byte first."""
        client = self.connect(namespace, address, port)
        accepted, peer = server.accept()
        with accepted:
            client.sendall(b"x")
            accepted.settimeout(PATIENCE)
            assert accepted.recv(1) == b"x"
        return str(peer[0])

    def links(self) -> dict[str, Link]:
        with Netlink() as host:
            return {link.name: link for link in host.links()}

    def table(self, instance: Instance | None = None, family: str = "inet") -> Table | None:
        name = (instance or Instance()).nft_table
        rules = Nftables()
        try:
            return actual(family, name, rules.table(name, family))
        finally:
            rules.close()

    def nft(self, commands: str) -> None:
        rules = Nftables()
        try:
            rules.run(commands)
        finally:
            rules.close()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that only the kernel's or another task's progress brings about."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, "it never came about"
        await asyncio.sleep(0.02)


def inside(namespace: int, body: Callable[[], T]) -> T:
    """What `body` returns inside a namespace."""
    return in_netns(namespace, body)


def run_inside(namespace: int, *command: str) -> str:
    """The output of a command inside a namespace."""
    return inside(namespace, lambda: run(*command))


def run(*command: str) -> str:
    """The output of a command on the private host."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def setting(path: str) -> str:
    """A sysctl of the calling thread's namespace."""
    return (Path("/proc/sys") / path).read_text().strip()


def on_private_host(test: Callable[Concatenate[Host, P], Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Decorate an async test: it runs on a private host, which it gets as its first argument."""

    @functools.wraps(test)
    def examine(*args: P.args, **kwargs: P.kwargs) -> None:
        async def body() -> None:
            with Host() as host:
                await test(host, *args, **kwargs)

        run_on_private_host(body)

    # pytest must not take the first argument for a fixture.
    signature = inspect.signature(test)
    examine.__signature__ = signature.replace(parameters=[*signature.parameters.values()][1:])  # type: ignore[attr-defined]
    return examine
