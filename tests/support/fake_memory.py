"""Cgroups that run out of memory when a test says so."""

from __future__ import annotations

import contextlib
import os
from collections import Counter


class FakeMemory:
    """All groups' counts of kills, and who waits for them."""

    def __init__(self) -> None:
        self._kills: Counter[str] = Counter()
        self.open: dict[str, FakeNotices] = {}

    def notices(self, group: str) -> FakeNotices:
        return FakeNotices(self, group)

    def kill(self, container_id: str, count: int = 1) -> None:
        """The kernel has killed so many in the container's group."""
        self._kills[container_id] += count
        if container_id in self.open:
            self.open[container_id].ring()

    def kills(self, container_id: str) -> int:
        return self._kills[container_id]

    def renew(self, container_id: str) -> None:
        """The next run's group is another one."""
        del self._kills[container_id]


class FakeNotices:
    """`bulkhead.manager.ports.OomNotices`; a group's last part is its container's id."""

    def __init__(self, memory: FakeMemory, group: str) -> None:
        self._memory, self._id = memory, group.rpartition("/")[2]
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        memory.open[self._id] = self

    def ring(self) -> None:
        os.eventfd_write(self._eventfd, 1)

    def fileno(self) -> int:
        return self._eventfd

    def kills(self) -> int:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._eventfd)
        return self._memory.kills(self._id)

    def close(self) -> None:
        del self._memory.open[self._id]
        os.close(self._eventfd)
