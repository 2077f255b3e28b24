"""A container's first process, ours by its pidfd: started, joined, reaped; also when another process launched it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bulkhead.errors import Conflict, LaunchFailed, NotFound, Unavailable
from bulkhead.linux import pidfd
from bulkhead.linux.cgroups import Cgroup
from bulkhead.linux.pidfd import ExitStatus
from bulkhead.nsexec import Launch
from bulkhead.runtime import hooks
from bulkhead.runtime.conversation import finish, kill_and_reap
from bulkhead.runtime.failures import CREATE
from bulkhead.runtime.stage import Entrance

Config = Mapping[str, Any]

# With which a stage ends that has come to its program no more (csrc/nsinit/report.c).
_STAGE_GAVE_UP = 125
# A process that has not executed anything has no exit signal: waitid(2) finds it only so.
_WALL = 0x40000000


@dataclass(slots=True, kw_only=True)
class Task:
    """A container's first process. The pidfd is this object's, the console its first taker's."""

    container_id: str
    pid: int
    pidfd: int
    start_time: int
    cgroup: Cgroup
    console: int | None = None
    warnings: tuple[str, ...] = ()
    _launch: Launch | None = field(default=None, repr=False)
    _origin: tuple[Config, str] | None = field(default=None, repr=False)
    # What it has warned of, of a process that was let go on already.
    _gone_on: list[str] | None = field(default=None, repr=False)
    _entrance: Entrance | None = field(default=None, repr=False)

    def start(self) -> None:
        """Let the created process exec; returns when it has and its poststart hooks have run.

        LaunchFailed when it could not or a hook failed, Conflict when there is nothing to start. A process that failed
        is dead and reaped; `reap` still tells how it ended where the kernel remembers (Linux 6.15).
        """
        launch = self._launch
        if launch is None:
            raise Conflict("cannot start an already running container")
        self._launch = None
        config, bundle = self._origin or ({}, "")
        launch.limit(hooks.time_limit(config, "startContainer"))
        try:
            if not finish(launch, self.pidfd, CREATE, self._gone_on):
                raise Conflict("cannot start a container that has stopped")
        finally:
            launch.disconnect()
            self.warnings = (*self.warnings, *(self._gone_on or ()))
        if hooks.wanted(config, "poststart"):
            self._run_poststart(config, bundle)

    def _run_poststart(self, config: Config, bundle: str) -> None:
        state = hooks.state(config, container_id=self.container_id, bundle=bundle, status="running", pid=self.pid)
        try:
            hooks.run(config, "poststart", state)
        except LaunchFailed:
            kill_and_reap(self.pidfd)
            raise

    def go_on(self) -> None:
        """Let it go on to its program when it is there; `start` waits until it is."""
        assert self._launch is not None
        self._gone_on = []
        with contextlib.suppress(BrokenPipeError):  # `start` hears why
            self._launch.proceed()

    @property
    def sync_fd(self) -> int | None:
        """The launch socket of a container that was created and not started: a copy of it keeps it alive."""
        return self._launch.sync_fd if self._launch else None

    def told_by(self, other: Launch) -> Launch | None:
        """Let `start` speak to another, in a rehearsal; the one that the process hears on, which is the caller's."""
        launch, self._launch = self._launch, other
        return launch

    def hold_root(self) -> int:
        """Descriptor (O_PATH) of the mount that is the root, the caller's to close, off the path. Raises OSError.

        The last reference unmounts the overlay, which writes its whole file system to disk: whoever holds one over the
        exit takes that wait from the container's end. All other mounts go with the container still. Before `start`:
        the program may change its root.
        """
        return os.open(f"/proc/{self.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def entrance(self) -> Entrance:
        """To its groups, which it keeps while it lives: however many join them, they are looked up once. OSError."""
        if self._entrance is None:
            self._entrance = Entrance(group_of(self))
        return self._entrance

    def is_frozen(self) -> bool:
        """Whether its processes are stopped."""
        return self.cgroup.is_frozen() if self._entrance is None else self._entrance.is_frozen()

    def rest(self) -> None:
        """Nobody may want to join it for a while: let go of what is open for that."""
        self._entrance = None

    def signal(self, number: int) -> None:
        """ProcessLookupError when it has ended."""
        signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Let go of the descriptors. A container that was never started ends."""
        if self._launch is not None:
            self._launch.disconnect()
            self._launch = None
        self.rest()
        for fd in (self.pidfd, self.console):
            if fd is not None and fd >= 0:
                os.close(fd)
        self.pidfd, self.console = -1, None


def group_of(task: Task) -> Cgroup | None:
    """The cgroup that who joins the container is to be in; None for one that has none."""
    return task.cgroup if os.geteuid() == 0 or task.cgroup.exists() else None


def adopt(*, container_id: str, pid: int, start_time: int, config: Config) -> Task:
    """A container that another process launched, by pid and start time.

    Raises NotFound when it is gone, Unavailable when that cannot be told: it lives, as far as anybody knows.
    """
    gone = NotFound(f"cannot adopt container {container_id}: process {pid} is gone")
    with ExitStack() as undo:
        try:
            fd = pidfd.open_pid(pid)
            undo.callback(os.close, fd)
            if pidfd.start_time(pid) != start_time:
                raise gone
        except ProcessLookupError:
            raise gone from None
        except OSError as error:
            raise Unavailable(f"cannot adopt container {container_id}: {error.strerror}") from error
        undo.pop_all()
    return Task(
        container_id=container_id, pid=pid, pidfd=fd, start_time=start_time, cgroup=cgroup_of(container_id, config)
    )


def cgroup_of(container_id: str, config: Config, *, systemd: bool = False) -> Cgroup:
    """Where the config puts the container; ValueError when that is no cgroup path, or no systemd one if asked so."""
    path = (config.get("linux") or {}).get("cgroupsPath") or ""
    if not systemd:
        return Cgroup(path or f"/{container_id}")
    from bulkhead.linux.cgroup_systemd import ScopeGroup
    from bulkhead.linux.systemd_properties import parse_scope

    scope = parse_scope(path, container_id, rootless=os.geteuid() != 0)
    return ScopeGroup(scope, container_id, config.get("annotations"))


def reap(fd: int) -> ExitStatus | None:
    """Exit status of a process by its pidfd, without waiting; None while it runs. NotFound when it is lost."""
    try:
        return pidfd.reap(fd)
    except ChildProcessError as error:
        raise NotFound(f"cannot reap the process: {error.strerror}") from error


def reaped_or_dead(fd: int) -> bool:
    """Whether the process has ended, without reaping it."""
    try:
        return os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # reaped, or somebody else's child
        return not pidfd.send_signal(fd, 0)


def ended_by_itself(fd: int) -> bool:
    """Whether it was a program that has ended, of its own accord: so no stage does. It is not reaped."""
    info = os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
    return info is not None and info.si_code == os.CLD_EXITED and info.si_status != _STAGE_GAVE_UP
