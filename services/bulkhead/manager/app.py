"""The manager, put together: the only module that names ports and adapters in one breath."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from bulkhead.linux import process
from bulkhead.linux.cgroups import hierarchies
from bulkhead.manager.actors import Actors
from bulkhead.manager.adapters.database import Database
from bulkhead.manager.adapters.groups import sweep_groups
from bulkhead.manager.adapters.journal_store import SqliteJournalStore
from bulkhead.manager.adapters.netlink_network import NetlinkKernel
from bulkhead.manager.adapters.records import SqliteRecords
from bulkhead.manager.adapters.shims import SupervisedShims
from bulkhead.manager.adapters.trash import Trash
from bulkhead.manager.bundles import Bundles
from bulkhead.manager.config import ManagerConfig
from bulkhead.manager.containers import Containers, users_by_image
from bulkhead.manager.creation import Creation
from bulkhead.manager.eventbus import EventBus
from bulkhead.manager.execs import Execs
from bulkhead.manager.exits import Exits
from bulkhead.manager.images.app import ImageService
from bulkhead.manager.networking import Networking
from bulkhead.manager.networks.bridge import BridgeNetwork
from bulkhead.manager.pruning import Pruning
from bulkhead.manager.queries import Queries
from bulkhead.manager.recovery import Recovery
from bulkhead.manager.removal import Removal
from bulkhead.manager.servicers.containers import ContainersServicer
from bulkhead.manager.servicers.execs import ExecsServicer
from bulkhead.manager.servicers.system import EngineFacts, SystemServicer
from bulkhead.manager.starting import Starting
from bulkhead.manager.stopping import Stopping
from bulkhead.manager.volumes import Volumes
from bulkhead.manager.waiters import Waiters
from bulkhead.model.events import Event
from bulkhead.model.instance import Instance
from bulkhead.settings import Settings
from bulkhead.wire.server import Servicer, serve

ENGINE_ID_KEY = "engine_id"
SERVICE = "manager"

Recover = Callable[[], Awaitable[None]]


@asynccontextmanager
async def serve_manager(settings: Settings) -> AsyncIterator[None]:
    """Entered when everything is recovered and the socket listens.

    Raises Conflict when another manager has the data directory or the socket.
    """
    config = settings.table(SERVICE, ManagerConfig)
    instance = settings.instance
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(Database.open(instance.data / "bulkhead.db"))
        manager = await _assemble(stack, database, instance, config)
        await manager.recover()
        await stack.enter_async_context(serve(manager.servicers, instance.manager_socket))
        yield


class _Manager:
    """The parts that `serve_manager` starts, in the order of their dependence."""

    def __init__(self, recover: Sequence[Recover], servicers: Sequence[Servicer]) -> None:
        self.servicers = servicers
        self._recover = recover

    async def recover(self) -> None:
        for step in self._recover:
            await step()


async def _assemble(stack: AsyncExitStack, database: Database, instance: Instance, config: ManagerConfig) -> _Manager:
    journal = SqliteJournalStore(database)
    events = EventBus(journal, keep=config.events_keep, keep_seconds=config.events_keep_hours * 3600)
    await events.open()
    records = await SqliteRecords.open(database, events.announce)
    index = records.index
    actors = await stack.enter_async_context(Actors())
    shims = await stack.enter_async_context(SupervisedShims(instance))

    async def publish(kind: str, action: str, actor_id: str, attributes: Mapping[str, str]) -> None:
        event = Event(type=kind, action=action, actor_id=actor_id, attributes=attributes, time=time.time_ns())
        await events.write(event)

    images = ImageService(database, instance, config.images(), publish, lambda: users_by_image(index))
    await stack.enter_async_context(images)
    trash = await stack.enter_async_context(Trash(instance.data / "trash"))
    network = BridgeNetwork(instance, NetlinkKernel())
    stack.callback(network.close)
    networking = Networking(network, index)
    waiters = Waiters()
    volumes = Volumes(instance.data / "volumes", trash)
    bundles = Bundles(instance=instance, config=config, index=index, volumes=volumes)
    starting = Starting(
        records=records, shims=shims, snapshots=images.snapshots, bundles=bundles, networking=networking
    )
    removal = Removal(
        instance=instance,
        records=records,
        shims=shims,
        snapshots=images.snapshots,
        networking=networking,
        volumes=volumes,
        trash=trash,
        waiters=waiters,
    )
    exits = Exits(
        instance=instance,
        records=records,
        shims=shims,
        networking=networking,
        actors=actors,
        waiters=waiters,
        starting=starting,
        removal=removal,
    )
    stopping = Stopping(
        records=records,
        shims=shims,
        actors=actors,
        waiters=waiters,
        exits=exits,
        stop_timeout=config.stop_timeout,
    )
    creation = Creation(
        records=records,
        images=images.store,
        snapshots=images.snapshots,
        bundles=bundles,
        volumes=volumes,
        trash=trash,
    )
    containers = Containers(
        instance=instance,
        records=records,
        shims=shims,
        actors=actors,
        waiters=waiters,
        creation=creation,
        exits=exits,
        stopping=stopping,
        removal=removal,
    )
    execs = Execs(instance=instance, records=records, shims=shims, actors=actors)
    queries = Queries(
        records=records,
        images=images.store,
        snapshots=images.snapshots,
        image_size=lambda image_id: images.store.inspect(image_id).record.size,
    )
    pruning = Pruning(records=records, snapshots=images.snapshots, remove=containers.remove_stopped)
    recovery = Recovery(
        instance=instance,
        records=records,
        shims=shims,
        actors=actors,
        exits=exits,
        trash=trash,
        boot_id=process.boot_id(),
        sweep_groups=lambda alive: sweep_groups(instance.label, alive),
    )
    facts = EngineFacts(
        engine_id=await _engine_id(records),
        data_dir=str(instance.data),
        cgroup_version=2 if hierarchies().is_v2 else 1,
        mirrors=(instance.registry,) if config.mirrors is None else tuple(config.mirrors),
        insecure_registries=tuple(config.insecure_registries),
        count_images=lambda: len(images.store.select({})),
        layers_size=lambda: sum(each.record.size for each in images.store.select({})),
        warnings=lambda: (f"the network is not available: {networking.trouble}",) if networking.trouble else (),
    )

    async def recover_images() -> None:
        await images.recover([each.id for each in index])

    async def begin_upkeep() -> None:
        execs.recover()
        actors.own(events.keep_trimmed(), "trim the journal")
        actors.own(execs.keep_swept(), "sweep execs")
        actors.own(networking.watch(), "watch the network")

    servicers = (
        ContainersServicer(instance, containers, queries, pruning),
        ExecsServicer(execs),
        SystemServicer(index, events, facts),
        images.servicer,
    )
    return _Manager((recover_images, networking.recover, recovery.recover, begin_upkeep), servicers)


async def _engine_id(records: SqliteRecords) -> str:
    """Made once for a data directory."""
    known = await records.meta(ENGINE_ID_KEY)
    if known is not None:
        return known
    made = str(uuid.uuid4())
    await records.set_meta(ENGINE_ID_KEY, made)
    return made
