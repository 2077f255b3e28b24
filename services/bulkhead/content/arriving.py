"""A blob that is read while it is still being written: how much of it is there, and from when on it is true.

The writer tells, any number of readers follow. What was read is worth nothing until `is_whole`: only then the
bytes were found to have their digest.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from bulkhead.errors import Unavailable


class Interrupted(Unavailable):
    """The blob starts over: what was read of it so far may not be what it is."""


class Arriving:
    """One blob on its way into the store."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._size = 0
        self._whole = False
        self._generation = 0
        self._news = asyncio.Event()

    @property
    def generation(self) -> int:
        """Counts the times that it started over."""
        return self._generation

    @property
    def is_whole(self) -> bool:
        """Whether all of it is there, verified."""
        return self._whole

    def grown(self, path: Path, size: int) -> None:
        """The file at `path` holds its first `size` bytes."""
        self._path, self._size = path, size
        self._tell()

    def whole(self, path: Path, size: int) -> None:
        """It is at `path`, verified."""
        self._whole = True
        self.grown(path, size)

    def broken(self) -> None:
        """It starts over, in another file perhaps."""
        self._generation += 1
        self._path, self._size = None, 0
        self._tell()

    async def begun(self) -> None:
        """Wait until there is a file."""
        while self._path is None:
            await self._news.wait()

    async def verified(self) -> None:
        """Wait until it is whole."""
        while not self._whole:
            await self._news.wait()

    async def open(self) -> tuple[int, int]:
        """A descriptor of the file, which is the caller's, and the generation it belongs to. Raises OSError."""
        while True:
            await self.begun()
            assert self._path is not None
            try:
                return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC), self._generation
            except FileNotFoundError:
                if self._whole:
                    raise
                # It is just getting its name in the store.
                await self._news.wait()

    async def after(self, size: int, generation: int) -> tuple[int, bool]:
        """Wait for more than `size` bytes: how many there are now, and whether that is all. Raises Interrupted."""
        while True:
            if generation != self._generation:
                raise Interrupted("cannot unpack layer: its blob starts over")
            if self._whole or self._size > size:
                return self._size, self._whole
            await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
