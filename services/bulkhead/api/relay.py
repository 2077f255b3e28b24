"""TLS taken off a TCP connection: the bytes go on over a socket pair to the same server as `docker.sock`'s.

asyncio's own TLS ends the whole connection when the peer says that it will send no more. `docker run` says so at
once when it has no input, and waits for the output. So the two directions are closed one by one here, and whoever
serves the other end of the pair sees a Unix socket, with all that it can tell of its peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import cast

import structlog

log = structlog.get_logger()
HANDSHAKE_SECONDS = 10.0
# Clients that may be at their handshake at once. No certificate was seen yet, so anybody can be one of them: to one
# more the oldest gives way, who had the longest time to show one.
MOST_HANDSHAKES = 256
_CHUNK = 64 << 10
Serve = Callable[[], asyncio.BaseProtocol]


class Relay:
    """Makes the protocol of each TCP connection; `serve` makes that of the plain end of its pair."""

    def __init__(self, context: ssl.SSLContext, serve: Serve) -> None:
        self.context = context
        self._serve = serve
        self._tasks: set[asyncio.Task[None]] = set()
        self._shaking: dict[_Outer, None] = {}  # in the order in which they came
        self._full = False

    def __call__(self) -> asyncio.BaseProtocol:
        return _Outer(self)

    def begin(self, outer: _Outer) -> None:
        """A client came and is at its handshake."""
        self._shaking[outer] = None
        if len(self._shaking) <= MOST_HANDSHAKES:
            return
        if not self._full:
            self._full = True
            log.warning("dropping clients that have not shown a certificate: too many", most=MOST_HANDSHAKES)
        oldest = next(iter(self._shaking))
        del self._shaking[oldest]
        oldest.abort()

    def leave(self, outer: _Outer) -> None:
        """It is done with its handshake, or gone."""
        self._shaking.pop(outer, None)
        self._full = self._full and bool(self._shaking)

    def join(self, outer: _Outer) -> None:
        """Bring up the plain end of a connection whose handshake is done."""
        task = asyncio.get_running_loop().create_task(self._join(outer), name="join a TLS connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _join(self, outer: _Outer) -> None:
        loop = asyncio.get_running_loop()
        ours, served = socket.socketpair()
        for end in (ours, served):
            end.setblocking(False)
        try:
            await loop.connect_accepted_socket(self._serve, served)
            await loop.create_unix_connection(lambda: _Inner(outer), sock=ours)
        except BaseException:
            outer.abort()
            ours.close()
            raise


class _Outer(asyncio.Protocol):
    """The TCP side: cipher text in and out."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = relay.context.wrap_bio(self._in, self._out, server_side=True)
        self._transport: asyncio.Transport | None = None
        self._inner: asyncio.Transport | None = None
        self._shaken = self._ended = self._finished = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self.abort)
        self._relay.begin(self)

    def data_received(self, data: bytes) -> None:
        self._in.write(data)
        try:
            if self._shaken or self._shake():
                self._read()
        except ssl.SSLError as error:
            log.info("TLS connection refused" if not self._shaken else "TLS connection broken", reason=str(error))
            self._flush()
            self._close()

    def eof_received(self) -> bool:
        self._end_input()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._settle()
        if self._inner is not None:
            self._inner.abort()

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_reading()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_reading()

    def joined(self, inner: asyncio.Transport) -> None:
        """The plain end is there."""
        self._inner = inner
        if self._transport is None or self._transport.is_closing():
            inner.abort()
            return
        self._transport.resume_reading()
        self.data_received(b"")
        if self._ended:
            inner.write_eof()

    def send(self, data: bytes) -> None:
        """Plain text for the client."""
        with contextlib.suppress(ssl.SSLError):  # broken: its end is on the way
            self._tls.write(data)
        self._flush()

    def hold(self, held: bool) -> None:
        """The plain end takes no more for now, or again."""
        if self._transport is not None and not self._transport.is_closing():
            if held:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def finish(self) -> None:
        """Nothing more comes for the client."""
        if self._finished:
            return
        self._finished = True
        with contextlib.suppress(ssl.SSLError):  # it may still have to answer, for which nobody waits
            self._tls.unwrap()
        self._flush()
        self._close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _shake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        self._flush()
        self._shaken = True
        self._settle()
        if self._transport is not None:
            self._transport.pause_reading()
        self._relay.join(self)
        return True

    def _settle(self) -> None:
        """The handshake is over, one way or the other."""
        self._relay.leave(self)
        if self._timer is not None:
            self._timer.cancel()

    def _read(self) -> None:
        """Hand on what is there; before the plain end is, it stays in the buffer."""
        while self._inner is not None and not self._ended:
            try:
                data = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            if not data:
                self._end_input()
                break
            self._inner.write(data)
        self._flush()

    def _end_input(self) -> None:
        if self._ended:
            return
        self._ended = True
        if self._inner is not None:
            self._inner.write_eof()
        elif not self._shaken:
            self.abort()

    def _flush(self) -> None:
        if self._out.pending and self._transport is not None:
            self._transport.write(self._out.read())

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Inner(asyncio.Protocol):
    """Our end of the pair: plain text."""

    def __init__(self, outer: _Outer) -> None:
        self._outer = outer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._outer.joined(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._outer.send(data)

    def eof_received(self) -> None:
        self._outer.finish()

    def connection_lost(self, error: Exception | None) -> None:
        self._outer.finish()

    def pause_writing(self) -> None:
        self._outer.hold(True)

    def resume_writing(self) -> None:
        self._outer.hold(False)
