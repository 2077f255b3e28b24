"""Containers as processes: create, start, adopt, exec, reap.

Synchronous and thread-free: the caller is a lean shim, and the parent of what it launches. A launch is a
short conversation with the stage (nsexec.Report); everything that was made is undone when it fails.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bulkhead.errors import Conflict, Internal, InvalidArgument, NotFound
from bulkhead.linux import namespaces, overlay, pidfd
from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.linux.pidfd import ExitStatus
from bulkhead.nsexec import STEPS, Launch, Report, ReportKind, SpawnError, spawn
from bulkhead.nsexec.plan import Flag, Plan
from bulkhead.runtime import translate, validate
from bulkhead.runtime.failures import launch_failed
from bulkhead.runtime.rootfs import OverlayRootfs, StdioFds

__all__ = ["ExecProcess", "ExitStatus", "Task", "adopt", "create", "exec_", "reap"]

Config = Mapping[str, Any]


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
        """Let the created process exec; returns when it has. LaunchFailed when it could not: it is dead then."""
        launch = self._launch
        if launch is None:
            raise Conflict("cannot start an already running container")
        self._launch = None
        try:
            _finish(launch)
        finally:
            launch.disconnect()

    @property
    def sync_fd(self) -> int | None:
        """The launch socket of a container that was created and not started: keep a copy to keep it alive."""
        return self._launch.sync_fd if self._launch else None

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
    mounted = hierarchies()
    cgroup = Cgroup((config.get("linux") or {}).get("cgroupsPath") or f"/{container_id}", mounted)
    plan = translate.container_plan(config, rootfs, cgroup, mounted)
    if rootfs is not None and rootfs.volatile:
        overlay.forgive_volatile(rootfs.work)
    with ExitStack() as undo:
        _make_group(cgroup, undo)
        conversation = _begin(plan, config, cgroup, stdio, undo)
        conversation.until_ready((config.get("linux") or {}).get("resources") or {})
        task = conversation.task(container_id)
        undo.pop_all()
    return task


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
        launch = _spawn(plan, translate.clone_flags(config), cgroup, stdio, joins, temporary)
    conversation = _Conversation(launch, cgroup)
    undo.callback(conversation.abandon)
    return conversation


def _open_namespace(kind: str, path: str, stack: ExitStack) -> int:
    try:
        fd = namespaces.open_namespace(path, namespaces.FLAGS[kind])
    except OSError as error:
        raise InvalidArgument(f"cannot join {kind} namespace {path}: {error.strerror}") from error
    stack.callback(os.close, fd)
    return fd


def _spawn(plan: Plan, flags: int, cgroup: Cgroup, stdio: StdioFds, extra: Sequence[int], stack: ExitStack) -> Launch:
    """Start the stage with its standard descriptors: what is absent becomes the container's /dev/null inside."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    stack.callback(os.close, null)
    group = cgroup.open_unified()
    if group >= 0:
        stack.callback(os.close, group)
    given = (-1, -1, -1) if plan.flags & Flag.TERMINAL else (stdio.stdin, stdio.stdout, stdio.stderr)
    absent = Flag(0)
    if not plan.flags & Flag.TERMINAL:
        for fd, flag in zip(given, (Flag.NULL_STDIN, Flag.NULL_STDOUT, Flag.NULL_STDERR), strict=True):
            absent |= flag if fd < 0 else Flag(0)
    fds = [null if fd < 0 else fd for fd in given]
    try:
        data = translate.with_flags(plan, absent).encode()
    except ValueError as error:
        raise InvalidArgument(f"cannot create the container: {error}") from error
    try:
        return spawn(data, clone_flags=flags, cgroup_fd=group, stdio=(fds[0], fds[1], fds[2]), extra_fds=extra)
    except SpawnError as error:
        number, _, step = error.args
        raise launch_failed(Report(kind=ReportKind.ERROR, step=STEPS[step], errno=number)) from error


