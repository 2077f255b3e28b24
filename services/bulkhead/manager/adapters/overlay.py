"""Layers and writable layers as directories of one file system, mounted by others as an overlay.

    <data>/snapshots/                      0700: setuid files of images are out of everybody's reach
        layers/<chain id>/fs               one layer unpacked, in overlay's own form of whiteouts
        layers/<chain id>/size             bytes in it
        containers/<id>/{upper,work}       a container's writable layer
        containers/.spare-<random>/        the same for one to come (`spares`)
        ingest/<random>/fs                 being unpacked; renamed into layers/ when whole
        trash/                             on its way out
        base/                              what lies below every image

A layer's name appears by one rename(2), so what has a name is whole, as long as the machine stays up;
after power loss the records tell which layers were not yet known to be on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO

from bulkhead import failpoints
from bulkhead.content import working_dir
from bulkhead.content.arriving import Arriving
from bulkhead.content.aside import aside
from bulkhead.content.blocking import to_its_end
from bulkhead.content.durable import disk_errors
from bulkhead.content.inflate import Limits
from bulkhead.content.unpack import UnpackResult, sync_file_system, unpack_plain
from bulkhead.errors import BulkheadError, NotFound
from bulkhead.linux.inode_groups import spread_children
from bulkhead.linux.resolve import open_directory_beneath
from bulkhead.manager.adapters.spares import Spares
from bulkhead.manager.adapters.trash import Trash, make_private
from bulkhead.manager.images.ports import Nameless
from bulkhead.manager.ports import Dirs
from bulkhead.manager.tree_sizes import TreeSizes
from bulkhead.model.digest import Digest
from bulkhead.model.instance import SPARE

Told = Callable[[int], None]
# A container's writable layer is there before its record, for so long at most (seconds).
_BEING_CREATED = 600.0
# By which programs tell that they are in a container; Docker puts it into each.
_MARKER = ".dockerenv"
Settled = Callable[[], Awaitable[None]]
# unpack(blob, media type, target, expected diff id, told)
Unpack = Callable[[Digest | Arriving, str, Path, Digest, Told], Awaitable[UnpackResult]]
# image id -> its layers' chain ids, base first. Raises NotFound.
ChainsOf = Callable[[str], tuple[Digest, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayDirs:
    """What an overlay mount is made of: absolute paths; `lower` topmost first."""

    lower: tuple[str, ...]
    upper: str
    work: str


class LayerDirectories:
    """Unpacked layers, by chain id."""

    def __init__(self, root: Path, trash: Trash, unpack: Unpack) -> None:
        self._root = root
        self._trash = trash
        self._unpack = unpack
        self._ingesting: set[str] = set()

    def open(self) -> None:
        """Make the tree, private whatever it was."""
        with disk_errors(f"open {self._root}"):
            for directory in (self._root, self._root / "layers", self._root / "ingest"):
                make_private(directory)
            self._make_base()
            # A pull after a removal would have to step over every inode that the removal freed.
            spread_children(self._root / "ingest")

    def _make_base(self) -> None:
        for directory in (self.base, self.base / "etc"):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o755)
        with contextlib.suppress(FileExistsError):
            (self.base / "etc" / "mtab").symlink_to("/proc/mounts")

    @property
    def base(self) -> Path:
        """What lies below every image, as Docker puts it above: links that programs rely on and few images have."""
        return self._root / "base"

    def path(self, chain: Digest) -> Path:
        """Where a layer's root is, or would be."""
        return _layer(self._root, chain.encoded)

    def size(self, chain: Digest) -> int | None:
        """Bytes of a layer that is here, whole; None when it is not."""
        try:
            return int((self.path(chain).parent / "size").read_text())
        except (FileNotFoundError, ValueError):
            return None

    async def unpack(
        self,
        chain: Digest,
        below: Sequence[Digest],
        blob: Digest | Arriving,
        media_type: str,
        diff_id: Digest,
        told: Told,
        settled: Settled,
    ) -> int:
        """Unpack a layer's blob, which belongs above `below`; bytes of the layer. Nothing is left when that fails."""
        async with self._ingest() as ingest:
            made = await self._filled(ingest, lambda target: self._unpack(blob, media_type, target, diff_id, told))
            await settled()
            await to_its_end(self._finish, made, chain, below)
        self._ingesting.discard(ingest.name)
        return made.size

    async def make(self, source: BinaryIO, limits: Limits) -> Nameless:
        """Unpack the tar that comes through a pipe, which is closed; what comes of it must be kept or dropped.

        Raises as `unpack`.
        """
        async with self._ingest() as ingest:
            return await self._filled(ingest, lambda target: unpack_plain(source, target, limits))

    async def keep(self, layer: Nameless, chain: Digest, below: Sequence[Digest]) -> int:
        """Name a layer that was made, which belongs above `below`; its bytes. If that fails it is to be dropped."""
        await to_its_end(self._finish, layer, chain, below)
        self._ingesting.discard(layer.place.name)
        return layer.size

    async def drop(self, layer: Nameless) -> None:
        """Throw away one that was not kept; nothing happens to one that was."""
        if layer.place.name in self._ingesting:
            self._ingesting.discard(layer.place.name)
            await to_its_end(self._trash.throw, layer.place)

    @contextlib.asynccontextmanager
    async def _ingest(self) -> AsyncIterator[Path]:
        """A place to unpack to; nothing is left of it when that fails."""
        ingest = self._root / "ingest" / secrets.token_hex(12)
        self._ingesting.add(ingest.name)
        try:
            yield ingest
        except BaseException as error:
            try:
                await to_its_end(self._trash.throw, ingest)
            except BulkheadError as left:
                # The next boot sweeps it; what is told is why it failed.
                error.add_note(str(left))
            self._ingesting.discard(ingest.name)
            raise

    async def _filled(self, ingest: Path, fill: Callable[[Path], Awaitable[UnpackResult]]) -> Nameless:
        await to_its_end(self._make_target, ingest / "fs")
        failpoints.hit("manager.layer.begun")
        result = await fill(ingest / "fs")
        failpoints.hit("manager.layer.unpacked")
        return Nameless(place=ingest, size=result.size, diff_id=result.diff_id, implied=result.implied)

    def _finish(self, layer: Nameless, chain: Digest, below: Sequence[Digest]) -> None:
        if layer.implied and below:
            self._inherit(layer.place / "fs", below, layer.implied)
        self._name(layer.place, chain, layer.size)

    async def discard(self, chain: Digest) -> None:
        """Forget a layer. Raises Internal."""
        await to_its_end(self._trash.throw, self.path(chain).parent)
        failpoints.hit("manager.layer.discarded")

    async def sync(self) -> None:
        """Bring everything unpacked so far to the disk: syncfs(2)."""
        await asyncio.to_thread(self._sync)

    def keep_only(self, chains: Collection[Digest]) -> None:
        """Forget every other layer, and what was left half-unpacked."""
        known = {chain.encoded for chain in chains}
        with disk_errors(f"sweep {self._root}"):
            for entry in (self._root / "ingest").iterdir():
                self._trash.throw(entry)
            for entry in (self._root / "layers").iterdir():
                if entry.name not in known:
                    self._trash.throw(entry)

    def strays(self, chains: Collection[Digest]) -> list[str]:
        """What is there beside these layers and those being unpacked, by paths below the root."""
        known = {"layers": {chain.encoded for chain in chains}, "ingest": self._ingesting}
        with disk_errors(f"look at {self._root}"):
            return [
                f"{place}/{entry.name}"
                for place, names in known.items()
                for entry in sorted((self._root / place).iterdir())
                if entry.name not in names
            ]

    def discard_stray(self, name: str) -> None:
        """Forget one of those."""
        self._trash.throw(self._root / name)

    def used_percent(self) -> float:
        """How full the file system is, as df(1) tells: what is reserved for root counts for nobody."""
        with disk_errors(f"look at {self._root}"):
            found = os.statvfs(self._root)
        used = found.f_blocks - found.f_bfree
        return 100.0 * used / max(1, used + found.f_bavail)

    def free_bytes(self) -> int:
        """Space left on the file system."""
        with disk_errors(f"look at {self._root}"):
            found = os.statvfs(self._root)
        return found.f_bavail * found.f_frsize

    def quiet(self) -> AbstractContextManager[None]:
        """Nothing is deleted in the background meanwhile."""
        return self._trash.paused()

    async def emptied(self) -> None:
        """Wait until the space of what was discarded is free."""
        await self._trash.emptied()

    def _make_target(self, target: Path) -> None:
        with disk_errors(f"unpack to {self._root}"):
            target.parent.mkdir(mode=0o700)
            _make_like(target, self.base.stat())

    def _inherit(self, target: Path, below: Sequence[Digest], implied: Sequence[str]) -> None:
        """Directories that the layer passes through but does not describe are as the layers below have them."""
        with disk_errors(f"unpack to {self._root}"), contextlib.ExitStack() as stack:
            lower = [_opened(self.path(chain), stack) for chain in reversed(below)]
            root = _opened(target, stack)
            for path in implied:
                _copy_attributes(path.encode(errors="surrogateescape"), lower, root)

    def _name(self, ingest: Path, chain: Digest, size: int) -> None:
        final = self.path(chain).parent
        with disk_errors(f"store layer {chain}"):
            (ingest / "size").write_text(str(size))
            # A leftover is not ours to trust: no record knew it.
            self._trash.throw(final)
            # Not synced here: until the whole file system was, the records do not trust this layer after a crash.
            failpoints.hit("disk.layer.rename")
            ingest.rename(final)
            failpoints.hit("disk.layer.renamed")

    def _sync(self) -> None:
        with disk_errors(f"sync {self._root}"):
            sync_file_system(self._root)


