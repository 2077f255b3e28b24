"""Containers as processes: create, start, adopt, exec, reap.

Synchronous and thread-free: the caller is a lean shim, and the parent of what it launches. A launch is a
short conversation with the stage (nsexec.Report); everything that was made is undone when it fails.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bulkhead import nsexec
from bulkhead.errors import Conflict, Internal, InvalidArgument, NotFound
from bulkhead.linux import namespaces, overlay, pidfd
from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.linux.pidfd import ExitStatus
from bulkhead.nsexec import STEPS, Launch, Report, ReportKind, SpawnError
from bulkhead.nsexec.plan import Flag, Plan
from bulkhead.runtime import filters, translate, validate
from bulkhead.runtime.failures import CREATE, EXEC, Occasion, launch_failed
from bulkhead.runtime.rootfs import OverlayRootfs, StdioFds

__all__ = ["ExecProcess", "ExitStatus", "Task", "adopt", "create", "exec_", "prepare", "reap"]

Config = Mapping[str, Any]

# Who joins a container can be held up by it; longer than any honest launch, shorter than our callers wait.
_JOIN_SECONDS = 8.0


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

    def start(self) -> None:
        """Let the created process exec; returns when it has.

        LaunchFailed when it could not, Conflict when there is nothing to start. A process that failed is
        dead and reaped; `reap` still tells how it ended where the kernel remembers (Linux 6.15).
        """
        launch = self._launch
        if launch is None:
            raise Conflict("cannot start an already running container")
        self._launch = None
        try:
            _finish(launch, self.pidfd)
        finally:
            launch.disconnect()

    @property
    def sync_fd(self) -> int | None:
        """The launch socket of a container that was created and not started: a copy of it keeps it alive."""
        return self._launch.sync_fd if self._launch else None

    def hold_mounts(self) -> int:
        """Descriptor of the mount namespace, the caller's to close, off the path.

        The last reference unmounts the overlay, which writes its whole file system to disk: whoever holds
        one over the exit takes that wait from the container's end.
        """
        return os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def signal(self, number: int) -> None:
        """ProcessLookupError when it has ended."""
        signal.pidfd_send_signal(self.pidfd, number)

    def close(self) -> None:
        """Let go of the descriptors. A container that was never started ends."""
        if self._launch is not None:
            self._launch.disconnect()
            self._launch = None
        for fd in (self.pidfd, self.console):
            if fd is not None and fd >= 0:
                os.close(fd)
        self.pidfd, self.console = -1, None


@dataclass(slots=True, kw_only=True)
class ExecProcess:
    """A further process in a container, already running. pidfd and console are the caller's."""

    pid: int
    pidfd: int
    console: int | None = None
    warnings: tuple[str, ...] = ()


def prepare(*, filter_directory: Path | None = None, profiles: Sequence[Config] = ()) -> None:
    """Do once, before forking, what every launch needs: the sealed stage, the mounted cgroup hierarchies,
    the seccomp filters that are likely. Compiled filters are kept in `filter_directory`."""
    nsexec.prepare()
    hierarchies()
    filters.use_directory(filter_directory)
    for profile in profiles:
        filters.filter_for(profile)


def create(
    *,
    container_id: str,
    config: Config,
    rootfs: OverlayRootfs | None = None,
    stdio: StdioFds,
    systemd: bool = False,
) -> Task:
    """A container with everything done but exec.

    InvalidArgument for a config that this runtime refuses, LaunchFailed when the kernel does; then neither
    process nor cgroup nor descriptor is left.
    """
    if systemd:
        raise InvalidArgument("cannot create the container: the systemd cgroup driver is not supported")
    validate.container(container_id, config, rootfs)
    cgroup = _group(container_id, config)
    plan = translate.container_plan(config, rootfs, cgroup, hierarchies())
    resources: Config = (config.get("linux") or {}).get("resources") or {}
    if rootfs is not None and rootfs.volatile:
        overlay.forgive_volatile(rootfs.work)
    with ExitStack() as undo:
        _make_group(cgroup, undo)
        conversation = _begin(plan, config, cgroup, stdio, undo)
        conversation.until_ready(resources)
        task = conversation.task(container_id)
        undo.pop_all()
    return task


def exec_(*, task: Task, config: Config, process: Config, stdio: StdioFds) -> ExecProcess:
    """Run a further process in the container: its namespaces, cgroup and confinement.

    LaunchFailed when it cannot be brought to exec, Conflict when the container is paused or has stopped.
    """
    merged = translate.merged_process(config, process)
    validate.process(merged)
    plan = translate.exec_plan(config, merged)
    if task.cgroup.is_frozen():  # the stage would freeze on joining, and this call with it
        raise Conflict(f"Container {task.container_id} is paused, unpause the container before exec")
    with ExitStack() as undo:
        conversation = _begin_exec(plan, task, stdio, undo)
        conversation.until_running()
        undo.pop_all()
    launch = conversation.launch
    launch.disconnect()
    warnings = tuple(conversation.warnings)
    return ExecProcess(pid=launch.pid, pidfd=launch.pidfd, console=conversation.take_console(), warnings=warnings)


