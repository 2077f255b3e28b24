"""Whether who is called lives: a process that is stopped, or stuck, keeps its connections and answers nothing.

Who waits for long has its peer asked for a sign of life; one that serves gives it at once, however long it is at what
it was called for. Many questions in a row with no word from it, not to anybody, are silence.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager

# Counted in our own turns: who cannot run himself for a while takes nobody for silent.
_ASK_SECONDS = 5.0
_MOST_UNHEARD = 4
_GREETING_SECONDS = _ASK_SECONDS * _MOST_UNHEARD


class Silence(ConnectionError):
    """The peer is there, and says nothing."""


@asynccontextmanager
async def answer_expected() -> AsyncIterator[None]:
    """What is asked here is answered at once. Raises Silence when it is not."""
    try:
        async with asyncio.timeout(_GREETING_SECONDS):
            yield
    except TimeoutError as error:
        raise Silence from error


class Pulse:
    """Of one connection: `ask` asks, `waiting` says who waits for an answer, `give_up` hears who has waited in vain."""

    __slots__ = ("_ask", "_give_up", "_loop", "_timer", "_unheard", "_waiting")

    def __init__(
        self, ask: Callable[[], None], waiting: Callable[[], Set[int]], give_up: Callable[[Set[int]], None]
    ) -> None:
        self._ask = ask
        self._waiting = waiting
        self._give_up = give_up
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # Who waited at each question since the last word.
        self._unheard: deque[frozenset[int]] = deque()

    def begin(self) -> None:
        """Somebody waits."""
        if self._timer is None:
            self._timer = self._loop.call_later(_ASK_SECONDS, self._beat)

    def heard(self) -> None:
        """Something came."""
        if self._unheard:
            self._unheard.clear()

    def end(self) -> None:
        """The connection is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._timer = None
        if not self._waiting():
            self._unheard.clear()
            return
        if len(self._unheard) == _MOST_UNHEARD:
            self._give_up(self._unheard.popleft() & self._waiting())
        self._unheard.append(frozenset(self._waiting()))
        self._ask()
        self.begin()
