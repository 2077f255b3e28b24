"""The kernel's networking for `bulkhead.manager.networks`, by rtnetlink, procfs and libnftables."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import errno
import fcntl
import os
import re
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from bulkhead.content.aside import aside
from bulkhead.content.blocking import ended
from bulkhead.errors import Conflict, Internal, InvalidArgument, NotFound, Unavailable
from bulkhead.linux import conntrack, netlink, nftables, threads, xtables
from bulkhead.linux.netlink import Deletions, Netlink
from bulkhead.linux.netns import enter_netns, leave_for_new_netns, netns_of
from bulkhead.linux.nftables import Nftables, NftablesMissing
from bulkhead.manager.adapters.netns_ahead import NetnsAhead
from bulkhead.manager.networks import publish
from bulkhead.manager.networks.opening import USERS_CHAIN
from bulkhead.manager.networks.ports import (
    LINK_GATEWAY,
    Bridge,
    ElementChange,
    EndpointChange,
    Interface,
    Survey,
    Wire,
)
from bulkhead.manager.networks.settings import refusal
from bulkhead.model.network import (
    ANY,
    ANY6,
    PROTOCOL_NUMBERS,
    IPAddress,
    IPInterface,
    IPNetwork,
    Netns,
    ProcessNetns,
)

T = TypeVar("T")

_LOOPBACK_INDEX = 1  # of every network namespace
_SYSCTL = Path("/proc/sys")
_PORT_RANGE = _SYSCTL / "net/ipv4/ip_local_port_range"
# Behind every port's byte: whoever chooses a subnet has this one; and how long (seconds) it is waited for, how often.
_CHOOSING = 1 << 32
_CHOOSING_SECONDS = 5.0
_CHOOSING_POLL = 0.005
_OWN_NETNS = Path("/proc/thread-self/ns/net")
# Set before the interface is born, so there is no moment in which it believes a router or has an address; and with
# IPv6 its own link-local one serves at once.
_NEWBORN = {"net/ipv6/conf/default/accept_ra": "0", "net/ipv6/conf/default/accept_dad": "0"}
_DISABLE_IPV6 = "net/ipv6/conf/default/disable_ipv6"
_IPV6 = "net/ipv6/conf"
_BRIDGE_IPV6 = {
    True: {"accept_ra": "0", "accept_dad": "0", "disable_ipv6": "0"},
    False: {"accept_ra": "0", "disable_ipv6": "1"},
}
# More would only queue at the kernel's one network lock.
_THREADS = 4
_GONE = (errno.ENODEV, errno.ENXIO)
_REFUSED = (errno.ENOENT, errno.EEXIST, errno.EBUSY, errno.EINVAL)
_DEFAULT_EPHEMERAL = range(32768, 61000)
_SOCKET_TYPES = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
# `Instance.nft_table`, of any installation.
_INSTANCE_TABLE = re.compile("bulkhead(_[0-9a-f]{8})?")
_UNTESTABLE = (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)


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
        self._claims = _open_claims()
        self._kept_sockets = threading.Lock()
        self._deletions: tuple[Deletions, Deletions] | None = None
        # Most containers have IPv4 alone.
        self._ahead = NetnsAhead(lambda: newborn(()))

    async def survey(self) -> Survey:
        return await self.run("cannot list the host's interfaces", _survey)

    async def look(self, name: str, networks: Sequence[IPNetwork]) -> Survey:
        return await self.run("cannot look at the host's network", lambda: _look(name, networks))

    async def configure(self, settings: Mapping[str, str]) -> tuple[str, ...]:
        return await self.run("cannot configure the host's network", lambda: _configure(settings))

    async def forward_ipv6(self) -> tuple[str, ...]:
        return await self.run("cannot forward IPv6", _forward_ipv6)

    async def make_bridge(self, bridge: Bridge) -> None:
        await self.run(f"cannot make bridge {bridge.name}", lambda: _make_bridge(bridge))

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
        await self.run("cannot bring up a loopback interface", lambda: _loopback(netns))

    async def tune(self, netns: Netns, settings: Mapping[str, str]) -> None:
        await self.run("cannot configure a network namespace", lambda: _tune(netns, settings))

    async def route(self, netns: Netns, interface: str, gateways: Sequence[IPAddress]) -> None:
        await self.run("cannot set the default route", lambda: _route(netns, interface, gateways))

    async def replug(self, bridge: str, names: Sequence[str]) -> None:
        await self.run(f"cannot plug into bridge {bridge}", lambda: _replug(bridge, names))

    async def silence(self, name: str, change: EndpointChange) -> bool:
        return await self._run_staying(f"cannot silence interface {name}", lambda: self._silence(name, change))

    async def delete_links(self, names: Sequence[str]) -> None:
        await self.run(f"cannot delete interfaces {', '.join(names)}", lambda: _delete_links(names))

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
            with _translated("cannot watch the host's network"):
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
        return _obstacle(protocol, address, port)

    def has_ipv6(self) -> bool:
        return _obstacle("tcp", "::1", 0) is None

    def published_elsewhere(self, table: str, protocol: str, address: str, port: int) -> bool:
        if self._asking is None:
            return False
        try:
            names = nftables.table_names(self._asking, "inet")
            others = [name for name in names if name != table and _INSTANCE_TABLE.fullmatch(name)]
            return any(_publishes(self._asking, other, protocol, address, port) for other in others)
        except OSError:
            return False  # no worse than not to have asked

    def reserve(self, protocol: str, port: int) -> bool:
        return self._claims is None or _claim(self._claims, fcntl.F_WRLCK, protocol, port)

    def unreserve(self, protocol: str, port: int) -> None:
        if self._claims is not None:
            _claim(self._claims, fcntl.F_UNLCK, protocol, port)

    @asynccontextmanager
    async def choosing(self) -> AsyncIterator[None]:
        claims = self._claims
        deadline = time.monotonic() + _CHOOSING_SECONDS
        while not (held := claims is None or _lock(claims, fcntl.F_WRLCK, _CHOOSING)):
            if time.monotonic() > deadline:
                break  # no worse than not to have waited
            await asyncio.sleep(_CHOOSING_POLL)
        try:
            yield
        finally:
            if held and claims is not None:
                _lock(claims, fcntl.F_UNLCK, _CHOOSING)

    def ephemeral_ports(self) -> range:
        try:
            first, last = _PORT_RANGE.read_text().split()
        except OSError:
            return _DEFAULT_EPHEMERAL
        return range(int(first), int(last) + 1)

    def close(self) -> None:
        self._ahead.close()
        for connection in (self._netfilter, self._asking, self._route):
            if connection is not None:
                connection.close()
        if self._claims is not None:
            os.close(self._claims)
            self._claims = None
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
        _plug(netns, wire)
        return self._publish(change)

    def _plug_new(self, wire: Wire, change: EndpointChange, made: list[int]) -> bool:
        ahead = bool(made)
        with Netlink() as host:
            bridge = socket.if_nametoindex(wire.bridge)
            if ahead:
                enter_netns(made[0])
            else:
                made.append(leave_for_new_netns())
            if not ahead or _wants_ipv6(wire.addresses):
                newborn(wire.addresses)
            _wire_up(host, made[0], bridge, wire)
        return self._publish(change)

    def _silence(self, name: str, change: EndpointChange) -> bool:
        _silence(name)
        return self._publish(change)

    def _found_bridge(self, bridge: Bridge, settings: Mapping[str, str], elements: Sequence[ElementChange]) -> bool:
        # Its place in the tables first: from its first moment on it is isolated.
        if not self._change_elements(elements):
            return False
        _make_bridge(bridge)
        _configure(settings)
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
            with _translated(deed):
                return await _on_thread(body)

    async def _run_staying(self, deed: str, body: Callable[[], T]) -> T:
        """The same for what enters no network namespace: its thread is there already, and serves others after it."""
        async with self._threads:
            with _translated(deed), threads.refusal():
                return await ended(asyncio.ensure_future(aside(body)))


async def _on_thread(body: Callable[[], T]) -> T:
    """What `body` returns or raises on a new thread; a cancelled awaiter waits for its end first.

    Raises OSError when there can be no thread.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = body()
        except BaseException as error:
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, result)

    # Not threading.Thread: its start() makes the event loop wait until the thread runs.
    with threads.refusal():
        _thread.start_new_thread(run, ())
    cancelled: asyncio.CancelledError | None = None
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        done.exception()
        raise cancelled
    return done.result()


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


