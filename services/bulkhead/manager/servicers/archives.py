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

    async def fill(self, message: api.FillRequest) -> AsyncIterator[api.FillResponse]:
        how = Writing(keep_kinds=message.keep_kinds, as_user=message.as_user)
        async with contextlib.aclosing(self._archiving.fill(message.ref, message.path, how)) as inlets:
            async for inlet in inlets:
                yield api.FillResponse(socket=inlet)
