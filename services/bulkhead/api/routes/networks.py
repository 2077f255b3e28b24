"""The predefined networks, read only; networks of users come later."""

from __future__ import annotations

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.ports import Containers
from bulkhead.api.schema import networks as schema
from bulkhead.api.schema.deltas import fitted
from bulkhead.errors import Forbidden, NotFound
from bulkhead.model.instance import Instance


class NetworkRoutes:
    def __init__(self, *, instance: Instance, containers: Containers) -> None:
        self._instance = instance
        self._containers = containers

    async def index(self, call: Call) -> web.StreamResponse:
        filters = call.filters(schema.FILTERS)
        found = [each for each in schema.all_networks(self._instance) if schema.matches(each, filters)]
        return answers.json([fitted("network", each, call.version) for each in found])

    async def inspect(self, call: Call) -> web.StreamResponse:
        found = schema.find(schema.all_networks(self._instance), call["id"])
        if found is None:
            raise NotFound(f"network {call['id']} not found")
        running = await self._containers.list(all=False, limit=0, size=False, filters={})
        return answers.json(fitted("network", schema.with_containers(found, running), call.version))

    async def remove(self, call: Call) -> web.StreamResponse:
        found = schema.find(schema.all_networks(self._instance), call["id"])
        if found is None:
            raise NotFound(f"network {call['id']} not found")
        raise Forbidden(f"{found['Name']} is a pre-defined network and cannot be removed")

    async def prune(self, call: Call) -> web.StreamResponse:
        call.filters(frozenset(("label", "label!", "until")))
        return answers.json({"NetworksDeleted": None})
