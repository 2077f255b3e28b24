"""An archive on its way to the worker that unpacks it, past the manager: to the socket that the manager named."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

# What a worker costs us that is gone: why it is, its own answer tells.
_gone = contextlib.suppress(OSError)


async def pour(socket: str, archive: AsyncIterator[bytes]) -> None:
    """Send all of it, say that this is all, and stay until cancelled: a connection that is closed has broken off.

    Raises only what `archive` raises.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        with _gone:
            _, writer = await asyncio.open_unix_connection(socket)
        if writer is not None:
            await _send(writer, archive)
        await asyncio.Event().wait()
    finally:
        if writer is not None:
            writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, archive: AsyncIterator[bytes]) -> None:
    async for piece in archive:
        if writer.transport.is_closing():
            return  # a transport of uvloop's raises no OSError for what it cannot take
        with _gone:
            writer.write(piece)
            await writer.drain()
    if writer.transport.is_closing():
        return
    with _gone:
        writer.write_eof()
