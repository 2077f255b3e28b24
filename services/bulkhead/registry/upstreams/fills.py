"""Blobs on their way into the cache: each is fetched once, and read by many while it grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from bulkhead.content.manifests import Descriptor
from bulkhead.errors import BulkheadError, Unavailable
from bulkhead.model.digest import Digest

# Fetched at once, over all upstreams.
MOST = 16

Fetch = Callable[[Callable[[int], None]], Awaitable[object]]


class Fill:
    """One blob being fetched. Its readers may come and go: it goes on."""

    def __init__(self, blob: Descriptor) -> None:
        self.blob = blob
        self._moved = asyncio.Event()
        self._failure: BulkheadError | None = None
        self._ended = False
        self._begun = False

    def progress(self, _: int) -> None:
        """More bytes arrived."""
        self._begun = True
        self._wake()

    def end(self, failure: BulkheadError | None) -> None:
        """All bytes are there, or none will follow."""
        self._failure = failure
        self._ended = True
        self._wake()

    async def begun(self) -> None:
        """Wait until there is something to read; raises what the fetch failed with."""
        while not self._begun and not self.check():
            await self.news().wait()

    def news(self) -> asyncio.Event:
        """Set when there is more than there was when it was asked for, or the end."""
        return self._moved

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._ended

    def check(self) -> bool:
        """Whether it has ended; raises what it failed with."""
        if self._failure is not None:
            raise self._failure
        return self._ended

    def _wake(self) -> None:
        self._moved.set()
        if not self._ended:
            self._moved = asyncio.Event()


class Fills:
    """All fills; leaving stops them, and what they have is there for the next attempt."""

    def __init__(self) -> None:
        self._running: dict[Digest, Fill] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turns = asyncio.Semaphore(MOST)
        self._closed = False

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Fills]:
        try:
            yield self
        finally:
            self._closed = True
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._running

    def of(self, blob: Descriptor, fetch: Fetch) -> Fill:
        """The fill of a blob: the one that runs, or a new one that calls `fetch(progress)`."""
        fill = self._running.get(blob.digest)
        if fill is None:
            if self._closed:
                raise Unavailable(f"cannot pull blob {blob.digest}: the registry is stopping")
            fill = self._running[blob.digest] = Fill(blob)
            task = asyncio.create_task(self._run(fill, fetch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return fill

    async def _run(self, fill: Fill, fetch: Fetch) -> None:
        failure: BulkheadError | None = Unavailable(f"cannot pull blob {fill.blob.digest}: it was interrupted")
        try:
            async with self._turns:
                await fetch(fill.progress)
            failure = None
        except BulkheadError as error:
            failure = error
        finally:
            del self._running[fill.blob.digest]
            fill.end(failure)
