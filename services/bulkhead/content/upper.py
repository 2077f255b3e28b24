"""What a container's upper directory says: what was added, changed and deleted over its image.

Overlayfs (Documentation/filesystems/overlayfs.rst) marks a deletion by a 0:0 character device, a replaced directory
by `trusted.overlay.opaque`. Mount points that the engine itself made are no changes of the container's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from enum import Enum
from typing import NamedTuple

from bulkhead.content.treewalk import Visited, is_opaque, names_in, status, walk


class Kind(Enum):
    """As `docker diff` prints them."""

    MODIFIED = "C"
    ADDED = "A"
    DELETED = "D"


class Changed(NamedTuple):
    """One path, from the root on, without a slash at either end."""

    kind: Kind
    path: bytes


class Upper:
    """An upper directory and the merged directories below it, both as descriptors."""

    def __init__(self, upper: int, lower: int, made: Collection[bytes]) -> None:
        """`made` are paths that the engine makes when a container starts, where they are not in the image."""
        self._upper = upper
        self._lower = lower
        self._hidden = _engine_made(upper, lower, made)

    def entries(self) -> Iterator[Visited]:
        """Everything in the upper directory that is the container's doing."""
        return walk(self._upper, self._hidden.__contains__)

    def changes(self) -> Iterator[Changed]:
        """What `docker diff` tells: every change, and before it the directories that it is in."""
        told: set[bytes] = set()
        # Directories whose lower content is hidden: replaced ones, and all that is in those.
        replaced: set[bytes] = set()
        for entry in self.entries():
            kind = self._kind(entry)
            found = [Changed(kind, entry.path)] if kind is not None else []
            if entry.is_directory and (entry.path.rpartition(b"/")[0] in replaced or is_opaque(entry.fd)):
                replaced.add(entry.path)
                found += self._hidden_by(entry)
            for change in found:
                for parent in reversed(list(_parents(change.path))):
                    if parent not in told:
                        told.add(parent)
                        yield Changed(Kind.MODIFIED, parent)
                told.add(change.path)
                yield change

    def _kind(self, entry: Visited) -> Kind | None:
        before = status(self._lower, entry.path)
        if entry.is_whiteout:
            return Kind.DELETED if before is not None else None
        if before is None:
            return Kind.ADDED
        return Kind.MODIFIED if _differ(before, entry.info) else None

    def _hidden_by(self, directory: Visited) -> Iterator[Changed]:
        """What was in a directory that was replaced, and is not in the new one."""
        below = _open_directory(self._lower, directory.path)
        if below < 0:
            return
        try:
            left = set(names_in(directory.fd))
            for name in names_in(below):
                if name not in left:
                    yield Changed(Kind.DELETED, directory.path + b"/" + name)
        finally:
            os.close(below)


def _differ(before: os.stat_result, now: os.stat_result) -> bool:
    """Whether something was changed, as Docker tells: a directory's times follow what is done in it."""
    if (before.st_mode, before.st_uid, before.st_gid) != (now.st_mode, now.st_uid, now.st_gid):
        return True
    if stat.S_ISDIR(now.st_mode):
        return False
    return (before.st_rdev, before.st_size, before.st_mtime_ns) != (now.st_rdev, now.st_size, now.st_mtime_ns)


def _engine_made(upper: int, lower: int, made: Collection[bytes]) -> frozenset[bytes]:
    """Which of `made` are here as the engine makes them: empty, and not in the image. And what held only those."""
    hidden: set[bytes] = set()
    wanted = set(made) | {parent for path in made for parent in _parents(path)}
    # The deepest first: what they are in is empty without them.
    for path in sorted(wanted, key=lambda path: path.count(b"/"), reverse=True):
        info = status(upper, path)
        if info is None:
            continue
        if stat.S_ISDIR(info.st_mode):
            if _is_made_directory(upper, lower, path, info, hidden):
                hidden.add(path)
        elif stat.S_ISREG(info.st_mode) and info.st_size == 0 and status(lower, path) is None:
            hidden.add(path)
    return frozenset(hidden)


def _is_made_directory(upper: int, lower: int, path: bytes, info: os.stat_result, hidden: set[bytes]) -> bool:
    fd = _open_directory(upper, path)
    if fd < 0:
        return False
    try:
        inside = [path + b"/" + name for name in names_in(fd)]
        if is_opaque(fd) or any(each not in hidden for each in inside):
            return False
    finally:
        os.close(fd)
    before = status(lower, path)
    if before is None:
        return True
    # Its time tells that something was made in it; if that was all, nothing else has changed.
    unchanged = before.st_mode == info.st_mode and (before.st_uid, before.st_gid) == (info.st_uid, info.st_gid)
    return unchanged and bool(inside)


def _parents(path: bytes) -> Iterator[bytes]:
    while path := path.rpartition(b"/")[0]:
        yield path


def _open_directory(root: int, path: bytes) -> int:
    """A descriptor of a directory below `root`, -1 when there is none; no link is followed."""
    directory = os.dup(root)
    for name in path.split(b"/"):
        try:
            deeper = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            os.close(directory)
            return -1
        os.close(directory)
        directory = deeper
    return directory
