"""The edge for containers: message in, use-case, message out. Errors are mapped once, in `wire.server`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import cast

import grpclib.const

from bulkhead.errors import LaunchFailed, NotModified
from bulkhead.manager import links
from bulkhead.manager.containers import Containers
from bulkhead.manager.execs import Execs
from bulkhead.manager.log_options import log_path
from bulkhead.manager.pruning import Pruning
from bulkhead.manager.queries import Queries, Sizes
from bulkhead.manager.servicers.encoded import EncodedContainers, inspect_answer, list_answer
from bulkhead.model.container import Container
from bulkhead.model.filters import Filters
from bulkhead.model.instance import Instance
from bulkhead.wire.convert import to_message
from bulkhead.wire.creation import Creating
from bulkhead.wire.gen.bulkhead.manager import v1 as api
from bulkhead.wire.gen.bulkhead.types import v1 as types
from bulkhead.wire.protobuf import encode

_CREATE = "/bulkhead.manager.v1.Containers/Create"


class ContainersServicer(api.ContainersBase):
    """protos/bulkhead/manager/v1/containers.proto, service Containers."""

    def __init__(
        self, instance: Instance, containers: Containers, execs: Execs, queries: Queries, pruning: Pruning
    ) -> None:
        self._instance = instance
        self._containers = containers
        self._execs = execs
        self._queries = queries
        self._pruning = pruning
        self._index = containers.records.index
        self._summaries = EncodedContainers(self._index, _summary)
        self._details = EncodedContainers(self._index, self._detail)

    def __mapping__(self) -> dict[str, grpclib.const.Handler]:
        mapping = super().__mapping__()
        func, cardinality, _, answer = mapping[_CREATE]
        return {**mapping, _CREATE: grpclib.const.Handler(func, cardinality, Creating, answer)}

    async def create(self, message: api.CreateContainerRequest | Creating) -> api.CreateContainerResponse:
        """What is asked comes as `Creating`."""
        asked = cast(Creating, message)
        made = await self._containers.create(asked.name, asked.spec)
        return api.CreateContainerResponse(id=made.id, warnings=list(made.warnings))

    async def list(self, message: api.ListContainersRequest) -> api.ListContainersResponse:
        found = await self._queries.listed(
            everything=message.all, limit=message.limit, filters=filters_of(message.filters)
        )
        sizes = await self._queries.sizes(found) if message.size else {}
        names = links.names(self._index)
        moved = await self._queries.renamed(found)
        return list_answer(
            self._summaries.of(each)
            + _sizes(sizes.get(each.id))
            + _link_names(names.get(each.id, ()))
            + (_image(each.image_id) if each.id in moved else b"")
            for each in found
        )

    async def inspect(self, message: api.InspectContainerRequest) -> api.InspectContainerResponse:
        container = self._index.find(message.ref)
        if self._execs.new.may_create(container.id):
            await self._execs.catch_up(container.id)
            container = self._index.find(message.ref)
        sizes = await self._queries.sizes([container]) if message.size else {}
        more = self._more(container, sizes.get(container.id))
        return inspect_answer(self._details.of(container), more)

    async def stdio(self, message: api.StdioRequest) -> api.StdioResponse:
        address = await self._containers.stdio(message.ref, attach=message.attach)
        spec = address.container.spec
        return api.StdioResponse(
            id=address.container.id,
            socket=address.socket,
            tty=spec.tty,
            open_stdin=spec.open_stdin,
            stdin_once=spec.stdin_once,
        )

    async def start(self, message: api.StartContainerRequest) -> api.StartContainerResponse:
        try:
            await self._containers.start(message.ref)
        except NotModified:
            return api.StartContainerResponse(already_running=True)
        except LaunchFailed as failure:
            return api.StartContainerResponse(failure=launch_failure(failure))
        return api.StartContainerResponse()

    async def stop(self, message: api.StopContainerRequest) -> api.StopContainerResponse:
        try:
            await self._containers.stop(message.ref, message.signal, message.timeout)
        except NotModified:
            return api.StopContainerResponse(not_running=True)
        return api.StopContainerResponse()

    async def restart(self, message: api.RestartContainerRequest) -> api.StartContainerResponse:
        try:
            await self._containers.restart(message.ref, message.signal, message.timeout)
        except LaunchFailed as failure:
            return api.StartContainerResponse(failure=launch_failure(failure))
        return api.StartContainerResponse()

    async def kill(self, message: api.KillContainerRequest) -> api.KillContainerResponse:
        await self._containers.kill(message.ref, message.signal)
        return api.KillContainerResponse()

    async def pause(self, message: api.PauseContainerRequest) -> api.PauseContainerResponse:
        await self._containers.pause(message.ref)
        return api.PauseContainerResponse()

    async def unpause(self, message: api.UnpauseContainerRequest) -> api.UnpauseContainerResponse:
        await self._containers.unpause(message.ref)
        return api.UnpauseContainerResponse()

    async def wait(self, message: api.WaitContainerRequest) -> AsyncIterator[api.WaitContainerResponse]:
        async with aclosing(self._containers.wait(message.ref, message.condition)) as answers:
            async for ended in answers:
                if ended is None:
                    yield api.WaitContainerResponse(registered=True)
                else:
                    yield api.WaitContainerResponse(exit_code=ended.exit_code, error=ended.error)

    async def resize(self, message: api.ResizeContainerRequest) -> api.ResizeContainerResponse:
        await self._containers.resize(message.ref, message.height, message.width)
        return api.ResizeContainerResponse()

    async def rename(self, message: api.RenameContainerRequest) -> api.RenameContainerResponse:
        await self._containers.rename(message.ref, message.name)
        return api.RenameContainerResponse()

    async def remove(self, message: api.RemoveContainerRequest) -> api.RemoveContainerResponse:
        if message.link:
            await self._containers.unlink(message.ref)
            return api.RemoveContainerResponse()
        await self._containers.remove(message.ref, force=message.force, volumes=message.volumes)
        return api.RemoveContainerResponse()

    async def prune(self, message: api.PruneContainersRequest) -> api.PruneContainersResponse:
        pruned = await self._pruning.prune(filters_of(message.filters))
        return api.PruneContainersResponse(ids=list(pruned.ids), space_reclaimed=pruned.space_reclaimed)

    async def top(self, message: api.TopRequest) -> api.TopResponse:
        listing = await self._containers.top(message.ref, message.ps_args)
        rows = [types.StringList(items=list(row)) for row in listing.rows]
        return api.TopResponse(titles=list(listing.titles), processes=rows)

    def _more(self, container: Container, measured: Sizes | None) -> bytes:
        """What an inspect tells that changes without the record; mostly there is nothing."""
        exec_ids, linked = self._queries.exec_ids(container.id), links.shown(container, self._index)
        if measured is None and not exec_ids and not linked:
            return _NO_MORE
        measured = measured or Sizes()
        told = types.Container(exec_ids=exec_ids, size_rw=measured.writable, size_root=measured.whole, links=linked)
        return encode(told)

    def _detail(self, container: Container) -> types.Container:
        message = to_message(types.Container, container)
        message.log_path = log_path(self._instance, container)
        message.data_dir = str(self._instance.container_data(container.id))
        message.upper_dir = str(self._instance.data / "snapshots" / "containers" / container.id / "upper")
        return message


def filters_of(told: Mapping[str, types.StringList]) -> Filters:
    """A request's filters as the core has them."""
    return {key: tuple(values.items) for key, values in told.items()}


