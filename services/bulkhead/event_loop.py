"""The event loop of services: uvloop's, which closes each descriptor once.

Of a socket that it is given it closes the descriptor itself, and takes the number from the Python object, so that
nobody closes it once more. It does not where the connection ends before the one who connects has gone on: a protocol
that gives it up as it is made, a peer who is gone. The object then closes, when it is collected, what may be a file of
another thread by that number.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvloop


class Loop(uvloop.Loop):
    """uvloop's."""

    async def create_connection(self, *arguments: Any, sock: socket.socket | None = None, **options: Any) -> Any:
        """As ever."""
        made: tuple[Any, Any] = await super().create_connection(*arguments, sock=sock, **options)
        _let_go(made[0], sock)
        return made

    async def create_unix_connection(self, *arguments: Any, sock: socket.socket | None = None, **options: Any) -> Any:
        """As ever."""
        made: tuple[Any, Any] = await super().create_unix_connection(*arguments, sock=sock, **options)
        _let_go(made[0], sock)
        return made


def _let_go(transport: asyncio.BaseTransport, sock: socket.socket | None) -> None:
    # A transport whose descriptor is closed has no socket any more.
    if sock is not None and transport.is_closing() and transport.get_extra_info("socket") is None:
        sock.detach()
