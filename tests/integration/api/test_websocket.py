"""Attach over a websocket: binary messages without frames, input back, every end noticed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from bulkhead.api.websocket import Unframed
from tests.integration.api.conftest import Fake

EVERYTHING = "stream=1&stdin=1&stdout=1&stderr=1"


@asynccontextmanager
async def websocket(fake: Fake, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(fake.socket))) as session,
        session.ws_connect(f"http://docker{path}") as socket,
    ):
        yield socket


async def all_of(socket: aiohttp.ClientWebSocketResponse) -> bytes:
    """Everything until the engine closes."""
    said = b""
    async with asyncio.timeout(20):
        async for message in socket:
            assert message.type is aiohttp.WSMsgType.BINARY
            said += message.data
    return said


@pytest.mark.parametrize("tty", [False, True])
async def test_input_goes_in_and_output_comes_out_without_frames(fake: Fake, tty: bool) -> None:
    container = await fake.run("sh", "-c", "read x; echo got $x; echo err >&2", OpenStdin=True, Tty=tty)
    async with websocket(fake, f"/containers/{container.id}/attach/ws?{EVERYTHING}") as socket:
        await socket.send_bytes(b"hel")
        await socket.send_str("lo\n")
        said = (await all_of(socket)).replace(b"\r\n", b"\n").split(b"\n")
    assert {b"got hello", b"err"} <= set(said)
    assert socket.close_code == 1000


async def test_only_the_streams_that_were_asked_for(fake: Fake) -> None:
    container = await fake.run("sh", "-c", "read x; echo out; echo err >&2", OpenStdin=True)
    async with websocket(fake, f"/containers/{container.id}/attach/ws?stream=1&stdin=1&stderr=1") as socket:
        await socket.send_bytes(b"\n")
        assert await all_of(socket) == b"err\n"


async def test_the_log_so_far(fake: Fake) -> None:
    container = await fake.run("sh", "-c", "echo before")
    await fake.call("POST", f"/containers/{container.id}/wait")
    async with websocket(fake, f"/containers/{container.id}/attach/ws?logs=1&stdout=1") as socket:
        assert await all_of(socket) == b"before\n"
    async with websocket(fake, f"/containers/{container.id}/attach/ws?stdout=1") as socket:
        assert await all_of(socket) == b"", "neither logs nor stream"


async def test_much_output_arrives_whole(fake: Fake) -> None:
    """More than what may wait for a slow client: the process is held up, and nothing is lost."""
    size = 3 << 20
    container = await fake.run("sh", "-c", f"read x; head -c {size} /dev/zero", OpenStdin=True)
    async with websocket(fake, f"/containers/{container.id}/attach/ws?{EVERYTHING}") as socket:
        await socket.send_bytes(b"\n")
        assert await all_of(socket) == bytes(size)


async def test_a_client_that_leaves_costs_the_container_nothing(fake: Fake) -> None:
    container = await fake.run("sh", "-c", "while read x; do echo $x; done", OpenStdin=True)
    path = f"/containers/{container.id}/attach/ws?{EVERYTHING}"
    for word in (b"one", b"two"):
        async with websocket(fake, path) as socket:
            await socket.send_bytes(word + b"\n")
            assert (await socket.receive_bytes(timeout=20)) == word + b"\n"
    assert (await fake.call("GET", f"/containers/{container.id}/json")).json["State"]["Running"]


async def test_old_clients_get_text(fake: Fake) -> None:
    container = await fake.run("sh", "-c", "read x; echo out", OpenStdin=True)
    async with websocket(fake, f"/v1.27/containers/{container.id}/attach/ws?{EVERYTHING}") as socket:
        await socket.send_bytes(b"\n")
        assert await socket.receive_str(timeout=20) == "out\n"


async def test_refusals_are_plain_answers(fake: Fake) -> None:
    container = await fake.run("sleep", "100")
    path = f"/containers/{container.id}/attach/ws"
    assert (await fake.call("GET", f"{path}?stream=1")).status == 400, "no handshake"
    for target, status in (("/containers/nosuch/attach/ws", 404), (f"{path}?detachKeys=foo", 400)):
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            async with websocket(fake, target):
                pass
        assert caught.value.status == status


def test_frames_are_taken_off_wherever_they_are_cut() -> None:
    parts = [os.urandom(size) for size in (0, 1, 7, 300)]
    stream = b"".join(b"\x01\0\0\0" + len(part).to_bytes(4, "big") + part for part in parts)
    for step in (1, 3, 8, 11, len(stream)):
        unframed = Unframed()
        pieces = [unframed.take(stream[at : at + step]) for at in range(0, len(stream), step)]
        assert b"".join(pieces) == b"".join(parts)
