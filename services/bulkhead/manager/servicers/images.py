"""The gRPC face of images: message in, use-case, message out."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from bulkhead.errors import InvalidArgument
from bulkhead.manager.images.archives import Archives
from bulkhead.manager.images.progress import Feed
from bulkhead.manager.images.pull import Puller
from bulkhead.manager.images.pull import PullRequest as Pull
from bulkhead.manager.images.push import Pusher
from bulkhead.manager.images.push import PushRequest as Push
from bulkhead.manager.images.store import ImageStore, Named, Removed
from bulkhead.manager.images.transfers import Transfers
from bulkhead.manager.servicers.registries import credentials_of
from bulkhead.model.reference import parse_reference
from bulkhead.wire.convert import to_message
from bulkhead.wire.gen.bulkhead.manager.v1 import (
    HistoryEntry,
    HistoryResponse,
    Image,
    ImagesBase,
    ImageSummary,
    InspectImageRequest,
    ListImagesRequest,
    ListImagesResponse,
    LoadRequest,
    Presence,
    Progress,
    PruneImagesRequest,
    PruneImagesResponse,
    PullRequest,
    PushRequest,
    RemovedImage,
    RemoveImageRequest,
    RemoveImageResponse,
    SaveRequest,
    SaveResponse,
    TagRequest,
    TagResponse,
)
from bulkhead.wire.gen.bulkhead.types.v1 import StringList


class ImagesServicer(ImagesBase):
    """Images over gRPC."""

    def __init__(
        self, store: ImageStore, puller: Puller, pusher: Pusher, archives: Archives, transfers: Transfers
    ) -> None:
        self._store = store
        self._puller = puller
        self._pusher = pusher
        self._archives = archives
        self._transfers = transfers

    async def pull(self, message: PullRequest) -> AsyncIterator[Progress]:
        reference = parse_reference(message.reference)
        request = Pull(
            reference=reference.with_default_tag(), platform=message.platform, credentials=credentials_of(message.auth)
        )
        every = message.all_tags and reference.tag is None and reference.digest is None

        async def operation(feed: Feed) -> None:
            await (self._puller.pull_all(request, feed) if every else self._puller.pull(request, feed))

        async with contextlib.aclosing(self._transfers.watch(("pull", every, request), operation)) as lines:
            async for line in lines:
                yield to_message(Progress, line)

    async def push(self, message: PushRequest) -> AsyncIterator[Progress]:
        reference = parse_reference(message.reference)
        if reference.digest is not None:
            raise InvalidArgument("cannot push a digest reference")
        if not message.all_tags:
            reference = reference.with_default_tag()
        request = Push(reference=reference, credentials=credentials_of(message.auth))

        async def operation(feed: Feed) -> None:
            await self._pusher.push(request, feed)

        async with contextlib.aclosing(self._transfers.watch(("push", request), operation)) as lines:
            async for line in lines:
                yield to_message(Progress, line)

    async def list(self, message: ListImagesRequest) -> ListImagesResponse:
        found = self._store.select(_filters(message.filters), container_ids=message.container_ids)
        return ListImagesResponse(images=[_summary(named) for named in found])

    async def inspect(self, message: InspectImageRequest) -> Image:
        named = self._store.inspect(message.ref, container_ids=message.container_ids)
        record = named.record
        return Image(
            id=str(record.id),
            repo_tags=list(named.repo_tags),
            repo_digests=list(named.repo_digests),
            size=record.size,
            config=record.config_json,
            tagged_at=named.tagged_at,
            manifest_digest=str(record.manifest),
            manifest_media_type=record.manifest_media_type,
            manifest_size=record.manifest_size,
            presence=_presence(named),
        )

    async def history(self, message: InspectImageRequest) -> HistoryResponse:
        return HistoryResponse(entries=[to_message(HistoryEntry, line) for line in self._store.history(message.ref)])

    async def tag(self, message: TagRequest) -> TagResponse:
        await self._store.tag(message.ref, message.target)
        return TagResponse()

    async def remove(self, message: RemoveImageRequest) -> RemoveImageResponse:
        removed = await self._store.remove(message.ref, force=message.force)
        return RemoveImageResponse(items=_items(removed))

    async def prune(self, message: PruneImagesRequest) -> PruneImagesResponse:
        removed, freed = await self._store.prune(_filters(message.filters))
        return PruneImagesResponse(items=_items(removed), space_reclaimed=freed)

    async def load(self, messages: AsyncIterator[LoadRequest]) -> AsyncIterator[Progress]:
        first = await anext(messages, LoadRequest())

        async def operation(feed: Feed) -> None:
            await self._archives.load(_pieces(first, messages), feed, quiet=first.quiet, platform=first.platform)

        async with contextlib.aclosing(self._transfers.watch(object(), operation)) as lines:
            async for line in lines:
                yield to_message(Progress, line)

    async def save(self, message: SaveRequest) -> AsyncIterator[SaveResponse]:
        async with contextlib.aclosing(self._archives.save(message.refs)) as pieces:
            async for piece in pieces:
                yield SaveResponse(data=piece)


async def _pieces(first: LoadRequest, rest: AsyncIterator[LoadRequest]) -> AsyncIterator[bytes]:
    """What a client sends of an archive."""
    if first.data:
        yield first.data
    async for message in rest:
        yield message.data


def _filters(message: Mapping[str, StringList]) -> Mapping[str, Sequence[str]]:
    return {name: tuple(values.items) for name, values in message.items()}


def _items(removed: Sequence[Removed]) -> list[RemovedImage]:
    return [to_message(RemovedImage, item) for item in removed]


def _presence(named: Named) -> Presence:
    record = named.record
    return Presence(
        manifest_digest=str(record.manifest),
        manifest_media_type=record.manifest_media_type,
        manifest_size=record.manifest_size,
        content_size=record.content_size,
        os=record.config.os,
        architecture=record.config.architecture,
        variant=record.config.variant,
        container_ids=list(named.container_ids),
    )


def _summary(named: Named) -> ImageSummary:
    record = named.record
    return ImageSummary(
        id=str(record.id),
        repo_tags=list(named.repo_tags),
        repo_digests=list(named.repo_digests),
        created_at=record.created_at,
        size=record.size,
        labels=dict(record.config.labels),
        containers=named.containers,
        shared_size=named.shared_size,
        presence=_presence(named),
    )
