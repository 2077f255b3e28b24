"""A tar unpacked into a directory of a container, as `docker cp` and Docker's PUT archive do it.

Ways are resolved below the container's root, symlinks and all; the last component is never followed. What is in the
way is replaced, directories are kept, `.wh.` names mean nothing.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Sequence
from typing import NamedTuple

from bulkhead.content.layers import set_xattrs
from bulkhead.content.tarstream import Entry, TarStream, refused_entry, safe_path
from bulkhead.errors import InvalidArgument
from bulkhead.linux import idmap, resolve

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES = {b"3": stat.S_IFCHR, b"4": stat.S_IFBLK, b"6": stat.S_IFIFO}


class Target(NamedTuple):
    """Where to: `path` is that of the directory below `root`, without a slash at its end."""

    root: int
    path: str
    keep_kinds: bool
    """A directory is not replaced by something else, nor the other way round."""
    owner: tuple[int, int] | None
    """Whose everything becomes; None takes the archive's word."""
    uids: Sequence[idmap.Mapping] = ()
    gids: Sequence[idmap.Mapping] = ()
    """Whom of the host the container's users are, if they are others."""


class CopyIn:
    """Unpacks one archive. The process's umask must be 0."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._times: list[tuple[str, str, int]] = []
        self._last = ("", -1)

    def apply(self, tar: TarStream) -> None:
        """Everything in `tar`. Raises InvalidArgument for what cannot be, OSError for the kernel's refusals."""
        for entry in tar.entries():
            path = _path(entry.name)
            if path:
                parent, _, base = path.rpartition("/")
                self._make(entry, self._parent(parent), parent, base, tar)
        for parent, base, mtime in reversed(self._times):
            os.utime(base, ns=(mtime, mtime), dir_fd=self._parent(parent), follow_symlinks=False)

    def _make(self, entry: Entry, directory: int, parent: str, base: str, tar: TarStream) -> None:
        there = self._clear(entry, directory, base)
        if entry.kind == b"5":
            if not there:
                os.mkdir(base, 0o700, dir_fd=directory)
            self._times.append((parent, base, entry.mtime_ns))
            self._describe(entry, os.open(base, _DIRECTORY, dir_fd=directory))
        elif entry.kind == b"0":
            fd = os.open(base, _CREATE, 0o600, dir_fd=directory)
            try:
                tar.pour(fd)
            except BaseException:
                os.close(fd)
                raise
            self._describe(entry, fd)
        else:
            self._make_special(entry, directory, base)

    def _make_special(self, entry: Entry, directory: int, base: str) -> None:
        if entry.kind == b"1":
            self._link(entry, directory, base)
            return
        if entry.kind == b"2":
            os.symlink(entry.linkname, base, dir_fd=directory)
        else:
            number = os.makedev(entry.major, entry.minor) if entry.kind in b"34" else 0
            os.mknod(base, _NODES[entry.kind] | (entry.mode & 0o777), number, dir_fd=directory)
        uid, gid = self._owner(entry)
        os.chown(base, uid, gid, dir_fd=directory, follow_symlinks=False)
        os.utime(base, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)

    def _link(self, entry: Entry, directory: int, base: str) -> None:
        """Hard links are named from where the archive is unpacked."""
        parent, _, name = _path(entry.linkname).rpartition("/")
        if not name:
            raise refused_entry("archive", entry.name, "it is a hard link to a directory")
        source = self._open(parent)
        try:
            os.link(name, base, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(source)

    def _describe(self, entry: Entry, fd: int) -> None:
        """Owner first: the kernel takes set-id bits and capabilities away from what changes hands."""
        try:
            os.fchown(fd, *self._owner(entry))
            os.fchmod(fd, entry.mode & 0o7777)
            set_xattrs(fd, entry.xattrs)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _owner(self, entry: Entry) -> tuple[int, int]:
        uid, gid = self._target.owner or (entry.uid, entry.gid)
        return _outside(self._target.uids, uid), _outside(self._target.gids, gid)

    def _clear(self, entry: Entry, directory: int, base: str) -> bool:
        """Make way for an entry; whether there is a directory that it only describes."""
        try:
            found = os.stat(base, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        is_directory, wants_directory = stat.S_ISDIR(found.st_mode), entry.kind == b"5"
        if is_directory and wants_directory:
            return True
        if is_directory != wants_directory and self._target.keep_kinds:
            raise self._refused(entry, is_directory=is_directory)
        if is_directory:
            shutil.rmtree(base, dir_fd=directory)
        else:
            os.unlink(base, dir_fd=directory)
        return False

    def _refused(self, entry: Entry, *, is_directory: bool) -> InvalidArgument:
        there, comes = ("directory", "non-directory") if is_directory else ("non-directory", "directory")
        place = self._target.path or "/"
        name = os.fsdecode(entry.name).rstrip("/").removeprefix("./")
        return InvalidArgument(f'cannot overwrite {there} "{place.rstrip("/")}/{name}" with {comes} "{place}"')

    def _parent(self, parent: str) -> int:
        """The directory of an entry, kept open while the next ones are in it too."""
        if self._last[1] < 0 or self._last[0] != parent:
            fd = self._open(parent)
            if self._last[1] >= 0:
                os.close(self._last[1])
            self._last = (parent, fd)
        return self._last[1]

    def _open(self, parent: str) -> int:
        path = f"{self._target.path}/{parent}".rstrip("/") or "/"
        try:
            return resolve.open_in_root(self._target.root, path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            if not parent:
                raise
        above, _, name = parent.rpartition("/")
        fd = self._open(above)
        try:
            os.mkdir(name, 0o755, dir_fd=fd)
        finally:
            os.close(fd)
        return resolve.open_in_root(self._target.root, path, os.O_RDONLY | os.O_DIRECTORY)


def _outside(mappings: Sequence[idmap.Mapping], inside: int) -> int:
    try:
        return idmap.outside(mappings, inside) if mappings else inside
    except KeyError:
        raise InvalidArgument(f"Container ID {inside} cannot be mapped to a host ID") from None


def _path(name: bytes) -> str:
    """Below where the archive is unpacked, also when the name says "from the root on"."""
    return os.fsdecode(safe_path(name.lstrip(b"/") or b".", "archive"))
