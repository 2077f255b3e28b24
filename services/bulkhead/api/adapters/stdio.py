"""The shims' stdio sockets: one JSON line each way, then bytes (attach, exec) or pokes (follow)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket as sockets
import struct
from typing import Any, cast

import msgspec

from bulkhead import telemetry
from bulkhead.api.duplex import Listener
from bulkhead.api.ports.stdio import Following, ProcessEnd, Streams, Unreachable
from bulkhead.errors import Unavailable
from bulkhead.wire.expiry import expire
from bulkhead.wire.status import error_named

ANSWER_SECONDS = 10.0
_LONGEST_ANSWER = 64 << 10
_MOST_HELD = 64 << 10
# Hundreds at once, and a shim has taken those who wait in milliseconds.
_ROOM_POLL, _ROOM_SECONDS = 0.005, 2.0


class Answer(msgspec.Struct):
    ok: bool
    tty: bool = False
    exec_id: str = ""
    error: str = ""
    kind: str = ""


class ShimStdio:
    """`ports.Stdio`."""

    async def attach(self, socket: str, streams: Streams) -> tuple[ProcessEnd, bool]:
        return await _open(socket, {"op": "attach", **_wanted(streams)})

    async def exec(self, socket: str, exec_id: str, streams: Streams) -> tuple[ProcessEnd, bool]:
        return await _open(socket, {"op": "exec", "exec_id": exec_id, **_wanted(streams)})

    async def follow(self, socket: str) -> Following:
        end, _ = await _open(socket, {"op": "follow"})
        return _Growth(end, end.peer_pidfd())


def _wanted(streams: Streams) -> dict[str, Any]:
    return {
        "stdin": streams.stdin,
        "stdout": streams.stdout,
        "stderr": streams.stderr,
        "detach_keys": streams.detach_keys,
    }


async def _open(path: str, request: dict[str, Any]) -> tuple[ShimEnd, bool]:
    """Dial, ask, and read the answer; what follows it is held for the listener."""
    end = await dial(path, request)
    return end, (await ask(end)).tty


async def dial(path: str, request: dict[str, Any]) -> ShimEnd:
    """Dial and ask at once, which a Unix socket allows: the shim is at it while the loop takes the socket over.

    Raises Unreachable when nobody listens.
    """
    line = msgspec.json.encode({**request, "request_id": telemetry.request_id()}) + b"\n"
    dialled = _Local(sockets.AF_UNIX, sockets.SOCK_STREAM | sockets.SOCK_NONBLOCK)
    try:
        try:
            dialled.connect(path)
        except BlockingIOError:
            await _connect_late(dialled, path)
        sent = dialled.send(line, sockets.MSG_NOSIGNAL)
        _, end = await asyncio.get_running_loop().create_unix_connection(lambda: ShimEnd(path), sock=dialled)
    except OSError as error:
        dialled.close()
        raise Unreachable(f"cannot reach the container's shim at {path}: {error.strerror or error}") from error
    except BaseException:
        dialled.close()
        raise
    if sent < len(line):
        end.write(line[sent:])
    return end


async def _connect_late(dialled: sockets.socket, path: str) -> None:
    """So many have dialled that no more are let wait: nothing tells when there is room."""
    deadline = asyncio.get_running_loop().time() + _ROOM_SECONDS
    while True:
        await asyncio.sleep(_ROOM_POLL)
        try:
            return dialled.connect(path)
        except BlockingIOError:
            if asyncio.get_running_loop().time() > deadline:
                raise


async def ask(end: ShimEnd, patience: float = ANSWER_SECONDS) -> Answer:
    """The answer to what the shim was asked. Raises what it says, Unavailable when it says nothing; `end` is closed
    then."""
    try:
        timer = asyncio.get_running_loop().call_later(patience, expire, end.answer)
        try:
            answer = msgspec.json.decode(await end.answer, type=Answer)
        finally:
            timer.cancel()
    except (TimeoutError, msgspec.DecodeError, ConnectionError) as error:
        end.close()
        raise Unavailable(f"the container's shim at {end.path} does not answer: {error or 'time is up'}") from error
    except BaseException:
        end.close()
        raise
    if not answer.ok:
        end.close()
        raise error_named(answer.kind, answer.error)
    return answer


class _Local(sockets.socket):
    """Tells the loop, which asks, what it is; the library would make members of enums of that first."""

    family, type = sockets.AF_UNIX, sockets.SOCK_STREAM


class ShimEnd(asyncio.Protocol):
    """Our end of a stdio socket: an `End`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._held = bytearray()
        self._listener: Listener | None = None
        self.has_ended = False
        self.broken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not asyncio.Transport by inheritance.
        self._transport = cast(asyncio.Transport, transport)

    def ask_again(self, line: bytes) -> None:
        """The last answer was read; the next is to what `line` says."""
        self.answer = asyncio.get_running_loop().create_future()
        self.write(line)

    def peer_pidfd(self) -> int | None:
        """A pidfd of the shim, by which its death is told from its goodbye; None when it is gone already."""
        if self._transport is None:
            return None
        peer: sockets.socket = self._transport.get_extra_info("socket")
        credentials = peer.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, struct.calcsize("3i"))
        with contextlib.suppress(OSError):
            return os.pidfd_open(struct.unpack("3i", credentials)[0])
        return None

    def data_received(self, data: bytes) -> None:
        if self._listener is not None:
            self._listener.received(data)
            return
        self._held += data
        if not self.answer.done():
            self._read_answer()
        if self.answer.done() and len(self._held) > _MOST_HELD:
            self.pause_reading()

    def _read_answer(self) -> None:
        line, newline, rest = self._held.partition(b"\n")
        if newline:
            self.answer.set_result(bytes(line))
            self._held = rest
        elif len(self._held) > _LONGEST_ANSWER:
            self.answer.set_exception(ConnectionError("its answer is too long"))

    def eof_received(self) -> bool:
        self.has_ended = True
        self.broken = self._is_hung_up()
        self._fail_answer()
        if self._listener is not None:
            self._listener.ended()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        # No goodbye came before: a shim that is killed with something unread ends by a reset.
        self.broken = self.broken or not self.has_ended
        self.has_ended = True
        self._fail_answer()
        if self._listener is not None:
            self._listener.lost()

    def _is_hung_up(self) -> bool:
        """A shim says goodbye by a half-close, and leaves when we do; a dead one has closed both ways."""
        peer = self._transport.get_extra_info("socket") if self._transport is not None else None
        if peer is None:
            return True
        poll = select.poll()
        poll.register(peer.fileno(), select.POLLHUP)
        told = poll.poll(0)
        return bool(told and told[0][1] & select.POLLHUP)

    def _fail_answer(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionError("it closed the connection"))

    def pause_writing(self) -> None:
        if self._listener is not None:
            self._listener.writing_paused()

    def resume_writing(self) -> None:
        if self._listener is not None:
            self._listener.writing_resumed()

    def listen(self, listener: Listener) -> None:
        self._listener = listener
        held, self._held = bytes(self._held), bytearray()
        if held:
            listener.received(held)
        self.resume_reading()
        if self.has_ended:
            listener.ended()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def write_eof(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def pause_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Growth:
    """`ports.Following`: pokes are counted as one until they are asked for."""

    def __init__(self, end: ShimEnd, shim: int | None) -> None:
        self._end = end
        self._shim = shim
        self._poked = asyncio.Event()
        self._over = False
        end.listen(self)

    def received(self, data: bytes) -> None:
        self._poked.set()

    def ended(self) -> None:
        self._over = True
        self._poked.set()

    def lost(self) -> None:
        self.ended()

    def writing_paused(self) -> None:
        """Nothing is written."""

    def writing_resumed(self) -> None:
        """Nothing is written."""

    async def grown(self) -> bool:
        await self._poked.wait()
        if self._over:
            return False
        self._poked.clear()
        return True

    def shim_died(self) -> bool:
        if self._shim is None:
            return True
        poll = select.poll()
        poll.register(self._shim, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        self._end.close()
        if self._shim is not None:
            os.close(self._shim)
            self._shim = None
