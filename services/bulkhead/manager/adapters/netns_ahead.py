"""A network namespace made ahead: the next container that is plugged in finds it there.

The kernel takes as long to make one as for all else that such a container's network takes, and who starts it waits.
One is kept, made when there has been no start for a moment: those that follow each other at once need the processors
themselves. A descriptor of this process is all that holds it, so no death leaves any. One that nobody wants for a while
is given back: it is as the host's settings were when it was made.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import os
from collections.abc import Callable

from bulkhead.linux import threads
from bulkhead.linux.netns import leave_for_new_netns

_PAUSE, _SECONDS = 0.1, 2.0


class NetnsAhead:
    """Of network namespaces that are asked for one after the other, the next. In the event loop's thread.

    `furnish` is called by a thread that stands in it, and may raise OSError.
    """

    def __init__(
        self, furnish: Callable[[], None] = lambda: None, *, pause: float = _PAUSE, seconds: float = _SECONDS
    ) -> None:
        self._furnish = furnish
        self._pause, self._seconds = pause, seconds
        self._made: list[int] = []
        # Until it is made or, once it is, given back.
        self._timer: asyncio.TimerHandle | None = None
        self._making = False
        self._closed = False

    def take(self) -> list[int]:
        """A descriptor of the namespace, the caller's, if there is one."""
        self._call_off()
        made, self._made = self._made, []
        return made

    def expect(self) -> None:
        """One has been needed: so will another. Never waits, never fails."""
        if self._made or self._making or self._closed:
            return
        self._call_off()
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._make)

    def close(self) -> None:
        """Give it back; there is none from now on."""
        self._closed = True
        self._give_back()

    def _call_off(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _make(self) -> None:
        # Whoever needs one and cannot have it is told why, and not we.
        with contextlib.suppress(OSError), threads.refusal():
            _thread.start_new_thread(self._work, (asyncio.get_running_loop(),))
            self._making = True

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """On a thread that ends here: it stands in the new namespace."""
        made = self._furnished()
        try:
            loop.call_soon_threadsafe(self._keep, made)
        except RuntimeError:  # the loop is closed
            _close(made)

    def _furnished(self) -> list[int]:
        made: list[int] = []
        try:
            made.append(leave_for_new_netns())
            self._furnish()
        except OSError:
            _close(made)
            return []
        return made

    def _keep(self, made: list[int]) -> None:
        self._making = False
        if self._closed:
            _close(made)
        elif made:
            self._made = made
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._give_back)

    def _give_back(self) -> None:
        _close(self.take())


def _close(made: list[int]) -> None:
    for netns in made:
        os.close(netns)
