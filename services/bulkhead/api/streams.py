"""Bodies that grow while the client reads: chunked, headers flushed before the first byte is known."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, cast

import msgspec
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from bulkhead import errors
from bulkhead.api.answers import Growing, Head, chunked_head
from bulkhead.api.call import Call
from bulkhead.api.plain import PlainRequest
from bulkhead.api.versions import HEADERS, Version

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
STDOUT, STDERR = 1, 2

_HEADER = struct.Struct(">BxxxL")


def frame(stream: int, payload: bytes) -> bytes:
    """One frame of Docker's stdcopy: stream, three zero bytes, length, payload."""
    return _HEADER.pack(stream, len(payload)) + payload


def framing(version: Version, tty: bool) -> str:
    """The Content-Type of a stream of output; before 1.42 it never told the framing."""
    return RAW if tty or version < Version(1, 42) else MULTIPLEXED


class _Growing(web.StreamResponse):
    """A body in chunks behind a head whose bytes are known; what is not in chunks has a head of aiohttp's making."""

    def __init__(self, head: Head) -> None:
        super().__init__(headers=head.headers)
        self._head = head

    async def _start(self, request: web.BaseRequest) -> AbstractStreamWriter:
        if not self._chunked or request.method == "HEAD":
            return await super()._start(request)
        if self._keep_alive is None:
            self._keep_alive = request.keep_alive
        writer = self._payload_writer = request.writer
        self._req = request
        last = b"" if self._keep_alive else b"Connection: close\r\n"
        await writer.write(chunked_head(self._head, last))
        writer.enable_chunking()
        return writer


@lru_cache(maxsize=8)
def _head(content_type: str) -> Head:
    return Head({**HEADERS, "Content-Type": content_type})


async def begin(
    call: Call,
    content_type: str = "application/json",
    *,
    endless: bool = False,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> web.StreamResponse:
    """Flush the headers of a 200 whose body follows by `write`.

    `endless` marks streams that last until the client leaves: stopping the daemon does not wait for them.
    """
    if isinstance(call.request, PlainRequest) and not call.request.is_whole and not headers:
        return cast(web.StreamResponse, await _grow(call, call.request, _head(content_type), endless=endless))
    response = (
        web.StreamResponse(headers={**HEADERS, **headers, "Content-Type": content_type})
        if headers
        else _Growing(_head(content_type))
    )
    if call.whole.version >= (1, 1):
        response.enable_chunked_encoding()
    call.connection.endless, call.connection.chunked = endless, bool(response.chunked)
    await response.prepare(call.whole)
    return response


async def _grow(call: Call, request: PlainRequest, head: Head, *, endless: bool) -> Growing:
    connection = call.connection
    connection.endless, connection.chunked = endless, True
    response = Growing(connection.send, keep_alive=not connection.leaves)
    request.begun = True
    await response.begin(head)
    return response


async def lines(call: Call, items: AsyncIterator[Any], *, told_in_stream: bool = False) -> web.StreamResponse:
    """Send `items` as JSON lines ended by CR LF, as pull, push and load do.

    The first item is awaited before the headers, so that an error before any output gets its own status, unless
    that is to be `told_in_stream`; later ones end the stream with Docker's error line.
    """
    try:
        first = await anext(items, None)
    except errors.BulkheadError as error:
        if not told_in_stream:
            raise
        response = await begin(call)
        await response.write(json_line(error_line(str(error))))
        return response
    response = await begin(call)
    if first is None:
        return response
    try:
        await response.write(json_line(first))
        async for item in items:
            await response.write(json_line(item))
    except errors.BulkheadError as error:
        await response.write(json_line(error_line(str(error))))
    return response


def json_line(item: Any) -> bytes:
    return msgspec.json.encode(item) + b"\r\n"


def error_line(message: str) -> dict[str, Any]:
    """The last line of a progress stream that failed."""
    return {"errorDetail": {"message": message}, "error": message}
