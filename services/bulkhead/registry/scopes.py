"""Scopes: what a token is asked to allow, and allows (`repository:team/app:pull,push`)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from bulkhead.registry.callers import ALL, Action

REPOSITORY = "repository"
CATALOG = ("registry", "catalog")
MAX_SCOPES = 64
_CLASS = re.compile(r"\([a-z0-9]+\)\Z", re.ASCII)


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a token's `access` claim."""

    type: str
    name: str
    actions: list[str]

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{','.join(self.actions)}"


def parse(texts: Iterable[str]) -> list[Access]:
    """The scopes in query or form values, each of which may hold several; what is no scope is left out."""
    words = [word for text in texts for word in text.split()]
    return [scope for word in words[:MAX_SCOPES] if (scope := _parsed(word)) is not None]


def _parsed(word: str) -> Access | None:
    # A name may hold a colon (a host's port): types and actions cannot.
    kind, _, rest = word.partition(":")
    name, _, actions = rest.rpartition(":")
    if not kind or not name or not actions:
        return None
    return Access(type=_CLASS.sub("", kind), name=name, actions=actions.split(","))


def granted(asked: Iterable[Access], rights: Callable[[str], frozenset[Action]], *, catalog: bool) -> list[Access]:
    """Of what is asked for what the asker may have; nothing is no error."""
    found = []
    for scope in asked:
        actions = _allowed(scope, rights, catalog)
        if actions:
            found.append(Access(type=scope.type, name=scope.name, actions=actions))
    return found


def _allowed(scope: Access, rights: Callable[[str], frozenset[Action]], catalog: bool) -> list[str]:
    if scope.type == REPOSITORY:
        wanted = ALL if "*" in scope.actions else frozenset(scope.actions)
        return sorted(wanted & rights(scope.name))
    if (scope.type, scope.name) == CATALOG and catalog:
        return ["*"]
    return []


def rights_of(access: Iterable[Access]) -> Callable[[str], frozenset[Action]]:
    """What a token with these entries allows on a repository."""
    by_name: dict[str, frozenset[Action]] = {}
    for entry in access:
        if entry.type == REPOSITORY:
            actions = ALL if "*" in entry.actions else frozenset(a for a in Action if a.value in entry.actions)
            by_name[entry.name] = by_name.get(entry.name, frozenset()) | actions
    return lambda repository: by_name.get(repository, frozenset())


def has_catalog(access: Iterable[Access]) -> bool:
    """Whether a token allows to list the repositories."""
    return any((entry.type, entry.name) == CATALOG and "*" in entry.actions for entry in access)
