"""The wiring of the API daemon: one channel to the manager, adapters into ports, routes, the socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from grpclib.client import Channel

from bulkhead.api import listener
from bulkhead.api.adapters.logfiles import open_log
from bulkhead.api.adapters.machine import cgroup_version, path_exists, read_machine
from bulkhead.api.adapters.manager import (
    ManagerArchives,
    ManagerContainers,
    ManagerExecs,
    ManagerFilesystems,
    ManagerImages,
    ManagerNetworks,
    ManagerRegistries,
    ManagerStatistics,
    ManagerSystem,
    ManagerUpdates,
    ManagerVolumes,
)
from bulkhead.api.adapters.shim_execs import ShimExecs
from bulkhead.api.adapters.stdio import ShimStdio
from bulkhead.api.admission import Admission
from bulkhead.api.config import ApiConfig
from bulkhead.api.connection import LONGEST_HEAD, EngineConnection
from bulkhead.api.feeds import Feeds
from bulkhead.api.logs import LogReader
from bulkhead.api.metrics import Metrics
from bulkhead.api.middleware import Edge
from bulkhead.api.refusal import Refusal
from bulkhead.api.relay import Relay
from bulkhead.api.remote import Remote, open_remote
from bulkhead.api.routes.archives import ArchiveRoutes
from bulkhead.api.routes.containers import ContainerRoutes
from bulkhead.api.routes.diagnostics import DiagnosticRoutes
from bulkhead.api.routes.events import EventRoutes
from bulkhead.api.routes.execs import ExecRoutes
from bulkhead.api.routes.filesystems import FilesystemRoutes
from bulkhead.api.routes.images import ImageRoutes
from bulkhead.api.routes.networks import NetworkRoutes
from bulkhead.api.routes.registries import RegistryRoutes
from bulkhead.api.routes.statistics import StatisticsRoutes
from bulkhead.api.routes.streams import StreamRoutes
from bulkhead.api.routes.system import SystemRoutes
from bulkhead.api.routes.table import table
from bulkhead.api.routes.updates import UpdateRoutes
from bulkhead.api.routes.volumes import VolumeRoutes
from bulkhead.api.routing import Table
from bulkhead.api.waiting import Waits
from bulkhead.model.instance import Instance
from bulkhead.settings import Settings
from bulkhead.wire.client import channel
from bulkhead.wire.inflight import InFlight

log = structlog.get_logger()
# How long a stop waits for requests that are under way; streams without an end are dropped at once.
DRAIN_SECONDS = 8.0
# And how long their answers may then take to be sent.
CLOSE_SECONDS = 1.0
# How long a client may say nothing, or be at the head of a request, from the answer before (or its connection) on;
# what Docker gives a head. A handler that is at work is not asked.
IDLE_SECONDS = 300.0
# Clients that may wait to be accepted: to one more a Unix socket says EAGAIN at once, and docker gives up.
BACKLOG = 4096


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[None]:
    """Serve the Engine API on the instance's `docker.sock` while entered."""
    config = settings.table("api", ApiConfig)
    instance = settings.instance
    async with AsyncExitStack() as stack:
        manager = channel(instance.manager_socket)
        stack.callback(manager.close)
        metrics, in_flight = Metrics(), InFlight()
        routes = _routes(instance, manager, metrics, in_flight)
        remote = open_remote(config)
        names = (*config.hosts, *(remote.names if remote is not None else ()))
        edge = partial(Edge, routes, metrics=metrics, in_flight=in_flight, patience=config.body_timeout)
        local = _server(edge(Admission()), config.max_connections)
        await stack.enter_async_context(_listening(instance, config, local))
        if remote is not None:
            far = _server(edge(Admission(names, remote=True)), config.max_connections, keepalive=True)
            await stack.enter_async_context(_listening_remotely(remote, far))
        yield


