"""Creating a container: image, name, mounts, directories, record. All of it, or nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import posixpath
import socket
import time
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

from bulkhead import failpoints
from bulkhead.content.aside import aside
from bulkhead.content.blocking import settle
from bulkhead.errors import BulkheadError, InvalidArgument, NotFound, Unavailable
from bulkhead.manager import links, remapping, sharing, signals
from bulkhead.manager.announcements import of_container, of_volume
from bulkhead.manager.bundles import Bundles
from bulkhead.manager.launching_ahead import LaunchingAhead
from bulkhead.manager.log_options import configured
from bulkhead.manager.networking import Networking
from bulkhead.manager.networks.catalogue import initial_endpoints
from bulkhead.manager.oci_resources import weighable, weighs
from bulkhead.manager.ports import Change, Dirs, Images, Records, Snapshots, Spares
from bulkhead.manager.volumes.catalogue import Volumes
from bulkhead.model.container import Container, ContainerSpec, Mount, Resources
from bulkhead.model.directives import directives
from bulkhead.model.ids import new_id, short
from bulkhead.model.image import merge
from bulkhead.model.names import normal, random_name
from bulkhead.model.remapping import Remapping
from bulkhead.model.replacing import replace

_NAME_ATTEMPTS = 6
_NO_WEIGHT = "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
_NO_DEVICE_WEIGHTS = (
    "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded."
)
_NO_OOM_KILL = (
    "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out "
    "of resources."
)
_DISCARDED_PORTS = "Published ports are discarded when using host network mode"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewContainer:
    """What a client gets."""

    id: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """Makes containers."""

    records: Records
    images: Images
    snapshots: Snapshots
    bundles: Bundles
    volumes: Volumes
    spares: Spares
    networking: Networking
    shims: LaunchingAhead
    remapping: Remapping | None = None

    async def create(self, name: str, spec: ContainerSpec) -> NewContainer:
        """A container in phase CREATED.

        Raises NotFound without the image, Conflict for a name that is taken, InvalidArgument with Docker's texts,
        ResourceExhausted when the disk is full.
        """
        wanted = normal(name) if name else ""
        sharing.check_modes(spec)
        image = await self.images.resolve(spec.image, spec.platform)
        with self.images.holding(image.id):
            merged = self._completed(_normal(merge(spec, image.config)))
            path, *args = _command(merged)
            signals.parse_signal(merged.stop_signal)
            draft = Container(
                id=new_id(self.records.index.short_ids),
                name=wanted,
                spec=merged,
                image_id=image.id,
                path=path,
                args=tuple(args),
                created_at=time.time_ns(),
                directives=directives(spec.labels),
                remapping=remapping.remapping_of(merged, self.remapping, self.bundles.runtimes.command(merged.runtime)),
            )
            container = await self._make(draft)
        return NewContainer(id=container.id, warnings=_warnings(merged))

    async def _make(self, draft: Container) -> Container:
        async with AsyncExitStack() as undo:
            named = replace(draft, name=draft.name or self._free_name(draft.id))
            self.records.index.reserve(named.name, named.id)
            undo.callback(self.records.index.free, named.name, named.id)
            failpoints.hit("manager.create.named")
            container = self._with_mounts(self._with_networks(named))
            _check_mounts(container.spec.mounts)
            await self.bundles.look_for_sources(container.spec.mounts)
            async with self.volumes.claimed(container.spec.mounts, container.anonymous_volumes) as new:
                dirs = self.snapshots.dirs(container.id, container.image_id)
                container = replace(container, lower_dirs=dirs.lower)
                await self.volumes.fill(container.spec.mounts, new, dirs.lower)
                failpoints.hit("manager.create.filled")
                events = (*(of_volume(volume, "create") for volume in new), of_container(container, "create"))
                await self._commit(Change(create=container, volumes=new, events=events), container, dirs, undo)
                failpoints.hit("manager.create.recorded")
        return container

    async def _commit(self, change: Change, container: Container, dirs: Dirs, undo: AsyncExitStack) -> None:
        """Make the directories, then the record.

        The record is made to its end, also when the create is given up meanwhile: what is on record is not undone.
        A directory is not waited for then: its disk may stand still.
        """
        undo.push_async_callback(self._forget, container.id)
        # Taken by the thread that goes on to the record, or by who gives up: whoever is first.
        turn = [True]
        loop = asyncio.get_running_loop()
        expect = partial(
            self.shims.expect,
            container.id,
            network_given=self.networking.plugs_ahead(container),
            cgroup=self.bundles.cgroup_ahead(container),
        )

        if container.spec.working_dir not in ("", "/"):
            await aside(self._make_working_dir, container, dirs)

        def directories() -> None:
            self._make_directories(container, dirs, turn)
            # From here on the disk is waited for.
            loop.call_soon_threadsafe(expect)

        commit = asyncio.ensure_future(self.records.commit(change, durable=True, first=directories))
        try:
            await asyncio.shield(commit)
        finally:
            if not commit.done() and _taken(turn):
                commit.add_done_callback(_heard)
            else:
                await settle(commit)
            if self.records.index.knows(container.id):
                undo.pop_all()

    def _make_working_dir(self, container: Container, dirs: Dirs) -> None:
        """Blocking. Before anybody launches ahead and has the layer mounted."""
        self.snapshots.make(container.id, dirs)
        self.snapshots.make_below(dirs, container.spec.working_dir)

    def _make_directories(self, container: Container, dirs: Dirs, turn: list[bool]) -> None:
        """The container's own, and its layer. Blocking: the disk may be busy.

        Raises Unavailable when nobody wants the container any more.
        """
        if not self.spares.take(self.bundles.instance.container_data(container.id)):
            self.bundles.make_directory(container.id)
        failpoints.hit("manager.create.directory")
        self.snapshots.make(container.id, dirs)
        failpoints.hit("manager.create.layer")
        if not _taken(turn):
            raise Unavailable("cannot create container: it was given up")

    async def _forget(self, container_id: str) -> None:
        """Undo the directories; what cannot be undone now is swept at the next start."""
        with contextlib.suppress(BulkheadError):
            await self.shims.discard(container_id)
        with contextlib.suppress(BulkheadError):
            await aside(self._clear, container_id)
        self.snapshots.let_go()

    def _clear(self, container_id: str) -> None:
        self.snapshots.clear(container_id)
        self.spares.clear(self.bundles.instance.container_data(container_id))

    def _completed(self, spec: ContainerSpec) -> ContainerSpec:
        """With the daemon's defaults for what is left open.

        References to other containers are by id, since names change; a network's may come to be known later.
        """
        return replace(
            spec,
            network_mode=self._resolved(spec.network_mode, must_exist=False),
            pid_mode=self._resolved(spec.pid_mode, must_exist=True),
            ipc_mode=self._resolved(spec.ipc_mode, must_exist=True),
            hostname=spec.hostname or (socket.gethostname() if spec.network_mode == "host" else ""),
            links=links.resolve(spec, self.records.index),
            runtime=self.bundles.runtimes.chosen(spec.runtime),
            log_config=configured(spec.log_config, self.bundles.config),
            resources=_with_pids_limit(spec.resources, self.bundles.config.pids_limit),
        )

    def _resolved(self, mode: str, *, must_exist: bool) -> str:
        kind, separator, ref = mode.partition(":")
        if kind != "container" or not separator:
            return mode
        try:
            return f"container:{self.records.index.find(ref).id}"
        except NotFound as error:
            if must_exist:
                raise InvalidArgument(str(error)) from error
            return mode

    def _with_networks(self, container: Container) -> Container:
        spec = container.spec
        if spec.network_mode.startswith("container:") or spec.network_disabled:
            return container
        endpoints = initial_endpoints(spec.network_mode, spec.endpoints, self.networking)
        first = replace(endpoints[0], fixed_mac=endpoints[0].fixed_mac or spec.mac_address)
        return replace(container, endpoints=(first, *endpoints[1:]))

    def _free_name(self, container_id: str) -> str:
        for attempt in range(_NAME_ATTEMPTS):
            name = random_name(attempt)
            if not self.records.index.is_reserved(name):
                return name
        return short(container_id)

    def _with_mounts(self, container: Container) -> Container:
        """The spec's mounts, those of `--volumes-from`, and an anonymous volume for each that is left."""
        spec = container.spec
        if not spec.mounts and not spec.volumes and not spec.volumes_from:
            return container
        mounts = list(spec.mounts)
        _refuse_duplicates(mounts)
        taken = {_clean(mount.target) for mount in mounts}
        shared: set[str] = set()
        for mount, is_anonymous in self._inherited(container.spec.volumes_from):
            if _clean(mount.target) not in taken:
                taken.add(_clean(mount.target))
                mounts.append(mount)
                if is_anonymous:
                    shared.add(mount.source)
        unnamed = dict.fromkeys(map(_clean, container.spec.volumes))
        mounts += [Mount(type="volume", target=target) for target in unnamed if target not in taken]
        named = [self._named(mount) for mount in mounts]
        pairs = zip(mounts, named, strict=True)
        anonymous = [after.source for before, after in pairs if after is not before or after.source in shared]
        return replace(container, spec=replace(spec, mounts=tuple(named)), anonymous_volumes=tuple(anonymous))

    def _named(self, mount: Mount) -> Mount:
        if mount.type != "volume" or mount.source:
            return mount
        return replace(mount, source=self.volumes.anonymous())

    def _inherited(self, references: Iterable[str]) -> list[tuple[Mount, bool]]:
        """With each, whether it is a volume that nobody has named: the last one who uses it takes it along."""
        found: list[tuple[Mount, bool]] = []
        for reference in references:
            if not reference:
                raise InvalidArgument("volumes-from specification cannot be an empty string")
            ref, _, mode = reference.partition(":")
            if mode not in ("", "ro", "rw", "z", "Z"):
                raise InvalidArgument(f"invalid mode: {mode}")
            try:
                owner = self.records.index.find(ref)
            except NotFound as error:
                raise InvalidArgument(str(error)) from error
            mounts = [mount for mount in owner.spec.mounts if mount.type != "tmpfs"]
            unnamed = frozenset(owner.anonymous_volumes)
            found += [
                (replace(mount, read_only=mount.read_only or mode == "ro"), mount.source in unnamed) for mount in mounts
            ]
        return found


