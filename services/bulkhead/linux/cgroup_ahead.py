"""A container's cgroup before there is the container: made, and open for who is to be born in it."""

from __future__ import annotations

import contextlib
import os

from bulkhead.linux.cgroup_mounts import Hierarchies
from bulkhead.linux.cgroups import Cgroup


class GroupAhead(Cgroup):
    """A group like any other, but that `make` may do in advance what `create`, `open_unified` and `open_tasks` do."""

    __slots__ = ("_tasks", "_unified")

    def __init__(self, path: str, mounted: Hierarchies | None = None) -> None:
        super().__init__(path, mounted)
        self._unified, self._tasks = -1, list[int]()

    def make(self) -> None:
        """Raises OSError, FileExistsError when there are members; what is there then was there before."""
        super().create()
        try:
            self._unified = super().open_unified()
            self._tasks = super().open_tasks()
        except OSError:
            with contextlib.suppress(OSError):
                self.remove()
            raise

    def create(self, *, tolerant: bool = False, occupied: bool = False) -> None:
        """As ever where nothing was made ahead, or somebody has taken it away since."""
        if self._is_open and all(map(os.path.isdir, self._directories.values())):
            return
        self._close()
        super().create(tolerant=tolerant, occupied=occupied)

    def open_unified(self) -> int:
        descriptor, self._unified = self._unified, -1
        return descriptor if descriptor >= 0 else super().open_unified()

    def open_tasks(self) -> list[int]:
        descriptors, self._tasks = self._tasks, []
        return descriptors or super().open_tasks()

    def remove(self) -> None:
        self._close()
        super().remove()

    @property
    def _is_open(self) -> bool:
        return self._unified >= 0 or bool(self._tasks)

    def _close(self) -> None:
        for descriptor in (self._unified, *self._tasks):
            if descriptor >= 0:
                os.close(descriptor)
        self._unified, self._tasks = -1, []
