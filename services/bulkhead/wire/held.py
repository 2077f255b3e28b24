"""Two ends of one connection that hold each other back: who is too fast for the other waits."""

from __future__ import annotations

import asyncio
from collections import deque

from bulkhead.wire.direct import MOST_HELD


class Held:
    """What came and was not taken yet; while that is much, its connection is not read."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: deque[bytes | Exception | None] = deque()
        self._size = 0
        self._paused = False
        self._news = asyncio.Event()

    def put(self, part: bytes | Exception | None) -> None:
        """One part more; an exception, or None, is the end."""
        self._parts.append(part)
        self._size += len(part) if isinstance(part, bytes) else 0
        self._news.set()
        if self._size > MOST_HELD and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    async def next(self) -> bytes | None:
        """The next part, None at the end, for ever; raises the exception that was put."""
        while not self._parts:
            self._news.clear()
            await self._news.wait()
        part = self._parts[0]
        if isinstance(part, Exception):
            raise part
        if part is not None:
            self._parts.popleft()
            self._size -= len(part)
            self._go_on()
        return part

    def drop(self) -> None:
        """Nobody takes the rest."""
        self._parts.clear()
        self._size = 0
        self._go_on()

    def _go_on(self) -> None:
        if self._paused and self._size <= MOST_HELD // 2:
            self._paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()


class Drain:
    """Whether the other end takes what is written to it."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def stop(self) -> None:
        """It does not."""
        self._open.clear()

    def go_on(self) -> None:
        """It does again, or is gone."""
        self._open.set()

    async def wait(self) -> None:
        """Until it does."""
        await self._open.wait()