@contextmanager
def _translated(deed: str) -> Iterator[None]:
    try:
        yield
    except NftablesMissing as error:
        raise Unavailable(f"{deed}: {error.strerror}") from error
    except ProcessLookupError as error:
        raise NotFound(f"{deed}: {error}") from error
    except FileExistsError as error:
        raise Conflict(f"{deed}: {error.strerror}") from error
    except PermissionError as error:
        raise Unavailable(f"{deed}: {error.strerror}; root with CAP_NET_ADMIN is needed") from error
    except OSError as error:
        raise Internal(f"{deed}: {error.strerror or error}") from error


def _survey() -> Survey:
    with Netlink() as host:
        links, addresses, routes = host.links(), host.addresses(), host.routes()
    names = {link.index: link.name for link in links}
    held: dict[int, list[IPInterface]] = {}
    for index, address in addresses:
        held.setdefault(index, []).append(address)
    interfaces = {link.name: _interface(link, names.get(link.master, ""), held.get(link.index, ())) for link in links}
    return Survey(
        interfaces=interfaces,
        routes=tuple((route.destination, names.get(route.index, "")) for route in routes),
    )


def _look(name: str, networks: Sequence[IPNetwork]) -> Survey:
    with Netlink() as host:
        named = host.link(name)
        routes = host.routes_across(networks)
        addresses = host.addresses_within(networks, of=named.index if named is not None else 0)
        # Last: whoever has a route or an address has a name.
        indices = {*(route.index for route in routes), *(index for index, _ in addresses)}
        names = {index: _name_of(index) for index in indices}
        links = [found for each in {name, *names.values()} if each and (found := host.link(each)) is not None]
    held: dict[int, list[IPInterface]] = {}
    for index, address in addresses:
        held.setdefault(index, []).append(address)
    return Survey(
        interfaces={link.name: _interface(link, "", held.get(link.index, ())) for link in links},
        routes=tuple((route.destination, names[route.index]) for route in routes),
    )