def _routes(instance: Instance, manager: Channel, metrics: Metrics, in_flight: InFlight) -> Table:
    """Every route, on adapters of its own."""
    containers, system = ManagerContainers(manager), ManagerSystem(manager)
    images, execs, stdio = ManagerImages(manager), ManagerExecs(manager), ShimStdio()
    filesystems, registries, volumes = ManagerFilesystems(manager), ManagerRegistries(manager), ManagerVolumes(manager)
    waits, logs = Waits(containers, system), LogReader(containers, stdio, open_log)
    machine = partial(read_machine, instance.data)
    host = lru_cache(maxsize=1)(machine)
    statistics = ManagerStatistics(manager)
    return table(
        diagnostics=DiagnosticRoutes(system=system, statistics=statistics, metrics=metrics, in_flight=in_flight),
        system=SystemRoutes(
            system=system,
            containers=containers,
            images=images,
            volumes=volumes,
            logins=registries,
            machine=machine,
            data=instance.data,
        ),
        events=EventRoutes(Feeds(system)),
        containers=ContainerRoutes(
            containers=containers,
            machine=host,
            exists=path_exists,
            cgroup_version=cgroup_version(),
            data=instance.data,
        ),
        streams=StreamRoutes(containers=containers, stdio=stdio, waits=waits, logs=logs),
        statistics=StatisticsRoutes(statistics),
        execs=ExecRoutes(execs=execs, shims=ShimExecs(instance), stdio=stdio),
        images=ImageRoutes(images, filesystems),
        registries=RegistryRoutes(registries),
        filesystems=FilesystemRoutes(filesystems),
        updates=UpdateRoutes(ManagerUpdates(manager), host),
        archives=ArchiveRoutes(ManagerArchives(manager)),
        networks=NetworkRoutes(ManagerNetworks(manager)),
        volumes=VolumeRoutes(volumes),
    )


def _server(edge: Edge, most: int, *, keepalive: bool = False) -> EngineServer:
    """`keepalive` is TCP's: a peer that has gone without a word is noticed."""
    return EngineServer(
        edge,
        most,
        handler_cancellation=True,
        auto_decompress=False,
        access_log=None,
        tcp_keepalive=keepalive,
        keepalive_timeout=IDLE_SECONDS,
        max_line_size=LONGEST_HEAD,
        max_field_size=LONGEST_HEAD,
    )


@asynccontextmanager
async def _listening(instance: Instance, config: ApiConfig, engine: EngineServer) -> AsyncIterator[None]:
    path: Path = instance.docker_socket
    given = listener.inherited()
    sock = listener.bind(path, config.group) if given is None else given
    server = await asyncio.get_running_loop().create_unix_server(engine, sock=sock, backlog=BACKLOG)
    try:
        yield
    finally:
        server.close()
        if given is None:
            listener.remove(path)
        await _ended(engine)


@asynccontextmanager
async def _listening_remotely(remote: Remote, engine: EngineServer) -> AsyncIterator[None]:
    relay = Relay(remote.context, engine)
    server = await asyncio.get_running_loop().create_server(relay, sock=remote.sock, backlog=BACKLOG)
    try:
        yield
    finally:
        server.close()
        await _ended(engine)


async def _ended(engine: EngineServer) -> None:
    await engine.drain()
    await engine.shutdown(CLOSE_SECONDS)


class EngineServer(web.Server):
    """aiohttp's low-level server with connections that can be taken over, at `most` so many (0: any number)."""

    def __init__(self, edge: Edge, most: int, **settings: Any) -> None:
        super().__init__(edge, **settings)
        self._edge = edge
        self._most = most
        self._full = False

    def __call__(self) -> asyncio.Protocol:  # type: ignore[override]
        if not 0 < self._most <= len(self._connections):
            self._full = False
            return EngineConnection(self, loop=self._loop, **self._kwargs)
        if not self._full:
            self._full = True
            log.warning("refusing clients: too many connections", most=self._most)
        return Refusal(f"too many connections: {self._most} are open ([api] max_connections)")

    async def drain(self) -> None:
        """Answer what was asked, for DRAIN_SECONDS at most; streams without an end are ended at once."""
        for connection in self.connections:
            if isinstance(connection, EngineConnection):
                connection.leave()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._edge.idle()
        except TimeoutError:
            self._edge.cut_off()
