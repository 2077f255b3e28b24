"""What goes over the wire to a registry, request by request."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from bulkhead.content import media_types
from bulkhead.model.digest import Digest
from bulkhead.registry.app import serving
from bulkhead.registry.config import Config

CONFIG = b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
LAYER = b"the bytes of a layer"
UNKNOWN = Digest.of(b"nobody has this")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The first error code in the body."""
        return str(self.json["errors"][0]["code"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A registry and the way to ask it."""

    base: str
    root: Path
    session: aiohttp.ClientSession

    async def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request; `path` is sent as it is written."""
        url = URL(path if path.startswith("http") else self.base + path, encoded=True)
        async with self.session.request(method, url, data=body, headers=headers, allow_redirects=False) as answer:
            return Reply(status=answer.status, headers=answer.headers, body=await answer.read())

    async def blob(self, repository: str, data: bytes) -> Digest:
        """Upload a blob in one request."""
        digest = Digest.of(data)
        reply = await self.ask("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data)
        assert reply.status == 201, reply.body
        return digest

    async def manifest(
        self, repository: str, reference: str, body: bytes, kind: str = media_types.OCI_MANIFEST
    ) -> Reply:
        return await self.ask("PUT", f"/v2/{repository}/manifests/{reference}", body, {"Content-Type": kind})

    async def image(self, repository: str, tag: str, **extra: Any) -> Digest:
        """Push a small image; `extra` goes into its manifest."""
        await self.blob(repository, CONFIG)
        await self.blob(repository, LAYER)
        body = manifest_of(**extra)
        reply = await self.manifest(repository, tag, body)
        assert reply.status == 201, reply.body
        return Digest.of(body)


@asynccontextmanager
async def open_peer(root: Path, **told: Any) -> AsyncIterator[Peer]:
    """A registry below `root`; `told` goes into its configuration."""
    config = Config(host="127.0.0.1", port=0, root=root, **told)
    async with serving(config) as (host, port), aiohttp.ClientSession(auto_decompress=False) as session:
        yield Peer(base=f"http://{host}:{port}", root=root, session=session)


def wire(kind: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": str(Digest.of(data)), "size": len(data)}


def manifest_of(**extra: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": wire(media_types.OCI_CONFIG, CONFIG),
        "layers": [wire(media_types.OCI_LAYER, LAYER)],
        **extra,
    }
    return json.dumps(document).encode()


def index_of(*manifests: bytes, **extra: Any) -> bytes:
    entries = [wire(media_types.OCI_MANIFEST, manifest) for manifest in manifests]
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries, **extra}
    return json.dumps(document).encode()
