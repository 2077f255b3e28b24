"""Whether the peer of a half-closed Unix socket is there."""

from __future__ import annotations

import asyncio
import os
import select


class HangupWatch:
    """Aborts the transport when the peer of its half-closed Unix socket goes away altogether.

    After EOF the loop no longer reads, so that it would learn of it only by a failing write. An epoll instance
    with an empty mask reports EPOLLHUP alone (epoll_ctl(2)), and can itself be watched by the loop.
    """

    __slots__ = ("_epoll", "_fd", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        # A duplicate: the loop owns the transport's own number and refuses to share it.
        self._fd = os.dup(transport.get_extra_info("socket").fileno())
        self._epoll = select.epoll(1)
        self._epoll.register(self._fd, 0)
        self._loop.add_reader(self._epoll.fileno(), self._gone)

    def _gone(self) -> None:
        self.close()
        self._transport.abort()

    def close(self) -> None:
        if self._fd < 0:
            return
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        os.close(self._fd)
        self._fd = -1
