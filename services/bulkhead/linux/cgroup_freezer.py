"""Stopping all processes of a cgroup: v1's freezer controller, v2's cgroup.freeze.

Blocking, for two seconds at most.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time

from bulkhead.linux.cgroup_files import read, write

_SECONDS = 2.0


STATE_V1, STATE_V2 = "freezer.state", "cgroup.events"


def says_frozen(state: bytes) -> bool:
    """Whether that is what one of those files says of stopped members."""
    return state == b"FROZEN\n" or b"frozen 1" in state


def is_frozen_v1(directory: str) -> bool:
    return says_frozen(read(directory, STATE_V1).encode())


def is_frozen_v2(directory: str) -> bool:
    return says_frozen(read(directory, STATE_V2).encode())


def freeze_v1(directory: str) -> None:
    """FREEZING can last for ever: a process that forks while it is walked, one in the middle of vfork. Writing
    FROZEN again makes the kernel look again, thawing for a moment lets the one that holds up the rest pass."""
    deadline = time.monotonic() + _SECONDS
    try:
        for attempt in range(1, 1001):
            write(directory, "freezer.state", "FROZEN")
            if is_frozen_v1(directory):
                return
            if attempt % 50 == 0:
                write(directory, "freezer.state", "THAWED")
            if time.monotonic() > deadline:
                break
            time.sleep(0.0002 if attempt < 50 else 0.005)
    except OSError:
        thaw_v1(directory)
        raise
    thaw_v1(directory)
    raise _unsettled(directory)


def thaw_v1(directory: str) -> None:
    """At once; a group above that is frozen keeps this one so."""
    with contextlib.suppress(FileNotFoundError):
        write(directory, "freezer.state", "THAWED")


def freeze_v2(directory: str) -> None:
    write(directory, "cgroup.freeze", "1")
    if not _settled(directory, frozen=True):
        thaw_v2(directory)
        raise _unsettled(directory)


def thaw_v2(directory: str) -> None:
    """Waits until the kernel says so; a group above that is frozen keeps this one so."""
    with contextlib.suppress(FileNotFoundError, OSError):
        write(directory, "cgroup.freeze", "0")
        _settled(directory, frozen=False)


def _settled(directory: str, *, frozen: bool) -> bool:
    """cgroup.events tells of every change to whoever polls it."""
    fd = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        watch = select.poll()
        watch.register(fd, select.POLLPRI)
        deadline = time.monotonic() + _SECONDS
        while (b"frozen 1" in os.pread(fd, 4096, 0)) != frozen:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            watch.poll(min(left, 0.1) * 1000)
        return True
    finally:
        os.close(fd)


def _unsettled(directory: str) -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, "the freezer does not settle", directory)
