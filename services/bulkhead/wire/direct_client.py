"""The client's side of `wire.direct`: one connection to a service, made when it is needed, made again after a loss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Set
from pathlib import Path

from bulkhead.wire import direct
from bulkhead.wire.expiry import Deadlines, expire
from bulkhead.wire.framed import Greeting, dialled
from bulkhead.wire.pulse import Pulse, Silence, answer_expected
from bulkhead.wire.status import error_of
from bulkhead.wire.ttrpc import TYPE_REQUEST, TYPE_RESPONSE, Frame, Response

# Who speaks gRPC only is asked again after a while: he may have been replaced.
_ASK_AGAIN_SECONDS = 30.0
_LAST_STREAM = (1 << 31) - 1


class Direct:
    """The connection to the service that listens at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._link: Link | None = None
        self._connecting = asyncio.Lock()
        self._not_before = 0.0

    @property
    def live(self) -> Link | None:
        """The connection, if there is one."""
        link = self._link
        return link if link is not None and link.alive else None

    async def link(self) -> Link | None:
        """A live connection; None when the service speaks gRPC only. Raises OSError when nobody listens, or answers."""
        async with answer_expected(), self._connecting:
            if self.live is not None:
                return self.live
            if time.monotonic() < self._not_before:
                return None
            self._link = await self._connected()
            if self._link is None:
                self._not_before = time.monotonic() + _ASK_AGAIN_SECONDS
            return self._link

    async def falls_silent(self) -> bool:
        """Look after the service for as long as it lives: whether it is there then, and says nothing to anybody."""
        try:
            while (link := await self.link()) is not None:
                await link.lasts()
        except Silence:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """End the connection; calls in flight fail with OSError."""
        if self._link is not None:
            self._link.end()

    async def _connected(self) -> Link | None:
        return await dialled(Link, self._path, lambda answer: True)


class Link(Greeting):
    """Who waits for which stream."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._parts: dict[int, asyncio.Queue[bytes | Exception | None]] = {}
        self._deadlines = Deadlines()
        self._pulse = Pulse(self.greet, self._all_waiting, self._give_up)
        self._next = 1

    @property
    def alive(self) -> bool:
        """Whether it has answered HELLO, and lasts."""
        return self._hello.done() and not self.lost

    async def ask(self, route: str, message: bytes, request_id: str, seconds: float) -> bytes:
        """One answer. Raises what the server raised, ConnectionResetError when the connection ends, TimeoutError, and
        Silence when the server says nothing to anybody; what it was asked for it may do later."""
        stream = self._begin(route, message, request_id)
        future = self._awaited(stream)
        self._deadlines.set(future, seconds)
        try:
            return await future
        finally:
            self._deadlines.lift(future)
            if self._waiting.pop(stream, None) is not None:
                self.write(direct.bare(stream, direct.TYPE_CANCEL))

    async def ask_in_parts(self, route: str, message: bytes, request_id: str) -> AsyncGenerator[bytes]:
        """The messages of an answer. Raises as `ask` does."""
        stream = self._begin(route, message, request_id)
        queue = self._parts[stream] = asyncio.Queue()
        self._pulse.begin()
        try:
            while (part := await queue.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            if self._parts.pop(stream, None) is not None:
                self.write(direct.bare(stream, direct.TYPE_CANCEL))

    async def lasts(self) -> None:
        """Returns when the connection ends. Raises Silence as `ask` does."""
        stream = self._number()
        try:
            await self._awaited(stream)
        except ConnectionResetError:
            return
        finally:
            self._waiting.pop(stream, None)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._deadlines.drop()
        self._pulse.end()
        gone = ConnectionResetError("the connection ended")
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(gone)
        parts, self._parts = self._parts, {}
        for queue in parts.values():
            queue.put_nowait(gone)

    def data_received(self, data: bytes) -> None:
        self._pulse.heard()
        super().data_received(data)

    def receive(self, received: Frame) -> None:
        if received.type == TYPE_RESPONSE:
            self._settle(received.stream, direct.answered(received.payload))
        elif received.type == direct.TYPE_DATA:
            queue = self._parts.get(received.stream)
            if queue is not None:
                queue.put_nowait(received.payload)
        else:
            super().receive(received)

    def _give_up(self, streams: Set[int]) -> None:
        for stream in streams:
            if (queue := self._parts.pop(stream, None)) is not None:
                self.write(direct.bare(stream, direct.TYPE_CANCEL))
                queue.put_nowait(Silence())
            else:
                expire(self._waiting[stream], Silence())

    def _all_waiting(self) -> Set[int]:
        return self._waiting.keys() | self._parts.keys()

    def _awaited(self, stream: int) -> asyncio.Future[bytes]:
        future = self._waiting[stream] = asyncio.get_running_loop().create_future()
        self._pulse.begin()
        return future

    def _settle(self, stream: int, response: Response) -> None:
        status = response.status
        failure = error_of(status.code, status.message) if status is not None and status.code else None
        future = self._waiting.pop(stream, None)
        queue = self._parts.pop(stream, None)
        if queue is not None:
            queue.put_nowait(failure)
        if future is None or future.done():
            return
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(response.payload)

    def _begin(self, route: str, message: bytes, request_id: str) -> int:
        stream = self._number()
        self.write(direct.bare(stream, TYPE_REQUEST, direct.request(route, message, request_id)))
        return stream

    def _number(self) -> int:
        stream = self._next
        while stream in self._waiting or stream in self._parts:  # after a wrap a long wait may still hold its number
            stream = 1 if stream >= _LAST_STREAM else stream + 2
        self._next = 1 if stream >= _LAST_STREAM else stream + 2
        return stream
