"""The default network on a host that exists in memory only, for tests of what uses it.

`fake_network()` is the real core on a `FakeKernel`, so its rules about addresses, ports and
leftovers are the real ones. Calls of the kernel can be made to fail, to hang, or be looked at.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import AsyncIterator, Callable, Collection, Container, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network
from typing import Any, Concatenate, ParamSpec, TypeVar

from bulkhead.errors import BulkheadError, Conflict, Internal, InvalidArgument, NotFound
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.manager.networks.leases import overlap
from bulkhead.manager.networks.ports import Bridge, ElementChange, EndpointChange, Interface, Survey, Wire
from bulkhead.manager.networks.settings import refusal
from bulkhead.model.instance import Instance
from bulkhead.model.network import PROTOCOL_NUMBERS, IPAddress, IPInterface, IPNetwork, Netns, ProcessNetns

P = ParamSpec("P")
T = TypeVar("T")

HOST_NETNS = -1


def _kernel_call(
    method: Callable[Concatenate[FakeKernel, P], T],
) -> Callable[Concatenate[FakeKernel, P], Coroutine[Any, Any, T]]:
    """As on a thread: once begun, a call is carried out, and only then is its awaiter's cancellation let through."""
    name = method.__name__

    async def call(self: FakeKernel, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.calls.append(name)
        if name in self.failures:
            raise self.failures[name]
        cancelled: asyncio.CancelledError | None = None
        gate = self.gates.get(name)
        while gate is not None and not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError as error:
                cancelled = error
        result = method(self, *args, **kwargs)
        if cancelled is not None:
            raise cancelled
        return result

    return call


class FakeKernel:
    """A host with `eth0` at 192.0.2.2/24. `failures` and `gates` are by method name."""

    def __init__(self) -> None:
        self.interfaces: dict[str, Interface] = {}
        self.routes: list[tuple[IPNetwork, str]] = []
        self.settings: dict[str, str] = {}
        self.wires: dict[Netns, Wire] = {}  # of eth0
        self.further_wires: dict[tuple[Netns, str], Wire] = {}
        self.default_routes: dict[Netns, str] = {}
        self.tuned: dict[tuple[Netns, str], str] = {}
        self.made = 0  # namespaces
        self.loopbacks: set[Netns] = set()
        self.silent: set[str] = set()
        self.reflecting: set[str] = set()
        self.gone: set[int] = set()
        self.listening: set[tuple[str, int]] = set()
        self.ipv6 = False
        self.reserved: set[tuple[str, int]] = set()
        self.alone = asyncio.Lock()
        self.reserved_elsewhere: set[tuple[str, int]] = set()
        self.tables: dict[str, FakeTable] = {}  # by "family name"
        self.legacy_drops = False
        self.calls: list[str] = []
        self.failures: dict[str, BulkheadError] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.disturbance = asyncio.Event()
        self.add_interface("eth0", IPv4Interface("192.0.2.2/24"))
        self.routes.append((IPv4Network("0.0.0.0/0"), "eth0"))

    def add_interface(self, name: str, *addresses: IPInterface, kind: str = "", master: str = "") -> None:
        self.interfaces[name] = Interface(
            name=name, kind=kind, master=master, mtu=1500, up=True, addresses=tuple(addresses)
        )
        self.routes += [(address.network, name) for address in addresses]

    def netns_dies(self, netns: Netns) -> None:
        """The last process is gone: the namespace takes its veth with it."""
        gone = [self.wires.pop(netns, None)]
        gone += [self.further_wires.pop(key) for key in list(self.further_wires) if key[0] == netns]
        for wire in gone:
            if wire is not None:
                self.interfaces.pop(wire.host_interface, None)

    @_kernel_call
    def survey(self) -> Survey:
        return Survey(interfaces=dict(self.interfaces), routes=tuple(self.routes))

    @_kernel_call
    def look(self, name: str, networks: Sequence[IPNetwork]) -> Survey:
        near = {
            each.name: each if each.name == name else replace(each, addresses=_inside(each.addresses, networks))
            for each in self.interfaces.values()
        }
        return Survey(
            interfaces={each.name: each for each in near.values() if each.name == name or each.addresses},
            routes=tuple(route for route in self.routes if any(overlap(route[0], network) for network in networks)),
        )

    @_kernel_call
    def configure(self, settings: Mapping[str, str]) -> tuple[str, ...]:
        changed = tuple(path for path, value in settings.items() if self.settings.get(path) != value)
        self.settings.update(settings)
        return changed

    @_kernel_call
    def forward_ipv6(self) -> tuple[str, ...]:
        path = "net/ipv6/conf/all/forwarding"
        return () if self.settings.setdefault(path, "1") == "1" else (path,)

    @_kernel_call
    def make_bridge(self, bridge: Bridge) -> None:
        self._make_bridge(bridge)

    @_kernel_call
    def found_bridge(self, bridge: Bridge, settings: Mapping[str, str], elements: Sequence[ElementChange]) -> bool:
        if not self._change_elements(elements):
            return False
        self._make_bridge(bridge)
        self.settings.update(settings)
        return True

    @_kernel_call
    def change_elements(self, elements: Sequence[ElementChange]) -> bool:
        return self._change_elements(elements)

    def _make_bridge(self, bridge: Bridge) -> None:
        if self.interfaces.get(bridge.name) is None:
            self.add_interface(bridge.name, *bridge.addresses, kind="bridge")

    @_kernel_call
    def plug_new(self, wire: Wire, change: EndpointChange) -> tuple[int, bool]:
        # Of no process yet: a descriptor's number is another's once it is closed.
        self.made += 1
        done = self._plug(ProcessNetns(pid=-self.made, start_time=0), wire, change)
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), done

    @_kernel_call
    def plug(self, netns: Netns, wire: Wire, change: EndpointChange) -> bool:
        self._check_netns(netns)
        return self._plug(netns, wire, change)

    def _plug(self, netns: Netns, wire: Wire, change: EndpointChange) -> bool:
        if self._has(netns, wire.interface) or wire.host_interface in self.interfaces:
            raise Conflict("cannot attach a network namespace: File exists")
        if wire.bridge not in self.interfaces:
            raise Internal("cannot attach a network namespace: No such device")
        if wire.interface == "eth0":
            self.wires[netns] = wire
        else:
            self.further_wires[netns, wire.interface] = wire
        if wire.gateways:
            self.default_routes[netns] = wire.interface
        self.add_interface(wire.host_interface, kind="veth", master=wire.bridge)
        return self._change_elements(change.elements)

    @_kernel_call
    def loopback(self, netns: Netns) -> None:
        self._check_netns(netns)
        self.loopbacks.add(netns)

    @_kernel_call
    def tune(self, netns: Netns, settings: Mapping[str, str]) -> None:
        self._check_netns(netns)
        for path, value in settings.items():
            interface = path.split("/")[3]
            if interface not in ("all", "default", "lo") and not self._has(netns, interface):
                raise refusal(path, FileNotFoundError(errno.ENOENT, path))
            self.tuned[netns, path] = value

    def _has(self, netns: Netns, interface: str) -> bool:
        return (netns, interface) in self.further_wires or (interface == "eth0" and netns in self.wires)

    @_kernel_call
    def route(self, netns: Netns, interface: str, gateways: Sequence[IPAddress]) -> None:
        self._check_netns(netns)
        self.default_routes[netns] = interface

    @_kernel_call
    def publish(self, ports: Sequence[str], change: EndpointChange) -> bool:
        self.reflecting.update(ports)
        return self._change_elements(change.elements)

    @_kernel_call
    def replug(self, bridge: str, names: Sequence[str]) -> None:
        for name in names:
            self.interfaces[name] = replace(self.interfaces[name], master=bridge)

    @_kernel_call
    def silence(self, name: str, change: EndpointChange) -> bool:
        self.silent.add(name)
        return self._change_elements(change.elements)

    @_kernel_call
    def delete_links(self, names: Sequence[str]) -> None:
        for name in names:
            self.interfaces.pop(name, None)
            self.wires = {netns: wire for netns, wire in self.wires.items() if wire.host_interface != name}
            self.routes = [(destination, where) for destination, where in self.routes if where != name]
        there = {name: found.master for name, found in self.interfaces.items()}
        for name, master in there.items():
            if master not in there:
                self.interfaces[name] = replace(self.interfaces[name], master="")

    @_kernel_call
    def table(self, family: str, name: str) -> Sequence[Mapping[str, Any]] | None:
        found = self.tables.get(f"{family} {name}")
        return None if found is None else found.listing(name)

    @_kernel_call
    def apply(self, commands: Sequence[str]) -> None:
        tables = {name: table.copy() for name, table in self.tables.items()}
        for command in commands:
            _apply(tables, command)
        self.tables = tables

    @_kernel_call
    def forward_chains(self, *, besides: str) -> Sequence[Mapping[str, Any]]:
        return []

    @_kernel_call
    def rule_handles(self, family: str, table: str, chain: str, comments: Collection[str]) -> Sequence[int]:
        return []

    @_kernel_call
    def legacy_forward_drop(self) -> bool:
        return self.legacy_drops

    async def disturbed(
        self,
        table: str,
        bridges: Container[str],
        opened: Collection[tuple[str, str]],
        is_wanted: Callable[[str], bool],
    ) -> None:
        await self.disturbance.wait()
        self.disturbance.clear()

    def bindable(self, protocol: str, address: str, port: int) -> str | None:
        return "address already in use" if (protocol, port) in self.listening else None

    def has_ipv6(self) -> bool:
        return self.ipv6

    @asynccontextmanager
    async def choosing(self) -> AsyncIterator[None]:
        async with self.alone:
            yield

    def reserve(self, protocol: str, port: int) -> bool:
        if (protocol, port) in self.reserved_elsewhere:
            return False
        self.reserved.add((protocol, port))
        return True

    def unreserve(self, protocol: str, port: int) -> None:
        self.reserved.discard((protocol, port))

    def published_elsewhere(self, table: str, protocol: str, address: str, port: int) -> bool:
        key = f"{PROTOCOL_NUMBERS[protocol]} . {port}"
        others = [found for name, found in self.tables.items() if name.startswith("inet ") and name != f"inet {table}"]
        held = {text for found in others for text in (*found.elements["published"], *found.elements["published_any"])}
        exact = {key, f"{address} . {key}"}
        return bool(held & exact) or (address == "0.0.0.0" and any(text.endswith(f" . {key}") for text in held))

    def ephemeral_ports(self) -> range:
        return range(32768, 32778)

    def close(self) -> None:
        self.calls.append("close")

    def _change_elements(self, changes: Sequence[ElementChange]) -> bool:
        """All or none, as strict as the kernel is."""
        tables = {name: table.copy() for name, table in self.tables.items()}
        if not all(_changed(tables.get(f"{change.family} {change.table}"), change) for change in changes):
            return False
        self.tables = tables
        return True

    def _check_netns(self, netns: Netns) -> None:
        if isinstance(netns, ProcessNetns) and netns.pid in self.gone:
            raise NotFound(f"cannot attach a network namespace: no process {netns.pid}")
        if netns == HOST_NETNS:
            raise InvalidArgument("cannot attach a network namespace: it is the host's own")


