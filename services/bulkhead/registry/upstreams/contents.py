"""A cached blob opened for reading, whether or not all of it is there yet."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import BinaryIO

from bulkhead.content.blocking import Blocking
from bulkhead.errors import BulkheadError
from bulkhead.registry.upstreams.fills import Fill

PIECE = 1 << 20


class CachedContent:
    """The file of a blob; with `fill`, one that still grows (`ports.Content`)."""

    def __init__(self, file: BinaryIO, fill: Fill | None, blocking: Blocking) -> None:
        self._file = file
        self._fill = fill
        self._blocking = blocking

    @property
    def file(self) -> BinaryIO | None:
        """The whole file; None while it grows."""
        return self._file if self._fill is None else None

    async def pieces(self, start: int, length: int) -> AsyncIterator[bytes]:
        """The bytes as they arrive. Raises ConnectionResetError when no more will come: they were promised."""
        offset, end = start, start + length
        while offset < end:
            # Asked for before the look, so that what comes during it is not missed.
            news, limit = self._news(), min(end, self._limit())
            data = b""
            if offset < limit:
                data = await self._blocking.run(os.pread, self._file.fileno(), min(PIECE, limit - offset), offset)
            if data:
                yield data
                offset += len(data)
            elif news is None:
                raise ConnectionResetError("there is less than there should be")
            else:
                await news.wait()

    def _news(self) -> asyncio.Event | None:
        """Set when there is more to read; None when all is there that will be."""
        return None if self._fill is None or self._fill.ended else self._fill.news()

    def _limit(self) -> int:
        """How far may be read: the last byte is held back until it is certain that the bytes are right."""
        if self._fill is None:
            return sys.maxsize
        try:
            return sys.maxsize if self._fill.check() else self._fill.blob.size - 1
        except BulkheadError as error:
            raise ConnectionResetError(f"the fetch failed: {error}") from error

    async def close(self) -> None:
        self._file.close()
