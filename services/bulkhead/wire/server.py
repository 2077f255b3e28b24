"""gRPC over a Unix socket, served: our errors mapped once, the caller's request id bound, health answered.

Callers of our own come in frames to the same handlers (`wire.direct`).

The peer must run under our own uid (SO_PEERCRED, unix(7)); the directory's mode is the first wall, this the second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpclib.const
import structlog
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream

from bulkhead import telemetry
from bulkhead.errors import BulkheadError, Conflict, Unavailable
from bulkhead.wire.direct_server import Either, Session
from bulkhead.wire.health import Health
from bulkhead.wire.inflight import InFlight
from bulkhead.wire.status import code_of

log = structlog.get_logger()

Handler = Callable[[Stream[Any, Any]], Awaitable[None]]
# How long a stop waits for calls that are under way; streams are ended at once.
DRAIN_SECONDS = 8.0


class Servicer(Protocol):
    """What grpclib calls a service: a table of its methods."""

    def __mapping__(self) -> Mapping[str, grpclib.const.Handler]: ...


class _Turnstile:
    """Counts the calls that will end by themselves, and lets no call in once it is closed."""

    def __init__(self) -> None:
        self._inside = 0
        # None until it is closed; then told when the last one leaves.
        self._idle: asyncio.Event | None = None

    def enter(self, ends: bool) -> None:
        """A call, which `ends` by itself or does not. Raises Unavailable once closed."""
        if self._idle is not None:
            raise Unavailable("the service is stopping")
        self._inside += ends

    def leave(self, ends: bool) -> None:
        """One that was let in is through."""
        self._inside -= ends
        if not self._inside and self._idle is not None:
            self._idle.set()

    async def close(self) -> None:
        """Wait until all are through, DRAIN_SECONDS at most."""
        self._idle = asyncio.Event()
        if not self._inside:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._idle.wait()
        except TimeoutError:
            log.warning("calls cut off", count=self._inside)


@dataclass(frozen=True, slots=True)
class _Guarded:
    """A servicer whose every method maps our errors to gRPC's, and whose streams end with their callers."""

    inner: Servicer
    in_flight: InFlight
    turnstile: _Turnstile

    def __mapping__(self) -> Mapping[str, grpclib.const.Handler]:
        # The generated base leaves a stream that is broken off to the garbage collector, and grpclib keeps the
        # cancelled call, with its frames, until ten others have come: so long the work would go on for nobody.
        object.__setattr__(self.inner, "_call_rpc_handler_server_stream", _answer_in_parts)  # some are frozen
        return {
            route: grpclib.const.Handler(
                _guard(route, entry, self.in_flight, self.turnstile),
                entry.cardinality,
                entry.request_type,
                entry.reply_type,
            )
            for route, entry in self.inner.__mapping__().items()
        }


async def _answer_in_parts(
    method: Callable[[Any], AsyncGenerator[Any, None]], stream: Stream[Any, Any], request: Any
) -> None:
    """Send what a method yields; it is closed when this returns or raises."""
    async with contextlib.aclosing(method(request)) as answers:
        async for answer in answers:
            await stream.send_message(answer)


def _guard(route: str, entry: grpclib.const.Handler, in_flight: InFlight, turnstile: _Turnstile) -> Handler:
    name = route.rpartition(".")[2].replace("/", ".")
    ends = entry.cardinality is grpclib.const.Cardinality.UNARY_UNARY

    async def guarded(stream: Stream[Any, Any]) -> None:
        sent = stream.metadata.get(telemetry.REQUEST_ID_HEADER) if stream.metadata else None
        telemetry.bind_request_id(sent if isinstance(sent, str) else None)
        try:
            turnstile.enter(ends)
            try:
                with in_flight.tracked(name):
                    await entry.func(stream)
            finally:
                turnstile.leave(ends)
        except BulkheadError as error:
            raise GRPCError(grpclib.const.Status(code_of(error)), str(error)) from error
        except GRPCError:
            raise
        except Exception as error:
            log.exception("call failed", route=route)
            raise GRPCError(grpclib.const.Status.INTERNAL, f"{type(error).__name__}: {error}") from error

    return guarded


class _PeerChecked(Server):
    """Refuses connections of other users before a byte is read, and hangs up on all when it is over."""

    def __init__(self, services: Sequence[Servicer]) -> None:
        super().__init__(services)
        self._transports: weakref.WeakSet[asyncio.BaseTransport] = weakref.WeakSet()
        self._sessions: set[Session] = set()
        self._handlers_by_route = {
            route: handler for service in services for route, handler in service.__mapping__().items()
        }

    async def cancel_calls(self) -> None:
        """End the calls that came in frames, as grpclib ends its own."""
        calls = [call for session in self._sessions for call in session.cancel()]
        if calls:
            await asyncio.wait(calls)

    def stop_listening(self) -> None:
        """Take no more connections; those that are there go on."""
        if self._server is not None:
            self._server.close()

    def hang_up(self) -> None:
        """Close every connection: a client must not go on talking to a service that has ended."""
        for transport in list(self._transports):
            transport.close()

    def _protocol_factory(self) -> Any:
        protocol = Either(super()._protocol_factory, lambda: Session(self._handlers_by_route, self._sessions))
        accept = protocol.connection_made

        def connection_made(transport: asyncio.BaseTransport) -> None:
            if _peer_uid(transport) != os.geteuid():
                transport.close()
                return
            self._transports.add(transport)
            accept(transport)

        protocol.connection_made = connection_made  # type: ignore[method-assign]
        return protocol


def _peer_uid(transport: asyncio.BaseTransport) -> int:
    peer: socket.socket = transport.get_extra_info("socket")
    credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


@contextlib.asynccontextmanager
async def serve(services: Sequence[Servicer], path: Path, in_flight: InFlight | None = None) -> AsyncIterator[None]:
    """Serve on the Unix socket `path` (mode 0600) while entered; a stale socket file is replaced.

    `in_flight` is told of the calls under way.

    Raises Conflict when a live process listens there.
    """
    calls = in_flight if in_flight is not None else InFlight()
    turnstile = _Turnstile()
    server = _PeerChecked([*(_Guarded(service, calls, turnstile) for service in services), Health()])
    listener = bind(path)
    try:
        await server.start(sock=listener)
        yield
    finally:
        server.stop_listening()
        await turnstile.close()
        server.close()
        await server.cancel_calls()
        await server.wait_closed()
        server.hang_up()
        _unlink(path)


def bind(path: Path) -> socket.socket:
    """A listening Unix socket at `path`, mode 0600, in the place of a stale one."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(128)
    listener.setblocking(False)
    return listener


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        try:
            probe.connect(str(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise Conflict(f"cannot listen on {path}: another process listens there")
