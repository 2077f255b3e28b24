"""Answers that are written whole are those that aiohttp would write, to the byte."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from bulkhead.api.answers import JSON, PLAIN, Head, Whole
from bulkhead.api.call import Call
from bulkhead.api.connection import EngineConnection
from bulkhead.api.streams import RAW, begin
from bulkhead.api.versions import HEADERS, NEWEST

Answer = Callable[[], web.StreamResponse]

REQUESTS = (
    "GET /a HTTP/1.1\r\nHost: engine\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: engine\r\nContent-Length: 2\r\n\r\n{}",
    "GET /a HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n",
    "HEAD /a HTTP/1.1\r\nHost: engine\r\n\r\n",
    "GET /a HTTP/1.0\r\nHost: engine\r\n\r\n",
    "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
)
BEHIND = "GET /behind HTTP/1.1\r\nHost: engine\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("closing", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize(
    ("status", "body"),
    [(200, b""), (200, b'{"a":1}\n'), (201, b"x" * 100_000), (204, b""), (304, b""), (500, b"{}\n")],
    ids=["empty", "small", "large", "none", "same", "failure"],
)
@pytest.mark.parametrize("request_text", REQUESTS)
def test_whole_answers_are_what_aiohttp_writes(
    tmp_path: Path, request_text: str, status: int, body: bytes, closing: bool
) -> None:
    head: Head = JSON if body else PLAIN

    def whole() -> web.StreamResponse:
        return Whole(status, head, body)

    def plain() -> web.StreamResponse:
        return web.Response(status=status, body=body or None, headers=head.headers)

    made, expected = (_told(tmp_path, request_text + BEHIND, kind, closing) for kind in (whole, plain))
    assert made == expected
    assert made.startswith(b"HTTP/1.")


@pytest.mark.parametrize("closing", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("parts", [(), (b"a",), (b"a" * 70_000, b"b")], ids=["none", "one", "several"])
@pytest.mark.parametrize("request_text", REQUESTS)
def test_growing_answers_are_what_aiohttp_writes(
    tmp_path: Path, request_text: str, parts: tuple[bytes, ...], closing: bool
) -> None:
    headers = {**HEADERS, "Content-Type": RAW}

    async def begun(request: web.BaseRequest) -> web.StreamResponse:
        return await begin(Call(request=request, version=NEWEST), RAW)

    async def plain(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        if request.version >= (1, 1):
            response.enable_chunked_encoding()
        await response.prepare(request)
        return response

    def handled(start: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> bytes:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            response = await start(request)
            for part in parts[:-1]:
                await response.write(part)
            await response.write_eof(*parts[-1:])
            return response

        text = request_text.replace("Host: engine", "Host: engine\r\nConnection: close") if closing else request_text
        return _undated(asyncio.run(_asked(tmp_path, text + BEHIND, handle)))

    made, expected = handled(begun), handled(plain)
    assert made == expected
    assert made.startswith(b"HTTP/1.")


async def test_a_client_that_asks_on_and_does_not_read_is_not_answered_on(tmp_path: Path) -> None:
    """Nor is what nobody takes piled up in the service's memory."""
    answered = {"/first": 0, "/second": 0}

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        answered[request.path] += 1
        return Whole(200, JSON, b"x" * 60_000)

    engine = _Engine(handle)
    server = await asyncio.get_running_loop().create_unix_server(engine, str(tmp_path / "s"))
    _, deaf = await asyncio.open_unix_connection(str(tmp_path / "s"))
    reader, other = await asyncio.open_unix_connection(str(tmp_path / "s"))
    try:
        deaf.write(b"GET /first HTTP/1.1\r\nHost: engine\r\n\r\n" * 500)
        for _ in range(200):  # each lets the first have a turn
            other.write(b"GET /second HTTP/1.1\r\nHost: engine\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            await reader.readexactly(60_000)
        assert answered["/second"] == 200
        assert 0 < answered["/first"] < 50
    finally:
        deaf.close()
        other.close()
        server.close()
        await engine.shutdown()


def _told(directory: Path, text: str, answer: Answer, closing: bool) -> bytes:
    """All that a server says to `text` until it closes the connection."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        made = answer()
        if closing:
            made.force_close()
        return made

    return _undated(asyncio.run(_asked(directory, text, handle)))


def _undated(told: bytes) -> bytes:
    return re.sub(rb"\r\nDate: [^\r]*", b"\r\nDate: now", told)


async def _asked(
    directory: Path, text: str, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
) -> bytes:
    engine = _Engine(handle)
    server = await asyncio.get_running_loop().create_unix_server(engine, str(directory / "s"))
    reader, writer = await asyncio.open_unix_connection(str(directory / "s"))
    try:
        writer.write(text.encode())
        return await reader.read()
    finally:
        writer.close()
        server.close()
        await engine.shutdown()


class _Engine(web.Server):
    """aiohttp's server with our connections."""

    def __call__(self) -> RequestHandler:
        return EngineConnection(self, loop=self._loop, **self._kwargs)
