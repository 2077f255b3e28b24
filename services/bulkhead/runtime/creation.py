"""Containers are created: everything is done but exec, or all of it undone."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from bulkhead.errors import Conflict, Internal, InvalidArgument
from bulkhead.linux import overlay, pidfd
from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.nsexec import Report, ReportKind
from bulkhead.nsexec.plan import Encoded, Flag, Plan
from bulkhead.runtime import answers, hooks, luggage, translate, validate
from bulkhead.runtime.conversation import Conversation, Trace
from bulkhead.runtime.failures import CREATE, launch_failed
from bulkhead.runtime.planned import Planned
from bulkhead.runtime.rootfs import OverlayRootfs, StdioFds
from bulkhead.runtime.stage import NO_NETWORK, Network, Spaces, spaces_of, spawn
from bulkhead.runtime.task import Task, cgroup_of

Config = Mapping[str, Any]
# Told of a container's process as soon as it is known, while that builds itself; what it raises ends the launch.
Begun = Callable[[Task], None]
# Told of it once more when it has its mounts and limits, with a descriptor of its root (-1: none), the taker's. From
# then on it goes on to its program, unless this raises.
Go = Callable[[Task, int], None]

# Plain numbers: the enumeration asks, of each sum of flags, which member that is.
_FORK_EARLY, _GO_ON = int(Flag.FORK_EARLY), int(Flag.GO_ON)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """What a caller bears: members that the cgroup has already (`shares_cgroup`), no cgroup at all where none can be
    made and no limit is asked for (`rootless`; None: as an ordinary user only). `trace` hears of every step."""

    shares_cgroup: bool = False
    rootless: bool | None = None
    trace: Trace | None = None


def _ignored(_task: Task) -> None:
    """Nobody wants to hear of it."""


def create(
    *,
    container_id: str,
    config: Config,
    rootfs: OverlayRootfs | None = None,
    stdio: StdioFds,
    systemd: bool = False,
    bundle: str = "",
    exec_fifo: str | None = None,
    preserve_fds: int = 0,
    no_pivot: bool = False,
    new_keyring: bool = True,
    manner: Manner = Manner(),
    network: Network = NO_NETWORK,
) -> Task:
    """A container with everything done but exec.

    With `exec_fifo`, the path of a FIFO, it outlives this process and execs once somebody reads a byte from it (then
    `Task.start` has nothing to do, and what fails is told on the container's stderr). `preserve_fds` descriptors from
    3 on are the payload's as well. A relative root.path is one of `bundle`. A new network namespace is `network`, if
    there is one.

    InvalidArgument for a config that this runtime refuses, LaunchFailed when the kernel or a hook does,
    DeadlineExceeded when nothing comes of it; then neither process nor cgroup nor descriptor is left.
    """
    config = translate.resolved(config, bundle)
    validate.container(container_id, config, rootfs)
    cgroup = _group(container_id, config, systemd)
    plan = translate.container_plan(config, rootfs, cgroup, hierarchies())
    plan = translate.in_manner(
        plan, fifo=exec_fifo is not None, preserved=preserve_fds, no_pivot=no_pivot, keyring=new_keyring
    )
    plan = translate.with_hooks(plan, config, container_id, bundle)
    if rootfs is not None and rootfs.volatile:
        overlay.forgive_volatile(rootfs.work)
    with ExitStack() as undo:
        birth = _Birth(container_id, config, bundle, cgroup, undo, manner)
        with ExitStack() as temporary:
            came = luggage.pack(
                plan, config, rootfs, stdio, exec_fifo=exec_fifo, preserve_fds=preserve_fds, stack=temporary
            )
            birth.begin(plan, spaces_of(translate.clone_flags(config), network), stdio, came)
        birth.until_ready(plan)
        left_out = (*translate.warnings(config["process"]), *translate.unknown_calls(config))
        task = birth.task(left_out, parked=exec_fifo is None)
        undo.pop_all()
    return task


def create_planned(
    *,
    container_id: str,
    planned: Planned,
    rootfs: OverlayRootfs | None,
    stdio: StdioFds,
    group: Callable[[str], Cgroup] = Cgroup,
    network: Network = NO_NETWORK,
    begun: Begun = _ignored,
    go: Go | None = None,
) -> Task:
    """The same, for a launch that was worked out before; `group` makes its cgroup of the path. `begun` hears of the
    task before it has its console and its warnings. With `go` it is not parked, where that can be done without.

    Raises what `create` raises.
    """
    if rootfs is not None and rootfs.volatile:
        overlay.forgive_volatile(rootfs.work)
    config = {"linux": {"resources": planned.resources}}
    with ExitStack() as undo:
        birth = _Birth(container_id, config, "", group(planned.cgroup), undo, Manner())
        go = None if planned.plan.flags & _FORK_EARLY else go
        spaces = spaces_of(planned.clone_flags, network)
        birth.begin(planned.plan, spaces, stdio, (), 0 if go is None else _GO_ON)
        if go is None:
            task = birth.raised(planned.plan, planned.warnings, begun)
        else:
            task = birth.let_go(planned.warnings, begun, go)
        undo.pop_all()
    return task


def _group(container_id: str, config: Config, systemd: bool) -> Cgroup:
    try:
        return cgroup_of(container_id, config, systemd=systemd)
    except ValueError as error:
        raise InvalidArgument(f"cannot create the container: {error}") from error


class _Birth:
    """A container on its way: its group, its stage, and the hooks that are due at each turn."""

    def __init__(
        self, container_id: str, config: Config, bundle: str, cgroup: Cgroup, undo: ExitStack, manner: Manner
    ) -> None:
        self._id = container_id
        self._config = config
        self._bundle = bundle
        self._cgroup = cgroup
        self._undo = undo
        self._manner = manner
        self._conversation: Conversation
        self._placed = False
        self._hooks_begun = False
        undo.callback(self._run_poststop)

    def begin(
        self,
        plan: Plan | Encoded,
        spaces: Spaces,
        stdio: StdioFds,
        came: Sequence[int],
        more: int = 0,
    ) -> None:
        """Make the group, start the stage in it; `more` is added to what the plan asks for."""
        self._placed = _make_group(self._cgroup, self._config, self._undo, self._manner)
        group = self._cgroup if self._placed else None
        owner = translate.group_owner(self._config)
        if group and owner:
            with contextlib.suppress(PermissionError):  # an ordinary user's group is that user's already
                group.delegate(*owner)
        launch = spawn(plan, spaces, group, stdio, came, CREATE, more)
        if self._cgroup.is_held:
            launch.await_stage()
            self._cgroup.settled()
        launch.limit(hooks.time_limit(self._config, "prestart", "createRuntime", "createContainer"))
        self._conversation = Conversation(launch, CREATE, forks=bool(int(plan.flags) & _FORK_EARLY))
        self._conversation.follow(self._manner.trace)
        self._undo.callback(self._conversation.abandon)
        answers.expect(self._conversation, self._config, container_id=self._id, bundle=self._bundle)

    def until_ready(self, plan: Plan | Encoded) -> None:
        self._conversation.until_ready(*self._acts())
        self._conversation.raise_limits(plan.rlimits)

    def _acts(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """What is done while it builds itself, and when its mounts and nodes are made."""
        resources: Config = (self._config.get("linux") or {}).get("resources") or {}
        rules: list[Callable[[], None]] = []

        def limit() -> None:
            if self._placed:
                self._cgroup.apply_limits(resources)
                rules.append(self._cgroup.prepare_devices(resources))

        def mounted() -> None:
            # Device rules come when the device nodes are made: a rule may forbid making them.
            for apply_rules in rules:
                apply_rules()
            self._move_devices()
            self._run_runtime_hooks()

        return limit, mounted

    def let_go(self, left_out: Sequence[str], begun: Begun, go: Go) -> Task:
        """On its way to its program; `start` waits until it is there."""
        task = self.task((), parked=True)
        begun(task)
        root = self._conversation.until_mounted(*self._acts())
        task.warnings = (*self._conversation.warnings, *left_out)
        task.console = self._conversation.take_console()
        go(task, root)
        task.go_on()
        return task

    def raised(self, plan: Plan | Encoded, left_out: Sequence[str], begun: Begun) -> Task:
        """Parked in the end; `begun` is told before where the stage is to be the container's process itself."""
        if plan.flags & Flag.FORK_EARLY:
            self.until_ready(plan)
            task = self.task(left_out, parked=True)
            begun(task)
            return task
        task = self.task((), parked=True)
        begun(task)
        self.until_ready(plan)
        task.warnings = (*self._conversation.warnings, *left_out)
        task.console = self._conversation.take_console()
        return task

    def task(self, left_out: Sequence[str], *, parked: bool) -> Task:
        """What was born; `parked` on the launch socket, else by itself. `left_out`: what it is to be warned of."""
        launch = self._conversation.launch
        if not parked:
            launch.disconnect()
        warnings = (*self._conversation.warnings, *left_out)
        return Task(
            container_id=self._id,
            pid=launch.pid,
            pidfd=launch.pidfd,
            start_time=pidfd.start_time(launch.pid),
            cgroup=self._cgroup,
            console=self._conversation.take_console(),
            warnings=warnings,
            _launch=launch if parked else None,
            _origin=(self._config, self._bundle),
        )

    def _move_devices(self) -> None:
        wanted: Config = (self._config.get("linux") or {}).get("netDevices") or {}
        if not wanted:
            return
        try:
            answers.move_devices(self._conversation.launch.pid, wanted)
        except OSError as error:
            report = Report(
                kind=ReportKind.ERROR, step="net-device", errno=error.errno or 0, detail=str(error.filename)
            )
            raise launch_failed(report, CREATE) from error

    def _run_runtime_hooks(self) -> None:
        if not self._config.get("hooks"):
            return
        self._hooks_begun = True
        for kind in ("prestart", "createRuntime"):
            hooks.run(self._config, kind, self._state("creating"))

    def _run_poststop(self) -> None:
        """After a failure: who was told of the container's making is told of its end."""
        if self._hooks_begun:
            hooks.run_all(self._config, "poststop", self._state("stopped"))

    def _state(self, status: str) -> dict[str, Any]:
        pid = self._conversation.launch.pid
        return hooks.state(self._config, container_id=self._id, bundle=self._bundle, status=status, pid=pid)


def _make_group(cgroup: Cgroup, config: Config, undo: ExitStack, manner: Manner) -> bool:
    """False when it cannot be made and need not: an ordinary user who asks for no limits."""
    try:
        cgroup.create(occupied=manner.shares_cgroup)
        frozen = cgroup.is_frozen()
    except FileExistsError:
        raise Conflict(f"cannot create the container: cgroup {cgroup.path} is in use") from None
    except OSError as error:
        _remove_group(cgroup)
        if _tolerable(error, config, manner):
            return False
        refused = InvalidArgument if error.errno == errno.EOPNOTSUPP else Internal
        raise refused(f"cannot create cgroup {cgroup.path}: {error.strerror or error}") from error
    except ValueError as error:
        raise InvalidArgument(f"cannot create cgroup {cgroup.path}: {error}") from error
    if frozen:  # the stage would stop in it, and this call with it
        raise Conflict(f"cannot create the container: container's cgroup unexpectedly frozen: {cgroup.path}")
    undo.callback(_remove_group, cgroup)
    return True


def _tolerable(error: OSError, config: Config, manner: Manner) -> bool:
    resources: Config = (config.get("linux") or {}).get("resources") or {}
    asked = any(value for key, value in resources.items() if key != "devices")
    ordinary = os.geteuid() != 0 if manner.rootless is None else manner.rootless
    return ordinary and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and not asked


def _remove_group(cgroup: Cgroup) -> None:
    with contextlib.suppress(OSError):
        cgroup.remove()
