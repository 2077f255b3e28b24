"""What is left of a dead shim's container: descriptors that were kept for it, else what its process still holds."""

# ruff: noqa: PTH116, PTH208 -- see linux.atomicfile

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bulkhead.errors import Unavailable
from bulkhead.linux import pidfd, process
from bulkhead.model.losses import Loss, Lost
from bulkhead.shim import custody
from bulkhead.shim.custody import Estate
from bulkhead.shim.exits import TaskRecord
from bulkhead.shim.journal import Journal


@dataclass(frozen=True, slots=True, kw_only=True)
class Legacy:
    """The process's pidfd, -1 when nobody kept it, and its streams by their names in `custody`."""

    pidfd: int
    streams: Mapping[str, int]
    kept: bool = True


def claim(record: TaskRecord, estate: Estate | None, pids: Callable[[], Sequence[int]]) -> Legacy:
    """What there is for the process of `record`, one of `pids`; an estate of another run is closed."""
    if estate is not None and (estate.pid, estate.start_time) == (record.pid, record.start_time):
        found = dict(estate.descriptors)
        return Legacy(pidfd=found.pop(custody.PID, -1), streams=found)
    if estate is not None:
        estate.close()
    return Legacy(pidfd=-1, streams=_reopened(record, pids), kept=False)


def losses(record: TaskRecord, legacy: Legacy) -> tuple[Loss, ...]:
    """What the earlier shim's death has taken: most of it only where nobody kept its descriptors."""
    now = time.time_ns()
    since = last_written(record)
    lost: list[Loss] = []
    if record.log_destination:
        lost.append(Loss(what=Lost.SHIPPED_LOG.value, since=since, until=now))
    if record.log_driver != "none" and not Journal.is_among(legacy.streams):
        lost.append(Loss(what=Lost.LOG.value, since=since, until=now))
    if legacy.kept:
        return tuple(lost)
    if record.terminal:
        lost.append(Loss(what=Lost.TERMINAL.value, since=since))
    elif record.open_stdin:
        lost.append(Loss(what=Lost.STDIN.value, since=since))
    if any(inode and name not in legacy.streams for name, inode in _outputs(record)):
        lost.append(Loss(what=Lost.OUTPUT.value, since=since))
    return tuple(lost)


def execs(streams: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Of the descriptors that were kept, those of execs, by exec and name."""
    found: dict[str, dict[str, int]] = {}
    for name, descriptor in streams.items():
        if name.startswith(custody.EXEC):
            exec_id, _, own = name.removeprefix(custody.EXEC).partition(" ")
            found.setdefault(exec_id, {})[own] = descriptor
    return found


def exit_code(descriptor: int) -> int | None:
    """How a process ended that is not our child, by its pidfd; None when nobody can tell."""
    if descriptor < 0:
        return None
    try:
        status = pidfd.reap(descriptor)
    except ChildProcessError:
        return None
    return None if status is None else status.code


def last_written(record: TaskRecord) -> int:
    """When the log last grew, else when the run began: the earlier shim was well then."""
    try:
        return max(os.stat(record.log_path).st_mtime_ns, record.started_at)
    except (OSError, ValueError):
        return record.started_at


def _outputs(record: TaskRecord) -> zip[tuple[str, int]]:
    return zip((custody.STDOUT, custody.STDERR), record.pipes, strict=False)


def _reopened(record: TaskRecord, pids: Callable[[], Sequence[int]]) -> dict[str, int]:
    """The pipes that the container's processes still write to, opened once more for reading (proc(5), fd)."""
    found: dict[str, int] = {}
    try:
        alive = process.open_verified(record.pid, record.start_time) if record.boot_id == process.boot_id() else None
    except OSError as error:
        raise Unavailable(f"cannot look for process {record.pid}: {error.strerror}") from error
    if alive is None:
        return found
    try:
        wanted = {inode: name for name, inode in _outputs(record) if inode}
        for pid in (record.pid, *pids()):
            for inode, name in tuple(wanted.items()):
                descriptor = _reopen_any(pid, inode)
                if descriptor >= 0:
                    found[name] = descriptor
                    del wanted[inode]
            if not wanted:
                break
    finally:
        os.close(alive)
    return found


def _reopen_any(pid: int, inode: int) -> int:
    """-1 when the process has not got the pipe, under whatever number."""
    try:
        numbers = sorted(os.listdir(f"/proc/{pid}/fd"), key=int)
    except OSError:
        return -1
    for number in numbers:
        with contextlib.suppress(OSError):
            descriptor = _reopen(f"/proc/{pid}/fd/{number}", inode)
            if descriptor >= 0:
                return descriptor
    return -1


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
