"""A connection whose client asks a great deal at once takes turns with all others."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import uvloop
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from bulkhead.api import answers, connection
from bulkhead.api.connection import EngineConnection
from bulkhead.api.plain import PlainRequest

MANY = 200
Handler = Callable[[Any], Awaitable[web.StreamResponse]]


class _Engine(web.Server):
    def __call__(self) -> RequestHandler:
        return EngineConnection(self, loop=self._loop, **self._kwargs)


def _asking(path: str, number: int = 1) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: engine\r\n\r\n".encode() * number


async def test_who_asks_much_at_once_takes_turns_with_others(tmp_path: Path) -> None:
    order: list[str] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        order.append(request.path)
        return web.Response(text="x\n")

    engine = _Engine(handle)
    server = await asyncio.get_running_loop().create_unix_server(engine, str(tmp_path / "s"))
    greedy, modest = [await asyncio.open_unix_connection(str(tmp_path / "s")) for _ in range(2)]
    try:
        for reader, writer in (greedy, modest):
            writer.write(_asking("/first"))
            await reader.readuntil(b"x\n")
        greedy[1].write(_asking("/many", MANY))
        modest[1].write(_asking("/one"))
        await modest[0].readuntil(b"x\n")
        for _ in range(MANY):
            await greedy[0].readuntil(b"x\n")
    finally:
        greedy[1].close()
        modest[1].close()
        server.close()
        await engine.shutdown()
    assert order.count("/many") == MANY
    assert order.index("/one") < MANY // 2


@contextlib.asynccontextmanager
async def _served(handle: Handler, path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client's connection to an engine that answers so."""
    engine = _Engine(handle, handler_cancellation=True)
    server = await asyncio.get_running_loop().create_unix_server(engine, str(path))
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        yield reader, writer
    finally:
        writer.close()
        server.close()
        await engine.shutdown()


