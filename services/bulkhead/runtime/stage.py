"""The birth of a stage, the program that becomes a container's process: what it is born in, and what it is given."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass

from bulkhead import nsexec
from bulkhead.errors import BulkheadError, InvalidArgument
from bulkhead.linux import namespaces
from bulkhead.linux.cgroup_freezer import says_frozen
from bulkhead.linux.cgroups import Cgroup
from bulkhead.nsexec import STEPS, Launch, Report, ReportKind, SpawnError
from bulkhead.nsexec.plan import Encoded, Flag, Plan
from bulkhead.runtime.failures import Occasion, launch_failed
from bulkhead.runtime.rootfs import StdioFds

# Plain numbers: the enumeration asks, of each sum of flags, which member that is.
_TERMINAL = int(Flag.TERMINAL)
# Of a file that says whether processes are stopped.
_STATE_BYTES = 4096
_NULL_FLAGS = (int(Flag.NULL_STDIN), int(Flag.NULL_STDOUT), int(Flag.NULL_STDERR))


@dataclass(frozen=True, slots=True)
class Network:
    """The network namespace of a container that wants a new one, made before; -1: none was. When it is `settled`, all
    the container gets is in it, and no other will do."""

    descriptor: int = -1
    settled: bool = False


NO_NETWORK = Network()


@dataclass(frozen=True, slots=True)
class Spaces:
    """The namespaces of a birth: CLONE_NEW* for those that are made, and a network namespace that was made before."""

    made: int = 0
    network: int = -1


def spaces_of(wanted: int, network: Network) -> Spaces:
    """A user namespace owns those that are made with it, so one that was made before would be another's."""
    if network.descriptor >= 0 and wanted & namespaces.NEWNET and not wanted & namespaces.NEWUSER:
        return Spaces(wanted & ~namespaces.NEWNET, network.descriptor)
    if network.settled:
        raise InvalidArgument("cannot create the container: it does not take the network namespace made for it")
    return Spaces(wanted)


class Entrance:
    """What leads into a container's groups: the v2 group to be born in, or -1, and the `tasks` of v1 groups to join.
    With a /dev/null for the way. Open for as long as anybody holds this."""

    __slots__ = ("_cgroup", "_freezer", "_opened", "group", "null", "tasks")

    def __init__(self, cgroup: Cgroup | None) -> None:
        """Raises OSError."""
        self._opened: list[int] = []
        self._cgroup = cgroup
        self._freezer = -1
        self.null = self._kept(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
        self.group, self.tasks = -1, list[int]()
        if cgroup is not None:
            group = cgroup.open_unified()
            self.group = group if group < 0 else self._kept(group)
            self.tasks = [self._kept(descriptor) for descriptor in cgroup.open_tasks()]

    def is_frozen(self) -> bool:
        """Whether who joins would be stopped; False for groups that are gone or cannot be stopped."""
        if self._cgroup is None:
            return False
        try:
            if self._freezer < 0:
                self._freezer = self._kept(self._cgroup.open_freezer())
            return says_frozen(os.pread(self._freezer, _STATE_BYTES, 0))
        except OSError:
            return False

    def _kept(self, descriptor: int) -> int:
        self._opened.append(descriptor)
        return descriptor

    def __del__(self) -> None:
        for descriptor in self._opened:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Outfit:
    """What a stage is given: its plan, the v2 group to be born in, standard descriptors, the v1 groups to join."""

    plan: bytes
    group: int
    stdio: tuple[int, int, int]
    tasks: list[int]


def outfit_of(plan: Plan | Encoded, entrance: Entrance, stdio: StdioFds, more: int = 0) -> Outfit:
    """A standard descriptor that is absent becomes the container's /dev/null inside."""
    null = entrance.null
    terminal = int(plan.flags) & _TERMINAL
    given = (-1, -1, -1) if terminal else (stdio.stdin, stdio.stdout, stdio.stderr)
    nulls = 0 if terminal else _nulls(*(fd < 0 for fd in given))
    first, second, third = (null if fd < 0 else fd for fd in given)
    try:
        data = plan.encode(nulls | more)
    except ValueError as error:
        raise InvalidArgument(f"cannot create the container: {error}") from error
    return Outfit(data, entrance.group, (first, second, third), entrance.tasks)


@functools.cache
def _nulls(*absent: bool) -> int:
    """What the stage opens itself of stdin, stdout and stderr."""
    return sum(flag for is_absent, flag in zip(absent, _NULL_FLAGS, strict=True) if is_absent)


def spawn(
    plan: Plan | Encoded,
    spaces: Spaces,
    cgroup: Cgroup | None,
    stdio: StdioFds,
    extra: Sequence[int],
    occasion: Occasion,
    more: int = 0,
) -> Launch:
    """Start the stage."""
    entrance = Entrance(cgroup)
    outfit = outfit_of(plan, entrance, stdio, more)
    try:
        return nsexec.spawn(
            outfit.plan,
            clone_flags=spaces.made,
            network_fd=spaces.network,
            cgroup_fd=outfit.group,
            stdio=outfit.stdio,
            extra_fds=extra,
            task_fds=outfit.tasks,
        )
    except SpawnError as error:
        raise unspawned(error, occasion) from error


def unspawned(error: SpawnError, occasion: Occasion) -> BulkheadError:
    """What a caller is told when there is no process at all."""
    number, _, step = error.args
    return launch_failed(Report(kind=ReportKind.ERROR, step=STEPS[step], errno=number), occasion)
