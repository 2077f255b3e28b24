"""Cgroups that systemd makes and owns: a transient scope per container, whose inside is delegated to us."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping

from bulkhead.linux import systemd_properties
from bulkhead.linux.cgroup_limits import Resources
from bulkhead.linux.cgroup_mounts import Hierarchies
from bulkhead.linux.cgroups import Cgroup
from bulkhead.linux.systemd import Systemd
from bulkhead.linux.systemd_properties import Scope


class ScopeGroup(Cgroup):
    """A group with a unit. A scope cannot be empty, so a sleeping child holds it from `create` to `settled`."""

    __slots__ = ("_annotations", "_container_id", "_holder", "_scope")

    def __init__(
        self,
        scope: Scope,
        container_id: str,
        annotations: Mapping[str, str] | None = None,
        mounted: Hierarchies | None = None,
    ) -> None:
        super().__init__(scope.group, mounted)
        self._scope, self._container_id, self._holder = scope, container_id, 0
        self._annotations = annotations or {}

    @classmethod
    def found(cls, paths: Mapping[str, str], container_id: str) -> ScopeGroup:
        """The group that another process called `paths`: unit and slice are the ends of its path."""
        plain = Cgroup.at(paths)
        above, _, unit = plain.path.rpartition("/")
        group = cls(Scope(unit=unit, slice=above.rpartition("/")[2] or "-.slice"), container_id)
        group.path, group._directories = plain.path, plain._directories
        return group

    @property
    def unit(self) -> str:
        return self._scope.unit

    def create(self, *, tolerant: bool = False, occupied: bool = False) -> None:
        """Start the unit, then make the group where systemd does not. FileExistsError for a unit that is there."""
        v2 = self._mounted.is_v2
        with Systemd() as manager:
            self._holder = _sleeper()
            try:
                properties = systemd_properties.scope_properties(self._scope, self._container_id, [self._holder], v2=v2)
                manager.start(self.unit, [*properties, *systemd_properties.annotated_properties(self._annotations)])
            except BaseException:
                self.settled()
                raise
        super().create(tolerant=tolerant, occupied=True)

    @property
    def is_held(self) -> bool:
        return self._holder != 0

    def settled(self) -> None:
        """There are members: the sleeper may go."""
        holder, self._holder = self._holder, 0
        if holder:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(holder, 0)

    def remove(self) -> None:
        """Stop the unit; its cgroups go with it, and those that systemd does not know by our hand."""
        self.settled()
        with Systemd() as manager:
            manager.stop(self.unit)
        super().remove()

    def apply_limits(self, resources: Resources) -> None:
        self._tell(resources)
        super().apply_limits(resources)

    def update(self, resources: Resources) -> None:
        """As of any group; systemd is told only what the kernel has taken."""
        super().update(resources)
        self._tell(resources)

    def _tell(self, resources: Resources) -> None:
        with Systemd() as manager:
            v2 = self._mounted.is_v2
            told = systemd_properties.resource_properties(resources, v2=v2, version=manager.version())
            if told:
                manager.set_properties(self.unit, told)


def _sleeper() -> int:
    """A child that does nothing, and nothing of ours: it only must not outlive us."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        os.closerange(0, 1 << 16)
        while os.getppid() == parent:
            signal.sigtimedwait((), 60)
    finally:
        os._exit(0)
