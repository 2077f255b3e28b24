"""One sampler for everybody who watches what containers use: each second it reads each watched container once.

It rests while nobody watches. A watcher that is slow misses samples, and holds up nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from bulkhead.manager.actors import Actors
from bulkhead.manager.index import Index
from bulkhead.model.container import Container
from bulkhead.model.sample import Sample

PERIOD = 1.0
# Reads the figures of one live container; of one that has gone meanwhile it tells what it can. Blocks.
Read = Callable[[Container], Sample]
_Round = Mapping[str, Sample]


@dataclass(slots=True, kw_only=True)
class Sampler:
    """Samples of containers, for any number of watchers."""

    index: Index
    actors: Actors
    read: Read
    period: float = PERIOD
    _watched: Counter[str] = field(default_factory=Counter)
    _next: asyncio.Future[_Round] | None = None
    _snapshot: asyncio.Task[_Round] | None = None
    _snapshot_at: float = 0.0
    _task: asyncio.Task[None] | None = None

    async def watch(self, ref: str, *, stream: bool, immediately: bool) -> AsyncGenerator[Sample, None]:
        """With `stream` a sample each period until the container is removed; otherwise one, or without
        `immediately` two of which the second is meant. Raises NotFound.
        """
        container = self.index.find(ref)
        if not stream and not _lives(container):
            yield _nothing(container)
        elif not stream and immediately:
            yield (await asyncio.to_thread(self._round, [container]))[container.id]
        else:
            count = 0
            async for sample in self._rounds(container):
                yield sample
                count += 1
                if not stream and (count == 2 or not sample.at):
                    return

    async def snapshot(self) -> Collection[Sample]:
        """All containers that run; those who ask within one period are told of the same reading."""
        if self._snapshot is None or (self._snapshot.done() and time.monotonic() - self._snapshot_at >= self.period):
            living = [each for each in self.index.running() if _lives(each)]
            self._snapshot_at = time.monotonic()
            self._snapshot = self.actors.own(asyncio.to_thread(self._round, living), "sample every container")
        return (await asyncio.shield(self._snapshot)).values()

    async def _rounds(self, container: Container) -> AsyncGenerator[Sample, None]:
        self._watched[container.id] += 1
        try:
            while self.index.knows(container.id):
                sample = (await self._upcoming()).get(container.id)
                if sample is not None:  # None: this watcher came while the round was being read
                    yield sample
        finally:
            self._watched[container.id] -= 1
            self._watched += Counter()  # what nobody watches is forgotten

    async def _upcoming(self) -> _Round:
        if self._task is None:
            self._task = self.actors.own(self._run(), "sample containers")
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._next)

    async def _run(self) -> None:
        try:
            due = time.monotonic()
            while self._watched:
                due = max(due + self.period, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
                wanted = [self.index.get(each) for each in self._watched if self.index.knows(each)]
                found = await asyncio.to_thread(self._round, wanted)
                upcoming, self._next = self._next, None
                if upcoming is not None:
                    upcoming.set_result(found)
        finally:
            self._task = None
            if self._next is not None:
                self._next.cancel()
                self._next = None

    def _round(self, containers: Iterable[Container]) -> dict[str, Sample]:
        return {each.id: self.read(each) if _lives(each) else _nothing(each) for each in containers}


def _lives(container: Container) -> bool:
    return container.phase.alive


def _nothing(container: Container) -> Sample:
    return Sample(id=container.id, name=container.name)
