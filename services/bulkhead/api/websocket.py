"""Attach over a websocket: what the process says as binary messages without Docker's frames, what comes back its stdin.

Clients older than 1.28 get text messages, as from Docker.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct

from aiohttp import WSMsgType, web

from bulkhead.api.call import Call
from bulkhead.api.duplex import End
from bulkhead.api.versions import HEADERS, Version
from bulkhead.errors import InvalidArgument

# How much of a process's output waits for a slow client before the process is no longer read.
MOST_WAITING = 256 << 10
_HEADER = struct.Struct(">BxxxL")
_LARGEST_MESSAGE = 1 << 20


class Socket:
    """An accepted websocket."""

    def __init__(self, response: web.WebSocketResponse, *, text: bool) -> None:
        self.response = response
        self._text = text

    async def say(self, data: bytes) -> None:
        """Send some output; raises ConnectionError when the client is gone."""
        if not data:
            return
        if self._text:
            await self.response.send_str(data.decode(errors="replace"))
        else:
            await self.response.send_bytes(data)


def check(call: Call) -> None:
    """Raise InvalidArgument for a request that is no websocket's."""
    if not web.WebSocketResponse().can_prepare(call.whole).ok:
        raise InvalidArgument("bad request: a websocket handshake is needed here")


async def accept(call: Call) -> Socket:
    """Answer the handshake that `check` has seen."""
    response = web.WebSocketResponse(compress=False, max_msg_size=_LARGEST_MESSAGE)
    response.headers.update(HEADERS)
    call.connection.endless = True
    await response.prepare(call.whole)
    return Socket(response, text=call.version < Version(1, 28))


async def converse(socket: Socket, process: End, *, framed: bool) -> None:
    """Carry both ways until the process's stream ends or the client leaves; a slow side pauses the other."""
    output = _Output(process, framed=framed)
    process.listen(output)
    listening = asyncio.ensure_future(_hear(socket, process, output))
    try:
        while (data := await output.next()) is not None:
            await socket.say(data)
        await socket.response.close()
    except ConnectionError:
        """The client is gone; the process does not care."""
    finally:
        process.close()
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening


async def _hear(socket: Socket, process: End, output: _Output) -> None:
    """Messages are input; a client that leaves has detached."""
    try:
        async for message in socket.response:
            if message.type is WSMsgType.TEXT:
                process.write(message.data.encode())
            elif message.type is WSMsgType.BINARY:
                process.write(message.data)
            await output.input_wanted.wait()
    finally:
        output.lost()


class _Output:
    """Hears the shim; what it said is fetched with `next`."""

    def __init__(self, process: End, *, framed: bool) -> None:
        self.input_wanted = asyncio.Event()
        self.input_wanted.set()
        self._process = process
        self._unframed = Unframed() if framed else None
        self._waiting = bytearray()
        self._news = asyncio.Event()
        self._over = False
        self._paused = False

    async def next(self) -> bytes | None:
        """What was said since; None once that was all."""
        await self._news.wait()
        data = bytes(self._waiting)
        self._waiting.clear()
        if self._paused:
            self._paused = False
            self._process.resume_reading()
        if not self._over:
            self._news.clear()
        elif not data:
            return None
        return data

    def received(self, data: bytes) -> None:
        self._waiting += data if self._unframed is None else self._unframed.take(data)
        self._news.set()
        if len(self._waiting) > MOST_WAITING and not self._paused:
            self._paused = True
            self._process.pause_reading()

    def ended(self) -> None:
        self._over = True
        self._news.set()

    def lost(self) -> None:
        self.ended()

    def writing_paused(self) -> None:
        self.input_wanted.clear()

    def writing_resumed(self) -> None:
        self.input_wanted.set()


class Unframed:
    """Takes Docker's frames off a stream, wherever it was cut."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    def take(self, data: bytes) -> bytes:
        """The payload in the next bytes of the stream."""
        found = bytearray()
        position = 0
        while position < len(data):
            if self._left:
                part = data[position : position + self._left]
                found += part
                self._left -= len(part)
                position += len(part)
                continue
            part = data[position : position + _HEADER.size - len(self._head)]
            self._head += part
            position += len(part)
            if len(self._head) == _HEADER.size:
                self._left = _HEADER.unpack(self._head)[1]
                self._head = b""
        return bytes(found)
