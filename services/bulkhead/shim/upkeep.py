"""A shim's memory, kept small: what it has copied of the zygote's and not changed in the end goes back.

Most of what a shim writes to are reference counts and caches, which soon are what they were in the zygote: those
pages are shared again (`nsexec.give_back_memory`). It is done when a container has lived for a second, which many do
not, and now and then after something has happened.
"""

from __future__ import annotations

import contextlib
import gc
import time

from bulkhead import nsexec
from bulkhead.shim.loop import Loop, Timer

_AFTER = 1.0
# It takes a millisecond or two.
_PAUSE = 60.0


class Upkeep:
    """Wakes for nothing while nothing happens."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._due: Timer | None = None
        self._not_before = 0.0

    def begin(self) -> None:
        """From now on."""
        self._loop.stirred = self._stirred

    def _stirred(self) -> None:
        if self._due is None:
            wait = self._not_before - time.monotonic()
            self._due = self._loop.later(max(_AFTER, wait), self._give_back)

    def _give_back(self) -> None:
        self._due = None
        self._not_before = time.monotonic() + _PAUSE
        gc.collect()
        with contextlib.suppress(OSError):
            nsexec.give_back_memory()
