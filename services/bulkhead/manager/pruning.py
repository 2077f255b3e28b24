"""Removing all stopped containers that match a filter, one prune at a time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from bulkhead.errors import BulkheadError, Conflict
from bulkhead.manager.announcements import of_prune
from bulkhead.manager.ports import Change, Records, Snapshots
from bulkhead.model.container import Container
from bulkhead.model.events import CONTAINER
from bulkhead.model.filters import PRUNE_KEYS, Filters, check_keys, fits_labels
from bulkhead.model.lifecycle import Phase
from bulkhead.model.moments import parse_moment

_PRUNED = frozenset((Phase.CREATED, Phase.EXITED, Phase.DEAD))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What went, and how many bytes of writable layers that freed."""

    ids: tuple[str, ...]
    space_reclaimed: int


@dataclass(slots=True, kw_only=True)
class Pruning:
    """Prunes containers."""

    records: Records
    snapshots: Snapshots
    remove: Callable[[str], Awaitable[None]]
    _running: bool = field(default=False, init=False)

    async def prune(self, filters: Filters) -> Pruned:
        """Remove what matches. Raises Conflict while another prune runs, InvalidArgument for a bad filter."""
        check_keys(filters, PRUNE_KEYS)
        before = [parse_moment(text, time.time_ns()) for text in filters.get("until", ())]
        if self._running:
            raise Conflict("a prune operation is already running")
        self._running = True
        try:
            return await self._remove_each([each for each in self.records.index if _matches(each, filters, before)])
        finally:
            self._running = False

    async def _remove_each(self, containers: list[Container]) -> Pruned:
        gone: list[str] = []
        space = 0
        for container in containers:
            try:
                size = await self.snapshots.usage(container.id)
                await self.remove(container.id)
            except BulkheadError:
                continue  # started or removed meanwhile
            gone.append(container.id)
            space += size
        await self.records.commit(Change(events=(of_prune(CONTAINER, space),)))
        return Pruned(ids=tuple(gone), space_reclaimed=space)


def _matches(container: Container, filters: Filters, before: list[int]) -> bool:
    if container.phase not in _PRUNED or any(container.created_at > moment for moment in before):
        return False
    return fits_labels(container.spec.labels, filters)
