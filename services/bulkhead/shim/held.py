"""The mount of a container's root, held over the container's end and let go of when nobody waits.

Who drops the last reference to an overlay unmounts it, and that writes to disk whatever is dirty in the file system of
its upper directory: a millisecond on an idle host, seconds on one that writes much. Left to the container's namespace
it is the dying process that does so, and nobody hears of its end before. So the shim keeps a reference of its own, and
drops it when it has left the container. If it is killed the kernel does that, as without it.

Until then the directories are in use, and must not be mounted again: the lock on the work directory says so.
"""

from __future__ import annotations

import contextlib
import os

from bulkhead.linux import overlay
from bulkhead.shim.ports import Rootfs, Task


class HeldRoot:
    """The reference, and the lock while nothing else of the container is left."""

    __slots__ = ("_lock", "_mount", "_work")

    def __init__(self) -> None:
        self._mount = self._lock = -1
        self._work = ""

    @property
    def is_held(self) -> bool:
        return self._mount >= 0

    def take(self, task: Task, rootfs: Rootfs) -> None:
        """Of a task that waits for its start. Where it cannot be had, the container's end takes as long as it takes."""
        if rootfs.volatile:
            # Nothing is written for it.
            return
        with contextlib.suppress(OSError):
            self._mount = task.hold_root()
            self._work = rootfs.work

    def keep(self, mount: int, rootfs: Rootfs | None) -> None:
        """The same, of one that goes on to its start: `mount`, ours from now on, is a reference, or -1."""
        if rootfs is not None and not rootfs.volatile:
            self._mount, self._work = mount, rootfs.work
        elif mount >= 0:
            os.close(mount)

    def outlive(self) -> None:
        """The container has ended: who mounts its directories again has to wait from now on."""
        if self._mount >= 0:
            with contextlib.suppress(OSError):
                self._lock = overlay.lock_in_use(self._work)

    def close_all_others(self) -> None:
        """Of this process's descriptors, before it ends. By its end all would be closed, and then unmounted: the lock
        would go before the mount."""
        first, last = sorted((self._mount, self._lock))
        os.closerange(0, first)
        os.closerange(first + 1, last)
        os.closerange(last + 1, os.sysconf("SC_OPEN_MAX"))

    def drop(self) -> None:
        """Unmount, if nobody else holds it. Blocking, for as long as the disk takes."""
        # In this order: an unmounted overlay is in nobody's way.
        for descriptor in (self._mount, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._mount = self._lock = -1
