"""A registry that misbehaves on request: serves any bytes under any digest, cuts, stalls, refuses, and remembers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from bulkhead.ctl.seed.images import MANIFEST_TYPE, Image, digest_of


@dataclass(slots=True)
class FakeRegistry:
    """One repository name is as good as another; manifests are found by tag or digest."""

    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """After how many bytes each next answer for a blob breaks off."""
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    """Answers for these blobs send their first half, then wait."""
    refusal: tuple[int, str, str] | None = None
    """What every request is answered with: status, code, message."""
    requests: list[str] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    """A held blob's first half is out."""
    host: str = ""

    def add(self, image: Image, tag: str = "latest") -> None:
        """Serve an image."""
        self.blobs.update(image.blobs)
        self.add_manifest(image.manifest, tag)

    def add_manifest(self, body: bytes, tag: str, media_type: str = MANIFEST_TYPE) -> str:
        """Serve bytes as a manifest; their digest."""
        digest = digest_of(body)
        self.manifests[tag] = self.manifests[digest] = (body, media_type)
        return digest

    def count(self, part: str) -> int:
        """How many requests had this in their path."""
        return sum(part in request for request in self.requests)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.path} {request.headers.get('Range', '')}")
        if self.refusal is not None:
            status, code, message = self.refusal
            return web.json_response({"errors": [{"code": code, "message": message}]}, status=status)
        if request.path == "/v2/":
            return web.json_response({})
        *_, kind, which = request.path.split("/")
        return self._manifest(which) if kind == "manifests" else await self._blob(request, which)

    def _manifest(self, which: str) -> web.Response:
        if which not in self.manifests:
            body = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            return web.json_response(body, status=404)
        manifest, media_type = self.manifests[which]
        return web.Response(body=manifest, content_type=media_type)

    async def _blob(self, request: web.Request, digest: str) -> web.StreamResponse:
        if digest not in self.blobs:
            return web.json_response({"errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown"}]}, status=404)
        whole = self.blobs[digest]
        start = request.http_range.start or 0
        data = whole[start:]
        response = web.StreamResponse(status=206 if start else 200)
        response.content_length = len(data)
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(whole) - 1}/{len(whole)}"
        await response.prepare(request)
        cuts = self.cuts.get(digest)
        if cuts:
            await response.write(data[: cuts.pop(0)])
            assert request.transport is not None
            request.transport.abort()
            return response
        if digest in self.held:
            await response.write(data[: len(data) // 2])
            data = data[len(data) // 2 :]
            self.started.set()
            await self.held[digest].wait()
        await response.write(data)
        return response


@asynccontextmanager
async def serving(registry: FakeRegistry | None = None) -> AsyncIterator[FakeRegistry]:
    """The registry on a port of the loopback interface."""
    found = registry or FakeRegistry()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", found.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.host = "{}:{}".format(*runner.addresses[0])
    try:
        yield found
    finally:
        for event in found.held.values():
            event.set()
        await runner.cleanup()


def rewritten(image: Image, **changes: Any) -> bytes:
    """An image's manifest with other values at its top."""
    document: Mapping[str, Any] = {**json.loads(image.manifest), **changes}
    return json.dumps(document).encode()
