"""Image collection by watermarks: when the disk is fuller than the high one, unused images go until the low one.

Off unless configured. The longest unused by name goes first; one that a container was made from, one in use by an
operation and one that came lately stay.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from bulkhead.errors import BulkheadError
from bulkhead.manager.images.config import Marks
from bulkhead.manager.images.ports import Layers
from bulkhead.manager.images.store import ImageStore

log = structlog.get_logger()
# Between two looks at the disk (seconds).
INTERVAL = 60.0


class Watermarks:
    """Keeps the disk below the high mark."""

    def __init__(self, store: ImageStore, layers: Layers, marks: Marks) -> None:
        self._store = store
        self._layers = layers
        self._marks = marks

    async def run(self) -> None:
        """For ever: look at the disk, and make room when there is too little."""
        while self._marks.high:
            try:
                await self.collect()
            except BulkheadError as error:
                log.warning("cannot collect images", reason=str(error))
            await asyncio.sleep(INTERVAL)

    async def collect(self) -> list[str]:
        """Remove what the marks want removed; the ids of the images that went."""
        if not self._marks.high or self._layers.used_percent() < self._marks.high:
            return []
        gone = []
        for image in self._store.unused(time.time_ns() - int(self._marks.keep * 1e9)):
            # What was removed before is on its way out: the disk says so only when it is gone.
            await self._layers.emptied()
            if self._layers.used_percent() < self._marks.low:
                break
            freed = await self._store.evict(image)
            log.info("image collected", image=str(image.id), freed=freed)
            gone.append(str(image.id))
        return gone
