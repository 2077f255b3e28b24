"""GET, HEAD and DELETE of blobs."""

from __future__ import annotations

import re

from aiohttp import web

from bulkhead.content.blocking import Blocking
from bulkhead.errors import NotFound
from bulkhead.registry import names
from bulkhead.registry.errors import API_VERSION, Code, Refusal
from bulkhead.registry.ports import Blob, Storage
from bulkhead.registry.spans import Sender

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)


class Blobs:
    """The endpoints below /v2/<name>/blobs/<digest>."""

    def __init__(self, storage: Storage, blocking: Blocking, *, deletable: bool) -> None:
        self._storage = storage
        self._sender = Sender(blocking)
        self._deletable = deletable

    async def head(self, request: web.BaseRequest, name: str, digest: str) -> web.StreamResponse:
        blob = await self._find(name, digest)
        headers = {**_headers(blob), "Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        return web.Response(headers=headers)

    async def get(self, request: web.BaseRequest, name: str, digest: str) -> web.StreamResponse:
        blob = await self._find(name, digest)
        if matches(request, blob.digest):
            return web.Response(status=304, headers=_headers(blob))
        response = web.StreamResponse(headers=_headers(blob))
        response.content_type = "application/octet-stream"
        start, length = 0, blob.size
        wanted = wanted_range(request, blob)
        if wanted is not None:
            start, length = wanted
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{blob.size}"
        try:
            content = await self._storage.open_blob(blob)
        except NotFound as error:
            raise _unknown(digest) from error
        try:
            return await self._sender.send(request, response, content, start, length)
        finally:
            await content.close()

    async def delete(self, request: web.BaseRequest, name: str, digest: str) -> web.StreamResponse:
        if not self._deletable:
            raise Refusal(Code.UNSUPPORTED)
        await self._storage.unlink_blob(names.repository(name), names.digest(digest))
        return web.Response(status=202)

    async def _find(self, name: str, digest: str) -> Blob:
        blob = await self._storage.blob(names.repository(name), names.digest(digest))
        if blob is None:
            raise _unknown(digest)
        return blob


def wanted_range(request: web.BaseRequest, blob: Blob) -> tuple[int, int] | None:
    """(start, length) of the one range that was asked for, None for the whole; raises Refusal(RANGE_INVALID).

    Several ranges, or a header that makes no sense, are answered with the whole blob (RFC 9110 section 14.2).
    """
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if match is None or match[0] == "bytes=-" or not _if_range_holds(request, blob):
        return None
    first, last = match[1], match[2]
    if not first:
        start, end = max(0, blob.size - int(last)), blob.size
    else:
        start, end = int(first), min(int(last) + 1, blob.size) if last else blob.size
        if last and int(last) < int(first):
            return None
    if start >= blob.size or start >= end:
        raise Refusal(Code.RANGE_INVALID, headers={"Content-Range": f"bytes */{blob.size}"})
    return start, end - start


def _if_range_holds(request: web.BaseRequest, blob: Blob) -> bool:
    condition = request.headers.get("If-Range")
    return condition is None or condition.strip('"') == str(blob.digest)


def matches(request: web.BaseRequest, digest: object) -> bool:
    """Whether If-None-Match names `digest`, quoted or bare."""
    header = request.headers.get("If-None-Match")
    if header is None:
        return False
    tags = {tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")}
    return "*" in tags or str(digest) in tags


def _headers(blob: Blob) -> dict[str, str]:
    # This response may be sent before the edge sees it: it brings the header that all answers have.
    return {
        **API_VERSION,
        "Docker-Content-Digest": str(blob.digest),
        "ETag": f'"{blob.digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "max-age=31536000",
    }


def _unknown(digest: str) -> Refusal:
    return Refusal(Code.BLOB_UNKNOWN, detail={"digest": digest})
