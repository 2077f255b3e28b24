"""The firewall of the networks: what the nftables table holds, and what must change for it to.

    table inet <name>
      published      address . protocol . port -> container address . port   one host address
      published_any  protocol . port           -> container address . port   every host address
      guard          what comes from a bridge never claims to be, or reaches, the host's loopback
      prerouting     published ports for packets that arrive
      output         published ports for the host's own packets, localhost included
      postrouting    containers leave under the host's address; loopback clients get the gateway's
      forward        into a bridge: answers, its own containers, published ports; nothing else

Pure. A rule is recognised by a digest of its text in its comment, so the table can be compared with
what it should be. Chains and maps are changed where they differ, in one transaction; the ports of
running containers are never out of service.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from bulkhead.manager.networks.ports import Bridge
from bulkhead.model.network import PROTOCOL_NUMBERS, WILDCARD, Endpoint

Key = tuple[str, ...]
Elements = Mapping[str, Mapping[Key, str]]
_MAPS = {
    "published": ("ipv4_addr . inet_proto . inet_service", "ipv4_addr . inet_service"),
    "published_any": ("inet_proto . inet_service", "ipv4_addr . inet_service"),
}
_HOOKS = {
    "guard": ("filter", "prerouting", -300),
    "prerouting": ("nat", "prerouting", -100),
    "output": ("nat", "output", -100),
    "postrouting": ("nat", "postrouting", 100),
    "forward": ("filter", "forward", 0),
}
_DNAT = (
    "meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @published",
    "meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @published_any",
)
_TO_LOOPBACK = "ip daddr 127.0.0.0/8"
_PROTOCOL_NAMES = {name: str(number) for name, number in PROTOCOL_NUMBERS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What a table holds: rules by chain as digests in order, elements by map."""

    name: str
    hooks: Mapping[str, tuple[str, str, int]]
    rules: Mapping[str, tuple[str, ...]]
    maps: Mapping[str, tuple[str, str]]
    elements: Elements
    text: Mapping[str, str] = field(default_factory=dict)


def desired(name: str, bridges: Sequence[Bridge], endpoints: Iterable[Endpoint]) -> Table:
    """The table as it should be for these bridges and live endpoints."""
    rules = _rules(bridges)
    text = {_digest(rule): rule for chain in rules.values() for rule in chain}
    held: dict[str, dict[Key, str]] = {name: {} for name in _MAPS}
    for endpoint in endpoints:
        for where, elements in elements_of(endpoint).items():
            held[where].update(elements)
    return Table(
        name=name,
        hooks=_HOOKS,
        rules={chain: tuple(_digest(rule) for rule in chain_rules) for chain, chain_rules in rules.items()},
        maps=_MAPS,
        elements=held,
        text=text,
    )


def actual(name: str, objects: Sequence[Mapping[str, Any]] | None) -> Table | None:
    """The table as the kernel lists it (libnftables-json(5)); None without one."""
    if objects is None:
        return None
    chains = [item["chain"] for item in objects if "chain" in item]
    maps = [item["map"] for item in objects if "map" in item]
    sets = [item["set"] for item in objects if "set" in item]
    rules: dict[str, list[str]] = {chain["name"]: [] for chain in chains}
    for item in objects:
        if "rule" in item:
            rules[item["rule"]["chain"]].append(item["rule"].get("comment", ""))
    return Table(
        name=name,
        hooks={chain["name"]: (chain.get("type", ""), chain.get("hook", ""), chain.get("prio", 0)) for chain in chains},
        rules={chain: tuple(found) for chain, found in rules.items()},
        maps={found["name"]: (_kind(found["type"]), _kind(found.get("map", ""))) for found in (*maps, *sets)},
        elements={found["name"]: _elements(found) for found in maps},
    )


def changes(wanted: Table, found: Table | None, *, prune: bool) -> list[str]:
    """The commands, one transaction, that turn `found` into `wanted`; none when they agree.

    Without `prune` elements that nobody wants stay: their owners may not be known yet.
    """
    if found is None:
        return [*_frame(wanted), *_fill(wanted, wanted.elements)]
    if found.hooks != wanted.hooks or found.maps != wanted.maps:
        # Another version's table: replaced as one, so no packet sees a moment without it.
        kept = {} if prune else {name: held for name, held in found.elements.items() if name in wanted.maps}
        elements = {name: {**kept.get(name, {}), **held} for name, held in wanted.elements.items()}
        return [f"delete table inet {wanted.name}", *_frame(wanted), *_fill(wanted, elements)]
    return [*_rule_changes(wanted, found), *_element_changes(wanted, found, prune=prune)]


def additions(table: str, endpoint: Endpoint) -> list[str]:
    """Publish the endpoint's ports. The kernel refuses what contradicts an element that is there."""
    return [_add(table, name, held) for name, held in elements_of(endpoint).items() if held]


