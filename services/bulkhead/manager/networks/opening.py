"""Other firewalls on the path of forwarded packets: which drop by default, and what lets our bridges through there.

What one table accepts another may still drop, so an engine beside dockerd, ufw or firewalld is cut off unless theirs
accepts its bridges. Two rules for each bridge do, at the head of such a chain, or in DOCKER-USER where that is: the
place that dockerd leaves to others. Our own table has isolated the bridges already, and what it drops stays dropped.
The rules are spelt as iptables-nft spells them, so that `iptables -S` reads them.

Pure. Chains and rules are libnftables-json(5)'s objects.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

USERS_CHAIN = "DOCKER-USER"
# A chain of another family is not on this path (bridge), or not nftables' at all.
_OPENED_FAMILIES = frozenset(("ip", "ip6", "inet"))
_DIRECTIONS = {"from": "iifname", "to": "oifname"}
_INCIDENTAL = frozenset(("counter", "log"))
_FINAL = frozenset(("drop", "reject"))

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardChain:
    """A base chain at the hook forward: `rules` are its own and those of `place`, where rules of ours belong."""

    family: str
    table: str
    name: str
    place: str
    drops: bool
    rules: tuple[Json, ...]

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"

    @property
    def can_open(self) -> bool:
        return self.family in _OPENED_FAMILIES

    @property
    def key(self) -> tuple[str, str, str]:
        """Where rules of ours stand, if any do."""
        return self.family, self.table, self.place


def chains(listed: Iterable[Json], *, besides: str) -> list[ForwardChain]:
    """The forward chains among listed chains and their rules, but those of the table `besides`."""
    objects = list(listed)
    found = [item["chain"] for item in objects if "chain" in item]
    rules = [item["rule"] for item in objects if "rule" in item]
    names = {(chain["family"], chain["table"], chain["name"]) for chain in found}
    bases = [chain for chain in found if chain.get("hook") == "forward" and chain["table"] != besides]
    return [_forward_chain(chain, names, rules) for chain in bases]


def changes(chain: ForwardChain, mark: str, bridges: Sequence[str]) -> list[str]:
    """The commands that make the chain accept exactly these bridges; rules that begin with `mark` are ours."""
    wanted = {_comment(mark, way, bridge): (way, bridge) for bridge in bridges for way in _DIRECTIONS}
    path = f"{chain.family} {chain.table}"
    commands: list[str] = []
    present: set[str] = set()
    for rule in chain.rules:
        comment = str(rule.get("comment", ""))
        if not comment.startswith(mark):
            continue
        if comment in wanted and comment not in present and rule["chain"] == chain.place:
            present.add(comment)
        else:
            commands.append(f"delete rule {path} {rule['chain']} handle {rule['handle']}")
    missing = [each for comment, each in wanted.items() if comment not in present]
    return [*commands, *(_addition(chain, mark, way, bridge) for way, bridge in missing)]


def additions(chain: ForwardChain, mark: str, bridge: str) -> list[str]:
    """The commands that make the chain accept one bridge more."""
    return [_addition(chain, mark, way, bridge) for way in _DIRECTIONS]


def comments(mark: str, bridge: str) -> list[str]:
    """By which the rules for a bridge are known."""
    return [_comment(mark, way, bridge) for way in _DIRECTIONS]


def removals(chain: ForwardChain, handles: Iterable[int]) -> list[str]:
    """The commands that take these rules away from the place of ours."""
    return [f"delete rule {chain.family} {chain.table} {chain.place} handle {handle}" for handle in handles]


def is_wanted(comment: str, mark: str, bridges: Container[str]) -> bool:
    """Whether a rule is another's, or lets one of these bridges through."""
    return not comment.startswith(mark) or comment.removeprefix(mark).partition(" ")[2] in bridges


def _forward_chain(chain: Json, names: set[tuple[str, str, str]], rules: Sequence[Json]) -> ForwardChain:
    family, table, name = chain["family"], chain["table"], chain["name"]
    here = [rule for rule in rules if (rule["family"], rule["table"]) == (family, table)]
    own = [rule for rule in here if rule["chain"] == name]
    asks_users = (family, table, USERS_CHAIN) in names and any(_jumps(rule, USERS_CHAIN) for rule in own)
    return ForwardChain(
        family=family,
        table=table,
        name=name,
        place=USERS_CHAIN if asks_users else name,
        drops=chain.get("policy") == "drop" or bool(own and _is_only(own[-1], _FINAL)),
        rules=tuple(rule for rule in here if rule["chain"] in (name, USERS_CHAIN)),
    )


def _jumps(rule: Json, target: str) -> bool:
    return any(part.get("jump", {}).get("target") == target for part in rule.get("expr", ()) if "jump" in part)


def _where(chain: ForwardChain) -> str:
    """Where a rule goes: first of a base chain; in the users' chain after what users put there."""
    path = f"{chain.family} {chain.table} {chain.place}"
    if chain.place == chain.name:
        return f"insert rule {path}"
    last = next((rule for rule in reversed(chain.rules) if rule["chain"] == chain.place), None)
    if last is not None and _is_only(last, frozenset(("return",))):
        return f"insert rule {path} handle {last['handle']}"
    return f"add rule {path}"


def _is_only(rule: Json, verdicts: frozenset[str]) -> bool:
    """Whether a rule gives one of the verdicts to whatever reaches it."""
    kinds = {kind for part in rule.get("expr", ()) for kind in part} - _INCIDENTAL
    return len(kinds) == 1 and kinds <= verdicts


def _addition(chain: ForwardChain, mark: str, way: str, bridge: str) -> str:
    return f'{_where(chain)} {_DIRECTIONS[way]} "{bridge}" counter accept comment "{_comment(mark, way, bridge)}"'


def _comment(mark: str, way: str, bridge: str) -> str:
    return f"{mark}{way} {bridge}"
