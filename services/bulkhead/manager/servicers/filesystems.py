"""The gRPC face of containers' files: message in, use-case, message out."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from bulkhead.manager.filesystems import CommitRequest, Filesystems
from bulkhead.manager.images.importing import Importer, ImportRequest
from bulkhead.manager.images.progress import Feed
from bulkhead.manager.images.transfers import Transfers
from bulkhead.model.container import ContainerSpec
from bulkhead.model.reference import Reference, parse_tag_target
from bulkhead.wire.convert import to_message, to_model
from bulkhead.wire.gen.bulkhead.manager import v1 as api

# Records of changes per message.
_BATCH = 4000


class FilesystemsServicer(api.FilesystemsBase):
    """protos/bulkhead/manager/v1/filesystems.proto."""

    def __init__(self, filesystems: Filesystems, importer: Importer, transfers: Transfers) -> None:
        self._filesystems = filesystems
        self._importer = importer
        self._transfers = transfers

    async def export(self, message: api.ExportRequest) -> AsyncIterator[api.ExportResponse]:
        async with contextlib.aclosing(self._filesystems.export(message.ref)) as pieces:
            async for piece in pieces:
                yield api.ExportResponse(data=piece)

    async def changes(self, message: api.ChangesRequest) -> AsyncIterator[api.ChangesResponse]:
        found = await self._filesystems.changes(message.ref)
        for start in range(0, len(found), _BATCH):
            batch = found[start : start + _BATCH]
            yield api.ChangesResponse(
                records=b"".join(b"%c%s\0" % (each.kind.value.encode(), each.path) for each in batch)
            )

    async def commit(self, message: api.CommitRequest) -> api.CommitResponse:
        request = CommitRequest(
            ref=message.ref,
            name=_name(message.name),
            author=message.author,
            comment=message.comment,
            pause=message.pause,
            changes=tuple(message.changes),
            config=to_model(ContainerSpec, message.config) if message.config is not None else None,
        )
        return api.CommitResponse(id=await self._filesystems.commit(request))

    async def import_(self, messages: AsyncIterator[api.ImportRequest]) -> AsyncIterator[api.Progress]:
        first = await anext(messages, api.ImportRequest())
        request = ImportRequest(
            source=first.source,
            name=_name(first.name),
            message=first.message,
            changes=tuple(first.changes),
            platform=first.platform,
        )

        async def operation(feed: Feed) -> None:
            await self._importer.run(request, _pieces(messages), feed)

        async with contextlib.aclosing(self._transfers.watch(object(), operation)) as lines:
            async for line in lines:
                yield to_message(api.Progress, line)


async def _pieces(messages: AsyncIterator[api.ImportRequest]) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message.data


def _name(text: str) -> Reference | None:
    return parse_tag_target(text, None) if text else None
