"""Containers as processes: create, start, adopt, exec, reap.

Synchronous and thread-free: the caller is a lean shim or a command, and the parent of what it launches. A launch is
a short conversation with the stage (runtime.conversation); everything that was made is undone when it fails.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bulkhead import failpoints, nsexec
from bulkhead.errors import BulkheadError, Conflict, Internal, InvalidArgument, LaunchFailed, NotFound, Unavailable
from bulkhead.linux import namespaces, overlay, pidfd
from bulkhead.linux.cgroup_freezer import says_frozen
from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.linux.pidfd import ExitStatus
from bulkhead.nsexec import STEPS, Launch, Report, ReportKind, SpawnError
from bulkhead.nsexec.plan import Encoded, Flag, Plan
from bulkhead.runtime import answers, filters, hooks, luggage, translate, validate
from bulkhead.runtime.conversation import Conversation, Trace, finish, kill_and_reap
from bulkhead.runtime.failures import CREATE, EXEC, Occasion, launch_failed
from bulkhead.runtime.planned import Planned
from bulkhead.runtime.rootfs import OverlayRootfs, StdioFds

__all__ = [
    "ExecProcess",
    "ExitStatus",
    "ReadyExec",
    "Task",
    "adopt",
    "create",
    "create_planned",
    "exec_",
    "exec_planned",
    "prepare",
    "reap",
]

Config = Mapping[str, Any]
# Told of a container's process as soon as it is known, while that builds itself; what it raises ends the launch.
Begun = Callable[["Task"], None]
# Told of it once more when it has its mounts and limits, with a descriptor of its root (-1: none), the taker's. From
# then on it goes on to its program, unless this raises.
Go = Callable[["Task", int], None]

_NONE = Flag(0)
# Who joins a container can be held up by it; longer than any honest launch, shorter than our callers wait.
_JOIN_SECONDS = 8.0
# A new container can wait for its disk; nobody waits for it longer than that.
_STAGE_SECONDS = 120.0
# Of a file that says whether processes are stopped.
_STATE_BYTES = 4096
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
    _entrance: _Entrance | None = field(default=None, repr=False)

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
        launch.limit(_time_limit(config, "startContainer"))
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

    def entrance(self) -> _Entrance:
        """To its groups, which it keeps while it lives: however many join them, they are looked up once. OSError."""
        if self._entrance is None:
            self._entrance = _Entrance(_joined(self))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """What a caller bears: members that the cgroup has already (`shares_cgroup`), no cgroup at all where none can be
    made and no limit is asked for (`rootless`; None: as an ordinary user only). `trace` hears of every step."""

    shares_cgroup: bool = False
    rootless: bool | None = None
    trace: Trace | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """The network namespace of a container that wants a new one, made before; -1: none was. When it is `settled`, all
    the container gets is in it, and no other will do."""

    descriptor: int = -1
    settled: bool = False


@dataclass(slots=True, kw_only=True)
class ExecProcess:
    """A further process in a container, already running, or on its way to that. pidfd and console are the caller's."""

    pid: int
    pidfd: int
    console: int | None = None
    warnings: tuple[str, ...] = ()
    _conversation: Conversation | None = field(default=None, repr=False)

    def settle(self) -> None:
        """Returns when it has come to its program, which it need not have done before if that was asked for.

        Raises what `exec_planned` raises; the process is dead and reaped then.
        """
        conversation, self._conversation = self._conversation, None
        if conversation is None:
            return
        try:
            if not ended_by_itself(self.pidfd):
                conversation.until_running()
        except BaseException:
            kill_and_reap(self.pidfd)
            raise
        finally:
            conversation.launch.disconnect()


