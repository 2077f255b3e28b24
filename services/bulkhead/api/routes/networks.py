"""Networks: create, list, inspect, remove, prune; connecting containers and disconnecting them."""

from __future__ import annotations

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.ports.networks import Networks
from bulkhead.api.schema import networks as schema
from bulkhead.api.schema.deltas import fitted
from bulkhead.errors import NotFound

_FILTERS = frozenset(("dangling", "driver", "id", "label", "name", "scope", "type"))
_PRUNE_FILTERS = frozenset(("label", "label!", "until"))


class NetworkRoutes:
    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    async def index(self, call: Call) -> web.StreamResponse:
        found = await self._networks.list(call.filters(_FILTERS))
        return answers.json([fitted("network", schema.shown(each), call.version) for each in found])

    async def inspect(self, call: Call) -> web.StreamResponse:
        found = await self._networks.inspect(call["id"])
        if call.text("scope") not in ("", "local"):
            raise NotFound(f"network {call['id']} not found")
        return answers.json(fitted("network", schema.shown(found), call.version))

    async def create(self, call: Call) -> web.StreamResponse:
        body = await call.body(schema.CreateNetwork)
        made = await self._networks.create(body.wanted())
        return answers.json({"Id": made, "Warning": ""}, status=201)

    async def remove(self, call: Call) -> web.StreamResponse:
        await self._networks.remove(call["id"])
        return answers.empty()

    async def prune(self, call: Call) -> web.StreamResponse:
        names = await self._networks.prune(call.filters(_PRUNE_FILTERS))
        return answers.json({"NetworksDeleted": list(names) or None})

    async def connect(self, call: Call) -> web.StreamResponse:
        body = await call.body(schema.Connect)
        await self._networks.connect(call["id"], body.Container or "", schema.wish("", body.EndpointConfig))
        return answers.empty(200)

    async def disconnect(self, call: Call) -> web.StreamResponse:
        body = await call.body(schema.Disconnect)
        await self._networks.disconnect(call["id"], body.Container or "", force=bool(body.Force))
        return answers.empty(200)
