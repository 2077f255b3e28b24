"""Follows the health of running containers, and acts upon those that become unhealthy where their creator asked for it.

One task per run asks its shim for news. An action that is due and was not done, because the manager died, is done when
it is back: what counts is that the container is unhealthy, not that it has become so.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace

import structlog

from bulkhead.errors import BulkheadError, NotFound
from bulkhead.manager import health
from bulkhead.manager.actors import Actors
from bulkhead.manager.exits import Cause, Exits
from bulkhead.manager.ports import Change, Records, Shims
from bulkhead.manager.stopping import Stopping
from bulkhead.model.container import Container
from bulkhead.model.directives import HEALTH_ACTION, HEALTH_BUDGET
from bulkhead.model.health import UNHEALTHY, Health
from bulkhead.model.instance import Instance
from bulkhead.model.lifecycle import Phase

log = structlog.get_logger()
NOTE_SECONDS = 30.0
_RETRY_FIRST, _RETRY_LONGEST = 0.1, 5.0
_WINDOW_NS = 3600 * 1_000_000_000
_BACKOFF_FIRST, _BACKOFF_LONGEST = 10.0, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthWatch:
    """`action` and `budget` are those of containers that have none of their own; no action if empty."""

    instance: Instance
    records: Records
    shims: Shims
    actors: Actors
    exits: Exits
    stopping: Stopping
    action: str = ""
    budget: int = 5
    _acting: set[str] = field(default_factory=set)

    def watch(self, container: Container) -> None:
        """Follow this run, in a task of the actors'."""
        if container.health is not None:
            self.actors.own(self._follow(container), f"health of {container.id[:12]}")

    async def _follow(self, started: Container) -> None:
        delay = _RETRY_FIRST
        while (container := self._current(started)) is not None and container.health is not None:
            self._act_if_unhealthy(container)
            try:
                if not await self._hear(container, container.health):
                    return
                delay = _RETRY_FIRST
            except NotFound:
                return
            except BulkheadError as error:
                log.info("cannot follow the health of a container", container=container.id, reason=str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_LONGEST)

    async def _hear(self, container: Container, known: Health) -> bool:
        """Wait for news and note them; False when there will be none. A lost shim is the exits' to replace."""
        shim = await self.shims.live(container.id)
        if shim is None:
            await asyncio.sleep(_RETRY_FIRST)
            return True
        told = await shim.health(known.revision)
        if told.revision <= known.revision:
            return False
        await self.actors.perform(
            container.id, "note the health of", lambda: self._note(container, told), seconds=NOTE_SECONDS
        )
        return True

    async def _note(self, run: Container, told: Health) -> None:
        container = self._current(run)
        if container is not None:
            updated, events = health.noted(container, told)
            if updated.phase is Phase.PAUSED:
                # The last word of a probe that was under way.
                updated = replace(updated, health=replace(told.stopped(), status=container.health_status))
                events = ()
            await self.records.commit(Change(update=updated, events=events))

    def _current(self, run: Container) -> Container | None:
        """The record, while it is of the same run."""
        if not self.records.index.knows(run.id):
            return None
        container = self.records.index.get(run.id)
        return container if container.phase.alive and container.started_at == run.started_at else None

    def _act_if_unhealthy(self, container: Container) -> None:
        action = container.directives.get(HEALTH_ACTION, self.action)
        if not action or not _is_failing(container) or container.id in self._acting:
            return
        done = recent(container.health_acted, time.time_ns())
        if len(done) >= int(container.directives.get(HEALTH_BUDGET, self.budget)):
            log.warning("an unhealthy container is left alone: its budget is used up", container=container.id)
            return
        self._acting.add(container.id)
        self.actors.own(self._act(container, action, backoff(len(done))), f"{action} unhealthy {container.id[:12]}")

    async def _act(self, run: Container, action: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            container = self._current(run)
            if container is None or not _is_failing(container):
                return
            log.warning("acting upon an unhealthy container", container=container.id, action=action)
            await self.actors.perform(
                container.id, "note the health of", lambda: self._count(container.id), seconds=NOTE_SECONDS
            )
            with self.exits.blamed(container.id, Cause.HEALTH):
                await self._perform(container.id, action)
        except BulkheadError as error:
            log.warning("cannot act upon an unhealthy container", container=run.id, reason=str(error))
        finally:
            self._acting.discard(run.id)

    async def _count(self, container_id: str) -> None:
        """On record before it is done, so that a crash cannot make it more often than allowed."""
        container, now = self.records.index.get(container_id), time.time_ns()
        acted = (*recent(container.health_acted, now), now)
        await self.records.commit(Change(update=replace(container, health_acted=acted)))

    async def _perform(self, container_id: str, action: str) -> None:
        match action:
            case "restart":
                await self.stopping.restart(container_id, "", None)
            case "stop":
                await self.stopping.stop(container_id, "", None)
            case _:
                await self.stopping.kill(container_id, container_id, "KILL")


def _is_failing(container: Container) -> bool:
    """Found unhealthy by its probes, and not only called so because it is paused."""
    found = container.health
    return (
        container.phase is Phase.RUNNING
        and found is not None
        and found.status == UNHEALTHY
        and found.failing_streak > 0
    )


def recent(acted: tuple[int, ...], now: int) -> tuple[int, ...]:
    """The actions that still count against the budget."""
    return tuple(at for at in acted if at > now - _WINDOW_NS)


def backoff(done: int) -> float:
    """Seconds to wait before the next action: none before the first, then 10, 20, 40 up to 300."""
    return 0.0 if done == 0 else min(_BACKOFF_FIRST * 2.0 ** min(done - 1, 10), _BACKOFF_LONGEST)
