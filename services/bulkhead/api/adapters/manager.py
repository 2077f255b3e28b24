"""The ports over gRPC: each method is one call of the manager, answers come back as domain types.

`LaunchFailure` fields become the error `LaunchFailed`; a manager that is away is `Unavailable`, and the same
channel works again when it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, cast

from grpclib.client import Channel

from bulkhead.api.adapters.inlet import pour
from bulkhead.api.adapters.remembered import ReadingStub, Remembered
from bulkhead.api.call import Filters
from bulkhead.api.ports.containers import (
    Created,
    Exit,
    InspectedContainer,
    ListedContainer,
    Processes,
    StdioAddress,
    Update,
)
from bulkhead.api.ports.execs import InspectedExec, StartedExec
from bulkhead.api.ports.files import Commit, Import, PathStat, Unpack
from bulkhead.api.ports.images import HistoryEntry, InspectedImage, ListedImage, Progress, RegistryAuth, RemovedImage
from bulkhead.api.ports.networks import InspectedNetwork, NetworkMember
from bulkhead.api.ports.registries import DistributedImage, SearchResult
from bulkhead.api.ports.system import EngineActivity, EngineEvent, EngineInfo, EngineOperation
from bulkhead.api.ports.volumes import InspectedVolume
from bulkhead.errors import LaunchFailed, NotModified
from bulkhead.model.container import ContainerSpec, NetworkEndpoint
from bulkhead.model.execs import ExecSpec
from bulkhead.model.network import NetworkRecord
from bulkhead.model.sample import Sample
from bulkhead.model.volume import Volume
from bulkhead.wire import models
from bulkhead.wire.client import Messages, stub
from bulkhead.wire.convert import to_message, to_model
from bulkhead.wire.creation import Creating, CreatingExec
from bulkhead.wire.gen.bulkhead.manager import v1 as wire
from bulkhead.wire.gen.bulkhead.types import v1 as types
from bulkhead.wire.gen.bulkhead.types.v1 import NetworkEndpoint as WireEndpoint
from bulkhead.wire.gen.bulkhead.types.v1 import StringList
from bulkhead.wire.protobuf import Reading, decode, field_reading, fields_of
from bulkhead.wire.status import error_named

PEER = "manager"
# Who looks after a manager that may be stuck does not wait for it longer than this.
LOOK_SECONDS = 2.0
SNAPSHOT_SECONDS = 10.0
# A stop waits as long as the container's own timeout says, which may be for ever: a client that leaves ends the call.
PATIENT_SECONDS = 10.0**7
# Some 2 KB each: of as many containers as one machine runs; and some 20 KB each: of those that somebody polls.
REMEMBERED_SUMMARIES = 4096
REMEMBERED_CONTAINERS = 128
# Of a container; they come and go while all else stays as it is.
_EXEC_IDS = "exec_ids"


@functools.cache
def _execs() -> dict[int, Reading]:
    container: type[Any] = types.Container
    return field_reading(_EXEC_IDS, container._betterproto.meta_by_field_name[_EXEC_IDS], str)


class ManagerContainers:
    """`ports.Containers`."""

    def __init__(self, channel: Channel) -> None:
        self._stub = stub(ReadingStub, channel, PEER)
        self._listed = Remembered(
            lambda data: to_model(ListedContainer, decode(types.ContainerSummary, data)), REMEMBERED_SUMMARIES
        )
        self._inspected = Remembered(
            lambda data: to_model(InspectedContainer, decode(types.Container, data)), REMEMBERED_CONTAINERS
        )

    async def create(self, name: str, spec: ContainerSpec) -> Created:
        answer = await self._stub.create(cast(wire.CreateContainerRequest, Creating(name=name, spec=spec)))
        return to_model(Created, answer)

    async def list(self, *, all: bool, limit: int, size: bool, filters: Filters) -> Sequence[ListedContainer]:
        request = wire.ListContainersRequest(all=all, limit=limit, size=size, filters=_filters(filters))
        return self._listed.of(await self._stub.list_parts(request))

    async def inspect(self, ref: str) -> InspectedContainer:
        return (await self.inspect_with_execs(ref))[0]

    async def inspect_with_execs(self, ref: str, *, size: bool = False) -> tuple[InspectedContainer, Sequence[str]]:
        part = await self._stub.inspect_part(wire.InspectContainerRequest(ref=ref, size=size))
        execs, container = fields_of(_execs(), part)
        return self._inspected.of([container])[0], execs.get(_EXEC_IDS, ())

    async def stdio(self, ref: str, *, attach: bool = False) -> StdioAddress:
        return to_model(StdioAddress, await self._stub.stdio(wire.StdioRequest(ref=ref, attach=attach)))

    async def start(self, ref: str) -> None:
        answer = await self._stub.start(wire.StartContainerRequest(ref=ref))
        _check_launch(answer.failure)
        if answer.already_running:
            raise NotModified(f"container {ref} is already running")

    async def stop(self, ref: str, *, signal: str, timeout: int | None) -> None:
        request = wire.StopContainerRequest(ref=ref, signal=signal, timeout=timeout)
        answer = await self._stub.stop(request, timeout=PATIENT_SECONDS)
        if answer.not_running:
            raise NotModified(f"container {ref} is not running")

    async def restart(self, ref: str, *, signal: str, timeout: int | None) -> None:
        request = wire.RestartContainerRequest(ref=ref, signal=signal, timeout=timeout)
        answer = await self._stub.restart(request, timeout=PATIENT_SECONDS)
        _check_launch(answer.failure)

    async def kill(self, ref: str, signal: str) -> None:
        await self._stub.kill(wire.KillContainerRequest(ref=ref, signal=signal))

    async def pause(self, ref: str) -> None:
        await self._stub.pause(wire.PauseContainerRequest(ref=ref))

    async def unpause(self, ref: str) -> None:
        await self._stub.unpause(wire.UnpauseContainerRequest(ref=ref))

    async def wait(self, ref: str, condition: str) -> AsyncGenerator[Exit | None]:
        request = wire.WaitContainerRequest(ref=ref, condition=condition)
        async with contextlib.aclosing(self._stub.exits(request)) as answers:
            async for answer in answers:
                if answer.exit_code is None and not answer.error:
                    yield None
                else:
                    yield Exit(exit_code=answer.exit_code or 0, error=answer.error)

    async def resize(self, ref: str, height: int, width: int) -> None:
        await self._stub.resize(wire.ResizeContainerRequest(ref=ref, height=height, width=width))

    async def rename(self, ref: str, name: str) -> None:
        await self._stub.rename(wire.RenameContainerRequest(ref=ref, name=name))

    async def remove(self, ref: str, *, force: bool, volumes: bool) -> None:
        await self._stub.remove(wire.RemoveContainerRequest(ref=ref, force=force, volumes=volumes))

    async def unlink(self, name: str) -> None:
        await self._stub.remove(wire.RemoveContainerRequest(ref=name, link=True))

    async def prune(self, filters: Filters) -> tuple[Sequence[str], int]:
        answer = await self._stub.prune(wire.PruneContainersRequest(filters=_filters(filters)))
        return answer.ids, answer.space_reclaimed

    async def top(self, ref: str, ps_args: str) -> Processes:
        answer = await self._stub.top(wire.TopRequest(ref=ref, ps_args=ps_args))
        rows = tuple(tuple(row.items) for row in answer.processes)
        return Processes(titles=tuple(answer.titles), rows=rows)


class ManagerArchives:
    """`ports.Archives`."""

    def __init__(self, channel: Channel) -> None:
        self._stub = stub(wire.ArchivesStub, channel, PEER)

    async def look(self, ref: str, path: str) -> PathStat:
        return to_model(PathStat, await self._stub.look(wire.ArchivePath(ref=ref, path=path)))

    async def read(self, ref: str, path: str) -> AsyncGenerator[PathStat | bytes]:
        async for part in self._stub.read(wire.ArchivePath(ref=ref, path=path)):
            yield part.data if part.stat is None else to_model(PathStat, part.stat)

    async def write(self, where: Unpack, data: AsyncIterator[bytes]) -> None:
        async with contextlib.aclosing(self._fill(where)) as answers:
            tasks = [asyncio.ensure_future(pour(await anext(answers), data)), asyncio.ensure_future(anext(answers, ""))]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    async def _fill(self, where: Unpack) -> AsyncGenerator[str]:
        """Where the archive is awaited; ends when it is unpacked."""
        told = cast(Messages, self._stub.fill(to_message(wire.FillRequest, where)))
        async with contextlib.aclosing(told) as answers:
            async for answer in answers:
                yield answer.socket


class ManagerUpdates:
    """`ports.Updates`."""

    def __init__(self, channel: Channel) -> None:
        self._stub = stub(wire.UpdatesStub, channel, PEER)

    async def update(self, wanted: Update) -> None:
        await self._stub.update(to_message(wire.UpdateContainerRequest, wanted))


class ManagerStatistics:
    """`ports.Statistics`."""

    def __init__(self, channel: Channel) -> None:
        self._stub = stub(wire.StatisticsStub, channel, PEER)

    async def snapshot(self) -> Sequence[Sample]:
        answer = await self._stub.snapshot(wire.StatisticsSnapshotRequest(), timeout=SNAPSHOT_SECONDS)
        return [to_model(Sample, each) for each in answer.samples]

    async def watch(self, ref: str, *, stream: bool, immediately: bool) -> AsyncGenerator[Sample]:
        request = wire.WatchStatisticsRequest(ref=ref, stream=stream, immediately=immediately)
        async for sample in self._stub.watch(request):
            yield to_model(Sample, sample)


class _InspectedExec:
    """Takes the place of the message that says the same."""

    @staticmethod
    def FromString(data: bytes) -> InspectedExec:
        """What the codec calls to parse."""
        return models.decode(InspectedExec, wire.InspectExecResponse, data)


class _ReadingExecsStub(wire.ExecsStub):
    """What every attached exec is asked for at its end goes without a message in between."""

    async def inspected(self, request: wire.InspectExecRequest) -> InspectedExec:
        answer = await self._unary_unary("/bulkhead.manager.v1.Execs/Inspect", request, cast(Any, _InspectedExec))
        return cast(InspectedExec, answer)


class ManagerExecs:
    """`ports.Execs`."""

    def __init__(self, channel: Channel) -> None:
        self._stub = stub(_ReadingExecsStub, channel, PEER)

    async def create(self, ref: str, spec: ExecSpec) -> str:
        return (await self._stub.create(cast(wire.CreateExecRequest, CreatingExec(ref=ref, spec=spec)))).id

    async def start(self, exec_id: str, *, detach: bool, tty: bool, height: int, width: int) -> StartedExec:
        request = wire.StartExecRequest(id=exec_id, detach=detach, tty=tty, height=height, width=width)
        answer = await self._stub.start(request)
        _check_launch(answer.failure)
        # A manager of an earlier release does not tell.
        spec = to_model(ExecSpec, answer.spec) if answer.spec is not None else (await self.inspect(exec_id)).spec
        return StartedExec(socket=answer.socket, spec=spec)

    async def inspect(self, exec_id: str, *, asked: bool = False) -> InspectedExec:
        return await self._stub.inspected(wire.InspectExecRequest(id=exec_id, asked=asked))

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        await self._stub.resize(wire.ResizeExecRequest(id=exec_id, height=height, width=width))


class ManagerImages:
    """`ports.Images`."""

    def __init__(self, channel: Channel) -> None:
        self._stub = stub(wire.ImagesStub, channel, PEER)

    async def pull(
        self, reference: str, *, platform: str, auth: RegistryAuth | None, all_tags: bool
    ) -> AsyncGenerator[Progress]:
        request = wire.PullRequest(reference=reference, platform=platform, auth=_auth(auth), all_tags=all_tags)
        async for line in self._stub.pull(request):
            yield _progress(line)

    async def push(self, reference: str, *, auth: RegistryAuth | None, all_tags: bool) -> AsyncGenerator[Progress]:
        request = wire.PushRequest(reference=reference, auth=_auth(auth), all_tags=all_tags)
        async for line in self._stub.push(request):
            yield _progress(line)

    async def list(self, *, all: bool, filters: Filters, container_ids: bool = False) -> Sequence[ListedImage]:
        wanted = wire.ListImagesRequest(all=all, filters=_filters(filters), container_ids=container_ids)
        answer = await self._stub.list(wanted)
        return [to_model(ListedImage, each) for each in answer.images]

    async def inspect(self, ref: str, *, container_ids: bool = False) -> InspectedImage:
        wanted = wire.InspectImageRequest(ref=ref, container_ids=container_ids)
        return to_model(InspectedImage, await self._stub.inspect(wanted))

    async def history(self, ref: str) -> Sequence[HistoryEntry]:
        answer = await self._stub.history(wire.InspectImageRequest(ref=ref))
        return [to_model(HistoryEntry, each) for each in answer.entries]

    async def tag(self, ref: str, target: str) -> None:
        await self._stub.tag(wire.TagRequest(ref=ref, target=target))

    async def remove(self, ref: str, *, force: bool, no_prune: bool) -> Sequence[RemovedImage]:
        answer = await self._stub.remove(wire.RemoveImageRequest(ref=ref, force=force, no_prune=no_prune))
        return [to_model(RemovedImage, each) for each in answer.items]

    async def prune(self, filters: Filters) -> tuple[Sequence[RemovedImage], int]:
        answer = await self._stub.prune(wire.PruneImagesRequest(filters=_filters(filters)))
        return [to_model(RemovedImage, each) for each in answer.items], answer.space_reclaimed

    async def load(self, data: AsyncIterator[bytes], *, quiet: bool, platform: str) -> AsyncGenerator[Progress]:
        async def requests() -> AsyncIterator[wire.LoadRequest]:
            yield wire.LoadRequest(quiet=quiet, platform=platform)
            async for part in data:
                yield wire.LoadRequest(data=part)

        async for line in self._stub.load(requests()):
            yield _progress(line)

    async def save(self, refs: Sequence[str]) -> AsyncGenerator[bytes]:
        async for part in self._stub.save(wire.SaveRequest(refs=[*refs])):
            yield part.data


class ManagerRegistries:
    """`ports.Registries`."""

    def __init__(self, channel: Channel) -> None:
        self._stub = stub(wire.RegistriesStub, channel, PEER)

    async def search(
        self, term: str, *, limit: int, filters: Filters, auth: RegistryAuth | None
    ) -> Sequence[SearchResult]:
        request = wire.SearchRequest(term=term, limit=limit, filters=_filters(filters), auth=_auth(auth))
        return [to_model(SearchResult, each) for each in (await self._stub.search(request)).results]

    async def inspect(self, reference: str, *, auth: RegistryAuth | None) -> DistributedImage:
        request = wire.InspectDistributionRequest(reference=reference, auth=_auth(auth))
        return to_model(DistributedImage, await self._stub.inspect(request))

    async def login(self, auth: RegistryAuth) -> str:
        """`ports.Logins`."""
        return (await self._stub.login(wire.LoginRequest(auth=_auth(auth)))).identity_token


class ManagerFilesystems:
    """`ports.Filesystems`."""

    def __init__(self, channel: Channel) -> None:
        self._stub = stub(wire.FilesystemsStub, channel, PEER)

    async def export(self, ref: str) -> AsyncGenerator[bytes]:
        parts = cast(AsyncGenerator[wire.ExportResponse], self._stub.export(wire.ExportRequest(ref=ref)))
        async with contextlib.aclosing(parts):
            async for part in parts:
                yield part.data

    async def changes(self, ref: str) -> AsyncGenerator[Sequence[tuple[str, bytes]]]:
        async for part in self._stub.changes(wire.ChangesRequest(ref=ref)):
            yield [(chr(record[0]), record[1:]) for record in part.records.split(b"\0")[:-1]]

    async def commit(self, wanted: Commit) -> str:
        return (await self._stub.commit(to_message(wire.CommitRequest, wanted))).id

    async def import_image(self, wanted: Import, data: AsyncIterator[bytes]) -> AsyncGenerator[Progress]:
        async def requests() -> AsyncIterator[wire.ImportRequest]:
            yield to_message(wire.ImportRequest, wanted)
            async for part in data:
                yield wire.ImportRequest(data=part)

        async for line in self._stub.import_(requests()):
            yield _progress(line)


class ManagerNetworks:
    """`ports.Networks`."""

    def __init__(self, channel: Channel) -> None:
        self._stub = stub(wire.NetworksStub, channel, PEER)

    async def create(self, wanted: NetworkRecord) -> str:
        request = wire.CreateNetworkRequest(network=to_message(wire.Network, wanted))
        return (await self._stub.create(request)).id

    async def list(self, filters: Filters) -> Sequence[InspectedNetwork]:
        answer = await self._stub.list(wire.ListNetworksRequest(filters=_filters(filters)))
        return [_inspected(each) for each in answer.networks]

    async def inspect(self, ref: str) -> InspectedNetwork:
        return _inspected(await self._stub.inspect(wire.InspectNetworkRequest(ref=ref)))

    async def remove(self, ref: str) -> None:
        await self._stub.remove(wire.RemoveNetworkRequest(ref=ref))

    async def prune(self, filters: Filters) -> Sequence[str]:
        return (await self._stub.prune(wire.PruneNetworksRequest(filters=_filters(filters)))).names

    async def connect(self, ref: str, container: str, wish: NetworkEndpoint) -> None:
        endpoint = to_message(WireEndpoint, wish)
        await self._stub.connect(wire.ConnectNetworkRequest(ref=ref, container=container, endpoint=endpoint))

    async def disconnect(self, ref: str, container: str, *, force: bool) -> None:
        await self._stub.disconnect(wire.DisconnectNetworkRequest(ref=ref, container=container, force=force))


class ManagerVolumes:
    """`ports.Volumes`."""

    def __init__(self, channel: Channel) -> None:
        self._stub = stub(wire.VolumesStub, channel, PEER)

    async def create(self, wanted: Volume) -> InspectedVolume:
        return to_model(InspectedVolume, await self._stub.create(to_message(wire.CreateVolumeRequest, wanted)))

    async def list(self, *, filters: Filters, usage: bool = False) -> Sequence[InspectedVolume]:
        answer = await self._stub.list(wire.ListVolumesRequest(filters=_filters(filters), usage=usage))
        return [to_model(InspectedVolume, each) for each in answer.volumes]

    async def inspect(self, name: str) -> InspectedVolume:
        return to_model(InspectedVolume, await self._stub.inspect(wire.InspectVolumeRequest(name=name)))

    async def remove(self, name: str, *, force: bool) -> None:
        await self._stub.remove(wire.RemoveVolumeRequest(name=name, force=force))

    async def prune(self, filters: Filters) -> tuple[Sequence[str], int]:
        answer = await self._stub.prune(wire.PruneVolumesRequest(filters=_filters(filters)))
        return answer.names, answer.space_reclaimed


class ManagerSystem:
    """`ports.System`."""

    def __init__(self, channel: Channel) -> None:
        self._stub = stub(wire.SystemStub, channel, PEER)

    async def info(self) -> EngineInfo:
        return to_model(EngineInfo, await self._stub.info(wire.InfoRequest()))

    async def events(
        self, *, since: int | None, until: int | None, filters: Filters
    ) -> AsyncGenerator[EngineEvent | None]:
        request = wire.EventsRequest(since=since, until=until, filters=_filters(filters))
        async for event in self._stub.events(request):
            yield None if event.ready else to_model(EngineEvent, event)

    async def activity(self) -> EngineActivity:
        answer = await self._stub.operations(wire.OperationsRequest(), timeout=LOOK_SECONDS)
        operations = [to_model(EngineOperation, each) for each in answer.operations]
        return EngineActivity(operations=operations, counts=answer.counts)

    async def layers_size(self) -> int:
        return (await self._stub.disk_usage(wire.DiskUsageRequest())).layers_size


def _filters(filters: Filters) -> dict[str, StringList]:
    return {name: StringList(items=[*values]) for name, values in filters.items()}


def _auth(auth: RegistryAuth | None) -> wire.RegistryAuth | None:
    return None if auth is None else to_message(wire.RegistryAuth, auth)


def _progress(line: wire.Progress) -> Progress:
    if line.error:
        raise error_named(line.error_kind, line.error)
    return to_model(Progress, line)


def _inspected(network: wire.Network) -> InspectedNetwork:
    members = tuple(to_model(NetworkMember, each) for each in network.members)
    return InspectedNetwork(record=to_model(NetworkRecord, network), members=members)


def _check_launch(failure: wire.LaunchFailure | None) -> None:
    if failure is not None:
        raise LaunchFailed(failure.message, step=failure.step, errno=failure.errno, exit_code=failure.exit_code)
