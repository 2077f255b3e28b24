"""Word of a control group that has run out of memory, as a descriptor that an event loop can wait for.

v1 has an eventfd for it, which is told before anybody is killed; v2 lets its `memory.events` be polled, whose readers
hear of more than that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select

from bulkhead.linux.cgroup_files import read_table, write
from bulkhead.linux.cgroups import Cgroup, hierarchies

_PART = 4096


def oom_notices(path: str) -> V1Notices | V2Notices:
    """Those of the group `path`. Raises OSError when there is none."""
    directory = Cgroup(path).directory("memory")
    if directory is None:
        raise OSError(errno.EOPNOTSUPP, "the memory controller is not mounted", path)
    return V2Notices(directory) if hierarchies().is_v2 else V1Notices(directory)


class V1Notices:
    """Of the group in `directory` of the memory hierarchy. Raises OSError."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                write(directory, "cgroup.event_control", f"{self._eventfd} {control}")
            finally:
                os.close(control)
        except OSError:
            os.close(self._eventfd)
            raise

    def fileno(self) -> int:
        """Readable when there may be news."""
        return self._eventfd

    def kills(self) -> int:
        """How many members the kernel has killed by now; what was news before is none any more."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._eventfd)
        return read_table(self._directory, "memory.oom_control").get("oom_kill", 0)

    def close(self) -> None:
        os.close(self._eventfd)


class V2Notices:
    """The same of a group of the unified hierarchy."""

    def __init__(self, directory: str) -> None:
        self._events = os.open(f"{directory}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        # Loops wait for what can be read, and this always can.
        self._epoll = select.epoll()
        self._epoll.register(self._events, select.EPOLLPRI)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def kills(self) -> int:
        """Raises OSError when the group is gone."""
        pairs = (line.split() for line in os.pread(self._events, _PART, 0).decode().splitlines())
        return {name: int(count) for name, count in pairs}.get("oom_kill", 0)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._events)