class FakeTable:
    """An nftables table: chains with their rules' comments, maps with their elements."""

    def __init__(self) -> None:
        self.chains: dict[str, tuple[str, str, int]] = {}
        self.rules: dict[str, list[str]] = {}
        self.maps: dict[str, tuple[str, str]] = {}
        self.elements: dict[str, dict[str, str]] = {}

    def copy(self) -> FakeTable:
        twin = FakeTable()
        twin.chains = dict(self.chains)
        twin.rules = {name: list(rules) for name, rules in self.rules.items()}
        twin.maps = dict(self.maps)
        twin.elements = {name: dict(elements) for name, elements in self.elements.items()}
        return twin

    def listing(self, name: str) -> list[dict[str, Any]]:
        """As `nft -j list table` has it."""
        objects: list[dict[str, Any]] = [{"table": {"family": "inet", "name": name}}]
        for which, (key, value) in self.maps.items():
            target = {"map": value} if value else {}
            elements = [_listed(left, right) for left, right in self.elements[which].items()]
            listed: dict[str, Any] = {"name": which, "type": key.split(" . ")} | target
            objects.append({"map" if value else "set": {**listed, "elem": elements} if elements else listed})
        for which, (kind, hook, priority) in self.chains.items():
            objects.append({"chain": {"name": which, "type": kind, "hook": hook, "prio": priority}})
            objects += [{"rule": {"chain": which, "comment": comment}} for comment in self.rules[which]]
        return objects


