"""Files that are whole or absent: written beside their place, synced, renamed into it.

A `Reserved` file has its disk blocks before it has its content, so that a fact which must be
written later (an exit) cannot fail for want of space. Paths are plain strings where a shim is the
caller: the first use of pathlib costs a forked process a quarter of a megabyte of its own.
"""
# ruff: noqa: PTH104, PTH108, PTH120

from __future__ import annotations

import contextlib
import os

from bulkhead import failpoints

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_PIECE = 64 << 10


def write(
    path: str | os.PathLike[str], content: bytes, *, mode: int = 0o600, durable: bool = True, alone: bool = False
) -> None:
    """Replace `path` by `content`; with `durable` it survives power loss once this returns.

    `alone`: nobody else writes it, so that what a kill in the middle leaves is taken up by the next write.
    Raises OSError, and leaves no temporary file then.
    """
    directory, name = os.path.split(os.fspath(path))
    temporary = _alone(path) if alone else f"{directory}/.{name}.{os.getpid()}.tmp"
    try:
        fd = os.open(temporary, _WRITE | os.O_TRUNC, mode)
        try:
            failpoints.hit("disk.file.write")
            write_all(fd, content)
            if durable:
                failpoints.hit("disk.file.sync")
                os.fsync(fd)
        finally:
            os.close(fd)
        failpoints.hit("disk.file.rename")
        os.rename(temporary, path)
        failpoints.hit("disk.file.renamed")
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_directory(directory)


def remove(path: str | os.PathLike[str], *, durable: bool = True) -> None:
    """Remove `path` if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    if durable:
        sync_directory(os.path.dirname(os.fspath(path)))


def sweep(path: str | os.PathLike[str]) -> None:
    """Take away what a writer that was `alone`, and killed, has left beside `path`."""
    remove(_alone(path), durable=False)


def is_left(path: str | os.PathLike[str]) -> bool:
    """Whether `sweep` has something to do: to ask is never held up by a disk that takes no writes."""
    return os.path.lexists(_alone(path))


def unfinished(name: str) -> str:
    """What a file is called until it is whole, when its writer is `alone`."""
    return f".{name}.tmp"


def _alone(path: str | os.PathLike[str]) -> str:
    directory, name = os.path.split(os.fspath(path))
    return f"{directory}/{unfinished(name)}"


def read(path: str | os.PathLike[str], limit: int) -> bytes:
    """At most `limit` bytes of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # A buffer of the whole limit would be mapped, and moved to what was read, at each file.
        content = piece = os.read(fd, min(limit, _PIECE))
        while piece and len(content) < limit:
            piece = os.read(fd, min(limit - len(content), max(_PIECE, len(content))))
            content += piece
        return content
    finally:
        os.close(fd)


def write_all(fd: int, content: bytes) -> None:
    """write(2) until everything is written."""
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def sync(path: str | os.PathLike[str]) -> None:
    """Make durable what was written there without being so."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(os.path.dirname(os.fspath(path)))


def sync_directory(path: str | os.PathLike[str]) -> None:
    """Make renames and removals in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Reserved:
    """A file whose blocks exist already: `.<name>.reserved` until `commit` renames it to its name."""

    SIZE = 4096

    def __init__(self, directory: str, name: str) -> None:
        self.path = f"{directory}/{name}"
        self._directory = directory
        self._place = f"{directory}/.{name}.reserved"

    def reserve(self, *, mode: int = 0o600) -> None:
        """Take the blocks; OSError (ENOSPC) when the disk has none."""
        fd = os.open(self._place, _WRITE | os.O_TRUNC, mode)
        try:
            failpoints.hit("disk.reserved.allocate")
            os.posix_fallocate(fd, 0, self.SIZE)
        except OSError:
            self.release()
            raise
        finally:
            os.close(fd)

    def commit(self, content: bytes, *, durable: bool = True) -> None:
        """Put `content` (at most SIZE bytes) at the path, without needing new blocks."""
        if len(content) > self.SIZE:
            raise ValueError(f"content of {len(content)} bytes exceeds the reserved {self.SIZE}")
        fd = os.open(self._place, _WRITE, 0o600)
        try:
            write_all(fd, content)
            os.ftruncate(fd, len(content))
            failpoints.hit("disk.reserved.sync")
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(self._place, self.path)
        failpoints.hit("disk.reserved.renamed")
        if durable:
            sync_directory(self._directory)

    def release(self) -> None:
        """Give the blocks back."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._place)
