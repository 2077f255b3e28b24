"""Answers that are written whole are those that aiohttp would write, to the byte."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from bulkhead.api.answers import JSON, PLAIN, Head, Whole

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


def _told(directory: Path, text: str, answer: Answer, closing: bool) -> bytes:
    """All that a server says to `text` until it closes the connection."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        made = answer()
        if closing:
            made.force_close()
        return made

    return re.sub(rb"\r\nDate: [^\r]*", b"\r\nDate: now", asyncio.run(_asked(directory, text, handle)))


async def _asked(
    directory: Path, text: str, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
) -> bytes:
    engine = web.Server(handle)
    server = await asyncio.get_running_loop().create_unix_server(engine, str(directory / "s"))
    reader, writer = await asyncio.open_unix_connection(str(directory / "s"))
    try:
        writer.write(text.encode())
        return await reader.read()
    finally:
        writer.close()
        server.close()
        await engine.shutdown()