def prepare(*, filter_directory: Path | None = None, profiles: Sequence[Config] = ()) -> None:
    """Do once, before forking, what every launch needs: the sealed stage, the mounted cgroup hierarchies,
    the seccomp filters that are likely. Compiled filters are kept in `filter_directory`."""
    nsexec.prepare()
    hierarchies()
    filters.use_directory(filter_directory)
    for profile in profiles:
        filters.filter_for(profile)


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
    network: Network = Network(),
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
            birth.begin(plan, _spaces(translate.clone_flags(config), network), stdio, came)
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
    network: Network = Network(),
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
        go = None if planned.plan.flags & Flag.FORK_EARLY else go
        spaces = _spaces(planned.clone_flags, network)
        birth.begin(planned.plan, spaces, stdio, (), _NONE if go is None else Flag.GO_ON)
        if go is None:
            task = birth.raised(planned.plan, planned.warnings, begun)
        else:
            task = birth.let_go(planned.warnings, begun, go)
        undo.pop_all()
    return task


def exec_(
    *,
    task: Task,
    config: Config,
    process: Config,
    stdio: StdioFds,
    bundle: str = "",
    preserve_fds: int = 0,
    new_keyring: bool = True,
    trace: Trace | None = None,
) -> ExecProcess:
    """Run a further process in the container, whoever launched that: its namespaces, cgroup and confinement.

    LaunchFailed when it cannot be brought to exec, Conflict when the container is paused or has stopped.
    """
    config = translate.resolved(config, bundle)
    merged = translate.merged_process(config, process)
    validate.further(merged)
    plan = translate.exec_plan(config, merged)
    plan = translate.in_manner(plan, preserved=preserve_fds, keyring=new_keyring)
    _refuse_frozen(task)
    with ExitStack() as undo:
        came = [task.pidfd, *luggage.preserved(preserve_fds)]
        if translate.opens_for_users(config):
            luggage.give_stdio(stdio, task.pid)
        with _affinity(translate.first_affinity(merged)):
            conversation = _begin_exec(plan, task, stdio, came, undo)
        conversation.follow(trace)
        answers.expect(conversation, config, container_id=task.container_id, bundle=bundle)
        conversation.until_running()
        conversation.raise_limits(plan.rlimits)
        undo.pop_all()
    return _running(conversation, translate.warnings(merged))


def exec_planned(
    *,
    task: Task,
    planned: Planned,
    stdio: StdioFds,
    ready: ReadyExec | None = None,
    begun: Callable[[], None] | None = None,
    settled: bool = True,
) -> ExecProcess:
    """The same, for a launch that was worked out before, and may have been made `ready` for all of this; `begun` is
    called while its process is on its way. Unless it is to be `settled`, its caller goes on while the process comes to
    its program, and is not disturbed by that: `ExecProcess.settle`.

    Raises what `exec_` raises.
    """
    _refuse_frozen(task)
    with ExitStack() as undo:
        if planned.plan.flags & Flag.BECOME_ROOT:
            luggage.give_stdio(stdio, task.pid)
        if ready is not None and ready.fits():
            conversation = ready.begin(task, undo)
        else:
            conversation = _begin_exec(planned.plan, task, stdio, [task.pidfd], undo)
        if begun is not None:
            begun()
        if settled:
            conversation.until_running()
        else:
            conversation.until_forked()
        conversation.raise_limits(planned.plan.rlimits)
        undo.pop_all()
    return _running(conversation, planned.warnings, settled=settled)


