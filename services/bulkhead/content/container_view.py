"""A container's files as one root, built in a process of their own: its root file system, its volumes and binds.

Nothing is mounted where the host or the container could see it. Where a mount goes is found once, by a descriptor that
is kept below the container's root whatever its symlinks say, and the mount is attached to that descriptor: there
is no second look-up that somebody could win (CVE-2026-41568 and its like). Afterwards the process has that root and no
other, without devices and set-id bits; it must import nothing from then on.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from bulkhead.content import confine
from bulkhead.errors import Unavailable
from bulkhead.linux import fsids, hostmounts, idmap, mounts, namespaces, overlay, private_mounts, resolve, syscall

_EMPTY_PATH, _RECURSIVE = 0x1000, 0x8000
_FROM_EMPTY, _TO_EMPTY = 0x04, 0x40
_AT_FDCWD = -100
# For the root of the container's last run to be unmounted (seconds).
UNMOUNT_PATIENCE = 45.0
_SAFE = mounts.NODEV | mounts.NOSUID | mounts.NOEXEC


class Place(NamedTuple):
    """A volume, bind or file of the engine's, and where in the container it is.

    `own`: its files have the container's ids on disk, as the root file system's have.
    """

    source: str
    target: str
    read_only: bool
    recursive: bool
    subpath: str = ""
    own: bool = False
    writable_below: bool = False


class Layers(NamedTuple):
    """The root file system of a container: absolute paths, `lower` topmost first.

    `live` names the mount namespace of one that runs. `scratch` is a directory that is in nobody's way. `uids` and
    `gids` are those of a container that is remapped: in a writable view, files have ids as it sees them from the host.
    """

    lower: Sequence[str]
    upper: str
    work: str
    live: str
    scratch: str
    uids: Sequence[idmap.Mapping] = ()
    gids: Sequence[idmap.Mapping] = ()


def as_root(layers: Layers) -> AbstractContextManager[None]:
    """What this process makes while entered belongs to the container's root. Ends `confine.die_with_parent`."""
    if not layers.uids:
        return contextlib.nullcontext()
    return fsids.owner(idmap.outside(layers.uids, 0), idmap.outside(layers.gids, 0))


def enter(layers: Layers, places: Sequence[Place], *, writable: bool, read_only: bool) -> int:
    """Have the container's files as this process's root; a descriptor of that root. Needs one thread. Raises OSError.

    Without `writable` what is done below it is lost, and the container's own mounts are not touched. `read_only` is a
    root file system that its user wants so.
    """
    confine.leave_mounts()
    with contextlib.ExitStack() as opened:
        users = _users(layers, opened) if writable and layers.uids else None
        attached = list(_clones(places, users, opened))
        root = _mount_root(layers, users, writable=writable)
        with as_root(layers) if writable else contextlib.nullcontext():
            for place, clone in attached:
                _attach(root, place, clone)
        _set(root, _SAFE, recursive=True)
        if read_only:
            _set(root, mounts.RDONLY, recursive=False)
    confine.enter_mount(f"{layers.scratch}/root")
    return root


def _users(layers: Layers, opened: contextlib.ExitStack) -> int:
    users = idmap.namespace(layers.uids, layers.gids)
    opened.callback(os.close, users)
    return users


def _clones(places: Sequence[Place], users: int | None, opened: contextlib.ExitStack) -> Iterator[tuple[Place, int]]:
    """Each source as a mount that is attached nowhere yet; sources that are gone are left out."""
    for place in sorted(places, key=lambda each: each.target.count("/")):
        with contextlib.suppress(FileNotFoundError):
            clone = mounts.clone_below(place.source, place.subpath, recursive=place.recursive)
            opened.callback(os.close, clone)
            if place.own and users is not None:
                mounts.map_ids(clone, users, recursive=False)
            if place.read_only:
                _set(clone, mounts.RDONLY, recursive=not place.writable_below)
            yield place, clone


