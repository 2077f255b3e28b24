"""`_ping`, version, info, disk usage, login."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.ports.containers import Containers
from bulkhead.api.ports.images import Images
from bulkhead.api.ports.registries import Logins
from bulkhead.api.ports.system import Machine, System
from bulkhead.api.ports.volumes import Volumes
from bulkhead.api.schema import containers as container_schema
from bulkhead.api.schema import images as image_schema
from bulkhead.api.schema import system as schema
from bulkhead.api.schema import volumes as volume_schema
from bulkhead.api.schema.deltas import fitted
from bulkhead.api.schema.times import rfc3339
from bulkhead.api.versions import HEADERS
from bulkhead.errors import InvalidArgument

_PING_HEADERS = {
    **HEADERS,
    "Content-Type": "text/plain; charset=utf-8",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    # "1": the classic builder. Ours is not there yet, but BuildKit's session is not either.
    "Builder-Version": "1",
    "Swarm": "inactive",
}
_PING = answers.Head(_PING_HEADERS)
_USAGES = ("container", "image", "volume", "build-cache")


class SystemRoutes:
    def __init__(
        self,
        *,
        system: System,
        containers: Containers,
        images: Images,
        volumes: Volumes,
        logins: Logins,
        machine: Callable[[], Machine],
        data: Path,
    ) -> None:
        self._system = system
        self._containers = containers
        self._images = images
        self._volumes = volumes
        self._logins = logins
        self._machine = machine
        # Kernel and distribution do not change under us, and clients ask for the version often.
        self._version = schema.version(machine())
        self._data = data

    async def ping(self, call: Call) -> web.StreamResponse:
        # Answered without the manager: it tells that the API is there, as health checks ask.
        if call.request.method == "HEAD":
            return web.Response(headers={**_PING_HEADERS, "Content-Length": "0"})
        return answers.Whole(200, _PING, b"OK")

    async def version(self, call: Call) -> web.StreamResponse:
        return answers.json(self._version)

    async def info(self, call: Call) -> web.StreamResponse:
        shown = schema.info(await self._system.info(), self._machine(), rfc3339(time.time_ns()))
        return answers.json(fitted("info", shown, call.version))

    async def disk_usage(self, call: Call) -> web.StreamResponse:
        kinds = set(call.texts("type")) or set(_USAGES)
        for kind in kinds - set(_USAGES):
            raise InvalidArgument(f"unknown object type: {kind}")
        layers, containers, images, volumes = await asyncio.gather(
            self._system.layers_size(),
            self._containers.list(all=True, limit=0, size="container" in kinds, filters={}),
            self._images.list(all=True, filters={}),
            self._volumes.list(filters={}, usage="volume" in kinds),
        )
        now = time.time_ns()
        shown = {
            "LayersSize": layers if "image" in kinds else 0,
            "Images": [image_schema.listed(each, shared=True) for each in images] if "image" in kinds else None,
            "Containers": [container_schema.listed(each, data=self._data, now=now) for each in containers]
            if "container" in kinds
            else None,
            "Volumes": [volume_schema.shown(each) for each in volumes] if "volume" in kinds else None,
            "BuildCache": [] if "build-cache" in kinds else None,
        }
        return answers.json(fitted("disk usage", shown, call.version))

    async def auth(self, call: Call) -> web.StreamResponse:
        config = await call.body(image_schema.AuthConfig)
        token = await self._logins.login(image_schema.login_of(config))
        return answers.json({"Status": "Login Succeeded", "IdentityToken": token})
