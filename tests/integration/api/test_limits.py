"""How many clients there may be at once, and how slowly they may ask."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from tests.support import raw_http
from tests.support.eventually import eventually
from tests.support.fake_engine import fake_engine
from tests.support.raw_http import Wire

PING = raw_http.request("GET", "/_ping")
IMPATIENT = 0.3


async def test_one_client_too_many_is_told_so_and_finds_room_later(tmp_path: Path) -> None:
    async with fake_engine(tmp_path, max_connections=2) as manager:
        socket = manager.instance.docker_socket
        async with contextlib.AsyncExitStack() as held:
            for _ in range(2):
                wire = await held.enter_async_context(raw_http.connected(socket))
                wire.send(PING)
                assert (await wire.reply()).status == 200
            refused = await raw_http.call(socket, "GET", "/_ping")
            assert (refused.status, refused.headers["connection"]) == (503, "close")
            assert refused.json == {"message": "too many connections: 2 are open ([api] max_connections)"}

        async def served() -> bool:
            return (await raw_http.call(socket, "GET", "/_ping")).status == 200

        await eventually(served)


async def _dribble(wire: Wire) -> None:
    """A byte at a time, for ever."""
    while True:
        wire.send(b"1\r\n \r\n")
        await asyncio.sleep(IMPATIENT / 10)


@pytest.mark.parametrize("target", ["/containers/create", "/images/load"])
async def test_a_body_that_comes_byte_by_byte_is_not_waited_for_for_ever(tmp_path: Path, target: str) -> None:
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with (
        fake_engine(tmp_path, body_timeout=IMPATIENT) as manager,
        raw_http.connected(manager.instance.docker_socket) as wire,
    ):
        wire.send(head.encode())
        dribble = asyncio.create_task(_dribble(wire))
        try:
            reply = await wire.reply()
        finally:
            dribble.cancel()
        assert b"request body is too slow: it got nowhere in 0.3 s" in reply.body
