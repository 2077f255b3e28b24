"""An archive on its way to the worker that unpacks it, past the manager: to the socket that the manager named."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator

from bulkhead.errors import Unavailable

# What a worker costs us that is gone: why it is, its own answer tells.
_gone = contextlib.suppress(ConnectionError, FileNotFoundError)


async def pour(socket: str, archive: AsyncIterator[bytes]) -> None:
    """Send all of it, say that this is all, and stay until cancelled: a connection that is closed has broken off.

    Raises what `archive` raises, Unavailable when we have no descriptor for it.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        with _gone:
            _, writer = await _opened(socket)
        if writer is not None:
            await _send(writer, archive)
        await asyncio.Event().wait()
    finally:
        if writer is not None:
            writer.transport.abort()


async def _opened(socket: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_unix_connection(socket)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise Unavailable(f"cannot send archive: {os.strerror(error.errno)}") from error
        raise


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
