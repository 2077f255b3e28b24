"""`POST /containers/{id}/update`."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.ports.containers import Updates
from bulkhead.api.ports.system import Machine
from bulkhead.api.schema import update as schema
from bulkhead.api.schema import validation
from bulkhead.api.versions import Version


class UpdateRoutes:
    def __init__(self, updates: Updates, machine: Callable[[], Machine]) -> None:
        self._updates = updates
        self._machine = machine

    async def update(self, call: Call) -> web.StreamResponse:
        host = schema.taken(await call.body(schema.UpdateBody), with_pids=call.version >= Version(1, 40))
        validation.check_update(host, self._machine().host)
        await self._updates.update(schema.update_of(call["id"], host))
        return answers.json({"Warnings": None})
