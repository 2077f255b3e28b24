"""A call that carries a file, over a connection of its own: frames both ways, and no more than the other end takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import cast

from bulkhead.errors import BulkheadError
from bulkhead.wire import direct
from bulkhead.wire.held import Drain, Held
from bulkhead.wire.status import error_of
from bulkhead.wire.ttrpc import TYPE_REQUEST, TYPE_RESPONSE, Frame, FrameReader, is_own_user

_STREAM = 1


async def opened(path: Path) -> Passage | None:
    """A passage to the service at `path`; None when it knows none. Raises OSError when nobody listens.

    Waits for a service that does not answer: how long is the caller's to say.
    """
    _, passage = await asyncio.get_running_loop().create_unix_connection(Passage, str(path))
    try:
        understood = await passage.hello()
    except BaseException:
        passage.end()
        raise
    if not understood:
        passage.end()
    return passage if understood else None


class Passage(asyncio.Protocol):
    """One call's connection. Use `opened`."""

    def __init__(self) -> None:
        self._reader = FrameReader(direct.LIMIT)
        self._transport: asyncio.Transport | None = None
        self._hello: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._heard: Held | None = None
        self._drain = Drain()

    async def hello(self) -> bool:
        """Whether the other end understands. Raises ConnectionResetError when it is not our own user's."""
        assert self._transport is not None
        if not is_own_user(self._transport.get_extra_info("socket")):
            raise ConnectionResetError("it is served by another user")
        self._transport.write(direct.bare(0, direct.TYPE_HELLO))
        return await self._hello

    async def ask(self, route: str, message: bytes, request_id: str) -> AsyncGenerator[bytes]:
        """The messages of an answer. Raises what the server raised, ConnectionResetError when the connection ends."""
        self._send(direct.bare(_STREAM, TYPE_REQUEST, direct.request(route, message, request_id)))
        assert self._heard is not None
        while (part := await self._heard.next()) is not None:
            yield part

    async def tell(self, route: str, messages: AsyncIterator[bytes], request_id: str) -> AsyncGenerator[bytes]:
        """The same for a request in parts. Raises what `messages` raise, too; the server then never hears an end."""
        telling = asyncio.create_task(self._tell(messages))
        try:
            async for part in self.ask(route, b"", request_id):
                yield part
        finally:
            telling.cancel()
            await asyncio.wait([telling])

    def end(self) -> None:
        """Close the connection; the server ends a call that is under way."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._heard = Held(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._hello.done():
            self._hello.set_result(False)
        self._hear(ConnectionResetError("the connection ended"))
        self._drain.go_on()

    def pause_writing(self) -> None:
        self._drain.stop()

    def resume_writing(self) -> None:
        self._drain.go_on()

    def data_received(self, data: bytes) -> None:
        try:
            for received in self._reader.feed(data):
                self._receive(received)
        except BulkheadError:
            # A stream that lost its frame borders carries nothing more.
            self.end()

    def _receive(self, received: Frame) -> None:
        if received.type == TYPE_RESPONSE:
            status = direct.answered(received.payload).status
            self._hear(error_of(status.code, status.message) if status is not None and status.code else None)
        elif received.type == direct.TYPE_DATA:
            self._hear(received.payload)
        elif received.type == direct.TYPE_HELLO and not self._hello.done():
            self._hello.set_result(received.payload == direct.KNOWS_BODIES)

    async def _tell(self, messages: AsyncIterator[bytes]) -> None:
        try:
            async for message in messages:
                self._send(*direct.apart(_STREAM, direct.TYPE_DATA, message))
                await self._drain.wait()
                if self._is_lost:
                    return
            self._send(direct.bare(_STREAM, direct.TYPE_END))
        except Exception as error:
            self._hear(error)

    @property
    def _is_lost(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _hear(self, part: bytes | Exception | None) -> None:
        assert self._heard is not None
        self._heard.put(part)

    def _send(self, *data: bytes) -> None:
        if self._transport is not None and not self._is_lost:
            self._transport.writelines(data)
