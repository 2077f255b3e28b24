"""Save and load: images as one tar that Docker, podman, skopeo and every OCI tool read.

Original blobs and manifests travel, so that an image saved here and loaded elsewhere has the same id and digest.
A load names an image when all of its layers are unpacked; an archive that is refused leaves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from bulkhead.content.archive import LoadedImage, SavedImage, read_archive, write_archive
from bulkhead.content.manifests import MAX_CONFIG, MAX_MANIFEST, Manifest, decode_object, parse_manifest
from bulkhead.content.platforms import parse_platform
from bulkhead.errors import DataLoss, InvalidArgument, NotFound, Unavailable
from bulkhead.manager.images.catalogue import Change, Tag, bound_name
from bulkhead.manager.images.intake import Intake
from bulkhead.manager.images.leases import Kind, Lease
from bulkhead.manager.images.making import record_of
from bulkhead.manager.images.progress import Feed
from bulkhead.manager.images.records import ImageRecord, Layer
from bulkhead.manager.images.unpacking import LayerPlan, plan_layers
from bulkhead.model.digest import Digest
from bulkhead.model.image import image_config
from bulkhead.model.reference import Reference, parse_reference

# Pieces (of up to a MiB) of a saved archive that wait for a slow client.
_AHEAD = 4


class Archives:
    """Images to and from tars."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def load(self, stream: AsyncIterator[bytes], feed: Feed, *, quiet: bool, platform: str = "") -> None:
        """Add every image of a tar, or those for `platform` alone.

        Raises InvalidArgument, for a damaged one too, ResourceExhausted, NotFound when nothing is for the platform.
        """
        with self._intake.leases.unsettled():
            wanted = parse_platform(platform) if platform else None
            try:
                loaded = await read_archive(stream, self._intake.store, platform=wanted)
            except DataLoss as error:
                # What is damaged is the client's archive, not anything of ours.
                raise InvalidArgument(str(error)) from error
            try:
                with self._intake.leases.lease() as lease:
                    for image in loaded:
                        await self._load(image, lease, feed, quiet=quiet)
            finally:
                # What did not become an image goes; what did is in the books by now and stays.
                await self._intake.collector.free_layers(lease.names(Kind.LAYER))
                await self._intake.collector.free_blobs(blob for image in loaded for blob in _blobs_of(image.manifest))

    async def save(self, refs: Sequence[str]) -> AsyncGenerator[bytes, None]:
        """The tar of some images, piece by piece. Raises NotFound before the first."""
        wanted = self._wanted(refs)
        pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_AHEAD)
        with self._intake.leases.lease() as lease:
            for image, _ in wanted:
                await lease.add(Kind.IMAGE, image.id)
                await lease.add(Kind.BLOB, *image.blobs)
            saved = [SavedImage(manifest=self._manifest(image), names=names) for image, names in wanted]
            writing = asyncio.create_task(self._write(pieces, saved))
            try:
                while (piece := await pieces.get()) is not None:
                    yield piece
                await writing
            finally:
                writing.cancel()
                await asyncio.wait([writing])
        for image, _ in wanted:
            await self._intake.publish("image", "save", str(image.id), {**image.config.labels, "name": str(image.id)})

    async def _load(self, image: LoadedImage, lease: Lease, feed: Feed, *, quiet: bool) -> None:
        body = self._intake.store.read(image.manifest.config.digest, MAX_CONFIG)
        config = image_config(decode_object(body, MAX_CONFIG, "image config"))
        plan = plan_layers(image.manifest, config)
        await lease.add(Kind.IMAGE, image.manifest.config.digest)
        await lease.add(Kind.LAYER, *(layer.chain_id for layer in plan))
        await lease.add(Kind.BLOB, *_blobs_of(image.manifest))
        missing = [blob for blob in _blobs_of(image.manifest) if not self._intake.store.has(blob)]
        if missing:
            raise Unavailable(f"cannot load image: blob {missing[0]} was collected meanwhile, load it again")
        layers = [await self._load_layer(layer, feed, quiet=quiet) for layer in plan]
        await self._record(record_of(image.manifest, config, body, layers), image.names, feed)

    async def _load_layer(self, layer: LayerPlan, feed: Feed, *, quiet: bool) -> Layer:
        if quiet:
            return await self._intake.unpacker.unpack(layer, Feed())
        return await self._intake.unpacker.unpack(layer, feed, "Loading layer")

    async def _record(self, image: ImageRecord, names: Sequence[Reference], feed: Feed) -> None:
        def decide() -> tuple[Change, list[tuple[Reference, Digest]]]:
            books = self._intake.ledger.books
            moved = [
                (name, before.id)
                for name in names
                if (before := books.named(name)) is not None and before.id != image.id
            ]
            tag = Tag(image=image.id, tagged_at=time.time_ns())
            present = books.get(image.id)
            keep = present is not None and not present.removed
            return Change(images=() if keep else (image,), tags={bound_name(name): tag for name in names}), moved

        moved = await self._intake.ledger.change(decide)
        self._intake.unpacked()
        for name, before in moved:
            feed.print(
                f"The image {name.familiar()} already exists, renaming the old one with ID {before} to empty string\n"
            )
        for name in names:
            feed.print(f"Loaded image: {name.familiar()}\n")
        if not names:
            feed.print(f"Loaded image ID: {image.id}\n")
        await self._intake.publish("image", "load", str(image.id), {**image.config.labels, "name": str(image.id)})

    def _wanted(self, refs: Sequence[str]) -> list[tuple[ImageRecord, tuple[Reference, ...]]]:
        """Images and the names they are saved by: a name without tag means all tags, an id none."""
        if not refs:
            raise InvalidArgument("cannot save images: no names given")
        found: dict[Digest, list[Reference]] = {}
        for ref in refs:
            for image_id, name in self._named(ref):
                names = found.setdefault(image_id, [])
                if name is not None and name not in names:
                    names.append(name)
        books = self._intake.ledger.books
        return [
            (image, tuple(names)) for image_id, names in found.items() if (image := books.get(image_id)) is not None
        ]

    def _named(self, ref: str) -> list[tuple[Digest, Reference | None]]:
        books = self._intake.ledger.books
        with contextlib.suppress(InvalidArgument):
            name = parse_reference(ref)
            if name.tag is None and name.digest is None and (tags := books.repository_tags(name.name)):
                return [(image_id, tag) for tag, image_id in sorted(tags.items())]
            named = books.named(name)
            if named is not None:
                return [(named.id, bound_name(name) if name.digest is None else None)]
        try:
            return [(books.find(ref).id, None)]
        except NotFound:
            raise NotFound(f"No such image: {ref}") from None

    def _manifest(self, image: ImageRecord) -> Manifest:
        body = self._intake.store.read(image.manifest, MAX_MANIFEST)
        manifest = parse_manifest(body, image.manifest_media_type, image.manifest)
        if not isinstance(manifest, Manifest):
            raise DataLoss(f"cannot save image {image.id}: its manifest is an index")
        return manifest

    async def _write(self, pieces: asyncio.Queue[bytes | None], saved: Sequence[SavedImage]) -> None:
        try:
            await write_archive(pieces.put, self._intake.store, saved)
        except Exception:
            await pieces.put(None)  # whatever it was, somebody waits for the next piece
            raise
        await pieces.put(None)


def _blobs_of(manifest: Manifest) -> list[Digest]:
    return [manifest.digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)]
