"""Listing volumes by filters, and removing those that no container uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bulkhead.errors import BulkheadError, Conflict
from bulkhead.manager.announcements import of_prune
from bulkhead.manager.ports import Change
from bulkhead.manager.volumes.catalogue import Volumes
from bulkhead.model.filters import Filters, boolean, check_keys, fits_labels, matches_labels
from bulkhead.model.patterns import Search
from bulkhead.model.volume import Volume

LIST_KEYS = frozenset(("dangling", "driver", "label", "name"))
PRUNE_KEYS = frozenset(("label", "label!", "all"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What went, and how many bytes its files took."""

    names: tuple[str, ...]
    space_reclaimed: int


@dataclass(slots=True, kw_only=True)
class VolumePruning:
    """Selects volumes, prunes them."""

    volumes: Volumes
    _running: bool = field(default=False, init=False)

    def select(self, filters: Filters) -> list[Volume]:
        """The volumes that match, by name. Raises InvalidArgument for a bad filter."""
        check_keys(filters, LIST_KEYS)
        dangling = boolean(filters, "dangling")
        found = sorted(self.volumes.records.volumes.values(), key=lambda each: each.name)
        search = Search()
        return [
            each
            for each in found
            if _matches(each, filters, search) and dangling in (None, not self.volumes.users(each.name))
        ]

    async def prune(self, filters: Filters) -> Pruned:
        """Remove unused anonymous volumes, with `all` the named ones too; as dockerd, none that was made with options.

        Raises Conflict while another prune runs, InvalidArgument for a bad filter.
        """
        check_keys(filters, PRUNE_KEYS)
        every = boolean(filters, "all") or False
        if self._running:
            raise Conflict("a prune operation is already running")
        self._running = True
        try:
            return await self._remove_each(self._unused(filters, every=every))
        finally:
            self._running = False

    def _unused(self, filters: Filters, *, every: bool) -> list[Volume]:
        return [
            volume
            for volume in self.volumes.records.volumes.values()
            if volume.is_ours and not self.volumes.users(volume.name)
            if (every or volume.anonymous) and fits_labels(volume.labels, filters)
        ]

    async def _remove_each(self, volumes: Sequence[Volume]) -> Pruned:
        gone, space = list[str](), 0
        for volume in volumes:
            try:
                size = await self.volumes.size(volume.name)
                await self.volumes.remove(volume.name, force=False)
            except BulkheadError:
                continue  # used or removed meanwhile
            gone.append(volume.name)
            space += size
        await self.volumes.records.commit(Change(events=(of_prune("volume", space),)))
        return Pruned(names=tuple(gone), space_reclaimed=space)


def _matches(volume: Volume, filters: Filters, search: Search) -> bool:
    names, drivers = filters.get("name"), filters.get("driver")
    return (
        matches_labels(volume.labels, filters.get("label", ()))
        and (not drivers or volume.driver in drivers)
        and (not names or any(search.finds(pattern, volume.name) for pattern in names))
    )