async def test_plain_requests_and_others_are_answered_in_order(tmp_path: Path) -> None:
    """Those that need no aiohttp share the connection with those that do, also with ones whose answer streams."""
    plain: dict[str, bool] = {}

    async def handle(request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        plain[request.path] = isinstance(request, PlainRequest)
        if "stream" not in request.path:
            return answers.encoded(f"{request.path}\n".encode())
        response = web.StreamResponse()
        await response.prepare(request.whole if isinstance(request, PlainRequest) else request)
        await response.write(f"{request.path}\n".encode())
        return response

    async with _served(handle, tmp_path / "s") as (reader, writer):
        for asked in (("/a",), ("/b%20",), ("/stream",), ("/c", "/d"), ("/e",)):
            writer.write(b"".join(_asking(path) for path in asked))
            for path in asked:
                assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
                await reader.readuntil(f"{unquote(path)}\n".encode())
                if path == "/stream":
                    await reader.readuntil(b"\r\n0\r\n\r\n")
    assert plain == {"/a": True, "/b ": False, "/stream": True, "/c": False, "/d": False, "/e": True}


async def test_a_client_that_leaves_ends_what_its_plain_request_waits_for(tmp_path: Path) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handle(request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        assert isinstance(request, PlainRequest)
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("it waits for ever")

    async with _served(handle, tmp_path / "s") as (_, writer):
        writer.write(_asking("/wait"))
        await asyncio.wait_for(begun.wait(), 20)
        writer.close()
        await asyncio.wait_for(ended.wait(), 20)


async def test_a_body_that_looks_like_a_request_is_none(tmp_path: Path) -> None:
    """Also when its request was answered before it came, as those are that a web page may send with any body."""
    asked: list[str] = []

    async def handle(request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        asked.append(request.path)
        return answers.encoded(b"x\n", 403)

    body = _asking("/smuggled")
    async with _served(handle, tmp_path / "s") as (reader, writer):
        writer.write(f"POST /first HTTP/1.1\r\nHost: engine\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        await reader.readuntil(b"x\n")
        writer.write(body)
        await writer.drain()
        # Who asks after that, and is answered, shows that it has been read.
        others_reader, other = await asyncio.open_unix_connection(str(tmp_path / "s"))
        other.write(_asking("/other"))
        await others_reader.readuntil(b"x\n")
        other.close()
        writer.write(_asking("/after"))
        await reader.readuntil(b"x\n")
    assert asked == ["/first", "/other", "/after"]


async def test_the_rest_of_a_body_is_not_held_back_though_it_looks_like_a_request(tmp_path: Path) -> None:
    """What comes behind a head that may be hijacked is held for who takes it over; this is none."""
    looks = b"POST /exec/x/start HTTP/1.1\r\nHost: engine\r\n\r\n"

    async def handle(request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        return answers.encoded(b"x\n", 403)

    async with _served(handle, tmp_path / "s") as (reader, writer), asyncio.timeout(20):
        writer.write(b"POST /first HTTP/1.1\r\nHost: engine\r\nContent-Length: %d\r\n\r\n" % (len(looks) + 4))
        await reader.readuntil(b"x\n")
        writer.write(looks + b"rest" + _asking("/after"))
        await reader.readuntil(b"x\n")


@pytest.mark.parametrize(
    "asking",
    [
        pytest.param(_asking("/first"), id="answered"),
        pytest.param(
            b"POST /exec/x/start HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", id="raw"
        ),
    ],
)
def test_what_came_together_with_its_connection_is_plain_as_well(tmp_path: Path, asking: bytes) -> None:
    """With the daemon's loop, which reads it before anybody waits for a request."""
    seen: list[type] = []

    async def handle(request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        seen.append(type(request))
        return answers.encoded(b"x\n")

    async def ask() -> None:
        async with _served(handle, tmp_path / "s"):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "s"))
                client.sendall(asking)
                client.setblocking(False)
                async with asyncio.timeout(20):
                    assert await asyncio.get_running_loop().sock_recv(client, 1000)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(ask())
    assert seen == [PlainRequest]


_NEXT = b"PUT /next HTTP/1.1\r\nHost: engine\r\nContent-Length: 200\r\n\r\n" + b"_" * 200


@pytest.mark.parametrize("seen", [_NEXT[:20], _NEXT[:-199]], ids=["head", "body"])
async def test_what_begins_behind_a_plain_request_is_not_mixed_with_it(tmp_path: Path, seen: bytes) -> None:
    """Its answer may need aiohttp after all, whose parser must not be in the midst of the next one then."""
    begun, go_on = asyncio.Event(), asyncio.Event()
    bodies: list[bytes] = []

    async def handle(request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        if request.path == "/next":
            assert isinstance(request, web.BaseRequest)
            bodies.append(await request.read())
            return answers.encoded(b"next\n")
        assert isinstance(request, PlainRequest)
        begun.set()
        await go_on.wait()
        response = web.StreamResponse()
        await response.prepare(request.whole)
        await response.write(b"first\n")
        return response

    async with _served(handle, tmp_path / "s") as (reader, writer):
        writer.write(_asking("/first"))
        await asyncio.wait_for(begun.wait(), 20)
        writer.write(seen)
        await _taken(writer)
        go_on.set()
        async with asyncio.timeout(20):
            await reader.readuntil(b"first\n\r\n0\r\n\r\n")
            writer.write(_NEXT[len(seen) :])
            await reader.readuntil(b"next\n")
    assert bodies == [b"_" * 200]


async def test_a_long_body_that_came_at_once_is_read_by_aiohttp_to_its_end(tmp_path: Path) -> None:
    body = bytes(180_000)
    plain: list[bool] = []
    read: list[int] = []

    async def handle(request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        plain.append(isinstance(request, PlainRequest))
        whole = request.whole if isinstance(request, PlainRequest) else request
        read.append(len(await whole.read()))
        return answers.encoded(b"done\n")

    async with _served(handle, tmp_path / "s") as (reader, writer):
        for _ in range(2):
            writer.write(b"PUT /a HTTP/1.1\r\nHost: engine\r\nContent-Length: 180000\r\n\r\n" + body)
            async with asyncio.timeout(20):
                await reader.readuntil(b"done\n")
    assert read == [len(body)] * 2
    assert any(plain)


async def _taken(writer: asyncio.StreamWriter) -> None:
    """Until the engine, in this very loop, has read what was written."""
    sock = writer.get_extra_info("socket")
    while struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]:  # noqa: ASYNC110 -- see unix(7)
        await asyncio.sleep(0)


async def _is_read(path: Path) -> None:
    """What was written to the engine before: who asks after that, and is answered, shows it."""
    reader, other = await asyncio.open_unix_connection(str(path))
    other.write(_asking("/other"))
    await reader.readuntil(b"\n")
    other.close()


@pytest.mark.parametrize("fields", [b"", b"Connection: Upgrade\r\nUpgrade: tcp\r\n"])
async def test_a_body_that_comes_behind_its_head_makes_no_other_request_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: bytes
) -> None:
    """docker-py writes them one by one."""
    monkeypatch.setattr(connection, "_BODY_SECONDS", 60)
    seen: list[tuple[bool, bytes]] = []

    async def handle(request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        if request.path != "/other":
            body = request.body if isinstance(request, PlainRequest) else await request.read()
            seen.append((isinstance(request, PlainRequest), body))
        return answers.encoded(b"x\n")

    path = b"/exec/x/start" if fields else b"/containers/create"
    async with _served(handle, tmp_path / "s") as (reader, writer):
        for _ in range(2):
            writer.write(b"POST " + path + b" HTTP/1.1\r\nHost: engine\r\n" + fields + b"Content-Length: 4\r\n\r\n")
            await _is_read(tmp_path / "s")
            writer.write(b"body")
            await reader.readuntil(b"x\n")
    assert seen == [(True, b"body")] * 2


@pytest.mark.parametrize("path", [b"/exec/x/start", b"/containers/create"])
async def test_a_handler_that_wants_no_body_need_not_wait_for_it(tmp_path: Path, path: bytes) -> None:
    async def handle(request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        return answers.encoded(b"x\n", 403)

    async with _served(handle, tmp_path / "s") as (reader, writer):
        writer.write(b"POST " + path + b" HTTP/1.1\r\nHost: engine\r\nContent-Length: 4\r\n\r\n")
        await reader.readuntil(b"x\n")


async def _answer_to_half_a_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"POST /containers/create HTTP/1.1\r\nHost: engine\r\nContent-Length: 9\r\n\r\nbody")
    writer.write_eof()
    return await reader.read()


async def test_a_body_that_is_waited_for_and_will_not_come_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_BODY_SECONDS", 60)

    async def handle(request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        assert not isinstance(request, PlainRequest)
        with pytest.raises(web.RequestPayloadError):
            await request.read()
        return answers.encoded(b"cut off\n", 400)

    async with _served(handle, tmp_path / "s") as (reader, writer):
        assert (await _answer_to_half_a_request(reader, writer)).endswith(b"cut off\n")


async def test_a_stop_begins_what_waits_for_its_body(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_BODY_SECONDS", 60)
    engines: list[EngineConnection] = []

    async def handle(request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        if request.path == "/other":
            return answers.encoded(b"x\n")
        return answers.encoded(b"begun\n")

    class Engine(_Engine):
        def __call__(self) -> RequestHandler:
            engines.append(EngineConnection(self, loop=self._loop, **self._kwargs))
            return engines[-1]

    server = await asyncio.get_running_loop().create_unix_server(Engine(handle), str(tmp_path / "s"))
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
    writer.write(b"POST /containers/create HTTP/1.1\r\nHost: engine\r\nContent-Length: 4\r\n\r\n")
    await _is_read(tmp_path / "s")
    engines[0].leave()
    writer.write(b"body")
    assert (await reader.read()).endswith(b"begun\n")
    writer.close()
    server.close()
