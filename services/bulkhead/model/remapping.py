"""How the users of a container that is remapped are users of the host (user_namespaces(7))."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRange:
    """`count` ids from `inside` on, which are those from `outside` on to the host."""

    inside: int
    outside: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remapping:
    """The ids of users and those of groups."""

    uids: tuple[IdRange, ...]
    gids: tuple[IdRange, ...]

    @property
    def root(self) -> tuple[int, int]:
        """The host's ids of root in the container."""
        return self.uids[0].outside, self.gids[0].outside


def in_sequence(granted: Iterable[tuple[int, int]]) -> tuple[IdRange, ...]:
    """The container's ids from 0 on, taken from ranges of the host's (first, count), one after the other."""
    found = list[IdRange]()
    inside = 0
    for outside, count in granted:
        found.append(IdRange(inside=inside, outside=outside, count=count))
        inside += count
    return tuple(found)
