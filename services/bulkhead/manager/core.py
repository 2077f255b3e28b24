"""The core's parts wired to each other, above whatever implements the ports.

`app.py` gives it the real adapters, tests give it fakes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bulkhead.manager.actors import Actors
from bulkhead.manager.boot_order import BootOrder
from bulkhead.manager.bundles import Bundles
from bulkhead.manager.config import ManagerConfig
from bulkhead.manager.containers import Containers
from bulkhead.manager.creation import Creation
from bulkhead.manager.execs import Execs
from bulkhead.manager.exits import Exits
from bulkhead.manager.health_watch import HealthWatch
from bulkhead.manager.launching_ahead import LaunchingAhead
from bulkhead.manager.networking import Networking
from bulkhead.manager.networks.blocks import unique_local
from bulkhead.manager.networks.catalogue import Networks
from bulkhead.manager.networks.known import KnownNetworks
from bulkhead.manager.networks.names import NameFiles
from bulkhead.manager.networks.ports import Network
from bulkhead.manager.new_execs import NewExecs
from bulkhead.manager.oom_watch import OomWatch
from bulkhead.manager.ports import Groups, Images, OomNotices, Records, Shims, Snapshots, Spares, Trash
from bulkhead.manager.pruning import Pruning
from bulkhead.manager.queries import Queries
from bulkhead.manager.recovery import Recovery
from bulkhead.manager.relaying import Relaying
from bulkhead.manager.removal import Removal
from bulkhead.manager.resolving import Resolving
from bulkhead.manager.runtimes import Runtimes
from bulkhead.manager.sampling import Sampler
from bulkhead.manager.starting import Starting
from bulkhead.manager.stopping import Stopping
from bulkhead.manager.updating import Limit, Updating
from bulkhead.manager.volumes.catalogue import Volumes
from bulkhead.manager.volumes.mounting import Mounting
from bulkhead.manager.volumes.places import Places
from bulkhead.manager.volumes.pruning import VolumePruning
from bulkhead.manager.waiters import Waiters
from bulkhead.model.container import Container
from bulkhead.model.instance import Instance
from bulkhead.model.remapping import Remapping
from bulkhead.model.sample import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything that the core asks of the world."""

    records: Records
    shims: Shims
    images: Images
    snapshots: Snapshots
    network: Network
    trash: Trash
    spares: Spares
    image_size: Callable[[str], int]
    boot_id: str
    groups: Groups
    # What a live container uses, whose cgroup is named.
    figures: Callable[[Container, str], Sample]
    limit: Limit
    # Word of a cgroup, named, that runs out of memory.
    oom_notices: Callable[[str], OomNotices]
    runtimes: Runtimes = field(default_factory=Runtimes)
    engine_id: str = ""
    remapping: Remapping | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The use-cases, as the edge takes them."""

    containers: Containers
    execs: Execs
    queries: Queries
    pruning: Pruning
    sampler: Sampler
    updating: Updating
    networking: Networking
    networks: Networks
    volumes: Volumes
    volume_pruning: VolumePruning
    recovery: Recovery
    exits: Exits
    actors: Actors


def assemble(instance: Instance, config: ManagerConfig, ports: Ports, actors: Actors) -> Core:
    """Plain constructor calls, in the order of dependence."""
    records, snapshots, index = ports.records, ports.snapshots, ports.records.index
    shims = LaunchingAhead(ports.shims, actors)
    known = KnownNetworks(instance, records.networks)
    networking = Networking(ports.network, index, known, NameFiles(instance.names_directory))
    waiters = Waiters()
    volumes = Volumes(records=records, places=Places(instance.data / "volumes", ports.trash), mounting=Mounting())
    bundles = Bundles(instance=instance, config=config, index=index, runtimes=ports.runtimes)
    resolving = Resolving(networking=networking, bundles=bundles, shims=shims)
    relaying = Relaying(shims=shims)
    starting = Starting(
        resolving=resolving,
        relaying=relaying,
        records=records,
        shims=shims,
        snapshots=snapshots,
        bundles=bundles,
        networking=networking,
        volumes=volumes,
    )
    removal = Removal(
        instance=instance,
        records=records,
        shims=shims,
        snapshots=snapshots,
        networking=networking,
        volumes=volumes,
        spares=ports.spares,
        waiters=waiters,
    )
    new_execs = NewExecs(actors=actors)
    exits = Exits(
        boot_order=BootOrder(index=index),
        instance=instance,
        records=records,
        shims=shims,
        networking=networking,
        actors=actors,
        waiters=waiters,
        starting=starting,
        removal=removal,
        volumes=volumes,
        resolving=resolving,
        new_execs=new_execs,
    )
    stopping = Stopping(
        records=records,
        shims=shims,
        actors=actors,
        waiters=waiters,
        exits=exits,
        stop_timeout=config.stop_timeout,
    )
    watch = HealthWatch(
        instance=instance,
        records=records,
        shims=shims,
        actors=actors,
        exits=exits,
        stopping=stopping,
        action=config.health_action,
        budget=config.health_budget,
    )
    exits.also(watch.watch)
    oom_watch = OomWatch(records=records, actors=actors, waiters=waiters, bundles=bundles, notices=ports.oom_notices)
    exits.also(oom_watch.watch)
    containers = Containers(
        instance=instance,
        records=records,
        shims=shims,
        actors=actors,
        waiters=waiters,
        creation=Creation(
            records=records,
            images=ports.images,
            snapshots=snapshots,
            bundles=bundles,
            volumes=volumes,
            spares=ports.spares,
            networking=networking,
            shims=shims,
            remapping=ports.remapping,
        ),
        exits=exits,
        stopping=stopping,
        removal=removal,
    )
    updating = Updating(records=records, bundles=bundles, actors=actors, limit=ports.limit, limited=oom_watch.watch)
    execs = Execs(
        instance=instance,
        records=records,
        shims=shims,
        actors=actors,
        new=new_execs,
        has_foreign_runtime=bundles.has_foreign_runtime,
    )
    return Core(
        actors=actors,
        containers=containers,
        execs=execs,
        queries=Queries(records=records, images=ports.images, snapshots=snapshots, image_size=ports.image_size),
        pruning=Pruning(records=records, snapshots=snapshots, remove=containers.remove_stopped),
        sampler=Sampler(index=index, actors=actors, read=lambda each: ports.figures(each, bundles.cgroups_path(each))),
        updating=updating,
        networking=networking,
        networks=Networks(
            records=records,
            networking=networking,
            bundles=bundles,
            actors=actors,
            resolving=resolving,
            relaying=relaying,
            unique_local=unique_local(ports.engine_id),
        ),
        volumes=volumes,
        volume_pruning=VolumePruning(volumes=volumes),
        recovery=Recovery(
            instance=instance,
            records=records,
            shims=shims,
            actors=actors,
            exits=exits,
            trash=ports.trash,
            volumes=volumes,
            boot_id=ports.boot_id,
            groups=ports.groups,
            apply_limits=updating.apply_again,
            adopt_execs=execs.adopt,
        ),
        exits=exits,
    )