def _changed(table: FakeTable | None, change: ElementChange) -> bool:
    if table is None:
        return False
    held = table.elements[change.collection]
    for key, value in change.entries.items():
        text = " . ".join(key)
        if change.delete:
            if held.pop(text, None) is None:
                return False
        elif held.setdefault(text, value) != value:
            return False
    return True


def _inside(addresses: Sequence[IPInterface], networks: Sequence[IPNetwork]) -> tuple[IPInterface, ...]:
    return tuple(address for address in addresses if any(address.ip in network for network in networks))


def _listed(key: str, value: str) -> object:
    """An element as the listing has it: pairs in a map, single parts without the word concat."""
    left = _concat(key) if " . " in key else key
    return [left, _concat(value)] if value else left


def _concat(text: str) -> dict[str, list[str]]:
    return {"concat": text.split(" . ")}


def _apply(tables: dict[str, FakeTable], command: str) -> None:
    """The part of nft(8)'s language that the networks speak, as strict as the kernel is."""
    verb, what, family, name, *rest = command.split(" ", 5)
    name = f"{family} {name}"
    if (verb, what) == ("add", "table"):
        tables.setdefault(name, FakeTable())
        return
    if name not in tables:
        raise Internal("cannot change the firewall: No such file or directory")
    if (verb, what) == ("delete", "table"):
        del tables[name]
        return
    _change(tables[name], verb, what, rest[0], rest[1] if len(rest) > 1 else "")


