"""Registries by the distribution protocol: which hosts an image comes from, and the client of each."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from bulkhead.content.arriving import Arriving
from bulkhead.content.auth import Credentials
from bulkhead.content.client import Pushed, Registry, RemoteManifest
from bulkhead.content.hub import HubResult, search_hub
from bulkhead.content.manifests import Descriptor
from bulkhead.content.store import BlobStore
from bulkhead.content.transport import Transport
from bulkhead.manager.images.ports import Source, Target, Told
from bulkhead.model.digest import Digest
from bulkhead.model.reference import DEFAULT_DOMAIN, Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRegistries:
    """Doors to registries. `mirrors` are asked before docker.io; they are never given credentials."""

    store: BlobStore
    mirrors: tuple[str, ...]
    transport: Transport

    @contextlib.asynccontextmanager
    async def sources(self, reference: Reference, credentials: Credentials) -> AsyncIterator[Sequence[Source]]:
        """Where an image may be pulled from, best first."""
        mirrors = self.mirrors if reference.domain == DEFAULT_DOMAIN else ()
        async with contextlib.AsyncExitStack() as stack:
            found: list[Source] = []
            for host in mirrors:
                registry = await stack.enter_async_context(Registry(host, transport=self.transport))
                found.append(_Repository(host=host, registry=registry, path=reference.path, store=self.store))
            registry = await stack.enter_async_context(
                Registry(reference.domain, transport=self.transport, auth=credentials)
            )
            found.append(_Repository(host=reference.domain, registry=registry, path=reference.path, store=self.store))
            yield found

    async def catalog(self, host: str, credentials: Credentials) -> list[str]:
        """The repositories of a registry."""
        async with Registry(host, transport=self.transport, auth=credentials) as registry:
            return await registry.catalog()

    async def login(self, host: str, credentials: Credentials) -> str:
        """An identity token, mostly empty, when the registry takes the credentials."""
        async with Registry(host, transport=self.transport, auth=credentials) as registry:
            return await registry.login()

    async def hub(self, term: str, limit: int) -> list[HubResult]:
        """What Docker Hub finds."""
        return await search_hub(self.transport, term, limit)

    @contextlib.asynccontextmanager
    async def target(self, reference: Reference, credentials: Credentials) -> AsyncIterator[Target]:
        """Where an image is pushed to: its own registry, never a mirror."""
        async with Registry(reference.domain, transport=self.transport, auth=credentials) as registry:
            yield _Destination(registry=registry, path=reference.path, store=self.store)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repository:
    host: str
    registry: Registry
    path: str
    store: BlobStore

    async def manifest(self, reference: Reference) -> RemoteManifest:
        return await self.registry.manifest(reference)

    async def blob(self, blob: Descriptor, told: Told, waiting: Told, arriving: Arriving) -> None:
        await self.registry.pull_blob(self.path, blob, self.store, told, waiting, arriving)

    async def tags(self) -> list[str]:
        return await self.registry.tags(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Destination:
    registry: Registry
    path: str
    store: BlobStore

    async def blob(self, blob: Digest, mount_from: str | None, told: Told, waiting: Told) -> Pushed:
        return await self.registry.push_blob(
            self.path,
            blob,
            self.store.path(blob),
            mount_from=mount_from,
            progress=told,
            waiting=waiting,
            blocking=self.store.blocking,
        )

    async def manifest(self, tag: str, media_type: str, body: bytes) -> Digest:
        return await self.registry.push_manifest(self.path, tag, body, media_type)
