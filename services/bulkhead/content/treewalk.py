"""A tree that somebody may be changing, visited on descriptors: no path is ever resolved, no symlink followed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bulkhead.content.tarstream import MAX_NAME
from bulkhead.errors import InvalidArgument

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A file that became a fifo must not stop us; one that became a device is refused by the view.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
OPAQUE = "trusted.overlay.opaque"


class Visited(NamedTuple):
    """Something in the tree. `fd` is open for directories and regular files only, until the next one is asked for."""

    path: bytes
    """From the root on, without a slash at either end."""
    name: bytes
    parent: int
    info: os.stat_result
    fd: int

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.info.st_mode)

    @property
    def is_whiteout(self) -> bool:
        """Whether it says, in an upper directory, that something below is gone."""
        return stat.S_ISCHR(self.info.st_mode) and self.info.st_rdev == 0


class _Level(NamedTuple):
    fd: int
    path: bytes
    names: Iterator[bytes]


def walk(root: int, is_hidden: Callable[[bytes], bool] = lambda _: False) -> Iterator[Visited]:
    """Everything below the directory `root` but what is hidden, directories before their content, names in order.

    What vanishes meanwhile is left out. Raises OSError, and InvalidArgument for a path that no archive can hold.
    """
    levels = [_Level(root, b"", iter(names_in(root)))]
    try:
        while levels:
            level = levels[-1]
            name = next(level.names, None)
            if name is None:
                levels.pop()
                if level.fd != root:
                    os.close(level.fd)
                continue
            path = level.path + b"/" + name if level.path else name
            if is_hidden(path):
                continue
            if len(path) >= MAX_NAME:
                raise InvalidArgument(f"cannot read tree: a path in it is longer than {MAX_NAME} bytes")
            found = visit(level.fd, name, path)
            if found is None:
                continue
            try:
                yield found
                if found.is_directory:
                    levels.append(_Level(found.fd, path, iter(names_in(found.fd))))
            finally:
                if found.fd >= 0 and not (levels and levels[-1].fd == found.fd):
                    os.close(found.fd)
    finally:
        for level in levels:
            if level.fd != root:
                os.close(level.fd)


def names_in(directory: int) -> list[bytes]:
    """The names in a directory, in the order of their bytes."""
    return sorted(os.fsencode(name) for name in os.listdir(directory))


def status(root: int, path: bytes) -> os.stat_result | None:
    """What is at `path` below `root`, no link on the way followed; None when nothing is."""
    directory = root
    *parents, name = path.split(b"/")
    try:
        for parent in parents:
            deeper = os.open(parent, _DIRECTORY, dir_fd=directory)
            if directory != root:
                os.close(directory)
            directory = deeper
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    finally:
        if directory != root:
            os.close(directory)


def is_opaque(directory: int) -> bool:
    """Whether an upper directory hides everything below it."""
    try:
        return os.getxattr(directory, OPAQUE) == b"y"
    except OSError:
        return False


def visit(parent: int, name: bytes, path: bytes) -> Visited | None:
    """What `name` in the directory `parent` is; its descriptor is the caller's. None when it has just gone."""
    try:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        fd = -1
        if stat.S_ISDIR(info.st_mode):
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        elif stat.S_ISREG(info.st_mode):
            fd = os.open(name, _FILE, dir_fd=parent)
    except OSError as error:
        if error.errno in _VANISHED:
            return None
        raise
    if fd < 0:
        return Visited(path, name, parent, info, fd)
    opened = os.fstat(fd)
    if stat.S_IFMT(opened.st_mode) != stat.S_IFMT(info.st_mode):
        os.close(fd)
        return None
    return Visited(path, name, parent, opened, fd)


# Gone, or replaced by something of another kind, between two looks.
_VANISHED = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.ESTALE})
