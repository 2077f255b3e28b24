"""The manager, put together: the only module that names ports and adapters in one breath."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from bulkhead.content import later
from bulkhead.content.blocking import Blocking
from bulkhead.content.durable import disk_errors
from bulkhead.content.inlets import Inlets
from bulkhead.errors import BulkheadError
from bulkhead.linux import process
from bulkhead.linux.cgroup_oom import oom_notices
from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.linux.inode_groups import spread_children
from bulkhead.manager import remapping, runtimes
from bulkhead.manager.actors import Actors
from bulkhead.manager.adapters.database import Database
from bulkhead.manager.adapters.groups import Groups
from bulkhead.manager.adapters.journal_store import SqliteJournalStore
from bulkhead.manager.adapters.netlink_branches import NetlinkBranches
from bulkhead.manager.adapters.netlink_network import NetlinkKernel
from bulkhead.manager.adapters.records import SqliteRecords
from bulkhead.manager.adapters.shims import SupervisedShims
from bulkhead.manager.adapters.spares import Spares
from bulkhead.manager.adapters.trash import Trash, make_private
from bulkhead.manager.adapters.usage import read_figures
from bulkhead.manager.archiving import Archiving
from bulkhead.manager.config import ManagerConfig
from bulkhead.manager.core import Core, Ports, assemble
from bulkhead.manager.eventbus import EventBus
from bulkhead.manager.exits import is_alive
from bulkhead.manager.filesystems import Filesystems
from bulkhead.manager.images.app import ImageService
from bulkhead.manager.networks import placing
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.manager.networks.drivers import DrivenNetwork
from bulkhead.manager.networks.parents import ParentNetworks
from bulkhead.manager.networks.plans import subnets_of
from bulkhead.manager.servicers.archives import ArchivesServicer
from bulkhead.manager.servicers.containers import ContainersServicer
from bulkhead.manager.servicers.execs import ExecsServicer
from bulkhead.manager.servicers.filesystems import FilesystemsServicer
from bulkhead.manager.servicers.networks import NetworksServicer
from bulkhead.manager.servicers.statistics import StatisticsServicer
from bulkhead.manager.servicers.system import EngineFacts, SystemServicer
from bulkhead.manager.servicers.updates import UpdatesServicer
from bulkhead.manager.servicers.volumes import VolumesServicer
from bulkhead.model.events import Event
from bulkhead.model.instance import Instance
from bulkhead.model.remapping import Remapping
from bulkhead.settings import Settings
from bulkhead.wire.inflight import InFlight
from bulkhead.wire.server import Servicer, serve

log = structlog.get_logger()
SERVICE = "manager"
ENGINE_ID_KEY, SUBNET_KEY = "engine_id", "default_subnet"
_LOAD_SECONDS = 1.0


@asynccontextmanager
async def serve_manager(settings: Settings) -> AsyncIterator[None]:
    """Entered when everything is recovered and the socket listens.

    Raises Conflict when another manager has the data directory or the socket.
    """
    config = settings.table(SERVICE, ManagerConfig)
    instance = settings.instance
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(instance.data / "bulkhead.db"))
        events = EventBus(
            SqliteJournalStore(database), keep=config.events_keep, keep_seconds=config.events_keep_hours * 3600
        )
        await events.open()
        records = await SqliteRecords.open(database, events.announce)
        images = await stack.enter_async_context(_images(database, instance, config, events, records))
        kernel = NetlinkKernel()
        instance = replace(instance, subnet=await _subnet(instance, records, kernel))
        ports = await _ports(stack, instance, config, records, images, kernel)
        # Last in, first out: operations that a stop lets end still need shims, network and records.
        actors = await stack.enter_async_context(Actors())
        core = assemble(instance, config, ports, actors)
        await _recover(core, records, images)
        _begin_upkeep(core, actors, events)
        calls = InFlight()
        in_flight = (actors.in_flight, calls)
        servicers = await _servicers(instance, config, records, events, images, core, ports, in_flight)
        blocking = Blocking()
        stack.callback(blocking.close)
        filesystems = _filesystems(records, images, core, blocking)
        archives = _archives(instance, records, images, core, actors, blocking)
        await stack.enter_async_context(serve((*servicers, filesystems, archives), instance.manager_socket, calls))
        yield


def _images(
    database: Database, instance: Instance, config: ManagerConfig, events: EventBus, records: SqliteRecords
) -> ImageService:
    async def publish(kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        await events.write(
            Event(type=kind, action=action, actor_id=actor_id, attributes=attributes, time=time.time_ns())
        )

    return ImageService(database, instance, config.images(), publish, records.index)


async def _ports(
    stack: AsyncExitStack,
    instance: Instance,
    config: ManagerConfig,
    records: SqliteRecords,
    images: ImageService,
    kernel: NetlinkKernel,
) -> Ports:
    _make_place(instance.data / "containers")
    network = DrivenNetwork(
        BridgeNetwork(instance, kernel, open_forward=config.open_forward),
        ParentNetworks(NetlinkBranches(kernel), instance.network_alias),
    )
    stack.callback(network.close)
    trash = await stack.enter_async_context(Trash(instance.data / "trash"))
    return Ports(
        runtimes=runtimes.configured(config),
        remapping=await _remapping(instance, config),
        records=records,
        shims=await stack.enter_async_context(SupervisedShims(instance)),
        images=images.store,
        snapshots=images.snapshots,
        network=network,
        trash=trash,
        spares=Spares(instance.data / "containers", trash),
        image_size=images.store.size,
        boot_id=process.boot_id(),
        engine_id=await _engine_id(records),
        groups=Groups(instance.label),
        figures=read_figures,
        limit=lambda group, limits: Cgroup(group).update(limits),
        oom_notices=oom_notices,
    )


async def _subnet(instance: Instance, records: SqliteRecords, kernel: NetlinkKernel) -> str:
    """The default network's. One that somebody has set is used or refused, and who runs keeps his address."""
    if instance.subnet != placing.USUAL:
        return instance.subnet
    known = await records.meta(SUBNET_KEY) or instance.subnet
    if any(is_alive(each) for each in records.index if each.phase.alive and each.attachments):
        return known
    try:
        async with kernel.choosing():
            found = placing.place(known, instance, await kernel.survey(), subnets_of(records.networks.values()))
    except BulkheadError:
        return known  # whoever makes the network says so
    if found != known:
        log.warning("the host has the default network's subnet elsewhere: another is used", subnet=known, instead=found)
        await records.set_meta(SUBNET_KEY, found)
    return found


