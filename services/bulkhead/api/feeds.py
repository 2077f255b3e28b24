"""The stream of events, over restarts of the manager: its journal is durable and numbered, so nothing is missed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator

from bulkhead.api.call import Filters
from bulkhead.api.ports.system import EngineEvent, System
from bulkhead.api.waiting import pauses
from bulkhead.errors import Unavailable


class Feeds:
    def __init__(self, system: System) -> None:
        self._system = system

    async def events(
        self, *, since: int | None, until: int | None, filters: Filters
    ) -> AsyncGenerator[EngineEvent | None]:
        """None when subscribed, then the events, each once, until `until` has passed."""
        place = _Place(since)
        async for _ in _at_once_then(pauses()):
            try:
                async with contextlib.aclosing(
                    self._system.events(since=place.since, until=until, filters=filters)
                ) as events:
                    async for event in events:
                        if place.admits(event):
                            yield event
            except Unavailable:
                if not place.subscribed:
                    raise
            if until is not None and until <= time.time_ns():
                return


async def _at_once_then(later: AsyncGenerator[None]) -> AsyncGenerator[None]:
    yield
    async for _ in later:
        yield


class _Place:
    """How far the client has been told."""

    def __init__(self, since: int | None) -> None:
        self.since = since
        self.subscribed = False
        self._sequence = 0

    def admits(self, event: EngineEvent | None) -> bool:
        if event is None:
            first = not self.subscribed
            self.subscribed = True
            # A second subscription must not begin later than the first.
            self.since = self.since if self.since is not None else time.time_ns()
            return first
        if event.sequence <= self._sequence:
            return False
        self._sequence = event.sequence
        self.since = event.time
        return True
