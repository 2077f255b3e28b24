"""nftables tables as data: what one should hold, what it does hold, and what must change.

Pure. A rule is recognised by a digest of its text in its comment, so a table can be compared with
what it should be. Chains, maps and sets are changed where they differ, in one transaction; what is
right already is never out of service.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bulkhead.manager.networks.ports import ElementChange
from bulkhead.model.network import PROTOCOL_NUMBERS
from bulkhead.model.replacing import replace

Key = tuple[str, ...]
# By collection: each element's key, and its value in a map or "" in a set.
Elements = Mapping[str, Mapping[Key, str]]
Keys = Mapping[str, Collection[Key]]
_NONE: Keys = MappingProxyType({})
_PROTOCOL_NAMES = {name: str(number) for name, number in PROTOCOL_NUMBERS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What a table holds: rules by chain as digests in order, elements by map or set.

    `hooks` are (type, hook, priority) by chain, `types` (key, value or "" for a set) by collection.
    `text` spells the rules by digest, `spelled` types that have no name, `intervals` are the sets of networks, in a
    table as it should be.
    """

    family: str
    name: str
    hooks: Mapping[str, tuple[str, str, int]]
    types: Mapping[str, tuple[str, str]]
    rules: Mapping[str, tuple[str, ...]]
    elements: Elements
    text: Mapping[str, str] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)
    intervals: frozenset[str] = frozenset()

    @property
    def path(self) -> str:
        return f"{self.family} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A kind of table: everything but its rules' subjects and its elements."""

    family: str
    hooks: Mapping[str, tuple[str, str, int]]
    types: Mapping[str, tuple[str, str]]
    spelled: Mapping[str, str] = field(default_factory=dict)
    # Sets whose elements have a part that is a network ("10.0.0.0/24"), which holds all its addresses.
    intervals: frozenset[str] = frozenset()

    def table(self, name: str, rules: Mapping[str, Sequence[str]], elements: Iterable[Elements]) -> Table:
        """A table of this kind as it should be, with all of `elements`."""
        held: dict[str, dict[Key, str]] = {collection: {} for collection in self.types}
        for some in elements:
            for collection, entries in some.items():
                held[collection].update(entries)
        return Table(
            family=self.family,
            name=name,
            hooks=self.hooks,
            types=self.types,
            rules={chain: tuple(_digest(rule) for rule in rules[chain]) for chain in self.hooks},
            elements=held,
            text={_digest(rule): rule for chain in rules.values() for rule in chain},
            spelled=self.spelled,
            intervals=self.intervals,
        )

    def additions(self, name: str, elements: Elements) -> list[ElementChange]:
        """Add elements to a table of this kind. The kernel refuses what contradicts one that is there."""
        return [self._change(name, collection, held) for collection, held in elements.items() if held]

    def removals(self, name: str, elements: Elements) -> list[ElementChange]:
        """Remove elements; no error for those that are gone.

        Each is added before it is deleted, because the kernel refuses to delete what is not there
        (and `destroy`, which does not mind, is newer than the systems we run on).
        """
        added = self.additions(name, elements)
        return [step for change in added for step in (change, replace(change, delete=True))]

    def _change(self, name: str, collection: str, held: Mapping[Key, str]) -> ElementChange:
        key_type, value_type = self.types[collection]
        return ElementChange(
            family=self.family,
            table=name,
            collection=collection,
            key_type=key_type,
            value_type=value_type,
            entries=held,
            interval=collection in self.intervals,
        )


def actual(family: str, name: str, objects: Sequence[Mapping[str, Any]] | None) -> Table | None:
    """The table as the kernel lists it (libnftables-json(5)); None without one."""
    if objects is None:
        return None
    chains = [item["chain"] for item in objects if "chain" in item]
    collections = [item[kind] for item in objects for kind in ("map", "set") if kind in item]
    rules: dict[str, list[str]] = {chain["name"]: [] for chain in chains}
    for item in objects:
        if "rule" in item:
            rules[item["rule"]["chain"]].append(item["rule"].get("comment", ""))
    return Table(
        family=family,
        name=name,
        hooks={chain["name"]: (chain.get("type", ""), chain.get("hook", ""), chain.get("prio", 0)) for chain in chains},
        types={found["name"]: (_kind(found["type"]), _kind(found.get("map", ""))) for found in collections},
        rules={chain: tuple(found) for chain, found in rules.items()},
        elements={found["name"]: _listed_elements(found) for found in collections},
    )


def keys(elements: Iterable[Elements]) -> dict[str, set[Key]]:
    """All of their keys, by collection."""
    found: dict[str, set[Key]] = {}
    for some in elements:
        for collection, held in some.items():
            found.setdefault(collection, set()).update(held)
    return found


def joined(elements: Iterable[Elements]) -> dict[str, dict[Key, str]]:
    """All of them as one's."""
    found: dict[str, dict[Key, str]] = {}
    for some in elements:
        for collection, held in some.items():
            found.setdefault(collection, {}).update(held)
    return found


def besides(elements: Elements, others: Elements) -> Elements:
    """Those that are not, with these values, among the others."""
    return {
        collection: dict(held.items() - others.get(collection, {}).items()) for collection, held in elements.items()
    }


