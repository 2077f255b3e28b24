"""A call that carries a file, over a connection of its own: frames both ways, and no more than the other end takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import cast

from bulkhead.wire import direct
from bulkhead.wire.framed import Greeting, dialled
from bulkhead.wire.held import Drain, Held
from bulkhead.wire.pulse import answer_expected
from bulkhead.wire.status import error_of
from bulkhead.wire.ttrpc import TYPE_REQUEST, TYPE_RESPONSE, Frame

_STREAM = 1


async def opened(path: Path) -> Passage | None:
    """A passage to the service at `path`; None when it knows none. Raises OSError when nobody listens, or answers."""
    async with answer_expected():
        return await dialled(Passage, path, lambda answer: answer == direct.KNOWS_BODIES)


class Passage(Greeting):
    """One call's connection. Use `opened`."""

    def __init__(self) -> None:
        super().__init__()
        self._heard: Held | None = None
        self._drain = Drain()

    async def ask(self, route: str, message: bytes, request_id: str) -> AsyncGenerator[bytes]:
        """The messages of an answer. Raises what the server raised, ConnectionResetError when the connection ends."""
        self.write(direct.bare(_STREAM, TYPE_REQUEST, direct.request(route, message, request_id)))
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._heard = Held(cast(asyncio.Transport, transport))

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._hear(ConnectionResetError("the connection ended"))
        self._drain.go_on()

    def pause_writing(self) -> None:
        self._drain.stop()

    def resume_writing(self) -> None:
        self._drain.go_on()

    def receive(self, received: Frame) -> None:
        if received.type == TYPE_RESPONSE:
            status = direct.answered(received.payload).status
            self._hear(error_of(status.code, status.message) if status is not None and status.code else None)
        elif received.type == direct.TYPE_DATA:
            self._hear(received.payload)
        else:
            super().receive(received)

    async def _tell(self, messages: AsyncIterator[bytes]) -> None:
        try:
            async for message in messages:
                self.write_long(_STREAM, message)
                await self._drain.wait()
                if self.lost:
                    return
            self.write(direct.bare(_STREAM, direct.TYPE_END))
        except Exception as error:
            self._hear(error)

    def _hear(self, part: bytes | Exception | None) -> None:
        assert self._heard is not None
        self._heard.put(part)
