"""Uploads: monolithic, chunked, mounted (registry.md section 1, upload client matrix)."""

from __future__ import annotations

import re

from aiohttp import web

from bulkhead.errors import InvalidArgument
from bulkhead.model.digest import Digest, new_hasher
from bulkhead.registry import bodies, callers, names
from bulkhead.registry.callers import Caller
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.ports import Blob, Storage, Upload, UploadWriter

_CONTENT_RANGE = re.compile(r"(?:bytes )?([0-9]{1,18})-([0-9]{1,18})(?:/[0-9*]+)?", re.ASCII)


class Uploads:
    """The endpoints below /v2/<name>/blobs/uploads/."""

    def __init__(self, storage: Storage, *, largest: int = 0, automount: bool = True) -> None:
        """`largest` is the most bytes that a blob may have; 0 for any."""
        self._storage = storage
        self._largest = largest
        self._automount = automount

    async def start(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        repository = names.repository(name)
        query = request.query
        if "mount" in query:
            mounted = await self._mount(callers.of(request), repository, query["mount"], query.get("from", ""))
            if mounted is not None:
                return _created(repository, mounted)
        digest = names.digest(query["digest"]) if "digest" in query else None
        upload = await self._storage.start_upload(repository, _algorithm(request, digest))
        if digest is None:
            return _accepted(upload, upload.offset)
        try:
            async with self._storage.writing(upload) as writer:
                return _created(repository, await self._receive_last(request, writer, digest))
        except BaseException:
            # Nobody was told of this session: it cannot be continued.
            await self._forget(upload)
            raise

    async def append(self, request: web.BaseRequest, name: str, upload_id: str) -> web.StreamResponse:
        upload = await self._storage.upload(names.repository(name), upload_id)
        async with self._storage.writing(upload) as writer:
            _check_range(request, upload, writer.offset)
            await self._receive(request, writer)
            end = writer.offset
        return _accepted(upload, end)

    async def finish(self, request: web.BaseRequest, name: str, upload_id: str) -> web.StreamResponse:
        upload = await self._storage.upload(names.repository(name), upload_id)
        if "digest" not in request.query:
            raise Refusal(Code.DIGEST_INVALID, "digest parameter missing")
        digest = names.digest(request.query["digest"])
        async with self._storage.writing(upload) as writer:
            _check_range(request, upload, writer.offset)
            return _created(upload.repository, await self._receive_last(request, writer, digest))

    async def status(self, request: web.BaseRequest, name: str, upload_id: str) -> web.StreamResponse:
        upload = await self._storage.upload(names.repository(name), upload_id)
        return web.Response(status=204, headers=_session_headers(upload, upload.offset))

    async def cancel(self, request: web.BaseRequest, name: str, upload_id: str) -> web.StreamResponse:
        upload = await self._storage.upload(names.repository(name), upload_id)
        await self._storage.cancel_upload(upload)
        return web.Response(status=204)

    async def _mount(self, caller: Caller, repository: str, digest: str, source: str) -> Blob | None:
        if not source:
            return await self._storage.mount_blob(repository, names.digest(digest), "") if self._automount else None
        # Battery H16: what the caller may not read is as good as absent.
        if not caller.may_read(names.repository(source)):
            return None
        return await self._storage.mount_blob(repository, names.digest(digest), names.repository(source))

    async def _receive_last(self, request: web.BaseRequest, writer: UploadWriter, digest: Digest) -> Blob:
        await self._receive(request, writer)
        return await writer.finish(digest)

    async def _receive(self, request: web.BaseRequest, writer: UploadWriter) -> None:
        self._check_size(writer.offset + (request.content_length or 0))
        async for piece in bodies.pieces(request):
            self._check_size(writer.offset + len(piece))
            await writer.write(piece)

    def _check_size(self, size: int) -> None:
        if self._largest and size > self._largest:
            raise Refusal(Code.BLOB_TOO_LARGE, f"larger than {self._largest} bytes")

    async def _forget(self, upload: Upload) -> None:
        try:
            await self._storage.cancel_upload(upload)
        except Refusal:
            return


def _algorithm(request: web.BaseRequest, digest: Digest | None) -> str:
    algorithm = digest.algorithm if digest is not None else request.query.get("digest-algorithm", "sha256")
    try:
        new_hasher(algorithm)
    except InvalidArgument as error:
        raise Refusal(Code.DIGEST_INVALID, str(error)) from error
    return algorithm


def _check_range(request: web.BaseRequest, upload: Upload, offset: int) -> None:
    """A chunk says where it belongs, or is appended; one that belongs elsewhere is refused with where we are."""
    header = request.headers.get("Content-Range")
    if header is None:
        return
    match = _CONTENT_RANGE.fullmatch(header)
    if match is None:
        raise Refusal(Code.RANGE_INVALID, headers=_session_headers(upload, offset))
    first, last = int(match[1]), int(match[2])
    if first != offset or last < first:
        raise Refusal(Code.RANGE_INVALID, headers=_session_headers(upload, offset))
    if request.content_length is not None and request.content_length != last - first + 1:
        raise Refusal(Code.SIZE_INVALID)


def _session_headers(upload: Upload, offset: int) -> dict[str, str]:
    return {
        "Location": f"/v2/{upload.repository}/blobs/uploads/{upload.id}",
        # An empty upload is said as 0-0 too: clients since 2014 read it so.
        "Range": f"0-{max(0, offset - 1)}",
        "Docker-Upload-UUID": upload.id,
    }


def _accepted(upload: Upload, offset: int) -> web.Response:
    return web.Response(status=202, headers=_session_headers(upload, offset))


def _created(repository: str, blob: Blob) -> web.Response:
    return web.Response(
        status=201,
        headers={
            "Location": f"/v2/{repository}/blobs/{blob.digest}",
            "Docker-Content-Digest": str(blob.digest),
        },
    )
