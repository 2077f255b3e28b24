"""Containers: create, look, start, stop, and the rest of their lives. Streams are in `streams`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.ports.containers import Containers
from bulkhead.api.ports.system import Machine
from bulkhead.api.schema import containers as schema
from bulkhead.api.schema import create as create_schema
from bulkhead.api.schema import hostconfig, validation
from bulkhead.api.schema.deltas import fitted
from bulkhead.api.schema.signals import check_signal
from bulkhead.api.shown import Shown
from bulkhead.api.versions import Version
from bulkhead.errors import InvalidArgument

LIST_FILTERS = frozenset(
    ("ancestor", "before", "exited", "expose", "health", "id", "is-task", "isolation", "label", "label!", "name",
     "network", "publish", "since", "status", "volume")
)  # fmt: skip
PRUNE_FILTERS = frozenset(("label", "label!", "until"))
_LARGEST_START_BODY = 7
# Some 8 KB each: of containers that somebody polls.
REMEMBERED = 128


class ContainerRoutes:
    def __init__(
        self,
        *,
        containers: Containers,
        machine: Callable[[], Machine],
        exists: Callable[[str], Awaitable[bool]],
        cgroup_version: int,
        data: Path,
    ) -> None:
        self._containers = containers
        self._machine = machine
        self._exists = exists
        self._cgroup_version = cgroup_version
        self._data = data
        self._shown = Shown(REMEMBERED)

    async def create(self, call: Call) -> web.StreamResponse:
        body = await call.body(create_schema.CreateBody, default=create_schema.CreateBody())
        if create_schema.is_empty(body):
            raise InvalidArgument("Config cannot be empty in order to create a container")
        name, platform = call.text("name"), call.text("platform")
        validation.check_platform(platform)
        validation.check_name(name)
        body = create_schema.as_of(body, call.version)
        host = body.HostConfig or hostconfig.HostConfig()
        validation.check(body, host, self._machine().host)
        create_schema.check_endpoints(body, several=call.version >= Version(1, 44))
        there = {path for path in create_schema.bind_sources(host) if await self._exists(path)}
        spec = create_schema.spec_of(body, platform=platform, exists=there.__contains__, version=call.version)
        made = await self._containers.create(name.removeprefix("/"), spec)
        return answers.json({"Id": made.id, "Warnings": list(made.warnings)}, status=201)

    async def index(self, call: Call) -> web.StreamResponse:
        filters = call.filters(LIST_FILTERS)
        limit = max(call.number("limit") or 0, 0)  # docker-py says -1 for "no limit"
        found = await self._containers.list(
            all=call.flag("all") or limit > 0, limit=limit, size=call.flag("size"), filters=filters
        )
        now = time.time_ns()
        shown = (schema.listed(each, data=self._data, now=now) for each in found)
        return answers.json([fitted("listed container", each, call.version) for each in shown])

    async def inspect(self, call: Call) -> web.StreamResponse:
        found, exec_ids = await self._containers.inspect_with_execs(call["id"], size=call.flag("size"))
        beside = {"ExecIDs": exec_ids} if exec_ids else {}

        def show() -> Any:
            shown = schema.inspected(found, data=self._data, cgroup_version=self._cgroup_version)
            return fitted("container", shown, call.version)

        return answers.encoded(self._shown.of((found.id, call.version), found, show, beside))

    async def start(self, call: Call) -> web.StreamResponse:
        length = call.request.content_length
        if length is not None and length > _LARGEST_START_BODY:
            raise InvalidArgument(
                "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
            )
        await self._containers.start(call["id"])
        return answers.empty()

    async def stop(self, call: Call) -> web.StreamResponse:
        signal = _signal(call)
        await self._containers.stop(call["id"], signal=signal, timeout=call.number("t"))
        return answers.empty()

    async def restart(self, call: Call) -> web.StreamResponse:
        signal = _signal(call)
        await self._containers.restart(call["id"], signal=signal, timeout=call.number("t"))
        return answers.empty()

    async def kill(self, call: Call) -> web.StreamResponse:
        await self._containers.kill(call["id"], _signal(call) or "KILL")
        return answers.empty()

    async def pause(self, call: Call) -> web.StreamResponse:
        await self._containers.pause(call["id"])
        return answers.empty()

    async def unpause(self, call: Call) -> web.StreamResponse:
        await self._containers.unpause(call["id"])
        return answers.empty()

    async def rename(self, call: Call) -> web.StreamResponse:
        name = call.text("name")
        if not name.removeprefix("/"):
            raise InvalidArgument("Neither old nor new names may be empty")
        await self._containers.rename(call["id"], name.removeprefix("/"))
        return answers.empty()

    async def resize(self, call: Call) -> web.StreamResponse:
        height, width = window_size(call)
        await self._containers.resize(call["id"], height, width)
        return answers.empty(200)

    async def remove(self, call: Call) -> web.StreamResponse:
        if call.flag("link"):
            await self._containers.unlink(call["id"])
            return answers.empty()
        await self._containers.remove(call["id"], force=call.flag("force"), volumes=call.flag("v"))
        return answers.empty()

    async def prune(self, call: Call) -> web.StreamResponse:
        ids, freed = await self._containers.prune(call.filters(PRUNE_FILTERS))
        return answers.json({"ContainersDeleted": list(ids) or None, "SpaceReclaimed": freed})

    async def top(self, call: Call) -> web.StreamResponse:
        found = await self._containers.top(call["id"], call.text("ps_args", "-ef") or "-ef")
        return answers.json({"Titles": list(found.titles), "Processes": [list(row) for row in found.rows]})


def _signal(call: Call) -> str:
    text = call.text("signal")
    if text:
        check_signal(text)
    return text


def window_size(call: Call) -> tuple[int, int]:
    """`h` and `w` of a resize, which must be there."""
    return _dimension(call.text("h")), _dimension(call.text("w"))


def _dimension(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) >= 2**32:
        raise InvalidArgument(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)
