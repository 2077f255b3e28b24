"""The one way to change the books: decide from them, write durably, then show it.

Changes are made one after another, and each to its end even if its caller goes away: what is on disk is
always what the books say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from bulkhead import failpoints
from bulkhead.manager.images.catalogue import Catalogue, Change
from bulkhead.manager.images.ports import Records

T = TypeVar("T")
Decide = Callable[[], tuple[Change, T]]


class Ledger:
    """The books and their records."""

    def __init__(self, records: Records, boot: str) -> None:
        self.books = Catalogue()
        self._records = records
        self._boot = boot
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Load the books."""
        self.books.apply(await self._records.load())

    async def close(self) -> None:
        """Wait for changes under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def change(self, decide: Decide[T]) -> T:
        """Call `decide`, which reads the books and awaits nothing, make its change, return its result.

        Raises what `decide` raises, and what the records raise; then nothing has changed.
        """
        task = asyncio.create_task(self._change(decide))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _change(self, decide: Decide[T]) -> T:
        async with self._turn:
            change, result = decide()
            if change != Change():
                failpoints.hit("manager.images.decided")
                await self._records.commit(change, self._boot)
                failpoints.hit("manager.images.recorded")
                self.books.apply(change)
        return result
