"""The plain answers of handlers: JSON, and none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion11

from bulkhead.api.versions import HEADERS

LAST_CHUNK = b"0\r\n\r\n"


class Head:
    """Headers that are the same in many answers; their bytes are made once for each status."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers
        self._bytes: dict[int, bytes] = {}

    def of(self, status: int) -> bytes:
        known = self._bytes.get(status)
        if known is None:
            lines = (f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *map(": ".join, self.headers.items()))
            known = self._bytes[status] = "".join(f"{line}\r\n" for line in lines).encode()
        return known


class Whole(web.StreamResponse):
    """An answer of which all is known: head and body are one write of bytes that are mostly made already.

    They are those of `web.Response`, whose way to them costs more than most handlers; HEAD and HTTP/1.0 it still
    answers.
    """

    def __init__(self, status: int, head: Head, body: bytes = b"") -> None:
        # Not aiohttp's own, whose headers and state nobody asks for: `_prepare_plain` has them where they are needed.
        self._status = status
        self._constant = head
        self._content = body
        self._plain: web.Response | None = None

    @property
    def body(self) -> bytes:
        return self._content

    def encoded(self) -> bytes:
        """All of it, for a client of HTTP/1.1 that has not asked to be left by the connection."""
        if self._keep_alive is None:
            self._keep_alive = True
        self._eof_sent = True
        return self._bytes()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if request.method == "HEAD" or request.version != HttpVersion11:
            return await self._prepare_plain(request)
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        self._eof_sent = True
        await request.writer.write(self._bytes())
        # A client that asks on and on and does not read has the next answer when it has taken this one.
        await request.writer.drain()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        if self._plain is not None:
            await self._plain.write_eof()

    def _bytes(self) -> bytes:
        length = b"" if self._status in (204, 304) else b"Content-Length: %d\r\n" % len(self._content)
        last = b"" if self._keep_alive else b"Connection: close\r\n"
        date = rfc822_formatted_time().encode()
        return b"%b%bDate: %b\r\n%b\r\n%b" % (self._constant.of(self._status), length, date, last, self._content)

    async def _prepare_plain(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._plain = web.Response(status=self._status, body=self._content, headers=self._constant.headers)
        if self._keep_alive is False:
            self._plain.force_close()
        writer = await self._plain.prepare(request)
        self._keep_alive = self._plain.keep_alive
        return writer


class Growing:
    """The answer to a plain request whose body comes in chunks; as much of `web.StreamResponse` as handlers use."""

    status, prepared = 200, True

    def __init__(self, send: Callable[[bytes], Awaitable[None]], *, keep_alive: bool) -> None:
        self._send = send
        self._ended = False
        self.keep_alive = keep_alive

    async def begin(self, head: Head) -> None:
        """Send what comes before the body."""
        last = b"" if self.keep_alive else b"Connection: close\r\n"
        await self._send(chunked_head(head, last))

    async def write(self, data: bytes) -> None:
        """Send some of the body; what is empty would end it."""
        if data:
            await self._send(_chunk(data))

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the last of the body, unless that was done."""
        if not self._ended:
            self._ended = True
            await self._send((_chunk(data) if data else b"") + LAST_CHUNK)


def chunked_head(head: Head, last: bytes) -> bytes:
    """The head of a body in chunks, with the fields of this one answer in `last`."""
    date = rfc822_formatted_time().encode()
    return b"%bTransfer-Encoding: chunked\r\nDate: %b\r\n%b\r\n" % (head.of(200), date, last)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


PLAIN = Head(HEADERS)
JSON = Head({**HEADERS, "Content-Type": "application/json"})


def json(value: Any, status: int = 200) -> web.StreamResponse:
    """`value` as JSON with a newline, as Go's encoder ends it."""
    return encoded(msgspec.json.encode(value) + b"\n", status)


def encoded(body: bytes, status: int = 200) -> web.StreamResponse:
    """JSON that is bytes already."""
    return Whole(status, JSON, body)


def empty(status: int = 204) -> web.StreamResponse:
    return Whole(status, PLAIN)
