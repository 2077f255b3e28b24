"""Pull: an image from a registry into the store, its layers unpacked, its name given last.

    manifest (mirrors, then the registry) -> config -> layers, several at once, unpacked as they arrive
    -> one durable transaction: image, layers, tag, digest

Until that transaction nobody sees the image, and what was fetched is held by a lease. A pull that fails
leaves verified blobs and beginnings of blobs for the next one, except on a full disk: then nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from bulkhead import failpoints
from bulkhead.content.arriving import Arriving
from bulkhead.content.auth import Credentials
from bulkhead.content.client import RemoteManifest
from bulkhead.content.manifests import (
    MAX_CONFIG,
    Descriptor,
    Index,
    Manifest,
    Platform,
    decode_object,
)
from bulkhead.content.platforms import HOST, choose, fits, parse_platform
from bulkhead.content.store import BlobStore
from bulkhead.errors import (
    BulkheadError,
    DataLoss,
    Forbidden,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthorized,
    Unavailable,
)
from bulkhead.manager.images.catalogue import Change, Tag, bound_name
from bulkhead.manager.images.filters import created
from bulkhead.manager.images.groups import failing_as_one
from bulkhead.manager.images.intake import Intake
from bulkhead.manager.images.leases import Kind, Lease
from bulkhead.manager.images.ports import Layers, Registries, Source
from bulkhead.manager.images.progress import Feed, retrying
from bulkhead.manager.images.records import ImageRecord, Layer
from bulkhead.manager.images.unpacking import LayerPlan, plan_layers
from bulkhead.model.digest import Digest
from bulkhead.model.image import ImageConfig, image_config
from bulkhead.model.reference import Reference

_T = TypeVar("_T")
# Why the next source is asked instead.
_ELSEWHERE = (NotFound, Unavailable, Unauthorized, Forbidden, DataLoss, InvalidArgument)
_MAX_NESTED_INDEXES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class PullRequest:
    """What to pull; `reference` has a tag or a digest."""

    reference: Reference
    platform: str = ""
    credentials: Credentials = field(default_factory=Credentials)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What a reference names: the digest people see, and the one image manifest behind it."""

    digest: Digest
    manifest: Manifest
    body: bytes


