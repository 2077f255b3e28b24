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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """What the use-cases stand on: books, and what a container is made of."""

    instance: Instance
    config: ManagerConfig
    ports: Ports
    actors: Actors
    shims: LaunchingAhead
    waiters: Waiters
    networking: Networking
    volumes: Volumes
    bundles: Bundles
    resolving: Resolving
    relaying: Relaying
    new_execs: NewExecs


@dataclass(frozen=True, slots=True, kw_only=True)
class _Life:
    """How containers run and end."""

    exits: Exits
    stopping: Stopping
    removal: Removal
    oom_watch: OomWatch


def assemble(instance: Instance, config: ManagerConfig, ports: Ports, actors: Actors) -> Core:
    """Plain constructor calls, in the order of dependence."""
    ground = _ground(instance, config, ports, actors)
    life = _life(ground)
    containers = _containers(ground, life)
    bundles = ground.bundles
    updating = Updating(
        records=ports.records, bundles=bundles, actors=actors, limit=ports.limit, limited=life.oom_watch.watch
    )
    execs = Execs(
        instance=instance,
        records=ports.records,
        shims=ground.shims,
        actors=actors,
        new=ground.new_execs,
        has_foreign_runtime=bundles.has_foreign_runtime,
    )
    return Core(
        actors=actors,
        containers=containers,
        execs=execs,
        queries=Queries(
            records=ports.records, images=ports.images, snapshots=ports.snapshots, image_size=ports.image_size
        ),
        pruning=Pruning(records=ports.records, snapshots=ports.snapshots, remove=containers.remove_stopped),
        sampler=Sampler(
            index=ports.records.index,
            actors=actors,
            read=lambda each: ports.figures(each, bundles.cgroups_path(each)),
        ),
        updating=updating,
        networking=ground.networking,
        networks=_networks(ground),
        volumes=ground.volumes,
        volume_pruning=VolumePruning(volumes=ground.volumes),
        recovery=_recovery(ground, life.exits, updating, execs),
        exits=life.exits,
    )


def _ground(instance: Instance, config: ManagerConfig, ports: Ports, actors: Actors) -> _Ground:
    records, index = ports.records, ports.records.index
    shims = LaunchingAhead(ports.shims, actors)
    known = KnownNetworks(instance, records.networks)
    networking = Networking(ports.network, index, known, NameFiles(instance.names_directory))
    bundles = Bundles(instance=instance, config=config, index=index, runtimes=ports.runtimes)
    return _Ground(
        instance=instance,
        config=config,
        ports=ports,
        actors=actors,
        shims=shims,
        waiters=Waiters(),
        networking=networking,
        volumes=Volumes(records=records, places=Places(instance.data / "volumes", ports.trash), mounting=Mounting()),
        bundles=bundles,
        resolving=Resolving(networking=networking, bundles=bundles, shims=shims),
        relaying=Relaying(shims=shims),
        new_execs=NewExecs(actors=actors),
    )


def _life(ground: _Ground) -> _Life:
    records, shims, actors, waiters = ground.ports.records, ground.shims, ground.actors, ground.waiters
    removal = _removal(ground)
    exits = _exits(ground, _starting(ground), removal)
    stopping = Stopping(
        records=records,
        shims=shims,
        actors=actors,
        waiters=waiters,
        exits=exits,
        stop_timeout=ground.config.stop_timeout,
    )
    watch = HealthWatch(
        instance=ground.instance,
        records=records,
        shims=shims,
        actors=actors,
        exits=exits,
        stopping=stopping,
        action=ground.config.health_action,
        budget=ground.config.health_budget,
    )
    exits.also(watch.watch)
    oom_watch = OomWatch(
        records=records, actors=actors, waiters=waiters, bundles=ground.bundles, notices=ground.ports.oom_notices
    )
    exits.also(oom_watch.watch)
    return _Life(exits=exits, stopping=stopping, removal=removal, oom_watch=oom_watch)


def _starting(ground: _Ground) -> Starting:
    return Starting(
        resolving=ground.resolving,
        relaying=ground.relaying,
        records=ground.ports.records,
        shims=ground.shims,
        snapshots=ground.ports.snapshots,
        bundles=ground.bundles,
        networking=ground.networking,
        volumes=ground.volumes,
    )


def _removal(ground: _Ground) -> Removal:
    return Removal(
        instance=ground.instance,
        records=ground.ports.records,
        shims=ground.shims,
        snapshots=ground.ports.snapshots,
        networking=ground.networking,
        volumes=ground.volumes,
        spares=ground.ports.spares,
        waiters=ground.waiters,
    )


def _exits(ground: _Ground, starting: Starting, removal: Removal) -> Exits:
    return Exits(
        boot_order=BootOrder(index=ground.ports.records.index),
        instance=ground.instance,
        records=ground.ports.records,
        shims=ground.shims,
        networking=ground.networking,
        actors=ground.actors,
        waiters=ground.waiters,
        starting=starting,
        removal=removal,
        volumes=ground.volumes,
        resolving=ground.resolving,
        new_execs=ground.new_execs,
    )


def _containers(ground: _Ground, life: _Life) -> Containers:
    ports = ground.ports
    return Containers(
        instance=ground.instance,
        records=ports.records,
        shims=ground.shims,
        actors=ground.actors,
        waiters=ground.waiters,
        creation=Creation(
            records=ports.records,
            images=ports.images,
            snapshots=ports.snapshots,
            bundles=ground.bundles,
            volumes=ground.volumes,
            spares=ports.spares,
            networking=ground.networking,
            shims=ground.shims,
            remapping=ports.remapping,
        ),
        exits=life.exits,
        stopping=life.stopping,
        removal=life.removal,
    )


def _networks(ground: _Ground) -> Networks:
    return Networks(
        records=ground.ports.records,
        networking=ground.networking,
        bundles=ground.bundles,
        actors=ground.actors,
        resolving=ground.resolving,
        relaying=ground.relaying,
        unique_local=unique_local(ground.ports.engine_id),
    )


def _recovery(ground: _Ground, exits: Exits, updating: Updating, execs: Execs) -> Recovery:
    return Recovery(
        instance=ground.instance,
        records=ground.ports.records,
        shims=ground.shims,
        actors=ground.actors,
        exits=exits,
        trash=ground.ports.trash,
        volumes=ground.volumes,
        boot_id=ground.ports.boot_id,
        groups=ground.ports.groups,
        apply_limits=updating.apply_again,
        adopt_execs=execs.adopt,
    )
