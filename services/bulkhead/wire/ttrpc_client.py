"""A ttrpc client for asyncio, and the typed stub of a shim.

    async with TtrpcClient(path) as client:
        shim = ShimClient(client)
        await shim.start(timeout=10)

Any number of calls share the connection. When the shim goes away, every call in flight fails with
Unavailable and `closed` is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from bulkhead import telemetry
from bulkhead.counting import count_call
from bulkhead.errors import BulkheadError, DeadlineExceeded, InvalidArgument, Unavailable
from bulkhead.wire import direct, protobuf
from bulkhead.wire.expiry import expire
from bulkhead.wire.gen.bulkhead.shim import v1 as shim
from bulkhead.wire.status import error_of
from bulkhead.wire.ttrpc import (
    TYPE_REQUEST,
    TYPE_RESPONSE,
    FrameReader,
    frame,
    is_own_user,
    peer_of,
)

_LAST_STREAM = (1 << 31) - 1
DEFAULT_TIMEOUT = 10.0


class Wire(Protocol):
    """What a call sends: a generated message."""

    def __bytes__(self) -> bytes: ...


ResponseT = TypeVar("ResponseT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted(Generic[ResponseT]):
    """A call under way. `sent`: all of the request is with the kernel, and arrives whatever becomes of this process."""

    sent: bool
    _kind: type[ResponseT]
    _payload: Callable[[], Coroutine[Any, Any, bytes]]

    async def answer(self) -> ResponseT:
        """Once. Raises as `TtrpcClient.call`."""
        return protobuf.decode(self._kind, await self._payload())


class TtrpcClient:
    """One connection to a ttrpc server on a Unix socket; it is made once and not again."""

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._link: _Link | None = None

    async def connect(self, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Connect; Unavailable when nobody of our own user listens there."""
        try:
            sock = _dialled(self._path)
            link = await self._patiently(timeout) if sock is None else _Link(self._path, sock)
        except TimeoutError as error:
            raise Unavailable(f"cannot connect to {self._path}: no answer within {timeout:g} s") from error
        except OSError as error:
            raise Unavailable(f"cannot connect to {self._path}: {error.strerror or error}") from error
        if link.refused:
            raise Unavailable(f"cannot connect to {self._path}: it is served by another user")
        self._link = link

    async def _patiently(self, timeout: float) -> _Link:
        """Where many wait to be let in."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout):
            _, link = await loop.create_unix_connection(lambda: _Link(self._path), self._path)
        return link

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the connection has ended, whichever side ended it."""
        return self._connected().closed

    @property
    def has_ended(self) -> bool:
        """Whether nobody answers here any more."""
        return self._connected().has_ended

    @property
    def peer_pid(self) -> int:
        """The pid of the process that listens (as of its listen(2))."""
        return self._connected().peer_pid

    async def call(
        self, service: str, method: str, request: Wire, response_type: type[ResponseT], *, timeout: float | None
    ) -> ResponseT:
        """One unary call. `timeout` in seconds, None to wait for ever.

        Raises what the server raised, Unavailable when the connection ends first, DeadlineExceeded when
        the time is over (the server may still be at it).
        """
        link = self._connected()
        count_call("shim", method)
        envelope = direct.request(f"/{service}/{method}", protobuf.encode(request), telemetry.request_id())
        try:
            payload = await link.ask(envelope, timeout)
        except TimeoutError as error:
            raise DeadlineExceeded(f"cannot {method} by {self._path}: no answer within {timeout:g} s") from error
        return protobuf.decode(response_type, payload)

    def post(self, service: str, method: str, request: Wire, response_type: type[ResponseT]) -> Posted[ResponseT]:
        """A call that is sent when this returns, and has no deadline. Raises as `call`, and so does the answer."""
        link = self._connected()
        count_call("shim", method)
        envelope = direct.request(f"/{service}/{method}", protobuf.encode(request), telemetry.request_id())
        stream, future, sent = link.begin(envelope)
        return Posted(sent=sent, _kind=response_type, _payload=partial(link.payload, stream, future))

    async def close(self) -> None:
        """End the connection; calls in flight fail with Unavailable."""
        if self._link is not None:
            self._link.end()
            await asyncio.wait([self._link.closed])

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _connected(self) -> _Link:
        if self._link is None:
            raise Unavailable(f"cannot call {self._path}: not connected")
        return self._link