def _mount_root(layers: Layers, users: int | None, *, writable: bool) -> int:
    live = _clone_live(layers.live) if writable and layers.live else -1
    scratch, root = Path(layers.scratch), Path(layers.scratch, "root")
    hostmounts.mount("tmpfs", "tmpfs", scratch, ("mode=700", "size=64m"))
    for name in ("root", "upper", "work"):
        (scratch / name).mkdir()
    if live >= 0:
        _move(live, _AT_FDCWD, os.fsencode(root), _FROM_EMPTY)
        os.close(live)
    elif writable:
        _await_unmounted(layers)
        overlay.forgive_volatile(layers.work)
        private_mounts.attach(_own_overlay(layers, users), str(root))
    else:
        below = (layers.upper, *layers.lower)
        _resemble(scratch / "upper", Path(layers.upper).stat())
        private_mounts.mount_overlay(str(root), lower=below, upper=f"{scratch}/upper", work=f"{scratch}/work")
    return os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _resemble(directory: Path, other: os.stat_result) -> None:
    """The topmost layer's root is the one that is seen: it must look like the container's."""
    os.chown(directory, other.st_uid, other.st_gid)
    directory.chmod(stat.S_IMODE(other.st_mode))
    os.utime(directory, ns=(other.st_atime_ns, other.st_mtime_ns))


def _await_unmounted(layers: Layers) -> None:
    """The container may have ended a moment ago."""
    try:
        overlay.await_unused(layers.work, UNMOUNT_PATIENCE)
    except TimeoutError as error:
        raise Unavailable("cannot copy: the disk is still writing what the container has left, try again") from error


def _own_overlay(layers: Layers, users: int | None) -> int:
    if users is None:
        return overlay.detached(layers.lower, upper=layers.upper, work=layers.work)
    owner = idmap.outside(layers.uids, 0), idmap.outside(layers.gids, 0)
    return overlay.idmapped(layers.lower, upper=layers.upper, work=layers.work, users=users, owner=owner)


def _clone_live(path: str) -> int:
    """The root file system of a mount namespace, without what is mounted below it."""
    own = namespaces.open_namespace("/proc/self/ns/mnt", namespaces.NEWNS)
    theirs = namespaces.open_namespace(path, namespaces.NEWNS)
    syscall.call("setns", theirs, namespaces.NEWNS)
    try:
        return mounts.clone_tree("/", recursive=False)
    finally:
        syscall.call("setns", own, namespaces.NEWNS)
        os.close(own)
        os.close(theirs)


def _attach(root: int, place: Place, clone: int) -> None:
    directory = stat.S_ISDIR(os.fstat(clone).st_mode)
    try:
        point = mount_point(root, place.target, directory=directory)
    except (NotADirectoryError, FileExistsError):
        return  # the container has something else there by now
    try:
        if stat.S_ISDIR(os.fstat(point).st_mode) == directory:
            _move(clone, point, b"", _FROM_EMPTY | _TO_EMPTY)
    finally:
        os.close(point)


def mount_point(root: int, target: str, *, directory: bool) -> int:
    """A descriptor of `target` below `root`, made with its parents where there is nothing."""
    with contextlib.suppress(FileNotFoundError):
        return resolve.open_in_root(root, target, os.O_PATH)
    parent, _, name = target.rstrip("/").rpartition("/")
    above = mount_point(root, parent, directory=True) if parent else os.dup(root)
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=above)
        else:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644, dir_fd=above))
    finally:
        os.close(above)
    return resolve.open_in_root(root, target, os.O_PATH)


def _move(source: int, directory: int, path: bytes, flags: int) -> None:
    syscall.call("move_mount", source, b"", directory, path, flags)


def _set(mount: int, attributes: int, *, recursive: bool) -> None:
    told = struct.pack("<4Q", attributes, 0, 0, 0)
    flags = _EMPTY_PATH | (_RECURSIVE if recursive else 0)
    syscall.call("mount_setattr", mount, b"", flags, told, len(told))
