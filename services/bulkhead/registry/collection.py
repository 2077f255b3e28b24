"""When the collector runs, and what it may take: online, beside pushes and pulls, without a lock over them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from bulkhead.errors import BulkheadError
from bulkhead.registry.ports import Swept

# How long after a change the store's copy of the metadata may be behind, in seconds.
RECORD_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The collector's terms, in seconds."""

    interval: float = 3600.0
    """From the end of one round to the next; 0: only on request."""
    grace: float = 24 * 3600.0
    """What nobody asked for in so long, and nothing needs, goes. It is the longest that a push may take."""
    reader_grace: float = 3600.0
    """What goes stays readable for so long: for those who found it just before."""
    upload_ttl: float = 7 * 24 * 3600.0
    """A session that nobody continued in so long is over (docker-registry's purge age)."""
    untagged: bool = False
    """Whether manifests go that no tag, index or subject leads to."""
    orphan_interval: float = 24 * 3600.0
    """How often the store itself is searched for objects without a record."""

    @property
    def renewal(self) -> float:
        """A lease younger than this is not renewed: reading need not write each time."""
        return min(self.grace / 4, 600.0)


class Sweepable(Protocol):
    """What the collector asks of a storage."""

    async def sweep(self) -> Swept:
        """One round: leases that ended, blobs that nothing needs, tombstones that are due."""

    async def sweep_orphans(self) -> Swept:
        """Objects without a record."""

    async def save_records(self) -> int:
        """Bring the store's own copy of the metadata up to date."""


class Collector:
    """Runs rounds, one at a time. `run` owns the schedule; `collect` is a round on request."""

    def __init__(self, storage: Sweepable, policy: Policy, told: Callable[[Swept, float], None]) -> None:
        self._storage = storage
        self._policy = policy
        self._told = told
        self._turn = asyncio.Lock()
        self._log = structlog.get_logger()
        self._orphans_sought = float("-inf")

    async def run(self) -> None:
        """Collect on schedule, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._record())
            if self._policy.interval > 0:
                group.create_task(self._repeat())

    async def collect(self, *, orphans: bool = True) -> Swept:
        """One round now, after the one that may be under way."""
        async with self._turn:
            begun = time.monotonic()
            swept = await self._storage.sweep()
            if orphans:
                found = await self._storage.sweep_orphans()
                self._orphans_sought = time.monotonic()
                swept = added(swept, found)
            self._told(swept, time.monotonic() - begun)
            if swept != Swept():
                self._log.info("collected", **{name: getattr(swept, name) for name in Swept.__slots__})
            return swept

    async def _repeat(self) -> None:
        while True:
            due = time.monotonic() - self._orphans_sought >= self._policy.orphan_interval
            try:
                await self.collect(orphans=due)
            except BulkheadError as error:
                self._log.warning("collection failed", reason=str(error))
            await asyncio.sleep(self._policy.interval)

    async def _record(self) -> None:
        while True:
            try:
                await self._storage.save_records()
            except BulkheadError as error:
                self._log.warning("records not saved", reason=str(error))
            await asyncio.sleep(RECORD_SECONDS)


def added(one: Swept, other: Swept) -> Swept:
    """What both did."""
    return Swept(**{name: getattr(one, name) + getattr(other, name) for name in Swept.__slots__})
