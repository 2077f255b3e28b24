"""Request bodies: bounded in size, and in how long they may pause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import ClientConnectionError, StreamReader, web

from bulkhead.registry.errors import Code, Refusal

IDLE_SECONDS = 60.0


async def pieces(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """The body as it arrives, all that did. Raises Refusal(BLOB_UPLOAD_INVALID) when it is cut off or stalls."""
    while True:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                data = await request.content.readany()
        except TimeoutError:
            raise Refusal(Code.BLOB_UPLOAD_INVALID, "the body stopped arriving") from None
        except (ClientConnectionError, ConnectionError, asyncio.IncompleteReadError, web.PayloadAccessError) as error:
            if arrived := _unread(request.content):
                yield arrived
            raise Refusal(Code.BLOB_UPLOAD_INVALID, "the body was cut off") from error
        if not data:
            return
        yield data


def _unread(content: StreamReader) -> bytes:
    """What had arrived before the cut. aiohttp raises the cut before it gives that away, and has no public way to it;
    lost, it would be sent anew with each try, and on a line that breaks soon no try would bring anything.
    """
    return content._read_nowait(-1)


async def whole(request: web.BaseRequest, limit: int) -> bytes:
    """The whole body; raises Refusal(MANIFEST_TOO_LARGE) beyond `limit` bytes."""
    if (request.content_length or 0) > limit:
        raise Refusal(Code.MANIFEST_TOO_LARGE, f"larger than {limit} bytes")
    body = bytearray()
    async for piece in pieces(request):
        body += piece
        if len(body) > limit:
            raise Refusal(Code.MANIFEST_TOO_LARGE, f"larger than {limit} bytes")
    return bytes(body)
