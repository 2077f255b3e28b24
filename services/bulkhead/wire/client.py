"""Services called over a Unix socket: our errors come back as themselves, an absent peer as Unavailable.

The contract is gRPC; a service of our own is spoken to in frames where that will do (`wire.direct`).

manager = dial(ContainersStub, path, "manager")
await manager.start(StartContainerRequest(ref="web"))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from betterproto2.grpclib import ServiceStub
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from bulkhead import telemetry
from bulkhead.counting import count_call
from bulkhead.errors import BulkheadError, DeadlineExceeded, Unavailable
from bulkhead.wire import direct
from bulkhead.wire.channel import MortalChannel
from bulkhead.wire.direct_client import Direct, Link
from bulkhead.wire.passage import Passage, opened
from bulkhead.wire.protobuf import decode, encode
from bulkhead.wire.pulse import Silence
from bulkhead.wire.status import error_of

# For calls that name no time of their own: longer than any deadline of the one who is called, shorter than for ever.
CALL_SECONDS = 900.0

# A stub's stream is closed where it is left: left to the collector, the peer would go on sending to nobody.
Messages = AsyncGenerator[Any, None]
Stub = TypeVar("Stub", bound=ServiceStub)
# What a reader that stands still costs; the peer waits with the rest.
_WINDOW = 256 << 10
_OF_ONE_CALL = Configuration(http2_connection_window_size=_WINDOW, http2_stream_window_size=_WINDOW)
_TRANSLATED = (GRPCError, TimeoutError, OSError, StreamTerminatedError, ProtocolError)


class PeerAway(Unavailable):
    """Nobody answers: what is not available is the service itself, not what it was asked for."""


@contextmanager
def translated(peer: str) -> Iterator[None]:
    """Errors of a call to the service `peer`, in our vocabulary."""
    try:
        yield
    except _TRANSLATED as error:
        raise _translation(peer, error) from error


def _translation(peer: str, error: Exception) -> BulkheadError:
    if isinstance(error, GRPCError):
        return error_of(error.status.value, error.message or error.status.name)
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(f"the {peer} service did not answer in time")
    if isinstance(error, Silence):
        return PeerAway(
            f"the {peer} service does not answer: it is stopped or stuck, and may do later what it was asked for (see "
            "`make doctor`)"
        )
    reason = str(error) or type(error).__name__
    return PeerAway(f"the {peer} service is not available: {reason} (see `make status`, start it with `make up`)")


class _OneCall(ServiceStub):
    """A call in parts, over a connection that may break while we speak."""

    @staticmethod
    async def _send_messages(stream: Any, messages: Any) -> None:
        """The answers tell of a broken connection; what the task that this is raises would be heard by nobody."""
        with suppress(StreamTerminatedError):
            await ServiceStub._send_messages(stream, messages)


@asynccontextmanager
async def _apart(over: Channel) -> AsyncIterator[ServiceStub]:
    """For one call in parts: a connection of its own to the peer of `over`.

    HTTP/2 has one window and a number of streams for each connection: of those that share it, one whose reader
    stands still stops all others in the end, and a hundred that wait for events let nobody else begin.
    """
    own = MortalChannel(path=str(over.path), config=_OF_ONE_CALL) if isinstance(over, ServiceChannel) else over
    try:
        async with _heeded(over, own.close):
            yield _OneCall(own)
    finally:
        if own is not over:
            own.close()


@asynccontextmanager
async def _heeded(over: Channel, hang_up: Callable[[], None]) -> AsyncIterator[None]:
    """A call whose own connection does not say whether its service lives: a stream may be quiet for hours, and a file
    wait for a slow disk. The service is asked beside it, and what it does not answer ends as Silence."""
    if not isinstance(over, ServiceChannel):
        yield
        return
    looking = asyncio.create_task(over.direct.falls_silent())
    looking.add_done_callback(lambda ended: hang_up() if _is_silent(ended) else None)
    try:
        yield
    except _TRANSLATED as error:
        if _is_silent(looking):
            raise Silence from error
        raise
    finally:
        looking.cancel()
        await asyncio.wait([looking])


def _is_silent(looking: asyncio.Task[bool]) -> bool:
    return looking.done() and not looking.cancelled() and looking.result()


async def _or_hang_up(messages: AsyncIterator[Any], over: Channel, failed: list[Exception]) -> AsyncIterator[Any]:
    """What a call is told. Where that fails, the call is broken off: it would wait for the rest for ever."""
    try:
        async for message in messages:
            yield message
    except Exception as error:
        failed.append(error)
        over.close()
        # To end here would say that this was all.
        await asyncio.Event().wait()


@asynccontextmanager
async def _passage(over: Channel, route: str) -> AsyncIterator[Passage | None]:
    """For a call that carries a file: its own connection; None for any other, or to a service that knows none."""
    found = await opened(over.path) if isinstance(over, ServiceChannel) and route in direct.BODIES else None
    if found is None:
        yield None
        return
    try:
        async with _heeded(over, found.end):
            yield found
    finally:
        found.end()


async def _encoded(messages: AsyncIterator[Any], failed: list[Exception]) -> AsyncIterator[bytes]:
    """What a call is told; why there is no more of it, where that fails, is no failure of the call's."""
    try:
        async for message in messages:
            yield encode(message)
    except Exception as error:
        failed.append(error)
        raise


