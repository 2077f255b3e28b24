"""GET and HEAD of what belongs to upstreams; everything else about it is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web

from bulkhead.content import media_types
from bulkhead.content.manifests import Descriptor
from bulkhead.content.store import BlobStore
from bulkhead.errors import NotFound
from bulkhead.model.digest import Digest
from bulkhead.registry import names, tags
from bulkhead.registry.blobs import matches, wanted_range
from bulkhead.registry.errors import API_VERSION, Code, Refusal
from bulkhead.registry.ports import Blob, Page, StoredManifest
from bulkhead.registry.routes import Found, Handler
from bulkhead.registry.spans import Sender
from bulkhead.registry.upstreams.contents import CachedContent
from bulkhead.registry.upstreams.upstream import Upstream

# What a request for a repository that is not here is refused with.
_ABSENT = frozenset({Code.NAME_UNKNOWN, Code.MANIFEST_UNKNOWN, Code.BLOB_UNKNOWN})


class Pulls:
    """The endpoints of repositories that are named after an upstream."""

    def __init__(self, upstreams: Mapping[str, Upstream], fallback: str, store: BlobStore) -> None:
        """`fallback` names the upstream for repositories that are not here; empty for none."""
        self._upstreams = upstreams
        self._fallback = fallback
        self._store = store
        self._sender = Sender(store.blocking)
        # By the names of routes.
        self._handlers: dict[str, Handler] = {
            "manifest": self.manifest,
            "blob": self.blob,
            "tags": self.tags,
            "referrers": self.referrers,
        }

    def redirected(self, request: web.BaseRequest, found: Found) -> tuple[Handler, dict[str, str]]:
        """The handler of a request and its arguments, ours where the repository is an upstream's.

        Raises Refusal(UNSUPPORTED) for a method that the route does not take.
        """
        handler, arguments = found.taking(request.method), found.arguments
        name = arguments.get("name")
        if name is None or not self._upstreams:
            return handler, arguments
        # containerd says by `ns` which registry it takes us for; others by this header.
        space = request.query.get("ns") or request.headers.get("OCI-Namespace", "")
        if space in self._upstreams:
            name = f"{space}/{name}"
        here = self._handlers.get(found.name) if request.method in ("GET", "HEAD") else None
        if name.partition("/")[0] in self._upstreams and "/" in name:
            return here or self._refuse, {**arguments, "name": name}
        if self._fallback and here is not None:
            return self._falling_back(handler, here), arguments
        return handler, arguments

    async def manifest(self, request: web.BaseRequest, name: str, reference: str) -> web.StreamResponse:
        upstream, path = self._split(name)
        found = await upstream.manifest(path, names.reference(reference))
        headers = _manifest_headers(found)
        if matches(request, found.digest):
            return web.Response(status=304, headers=headers)
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(len(found.body))})
        return web.Response(body=found.body, headers=headers)

    async def blob(self, request: web.BaseRequest, name: str, digest: str) -> web.StreamResponse:
        upstream, path = self._split(name)
        wanted = names.digest(digest)
        blob = await upstream.blob(path, wanted)
        headers = _blob_headers(wanted)
        if request.method == "HEAD":
            return web.Response(headers={**headers, "Content-Length": str(blob.size)})
        if matches(request, wanted):
            return web.Response(status=304, headers=headers)
        response = web.StreamResponse(headers=headers)
        start, length = 0, blob.size
        part = wanted_range(request, Blob(digest=wanted, size=blob.size))
        if part is not None:
            start, length = part
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{blob.size}"
        content = await self._opened(upstream, path, blob)
        try:
            return await self._sender.send(request, response, content, start, length)
        finally:
            await content.close()

    async def tags(self, request: web.BaseRequest, name: str) -> web.StreamResponse:
        upstream, path = self._split(name)
        limit, last = tags.limit_of(request), request.query.get("last", "")
        after = [tag for tag in await upstream.tags(path) if tag > last]
        page = Page(names=tuple(after[:limit]), more=bool(limit) and len(after) > limit)
        return tags.answer({"name": name, "tags": page.names}, page, f"/v2/{name}/tags/list", limit)

    async def referrers(self, request: web.BaseRequest, name: str, digest: str) -> web.StreamResponse:
        upstream, path = self._split(name)
        body = await upstream.referrers(path, names.digest(digest))
        kind, headers = request.query.get("artifactType", ""), {}
        if kind:
            body, headers = _filtered(body, kind), {"OCI-Filters-Applied": "artifactType"}
        return web.Response(body=body, content_type=media_types.OCI_INDEX, headers=headers)

    async def _refuse(self, request: web.BaseRequest, **_: str) -> web.StreamResponse:
        """What is another registry's is not changed here."""
        raise Refusal(Code.UNSUPPORTED, "this repository is an upstream's: it can only be pulled")

    def _falling_back(self, here: Handler, there: Handler) -> Handler:
        async def answer(request: web.BaseRequest, *, name: str, **arguments: str) -> web.StreamResponse:
            try:
                return await here(request, name=name, **arguments)
            except Refusal as refusal:
                if refusal.code not in _ABSENT:
                    raise
            return await there(request, name=f"{self._fallback}/{name}", **arguments)

        return answer

    def _split(self, name: str) -> tuple[Upstream, str]:
        first, _, path = names.repository(name).partition("/")
        return self._upstreams[first], path

    async def _opened(self, upstream: Upstream, path: str, blob: Descriptor) -> CachedContent:
        """A blob's content, as soon as there is some. Should the rest fail to come, the connection breaks."""
        try:
            return CachedContent(self._store.open_blob(blob.digest), None, self._store.blocking)
        except NotFound:
            fill = upstream.fill(path, blob)
        await fill.begun()
        return CachedContent(self._store.open_growing(blob.digest), fill, self._store.blocking)


def _manifest_headers(found: StoredManifest) -> dict[str, str]:
    digest = str(found.digest)
    return {"Content-Type": found.media_type, "Docker-Content-Digest": digest, "ETag": f'"{digest}"'}


def _blob_headers(digest: Digest) -> dict[str, str]:
    return {
        **API_VERSION,
        "Content-Type": "application/octet-stream",
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "max-age=31536000",
    }


def _filtered(body: bytes, kind: str) -> bytes:
    try:
        index = msgspec.json.decode(body, type=dict[str, Any])
        entries = [entry for entry in index.get("manifests") or [] if entry.get("artifactType") == kind]
    except (msgspec.MsgspecError, AttributeError, TypeError) as error:
        raise Refusal(Code.UNAVAILABLE, "the upstream's referrers cannot be read") from error
    return msgspec.json.encode({**index, "manifests": entries})