class Puller:
    """Pulls images; three blobs at a time, whoever asks."""

    def __init__(self, intake: Intake, layers: Layers, registries: Registries, *, downloads: int) -> None:
        self._intake = intake
        self._layers = layers
        self._registries = registries
        self._downloads = asyncio.Semaphore(downloads)

    async def pull(self, request: PullRequest, feed: Feed) -> None:
        """Pull one image. Raises NotFound, Unauthorized, Unavailable, DataLoss, InvalidArgument, ResourceExhausted."""
        try:
            with self._intake.leases.lease() as lease:
                async with self._registries.sources(request.reference, request.credentials) as sources:
                    await self._pull(request, sources, lease, feed)
        except ResourceExhausted:
            await self._make_room()
            raise
        finally:
            await self._intake.collector.free_layers(lease.names(Kind.LAYER))
        name = request.reference
        await self._intake.publish("image", "pull", name.familiar(), {"name": name.familiar_name})

    async def pull_all(self, request: PullRequest, feed: Feed) -> None:
        """Pull every tag of a repository."""
        async with self._registries.sources(request.reference, request.credentials) as sources:
            tags, _ = await _first(sources, request.reference, lambda source: source.tags())
        for tag in tags:
            await self.pull(replace(request, reference=replace(request.reference, tag=tag)), feed)

    async def fetch_again(self, reference: Reference, platform: str) -> None:
        """Have everything of an image that was pulled by this digest. Raises as `pull`."""
        await self.pull(PullRequest(reference=reference, platform=platform), Feed())

    async def _pull(self, request: PullRequest, sources: Sequence[Source], lease: Lease, feed: Feed) -> None:
        platform = parse_platform(request.platform) if request.platform else HOST
        found, source = await self._find(request.reference, platform, sources)
        name = request.reference
        ordered = [source, *(other for other in sources if other is not source)]
        feed.say(f"Pulling from {name.path}", name.tag or str(name.digest))
        failpoints.hit("manager.pull.found")
        fetcher = _Fetcher(self._intake.store, self._downloads, ordered, name, lease, feed)
        image = await self._fetch(found, platform, request, fetcher)
        failpoints.hit("manager.pull.fetched")
        fresh = await self._record(image, found, name)
        failpoints.hit("manager.pull.recorded")
        feed.say(f"Digest: {found.digest}")
        news = "Downloaded newer image for" if fresh else "Image is up to date for"
        feed.say(f"Status: {news} {name.familiar()}")

    async def _find(self, name: Reference, platform: Platform, sources: Sequence[Source]) -> tuple[_Found, Source]:
        """The manifest of a name, from the first source that has all of it."""

        async def look(source: Source) -> _Found:
            top = await source.manifest(name)
            image = await _descend(source, name, top, platform)
            assert isinstance(image.document, Manifest)
            return _Found(digest=top.digest, manifest=image.document, body=image.body)

        return await _first(sources, name, look)

    async def _fetch(self, found: _Found, platform: Platform, request: PullRequest, fetcher: _Fetcher) -> ImageRecord:
        """Everything of an image, on disk; nothing recorded yet."""
        manifest = found.manifest
        await fetcher.lease.add(Kind.IMAGE, manifest.config.digest)
        await fetcher.lease.add(Kind.BLOB, manifest.digest)
        config, config_json = await self._config(manifest, fetcher)
        if request.platform:
            _check_platform(config, platform, request.reference)
        plan = plan_layers(manifest, config)
        await fetcher.lease.add(Kind.LAYER, *(layer.chain_id for layer in plan))
        await self._check_space(plan, request.reference)
        layers = await self._fetch_layers(plan, found, fetcher)
        return ImageRecord(
            id=manifest.config.digest,
            config=config,
            config_json=config_json,
            manifest=manifest.digest,
            manifest_media_type=manifest.media_type,
            manifest_size=manifest.size,
            layers=layers,
            created_at=created(config.created),
        )

    async def _config(self, manifest: Manifest, fetcher: _Fetcher) -> tuple[ImageConfig, bytes]:
        if manifest.config.size > MAX_CONFIG:
            raise InvalidArgument(f"cannot use image config: it is larger than {MAX_CONFIG} bytes")
        await fetcher.fetch(manifest.config)
        body = self._intake.store.read(manifest.config.digest, MAX_CONFIG)
        return image_config(decode_object(body, MAX_CONFIG, "image config")), body

    async def _check_space(self, plan: Sequence[LayerPlan], name: Reference) -> None:
        """A layer takes its blob, and unpacked at least as much again."""
        blobs = {layer.blob.digest: layer.blob.size for layer in plan if not self._intake.store.has(layer.blob.digest)}
        unpacked = sum(layer.blob.size for layer in plan if self._layers.size(layer.chain_id) is None)
        needed = sum(blobs.values()) + unpacked
        if needed > self._layers.free_bytes():
            await self._make_room()
        free = self._layers.free_bytes()
        if needed > free:
            raise ResourceExhausted(
                f"cannot pull {name.familiar()}: no space left on device: it needs at least {needed} bytes, "
                f"{free} are free"
            )

    async def _fetch_layers(self, plan: Sequence[LayerPlan], found: _Found, fetcher: _Fetcher) -> tuple[Layer, ...]:
        """The manifest and all layers, fetched side by side, each unpacked as it arrives, put in place base first."""
        for layer in plan:
            await self._announce(layer, fetcher)
        arrivals: dict[Digest, Arriving] = {}
        layers: list[asyncio.Task[Layer]] = []
        async with failing_as_one() as group:
            group.create_task(self._intake.store.put(found.body, found.manifest.digest))
            for layer in plan:
                arriving = arrivals.get(layer.blob.digest)
                if arriving is None:
                    arriving = arrivals[layer.blob.digest] = Arriving()
                    group.create_task(fetcher.fetch_layer(layer.blob, arriving))
                below = layers[-1] if layers else None
                layers.append(group.create_task(self._have_layer(layer, arriving, below, fetcher)))
        return tuple(task.result() for task in layers)

    async def _have_layer(
        self, layer: LayerPlan, arriving: Arriving, below: asyncio.Task[Layer] | None, fetcher: _Fetcher
    ) -> Layer:
        async def settled() -> None:
            if below is not None:
                await asyncio.wait([below])
                below.result()

        try:
            unpacked = await self._intake.unpacker.unpack(layer, fetcher.feed, arriving=arriving, settled=settled)
        except DataLoss as error:
            await self._drop_rotten(layer.blob, error)
            raise
        await arriving.verified()
        if layer.blob.digest in fetcher.fetched:
            fetcher.feed.say("Pull complete", layer.blob.digest.short)
        return unpacked

    async def _drop_rotten(self, blob: Descriptor, error: DataLoss) -> None:
        """A blob that was here before may have rotted: nobody shall take it for whole again."""
        if not self._intake.store.has(blob.digest):
            return
        fault = await self._intake.store.fault(blob.digest, blob.size)
        if fault is not None:
            await self._intake.store.delete(blob.digest)
            reason = f"cannot pull blob {blob.digest}: on this disk {fault}; it was dropped, pull again"
            raise DataLoss(reason) from error

    async def _announce(self, layer: LayerPlan, fetcher: _Fetcher) -> None:
        here = await fetcher.has(layer.blob) and self._layers.size(layer.chain_id) is not None
        if not here:
            fetcher.fetched.add(layer.blob.digest)
        fetcher.feed.say("Already exists" if here else "Pulling fs layer", layer.blob.digest.short)

    async def _record(self, image: ImageRecord, found: _Found, name: Reference) -> bool:
        """Image, tag and digest, in one transaction; whether the name now means something new."""

        def decide() -> tuple[Change, tuple[bool, ImageRecord | None]]:
            books = self._intake.ledger.books
            before, known = books.named(name), books.get(image.id)
            fresh = before is None or before.id != image.id
            tag = Tag(image=image.id, tagged_at=time.time_ns())
            change = Change(
                images=() if known == image else (image,),
                tags={bound_name(name): tag} if fresh and name.digest is None else {},
                digests={name.with_digest(found.digest): image.id},
            )
            return change, (fresh, known)

        fresh, known = await self._intake.ledger.change(decide)
        self._intake.unpacked()
        if known is not None and known.manifest != image.manifest:
            # The same image, packed in another way: the old packing is of no use any more.
            await self._intake.collector.free_blobs(known.blobs)
        return fresh

    async def _make_room(self) -> None:
        """The disk is full: give back everything that nobody needs, beginnings of blobs included."""
        await self._intake.collector.sweep(0)
        await self._layers.emptied()


