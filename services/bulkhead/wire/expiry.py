"""Time limits of futures by bare timers: `asyncio.timeout` around each wait costs ten times that."""

from __future__ import annotations

import asyncio
from typing import Any

# A loop's clock may stand a little before the time for which its timer was set.
_CLOCK_SECONDS = 0.001


def expire(future: asyncio.Future[Any], why: Exception | None = None) -> None:
    """Called when time is up: who waits for `future`, if it is not done, gets a TimeoutError, or is told `why`."""
    if not future.done():
        future.set_exception(why or TimeoutError())


class Deadlines:
    """The limits of many futures, hardly any of which is ever reached: one timer for all, set anew when it is over.

    It fires at the first limit or before, and then at the first of those that still wait.
    """

    __slots__ = ("_limits", "_loop", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set(self, future: asyncio.Future[Any], seconds: float) -> None:
        """`future` expires in so many seconds, unless its limit is lifted."""
        limit = self._limits[future] = self._loop.time() + seconds
        if self._timer is None or limit < self._timer.when():
            self._fire_at(limit)

    def lift(self, future: asyncio.Future[Any]) -> None:
        """Nobody waits for it any more."""
        self._limits.pop(future, None)

    def drop(self) -> None:
        """All limits are lifted."""
        self._limits.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire_at(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(moment, self._fired)

    def _fired(self) -> None:
        self._timer = None
        now = self._loop.time() + _CLOCK_SECONDS
        for future in [future for future, limit in self._limits.items() if limit <= now]:
            del self._limits[future]
            expire(future)
        if self._limits:
            self._fire_at(min(self._limits.values()))
