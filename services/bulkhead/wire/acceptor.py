"""The listening end of a Unix socket in a process that runs its own epoll loop."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Protocol

from bulkhead.wire.ttrpc import is_own_user


class Reactor(Protocol):
    """What is needed of the loop; events are those of epoll_ctl(2)."""

    def add(self, fd: int, events: int, callback: Callable[[int], None]) -> None: ...

    def change(self, fd: int, events: int) -> None: ...

    def remove(self, fd: int) -> None: ...


class _Listener(socket.socket):
    """Tells `accept`, which asks, what it is; the library would make members of enums of that for each client."""

    family, type = socket.AF_UNIX, socket.SOCK_STREAM


class Acceptor:
    """Accepts clients of the own user and hands each, non-blocking, to `admit`, which owns the socket then."""

    def __init__(self, reactor: Reactor, admit: Callable[[socket.socket], None]) -> None:
        self._reactor = reactor
        self._admit = admit
        self._listener: socket.socket | None = None

    def listen(self, listener: socket.socket) -> None:
        """Accept on `listener`, which the acceptor owns from now on; it replaces a former one."""
        self.stop()
        listener.setblocking(False)
        self._listener = _Listener(fileno=listener.detach())
        self._reactor.add(self._listener.fileno(), select.EPOLLIN, self._ready)

    def stop(self) -> None:
        """Accept no more; who was admitted stays."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._reactor.remove(listener.fileno())
            listener.close()

    def admit_all(self) -> None:
        """Those, too, who have come and were not accepted yet."""
        while self._listener is not None and self._accept():
            pass

    def _ready(self, _events: int) -> None:
        self._accept()

    def _accept(self) -> bool:
        """Whether somebody had come."""
        assert self._listener is not None
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        if not is_own_user(sock):
            sock.close()
            return True
        sock.setblocking(False)
        self._admit(sock)
        return True
