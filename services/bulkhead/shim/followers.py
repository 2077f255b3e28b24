"""Readers of the log file that want to know when it has grown: one byte each time, never two unread."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import struct
import termios

from bulkhead.shim.loop import Loop

_POKE = b"."


class Followers:
    """The sockets to poke; all are closed when the log is complete."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._sockets: dict[int, socket.socket] = {}
        self._complete = False

    def add(self, sock: socket.socket) -> None:
        """Poke `sock` from now on; at once, for what grew while it came here."""
        if self._complete:
            sock.close()
            return
        fd = sock.fileno()
        self._sockets[fd] = sock
        self._loop.add(fd, select.EPOLLIN, lambda _events: self._heard(fd))
        self._poke(sock)

    def grown(self) -> None:
        """The log file has more."""
        for sock in tuple(self._sockets.values()):
            self._poke(sock)

    def complete(self) -> None:
        """Nothing will be written to the log any more."""
        self._complete = True
        for fd in tuple(self._sockets):
            self._drop(fd)

    def _poke(self, sock: socket.socket) -> None:
        try:
            unread = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
            if not unread:
                sock.send(_POKE, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self._drop(sock.fileno())

    def _heard(self, fd: int) -> None:
        """A follower has nothing to say: this is its end."""
        sock = self._sockets[fd]
        with contextlib.suppress(BlockingIOError):
            try:
                heard = sock.recv(4096)
            except ConnectionError:
                heard = b""
            if not heard:
                self._drop(fd)

    def _drop(self, fd: int) -> None:
        sock = self._sockets.pop(fd)
        self._loop.remove(fd)
        sock.close()
