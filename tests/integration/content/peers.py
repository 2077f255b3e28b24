"""Registries to talk to: the real one, one behind a line that breaks, and ones that do as they are told."""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from bulkhead.content import media_types
from bulkhead.content.client import Patience, Registry
from bulkhead.content.manifests import Descriptor
from bulkhead.content.store import BlobStore
from bulkhead.model.digest import Digest
from bulkhead.model.reference import Reference, parse_reference
from bulkhead.registry.app import serving
from bulkhead.registry.config import Config

# Tests never wait for a back-off.
IMPATIENT = Patience(attempts=3, backoff=0.001, longest_backoff=0.002, connect=5.0, idle=5.0)


@asynccontextmanager
async def real_registry(root: Path, *, delete: bool = True) -> AsyncIterator[str]:
    """Our registry on a loopback port; yields host:port."""
    async with serving(Config(host="127.0.0.1", port=0, root=root, delete=delete)) as (host, port):
        yield f"{host}:{port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image in memory."""

    config: bytes
    layers: tuple[bytes, ...]
    manifest: bytes

    @property
    def digest(self) -> Digest:
        return Digest.of(self.manifest)

    @property
    def blobs(self) -> tuple[bytes, ...]:
        return (self.config, *self.layers)


def image_of(*layers: bytes, media_type: str = media_types.OCI_LAYER_GZIP) -> Image:
    """An image whose layers are these bytes, whatever they are."""
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": wire(media_types.OCI_CONFIG, config),
        "layers": [wire(media_type, layer) for layer in layers],
    }
    return Image(config=config, layers=layers, manifest=json.dumps(manifest).encode())


def wire(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}


def descriptor(data: bytes) -> Descriptor:
    return Descriptor(media_type=media_types.OCI_LAYER, digest=Digest.of(data), size=len(data))


def named(host: str, path: str = "app", tag: str = "latest") -> Reference:
    return parse_reference(f"{host}/{path}:{tag}")


async def pushed(host: str, path: str, tag: str, image: Image, store: BlobStore) -> None:
    """Push an image with the real client."""
    async with Registry(host, patience=IMPATIENT) as registry:
        for blob in image.blobs:
            stored = await store.put(blob)
            await registry.push_blob(path, stored.digest, stored.path)
        await registry.push_manifest(path, tag, image.manifest, media_types.OCI_MANIFEST)


@dataclass(slots=True)
class Line:
    """A TCP line to another port that breaks after so many bytes of answers, once per number in `breaks`.

    `up_breaks` are the same for requests.
    """

    target: int
    breaks: list[int]
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    up_breaks: list[int] = field(default_factory=list)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        connections: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            # A cancelled task of a stream server is reported as an error (Python 3.11).
            with suppress(asyncio.CancelledError):
                await self._carry(reader, writer)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield f"127.0.0.1:{self.port}"
        finally:
            server.close()
            for task in connections:
                task.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        up = asyncio.create_task(self._up(reader, far_writer))
        try:
            await self._down(far_reader, writer)
        finally:
            up.cancel()
            for end in (writer, far_writer):
                end.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.requests.append(data)
                if self.up_breaks and passed + len(data) > self.up_breaks[0]:
                    self.up_breaks.pop(0)
                    writer.close()
                    return
                passed += len(data)
                writer.write(data)
                await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        with suppress(ConnectionError):
            while data := await reader.read(4096):
                if self.breaks and passed + len(data) > self.breaks[0]:
                    writer.write(data[: self.breaks.pop(0) - passed])
                    await writer.drain()
                    return
                passed += len(data)
                writer.write(data)
                await writer.drain()


Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class Scripted:
    """A server that answers by a function and remembers what it was asked."""

    answer: Answer
    seen: list[tuple[str, str, str | None]] = field(default_factory=list)
    address: str = ""

    @asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            self.seen.append((request.method, request.path_qs, request.headers.get("Authorization")))
            return await self.answer(request)

        runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.05)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def authorizations(self) -> list[str]:
        """Every Authorization header that came."""
        return [header for _, _, header in self.seen if header is not None]


def paths(seen: Sequence[tuple[str, str, str | None]]) -> list[str]:
    return [path for _, path, _ in seen]