def _dialled(path: str) -> socket.socket | None:
    """Connected, as a socket of this machine is at once; None when it has to be waited for. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except BaseException as error:
        sock.close()
        if isinstance(error, BlockingIOError):
            return None
        raise
    return sock


class _Link(asyncio.Protocol):
    """The connection: who waits for which stream.

    With a socket that is connected, calls need not wait until the loop has it: that takes it some turns, in which the
    first request is on its way.
    """

    def __init__(self, path: str, sock: socket.socket | None = None) -> None:
        self._path = path
        self._reader = FrameReader()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._next = 1
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refused = False
        self.peer_pid = 0
        self._ended = False
        self._early = sock
        self._socket = sock
        # What the socket did not take at once.
        self._unsent = b""
        if sock is not None:
            self._admit(sock)
            if self.refused:
                sock.close()
            else:
                self._attaching = asyncio.get_running_loop().create_task(self._attach(sock))

    @property
    def has_ended(self) -> bool:
        return self._ended or self.closed.done() or (self._transport is not None and self._transport.is_closing())

    def _admit(self, sock: socket.socket) -> None:
        self.peer_pid = peer_of(sock)[0]
        self.refused = not is_own_user(sock)

    async def _attach(self, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=sock)
        except OSError as error:
            sock.close()
            self.connection_lost(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._early is None:
            self._admit(transport.get_extra_info("socket"))
        self._early = None
        if self.refused or self._ended:
            self._transport.abort()
        elif self._unsent:
            self._transport.write(self._unsent)
            self._unsent = b""

    def _send(self, data: bytes) -> bool:
        """Whether the kernel has taken it all. Raises Unavailable when the connection has ended."""
        transport = self._transport
        if transport is not None and not transport.is_closing() and not self.closed.done():
            rest = data[self._push(data) :] if not transport.get_write_buffer_size() else data
            if rest:
                transport.write(rest)
            return not rest
        if self._early is not None and not self._ended and not self.closed.done():
            self._unsent += data[self._push(data) :] if not self._unsent else data
            return not self._unsent
        raise Unavailable(f"cannot call {self._path}: the connection ended")

    def _push(self, data: bytes) -> int:
        """How much the socket takes at once: the loop would pass it on at the end of its turn."""
        # Whatever is wrong with it, the transport will tell.
        with contextlib.suppress(OSError):
            return self._socket.send(data, socket.MSG_NOSIGNAL) if self._socket is not None else 0
        return 0

    def data_received(self, data: bytes) -> None:
        try:
            for received in self._reader.feed(data):
                if received.type == TYPE_RESPONSE:
                    self._settle(received.stream, received.payload)
        except BulkheadError:
            # A stream that lost its frame borders carries nothing more.
            self.end()

    def connection_lost(self, error: Exception | None) -> None:
        reason = f": {error}" if error else ""
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Unavailable(f"cannot call {self._path}: the connection ended{reason}"))
        self._waiting.clear()
        if not self.closed.done():
            self.closed.set_result(None)

    def end(self) -> None:
        """Close the connection."""
        self._ended = True
        if self._transport is not None:
            self._transport.abort()

    async def ask(self, envelope: bytes, seconds: float | None) -> bytes:
        """Send a request, encoded, and wait for the payload of its response. Raises TimeoutError as well."""
        stream, future, _ = self.begin(envelope)
        timer = asyncio.get_running_loop().call_later(seconds, expire, future) if seconds is not None else None
        try:
            return await self.payload(stream, future)
        finally:
            if timer is not None:
                timer.cancel()

    def begin(self, envelope: bytes) -> tuple[int, asyncio.Future[bytes], bool]:
        """Send a request, encoded: what it takes to wait for its payload, and whether the kernel has taken it all."""
        stream = self._take_stream()
        data = frame(stream, TYPE_REQUEST, envelope)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        sent = self._send(data)
        self._waiting[stream] = future
        return stream, future, sent

    async def payload(self, stream: int, future: asyncio.Future[bytes]) -> bytes:
        """Wait for the response to what was begun."""
        try:
            return await future
        finally:
            self._waiting.pop(stream, None)

    def _take_stream(self) -> int:
        stream = self._next
        self._next = 1 if stream >= _LAST_STREAM else stream + 2
        # After a wrap a long wait may still hold its number.
        return stream if stream not in self._waiting else self._take_stream()

    def _settle(self, stream: int, payload: bytes) -> None:
        future = self._waiting.pop(stream, None)
        if future is None or future.done():
            return
        try:
            response = direct.answered(payload)
        except InvalidArgument as error:
            future.set_exception(error)
            return
        status = response.status
        if status is not None and status.code != 0:
            future.set_exception(error_of(status.code, status.message))
        else:
            future.set_result(response.payload)


class ShimClient:
    """The service bulkhead.shim.v1.Shim, one method per RPC; errors are bulkhead.errors.

    `timeout` is in seconds; `wait` and `begun` have none of their own.
    """

    SERVICE = "bulkhead.shim.v1.Shim"

    def __init__(self, client: TtrpcClient) -> None:
        self.client = client

    @property
    def closed(self) -> asyncio.Future[None]:
        """Done when the shim is gone."""
        return self.client.closed

    async def _call(self, method: str, request: Wire, kind: type[ResponseT], timeout: float | None) -> ResponseT:
        return await self.client.call(self.SERVICE, method, request, kind, timeout=timeout)

    async def state(self, *, execs: bool = False, timeout: float = DEFAULT_TIMEOUT) -> shim.StateResponse:
        return await self._call("State", shim.StateRequest(execs=execs), shim.StateResponse, timeout)

    async def create(self, request: shim.CreateRequest, *, timeout: float = 60.0) -> shim.CreateResponse:
        """Make the container up to the point before exec; a launch that fails is `response.failure`."""
        return await self._call("Create", request, shim.CreateResponse, timeout)

    async def start(self, *, timeout: float = 60.0) -> shim.StartResponse:
        """Let it exec; a launch that fails is `response.failure`."""
        return await self._call("Start", shim.StartRequest(), shim.StartResponse, timeout)

    async def wait(
        self, exec_id: str = "", *, for_record: bool = False, timeout: float | None = None
    ) -> shim.WaitResponse:
        """Wait for the end of the container (its exit record is on disk then), or of an exec.

        `for_record`: the caller wants no more of the shim, which may leave by itself then, and says so if it does.
        """
        return await self._call(
            "Wait", shim.WaitRequest(exec_id=exec_id, for_record=for_record), shim.WaitResponse, timeout
        )

    async def begun(self, exec_id: str, *, timeout: float | None = None) -> None:
        """Wait until an exec has begun; Conflict when it never will. An earlier shim answers at its end."""
        await self._call("Wait", shim.WaitRequest(exec_id=exec_id, begun=True), shim.WaitResponse, timeout)

    async def kill(
        self, signal: int, *, exec_id: str = "", all: bool = False, timeout: float = DEFAULT_TIMEOUT
    ) -> shim.KillResponse:
        request = shim.KillRequest(exec_id=exec_id, signal=signal, all=all)
        return await self._call("Kill", request, shim.KillResponse, timeout)

    async def pause(self, *, timeout: float = DEFAULT_TIMEOUT) -> shim.PauseResponse:
        return await self._call("Pause", shim.PauseRequest(), shim.PauseResponse, timeout)

    async def resume(self, *, timeout: float = DEFAULT_TIMEOUT) -> shim.ResumeResponse:
        return await self._call("Resume", shim.ResumeRequest(), shim.ResumeResponse, timeout)

    async def pids(self, *, timeout: float = DEFAULT_TIMEOUT) -> shim.PidsResponse:
        return await self._call("Pids", shim.PidsRequest(), shim.PidsResponse, timeout)

    async def exec_create(
        self, request: shim.ExecCreateRequest, *, timeout: float | None = DEFAULT_TIMEOUT
    ) -> shim.ExecCreateResponse:
        return await self._call("ExecCreate", request, shim.ExecCreateResponse, timeout)

    def expect_exec(self, request: shim.ExecCreateRequest) -> Posted[shim.ExecCreateResponse]:
        """As `exec_create`; the request is sent when this returns."""
        return self.client.post(self.SERVICE, "ExecCreate", request, shim.ExecCreateResponse)

    async def new_execs(self, pattern: bytes = b"", *, timeout: float | None) -> shim.NewExecsResponse:
        """Wait until something is to be read of execs that the shim creates by itself."""
        return await self._call("NewExecs", shim.NewExecsRequest(pattern=pattern), shim.NewExecsResponse, timeout)

    async def exec_start(self, exec_id: str, *, timeout: float = 60.0) -> shim.StartResponse:
        """Run a registered exec with no stream attached; a launch that fails is `response.failure`."""
        return await self._call("ExecStart", shim.ExecStartRequest(exec_id=exec_id), shim.StartResponse, timeout)

    async def exec_state(self, exec_id: str, *, timeout: float = DEFAULT_TIMEOUT) -> shim.ExecStateResponse:
        return await self._call("ExecState", shim.ExecStateRequest(exec_id=exec_id), shim.ExecStateResponse, timeout)

    async def resize_pty(
        self, height: int, width: int, *, exec_id: str = "", timeout: float = DEFAULT_TIMEOUT
    ) -> shim.ResizePtyResponse:
        request = shim.ResizePtyRequest(exec_id=exec_id, height=height, width=width)
        return await self._call("ResizePty", request, shim.ResizePtyResponse, timeout)

    async def serve_names(self, directory: str, *, timeout: float = DEFAULT_TIMEOUT) -> shim.ServeNamesResponse:
        """Have DNS in the container answered from the files in `directory`."""
        return await self._call(
            "ServeNames", shim.ServeNamesRequest(directory=directory), shim.ServeNamesResponse, timeout
        )

    async def relay(self, ways: list[shim.RelayWay], *, timeout: float = DEFAULT_TIMEOUT) -> shim.RelayResponse:
        """Have the shim carry what comes to ports of the host, to these and no others."""
        return await self._call("Relay", shim.RelayRequest(ways=ways), shim.RelayResponse, timeout)

    async def health(self, after: int, *, timeout: float | None = None) -> shim.HealthResponse:
        """Wait for a probe newer than revision `after`, or the end of the container."""
        return await self._call("Health", shim.HealthRequest(after=after), shim.HealthResponse, timeout)

    async def close_stdin(self, exec_id: str = "", *, timeout: float = DEFAULT_TIMEOUT) -> shim.CloseStdinResponse:
        return await self._call("CloseStdin", shim.CloseStdinRequest(exec_id=exec_id), shim.CloseStdinResponse, timeout)

    async def shutdown(self, *, timeout: float = 30.0) -> shim.ShutdownResponse:
        """Kill what is left, remove the cgroup and the run directory; the shim leaves."""
        return await self._call("Shutdown", shim.ShutdownRequest(), shim.ShutdownResponse, timeout)
