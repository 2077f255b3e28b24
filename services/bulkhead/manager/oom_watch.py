"""Follows whom the kernel kills in running containers for want of memory: each time is an event, as with Docker.

The number that has been told is on record, the kernel counts: what happens while no manager is there is told by the
next one, and what nobody was in time for when the container ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from bulkhead.errors import BulkheadError
from bulkhead.manager.actors import Actors
from bulkhead.manager.announcements import of_container
from bulkhead.manager.bundles import Bundles
from bulkhead.manager.ports import Change, OomNotices, Records
from bulkhead.manager.waiters import Condition, Ended, Waiters
from bulkhead.model.container import Container
from bulkhead.model.replacing import replace

log = structlog.get_logger()
NOTE_SECONDS = 30.0
# Most containers end before it is worth while to follow them; their ends tell.
_BRIEF = 0.1
# The kernel may say that it is out of memory a moment before it has killed somebody for that.
_LOOK_FIRST, _LOOKS = 0.005, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class OomWatch:
    """`notices` opens those of a cgroup; it raises OSError, and so do they when that is gone."""

    records: Records
    actors: Actors
    waiters: Waiters
    bundles: Bundles
    notices: Callable[[str], OomNotices]
    _watched: set[tuple[str, int]] = field(default_factory=set)

    def watch(self, container: Container) -> None:
        """Follow this run, in a task of the actors', if its memory has a limit and that is not done already."""
        spec, run = container.spec, (container.id, container.started_at)
        is_limited = spec.resources.memory > 0 or bool(spec.cgroup_parent)
        if is_limited and container.phase.alive and run not in self._watched:
            self._watched.add(run)
            self.actors.own(self._follow(container), f"memory of {container.id[:12]}")

    async def _follow(self, run: Container) -> None:
        try:
            with self.waiters.armed(run, Condition.NEXT_EXIT) as ended:
                await asyncio.wait([ended], timeout=_BRIEF)
                if not ended.done() and self._current(run) is not None:
                    await self._hear(run, ended)
        except (OSError, BulkheadError) as error:
            log.info("cannot follow the memory of a container", container=run.id, reason=str(error))
        finally:
            self._watched.discard((run.id, run.started_at))

    async def _hear(self, run: Container, ended: asyncio.Future[Ended]) -> None:
        with contextlib.closing(self.notices(self.bundles.cgroups_path(run))) as notices:
            while not ended.done():
                if await self._has_killed(run, notices, ended):
                    await self.actors.perform(
                        run.id, "note who ran out of memory in", lambda: self._note(run, notices), seconds=NOTE_SECONDS
                    )
                await _news(notices, ended)

    async def _has_killed(self, run: Container, notices: OomNotices, ended: asyncio.Future[Ended]) -> bool:
        pause = _LOOK_FIRST
        for _ in range(_LOOKS):
            container = self._current(run)
            if container is None or notices.kills() > container.oom_kills:
                return container is not None
            # Of another one meanwhile, too: most looks are for a kill that does not come.
            pause = _LOOK_FIRST if await _news(notices, ended, pause) else 2 * pause
        return False

    async def _note(self, run: Container, notices: OomNotices) -> None:
        container, kills = self._current(run), notices.kills()
        if container is not None and kills > container.oom_kills:
            known = replace(container, oom_killed=True, oom_kills=kills)
            await self.records.commit(Change(update=known, events=(of_container(known, "oom"),)))

    def _current(self, run: Container) -> Container | None:
        """The record, while it is of the same run."""
        if not self.records.index.knows(run.id):
            return None
        container = self.records.index.get(run.id)
        return container if container.phase.alive and container.started_at == run.started_at else None


async def _news(notices: OomNotices, ended: asyncio.Future[Ended], seconds: float | None = None) -> bool:
    """Returns when there may be some, or none any more, or in `seconds`. Whether there may be."""
    loop = asyncio.get_running_loop()
    news: asyncio.Future[None] = loop.create_future()
    either: set[asyncio.Future[Any]] = {news, ended}
    loop.add_reader(notices.fileno(), lambda: None if news.done() else news.set_result(None))
    try:
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return news.done()
    finally:
        loop.remove_reader(notices.fileno())
