"""The rights file: which users may do what to which repositories.

    [groups]
    ci = ["builder", "deployer"]

    [[rules]]
    repositories = ["team/**", "base/*"]
    users = ["alice", "anonymous"]
    groups = ["ci"]
    actions = ["pull", "push", "delete"]

What no rule allows is denied. `*` stands for any characters of one path component, `**` for any
number of components. `users` may name `*`, every user who is logged in, and `anonymous`, everybody.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import msgspec

from bulkhead.errors import InvalidArgument
from bulkhead.registry.callers import ALL, NOTHING, Action

ANONYMOUS = "anonymous"
ANY_USER = "*"
MAX_PATTERN = 255
_PATTERN = re.compile(r"[a-z0-9._*/-]+", re.ASCII)


class _Rule(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    repositories: list[str]
    users: list[str] = []
    groups: list[str] = []
    actions: list[str]


class _File(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    groups: dict[str, list[str]] = {}
    rules: list[_Rule] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One `[[rules]]`, groups replaced by their members."""

    repositories: tuple[re.Pattern[str], ...]
    users: frozenset[str]
    actions: frozenset[Action]

    def allows(self, user: str, repository: str) -> frozenset[Action]:
        """What this rule gives `user`, empty for anonymous, on `repository`."""
        named = ANONYMOUS in self.users or (user and (user in self.users or ANY_USER in self.users))
        if named and any(pattern.fullmatch(repository) for pattern in self.repositories):
            return self.actions
        return NOTHING


class Rights:
    """All rules of a file."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        # A catalog asks for each repository, a pull for the same one many times.
        self._remembered = lru_cache(maxsize=4096)(self._summed)

    def of(self, user: str, repository: str) -> frozenset[Action]:
        """What `user`, empty for anonymous, may do to `repository`."""
        return self._remembered(user, repository)

    def _summed(self, user: str, repository: str) -> frozenset[Action]:
        return NOTHING.union(*(rule.allows(user, repository) for rule in self._rules))


def parse(data: bytes) -> Rights:
    """The rights that a file's bytes give; raises InvalidArgument."""
    import tomllib  # few registries have such a file

    try:
        written = msgspec.convert(tomllib.loads(data.decode()), _File, strict=True)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InvalidArgument(str(error)) from error
    for group, members in written.groups.items():
        _check_names(f"group {group!r}", members)
    return Rights(tuple(_rule(number, rule, written.groups) for number, rule in enumerate(written.rules, 1)))


def _rule(number: int, rule: _Rule, groups: dict[str, list[str]]) -> Rule:
    unknown = [name for name in rule.groups if name not in groups]
    if unknown:
        raise InvalidArgument(f"rule {number}: there is no group {unknown[0]!r}")
    members = [member for name in rule.groups for member in groups[name]]
    _check_names(f"rule {number}", rule.users)
    if ANONYMOUS in members or ANY_USER in members:
        raise InvalidArgument(f"rule {number}: only `users` may name {ANY_USER!r} and {ANONYMOUS!r}")
    try:
        actions = ALL if "*" in rule.actions else frozenset(Action(action) for action in rule.actions)
    except ValueError as error:
        raise InvalidArgument(f"rule {number}: actions are pull, push, delete and *: {error}") from error
    return Rule(
        repositories=tuple(_pattern(number, text) for text in rule.repositories),
        users=frozenset([*rule.users, *members]),
        actions=actions,
    )


def _check_names(where: str, names: list[str]) -> None:
    if "" in names:
        raise InvalidArgument(f"{where}: an empty name")


def _pattern(number: int, text: str) -> re.Pattern[str]:
    """A pattern as a regular expression that cannot be made slow: one star per component, or two alone."""
    components = text.split("/")
    if len(text) > MAX_PATTERN or not _PATTERN.fullmatch(text) or "" in components:
        raise InvalidArgument(f"rule {number}: {text!r} is not a pattern of repository names")
    if components.count("**") > 2 or any(part != "**" and part.count("*") > 1 for part in components):
        raise InvalidArgument(f"rule {number}: too many stars in {text!r}")
    return re.compile("/".join(map(_component, components)).replace("(?:.+)/", "(?:.+/)?"))


def _component(part: str) -> str:
    return "(?:.+)" if part == "**" else "[^/]*".join(re.escape(piece) for piece in part.split("*"))