class ReadyExec:
    """What `exec_planned` needs for a process that may be wanted soon, made before: nothing in it can change meanwhile,
    and nothing of the container has been touched. `close` it in any case."""

    def __init__(self, *, task: Task, planned: Planned, stdio: StdioFds) -> None:
        """Raises Internal, and InvalidArgument."""
        self.planned = planned
        self._entrance: _Entrance | None = None
        try:
            self._entrance = task.entrance()
            outfit = _outfit(planned.plan, self._entrance, stdio)
            self._unborn = nsexec.Unborn(
                outfit.plan,
                cgroup_fd=outfit.group,
                stdio=outfit.stdio,
                extra_fds=[task.pidfd],
                task_fds=outfit.tasks,
            )
        except (OSError, SpawnError) as error:
            self.close()
            raise Internal(f"cannot make a process ready: {error}") from error

    @staticmethod
    def fits() -> bool:
        """Whether it may be used: what is set to fail is to fail where it is begun."""
        return not failpoints.any_set()

    def begin(self, task: Task, undo: ExitStack) -> Conversation:
        if reaped_or_dead(task.pidfd):
            raise _stopped(task)
        try:
            launch = self._unborn.begin()
        except SpawnError as error:
            raise _unspawned(error, EXEC) from error
        finally:
            self.close()  # it has its own by now
        return _joining(launch, undo)

    def close(self) -> None:
        self._entrance = None


def _refuse_frozen(task: Task) -> None:
    if task.is_frozen():  # the stage would freeze on joining, and its launcher with it
        raise Conflict(f"Container {task.container_id} is paused, unpause the container before exec")


def _running(conversation: Conversation, left_out: Sequence[str], *, settled: bool = True) -> ExecProcess:
    launch = conversation.launch
    if settled:
        launch.disconnect()
    return ExecProcess(
        pid=launch.pid,
        pidfd=launch.pidfd,
        console=conversation.take_console(),
        warnings=(*conversation.warnings, *left_out),
        _conversation=None if settled else conversation,
    )


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


def reap(fd: int) -> ExitStatus | None:
    """Exit status of a process by its pidfd, without waiting; None while it runs. NotFound when it is lost."""
    try:
        return pidfd.reap(fd)
    except ChildProcessError as error:
        raise NotFound(f"cannot reap the process: {error.strerror}") from error


# ---- what a launch is made of ----


def cgroup_of(container_id: str, config: Config, *, systemd: bool = False) -> Cgroup:
    """Where the config puts the container; ValueError when that is no cgroup path, or no systemd one if asked so."""
    path = (config.get("linux") or {}).get("cgroupsPath") or ""
    if not systemd:
        return Cgroup(path or f"/{container_id}")
    from bulkhead.linux.cgroup_systemd import ScopeGroup
    from bulkhead.linux.systemd_properties import parse_scope

    scope = parse_scope(path, container_id, rootless=os.geteuid() != 0)
    return ScopeGroup(scope, container_id, config.get("annotations"))


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
        spaces: _Spaces,
        stdio: StdioFds,
        came: Sequence[int],
        more: Flag = _NONE,
    ) -> None:
        """Make the group, start the stage in it; `more` is added to what the plan asks for."""
        self._placed = _make_group(self._cgroup, self._config, self._undo, self._manner)
        group = self._cgroup if self._placed else None
        owner = translate.group_owner(self._config)
        if group and owner:
            with contextlib.suppress(PermissionError):  # an ordinary user's group is that user's already
                group.delegate(*owner)
        launch = _spawn(plan, spaces, group, stdio, came, CREATE, more)
        if self._cgroup.is_held:
            launch.await_stage()
            self._cgroup.settled()
        launch.limit(_time_limit(self._config, "prestart", "createRuntime", "createContainer"))
        self._conversation = Conversation(launch, CREATE, forks=bool(plan.flags & Flag.FORK_EARLY))
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


def _time_limit(config: Config, *kinds: str) -> float | None:
    """Longer than any honest stage takes; nothing when a hook has no limit of its own."""
    due = [hook for kind in kinds for hook in (config.get("hooks") or {}).get(kind) or ()]
    if not all(hook.get("timeout") for hook in due):
        return None
    return _STAGE_SECONDS + float(sum(hook["timeout"] for hook in due))


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