def removals(table: str, endpoint: Endpoint) -> list[str]:
    """Publish the endpoint's ports no more; no error for those that are gone.

    Each is added before it is deleted, because the kernel refuses to delete what is not there (and
    `destroy`, which does not mind, is newer than the systems we run on).
    """
    commands = []
    for name, held in elements_of(endpoint).items():
        if held:
            commands += [_add(table, name, held), _delete(table, name, held)]
    return commands


def elements_of(endpoint: Endpoint) -> dict[str, dict[Key, str]]:
    """The map elements that publish an endpoint's ports."""
    held: dict[str, dict[Key, str]] = {name: {} for name in _MAPS}
    address = IPv4Address(endpoint.address)
    for port in endpoint.ports:
        key = (str(PROTOCOL_NUMBERS[port.protocol]), str(port.host_port))
        target = f"{address} . {port.container_port}"
        host = IPv4Address(port.host_ip)
        if host == WILDCARD:
            held["published_any"][key] = target
        else:
            held["published"][(str(host), *key)] = target
    return held


def _rules(bridges: Sequence[Bridge]) -> dict[str, list[str]]:
    rules: dict[str, list[str]] = {
        "guard": [],
        # A neighbour may send anything: only the host itself reaches what is published on 127.0.0.1.
        "prerouting": [f"{_TO_LOOPBACK} return", *_DNAT],
        "output": [*_DNAT],
        "postrouting": [],
        "forward": ["ct state established,related accept"],
    }
    for bridge in bridges:
        name, subnet = f'"{bridge.name}"', bridge.subnet
        # route_localnet opens both directions; the guard closes the one that nobody needs.
        rules["guard"] += [f"iifname {name} {_TO_LOOPBACK} drop", f"iifname {name} ip saddr 127.0.0.0/8 drop"]
        rules["postrouting"] += [
            f"oifname != {name} ip saddr {subnet} masquerade",
            f"oifname {name} ip saddr 127.0.0.0/8 masquerade",
            # A container calls a published port of its own network: the answer must come back through us.
            f"oifname {name} ip saddr {subnet} ct status dnat masquerade",
        ]
        rules["forward"] += [
            f"iifname {name} oifname {name} accept",
            f"oifname {name} ct status dnat accept",
            f"oifname {name} drop",
        ]
    return rules


def _frame(wanted: Table) -> list[str]:
    table = f"inet {wanted.name}"
    commands = [f"add table {table}"]
    for name, (key, value) in wanted.maps.items():
        commands.append(f"add map {table} {name} {{ type {key} : {value}; }}")
    for name, (kind, hook, priority) in wanted.hooks.items():
        commands.append(f"add chain {table} {name} {{ type {kind} hook {hook} priority {priority}; policy accept; }}")
        commands += _add_rules(wanted, name)
    return commands


def _fill(wanted: Table, elements: Elements) -> list[str]:
    return [_add(wanted.name, name, held) for name, held in elements.items() if held]


def _rule_changes(wanted: Table, found: Table) -> list[str]:
    commands = []
    for chain, rules in wanted.rules.items():
        if found.rules[chain] != rules:
            commands += [f"flush chain inet {wanted.name} {chain}", *_add_rules(wanted, chain)]
    return commands


def _element_changes(wanted: Table, found: Table, *, prune: bool) -> list[str]:
    commands = []
    for name, right in wanted.elements.items():
        there = found.elements[name]
        wrong = {key: value for key, value in there.items() if right.get(key, None if prune else value) != value}
        missing = {key: value for key, value in right.items() if there.get(key) != value}
        commands += [_delete(wanted.name, name, wrong)] if wrong else []
        commands += [_add(wanted.name, name, missing)] if missing else []
    return commands


def _add_rules(wanted: Table, chain: str) -> list[str]:
    return [
        f'add rule inet {wanted.name} {chain} {wanted.text[digest]} comment "{digest}"'
        for digest in wanted.rules[chain]
    ]


def _add(table: str, name: str, held: Mapping[Key, str]) -> str:
    listed = ", ".join(f"{' . '.join(key)} : {value}" for key, value in held.items())
    return f"add element inet {table} {name} {{ {listed} }}"


def _delete(table: str, name: str, held: Mapping[Key, str]) -> str:
    return f"delete element inet {table} {name} {{ {', '.join(' . '.join(key) for key in held)} }}"


def _digest(rule: str) -> str:
    return hashlib.sha256(rule.encode()).hexdigest()[:12]


def _kind(kind: object) -> str:
    """A type as the listing has it: a name, a list of them, or already joined."""
    return " . ".join(str(part) for part in kind) if isinstance(kind, list) else str(kind)


def _elements(found: Mapping[str, Any]) -> dict[Key, str]:
    return {_concatenation(key): " . ".join(_concatenation(value)) for key, value in found.get("elem", ())}


def _concatenation(parts: Mapping[str, Any]) -> Key:
    if "elem" in parts:
        return _concatenation(parts["elem"]["val"])
    return tuple(_PROTOCOL_NAMES.get(str(part), str(part)) for part in parts["concat"])