def changes(wanted: Table, found: Table | None, *, prune: bool, spared: Keys = _NONE) -> list[str]:
    """The commands, one transaction, that turn `found` into `wanted`; none when they agree.

    Without `prune` elements that nobody wants stay: their owners may not be known yet. Those of `spared` stay as they
    are found, in a table that stays.
    """
    if found is None:
        return [*_frame(wanted), *_fill(wanted, wanted.elements)]
    if found.hooks != wanted.hooks or _types_differ(wanted, found):
        # Another version's table: replaced as one, so no packet sees a moment without it.
        kept = {} if prune else {name: held for name, held in found.elements.items() if _is_alike(name, wanted, found)}
        elements = {name: {**kept.get(name, {}), **held} for name, held in wanted.elements.items()}
        return [f"delete table {wanted.path}", *_frame(wanted), *_fill(wanted, elements)]
    return [*_rule_changes(wanted, found), *_element_changes(wanted, found, prune=prune, spared=spared)]


def _is_alike(collection: str, wanted: Table, found: Table) -> bool:
    """Whether what is in it can be in that of the same name."""
    unnamed = collection in wanted.spelled
    return collection in wanted.types and (unnamed or wanted.types[collection] == found.types[collection])


def _types_differ(wanted: Table, found: Table) -> bool:
    """Types without a name of their own are listed in other ways by other versions."""
    unnamed = wanted.spelled if wanted.types.keys() == found.types.keys() else {}
    return any(found.types.get(name) != kind for name, kind in wanted.types.items() if name not in unnamed) or (
        wanted.types.keys() != found.types.keys()
    )


def _frame(wanted: Table) -> list[str]:
    commands = [f"add table {wanted.path}"]
    for name, (key, value) in wanted.types.items():
        if value:
            commands.append(f"add map {wanted.path} {name} {{ type {key} : {value}; }}")
        else:
            flags = " flags interval;" if name in wanted.intervals else ""
            commands.append(f"add set {wanted.path} {name} {{ {wanted.spelled.get(name, f'type {key}')};{flags} }}")
    for name, (kind, hook, priority) in wanted.hooks.items():
        commands.append(
            f"add chain {wanted.path} {name} {{ type {kind} hook {hook} priority {priority}; policy accept; }}"
        )
        commands += _add_rules(wanted, name)
    return commands


def _fill(wanted: Table, elements: Elements) -> list[str]:
    return [_add(wanted, name, held) for name, held in elements.items() if held]


def _rule_changes(wanted: Table, found: Table) -> list[str]:
    commands = []
    for chain, rules in wanted.rules.items():
        if found.rules[chain] != rules:
            commands += [f"flush chain {wanted.path} {chain}", *_add_rules(wanted, chain)]
    return commands


def _element_changes(wanted: Table, found: Table, *, prune: bool, spared: Keys) -> list[str]:
    commands = []
    for name in wanted.elements:
        right, there = (_without(table.elements[name], spared.get(name, ())) for table in (wanted, found))
        wrong = {key: value for key, value in there.items() if right.get(key, None if prune else value) != value}
        missing = {key: value for key, value in right.items() if there.get(key) != value}
        commands += [_delete(wanted, name, wrong)] if wrong else []
        commands += [_add(wanted, name, missing)] if missing else []
    return commands


def _without(held: Mapping[Key, str], spared: Collection[Key]) -> Mapping[Key, str]:
    return {key: value for key, value in held.items() if key not in spared} if spared else held


def _add_rules(wanted: Table, chain: str) -> list[str]:
    return [
        f'add rule {wanted.path} {chain} {wanted.text[digest]} comment "{digest}"' for digest in wanted.rules[chain]
    ]


def _add(table: Table, name: str, held: Mapping[Key, str]) -> str:
    pairs = zip(_spelt(table, name, held), held.values(), strict=True)
    listed = (f"{key} : {value}" if value else key for key, value in pairs)
    return f"add element {table.path} {name} {{ {', '.join(listed)} }}"


def _delete(table: Table, name: str, held: Mapping[Key, str]) -> str:
    return f"delete element {table.path} {name} {{ {', '.join(_spelt(table, name, held))} }}"


def _spelt(table: Table, name: str, held: Iterable[Key]) -> list[str]:
    """Keys as nft(8) reads them: users name bridges as they like, words of its language included."""
    kinds = table.types[name][0].split(" . ")
    pattern = " . ".join('"{}"' if kind == "ifname" else "{}" for kind in kinds)
    return [pattern.format(*key) for key in held]


def _digest(rule: str) -> str:
    return hashlib.sha256(rule.encode()).hexdigest()[:12]


def _kind(kind: object) -> str:
    """A type as the listing has it: a name, a list of them, or already joined."""
    return " . ".join(str(part) for part in kind) if isinstance(kind, list) else str(kind)


def _listed_elements(found: Mapping[str, Any]) -> dict[Key, str]:
    """A map lists pairs, a set keys."""
    if "map" in found:
        return {_parts(key): " . ".join(_parts(value)) for key, value in found.get("elem", ())}
    return {_parts(key): "" for key in found.get("elem", ())}


def _parts(value: object) -> Key:
    """The parts of a key or value as the listing has it: one scalar or network, or several concatenated."""
    if isinstance(value, dict) and "elem" in value:
        return _parts(value["elem"]["val"])
    parts = value["concat"] if isinstance(value, dict) and "concat" in value else [value]
    return tuple(_part(part) for part in parts)


def _part(part: object) -> str:
    if isinstance(part, dict) and "prefix" in part:
        return f"{part['prefix']['addr']}/{part['prefix']['len']}"
    return _PROTOCOL_NAMES.get(str(part), str(part))
