"""The gRPC face of copies: message in, use-case, message out."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from bulkhead.content.copies import PathStat
from bulkhead.manager.archiving import Archiving, Writing
from bulkhead.wire.convert import to_message
from bulkhead.wire.gen.bulkhead.manager import v1 as api


@dataclass(frozen=True, slots=True)
class ArchivesServicer(api.ArchivesBase):
    """protos/bulkhead/manager/v1/archives.proto."""

    _archiving: Archiving

    async def look(self, message: api.ArchivePath) -> api.PathStat:
        return to_message(api.PathStat, await self._archiving.look(message.ref, message.path))

    async def read(self, message: api.ArchivePath) -> AsyncIterator[api.ReadArchiveResponse]:
        async with contextlib.aclosing(self._archiving.read(message.ref, message.path)) as pieces:
            async for piece in pieces:
                if isinstance(piece, PathStat):
                    yield api.ReadArchiveResponse(stat=to_message(api.PathStat, piece))
                else:
                    yield api.ReadArchiveResponse(data=piece)

    async def write(self, messages: AsyncIterator[api.WriteArchiveRequest]) -> api.WriteArchiveResponse:
        first = await anext(messages, api.WriteArchiveRequest())
        how = Writing(keep_kinds=first.keep_kinds, as_user=first.as_user)
        await self._archiving.write(first.ref, first.path, how, _pieces(messages))
        return api.WriteArchiveResponse()


async def _pieces(messages: AsyncIterator[api.WriteArchiveRequest]) -> AsyncIterator[bytes]:
    async for message in messages:
        if message.data:
            yield message.data