class _Conversation:
    """One launch from spawn to READY or exec, and everything it owns until it is handed over."""

    def __init__(self, launch: Launch, cgroup: Cgroup) -> None:
        self.launch = launch
        self.cgroup = cgroup
        self.console = -1
        self.warnings: list[str] = []
        self.stage_pidfd = -1

    def until_ready(self, resources: Config) -> None:
        """Place and limit the new container while it builds itself, then wait until it is parked."""
        try:
            self._place(self.launch.pid)
            self.cgroup.apply_limits(resources)
        except (OSError, ValueError) as error:
            raise self._refused(error) from error
        while (report := self.launch.receive()).kind != ReportKind.READY:
            if report.kind == ReportKind.MOUNTED:
                self._confine(resources)
            else:
                self._note(report)

    def _place(self, pid: int) -> None:
        if self.cgroup.needs_placing:
            self.cgroup.add_v1(pid)

    def _confine(self, resources: Config) -> None:
        """Device rules come when the device nodes are made: a rule may forbid making them."""
        try:
            self.cgroup.apply_devices(resources)
        except (OSError, ValueError) as error:
            raise self._refused(error) from error
        self._proceed()

    def _proceed(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # it failed meanwhile: its report says how
            self.launch.proceed()

    def _refused(self, error: OSError | ValueError) -> Exception:
        """The stage may have died first; then its own reason is the better one."""
        if isinstance(error, ValueError):
            return InvalidArgument(f"cannot apply resources: {error}")
        if error.errno == errno.ESRCH:
            while (report := self.launch.receive()).kind not in (ReportKind.CLOSED, ReportKind.MOUNTED):
                if report.kind == ReportKind.ERROR:
                    return launch_failed(report)
        where = f" ({error.filename})" if error.filename else ""
        text = f"cannot apply resources: {error.strerror}{where}"
        return InvalidArgument(text) if error.errno in (errno.EINVAL, errno.ERANGE) else Internal(text)

    def until_running(self) -> None:
        """For a process without a park: place it when it asks, then wait for the end of the socket."""
        while (report := self.launch.receive()).kind != ReportKind.CLOSED:
            if report.kind == ReportKind.MOUNTED:
                self._place(self.launch.pid)
                self._proceed()
            else:
                self._note(report)

    def _note(self, report: Report) -> None:
        if report.kind == ReportKind.CONSOLE:
            self.console = report.fd
        elif report.kind == ReportKind.WARNING:
            self.warnings.append(f"{report.step} {report.detail}: {os.strerror(report.errno)}")
        elif report.kind == ReportKind.PID:
            self._adopt_final(report.errno)
        elif report.kind == ReportKind.ERROR:
            raise launch_failed(report)
        else:
            raise Internal("cannot launch the process: its stage died")

    def _adopt_final(self, pid: int) -> None:
        """The process that will exec is our child, not yet reaped, so its pid cannot be anybody else's."""
        self.stage_pidfd = self.launch.pidfd
        self.launch.pid, self.launch.pidfd = pid, -1
        self.launch.pidfd = pidfd.open_pid(pid)
        pidfd.wait(self.stage_pidfd)
        os.close(self.stage_pidfd)
        self.stage_pidfd = -1
        if self.cgroup.needs_placing:
            self.cgroup.add_v1(pid)

    def abandon(self) -> None:
        """Kill, reap and close whatever there is."""
        self.launch.disconnect()
        for fd in (self.launch.pidfd, self.stage_pidfd):
            if fd >= 0:
                _kill_and_reap(fd)
        if self.stage_pidfd >= 0:
            os.close(self.stage_pidfd)
        self.launch.close()
        if self.console >= 0:
            os.close(self.console)

    def task(self, container_id: str) -> Task:
        launch = self.launch
        return Task(
            container_id=container_id,
            pid=launch.pid,
            pidfd=launch.pidfd,
            start_time=pidfd.start_time(launch.pid),
            cgroup=self.cgroup,
            console=self.console if self.console >= 0 else None,
            warnings=tuple(self.warnings),
            _launch=launch,
        )


def _kill_and_reap(fd: int) -> None:
    pidfd.send_signal(fd, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        pidfd.wait(fd)


def _finish(launch: Launch) -> None:
    try:
        launch.proceed()
    except BrokenPipeError:
        _kill_and_reap(launch.pidfd)
        raise Conflict("cannot start a container that has stopped") from None
    report = launch.receive()
    if report.kind == ReportKind.CLOSED:
        return
    _kill_and_reap(launch.pidfd)
    raise launch_failed(report)


def adopt(*, container_id: str, pid: int, start_time: int, config: Config) -> Task:
    """A container that another process launched, by pid and start time. NotFound when it is gone."""
    try:
        fd = pidfd.open_pid(pid)
    except OSError:
        raise NotFound(f"cannot adopt container {container_id}: process {pid} is gone") from None
    try:
        if pidfd.start_time(pid) != start_time:
            raise ProcessLookupError
    except ProcessLookupError:
        os.close(fd)
        raise NotFound(f"cannot adopt container {container_id}: process {pid} is gone") from None
    cgroup = Cgroup((config.get("linux") or {}).get("cgroupsPath") or f"/{container_id}")
    return Task(container_id=container_id, pid=pid, pidfd=fd, start_time=start_time, cgroup=cgroup)


def exec_(*, task: Task, config: Config, process: Config, stdio: StdioFds) -> ExecProcess:
    """Run a further process in the container: its namespaces, cgroup and confinement.

    LaunchFailed when it cannot be brought to exec, Conflict when the container has stopped.
    """
    validate.process(process)
    plan = translate.exec_plan(config, process)
    if task.cgroup.needs_placing:
        plan = translate.with_flags(plan, Flag.WAIT_CGROUP)
    with ExitStack() as undo:
        with ExitStack() as temporary:
            try:
                launch = _spawn(plan, 0, task.cgroup, stdio, [task.pidfd], temporary)
            except FileNotFoundError:
                raise Conflict("cannot exec in a stopped container") from None
        conversation = _Conversation(launch, task.cgroup)
        undo.callback(conversation.abandon)
        try:
            conversation.until_running()
        except OSError as error:
            raise Conflict(f"cannot exec in the container: {error.strerror}") from error
        launch.disconnect()
        undo.pop_all()
    console = conversation.console if conversation.console >= 0 else None
    return ExecProcess(pid=launch.pid, pidfd=launch.pidfd, console=console, warnings=tuple(conversation.warnings))


def reap(fd: int) -> ExitStatus | None:
    """Exit status of a process by its pidfd, without waiting; None while it runs. NotFound when it is lost."""
    try:
        return pidfd.reap(fd)
    except ChildProcessError as error:
        raise NotFound(f"cannot reap the process: {error.strerror}") from error
