"""One upstream's content, by way of the cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from bulkhead.content.blocking import Blocking
from bulkhead.content.client import Registry, RemoteManifest
from bulkhead.content.manifests import MAX_MANIFEST, Descriptor
from bulkhead.content.store import BlobStore
from bulkhead.errors import DataLoss, Forbidden, InvalidArgument, NotFound, Unauthorized, Unavailable
from bulkhead.model.digest import Digest
from bulkhead.model.reference import Reference
from bulkhead.registry.errors import Code, Refusal
from bulkhead.registry.ports import StoredManifest
from bulkhead.registry.upstreams.fills import Fill, Fills
from bulkhead.registry.upstreams.index import Index, Link, Tagged
from bulkhead.registry.upstreams.tables import UpstreamTable, remote_path

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """What all upstreams share."""

    store: BlobStore
    index: Index
    fills: Fills
    blocking: Blocking
    """One thread, for the index."""
    largest: int
    """The most bytes of a blob; 0 for any."""


class Upstream:
    """One registry to pull through. `repository` is the whole name here, `path` what the upstream calls it."""

    def __init__(self, table: UpstreamTable, remote: Registry, cache: Cache) -> None:
        self.name = table.name
        self._table = table
        self._remote = remote
        self._cache = cache
        self._asking: dict[tuple[str, str], asyncio.Task[StoredManifest]] = {}

    async def manifest(self, path: str, reference: Digest | str) -> StoredManifest:
        """A manifest by tag or digest. Raises Refusal, Unavailable."""
        key = (path, str(reference))
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._manifest(path, reference))
            task.add_done_callback(lambda done: self._answered(key, done))
        # Whoever asked first may go away without the others having to ask again.
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Stop asking."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def blob(self, path: str, digest: Digest) -> Descriptor:
        """A blob's size, once the upstream said that this repository has it. Raises Refusal, Unavailable."""
        link = await self._indexed(self._cache.index.link, self._local(path), digest)
        if link is None or not link.size:
            size = await self._told(self._remote.blob_size(remote_path(self._table, path), digest), Code.BLOB_UNKNOWN)
            if size is None:
                raise Refusal(Code.BLOB_UNKNOWN, detail={"digest": str(digest)})
            link = Link(size=size, media_type=link.media_type if link is not None else "")
            await self._indexed(self._cache.index.add_link, self._local(path), digest, link)
        if self._cache.largest and link.size > self._cache.largest:
            raise Refusal(Code.BLOB_TOO_LARGE, f"larger than {self._cache.largest} bytes")
        await self._indexed(self._cache.index.use, digest, time.time())
        return Descriptor(media_type=link.media_type, digest=digest, size=link.size)

    def fill(self, path: str, blob: Descriptor) -> Fill:
        """Bring a blob into the cache, or join those who do."""

        async def fetch(progress: Callable[[int], None]) -> None:
            remote = remote_path(self._table, path)
            await self._told(self._remote.pull_blob(remote, blob, self._cache.store, progress), Code.BLOB_UNKNOWN)

        return self._cache.fills.of(blob, fetch)

    async def tags(self, path: str) -> list[str]:
        """Every tag there is now. Raises Refusal, Unavailable."""
        return sorted(await self._told(self._remote.tags(remote_path(self._table, path)), Code.NAME_UNKNOWN))

    async def referrers(self, path: str, digest: Digest) -> bytes:
        """The index of what refers to a digest, as the upstream sends it. Raises Refusal, Unavailable."""
        remote = remote_path(self._table, path)
        return await self._told(self._remote.referrers(remote, digest), Code.MANIFEST_UNKNOWN)

    def _answered(self, key: tuple[str, str], task: asyncio.Task[StoredManifest]) -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            # Those who asked were told, unless all of them went away.
            task.exception()

    async def _manifest(self, path: str, reference: Digest | str) -> StoredManifest:
        if isinstance(reference, Digest):
            return await self._cached(path, reference) or await self._fetched(path, digest=reference)
        known = await self._indexed(self._cache.index.tag, self._local(path), reference)
        fresh = known is not None and known.checked + self._table.tag_seconds > time.time()
        if known is not None and fresh and (cached := await self._cached(path, known.digest)):
            return cached
        try:
            return await self._asked(path, reference, known)
        except Unavailable as error:
            stale = await self._stale(path, known)
            if stale is None:
                raise
            structlog.get_logger().warning(
                "stale tag served", repository=self._local(path), tag=reference, reason=str(error)
            )
            return stale

    async def _asked(self, path: str, tag: str, known: Tagged | None) -> StoredManifest:
        """Where the upstream says that a tag is."""
        try:
            if known is not None and (cached := await self._cached(path, known.digest)):
                # Asking where it is costs no pull on registries that count those.
                resolved = await self._told(self._remote.resolve(self._named(path, tag=tag)), Code.MANIFEST_UNKNOWN)
                if resolved.digest == known.digest:
                    await self._point(path, tag, known.digest)
                    return cached
            found = await self._fetched(path, tag=tag)
        except Refusal as refusal:
            if refusal.code is Code.MANIFEST_UNKNOWN:
                await self._indexed(self._cache.index.unpoint, self._local(path), tag)
            raise
        await self._point(path, tag, found.digest)
        return found

    async def _stale(self, path: str, known: Tagged | None) -> StoredManifest | None:
        if known is None or known.checked + self._table.stale_seconds <= time.time():
            return None
        return await self._cached(path, known.digest)

    async def _cached(self, path: str, digest: Digest) -> StoredManifest | None:
        link = await self._indexed(self._cache.index.link, self._local(path), digest)
        if link is None or not link.media_type:
            return None
        store = self._cache.store
        try:
            body = await store.blocking.run(store.read, digest, MAX_MANIFEST)
        except NotFound:
            return None
        except DataLoss:
            # It rotted: what the upstream has replaces it.
            await store.delete(digest)
            return None
        await self._indexed(self._cache.index.use, digest, time.time())
        return StoredManifest(digest=digest, media_type=link.media_type, body=body)

    async def _fetched(self, path: str, *, tag: str | None = None, digest: Digest | None = None) -> StoredManifest:
        reference = self._named(path, tag=tag, digest=digest)
        remote: RemoteManifest = await self._told(self._remote.manifest(reference), Code.MANIFEST_UNKNOWN)
        await self._cache.store.put(remote.body, remote.digest)
        link = Link(size=len(remote.body), media_type=remote.media_type)
        await self._indexed(self._cache.index.add_link, self._local(path), remote.digest, link)
        await self._indexed(self._cache.index.use, remote.digest, time.time())
        return StoredManifest(digest=remote.digest, media_type=remote.media_type, body=remote.body)

    async def _point(self, path: str, tag: str, digest: Digest) -> None:
        await self._indexed(self._cache.index.point, self._local(path), tag, digest, time.time())

    async def _told(self, answer: Awaitable[T], unknown: Code) -> T:
        """The upstream's answer, its refusals in our protocol's words."""
        try:
            return await answer
        except NotFound as error:
            raise Refusal(unknown, f"upstream {self.name}: {error}") from error
        except (Unauthorized, Forbidden) as error:
            # Its text may hold what only the operator should see: whom we are there.
            structlog.get_logger().warning("upstream denies", upstream=self.name, reason=str(error))
            raise Refusal(Code.DENIED, f"upstream {self.name} denies access") from error
        except (InvalidArgument, DataLoss) as error:
            raise Unavailable(f"upstream {self.name}: {error}") from error

    async def _indexed(self, call: Callable[..., T], *values: object) -> T:
        return await self._cache.blocking.run(call, *values)

    def _local(self, path: str) -> str:
        return f"{self.name}/{path}"

    def _named(self, path: str, *, tag: str | None = None, digest: Digest | None = None) -> Reference:
        return Reference(domain=self.name, path=remote_path(self._table, path), tag=tag, digest=digest)
