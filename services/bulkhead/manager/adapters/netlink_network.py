"""The kernel's networking for `bulkhead.manager.networks`, by rtnetlink, procfs and libnftables."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from bulkhead.content.aside import aside
from bulkhead.content.blocking import ended
from bulkhead.linux import conntrack, netlink, nftables, threads, xtables
from bulkhead.linux.netlink import Deletions, Netlink
from bulkhead.linux.netns import enter_netns, leave_for_new_netns
from bulkhead.linux.nftables import Nftables
from bulkhead.manager.adapters import netlink_links, netlink_survey, port_claims, sysctls
from bulkhead.manager.adapters.kernel_calls import on_new_thread, translated
from bulkhead.manager.adapters.netns_ahead import NetnsAhead
from bulkhead.manager.networks.opening import USERS_CHAIN
from bulkhead.manager.networks.ports import Bridge, ElementChange, EndpointChange, Survey, Wire
from bulkhead.model.network import IPAddress, IPNetwork, Netns

T = TypeVar("T")

# More would only queue at the kernel's one network lock.
_THREADS = 4
_REFUSED = (errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EINVAL)


class NetlinkKernel:
    """`bulkhead.manager.networks.ports.Kernel`.

    Each call runs on a thread: one that waits for the kernel's network lock blocks nobody, and one
    that has entered a container's network namespace is never used for anything else.
    It stands on the network namespace in which it is made.
    """

    def __init__(self) -> None:
        self._threads = asyncio.Semaphore(_THREADS)
        self._nftables: Nftables | None = None
        # Kept: closing such a socket waits for the kernel's disposal of deleted elements, milliseconds.
        # None where the kernel has no such part: only who needs it is refused.
        self._netfilter = nftables.connected()
        self._asking = nftables.connected()  # in the event loop's own thread
        self._route = Netlink()
        self._claims = port_claims.Claims()
        self._kept_sockets = threading.Lock()
        self._deletions: tuple[Deletions, Deletions] | None = None
        # Most containers have IPv4 alone.
        self._ahead = NetnsAhead(lambda: netlink_links.newborn(()))

    async def survey(self) -> Survey:
        return await self.run("cannot list the host's interfaces", netlink_survey.survey)

    async def look(self, name: str, networks: Sequence[IPNetwork]) -> Survey:
        return await self.run("cannot look at the host's network", lambda: netlink_survey.look(name, networks))

    async def configure(self, settings: Mapping[str, str]) -> tuple[str, ...]:
        return await self.run("cannot configure the host's network", lambda: sysctls.configure(settings))

    async def forward_ipv6(self) -> tuple[str, ...]:
        return await self.run("cannot forward IPv6", sysctls.forward_ipv6)

    async def make_bridge(self, bridge: Bridge) -> None:
        await self.run(f"cannot make bridge {bridge.name}", lambda: netlink_links.make_bridge(bridge))

    async def found_bridge(
        self, bridge: Bridge, settings: Mapping[str, str], elements: Sequence[ElementChange]
    ) -> bool:
        return await self.run(
            f"cannot make bridge {bridge.name}", lambda: self._found_bridge(bridge, settings, elements)
        )

    async def change_elements(self, elements: Sequence[ElementChange]) -> bool:
        return await self._run_staying("cannot change the firewall", lambda: self._change_elements(elements))

    async def plug(self, netns: Netns, wire: Wire, change: EndpointChange) -> bool:
        return await self.run("cannot attach a network namespace", lambda: self._plug(netns, wire, change))

    async def plug_new(self, wire: Wire, change: EndpointChange) -> tuple[int, bool]:
        made = self._ahead.take()
        try:
            done = await self.run("cannot make a network namespace", lambda: self._plug_new(wire, change, made))
        except BaseException:
            for netns in made:
                os.close(netns)
            raise
        finally:
            self._ahead.expect()
        return made[0], done

    async def loopback(self, netns: Netns) -> None:
        await self.run("cannot bring up a loopback interface", lambda: netlink_links.loopback(netns))

    async def tune(self, netns: Netns, settings: Mapping[str, str]) -> None:
        await self.run("cannot configure a network namespace", lambda: netlink_links.tune(netns, settings))

    async def route(self, netns: Netns, interface: str, gateways: Sequence[IPAddress]) -> None:
        await self.run("cannot set the default route", lambda: netlink_links.route(netns, interface, gateways))

    async def publish(self, ports: Sequence[str], change: EndpointChange) -> bool:
        return await self._run_staying("cannot publish ports", lambda: self._republish(ports, change))

    async def replug(self, bridge: str, names: Sequence[str]) -> None:
        await self.run(f"cannot plug into bridge {bridge}", lambda: netlink_links.replug(bridge, names))

    async def silence(self, name: str, change: EndpointChange) -> bool:
        return await self._run_staying(f"cannot silence interface {name}", lambda: self._silence(name, change))

    async def delete_links(self, names: Sequence[str]) -> None:
        await self.run(f"cannot delete interfaces {', '.join(names)}", lambda: netlink_links.delete_links(names))

    async def table(self, family: str, name: str) -> Sequence[Mapping[str, Any]] | None:
        return await self.run(f"cannot list nftables table {name}", lambda: self._nft().table(name, family))

    async def apply(self, commands: Sequence[str]) -> None:
        await self.run("cannot change the firewall", lambda: self._nft().run("\n".join(commands)))

    async def forward_chains(self, *, besides: str) -> Sequence[Mapping[str, Any]]:
        return await self.run(
            "cannot list nftables chains", lambda: self._nft().forward_chains(USERS_CHAIN, besides=besides)
        )

    async def rule_handles(self, family: str, table: str, chain: str, comments: Collection[str]) -> Sequence[int]:
        return await self._run_staying(
            "cannot list nftables rules", lambda: self._rule_handles(family, table, chain, comments)
        )

    async def legacy_forward_drop(self) -> bool:
        return await self.run("cannot ask the legacy iptables", xtables.forward_drops)

    async def disturbed(
        self,
        table: str,
        bridges: Container[str],
        opened: Collection[tuple[str, str]],
        is_wanted: Callable[[str], bool],
    ) -> None:
        if self._deletions is None:
            with translated("cannot watch the host's network"):
                self._deletions = (nftables.deletions(), netlink.bridge_deletions())
            return
        rules, links = self._deletions
        interest = nftables.Interest(table, opened, is_wanted)
        while True:
            await _readable(rules, links)
            heard, gone = rules.read(), links.read()
            if heard is None or any(interest.concerns(*news) for news in heard):
                return
            if gone is None or any(netlink.deleted_link(body) in bridges for _, body in gone):
                return

    def bindable(self, protocol: str, address: str, port: int) -> str | None:
        return port_claims.obstacle(protocol, address, port)

    def has_ipv6(self) -> bool:
        return port_claims.obstacle("tcp", "::1", 0) is None

    def published_elsewhere(self, table: str, protocol: str, address: str, port: int) -> bool:
        return self._asking is not None and port_claims.published_elsewhere(
            self._asking, table, protocol, address, port
        )

    def reserve(self, protocol: str, port: int) -> bool:
        return self._claims.reserve(protocol, port)

    def unreserve(self, protocol: str, port: int) -> None:
        self._claims.unreserve(protocol, port)

    def choosing(self) -> AbstractAsyncContextManager[None]:
        return self._claims.choosing()

    def ephemeral_ports(self) -> range:
        return port_claims.ephemeral_ports()

    def close(self) -> None:
        self._ahead.close()
        for connection in (self._netfilter, self._asking, self._route):
            if connection is not None:
                connection.close()
        self._claims.close()
        if self._nftables is not None:
            self._nftables.close()
        for deletions in self._deletions or ():
            deletions.close()
        self._nftables = self._deletions = None

    def _nft(self) -> Nftables:
        # Made on first use and kept: its socket costs more than a transaction.
        if self._nftables is None:
            self._nftables = Nftables()
        return self._nftables

    def _plug(self, netns: Netns, wire: Wire, change: EndpointChange) -> bool:
        netlink_links.plug(netns, wire)
        return self._publish(change)

    def _plug_new(self, wire: Wire, change: EndpointChange, made: list[int]) -> bool:
        ahead = bool(made)
        with Netlink() as host:
            bridge = socket.if_nametoindex(wire.bridge)
            if ahead:
                enter_netns(made[0])
            else:
                made.append(leave_for_new_netns())
            if not ahead or netlink_links.wants_ipv6(wire.addresses):
                netlink_links.newborn(wire.addresses)
            netlink_links.wire_up(host, made[0], bridge, wire)
        return self._publish(change)

    def _silence(self, name: str, change: EndpointChange) -> bool:
        netlink_links.silence(name)
        return self._publish(change)

    def _republish(self, ports: Sequence[str], change: EndpointChange) -> bool:
        for name in ports:
            netlink_links.reflect(name)
        return self._publish(change)

    def _found_bridge(self, bridge: Bridge, settings: Mapping[str, str], elements: Sequence[ElementChange]) -> bool:
        # Its place in the tables first: from its first moment on it is isolated.
        if not self._change_elements(elements):
            return False
        netlink_links.make_bridge(bridge)
        sysctls.configure(settings)
        return True

    def _publish(self, change: EndpointChange) -> bool:
        done = self._change_elements(change.elements)
        if done and change.udp_ports and self._netfilter is not None:
            with self._kept_sockets:
                _forget_flows(self._netfilter, self._route, change)
        return done

    def _rule_handles(self, family: str, table: str, chain: str, comments: Collection[str]) -> Sequence[int]:
        if self._netfilter is None:
            raise nftables.KernelPartMissing
        with self._kept_sockets:
            return nftables.rule_handles(self._netfilter, family, table, chain, comments)

    def _change_elements(self, elements: Sequence[ElementChange]) -> bool:
        """Whether the kernel carried the changes out; it refuses when the tables are not what they suppose."""
        requests = [
            nftables.change_elements(
                each.family,
                each.table,
                each.collection,
                (each.key_type, each.value_type),
                each.entries,
                delete=each.delete,
                interval=each.interval,
            )
            for each in elements
        ]
        if self._netfilter is None:
            raise nftables.KernelPartMissing
        with self._kept_sockets:
            try:
                self._netfilter.request(*nftables.transaction(requests))
            except OSError as error:
                if error.errno in _REFUSED:
                    return False
                raise
        return True

    async def run(self, deed: str, body: Callable[[], T]) -> T:
        """What `body` returns on a thread of its own; its OSErrors as errors of ours, which say what was tried."""
        async with self._threads:
            with translated(deed):
                return await on_new_thread(body)

    async def _run_staying(self, deed: str, body: Callable[[], T]) -> T:
        """The same for what enters no network namespace: its thread is there already, and serves others after it."""
        async with self._threads:
            with translated(deed), threads.refusal():
                return await ended(asyncio.ensure_future(aside(body)))


async def _readable(*sources: Deletions) -> None:
    """Return when one of them has news."""
    loop = asyncio.get_running_loop()
    news = asyncio.Event()
    for source in sources:
        loop.add_reader(source.fileno(), news.set)
    try:
        await news.wait()
    finally:
        for source in sources:
            loop.remove_reader(source.fileno())


def _forget_flows(netfilter: Netlink, route: Netlink, change: EndpointChange) -> None:
    """Forget where UDP clients of the published ports were sent until now."""
    # Without ctnetlink, a module of its own, they are forgotten once their clients pause.
    with contextlib.suppress(OSError):
        local = {address.ip for _, address in route.addresses()}
        for version, port in change.udp_ports:
            for flow in list(conntrack.udp_flows(netfilter, port, version)):
                if flow.destination in local or flow.destination.is_loopback:
                    conntrack.forget(netfilter, flow)
