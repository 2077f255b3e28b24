"""Which containers use a thing (a volume, a network, an image), found without a look at all containers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from bulkhead.model.container import Container


class Uses:
    """Of things of one kind; `things` tells what a container uses of them."""

    def __init__(self, things: Callable[[Container], Iterable[str]]) -> None:
        self._things = things
        self._users: dict[str, dict[str, None]] = {}

    def of(self, thing: str) -> Collection[str]:
        """Ids of those who use it, as it is now; who began first comes first."""
        return self._users.get(thing, {}).keys()

    def change(self, before: Container | None, after: Container | None) -> None:
        """Follow what has become of a container; None before it came, and after it went."""
        old = set(self._things(before)) if before is not None else set()
        new = set(self._things(after)) if after is not None else set()
        if before is not None:
            self._end(old - new, before.id)
        if after is not None:
            self._begin(new - old, after.id)

    def _begin(self, things: Iterable[str], user: str) -> None:
        for thing in things:
            self._users.setdefault(thing, {})[user] = None

    def _end(self, things: Iterable[str], user: str) -> None:
        for thing in things:
            users = self._users[thing]
            del users[user]
            if not users:
                del self._users[thing]
