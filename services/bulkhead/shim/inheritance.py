"""What is left of a dead shim's container: descriptors that were kept for it, else what its process still holds."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from bulkhead.linux import pidfd, process
from bulkhead.shim import custody
from bulkhead.shim.custody import Estate
from bulkhead.shim.exits import TaskRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Legacy:
    """The process's pidfd, -1 when nobody kept it, and its streams by their names in `custody`."""

    pidfd: int
    streams: Mapping[str, int]


def claim(record: TaskRecord, estate: Estate | None) -> Legacy:
    """What there is for the process of `record`; an estate of another run is closed."""
    if estate is not None and (estate.pid, estate.start_time) == (record.pid, record.start_time):
        found = dict(estate.descriptors)
        return Legacy(pidfd=found.pop(custody.PID, -1), streams=found)
    if estate is not None:
        estate.close()
    return Legacy(pidfd=-1, streams=_reopened(record))


def exit_code(descriptor: int) -> int | None:
    """How a process ended that is not our child, by its pidfd; None when nobody can tell."""
    if descriptor < 0:
        return None
    try:
        status = pidfd.reap(descriptor)
    except ChildProcessError:
        return None
    return None if status is None else status.code


def _reopened(record: TaskRecord) -> dict[str, int]:
    """The pipes that the process still writes to, opened once more for reading (proc(5), fd)."""
    found: dict[str, int] = {}
    alive = process.open_verified(record.pid, record.start_time) if record.boot_id == process.boot_id() else None
    if alive is None:
        return found
    try:
        for number, (name, inode) in enumerate(zip((custody.STDOUT, custody.STDERR), record.pipes, strict=False), 1):
            with contextlib.suppress(OSError):
                descriptor = _reopen(f"/proc/{record.pid}/fd/{number}", inode)
                if descriptor >= 0:
                    found[name] = descriptor
    finally:
        os.close(alive)
    return found


def _reopen(path: str, inode: int) -> int:
    """The reading end; -1 when the process has put something else there. What is opened is what was looked at."""
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        looked = os.fstat(place)
        if not inode or looked.st_ino != inode or not stat.S_ISFIFO(looked.st_mode) or looked.st_dev != _pipe_device():
            return -1
        return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(place)


def _pipe_device() -> int:
    """Where the kernel's own pipes live, and no file that a container could make."""
    ends = os.pipe2(os.O_CLOEXEC)
    try:
        return os.fstat(ends[0]).st_dev
    finally:
        for end in ends:
            os.close(end)
