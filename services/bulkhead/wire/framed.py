"""A connection that carries `wire.direct`'s frames, whichever end of it this is, and how a client begins one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

from bulkhead.errors import InvalidArgument
from bulkhead.wire import direct
from bulkhead.wire.ttrpc import Frame, FrameReader, is_own_user


class Framed(asyncio.Protocol):
    """Cuts what comes into frames, for `receive`, which may raise InvalidArgument at one that means nothing."""

    def __init__(self) -> None:
        self._reader = FrameReader(direct.LIMIT)
        self._transport: asyncio.Transport | None = None

    def receive(self, received: Frame) -> None:
        """One frame."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio.Transport by inheritance.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for received in self._reader.feed(data):
                self.receive(received)
        except InvalidArgument:
            # A stream that lost its frame borders carries nothing more.
            self.end()

    @property
    def lost(self) -> bool:
        """Whether nobody hears what is written."""
        return self._transport is None or self._transport.is_closing()

    def write(self, frames: bytes) -> None:
        """Whole frames, unless the other end has gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frames)

    def write_long(self, stream: int, payload: bytes) -> None:
        """A frame of DATA whose payload is not copied, unless the other end has gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(direct.apart(stream, direct.TYPE_DATA, payload))

    def end(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()


class Greeting(Framed):
    """A client's end: says HELLO, and knows what was answered. See `dialled`."""

    def __init__(self) -> None:
        super().__init__()
        self._hello: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    async def hello(self) -> bytes | None:
        """What the other end answers, None when it does not understand.

        Raises ConnectionResetError when it is not our own user's.
        """
        assert self._transport is not None
        if not is_own_user(self._transport.get_extra_info("socket")):
            raise ConnectionResetError("it is served by another user")
        self.greet()
        return await self._hello

    def greet(self) -> None:
        """Say HELLO. It is answered each time."""
        self.write(direct.bare(0, direct.TYPE_HELLO))

    def receive(self, received: Frame) -> None:
        if received.type == direct.TYPE_HELLO:
            self._greeted(received.payload)

    def connection_lost(self, error: Exception | None) -> None:
        self._greeted(None)

    def _greeted(self, answer: bytes | None) -> None:
        if not self._hello.done():
            self._hello.set_result(answer)


Client = TypeVar("Client", bound=Greeting)


async def dialled(kind: Callable[[], Client], path: Path, understands: Callable[[bytes], bool]) -> Client | None:
    """A connection to the service at `path`; None when its answer to HELLO is none that `understands`.

    Raises OSError when nobody listens. Waits for a service that does not answer: how long is the caller's to say.
    """
    _, connection = await asyncio.get_running_loop().create_unix_connection(kind, str(path))
    try:
        answer = await connection.hello()
        if answer is not None and understands(answer):
            return connection
    except BaseException:
        connection.end()
        raise
    connection.end()
    return None