class OverlaySnapshots:
    """Containers' writable layers above their images' layers."""

    def __init__(self, root: Path, layers: LayerDirectories, chains_of: ChainsOf, trash: Trash) -> None:
        self._root = root / "containers"
        self._layers = layers
        self._chains_of = chains_of
        self._trash = trash
        self._spares = Spares(self._root, trash, _furnish)
        self._sizes = TreeSizes()
        self._after_removal: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Make the tree."""
        with disk_errors(f"open {self._root}"):
            make_private(self._root)
            # New containers come where others have just been removed.
            spread_children(self._root)

    def after_removal(self, call: Callable[[], None]) -> None:
        """Have `call` called whenever a container let go of its image."""
        self._after_removal = call

    async def prepare(self, container_id: str, image_id: str) -> OverlayDirs:
        """Make, or find as it is, a container's writable layer on top of an image.

        Raises NotFound when the image is not here, ResourceExhausted.
        """
        dirs = self.dirs(container_id, image_id)
        if not _are_there(dirs):
            await aside(self.make, container_id, dirs)
        return dirs

    def dirs(self, container_id: str, image_id: str) -> OverlayDirs:
        """Where a container's writable layer on top of an image is, or will be. Raises NotFound without the image."""
        chains = self._chains_of(image_id)
        lower = [*(self._layers.path(chain) for chain in reversed(chains)), self._layers.base]
        own = str(self._directory(container_id))
        return OverlayDirs(lower=tuple(str(path) for path in lower), upper=f"{own}/upper", work=f"{own}/work")

    def make(self, container_id: str, dirs: Dirs) -> None:
        """Make what is not there of those. Blocking: a disk may stand still. Raises ResourceExhausted, Internal."""
        if _are_there(dirs):
            return
        upper, work = Path(dirs.upper), dirs.work
        with disk_errors(f"make writable layer of container {container_id}"):
            like = os.stat(dirs.lower[0])  # noqa: PTH116 -- on the way of each create
            if self._spares.take(upper.parent, partial(_finish, like)):
                return
            for place in (upper.parent, work):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(place, 0o700)  # noqa: PTH102 -- on the way of each create
            if not upper.is_dir():
                _make_like(upper, like, _MARKER)

    async def remove(self, container_id: str) -> None:
        """Forget a container's writable layer, and that it needs its image; nothing happens when there is none."""
        await aside(self.clear, container_id)
        self.let_go()

    def clear(self, container_id: str) -> None:
        """Take away what there is of a writable layer. Blocking: a disk may stand still."""
        self._spares.clear(self._directory(container_id))

    def make_below(self, dirs: Dirs, path: str) -> None:
        """Raises InvalidArgument, ResourceExhausted, Internal. Blocking."""
        working_dir.make(path, lower=dirs.lower, upper=dirs.upper, work=dirs.work)

    def let_go(self) -> None:
        """A container needs its image no longer."""
        self._after_removal()

    async def usage(self, container_id: str) -> int:
        """Bytes in a container's writable layer; hard links count once."""
        return (await self.usages([container_id]))[0]

    async def usages(self, container_ids: Sequence[str]) -> list[int]:
        """The same of each."""
        return await self._sizes.below([self._directory(each) / "upper" for each in container_ids])

    async def recover(self, known_ids: Collection[str]) -> None:
        """Sweep the writable layers of containers that are not in `known_ids`."""
        known = frozenset(known_ids)
        with disk_errors(f"sweep {self._root}"):
            for entry in list(self._root.iterdir()):
                if entry.name not in known:
                    self._trash.throw(entry)

    def strays(self, known_ids: Collection[str]) -> list[str]:
        """Containers that are not known, and yet have a writable layer; those being created just now left out."""
        before = time.time() - _BEING_CREATED
        with disk_errors(f"look at {self._root}"):
            return sorted(
                entry.name
                for entry in os.scandir(self._root)
                if entry.name not in known_ids
                and not entry.name.startswith(SPARE)
                and entry.stat(follow_symlinks=False).st_ctime < before
            )

    def discard_stray(self, container_id: str) -> None:
        """Forget one of those."""
        self._trash.throw(self._root / container_id)

    def _directory(self, container_id: str) -> Path:
        if not container_id or "/" in container_id or container_id.startswith("."):
            raise NotFound(f"No such container: {container_id}")
        return self._root / container_id


