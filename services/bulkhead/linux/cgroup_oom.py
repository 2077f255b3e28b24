"""Hearing of a cgroup that runs out of memory: v1 by an eventfd, v2 by polling memory.events."""

from __future__ import annotations

import contextlib
import os
import select
from types import TracebackType

from bulkhead.linux.cgroup_files import read_table, write


class OomWatch:
    """A descriptor that becomes ready (`fileno`, epoll `mask`) when the kernel runs out of memory for the group.

    v1's also becomes ready when the group is removed; `kills` is then what was known before.
    """

    __slots__ = ("_directory", "_fd", "_file", "_kills", "mask")

    def __init__(self, directory: str, *, v2: bool) -> None:
        """`directory` holds the memory controller's files of the group. Raises OSError."""
        self._directory, self._kills = directory, 0
        self._file = "memory.events" if v2 else "memory.oom_control"
        self.mask = select.EPOLLPRI if v2 else select.EPOLLIN
        control = os.open(f"{directory}/{self._file}", os.O_RDONLY | os.O_CLOEXEC)
        self._fd = control if v2 else _registered(directory, control)
        self.acknowledge()

    def fileno(self) -> int:
        return self._fd

    def acknowledge(self) -> int:
        """Make the descriptor unready until the next time; how many members the kernel has killed so far."""
        if self.mask == select.EPOLLPRI:
            os.pread(self._fd, 4096, 0)
        else:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._fd)
        self._kills = read_table(self._directory, self._file).get("oom_kill", self._kills)
        return self._kills

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> OomWatch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _registered(directory: str, control: int) -> int:
    """The kernel keeps what it needs of `control`, which is closed."""
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        write(directory, "cgroup.event_control", f"{event} {control}")
    except OSError:
        os.close(event)
        raise
    finally:
        os.close(control)
    return event
