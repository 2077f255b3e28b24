"""`/containers/{id}/archive`: what `docker cp` is made of."""

from __future__ import annotations

import base64
import contextlib
import stat
from types import MappingProxyType

import msgspec
from aiohttp import web

from bulkhead.api.call import Call
from bulkhead.api.ports.files import Archives, PathStat, Unpack
from bulkhead.api.schema.times import instant
from bulkhead.api.streams import begin
from bulkhead.api.versions import HEADERS
from bulkhead.errors import InvalidArgument

STAT_HEADER = "X-Docker-Container-Path-Stat"
_BLOCK = 256 << 10
# Go's os.FileMode: what is beyond the nine bits of permission has bits of its own.
_GO_KINDS = MappingProxyType(
    {
        stat.S_IFDIR: 1 << 31,
        stat.S_IFLNK: 1 << 27,
        stat.S_IFBLK: 1 << 26,
        stat.S_IFCHR: 1 << 26 | 1 << 21,
        stat.S_IFIFO: 1 << 25,
        stat.S_IFSOCK: 1 << 24,
    }
)
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


class ArchiveRoutes:
    def __init__(self, archives: Archives) -> None:
        self._archives = archives

    async def look(self, call: Call) -> web.StreamResponse:
        found = await self._archives.look(call["id"], _path(call))
        return web.Response(headers={**HEADERS, STAT_HEADER: shown(found)})

    async def read(self, call: Call) -> web.StreamResponse:
        async with contextlib.aclosing(self._archives.read(call["id"], _path(call))) as parts:
            # The first part is awaited before the headers: what is not there has its own status.
            first = await anext(parts)
            assert isinstance(first, PathStat)
            response = await begin(call, "application/x-tar", headers={STAT_HEADER: shown(first)})
            async for part in parts:
                assert isinstance(part, bytes)
                await response.write(part)
        return response

    async def write(self, call: Call) -> web.StreamResponse:
        where = Unpack(
            ref=call["id"],
            path=_path(call),
            keep_kinds=call.flag("noOverwriteDirNonDir"),
            as_user=call.flag("copyUIDGID"),
        )
        await self._archives.write(where, call.blocks(_BLOCK))
        return web.Response(headers=HEADERS)


def _path(call: Call) -> str:
    path = call.text("path")
    if not path:
        raise InvalidArgument("bad parameter: pathcannot be empty")
    if "\0" in path:
        raise InvalidArgument("bad parameter: path holds a zero byte")
    return path


def shown(found: PathStat) -> str:
    """The header's value: JSON in base64."""
    told = {
        "name": found.name,
        "size": found.size,
        "mode": go_mode(found.mode),
        "mtime": instant(found.mtime),
        "linkTarget": found.link_target,
    }
    return base64.b64encode(msgspec.json.encode(told)).decode()


def go_mode(mode: int) -> int:
    """A mode of stat(2) as Go's os.FileMode."""
    special = sum(bit for mask, bit in _GO_BITS if mode & mask)
    return _GO_KINDS.get(stat.S_IFMT(mode), 0) | special | mode & 0o777