def _interface(link: netlink.Link, master: str, addresses: Sequence[IPInterface]) -> Interface:
    return Interface(
        name=link.name,
        kind=link.kind,
        master=master,
        mtu=link.mtu,
        up=link.up,
        alias=link.alias,
        addresses=tuple(addresses),
    )


def _name_of(index: int) -> str:
    """Of an interface; none for several, or when it is gone."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""


def _configure(settings: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(path for path, value in settings.items() if _set(path, value))


def _set(path: str, value: str) -> bool:
    """Write a sysctl if it differs; whether it did. One that this kernel does not have is nothing to set.

    With bare calls: three of each bridge are looked at whenever all is.
    """
    found = _setting(path)
    if found in (None, value):
        return False
    _write(path, value)
    return True


def _setting(path: str) -> str | None:
    """The value of a sysctl; None when there is none, its interface being gone, say."""
    try:
        file = os.open(f"{_SYSCTL}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(file, 4096).decode().strip()
        finally:
            os.close(file)
    except FileNotFoundError:
        return None


def _write(path: str, value: str) -> None:
    """Write a sysctl, if this kernel has it. With bare calls: it is done for every container."""
    try:
        file = os.open(f"{_SYSCTL}/{path}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(file, value.encode())
        finally:
            os.close(file)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {_SYSCTL}/{path} = {value}") from error


def _forward_ipv6() -> tuple[str, ...]:
    """A host that forwards believes no router any more, unless an interface is told to: whoever does, is."""
    if _setting(f"{_IPV6}/all/disable_ipv6") in (None, "1"):
        raise Unavailable("cannot forward IPv6: this host has it disabled (net.ipv6.conf.all.disable_ipv6)")
    if _setting(f"{_IPV6}/all/forwarding") == "1":
        return ()
    # Interfaces go meanwhile: each container's does.
    beliefs = [f"{_IPV6}/{place.name}/accept_ra" for place in (_SYSCTL / _IPV6).iterdir()]
    kept = _configure({path: "2" for path in beliefs if _setting(path) == "1"})
    return (*kept, *_configure({f"{_IPV6}/all/forwarding": "1"}))


def _make_bridge(bridge: Bridge) -> None:
    with Netlink() as host:
        # Down at first: its IPv6 cannot be told anything before it exists. In one go with the note whose it is: a
        # death between them would leave a bridge that nobody sweeps.
        noted = [netlink.link_alias(bridge.name, bridge.alias)] if bridge.alias else []
        host.request(netlink.bridge(bridge.name, bridge.mac, up=False), *noted)
        for setting, value in _BRIDGE_IPV6[bridge.v6 is not None].items():
            _write(f"net/ipv6/conf/{bridge.name}/{setting}", value)
        index = socket.if_nametoindex(bridge.name)
        host.request(netlink.link_up(index))
        own = (*bridge.addresses, LINK_GATEWAY) if bridge.v6 else bridge.addresses
        for address in own:
            host.request(netlink.add_address(index, address))


def _plug(netns: Netns, wire: Wire) -> None:
    # A socket belongs to the namespace in which it is opened: the host's before this thread leaves it.
    with opened(netns) as target, Netlink() as host:
        bridge = socket.if_nametoindex(wire.bridge)
        enter_netns(target)
        newborn(wire.addresses)
        _wire_up(host, target, bridge, wire)


def _wire_up(host: Netlink, netns: int, bridge: int, wire: Wire) -> None:
    """The calling thread stands in `netns`, which is as for a newborn."""
    with Netlink() as inside:
        host.request(_pair(wire, netns, bridge))
        try:
            inside.request(*_container_side(wire))
            if wire.hairpin:
                host.request(netlink.hairpin_port(wire.host_interface))
            if wire.isolated:
                host.request(netlink.isolated_port(wire.host_interface))
        except BaseException:
            host.request(netlink.delete_link(wire.host_interface))
            raise


def newborn(addresses: Sequence[IPInterface]) -> None:
    """Set what the next interface of the calling thread's namespace is born with."""
    for path, value in _NEWBORN.items():
        _write(path, value)
    _write(_DISABLE_IPV6, "0" if _wants_ipv6(addresses) else "1")


