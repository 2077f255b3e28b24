"""Who of many has been heard, and who has been silent for so long that nobody else waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from functools import partial


class RollCall:
    """`over` once each of those expected has been heard or is silent, and at least one is silent."""

    def __init__(self, *, patience: float) -> None:
        self._awaited: set[str] = set()
        self._silent: set[str] = set()
        self._patience = patience
        self._over = asyncio.Event()

    def expect(self, names: Iterable[str]) -> None:
        """Who is to be heard."""
        self._awaited.update(names)

    @property
    def silent(self) -> int:
        """How many are silent at present."""
        return len(self._silent)

    @contextlib.contextmanager
    def asked(self, name: str) -> Iterator[None]:
        """Around a question: `name` is silent while it takes longer than our patience.

        Whose loop was held up finds the time over before it has read the answer, so half of the patience is counted
        after the other half: in between it reads.
        """
        loop, half = asyncio.get_running_loop(), self._patience / 2
        timers: list[asyncio.TimerHandle] = []
        begin = partial(loop.call_later, half, self._is_silent, name)
        timers.append(loop.call_later(half, lambda: timers.append(begin())))
        try:
            yield
        finally:
            for each in timers:
                each.cancel()

    def heard(self, name: str) -> None:
        """All there is to know of `name` is known."""
        self._awaited.discard(name)
        self._silent.discard(name)
        self._look()

    async def over(self) -> None:
        """Wait until only the silent are left. Never returns when all are heard."""
        await self._over.wait()

    def _is_silent(self, name: str) -> None:
        if name in self._awaited:
            self._awaited.discard(name)
            self._silent.add(name)
            self._look()

    def _look(self) -> None:
        if self._silent and not self._awaited:
            self._over.set()
