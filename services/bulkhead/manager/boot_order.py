"""The order of starts after the machine has come up: a container of compose waits for those that it depends on.

Only for a while, and only for those that are started as well: an order must not be the reason why nothing starts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from bulkhead.manager.index import Index
from bulkhead.model.container import Container
from bulkhead.model.directives import PROJECT, SERVICE, dependencies

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BootOrder:
    """Who is to be started at this boot, and who has been."""

    index: Index
    _started: dict[str, asyncio.Event] = field(default_factory=dict)

    def expect(self, container_ids: Iterable[str]) -> None:
        """These are going to be started."""
        self._started.update((each, asyncio.Event()) for each in container_ids)

    async def turn(self, container_id: str) -> None:
        """Wait until everything that the container depends on has been started, or could not be."""
        if container_id not in self._started or not self.index.knows(container_id):
            return
        awaited = [self._started[each].wait() for each in self._before(self.index.get(container_id))]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.gather(*awaited)

    def done(self, container_id: str) -> None:
        """It has been started, or could not be."""
        event = self._started.pop(container_id, None)
        if event is not None:
            event.set()

    def _before(self, container: Container) -> list[str]:
        wanted, project = dependencies(container.directives), container.directives.get(PROJECT)
        others = [each for each in self.index if each.id in self._started and each.id != container.id]
        return [
            each.id
            for each in others
            if each.directives.get(PROJECT) == project and each.directives.get(SERVICE) in wanted
        ]
