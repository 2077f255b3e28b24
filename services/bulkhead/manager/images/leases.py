"""What operations under way are using, so that nobody deletes it beneath them.

A lease lives in memory: with the process, the operations end too, and what they left unfinished is swept
by its age. Whoever deletes first condemns; a lease on something condemned waits until it is gone, and its
owner then finds it missing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from enum import Enum

from bulkhead.model.digest import Digest


class Kind(Enum):
    """What a lease can be on."""

    BLOB = "blob"
    LAYER = "layer"
    IMAGE = "image"


Key = tuple[Kind, Digest]


class Leases:
    """Who uses what."""

    def __init__(self) -> None:
        self._held: Counter[Key] = Counter()
        self._condemned: dict[Key, asyncio.Event] = {}
        self._unsettled = 0

    def is_held(self, kind: Kind, name: Digest) -> bool:
        """Whether an operation uses it."""
        return self._held[kind, name] > 0

    @property
    def has_unsettled(self) -> bool:
        """Whether blobs are coming that nobody could take a lease on."""
        return self._unsettled > 0

    @contextlib.contextmanager
    def unsettled(self) -> Iterator[None]:
        """Blobs are coming whose names are not known yet: young ones must stay."""
        self._unsettled += 1
        try:
            yield
        finally:
            self._unsettled -= 1

    @contextlib.contextmanager
    def lease(self) -> Iterator[Lease]:
        """A lease on nothing yet; left, it ends."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            lease.release()

    @contextlib.asynccontextmanager
    async def condemned(self, kind: Kind, name: Digest) -> AsyncIterator[bool]:
        """Enter to delete; False when it is in use or somebody else deletes it."""
        key = (kind, name)
        if self._held[key] > 0 or key in self._condemned:
            yield False
            return
        gone = self._condemned[key] = asyncio.Event()
        try:
            yield True
        finally:
            del self._condemned[key]
            gone.set()

    def take(self, key: Key) -> None:
        """Count one more user."""
        self._held[key] += 1

    def drop(self, key: Key) -> None:
        """Count one user less."""
        self._held[key] -= 1
        if not self._held[key]:
            del self._held[key]

    async def spared(self, key: Key) -> None:
        """Wait until nobody is deleting it."""
        while key in self._condemned:
            await self._condemned[key].wait()


@dataclass(slots=True)
class Lease:
    """What one operation uses."""

    leases: Leases
    _keys: set[Key] = field(default_factory=set)
    _ended: bool = False

    async def add(self, kind: Kind, *names: Digest) -> None:
        """Use these from now on, until the lease ends; look afterwards whether they are there."""
        for name in names:
            key = (kind, name)
            if key not in self._keys:
                self._keys.add(key)
                self.leases.take(key)
            await self.leases.spared(key)

    def names(self, kind: Kind) -> list[Digest]:
        """All that it is, or was, a lease on."""
        return [name for its_kind, name in self._keys if its_kind is kind]

    def release(self) -> None:
        """End."""
        if not self._ended:
            self._ended = True
            for key in self._keys:
                self.leases.drop(key)
