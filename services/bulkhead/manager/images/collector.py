"""Deletes what nothing refers to: blobs, layers, and images that only containers had needed.

Roots are the images in the books (removed ones with containers included) and the leases of operations
under way. Runs beside everything else: each deletion condemns one thing, which new leases wait for.
Unreferenced blobs are also what an interrupted pull left, so a sweep spares those that are young.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

import structlog

from bulkhead import failpoints
from bulkhead.content.store import BlobStore
from bulkhead.errors import BulkheadError
from bulkhead.manager.images.catalogue import Change
from bulkhead.manager.images.leases import Kind, Leases
from bulkhead.manager.images.ledger import Ledger
from bulkhead.manager.images.ports import ImageUsers, Layers
from bulkhead.manager.images.records import ImageRecord
from bulkhead.manager.images.removal import users_of
from bulkhead.model.digest import Digest

log = structlog.get_logger()
# How long an interrupted pull may be resumed (seconds).
KEEP_UNFINISHED = 24 * 3600


class Collector:
    """Frees space."""

    def __init__(self, ledger: Ledger, store: BlobStore, layers: Layers, leases: Leases, users: ImageUsers) -> None:
        self._ledger = ledger
        self._store = store
        self._layers = layers
        self._leases = leases
        self._users = users
        self._kicked = asyncio.Event()

    def kick(self) -> None:
        """A container let go of its image: look soon whether the image goes."""
        if self._ledger.books.removed_images():
            self._kicked.set()

    async def run(self) -> None:
        """For ever: follow kicks."""
        while True:
            await self._kicked.wait()
            self._kicked.clear()
            try:
                await self.drop_unused()
            except BulkheadError as error:
                # The next kick, or the next boot, tries again.
                log.warning("cannot drop unused images", reason=str(error))

    def stored_bytes(self) -> int:
        """Bytes of blobs and of beginnings of blobs."""
        return sum(stored.size for stored in self._store.list()) + sum(size for _, size in self._store.partials())

    def stored_at(self, blob: Digest) -> int:
        """When a blob came (Unix nanoseconds); 0 when it is not here."""
        return int(_modified(self._store.path(blob)) * 1e9) if self._store.has(blob) else 0

    async def free(self, images: Iterable[ImageRecord]) -> int:
        """Delete what only these images, now gone from the books, had needed; bytes freed."""
        gone = list(images)
        sizes = {layer.chain_id: layer.size for image in gone for layer in image.layers}
        freed = sum([sizes[chain] for chain in sizes if await self._free_layer(chain)])
        return freed + await self.free_blobs({blob for image in gone for blob in image.blobs})

    async def drop_unused(self) -> int:
        """Forget removed images that no container needs any more; bytes freed."""

        def decide() -> tuple[Change, list[ImageRecord]]:
            gone = [
                image
                for image in self._ledger.books.removed_images()
                if not users_of(self._users, image).some and not self._leases.is_held(Kind.IMAGE, image.id)
            ]
            return Change(dropped_images=tuple(image.id for image in gone)), gone

        return await self.free(await self._ledger.change(decide))

    async def sweep(self, keep_seconds: float = KEEP_UNFINISHED) -> int:
        """Delete every blob and beginning of a blob that nothing needs and nobody touched for so long; bytes freed."""
        before = time.time() - (KEEP_UNFINISHED if self._leases.has_unsettled else keep_seconds)
        freed = 0
        for stored in list(self._store.list()):
            if _modified(stored.path) <= before:
                freed += await self._free_blob(stored.digest)
        for digest, size in list(self._store.partials()):
            if _modified(self._store.root / "partial" / f"{digest.algorithm}-{digest.encoded}") <= before:
                freed += await self._free_partial(digest, size)
        return freed

    async def free_layers(self, chains: Iterable[Digest]) -> None:
        """Delete those unpacked layers that no image needs."""
        for chain in chains:
            await self._free_layer(chain)

    async def free_blobs(self, blobs: Iterable[Digest]) -> int:
        """Delete those blobs that no image needs; bytes freed."""
        return sum([await self._free_blob(blob) for blob in blobs])

    async def _free_layer(self, chain: Digest) -> bool:
        async with self._leases.condemned(Kind.LAYER, chain) as mine:
            if not mine or self._ledger.books.layer(chain) is not None:
                return False
            try:
                await self._layers.discard(chain)
            except BulkheadError as error:
                # The next boot sweeps it.
                log.warning("cannot discard layer", layer=str(chain), reason=str(error))
                return False
            return True

    async def _free_blob(self, blob: Digest) -> int:
        async with self._leases.condemned(Kind.BLOB, blob) as mine:
            if not mine or self._ledger.books.needs_blob(blob) or not self._store.has(blob):
                return 0
            size = self._store.size(blob)
            failpoints.hit("manager.collect.condemned")
            await self._store.delete(blob)
            failpoints.hit("manager.collect.deleted")
            return size

    async def _free_partial(self, blob: Digest, size: int) -> int:
        async with self._leases.condemned(Kind.BLOB, blob) as mine:
            if not mine:
                return 0
            await self._store.delete_partial(blob)
            return size


def _modified(path: Path) -> float:
    """When a file was last written; now, when it has just gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
