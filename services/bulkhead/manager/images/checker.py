"""fsck: whether what is on disk is what the records say, and how to make it so.

Every blob is hashed anew, every layer looked for, every file's owner asked. Runs beside everything else: what an
operation under way uses is left alone. A bad blob is fetched again under the digest it came by; what cannot be
is dropped, so that nobody takes it for whole, and said.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from bulkhead.content.manifests import Descriptor
from bulkhead.content.store import BlobStore
from bulkhead.errors import BulkheadError, NotFound
from bulkhead.manager.images.leases import Kind, Leases
from bulkhead.manager.images.ledger import Ledger
from bulkhead.manager.images.ports import ImageUsers, Layers, Records, Snapshots
from bulkhead.manager.images.progress import Feed
from bulkhead.manager.images.records import ImageRecord, Layer
from bulkhead.manager.images.unpacking import LayerPlan, Unpacker
from bulkhead.model.digest import Digest
from bulkhead.model.reference import Reference

# fetch(reference by digest, "os/arch[/variant]"): pull again what is missing of an image.
Fetch = Callable[[Reference, str], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report; a problem is `repaired` or still there."""

    text: str
    problem: bool = False
    repaired: bool = False


class Checker:
    """Checks one installation's images."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        records: Records,
        store: BlobStore,
        layers: Layers,
        unpacker: Unpacker,
        leases: Leases,
        fetch: Fetch,
        snapshots: Snapshots,
        users: ImageUsers,
    ) -> None:
        self._ledger = ledger
        self._records = records
        self._store = store
        self._layers = layers
        self._unpacker = unpacker
        self._leases = leases
        self._fetch = fetch
        self._snapshots = snapshots
        self._users = users

    async def check(self, *, repair: bool) -> AsyncGenerator[Finding, None]:
        """The report, line by line, as it is found; with `repair`, what was done about each problem."""
        for text in await self._records.check():
            yield Finding(text=f"records: {text}", problem=True)
        images = list(self._ledger.books.all_images())
        async for finding in self._blobs(images, repair=repair):
            yield finding
        async for finding in self._unpacked(images, repair=repair):
            yield finding
        for finding in self._strays(repair=repair):
            yield finding
        for line in self._totals(images):
            yield line

    async def _blobs(self, images: list[ImageRecord], *, repair: bool) -> AsyncGenerator[Finding, None]:
        seen: set[Digest] = set()
        for image in images:
            for blob, size in _sizes(image).items():
                if blob in seen:
                    continue
                seen.add(blob)
                reason = await self._store.fault(blob, size)
                if reason is not None:
                    text = f"blob {blob} of image {image.id.short}: {reason}"
                    yield await self._blob_repaired(image, blob, text) if repair else Finding(text=text, problem=True)

    async def _blob_repaired(self, image: ImageRecord, blob: Digest, text: str) -> Finding:
        async with self._leases.condemned(Kind.BLOB, blob) as mine:
            if not mine:
                return Finding(text=f"{text}; in use by an operation under way, check again later", problem=True)
            await self._store.delete(blob)
        try:
            if blob == image.id:
                await self._store.put(image.config_json, blob)
                return Finding(text=f"{text}; restored from the records", problem=True, repaired=True)
            await self._fetch_again(image)
        except BulkheadError as error:
            return Finding(text=f"{text}; dropped, and it could not be fetched again: {error}", problem=True)
        if not self._store.has(blob):
            return Finding(text=f"{text}; dropped, its registry has another image by now", problem=True)
        return Finding(text=f"{text}; fetched again", problem=True, repaired=True)

    async def _fetch_again(self, image: ImageRecord) -> None:
        names = [name for name in self._ledger.books.references(image.id) if name.digest is not None]
        if not names:
            raise NotFound("it came from no registry; the image runs, but cannot be pushed or saved")
        await self._fetch(names[0], image.config.platform)

    async def _unpacked(self, images: list[ImageRecord], *, repair: bool) -> AsyncGenerator[Finding, None]:
        seen: set[Digest] = set()
        for image in images:
            chains = tuple(layer.chain_id for layer in image.layers)
            for position, layer in enumerate(image.layers):
                if layer.chain_id in seen:
                    continue
                seen.add(layer.chain_id)
                found = self._layers.size(layer.chain_id)
                if found == layer.size:
                    continue
                what = "it is not there" if found is None else f"it has {found} bytes instead of {layer.size}"
                text = f"layer {layer.chain_id} of image {image.id.short}: {what}"
                if repair:
                    yield await self._layer_repaired(_plan(layer, chains[:position]), text)
                else:
                    yield Finding(text=text, problem=True)

    async def _layer_repaired(self, plan: LayerPlan, text: str) -> Finding:
        try:
            await self._layers.discard(plan.chain_id)
            await self._unpacker.unpack(plan, Feed())
        except BulkheadError as error:
            return Finding(text=f"{text}; it could not be unpacked again: {error}", problem=True)
        return Finding(text=f"{text}; unpacked again", problem=True, repaired=True)

    def _strays(self, *, repair: bool) -> list[Finding]:
        found = []
        for name in self._layers.strays(self._ledger.books.chains()):
            _, _, encoded = name.partition("layers/")
            if encoded and _is_held(self._leases, encoded):
                continue
            text = f"snapshots/{name}: no image owns it"
            if repair:
                self._layers.discard_stray(name)
                text += "; removed"
            found.append(Finding(text=text, problem=True, repaired=repair))
        return found + self._writable_strays(repair=repair)

    def _writable_strays(self, *, repair: bool) -> list[Finding]:
        found = []
        for name in self._snapshots.strays(self._users.ids()):
            text = f"snapshots/containers/{name}: no container owns it"
            if repair:
                self._snapshots.discard_stray(name)
                text += "; removed"
            found.append(Finding(text=text, problem=True, repaired=repair))
        return found

    def _totals(self, images: list[ImageRecord]) -> list[Finding]:
        owned = {blob for image in images for blob in image.blobs}
        stored = {each.digest: each.size for each in self._store.list()}
        spare = {digest: size for digest, size in stored.items() if digest not in owned}
        partials = list(self._store.partials())
        lines = [f"{len(images)} images, {len(stored)} blobs of {sum(stored.values())} bytes looked at"]
        if spare or partials:
            size = sum(spare.values()) + sum(size for _, size in partials)
            lines.append(
                f"{len(spare)} blobs and {len(partials)} beginnings of {size} bytes wait for their pull to go on"
            )
        return [Finding(text=line) for line in lines]


def _sizes(image: ImageRecord) -> dict[Digest, int]:
    """Every blob of an image and how long it is."""
    return {
        image.id: len(image.config_json),
        image.manifest: image.manifest_size,
        **{layer.blob: layer.blob_size for layer in image.layers},
    }


def _plan(layer: Layer, below: tuple[Digest, ...]) -> LayerPlan:
    blob = Descriptor(media_type=layer.media_type, digest=layer.blob, size=layer.blob_size)
    return LayerPlan(blob=blob, diff_id=layer.diff_id, chain_id=layer.chain_id, below=below)


def _is_held(leases: Leases, encoded: str) -> bool:
    return leases.is_held(Kind.LAYER, Digest("sha256", encoded))
