"""Waiting for a socket that is read with its descriptors, which asyncio's own calls would lose."""

from __future__ import annotations

import asyncio
import socket


async def readable(sock: socket.socket) -> None:
    """Wait until `sock` has something to read, or has ended."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