def _wants_ipv6(addresses: Sequence[IPInterface]) -> bool:
    return any(each.version == 6 for each in addresses)


def _forget_flows(netfilter: Netlink, route: Netlink, change: EndpointChange) -> None:
    """Forget where UDP clients of the published ports were sent until now."""
    # Without ctnetlink, a module of its own, they are forgotten once their clients pause.
    with contextlib.suppress(OSError):
        local = {address.ip for _, address in route.addresses()}
        for version, port in change.udp_ports:
            for flow in list(conntrack.udp_flows(netfilter, port, version)):
                if flow.destination in local or flow.destination.is_loopback:
                    conntrack.forget(netfilter, flow)


def _pair(wire: Wire, netns: int, bridge: int) -> bytes:
    return netlink.veth(
        host=wire.host_interface, peer=wire.interface, peer_mac=wire.mac, netns=netns, master=bridge, mtu=wire.mtu
    )


def _container_side(wire: Wire) -> tuple[bytes, ...]:
    """What is left to do inside: the calling thread stands in the container's namespace."""
    index = socket.if_nametoindex(wire.interface)
    return (
        netlink.link_up(_LOOPBACK_INDEX),
        netlink.link_up(index),
        *(netlink.add_address(index, address) for address in wire.addresses),
        *(netlink.set_default_route(index, gateway) for gateway in wire.gateways),
    )