def adopt(*, container_id: str, pid: int, start_time: int, config: Config) -> Task:
    """A container that another process launched, by pid and start time. NotFound when it is gone."""
    gone = NotFound(f"cannot adopt container {container_id}: process {pid} is gone")
    try:
        fd = pidfd.open_pid(pid)
    except OSError:
        raise gone from None
    try:
        if pidfd.start_time(pid) != start_time:
            raise ProcessLookupError
    except ProcessLookupError:
        os.close(fd)
        raise gone from None
    return Task(
        container_id=container_id, pid=pid, pidfd=fd, start_time=start_time, cgroup=_group(container_id, config)
    )


def reap(fd: int) -> ExitStatus | None:
    """Exit status of a process by its pidfd, without waiting; None while it runs. NotFound when it is lost."""
    try:
        return pidfd.reap(fd)
    except ChildProcessError as error:
        raise NotFound(f"cannot reap the process: {error.strerror}") from error


# ---- what a launch is made of ----


def _group(container_id: str, config: Config) -> Cgroup:
    return Cgroup((config.get("linux") or {}).get("cgroupsPath") or f"/{container_id}")


def _make_group(cgroup: Cgroup, undo: ExitStack) -> None:
    try:
        cgroup.create()
    except FileExistsError:
        raise Conflict(f"cannot create the container: cgroup {cgroup.path} is in use") from None
    except OSError as error:
        _remove_group(cgroup)
        raise Internal(f"cannot create cgroup {cgroup.path}: {error}") from error
    undo.callback(_remove_group, cgroup)


def _remove_group(cgroup: Cgroup) -> None:
    with contextlib.suppress(OSError):
        cgroup.remove()


def _begin(plan: Plan, config: Config, cgroup: Cgroup, stdio: StdioFds, undo: ExitStack) -> _Conversation:
    with ExitStack() as temporary:
        joins = [_open_namespace(kind, path, temporary) for kind, path in translate.joined_namespaces(config)]
        launch = _spawn(plan, translate.clone_flags(config), cgroup, stdio, joins, temporary, CREATE)
    conversation = _Conversation(launch, cgroup, CREATE, forks=bool(plan.flags & Flag.FORK_EARLY))
    undo.callback(conversation.abandon)
    return conversation


def _begin_exec(plan: Plan, task: Task, stdio: StdioFds, undo: ExitStack) -> _Conversation:
    stopped = Conflict(f"cannot exec in container {task.container_id}: it has stopped")
    if reaped_or_dead(task.pidfd):
        raise stopped
    with ExitStack() as temporary:
        try:
            launch = _spawn(plan, 0, task.cgroup, stdio, [task.pidfd], temporary, EXEC)
        except FileNotFoundError:
            raise stopped from None
    launch.limit(_JOIN_SECONDS)
    conversation = _Conversation(launch, task.cgroup, EXEC, forks=True)
    undo.callback(conversation.abandon)
    return conversation


def reaped_or_dead(fd: int) -> bool:
    """Whether the process has ended, without reaping it."""
    try:
        signal.pidfd_send_signal(fd, 0)
        return os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else's child: the signal said it exists
        return False
    except ProcessLookupError:
        return True


def _open_namespace(kind: str, path: str, stack: ExitStack) -> int:
    try:
        fd = namespaces.open_namespace(path, namespaces.FLAGS[kind])
    except OSError as error:
        raise InvalidArgument(f"cannot join {kind} namespace {path}: {error.strerror}") from error
    stack.callback(os.close, fd)
    return fd


_NULL_FLAGS = (Flag.NULL_STDIN, Flag.NULL_STDOUT, Flag.NULL_STDERR)


