"""Progress of an operation: one teller, any number of readers, none of whom can hold it up.

A reader who does not keep up misses intermediate byte counts, never a line; one who comes late is first
told the last line of every layer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

# Byte counts of one layer are told at most this often (seconds).
INTERVAL = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One line of Docker's progress stream; `error` ends it. `aux` is JSON; `error_kind` a class of errors.py."""

    id: str = ""
    status: str = ""
    current: int = 0
    total: int = 0
    stream: str = ""
    aux: bytes = b""
    error: str = ""
    error_kind: str = ""


class Feed:
    """What one operation tells."""

    def __init__(self) -> None:
        self._history: dict[str, Progress] = {}
        self._readers: set[_Reader] = set()
        self._told: dict[str, float] = {}
        self._ended = False

    @property
    def silent(self) -> bool:
        """Whether nothing was told yet."""
        return not self._history

    def say(self, status: str, id: str = "", *, aux: bytes = b"") -> None:
        """Tell a line."""
        self._tell(Progress(id=id, status=status, aux=aux))

    def print(self, text: str) -> None:
        """Tell a line of plain output."""
        self._tell(Progress(stream=text))

    def count(self, status: str, id: str, current: int, total: int) -> None:
        """Tell bytes done; too frequent ones are left out."""
        now = time.monotonic()
        if now - self._told.get(id, 0.0) >= INTERVAL:
            self._told[id] = now
            self._tell(Progress(id=id, status=status, current=current, total=total))

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        for reader in self._readers:
            reader.wake()

    async def read(self) -> AsyncIterator[Progress]:
        """Every line from now on, until the end."""
        reader = _Reader(list(self._history.values()))
        self._readers.add(reader)
        try:
            while True:
                for progress in reader.take():
                    yield progress
                if self._ended and reader.empty:
                    return
                await reader.wait()
        finally:
            self._readers.discard(reader)

    def _tell(self, progress: Progress) -> None:
        self._history[progress.id or f"line {len(self._history)}"] = progress
        for reader in self._readers:
            reader.put(progress)


class _Reader:
    """One client's unread lines."""

    def __init__(self, history: list[Progress]) -> None:
        self._lines: deque[list[Progress]] = deque([line] for line in history)
        self._counting: dict[str, list[Progress]] = {}
        self._more = asyncio.Event()

    @property
    def empty(self) -> bool:
        return not self._lines

    def put(self, progress: Progress) -> None:
        unread = self._counting.get(progress.id) if progress.total else None
        if unread is not None and unread[0].status == progress.status:
            unread[0] = progress
            return
        cell = [progress]
        self._lines.append(cell)
        if progress.total:
            self._counting[progress.id] = cell
        else:
            self._counting.pop(progress.id, None)
        self.wake()

    def take(self) -> list[Progress]:
        lines = [cell[0] for cell in self._lines]
        self._lines.clear()
        self._counting.clear()
        self._more.clear()
        return lines

    def wake(self) -> None:
        self._more.set()

    async def wait(self) -> None:
        await self._more.wait()


def retrying(seconds: int) -> str:
    """Docker's line for a transfer that waits for its next try."""
    return f"Retrying in {seconds} second{'s' * (seconds != 1)}"
