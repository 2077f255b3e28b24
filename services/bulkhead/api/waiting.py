"""Waiting for a container's end, over restarts of the manager.

A container does not notice that the manager dies, so neither shall who waits for it. The wait is armed again when
the manager is back, and what was missed is in its journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator

from bulkhead.api.ports.containers import Containers, Exit
from bulkhead.api.ports.system import System
from bulkhead.errors import NotFound, Unavailable

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0


async def pauses() -> AsyncGenerator[None]:
    """Yields after longer and longer pauses, for ever."""
    pause = FIRST_PAUSE
    while True:
        await asyncio.sleep(pause)
        yield
        pause = min(pause * 2, LONGEST_PAUSE)


class Waits:
    def __init__(self, containers: Containers, system: System) -> None:
        self._containers = containers
        self._system = system

    async def wait(self, ref: str, condition: str) -> AsyncGenerator[Exit | None]:
        """None when the wait is armed, then the exit. Raises what the manager says before it is armed."""
        began = time.time_ns()
        armed = False
        try:
            async with contextlib.aclosing(self._containers.wait(ref, condition)) as steps:
                async for step in steps:
                    armed = True
                    yield step
                    if step is not None:
                        return
            raise Unavailable("the manager service is not available: it ended the call")
        except Unavailable:
            if not armed:
                raise
        yield await self._outlast(ref, condition, began)

    async def _outlast(self, ref: str, condition: str, began: int) -> Exit:
        async for _ in pauses():
            with contextlib.suppress(Unavailable):
                return await self._again(ref, condition, began)
        raise AssertionError("pauses never end")

    async def _again(self, ref: str, condition: str, began: int) -> Exit:
        try:
            async with contextlib.aclosing(self._containers.wait(ref, condition)) as steps:
                async for step in steps:
                    if step is not None:
                        return step
                    # Armed: whatever is not in the journal by now is still to come.
                    missed = await self._missed(ref, began) if condition == "next-exit" else None
                    if missed is not None:
                        return missed
        except NotFound:
            return await self._missed(ref, began) or Exit(exit_code=0)
        raise Unavailable("the manager ended the wait")

    async def _missed(self, ref: str, began: int) -> Exit | None:
        """The exit that the journal tells of since `began`."""
        filters = {"type": ("container",), "event": ("die",), "container": (ref,)}
        async for event in self._system.events(since=began, until=time.time_ns(), filters=filters):
            if event is not None and event.attributes.get("exitCode", "").lstrip("-").isdigit():
                return Exit(exit_code=int(event.attributes["exitCode"]))
        return None
