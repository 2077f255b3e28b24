"""Use-cases of `docker cp`: what is at a path of a container, its content as a tar, a tar into it.

Reading sees the writable layer, its image and the volumes through a view of its own, and waits for nobody. Writing
into a container that runs goes through its own root file system; one that does not run is mounted for the moment,
in its actor's turn: it cannot be started or removed meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from bulkhead.content import copies
from bulkhead.content.blocking import Blocking
from bulkhead.content.container_view import Layers, Place
from bulkhead.content.copies import PathStat, Wanted
from bulkhead.content.durable import disk_errors
from bulkhead.content.inlets import Inlets
from bulkhead.errors import Conflict, InvalidArgument, LaunchFailed
from bulkhead.linux import detached, resolve
from bulkhead.manager.actors import Actors
from bulkhead.manager.announcements import of_container
from bulkhead.manager.bundles import Bundles
from bulkhead.manager.ports import Change, Dirs, Images, Records, Snapshots
from bulkhead.manager.remapping import mappings
from bulkhead.manager.sharing import pinned
from bulkhead.manager.volumes.catalogue import Volumes
from bulkhead.model.container import Container
from bulkhead.model.lifecycle import Phase
from bulkhead.runtime import accounts

# How long a container that does not run may be filled: it cannot be started meanwhile.
WRITE_SECONDS = 600.0
_LARGEST_ACCOUNTS = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """`keep_kinds`: no directory is replaced by something else, nor the other way round. `as_user`: all that is
    unpacked becomes the container's user's."""

    keep_kinds: bool = False
    as_user: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Archiving:
    """Copies out of and into containers. Each raises NotFound and InvalidArgument with Docker's texts."""

    records: Records
    images: Images
    snapshots: Snapshots
    bundles: Bundles
    volumes: Volumes
    actors: Actors
    blocking: Blocking
    inlets: Inlets
    scratch: Path

    async def look(self, ref: str, path: str) -> PathStat:
        """What is at the path."""
        container = self._present(ref)
        async with self._wanted(container, ref, path) as wanted:
            return await copies.look(wanted, self.blocking)

    async def read(self, ref: str, path: str) -> AsyncGenerator[PathStat | bytes, None]:
        """What is at the path, then its tar."""
        container = self._present(ref)
        async with (
            self._wanted(container, ref, path) as wanted,
            contextlib.aclosing(copies.read(wanted, self.blocking)) as pieces,
        ):
            async for piece in pieces:
                if isinstance(piece, PathStat):
                    await self._announce(container, "archive-path")
                yield piece

    async def fill(self, ref: str, path: str, how: Writing) -> AsyncGenerator[str, None]:
        """Unpack an archive into the directory at the path: says where it is awaited, and ends when it is unpacked.

        Raises Forbidden for a directory that is read-only.
        """
        container = self._present(ref)
        with contextlib.ExitStack() as held:
            with disk_errors("copy"):
                inlet = held.enter_context(self.inlets.opened())
            yield inlet.getsockname()
            if container.phase.alive:
                await self._fill(container, ref, path, how, inlet)
                return
            await self.actors.perform(
                container.id,
                "copy to",
                lambda: self._fill(self._present(container.id), ref, path, how, inlet),
                seconds=WRITE_SECONDS,
            )

    async def _fill(self, container: Container, ref: str, path: str, how: Writing, inlet: socket.socket) -> None:
        async with self._wanted(container, ref, path, how) as wanted:
            await copies.fill(wanted, inlet)
        await self._announce(container, "extract-to-dir")

    async def _announce(self, container: Container, action: str) -> None:
        await self.records.commit(Change(events=(of_container(container, action),)))

    def _present(self, ref: str) -> Container:
        container = self.records.index.find(ref)
        if container.phase in (Phase.REMOVING, Phase.DEAD):
            raise Conflict(f"container {container.id} is marked for removal and cannot be copied from or to")
        return container

    @contextlib.asynccontextmanager
    async def _wanted(
        self, container: Container, ref: str, path: str, how: Writing | None = None
    ) -> AsyncIterator[Wanted]:
        """Everything that the worker needs is there, and stays, while entered."""
        with contextlib.ExitStack() as held:
            held.enter_context(self.images.holding(container.image_id))
            dirs = await self.snapshots.prepare(container.id, container.image_id)
            live = how is not None and container.phase.alive
            layers = Layers(
                lower=dirs.lower,
                upper=dirs.upper,
                work=dirs.work,
                live=held.enter_context(pinned(container, "mnt")) if live else "",
                scratch=str(self.scratch),
                uids=mappings(container.remapping.uids if container.remapping else ()),
                gids=mappings(container.remapping.gids if container.remapping else ()),
            )
            async with self._volumes_of(container):
                yield Wanted(
                    ref=ref,
                    path=path,
                    layers=layers,
                    places=await asyncio.to_thread(self._places, container),
                    read_only=container.spec.read_only_rootfs,
                    keep_kinds=how is not None and how.keep_kinds,
                    owner=await asyncio.to_thread(_owner, container, dirs) if how is not None and how.as_user else None,
                )

    @contextlib.asynccontextmanager
    async def _volumes_of(self, container: Container) -> AsyncIterator[None]:
        """Its volumes are mounted; those of a container that runs are so anyway."""
        async with self.volumes.used_by(container):
            yield
        if not container.phase.alive:
            await self.volumes.let_go(container)

    def _places(self, container: Container) -> tuple[Place, ...]:
        """Blocking: volumes may have to be made."""
        return tuple(self._all_places(container))

    def _all_places(self, container: Container) -> Iterator[Place]:
        mounts = container.spec.mounts
        sources, own = self.volumes.sources(mounts), self.volumes.own(mounts)
        for mount in mounts:
            if mount.type in ("bind", "volume"):
                source = sources.get(mount.target, mount.source)
                recursive, is_own = not mount.non_recursive, mount.target in own
                below = (mount.subpath, is_own, mount.writable_below)
                yield Place(source, mount.target, mount.read_only, recursive, *below)
        taken = {mount.target for mount in mounts}
        for target, source in self.bundles.files_of(container).items():
            if target not in taken:
                yield Place(source, target, container.spec.read_only_rootfs, recursive=False, own=True)


def _owner(container: Container, dirs: Dirs) -> tuple[int, int] | None:
    """The container's user by its own files, None for one without. Blocking."""
    if not container.spec.user:
        return None
    view = detached.tree((dirs.upper, *dirs.lower))
    try:
        found = accounts.resolve(
            container.spec.user, (), lambda path: resolve.read_regular(view, path, _LARGEST_ACCOUNTS)
        )
    except LaunchFailed as error:
        raise InvalidArgument(str(error)) from error
    finally:
        os.close(view)
    return found.uid, found.gid
