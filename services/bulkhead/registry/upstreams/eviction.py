"""What leaves the cache: what was not asked for longest once there is too much, and what is too old."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from bulkhead.content.store import Stored
from bulkhead.errors import BulkheadError
from bulkhead.model.digest import Digest
from bulkhead.registry.upstreams.tables import CacheTable
from bulkhead.registry.upstreams.upstream import Cache

# What was asked for in the last moments is about to be read.
GRACE_SECONDS = 60.0
# The beginning of a blob that nobody asked for since is dropped after so long.
PARTIAL_SECONDS = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Evicted:
    """What one round removed."""

    blobs: int = 0
    bytes: int = 0


class Evictor:
    """Removes by the terms of `[registry.cache]`; readers of what goes keep what they have open."""

    def __init__(self, cache: Cache, table: CacheTable, clock: Callable[[], float] = time.time) -> None:
        self._cache = cache
        self._table = table
        self._clock = clock

    async def run(self) -> None:
        """A round every so often, until cancelled."""
        while True:
            try:
                await self.evict()
            except BulkheadError as error:
                structlog.get_logger().warning("cache not swept", reason=str(error))
            await asyncio.sleep(self._table.interval_seconds)

    async def evict(self) -> Evicted:
        """One round. Raises Internal when the disk does."""
        await self._drop_partials()
        chosen = await self._cache.blocking.run(self._choose)
        done = Evicted()
        for stored in chosen:
            # Metadata first: bytes without it are only dead weight, which the next round finds.
            await self._cache.blocking.run(self._cache.index.forget, [stored.digest])
            if await self._cache.store.delete(stored.digest):
                done = Evicted(blobs=done.blobs + 1, bytes=done.bytes + stored.size)
        if done.blobs:
            structlog.get_logger().info("cache swept", blobs=done.blobs, bytes=done.bytes)
        return done

    def _choose(self) -> list[Stored]:
        uses, now = self._cache.index.uses(), self._clock()
        aged = sorted(((self._used(stored, uses), stored) for stored in self._cache.store.list()), key=_by_age)
        total = sum(stored.size for _, stored in aged)
        goal = self._table.low_bytes if total > self._table.high_bytes else total
        oldest = now - self._table.max_days * 86400 if self._table.max_days else 0.0
        chosen = []
        for used, stored in aged:
            if used > now - GRACE_SECONDS or (total <= goal and used >= oldest):
                break
            if stored.digest not in self._cache.fills:
                chosen.append(stored)
                total -= stored.size
        return chosen

    def _used(self, stored: Stored, uses: dict[str, float]) -> float:
        used = uses.get(str(stored.digest))
        if used is not None:
            return used
        try:
            return stored.path.stat().st_mtime
        except FileNotFoundError:
            return self._clock()

    async def _drop_partials(self) -> None:
        for digest, _ in await self._cache.blocking.run(self._old_partials):
            if digest not in self._cache.fills:
                await self._cache.store.delete_partial(digest)

    def _old_partials(self) -> list[tuple[Digest, int]]:
        before = self._clock() - PARTIAL_SECONDS
        store = self._cache.store
        return [(digest, size) for digest, size in store.partials() if store.partial_time(digest) < before]


def _by_age(entry: tuple[float, Stored]) -> tuple[float, str]:
    return entry[0], str(entry[1].digest)
