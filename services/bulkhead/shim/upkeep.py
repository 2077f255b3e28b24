"""A shim's memory, kept small: what it has copied of the zygote's and not changed in the end goes back.

Most of what a shim writes to are reference counts and caches, which soon are what they were in the zygote, or else what
they are in any shim at rest: those pages are shared again (`nsexec.give_back_memory`). It is done when a container has
lived for a second, which many do not, and now and then after something has happened.
"""

from __future__ import annotations

import errno
import gc
import sys
import time
from collections.abc import Callable

from bulkhead import nsexec
from bulkhead.linux import process
from bulkhead.shim.loop import Loop, Timer

_AFTER = 1.0
# It takes a millisecond or two.
_PAUSE = 60.0
# A thread that was told to end takes a moment.
_RETRY = 0.1
_TRIES = 5


def let_go() -> None:
    """Drop what the interpreter and the C library keep for later: garbage, looked-up methods, freed pieces."""
    gc.collect()
    sys._clear_type_cache()
    process.empty_memory()


class Upkeep:
    """Wakes once, then for nothing while nothing happens. `rest` ends what threads there are, as far as they idle."""

    def __init__(self, loop: Loop, rest: Callable[[], None]) -> None:
        self._loop = loop
        self._rest = rest
        self._due: Timer | None = None
        self._not_before = 0.0

    def begin(self) -> None:
        """From now on. Also where nothing ever happens, as when whoever wanted a shim has died."""
        self._loop.stirred = self._stirred
        self._stirred()

    def _stirred(self) -> None:
        if self._due is None:
            wait = self._not_before - time.monotonic()
            self._due = self._loop.later(max(_AFTER, wait), self._begin)

    def _begin(self) -> None:
        self._not_before = time.monotonic() + _PAUSE
        self._rest()
        let_go()
        self._give_back()

    def _give_back(self, tries: int = _TRIES) -> None:
        self._due = None
        try:
            nsexec.give_back_memory()
        except OSError as error:
            if error.errno == errno.EBUSY and tries:
                self._due = self._loop.later(_RETRY, lambda: self._give_back(tries - 1))
