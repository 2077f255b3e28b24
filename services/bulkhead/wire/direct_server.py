"""The server's side of `wire.direct`: the handlers of grpclib, called without grpclib."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, cast

import grpclib.const
from grpclib.exceptions import GRPCError

from bulkhead.errors import InvalidArgument
from bulkhead.wire import direct, protobuf
from bulkhead.wire.framed import Framed
from bulkhead.wire.held import Drain, Held
from bulkhead.wire.ttrpc import TYPE_REQUEST, TYPE_RESPONSE, Frame, Response, Status
from bulkhead.wire.ttrpc_protobuf import encode

# What costs more to copy than to send by itself.
_LONG = 32 << 10

Handlers = Mapping[str, grpclib.const.Handler]


class Either(asyncio.Protocol):
    """A connection of whom it is not known yet which protocol he speaks."""

    def __init__(self, http2: Callable[[], asyncio.BaseProtocol], frames: Callable[[], asyncio.BaseProtocol]) -> None:
        self._http2 = http2
        self._frames = frames
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        chosen = cast(asyncio.Protocol, self._frames() if data[0] == 0 else self._http2())
        self._transport.set_protocol(chosen)
        chosen.connection_made(self._transport)
        chosen.data_received(data)


class Session(Framed):
    """One caller's connection. Its calls end with it; `sessions` holds it while it lasts."""

    def __init__(self, handlers: Handlers, sessions: set[Session]) -> None:
        super().__init__()
        self._handlers = handlers
        self._sessions = sessions
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._said: dict[int, Held] = {}
        self._drain = Drain()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._sessions.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._sessions.discard(self)
        self.cancel()

    def pause_writing(self) -> None:
        self._drain.stop()

    def resume_writing(self) -> None:
        self._drain.go_on()

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel every call; those that were under way."""
        calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        return calls

    def send(self, stream: int, kind: int, payload: bytes) -> None:
        """One frame, unless the caller has gone."""
        self.write(direct.bare(stream, kind, payload))

    async def drained(self) -> None:
        """Wait for a caller who does not read."""
        if self.lost:
            # The end of its calls is on the way.
            await asyncio.sleep(0)
        await self._drain.wait()

    def said(self, stream: int) -> Held:
        """What the caller says in parts."""
        if stream not in self._said:
            assert self._transport is not None
            self._said[stream] = Held(self._transport)
        return self._said[stream]

    def receive(self, received: Frame) -> None:
        if received.type == TYPE_REQUEST:
            self._calls[received.stream] = asyncio.get_running_loop().create_task(self._serve(received))
        elif received.type in (direct.TYPE_DATA, direct.TYPE_END):
            # A call that is over is told the rest in vain.
            if received.stream in self._calls:
                self.said(received.stream).put(received.payload if received.type == direct.TYPE_DATA else None)
        elif received.type == direct.TYPE_HELLO:
            self.send(received.stream, direct.TYPE_HELLO, direct.KNOWS_BODIES)
        elif received.type == direct.TYPE_CANCEL:
            call = self._calls.get(received.stream)
            if call is not None:
                call.cancel()
                # One that has not begun never comes to its end.
                call.add_done_callback(lambda _: self._calls.pop(received.stream, None))
        else:
            raise InvalidArgument(f"cannot handle frame: type {received.type} is not one of ours")

    async def _serve(self, received: Frame) -> None:
        try:
            asked = direct.asked(received.payload)
            handler = self._handlers.get(asked.route)
            if handler is None:
                raise GRPCError(grpclib.const.Status.UNIMPLEMENTED, f"cannot call {asked.route}: no such method")
            stream = _Stream(self, received.stream, handler, asked)
            try:
                await handler.func(cast(Any, stream))
            except BaseException:
                # What it has said comes before why it says no more.
                stream.flush()
                raise
            stream.end()
        except InvalidArgument as error:
            self._fail(received.stream, grpclib.const.Status.INVALID_ARGUMENT, str(error))
        except GRPCError as error:
            self._fail(received.stream, error.status, error.message or error.status.name)
        finally:
            self._calls.pop(received.stream, None)
            if (said := self._said.pop(received.stream, None)) is not None:
                said.drop()

    def _fail(self, stream: int, status: grpclib.const.Status, message: str) -> None:
        answer = Response(status=Status(code=status.value, message=message))
        self.send(stream, TYPE_RESPONSE, encode(answer))


class _Stream:
    """As much of `grpclib.server.Stream` as handlers use."""

    def __init__(self, session: Session, number: int, handler: grpclib.const.Handler, asked: direct.Asked) -> None:
        self.metadata: Mapping[str, str] = asked.metadata
        self._session = session
        self._number = number
        self._handler = handler
        self._payload = asked.message
        self._in_parts = handler.cardinality.server_streaming
        self._part = b""

    async def recv_message(self) -> Any:
        try:
            return protobuf.decode(self._handler.request_type, self._payload)
        except ValueError as error:
            raise InvalidArgument(str(error)) from error

    async def __aiter__(self) -> AsyncIterator[Any]:
        said = self._session.said(self._number)
        while (payload := await said.next()) is not None:
            try:
                yield protobuf.decode(self._handler.request_type, payload)
            except ValueError as error:
                raise InvalidArgument(str(error)) from error

    async def send_message(self, message: Any) -> None:
        payload = protobuf.encode(message)
        if not self._in_parts:
            self._session.send(self._number, TYPE_RESPONSE, direct.response(payload))
            return
        self.flush()
        if len(payload) > _LONG:
            self._session.write_long(self._number, payload)
            await self._session.drained()
            return
        # The last part goes together with the end: the caller, who has all of it then, is woken once.
        self._part = direct.bare(self._number, direct.TYPE_DATA, payload)
        asyncio.get_running_loop().call_soon(self.flush)
        await self._session.drained()

    def end(self) -> None:
        """The handler is through."""
        if self._in_parts:
            part, self._part = self._part, b""
            self._session.write(part + direct.bare(self._number, TYPE_RESPONSE, direct.response(b"")))

    def flush(self) -> None:
        """Send what is held back."""
        part, self._part = self._part, b""
        if part:
            self._session.write(part)