def _normal(spec: ContainerSpec) -> ContainerSpec:
    """With the paths as Docker shows them."""
    if not spec.working_dir:
        return spec
    return replace(spec, working_dir=_clean(spec.working_dir))


def _clean(path: str) -> str:
    """Without `.`, `..` and superfluous slashes; absolute paths."""
    return "/" + posixpath.normpath(path).lstrip("/")


def _taken(turn: list[bool]) -> bool:
    """Whether it was still there. From any thread."""
    try:
        return turn.pop()
    except IndexError:
        return False


def _heard(commit: asyncio.Future[None]) -> None:
    if not commit.cancelled():
        commit.exception()


def _command(spec: ContainerSpec) -> list[str]:
    """An empty word is a program as well: one that is not found at the start."""
    command = [*(spec.entrypoint or ()), *(spec.command or ())]
    if not command:
        raise InvalidArgument("No command specified")
    return command


def _with_pids_limit(told: Resources, default: int) -> Resources:
    """Clients say 0, or nothing, for the daemon's limit, and -1 for none."""
    return replace(told, pids_limit=max(told.pids_limit or default, 0))


def _check_mounts(mounts: Iterable[Mount]) -> None:
    for mount in mounts:
        _check_target(mount)
        if mount.type == "bind" and not mount.source.startswith("/"):
            raise InvalidArgument(f"invalid mount path: '{mount.source}' mount path must be absolute")
        if mount.type not in ("bind", "volume", "tmpfs"):
            raise InvalidArgument(f'invalid mount config for type "{mount.type}": mount type unknown')


def _check_target(mount: Mount) -> None:
    if not mount.target.startswith("/"):
        raise InvalidArgument(f"invalid mount path: '{mount.target}' mount path must be absolute")
    if posixpath.normpath(mount.target).lstrip("/") == "":
        raise InvalidArgument("invalid specification: destination can't be '/'")


def _refuse_duplicates(mounts: Iterable[Mount]) -> None:
    seen: set[str] = set()
    for mount in mounts:
        target = mount.target.rstrip("/")
        if target in seen:
            raise InvalidArgument(f"Duplicate mount point: {mount.target}")
        seen.add(target)


def _warnings(spec: ContainerSpec) -> tuple[str, ...]:
    found = []
    if spec.network_mode == "host" and (spec.ports or spec.publish_all_ports):
        found.append(_DISCARDED_PORTS)
    if spec.resources.oom_kill_disable and not spec.resources.memory:
        found.append(_NO_OOM_KILL)
    if spec.resources.blkio_weight and not weighs():
        found.append(_NO_WEIGHT)
    if not all(map(weighable, spec.resources.blkio_weight_devices)):
        found.append(_NO_DEVICE_WEIGHTS)
    return tuple(found)
