"""Push: an image's original blobs and its original manifest, so that its digest is the same everywhere."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

from bulkhead.content.auth import Credentials
from bulkhead.content.client import Pushed
from bulkhead.content.manifests import MAX_MANIFEST
from bulkhead.content.store import BlobStore
from bulkhead.errors import NotFound
from bulkhead.manager.images.catalogue import Change
from bulkhead.manager.images.groups import failing_as_one
from bulkhead.manager.images.leases import Kind, Leases
from bulkhead.manager.images.ledger import Ledger
from bulkhead.manager.images.ports import Publish, Registries, Target
from bulkhead.manager.images.progress import Feed, retrying
from bulkhead.manager.images.records import ImageRecord, Layer
from bulkhead.model.digest import Digest
from bulkhead.model.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class PushRequest:
    """What to push; a reference without a tag means every tag of its repository."""

    reference: Reference
    credentials: Credentials = field(default_factory=Credentials)


class Pusher:
    """Pushes images; five blobs at a time, whoever asks."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: BlobStore,
        registries: Registries,
        leases: Leases,
        publish: Publish,
        uploads: int,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._registries = registries
        self._leases = leases
        self._publish = publish
        self._uploads = asyncio.Semaphore(uploads)

    async def push(self, request: PushRequest, feed: Feed) -> None:
        """Push one tag, or all. Raises NotFound, Unauthorized, Forbidden, Unavailable."""
        feed.say(f"The push refers to repository [{request.reference.name}]")
        tags = self._tags(request.reference)
        async with self._registries.target(request.reference, request.credentials) as target:
            for name, image in tags:
                await self._push(name, image, target, feed)
        for name, _ in tags:
            await self._publish("image", "push", name.familiar(), {"name": name.familiar_name})

    def _tags(self, reference: Reference) -> list[tuple[Reference, ImageRecord]]:
        books = self._ledger.books
        if reference.tag is not None:
            image = books.named(reference)
            if image is None:
                raise self._absent(reference)
            return [(reference, image)]
        tags = sorted(books.repository_tags(reference.name).items())
        if not tags:
            raise self._absent(reference)
        return [(name, image) for name, image_id in tags if (image := books.get(image_id)) is not None]

    def _absent(self, reference: Reference) -> NotFound:
        if reference.tag is not None and self._ledger.books.repository_tags(reference.name):
            return NotFound(f"tag does not exist: {reference.familiar()}")
        return NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")

    async def _push(self, name: Reference, image: ImageRecord, target: Target, feed: Feed) -> None:
        with self._leases.lease() as lease:
            await lease.add(Kind.IMAGE, image.id)
            await lease.add(Kind.BLOB, *image.blobs)
            await self._push_blobs(name, image, target, feed)
            body = self._store.read(image.manifest, MAX_MANIFEST)
            digest = await target.manifest(name.tag or str(image.manifest), image.manifest_media_type, body)
        await self._remember(name, image, digest)
        feed.say(f"{name.tag}: digest: {digest} size: {len(body)}")
        aux = {"Tag": name.tag, "Digest": str(digest), "Size": len(body)}
        feed.say("", aux=json.dumps(aux).encode())

    async def _push_blobs(self, name: Reference, image: ImageRecord, target: Target, feed: Feed) -> None:
        layers = list({layer.blob: layer for layer in image.layers}.values())
        for layer in layers:
            feed.say("Preparing", layer.diff_id.short)
        async with failing_as_one() as group:
            for layer in reversed(layers):
                group.create_task(self._push_layer(name, layer, target, feed))
            group.create_task(self._push_config(image.id, target))

    async def _push_layer(self, name: Reference, layer: Layer, target: Target, feed: Feed) -> None:
        short = layer.diff_id.short
        if self._uploads.locked():
            feed.say("Waiting", short)
        async with self._uploads:
            origin = self._mountable(name, layer.blob)
            pushed = await target.blob(
                layer.blob,
                origin,
                lambda done: feed.count("Pushing", short, done, layer.blob_size),
                lambda seconds: feed.say(retrying(seconds), short),
            )
        feed.say(_SAID[pushed] if pushed is not Pushed.MOUNTED else f"Mounted from {origin}", short)

    async def _push_config(self, config: Digest, target: Target) -> None:
        async with self._uploads:
            await target.blob(config, None, lambda _: None, lambda _: None)

    def _mountable(self, name: Reference, blob: Digest) -> str | None:
        """A repository of the same registry that was seen to hold this blob."""
        books = self._ledger.books
        for image in books.all_images():
            if blob in image.blobs:
                for other in books.references(image.id):
                    if other.digest is not None and other.domain == name.domain and other.path != name.path:
                        return other.path
        return None

    async def _remember(self, name: Reference, image: ImageRecord, digest: Digest) -> None:
        """The registry knows the image by this digest from now on."""

        def decide() -> tuple[Change, None]:
            present = self._ledger.books.get(image.id)
            if present is None or present.removed:
                return Change(), None
            return Change(digests={name.with_digest(digest): image.id}), None

        await self._ledger.change(decide)


_SAID = {Pushed.EXISTED: "Layer already exists", Pushed.UPLOADED: "Pushed"}
