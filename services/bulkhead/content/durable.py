"""Files that survive power loss whole or not at all, and the kernel's refusals in our vocabulary."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bulkhead import failpoints
from bulkhead.errors import BulkheadError, Conflict, Internal, ResourceExhausted
from bulkhead.model.refusals import reason

_LIBC = ctypes.CDLL(None)
_SYNC_FILE_RANGE_WRITE = 2
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


@contextmanager
def disk_errors(action: str) -> Iterator[None]:
    """Translate OSError into "cannot <action>: <reason>": ResourceExhausted when something ran out."""
    try:
        yield
    except OSError as error:
        raise translated(error, action) from error


def translated(error: OSError, action: str) -> BulkheadError:
    """The error of our vocabulary that says what `error` says."""
    kind = ResourceExhausted if error.errno in _FULL else Internal
    return kind(f"cannot {action}: {reason(error, full='remove what is unused').lower()}")


def write_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data`: a temporary beside it, fsync, rename, fsync of the directory. Raises OSError."""
    # A dot and a random part: readers of the directory skip it, two writers do not meet in it.
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            failpoints.hit("disk.blob.write")
            write_all(fd, data)
            failpoints.hit("disk.blob.sync")
            os.fsync(fd)
        finally:
            os.close(fd)
        failpoints.hit("disk.blob.rename")
        temporary.rename(path)
        failpoints.hit("disk.blob.renamed")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """write(2) until nothing is left. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def start_writeback(fd: int, offset: int, length: int) -> None:
    """Have the kernel begin to write a part of a file to the disk, so that a later fdatasync(2) has less to wait for.

    A hint: its failure is of no consequence. See sync_file_range(2).
    """
    _LIBC.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive power loss. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        failpoints.hit("disk.directory.sync")
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directories(path: Path, *, mode: int = 0o700) -> None:
    """mkdir -p in which each new directory's name is on disk before the next is made. Raises OSError."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=mode, exist_ok=True)
        sync_directory(directory.parent)


def take_lock(path: Path, refusal: str) -> int:
    """Lock the file at `path`, made when it is not there; a descriptor that the kernel unlocks with its process.

    Raises Conflict with `refusal` when another process has it, OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise Conflict(refusal) from None
    return fd