def _route(netns: Netns, interface: str, gateways: Sequence[IPAddress]) -> None:
    with opened(netns) as target:
        enter_netns(target)
        with Netlink() as inside:
            index = socket.if_nametoindex(interface)
            inside.request(*(netlink.set_default_route(index, gateway) for gateway in gateways))


def _loopback(netns: Netns) -> None:
    with opened(netns) as target:
        enter_netns(target)
        with Netlink() as inside:
            inside.request(netlink.link_up(_LOOPBACK_INDEX))


def _tune(netns: Netns, settings: Mapping[str, str]) -> None:
    with opened(netns) as target:
        enter_netns(target)
        for path, value in settings.items():
            try:
                (_SYSCTL / path).write_bytes(value.encode())
            except OSError as error:
                raise refusal(path, error) from error


@contextmanager
def opened(netns: Netns) -> Iterator[int]:
    """A descriptor of the namespace. Raises InvalidArgument when it is the host's: no container owns that."""
    if isinstance(netns, ProcessNetns):
        with netns_of(netns.pid, netns.start_time) as descriptor:
            _refuse_own(descriptor)
            yield descriptor
    else:
        _refuse_own(netns)
        yield netns


def _refuse_own(netns: int) -> None:
    """By the calling thread's own namespace, which is the host's: it has entered no other yet."""
    if os.path.samestat(os.fstat(netns), _OWN_NETNS.stat()):
        raise InvalidArgument("cannot attach a network namespace: it is the host's own")


def _replug(bridge: str, names: Sequence[str]) -> None:
    index = socket.if_nametoindex(bridge)
    with Netlink() as host:
        for name in names:
            with _unless_gone():
                host.request(netlink.link_master(name, index))


def _silence(name: str) -> None:
    with Netlink() as host, _unless_gone():
        host.request(netlink.silence_port(name))


def _delete_links(names: Sequence[str]) -> None:
    with Netlink() as host:
        for name in names:
            with _unless_gone():
                host.request(netlink.delete_link(name))


@contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise


def _publishes(kernel: Netlink, table: str, protocol: str, address: str, port: int) -> bool:
    """Whether the table of an installation publishes what excludes such a port."""
    maps = ("published6", "published6_any") if ":" in address else ("published", "published_any")
    ending = (str(PROTOCOL_NUMBERS[protocol]), str(port))
    types = publish.LAYOUT.types
    if nftables.has_element(kernel, "inet", table, maps[1], types[maps[1]][0], ending):
        return True
    if address in (ANY, ANY6):
        return nftables.has_key_ending(kernel, "inet", table, maps[0], types[maps[1]][0], ending)
    return nftables.has_element(kernel, "inet", table, maps[0], types[maps[0]][0], (address, *ending))


def _open_claims() -> int | None:
    """What installations on one network namespace have in common: a file that root alone can lock, a byte a port."""
    try:
        return os.open(_PORT_RANGE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None  # /proc/sys is read-only, say


def _claim(claims: int, kind: int, protocol: str, port: int) -> bool:
    """Lock or unlock a port's byte; False when somebody else has locked it."""
    return _lock(claims, kind, PROTOCOL_NUMBERS[protocol] << 16 | port)


def _lock(claims: int, kind: int, place: int) -> bool:
    """One byte (fcntl(2), F_OFD_SETLK); the kernel unlocks what a dead process had locked."""
    try:
        fcntl.fcntl(claims, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0))
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def _obstacle(protocol: str, address: str, port: int) -> str | None:
    """Why a socket cannot be bound; an address that TIME_WAIT alone holds is free."""
    kind, number = _SOCKET_TYPES[protocol]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, kind | socket.SOCK_CLOEXEC, number) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if protocol != "udp":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        if error.errno in _UNTESTABLE:
            return None
        return os.strerror(error.errno or errno.EIO).lower()
    return None
