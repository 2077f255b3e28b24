"""Containers' files as a whole: export, changes, commit."""

from __future__ import annotations

import contextlib

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.ports.files import Commit, Filesystems
from bulkhead.api.schema.create import ContainerConfig, config_spec
from bulkhead.api.streams import begin
from bulkhead.errors import InvalidArgument
from bulkhead.model.reference import parse_tag_target

_KINDS = {"C": 0, "A": 1, "D": 2}


class FilesystemRoutes:
    def __init__(self, filesystems: Filesystems) -> None:
        self._filesystems = filesystems

    async def export(self, call: Call) -> web.StreamResponse:
        async with contextlib.aclosing(self._filesystems.export(call["id"])) as parts:
            # The first part is awaited before the headers: an unknown container has its own status.
            first = await anext(parts, b"")
            response = await begin(call, "application/x-tar")
            await response.write(first)
            async for part in parts:
                await response.write(part)
        return response

    async def changes(self, call: Call) -> web.StreamResponse:
        async with contextlib.aclosing(self._filesystems.changes(call["id"])) as batches:
            found = [
                {"Path": "/" + path.decode(errors="replace"), "Kind": _KINDS[kind]}
                async for batch in batches
                for kind, path in batch
            ]
        return answers.json(found or None)

    async def commit(self, call: Call) -> web.StreamResponse:
        ref, repository = call.text("container"), call.text("repo")
        if not ref:
            raise InvalidArgument("no container is named")
        config = await call.body(ContainerConfig, default=_NO_CONFIG)
        name = parse_tag_target(repository, call.text("tag") or None).familiar() if repository else ""
        wanted = Commit(
            ref=ref,
            name=name,
            author=call.text("author"),
            comment=call.text("comment"),
            pause=call.flag("pause", default=True),
            changes=tuple(call.texts("changes")),
            config=None if config is _NO_CONFIG else config_spec(config),
        )
        return answers.json({"Id": await self._filesystems.commit(wanted)}, status=201)


_NO_CONFIG = ContainerConfig()
