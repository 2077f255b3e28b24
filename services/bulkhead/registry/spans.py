"""A span of an object as an HTTP response, by sendfile(2) where it is a file and the connection is plain TCP.

A transfer that is alone is copied through a small buffer instead: the receiver finds its bytes in the cache and not
in memory, which over loopback is a quarter faster (tests/bench/registry_bench.py). From two on, the cycles that
sendfile saves are worth more.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from typing import BinaryIO

from aiohttp import web

from bulkhead.content.blocking import Blocking
from bulkhead.errors import BulkheadError
from bulkhead.registry.ports import Content

# What one trip to a thread may move: long enough to hide the trip, short enough to share the threads.
PIECE = 32 << 20
# What a copy moves at once: it stays in a core's cache.
COPY = 256 << 10
# A reader that is this much behind is waited for in the loop, not in a thread.
PAUSE_MILLISECONDS = 5
# A reader that takes nothing for so long is gone.
IDLE_SECONDS = 60.0
# (socket, file, offset, count) -> how much was moved.
Move = Callable[[int, int, int, int], int]


class Sender:
    """Sends objects, by the threads of one pool."""

    def __init__(self, blocking: Blocking) -> None:
        self._blocking = blocking
        self._active = 0

    async def send(
        self, request: web.BaseRequest, response: web.StreamResponse, content: Content, start: int, length: int
    ) -> web.StreamResponse:
        """Answer `request` with `response` and the bytes [start, start+length) of `content`."""
        response.content_length = length
        await response.prepare(request)
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client went away")
        if content.file is None or transport.get_extra_info("sslcontext") is not None:
            await _copy(response, content, start, length)
        else:
            await _drain(response, transport)
            await self._send_file(transport, content.file, start, length)
            if transport.is_closing():
                raise ConnectionResetError("the client went away")
            transport.set_write_buffer_limits()
        await response.write_eof()
        return response

    async def _send_file(self, transport: asyncio.Transport, file: BinaryIO, start: int, length: int) -> None:
        # uvloop has no sendfile of its own, and a descriptor of ours may be waited for on either loop.
        sock = os.dup(transport.get_extra_info("socket").fileno())
        self._active += 1
        try:
            offset, end = start, start + length
            while offset < end:
                move = _copying() if self._active == 1 else os.sendfile
                sent = await self._blocking.run(_send_piece, move, sock, file.fileno(), offset, end - offset)
                offset += sent
                if offset < end and sent < PIECE:
                    await _writable(sock)
        finally:
            self._active -= 1
            os.close(sock)


def _copying() -> Move:
    """sendfile(2)'s work by a buffer of its own."""
    buffer = memoryview(bytearray(COPY))

    def move(sock: int, file: int, offset: int, count: int) -> int:
        return os.write(sock, buffer[: os.preadv(file, [buffer[: min(count, COPY)]], offset)])

    return move


async def _copy(response: web.StreamResponse, content: Content, start: int, length: int) -> None:
    try:
        async for piece in content.pieces(start, length):
            async with asyncio.timeout(IDLE_SECONDS):
                await response.write(piece)
    except (BulkheadError, TimeoutError) as error:
        # The headers are out: all that can be said is that this is not the whole.
        raise ConnectionResetError(f"the body broke off: {error}") from error


async def _drain(response: web.StreamResponse, transport: asyncio.Transport) -> None:
    """Wait until the headers are in the kernel: the file goes past the transport's own buffer."""
    transport.set_write_buffer_limits(high=0)
    writer = response._payload_writer
    while transport.get_write_buffer_size() > 0 and writer is not None:
        async with asyncio.timeout(IDLE_SECONDS):
            await writer.drain()
        await asyncio.sleep(0)


def _send_piece(move: Move, sock: int, file: int, offset: int, count: int) -> int:
    """As much as the socket takes without a pause, up to PIECE. In a thread: the disk may have to be waited for."""
    total, limit = 0, min(count, PIECE)
    ready = select.poll()
    ready.register(sock, select.POLLOUT)
    while total < limit:
        try:
            sent = move(sock, file, offset + total, limit - total)
        except BlockingIOError:
            if not ready.poll(PAUSE_MILLISECONDS):
                break
            continue
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ConnectionResetError("the client went away") from error
        if sent == 0:
            raise ConnectionResetError("the file is shorter than it was")
        total += sent
    return total


async def _writable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_writer(fd, _release, ready)
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            await ready
    except TimeoutError:
        raise ConnectionResetError("the client takes nothing") from None
    finally:
        loop.remove_writer(fd)


def _release(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
