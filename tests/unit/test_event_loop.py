"""A descriptor that the loop has closed is nobody's any more: a socket given to it does not close the number again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

import pytest

from bulkhead.event_loop import Loop


class GivesUp(asyncio.Protocol):
    """The connection as soon as it is made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        return ours, listener.accept()[0]


PAIRS = pytest.mark.parametrize("pair", [socket.socketpair, tcp_pair])


async def given(ours: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> asyncio.BaseTransport:
    loop = asyncio.get_running_loop()
    connect = loop.create_unix_connection if ours.family == socket.AF_UNIX else loop.create_connection
    transport, _ = await connect(protocol, sock=ours)
    return transport


@PAIRS
def test_a_connection_that_is_given_up_as_it_is_made(pair: Callable[[], tuple[socket.socket, socket.socket]]) -> None:
    ours, theirs = pair()
    with theirs, asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(given(ours, GivesUp))
        assert ours.fileno() == -1


@PAIRS
def test_a_connection_that_stays_until_it_is_closed(pair: Callable[[], tuple[socket.socket, socket.socket]]) -> None:
    async def closed() -> None:
        transport = await given(ours, asyncio.Protocol)
        assert ours.fileno() >= 0
        transport.close()
        await asyncio.get_running_loop().sock_recv(theirs, 1)

    ours, theirs = pair()
    theirs.setblocking(False)
    with theirs, asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(closed())
        assert ours.fileno() == -1