def _begin_exec(
    plan: Plan | Encoded, task: Task, stdio: StdioFds, came: Sequence[int], undo: ExitStack
) -> Conversation:
    if reaped_or_dead(task.pidfd):
        raise _stopped(task)
    try:
        launch = _spawn(plan, _Spaces(), _joined(task), stdio, came, EXEC)
    except FileNotFoundError:
        raise _stopped(task) from None
    return _joining(launch, undo)


def _stopped(task: Task) -> Conflict:
    return Conflict(f"cannot exec in container {task.container_id}: it has stopped")


def _joined(task: Task) -> Cgroup | None:
    return task.cgroup if os.geteuid() == 0 or task.cgroup.exists() else None


def _joining(launch: Launch, undo: ExitStack) -> Conversation:
    launch.limit(_JOIN_SECONDS)
    conversation = Conversation(launch, EXEC, forks=True)
    undo.callback(conversation.abandon)
    return conversation


@contextlib.contextmanager
def _affinity(cpus: frozenset[int] | None) -> Iterator[None]:
    """Be on these processors while the stage is born: it joins its cgroup from there."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise InvalidArgument(f"cannot run on processors {sorted(cpus)}: {error.strerror}") from error
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


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


_NULL_FLAGS = (Flag.NULL_STDIN, Flag.NULL_STDOUT, Flag.NULL_STDERR)


@dataclass(frozen=True, slots=True)
class _Spaces:
    """The namespaces of a birth: CLONE_NEW* for those that are made, and a network namespace that was made before."""

    made: int = 0
    network: int = -1


def _spaces(wanted: int, network: Network) -> _Spaces:
    """A user namespace owns those that are made with it, so one that was made before would be another's."""
    if network.descriptor >= 0 and wanted & namespaces.NEWNET and not wanted & namespaces.NEWUSER:
        return _Spaces(wanted & ~namespaces.NEWNET, network.descriptor)
    if network.settled:
        raise InvalidArgument("cannot create the container: it does not take the network namespace made for it")
    return _Spaces(wanted)


def _spawn(
    plan: Plan | Encoded,
    spaces: _Spaces,
    cgroup: Cgroup | None,
    stdio: StdioFds,
    extra: Sequence[int],
    occasion: Occasion,
    more: Flag = _NONE,
) -> Launch:
    """Start the stage."""
    entrance = _Entrance(cgroup)
    outfit = _outfit(plan, entrance, stdio, more)
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
        raise _unspawned(error, occasion) from error


def _unspawned(error: SpawnError, occasion: Occasion) -> BulkheadError:
    number, _, step = error.args
    return launch_failed(Report(kind=ReportKind.ERROR, step=STEPS[step], errno=number), occasion)


@dataclass(frozen=True, slots=True)
class _Outfit:
    """What a stage is given: its plan, the v2 group to be born in, standard descriptors, the v1 groups to join."""

    plan: bytes
    group: int
    stdio: tuple[int, int, int]
    tasks: list[int]


class _Entrance:
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


def _outfit(plan: Plan | Encoded, entrance: _Entrance, stdio: StdioFds, more: Flag = _NONE) -> _Outfit:
    """A standard descriptor that is absent becomes the container's /dev/null inside."""
    null = entrance.null
    terminal = plan.flags & Flag.TERMINAL
    given = (-1, -1, -1) if terminal else (stdio.stdin, stdio.stdout, stdio.stderr)
    nulls = Flag(0) if terminal else _nulls(*(fd < 0 for fd in given))
    first, second, third = (null if fd < 0 else fd for fd in given)
    try:
        data = plan.encode(nulls | more)
    except ValueError as error:
        raise InvalidArgument(f"cannot create the container: {error}") from error
    return _Outfit(data, entrance.group, (first, second, third), entrance.tasks)


@functools.cache
def _nulls(*absent: bool) -> Flag:
    """What the stage opens itself of stdin, stdout and stderr."""
    found = Flag(0)
    for is_absent, flag in zip(absent, _NULL_FLAGS, strict=True):
        found |= flag if is_absent else Flag(0)
    return found