def launch_failure(failure: LaunchFailed) -> api.LaunchFailure:
    """A process that could not be executed, as part of an answer."""
    return api.LaunchFailure(message=str(failure), step=failure.step, errno=failure.errno, exit_code=failure.exit_code)


def _quoted(argument: str) -> str:
    """As Docker shows an argument in the list's Command."""
    return f"'{argument}'" if " " in argument else argument


def _summary(container: Container) -> types.ContainerSummary:
    spec = container.spec
    return types.ContainerSummary(
        id=container.id,
        name=container.name,
        image=spec.image,
        image_id=container.image_id,
        command=" ".join([container.path, *map(_quoted, container.args)]),
        created_at=container.created_at,
        phase=container.phase.value,
        exit_code=container.exit_code,
        started_at=container.started_at,
        finished_at=container.finished_at,
        health_status=container.health_status,
        labels=dict(spec.labels),
        network_mode=spec.network_mode,
        exposed_ports=list(spec.exposed_ports),
        endpoints=[to_message(types.NetworkEndpoint, each) for each in container.endpoints],
        mounts=[to_message(types.Mount, mount) for mount in spec.mounts],
    )


def _sizes(measured: Sizes | None) -> bytes:
    if measured is None:
        return _UNMEASURED
    return encode(types.ContainerSummary(size_rw=measured.writable, size_root=measured.whole))


_UNMEASURED = _sizes(Sizes())
_NO_MORE = encode(types.Container(size_rw=Sizes().writable, size_root=Sizes().whole))


def _image(image_id: str) -> bytes:
    """In place of the name: of a field that is told twice the last counts."""
    return encode(types.ContainerSummary(image=image_id))


def _link_names(names: Sequence[str]) -> bytes:
    return encode(types.ContainerSummary(link_names=list(names))) if names else b""
