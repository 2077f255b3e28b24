"""Every route of the Engine API, in one place."""

from __future__ import annotations

from bulkhead.api.routes import elsewhere
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
from bulkhead.api.routes.updates import UpdateRoutes
from bulkhead.api.routes.volumes import VolumeRoutes
from bulkhead.api.routing import Route, Table


def table(
    *,
    system: SystemRoutes,
    events: EventRoutes,
    containers: ContainerRoutes,
    streams: StreamRoutes,
    statistics: StatisticsRoutes,
    execs: ExecRoutes,
    images: ImageRoutes,
    registries: RegistryRoutes,
    filesystems: FilesystemRoutes,
    updates: UpdateRoutes,
    archives: ArchiveRoutes,
    networks: NetworkRoutes,
    volumes: VolumeRoutes,
    diagnostics: DiagnosticRoutes,
) -> Table:
    return Table(
        (
            Route("GET,HEAD", "/_ping", system.ping),
            Route("GET", "/version", system.version),
            Route("GET,HEAD", "/healthz", diagnostics.health),
            Route("GET", "/metrics", diagnostics.metrics),
            Route("GET", "/debug/ops", diagnostics.operations),
            Route("GET", "/info", system.info),
            Route("GET", "/events", events.events),
            Route("GET", "/system/df", system.disk_usage),
            Route("POST", "/auth", system.auth),
            Route("GET", "/containers/json", containers.index),
            Route("POST", "/containers/create", containers.create),
            Route("POST", "/containers/prune", containers.prune),
            Route("GET", "/containers/{id}/json", containers.inspect),
            Route("GET", "/containers/{id}/top", containers.top),
            Route("GET", "/containers/{id}/logs", streams.logs),
            Route("GET", "/containers/{id}/stats", statistics.stats),
            Route("POST", "/containers/{id}/attach", streams.attach),
            Route("GET", "/containers/{id}/attach/ws", streams.attach_websocket),
            Route("POST", "/containers/{id}/wait", streams.wait),
            Route("POST", "/containers/{id}/start", containers.start),
            Route("POST", "/containers/{id}/stop", containers.stop),
            Route("POST", "/containers/{id}/restart", containers.restart),
            Route("POST", "/containers/{id}/kill", containers.kill),
            Route("POST", "/containers/{id}/pause", containers.pause),
            Route("POST", "/containers/{id}/unpause", containers.unpause),
            Route("POST", "/containers/{id}/rename", containers.rename),
            Route("POST", "/containers/{id}/update", updates.update),
            Route("POST", "/containers/{id}/resize", containers.resize),
            Route("DELETE", "/containers/{id:path}", containers.remove),
            Route("POST", "/containers/{id}/exec", execs.create),
            Route("POST", "/exec/{id}/start", execs.start),
            Route("POST", "/exec/{id}/resize", execs.resize),
            Route("GET", "/exec/{id}/json", execs.inspect),
            Route("GET", "/images/json", images.index),
            Route("POST", "/images/create", images.create),
            Route("POST", "/images/prune", images.prune),
            Route("POST", "/images/load", images.load),
            Route("GET", "/images/get", images.save_several),
            Route("GET", "/images/{name:path}/json", images.inspect),
            Route("GET", "/images/{name:path}/history", images.history),
            Route("GET", "/images/{name:path}/get", images.save),
            Route("POST", "/images/{name:path}/push", images.push),
            Route("POST", "/images/{name:path}/tag", images.tag),
            Route("DELETE", "/images/{name:path}", images.remove),
            Route("GET", "/images/search", registries.search),
            Route("GET", "/distribution/{name:path}/json", registries.inspect),
            Route("POST", "/commit", filesystems.commit),
            Route("GET", "/containers/{id}/changes", filesystems.changes),
            Route("GET", "/containers/{id}/export", filesystems.export),
            Route("HEAD", "/containers/{id}/archive", archives.look),
            Route("GET", "/containers/{id}/archive", archives.read),
            Route("PUT", "/containers/{id}/archive", archives.write),
            Route("GET", "/networks", networks.index),
            Route("GET", "/networks/", networks.index),
            Route("POST", "/networks/create", networks.create),
            Route("POST", "/networks/prune", networks.prune),
            Route("POST", "/networks/{id}/connect", networks.connect),
            Route("POST", "/networks/{id}/disconnect", networks.disconnect),
            Route("GET", "/networks/{id}", networks.inspect),
            Route("DELETE", "/networks/{id}", networks.remove),
            Route("GET", "/volumes", volumes.index),
            Route("POST", "/volumes/create", volumes.create),
            Route("POST", "/volumes/prune", volumes.prune),
            Route("GET", "/volumes/{name}", volumes.inspect),
            Route("DELETE", "/volumes/{name}", volumes.remove),
            Route("PUT", "/volumes/{name}", volumes.update),
            *elsewhere.ROUTES,
        )
    )
