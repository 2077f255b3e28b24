"""Output that waits until the client has read the head of its answer.

docker-py takes the raw socket from under a buffered reader once it has read the head: output that came together with
the head would be lost with the buffer.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable

# How long output waits for a client to read the head of the answer, and how often this is looked at.
HEAD_SECONDS = 0.1
HEAD_PAUSE = 0.0005
_MOST_HELD = 64 << 10


class BehindHead:
    """What is held back until the client has read what was written before; then, or in time, `let_go` is called."""

    __slots__ = ("_deadline", "_held", "_let_go", "_loop", "_timer", "_transport")

    def __init__(self, transport: asyncio.Transport, let_go: Callable[[], None]) -> None:
        self._transport = transport
        self._let_go = let_go
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + HEAD_SECONDS
        self._held = bytearray()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def holds(self) -> bool:
        return bool(self._held)

    @property
    def full(self) -> bool:
        """More should not come: its writer is told to pause."""
        return len(self._held) > _MOST_HELD

    def hold(self, data: bytes) -> bool:
        """Whether it was held: once the client has read the rest, nothing is."""
        if not self._held and self._is_over():
            return False
        self._held += data
        if self._timer is None:
            self._timer = self._loop.call_later(HEAD_PAUSE, self._look)
        return True

    def drop(self) -> bytes:
        """What was held is the caller's."""
        if self._timer is not None:
            self._timer.cancel()
        return bytes(self._held)

    def _look(self) -> None:
        if self._is_over():
            self._let_go()
        else:
            self._timer = self._loop.call_later(HEAD_PAUSE, self._look)

    def _is_over(self) -> bool:
        transport = self._transport
        if transport.is_closing() or self._loop.time() >= self._deadline:
            return True
        return not transport.get_write_buffer_size() and not _unread(transport)


def _unread(transport: asyncio.Transport) -> int:
    """Bytes that the peer of a Unix socket has not read yet (unix(7), SIOCOUTQ)."""
    fd = transport.get_extra_info("socket").fileno()
    unread: int = struct.unpack("i", fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)))[0]
    return unread