# Types that are spelled by an expression, as they are listed.
_UNNAMED = {
    "{ typeof iifname . ether saddr . @th,64,128": "ifname . ether_addr . integer",
    "{ typeof @th,64,128": "integer",
}


def _change(table: FakeTable, verb: str, what: str, name: str, body: str) -> None:
    match verb, what:
        case "add", "map":
            (parts,) = re.findall(r"{ type (.+) : (.+); }", body)
            table.maps[name] = parts
            table.elements.setdefault(name, {})
        case "add", "set":
            kind = body.removeprefix("{ type ").removesuffix(" }").removesuffix(" flags interval;").removesuffix(";")
            table.maps[name] = (_UNNAMED.get(kind, kind), "")
            table.elements.setdefault(name, {})
        case "add", "chain":
            ((kind, hook, priority),) = re.findall(r"type (\w+) hook (\w+) priority (-?\d+); policy accept;", body)
            table.chains[name] = (kind, hook, int(priority))
            table.rules.setdefault(name, [])
        case "add", "rule":
            table.rules[name] += re.findall(r'comment "(\w+)"$', body)
        case "flush", "chain":
            table.rules[name].clear()
        case "add", "element":
            _add_elements(table.elements[name], body.replace('"', ""))
        case "delete", "element":
            for key in body.replace('"', "").strip("{} ").split(", "):
                if key not in table.elements[name]:
                    raise Internal("cannot change the firewall: No such file or directory")
                del table.elements[name][key]
        case _:
            raise AssertionError(f"the fake does not know {verb} {what}")


def _add_elements(elements: dict[str, str], body: str) -> None:
    for element in body.strip("{} ").split(", "):
        key, _, value = element.partition(" : ")
        if elements.setdefault(key, value) != value:
            raise Conflict("cannot change the firewall: File exists")


def fake_network(instance: Instance | None = None, kernel: FakeKernel | None = None) -> BridgeNetwork:
    """The default network of `instance` on `kernel`, or on a host of its own."""
    return BridgeNetwork(instance or Instance(), kernel or FakeKernel())
