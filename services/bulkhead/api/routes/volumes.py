"""Volumes: create, list, inspect, remove, prune."""

from __future__ import annotations

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.ports.volumes import Volumes
from bulkhead.api.schema import volumes as schema
from bulkhead.api.versions import Version
from bulkhead.errors import Unavailable

_FILTERS = frozenset(("dangling", "driver", "label", "name"))
_PRUNE_FILTERS = frozenset(("label", "label!", "all"))
# Older clients do not know that named volumes may stay.
_KEEPS_NAMED = Version(1, 42)


class VolumeRoutes:
    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes

    async def index(self, call: Call) -> web.StreamResponse:
        found = await self._volumes.list(filters=call.filters(_FILTERS))
        return answers.json({"Volumes": [schema.shown(each) for each in found], "Warnings": []})

    async def create(self, call: Call) -> web.StreamResponse:
        body = await call.body(schema.CreateVolume, default=schema.CreateVolume(), may_be_absent=False)
        return answers.json(schema.shown(await self._volumes.create(body.wanted())), status=201)

    async def inspect(self, call: Call) -> web.StreamResponse:
        return answers.json(schema.shown(await self._volumes.inspect(call["name"])))

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._volumes.remove(call["name"], force=call.flag("force"))
        return answers.empty()

    async def prune(self, call: Call) -> web.StreamResponse:
        filters = dict(call.filters(_PRUNE_FILTERS))
        if call.version < _KEEPS_NAMED:
            filters["all"] = ("true",)
        names, space = await self._volumes.prune(filters)
        return answers.json({"VolumesDeleted": list(names) or None, "SpaceReclaimed": space})

    async def update(self, call: Call) -> web.StreamResponse:
        raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")