def _spawn(
    plan: Plan,
    flags: int,
    cgroup: Cgroup,
    stdio: StdioFds,
    extra: Sequence[int],
    stack: ExitStack,
    occasion: Occasion,
) -> Launch:
    """Start the stage. A standard descriptor that is absent becomes the container's /dev/null inside."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    stack.callback(os.close, null)
    group = cgroup.open_unified()
    if group >= 0:
        stack.callback(os.close, group)
    tasks = cgroup.open_tasks()
    for descriptor in tasks:
        stack.callback(os.close, descriptor)
    terminal = plan.flags & Flag.TERMINAL
    given = (-1, -1, -1) if terminal else (stdio.stdin, stdio.stdout, stdio.stderr)
    if not terminal:
        for fd, flag in zip(given, _NULL_FLAGS, strict=True):
            plan = translate.with_flags(plan, flag) if fd < 0 else plan
    first, second, third = (null if fd < 0 else fd for fd in given)
    try:
        data = plan.encode()
    except ValueError as error:
        raise InvalidArgument(f"cannot create the container: {error}") from error
    try:
        return nsexec.spawn(
            data, clone_flags=flags, cgroup_fd=group, stdio=(first, second, third), extra_fds=extra, task_fds=tasks
        )
    except SpawnError as error:
        number, _, step = error.args
        raise launch_failed(Report(kind=ReportKind.ERROR, step=STEPS[step], errno=number), occasion) from error


class _Conversation:
    """One launch from spawn to READY or exec, and everything it owns until it is handed over."""

    def __init__(self, launch: Launch, cgroup: Cgroup, occasion: Occasion, *, forks: bool = False) -> None:
        self.launch = launch
        self.warnings: list[str] = []
        self._cgroup = cgroup
        self._occasion = occasion
        self._forks = forks
        self._console = -1

    def until_ready(self, resources: Config) -> None:
        """Limit the new container while it builds itself, then wait until it is parked."""
        self._guarded(lambda: self._cgroup.apply_limits(resources))
        while (report := self.launch.receive()).kind != ReportKind.READY:
            if report.kind == ReportKind.MOUNTED:
                # Device rules come when the device nodes are made: a rule may forbid making them.
                self._guarded(lambda: self._cgroup.apply_devices(resources))
                self._proceed()
            else:
                self._note(report)

    def until_running(self) -> None:
        """For a process without a park: wait for the end of the socket."""
        while (report := self.launch.receive()).kind != ReportKind.CLOSED:
            self._note(report)

    def take_console(self) -> int | None:
        fd, self._console = self._console, -1
        return fd if fd >= 0 else None

    def task(self, container_id: str) -> Task:
        launch = self.launch
        return Task(
            container_id=container_id,
            pid=launch.pid,
            pidfd=launch.pidfd,
            start_time=pidfd.start_time(launch.pid),
            cgroup=self._cgroup,
            console=self.take_console(),
            warnings=tuple(self.warnings),
            _launch=launch,
        )

    def abandon(self) -> None:
        """Kill, reap and close whatever there is."""
        self.launch.disconnect()
        if self.launch.pidfd >= 0:
            _kill_and_reap(self.launch.pidfd)
        self.launch.close()
        if self._console >= 0:
            os.close(self._console)

    def _proceed(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it failed meanwhile: its report says how
            self.launch.proceed()

    def _guarded(self, act: Callable[[], None]) -> None:
        """Cgroup errors in the engine's words. A stage that died meanwhile has the better reason."""
        try:
            act()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InvalidArgument(f"cannot apply resources: {error}") from error
        except OSError as error:
            if error.errno == errno.ESRCH:
                self._report_death()
            where = f" ({error.filename})" if error.filename else ""
            text = f"cannot apply resources: {error.strerror}{where}"
            refused = error.errno in (errno.EINVAL, errno.ERANGE, errno.EOPNOTSUPP, errno.ENODEV)
            raise (InvalidArgument if refused else Internal)(text) from error

    def _report_death(self) -> None:
        while (report := self.launch.receive()).kind != ReportKind.MOUNTED:
            self._note(report)

    def _note(self, report: Report) -> None:
        if report.kind == ReportKind.CONSOLE and report.fd >= 0 and self._console < 0:
            self._console = report.fd
        elif report.kind == ReportKind.WARNING:
            self.warnings.append(f"{report.step} {report.detail}: {os.strerror(report.errno)}")
        elif report.kind == ReportKind.PID:
            self._adopt_final(report.errno)
        elif report.kind == ReportKind.ERROR:
            self._hear_out()
            raise launch_failed(report, self._occasion)
        else:
            raise Internal("cannot launch the process: its stage died")

    def _hear_out(self) -> None:
        """Who failed may have been forked by the stage, and its report may have overtaken its pid."""
        while (report := self.launch.receive()).kind != ReportKind.CLOSED:
            if report.kind == ReportKind.PID:
                self._adopt_final(report.errno)

    def _adopt_final(self, pid: int) -> None:
        """The process that will exec. It is our child and not reaped, so its pid cannot be anybody else's.

        The container may have got hold of it by then (CAP_SYS_PTRACE): what is no child of ours, or a second
        pid, is a lie, and believing it would kill a process of the host.
        """
        if not self._forks or not pidfd.is_child(pid):
            raise Internal("cannot launch the process: its stage was tampered with")
        self._forks = False
        stage, self.launch.pidfd = self.launch.pidfd, pidfd.open_pid(pid)
        self.launch.pid = pid
        pidfd.wait(stage)
        os.close(stage)


def _kill_and_reap(fd: int) -> None:
    pidfd.send_signal(fd, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        pidfd.wait(fd)


def _finish(launch: Launch, fd: int) -> None:
    try:
        launch.proceed()
        report = launch.receive()
    except (BrokenPipeError, ConnectionResetError):
        raise Conflict("cannot start a container that has stopped") from None
    if report.kind == ReportKind.CLOSED:
        return
    _kill_and_reap(fd)
    raise launch_failed(report, CREATE)
