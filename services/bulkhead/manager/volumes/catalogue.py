"""The volumes of an engine: made, listed, removed; held while containers are made, mounted while they run.

A volume is used while a container's record names it, or while somebody holds it: a container that is being made or
started. What is decided about one volume is decided in its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import structlog

from bulkhead import failpoints
from bulkhead.content.aside import Apart
from bulkhead.content.turns import Turns
from bulkhead.errors import BulkheadError, Conflict, InvalidArgument, NotFound
from bulkhead.linux import resolve
from bulkhead.manager import announcements
from bulkhead.manager.ports import Change, Records
from bulkhead.manager.tree_sizes import TreeSizes
from bulkhead.manager.volumes.filling import fill
from bulkhead.manager.volumes.mounting import Mounting, missing
from bulkhead.manager.volumes.places import Places
from bulkhead.model.container import Container, Mount
from bulkhead.model.ids import new_id
from bulkhead.model.volume import ANONYMOUS_LABEL, Volume, check_driver, check_name, check_options

log = structlog.get_logger()
# Volumes made and filled at a time.
_AT_ONCE = 8


@dataclass(slots=True, kw_only=True)
class Volumes:
    """The use-cases about volumes."""

    records: Records
    places: Places
    mounting: Mounting
    _disk: Apart = field(default_factory=lambda: Apart(_AT_ONCE, "volumes"))
    _sizes: TreeSizes = field(default_factory=TreeSizes)
    _turns: Turns = field(default_factory=Turns)
    _held: Counter[str] = field(default_factory=Counter)
    _leaving: set[str] = field(default_factory=set)

    # ---- what users ask for ----

    async def create(self, wanted: Volume) -> Volume:
        """The volume of that name, made when it is not there; an empty name gets an anonymous one.

        Raises InvalidArgument and NotFound with Docker's texts, ResourceExhausted, Internal.
        """
        volume = _checked(wanted)
        async with self._turns.of(volume.name):
            known = self.records.volumes.get(volume.name)
            if known is not None:
                return known
            made = await self._disk.run(self.places.make, volume.name, volume.quota)
            created = announcements.of_volume(volume, "create")
            try:
                await self.records.commit(Change(volumes=(volume,), events=(created,)), durable=True)
            except BulkheadError:
                if made:
                    self.places.remove(volume.name)
                raise
        return volume

    def get(self, name: str) -> Volume:
        """Raises NotFound with Docker's text."""
        volume = self.records.volumes.get(name)
        if volume is None:
            raise NotFound(f"get {name}: no such volume")
        return volume

    def users(self, name: str) -> Sequence[Container]:
        """The containers that use a volume, whether or not they run."""
        return self.records.index.users_of_volume(name)

    async def remove(self, name: str, *, force: bool) -> None:
        """Remove a volume that no container uses. Raises NotFound (not with `force`), Conflict, Internal."""
        if force and name not in self.records.volumes:
            return
        self.get(name)
        async with self._turns.of(name):
            if name not in self.records.volumes:
                raise NotFound(f"get {name}: no such volume")
            users = self.users(name)
            if users or self._held[name]:
                raise Conflict(f"remove {name}: volume is in use - [{', '.join(each.id for each in users)}]")
            await self.discard([name])

    async def size(self, name: str) -> int:
        """Bytes of its files; 0 of what is only bound or mounted here."""
        volume = self.records.volumes.get(name)
        if volume is None or volume.is_mounted or volume.bound_directory:
            return 0
        return (await self._sizes.below([self.places.data(name)]))[0]

    # ---- what containers need ----

    def anonymous(self) -> str:
        """A name for a volume that a user has not named."""
        return new_id()

    @contextlib.asynccontextmanager
    async def claimed(self, mounts: Sequence[Mount], anonymous: Sequence[str]) -> AsyncIterator[tuple[Volume, ...]]:
        """Hold the volumes of `mounts` and make the directories of those that have no record yet: the new volumes.

        The caller commits their records with the container's; if it fails, what was made is gone again.
        """
        wanted = {mount.source: _for_mount(mount, mount.source in anonymous) for mount in _volumes(mounts)}
        for name in self._leaving.intersection(wanted):
            raise Conflict(f"cannot use volume {name}: it is being removed with its container")
        new: list[Volume] = []
        made: list[str] = []
        with self._hold(wanted):
            try:
                for name, volume in wanted.items():
                    async with self._turns.of(name):
                        if name in self.records.volumes:
                            continue
                        new.append(_checked(volume))
                        if await self._disk.run(self.places.make, name, volume.quota):
                            made.append(name)
                yield tuple(new)
            except BaseException:
                self._unmake(made)
                raise

    async def fill(self, mounts: Sequence[Mount], new: Iterable[Volume], lower: Sequence[str]) -> None:
        """Copy what the image has at a mount's target into a volume that is empty. Raises Internal and its like."""
        records = {volume.name: volume for volume in new}
        for mount in _volumes(mounts):
            volume = records.get(mount.source) or self.records.volumes.get(mount.source)
            if mount.no_copy or mount.subpath or volume is None or volume.is_mounted or volume.bound_directory:
                continue
            async with self._turns.of(volume.name):
                in_place = self._runs_with(volume.name)
                await self._disk.run(fill, self.places, volume.name, lower, mount.target, in_place=in_place)

    @contextlib.asynccontextmanager
    async def used_by(self, container: Container) -> AsyncIterator[None]:
        """Hold a container's volumes while it is being started, and mount those that must be mounted."""
        if not container.spec.mounts:
            yield
            return
        with self._hold(_names(container.spec.mounts)):
            try:
                for volume in self._mounted(container):
                    async with self._turns.of(volume.name):
                        await self.mounting.mount(volume, self.places.data(volume.name))
                yield
            except BaseException:
                await self.let_go(container, held=1)
                raise

    async def let_go(self, container: Container, *, held: int = 0) -> None:
        """After a run: unmount what no other running container uses. What fails is left to the next recovery."""
        for volume in self._mounted(container):
            async with self._turns.of(volume.name):
                if self._held[volume.name] > held or self._runs_with(volume.name, but=container.id):
                    continue
                try:
                    await self.mounting.unmount(self.places.data(volume.name))
                except BulkheadError as error:
                    log.warning("cannot unmount a volume", volume=volume.name, reason=str(error))

    def sources(self, mounts: Sequence[Mount]) -> dict[str, str]:
        """The host's path of each volume, by target. Blocks.

        Raises Internal when a directory is gone, InvalidArgument for a subpath that leads nowhere.
        """
        return {mount.target: self._source(mount) for mount in _volumes(mounts)}

    def writable(self, mounts: Sequence[Mount]) -> tuple[Mount, ...]:
        """The mounts with what their volumes' own options say: some nobody may write to."""
        return tuple(replace(mount, read_only=mount.read_only or self._is_read_only(mount)) for mount in mounts)

    def own(self, mounts: Sequence[Mount]) -> frozenset[str]:
        """The targets whose volumes are directories of the engine's, not the host's or another file system."""
        found = ((mount.target, self.records.volumes.get(mount.source)) for mount in _volumes(mounts))
        return frozenset(
            target for target, volume in found if volume is None or not (volume.is_mounted or volume.bound_directory)
        )

    async def discard(self, names: Sequence[str]) -> None:
        """Remove volumes: records first, then directories. Nobody may use them."""
        gone = [self.records.volumes[name] for name in names if name in self.records.volumes]
        if gone:
            events = tuple(announcements.of_volume(volume, "destroy") for volume in gone)
            await self.records.commit(Change(drop_volumes=_of(gone), events=events), durable=True)
            failpoints.hit("manager.volume.marked")
            await self.clear(_of(gone))

    async def clear(self, names: Sequence[str]) -> None:
        """Throw away the directories of volumes whose records are marked removed, then the marks."""
        for name in names:
            with contextlib.suppress(BulkheadError):
                await self.mounting.unmount(self.places.data(name))
            self.places.remove(name)
            failpoints.hit("manager.volume.thrown")
        await self.records.commit(Change(forget_volumes=tuple(names)))

    @contextlib.asynccontextmanager
    async def leaving(self, container: Container) -> AsyncIterator[tuple[str, ...]]:
        """The container's anonymous volumes that nobody else uses; nobody can begin to use them meanwhile.

        Containers that share some are asked one after the other: of those that leave at once the last takes them along.
        """
        async with contextlib.AsyncExitStack() as turns:
            for name in sorted(container.anonymous_volumes):
                await turns.enter_async_context(self._turns.of(name))
            gone = self._only_of(container)
            self._leaving.update(gone)
            try:
                yield gone
            finally:
                self._leaving.difference_update(gone)

    def _only_of(self, container: Container) -> tuple[str, ...]:
        known = (name for name in container.anonymous_volumes if name in self.records.volumes)
        return tuple(name for name in known if not self._held[name] and not self._others_use(name, container.id))

    def _others_use(self, name: str, but: str) -> bool:
        return any(each.id != but for each in self.users(name))

    async def recover(self) -> None:
        """Once, before serving: finish removals, take on directories without a record, unmount what nobody uses."""
        await asyncio.to_thread(self.places.sweep)
        if self.records.removed_volumes:
            await self.clear(self.records.removed_volumes)
        unknown = [name for name in await asyncio.to_thread(self.places.names) if name not in self.records.volumes]
        if unknown:
            log.warning("volumes without a record are taken on", volumes=unknown)
            now = time.time_ns()
            await self.records.commit(Change(volumes=tuple(Volume(name=name, created_at=now) for name in unknown)))
        used = [self.places.data(name) for name in self.records.volumes if self._runs_with(name)]
        await self.mounting.reconcile(self.places.root, used)

    # ---- inside ----

    @contextlib.contextmanager
    def _hold(self, names: Iterable[str]) -> Iterator[None]:
        held = list(dict.fromkeys(names))
        self._held.update(held)
        try:
            yield
        finally:
            self._held.subtract(held)
            for name in held:
                if not self._held[name]:
                    del self._held[name]

    def _unmake(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.records.volumes:
                with contextlib.suppress(BulkheadError):
                    self.places.remove(name)

    def _runs_with(self, name: str, but: str = "") -> bool:
        return any(each.phase.alive and each.id != but for each in self.users(name))

    def _mounted(self, container: Container) -> list[Volume]:
        found = (self.records.volumes.get(name) for name in dict.fromkeys(_names(container.spec.mounts)))
        return [volume for volume in found if volume is not None and volume.is_mounted]

    def _is_read_only(self, mount: Mount) -> bool:
        volume = self.records.volumes.get(mount.source) if mount.type == "volume" else None
        return volume is not None and volume.is_bound_read_only

    def _source(self, mount: Mount) -> str:
        volume = self.records.volumes.get(mount.source)
        if volume is not None and volume.bound_directory:
            place = volume.bound_directory
            if not os.path.lexists(place):
                raise missing(volume, self.places.data(mount.source))
        else:
            self.places.make(mount.source, volume.quota if volume else 0)
            place = str(self.places.data(mount.source))
        if mount.subpath:
            _check_subpath(place, mount)
        return place


def _check_subpath(place: str, mount: Mount) -> None:
    """It exists and lies in the volume, for now: what is mounted is opened by the launcher."""
    try:
        root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(resolve.open_in_root(root, mount.subpath, os.O_PATH))
        finally:
            os.close(root)
    except OSError as error:
        raise InvalidArgument(
            f"cannot access subpath {mount.subpath!r} of volume {mount.source}: {(error.strerror or '').lower()}"
        ) from error


def _checked(wanted: Volume) -> Volume:
    anonymous = not wanted.name
    name = new_id() if anonymous else check_name(wanted.name)
    check_options(name, wanted.options)
    return Volume(
        name=name,
        driver=check_driver(name, wanted.driver),
        labels={**wanted.labels, ANONYMOUS_LABEL: ""} if anonymous else wanted.labels,
        options=wanted.options,
        created_at=wanted.created_at or time.time_ns(),
    )


def _for_mount(mount: Mount, anonymous: bool) -> Volume:
    labels = {**mount.volume_labels, ANONYMOUS_LABEL: ""} if anonymous else mount.volume_labels
    return Volume(name=mount.source, driver=mount.volume_driver, labels=labels, options=mount.volume_options)


def _volumes(mounts: Iterable[Mount]) -> list[Mount]:
    return [mount for mount in mounts if mount.type == "volume"]


def _names(mounts: Iterable[Mount]) -> list[str]:
    return [mount.source for mount in _volumes(mounts)]


def _of(volumes: Iterable[Volume]) -> tuple[str, ...]:
    return tuple(volume.name for volume in volumes)