def _are_there(dirs: Dirs) -> bool:
    return os.path.isdir(dirs.upper) and os.path.isdir(dirs.work)  # noqa: PTH112 -- on the way of each start


@lru_cache(maxsize=1024)
def _layer(root: Path, chain: str) -> Path:
    """Remembered: each create and start asks for its image's."""
    return root / "layers" / chain / "fs"


def _furnish(directory: int) -> None:
    """Make in a directory what a writable layer consists of, but for what it has of its image."""
    for name in ("work", "upper"):
        os.mkdir(name, 0o700, dir_fd=directory)
    _make_marker(f"upper/{_MARKER}", directory)


def _finish(like: os.stat_result, spare: str) -> None:
    """Give such a layer owner and mode of another's root, and the time of day."""
    upper = f"{spare}/upper"
    os.chown(upper, like.st_uid, like.st_gid)
    os.chmod(upper, like.st_mode & 0o7777)  # noqa: PTH101 -- on the way of each create
    for place in (f"{upper}/{_MARKER}", upper):
        os.utime(place)


def _make_marker(path: str | Path, directory: int | None = None) -> None:
    """An empty file of root's."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o755, dir_fd=directory)
    try:
        os.fchmod(fd, 0o755)
    finally:
        os.close(fd)


def _make_like(directory: Path, like: os.stat_result, *files: str) -> None:
    """Make a directory with the owner and mode of another, and empty files of root's in it."""
    temporary = directory.with_name(f".{directory.name}.new")
    temporary.mkdir(mode=0o700, exist_ok=True)
    for name in files:
        _make_marker(temporary / name)
    os.chown(temporary, like.st_uid, like.st_gid)
    temporary.chmod(like.st_mode & 0o7777)
    temporary.rename(directory)


def _opened(path: Path, stack: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return fd


def _copy_attributes(path: bytes, lower: Sequence[int], root: int) -> None:
    """Owner, mode and times of the topmost lower directory at `path`, if the topmost thing there is one."""
    path = path or b"."
    for layer in lower:
        try:
            fd = open_directory_beneath(layer, path)
        except FileNotFoundError:
            continue
        except OSError:
            # A file or a symlink there is replaced by our directory, whiteouts hide what is further down.
            return
        try:
            like = os.fstat(fd)
        finally:
            os.close(fd)
        mine = open_directory_beneath(root, path)
        try:
            os.fchown(mine, like.st_uid, like.st_gid)
            os.fchmod(mine, like.st_mode & 0o7777)
            os.utime(mine, ns=(like.st_atime_ns, like.st_mtime_ns))
        finally:
            os.close(mine)
        return