class _Translating(ServiceStub):
    """The call shapes of a generated stub that there are, each translated."""

    peer = ""

    async def _direct(self) -> Link | None:
        over = self.channel
        return await over.direct.link() if isinstance(over, ServiceChannel) else None

    def _metadata(self, given: Any) -> Any:
        if given is not None:
            return given
        bound = telemetry.request_id()
        return {telemetry.REQUEST_ID_HEADER: bound} if bound else None

    async def _unary_unary(
        self,
        route: str,
        request: Any,
        response_type: Any,
        *,
        timeout: float | None = None,
        deadline: Any = None,
        metadata: Any = None,
    ) -> Any:
        seconds = CALL_SECONDS if timeout is None else timeout
        count_call(self.peer, route)
        try:
            over = self.channel
            link = over.direct.live if isinstance(over, ServiceChannel) else None
            if link is None:
                began = time.monotonic()
                async with asyncio.timeout(seconds):
                    link = await self._direct()
                seconds -= time.monotonic() - began
            if link is not None:
                answer = await link.ask(route, encode(request), telemetry.request_id(), seconds)
                return decode(response_type, answer)
            given = self._metadata(metadata)
            return await super()._unary_unary(
                route, request, response_type, timeout=seconds, deadline=deadline, metadata=given
            )
        except _TRANSLATED as error:
            raise _translation(self.peer, error) from error

    async def _unary_stream(
        self,
        route: str,
        request: Any,
        response_type: Any,
        *,
        timeout: float | None = None,
        deadline: Any = None,
        metadata: Any = None,
    ) -> AsyncIterator[Any]:
        count_call(self.peer, route)
        with translated(self.peer):
            link = await self._direct() if route in direct.SHORT and timeout is None else None
            if link is not None:
                async with aclosing(link.ask_in_parts(route, encode(request), telemetry.request_id())) as parts:
                    async for part in parts:
                        yield decode(response_type, part)
                return
            async with _passage(self.channel, route) as passage:
                if passage is not None:
                    async with aclosing(passage.ask(route, encode(request), telemetry.request_id())) as parts:
                        async for part in parts:
                            yield decode(response_type, part)
                    return
            given = self._metadata(metadata)
            async with _apart(self.channel) as own:
                told = own._unary_stream(
                    route, request, response_type, timeout=timeout, deadline=deadline, metadata=given
                )
                async with aclosing(cast(Messages, told)) as answers:
                    async for message in answers:
                        yield message

    async def _stream_stream(
        self,
        route: str,
        request_iterator: Any,
        request_type: Any,
        response_type: Any,
        *,
        timeout: float | None = None,
        deadline: Any = None,
        metadata: Any = None,
    ) -> AsyncIterator[Any]:
        count_call(self.peer, route)
        failed: list[Exception] = []
        try:
            with translated(self.peer):
                async with _passage(self.channel, route) as passage:
                    if passage is not None:
                        told = _encoded(request_iterator, failed)
                        async with aclosing(passage.tell(route, told, telemetry.request_id())) as parts:
                            async for part in parts:
                                yield decode(response_type, part)
                        return
            with translated(self.peer):
                async with _apart(self.channel) as own:
                    answers = own._stream_stream(
                        route,
                        _or_hang_up(request_iterator, own.channel, failed),
                        request_type,
                        response_type,
                        timeout=timeout,
                        deadline=deadline,
                        metadata=self._metadata(metadata),
                    )
                    async with aclosing(cast(Messages, answers)) as said:
                        async for message in said:
                            yield message
        except Exception:
            if failed:
                raise failed[0] from None
            raise


class ServiceChannel(MortalChannel):
    """A gRPC channel to one of our services, and the direct connection beside it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path=str(path))
        self.path = path
        self.direct = Direct(path)

    def close(self) -> None:
        self.direct.close()
        super().close()


def channel(path: Path) -> Channel:
    """A channel to the Unix socket `path`; it connects at the first call, and again after the peer was away."""
    return ServiceChannel(path)


def stub(kind: type[Stub], over: Channel, peer: str) -> Stub:
    """A stub of the generated class `kind` whose errors are ours; `peer` is the service's name in messages."""
    translating = type(f"Translating{kind.__name__}", (_Translated(kind),), {"peer": peer})
    return cast(Stub, translating(over))


def _Translated(kind: type[Stub]) -> type[Stub]:
    return cast(type[Stub], type(kind.__name__, (kind, _Translating), {}))