def _make_place(containers: Path) -> None:
    """For the containers' directories. New ones come where others have just been removed."""
    with disk_errors(f"open {containers}"):
        make_private(containers)
        spread_children(containers)


async def _remapping(instance: Instance, config: ManagerConfig) -> Remapping | None:
    found = remapping.configured(config)
    if found is not None:
        await asyncio.to_thread(remapping.check_kernel, found, instance.data / "snapshots" / "ingest")
    return found


async def _recover(core: Core, records: SqliteRecords, images: ImageService) -> None:
    """Recover before serving; the network before anything can be started."""
    await images.recover([each.id for each in records.index])
    await core.networking.recover()
    await core.recovery.recover()
    core.execs.recover()


def _begin_upkeep(core: Core, actors: Actors, events: EventBus) -> None:
    actors.own(events.keep_trimmed(), "trim the journal")
    actors.own(core.execs.keep_swept(), "sweep execs")
    actors.own(core.networking.watch(), "watch the network")
    actors.own(_load_later(), "load what the first pull needs")


async def _load_later() -> None:
    """Not before whoever waits for us to be ready has gone on."""
    await asyncio.sleep(_LOAD_SECONDS)
    await asyncio.to_thread(later.load)


async def _servicers(
    instance: Instance,
    config: ManagerConfig,
    records: SqliteRecords,
    events: EventBus,
    images: ImageService,
    core: Core,
    ports: Ports,
    in_flight: Sequence[InFlight],
) -> Sequence[Servicer]:
    def warnings() -> tuple[str, ...]:
        trouble = core.networking.trouble
        return (f"the network is not available: {trouble}",) if trouble else ()

    facts = EngineFacts(
        engine_id=await _engine_id(records),
        data_dir=str(instance.data),
        cgroup_version=2 if hierarchies().is_v2 else 1,
        mirrors=(instance.registry,) if config.mirrors is None else tuple(config.mirrors),
        insecure_registries=tuple(config.insecure_registries),
        count_images=images.store.count,
        layers_size=images.store.disk_usage,
        warnings=warnings,
        runtimes=ports.runtimes,
        logging_driver=config.log_driver,
        proxies=config.images().proxies,
        remaps_users=ports.remapping is not None,
    )
    return (
        ContainersServicer(instance, core.containers, core.execs, core.queries, core.pruning),
        ExecsServicer(core.execs),
        SystemServicer(records.index, events, facts, *in_flight),
        NetworksServicer(core.networks),
        VolumesServicer(core.volumes, core.volume_pruning, core.actors),
        StatisticsServicer(core.sampler),
        UpdatesServicer(core.updating),
        images.servicer,
        images.registries,
        images.upkeep,
    )


def _filesystems(records: SqliteRecords, images: ImageService, core: Core, blocking: Blocking) -> FilesystemsServicer:
    use_cases = Filesystems(
        records=records,
        images=images.store,
        snapshots=images.snapshots,
        stopping=core.containers.stopping,
        committer=images.committer,
        blocking=blocking,
    )
    return FilesystemsServicer(use_cases, images.importer, images.transfers)


def _archives(
    instance: Instance, records: SqliteRecords, images: ImageService, core: Core, actors: Actors, blocking: Blocking
) -> ArchivesServicer:
    return ArchivesServicer(
        Archiving(
            records=records,
            images=images.store,
            snapshots=images.snapshots,
            bundles=core.containers.creation.bundles,
            volumes=core.volumes,
            actors=actors,
            blocking=blocking,
            inlets=Inlets(instance.inlets),
            scratch=instance.data / "snapshots" / "ingest",
        )
    )


async def _engine_id(records: SqliteRecords) -> str:
    """Made once for a data directory."""
    known = await records.meta(ENGINE_ID_KEY)
    if known is not None:
        return known
    made = str(uuid.uuid4())
    await records.set_meta(ENGINE_ID_KEY, made)
    return made
