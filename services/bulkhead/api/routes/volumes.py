"""Volumes: the manager makes them on use; the list and the changes of it come later."""

from __future__ import annotations

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.errors import Unavailable

_FILTERS = frozenset(("dangling", "driver", "label", "name"))


class VolumeRoutes:
    async def index(self, call: Call) -> web.StreamResponse:
        call.filters(_FILTERS)
        return answers.json({"Volumes": [], "Warnings": []})

    async def update(self, call: Call) -> web.StreamResponse:
        raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")
