"""Reading: list and inspect. From the index alone, so that neither a wedged container nor a dead shim delays them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from bulkhead.errors import BulkheadError
from bulkhead.manager.ports import Images, Records, Snapshots
from bulkhead.model.container import Container
from bulkhead.model.filters import Filters, parse_container_filter

# Of these the sizes are found out by one thread, in one go.
_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes; -1 = not asked for, or not to be found out."""

    writable: int = -1
    whole: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """Answers questions about containers."""

    records: Records
    images: Images
    snapshots: Snapshots
    image_size: Callable[[str], int]

    async def listed(self, *, everything: bool, limit: int, filters: Filters) -> list[Container]:
        """Containers that match, newest first; only live ones unless `everything`, `limit` or a status is asked for.

        Raises InvalidArgument for a bad filter, NotFound for one that names an unknown container.
        """
        ancestors = {ref: await self._image_id(ref) for ref in filters.get("ancestor", ())}
        wanted = parse_container_filter(
            filters,
            resolve_image=ancestors.get,
            created_at=lambda ref: self.records.index.find(ref).created_at,
        )
        stopped_too = everything or limit > 0 or wanted.implies_all
        candidates = self.records.index if stopped_too else self.records.index.running()
        found = [each for each in candidates if wanted.matches(each)]
        found.sort(key=lambda each: (each.created_at, each.id), reverse=True)
        return found[:limit] if limit > 0 else found

    async def renamed(self, containers: Iterable[Container]) -> frozenset[str]:
        """Ids of those whose image is no longer what they call it: the name is gone, or another image's."""
        found = list(containers)
        meant = {ref: await self._image_id(ref) for ref in {each.spec.image for each in found}}
        return frozenset(each.id for each in found if meant[each.spec.image] != each.image_id)

    async def sizes(self, containers: Iterable[Container]) -> dict[str, Sizes]:
        """Sizes by container id, measured a few at a time."""
        turns, found = asyncio.Semaphore(4), list(containers)

        async def some(part: Sequence[Container]) -> list[tuple[str, Sizes]]:
            async with turns:
                return await self._sizes(part)

        parts = (found[start : start + _AT_ONCE] for start in range(0, len(found), _AT_ONCE))
        return dict(chain.from_iterable(await asyncio.gather(*map(some, parts))))

    def exec_ids(self, container_id: str) -> list[str]:
        """Execs of the container that have not ended."""
        return [each.id for each in self.records.unended_execs(container_id)]

    async def _sizes(self, containers: Sequence[Container]) -> list[tuple[str, Sizes]]:
        writable = await self.snapshots.usages([each.id for each in containers])
        return [(each.id, self._whole(each, size)) for each, size in zip(containers, writable, strict=True)]

    def _whole(self, container: Container, writable: int) -> Sizes:
        try:
            return Sizes(writable=writable, whole=writable + self.image_size(container.image_id))
        except BulkheadError:
            return Sizes()

    async def _image_id(self, ref: str) -> str | None:
        try:
            return (await self.images.resolve(ref)).id
        except BulkheadError:
            return None