class _Fetcher:
    """Brings blobs of one image into the store, from whichever source has them."""

    def __init__(
        self,
        store: BlobStore,
        slots: asyncio.Semaphore,
        sources: Sequence[Source],
        name: Reference,
        lease: Lease,
        feed: Feed,
    ) -> None:
        self.lease = lease
        self.feed = feed
        self.fetched: set[Digest] = set()
        self._store = store
        self._slots = slots
        self._sources = sources
        self._name = name

    async def has(self, blob: Descriptor) -> bool:
        """Whether the blob is here, and will stay as long as the pull lasts."""
        await self.lease.add(Kind.BLOB, blob.digest)
        return self._store.has(blob.digest)

    async def fetch(
        self, blob: Descriptor, told: Callable[[int], None] = lambda _: None, arriving: Arriving | None = None
    ) -> None:
        """Have the blob here, verified; `arriving` hears how far it is."""
        arriving = arriving or Arriving()
        if await self.has(blob):
            if self._store.size(blob.digest) != blob.size:
                raise DataLoss(f"cannot pull blob {blob.digest}: it is not {blob.size} bytes long")
            arriving.whole(self._store.path(blob.digest), blob.size)
            return
        if self._slots.locked():
            self.feed.say("Waiting", blob.digest.short)

        def waiting(seconds: int) -> None:
            self.feed.say(retrying(seconds), blob.digest.short)

        async with self._slots:
            await _first(self._sources, self._name, lambda source: source.blob(blob, told, waiting, arriving))
        arriving.whole(self._store.path(blob.digest), blob.size)

    async def fetch_layer(self, blob: Descriptor, arriving: Arriving) -> None:
        """Have a layer's blob here, and tell of it."""
        short = blob.digest.short
        if await self.has(blob):
            await self.fetch(blob, arriving=arriving)
            return
        await self.fetch(blob, lambda done: self.feed.count("Downloading", short, done, blob.size), arriving)
        self.feed.say("Verifying Checksum", short)
        self.feed.say("Download complete", short)


async def _first(
    sources: Sequence[Source], name: Reference, ask: Callable[[Source], Awaitable[_T]]
) -> tuple[_T, Source]:
    """The first answer, and who gave it. When nobody does, the last one's error, with the others' reasons."""
    failures: list[tuple[str, BulkheadError]] = []
    for source in sources:
        try:
            return await ask(source), source
        except _ELSEWHERE as error:
            failures.append((source.host, error))
    raise _verdict(name, failures)


def _verdict(name: Reference, failures: Sequence[tuple[str, BulkheadError]]) -> BulkheadError:
    _, last = failures[-1]
    if len(failures) == 1 or not isinstance(last, Unavailable):
        # The registry itself has answered: what it says of its image is the truth.
        return last
    reasons = "; ".join(f"{host}: {error}" for host, error in failures)
    return Unavailable(f"cannot pull {name.familiar()}: {reasons}")


async def _descend(source: Source, name: Reference, top: RemoteManifest, platform: Platform) -> RemoteManifest:
    """From an index to the image manifest for a platform."""
    found = top
    for _ in range(_MAX_NESTED_INDEXES):
        if not isinstance(found.document, Index):
            return found
        chosen = choose(found.document, platform, name)
        found = await source.manifest(name.with_digest(chosen.digest))
    raise InvalidArgument(f"cannot pull {name.familiar()}: more than {_MAX_NESTED_INDEXES} indexes in one another")


def _check_platform(config: ImageConfig, platform: Platform, name: Reference) -> None:
    """Raise NotFound when an image is for another platform than the one that was asked for."""
    if not fits(Platform(os=config.os, architecture=config.architecture, variant=config.variant), platform):
        wanted = "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)
        raise NotFound(
            f"image with reference {name.familiar()} was found but does not match the specified "
            f"platform: wanted {wanted}, actual: {config.platform}"
        )
