"""One launch as a conversation with the stage: from spawn to READY or exec, with everything it owns on the way."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
from collections.abc import Callable, Sequence

from bulkhead.errors import BulkheadError, DeadlineExceeded, Internal, InvalidArgument, LaunchFailed
from bulkhead.linux import pidfd
from bulkhead.nsexec import Launch, Report, ReportKind
from bulkhead.runtime.failures import Occasion, launch_failed

Answer = Callable[[Report], None]
Trace = Callable[[str], None]


class Conversation:
    """`answers` say what is done when the stage asks for it (its user namespace's maps, its clocks, the listener of
    its filter); each is given once, and what nobody expects ends the launch."""

    def __init__(self, launch: Launch, occasion: Occasion, *, forks: bool = False) -> None:
        self.launch = launch
        self.warnings: list[str] = []
        self.answers: dict[ReportKind, Answer] = {}
        self._occasion = occasion
        self._forks = forks
        self._console = -1
        self._trace: Trace | None = None

    def follow(self, trace: Trace | None) -> None:
        """Tell of every step from here on, in the words by which runc's debug log is read."""
        self._trace = trace
        self._tell(f"nsexec container setup: stage {self.launch.pid} is at it")

    def _tell(self, text: str) -> None:
        if self._trace:
            self._trace(text)

    def until_ready(self, limit: Callable[[], None], mounted: Callable[[], None]) -> None:
        """`limit` the new container while it builds itself, act when its mounts and nodes are made (`mounted`),
        then wait until it is parked."""
        root = self.until_mounted(limit, mounted)
        if root >= 0:
            os.close(root)
        self._proceed()
        while (report := self._heard()).kind != ReportKind.READY:
            self._note(report)
        self._tell(f"child process in init(): {self.launch.pid} waits to be started")

    def until_mounted(self, limit: Callable[[], None], mounted: Callable[[], None]) -> int:
        """The first half of that, before it is told to go on: a descriptor of its root, or -1, the caller's."""
        self._guarded(limit)
        while (report := self._heard()).kind != ReportKind.MOUNTED:
            self._note(report)
        try:
            self._guarded(mounted)
        except BaseException:
            _let_go(report)
            raise
        return report.fd

    def until_running(self) -> None:
        """For a process without a park: wait for the end of the socket."""
        if not self.answers and self._trace is None:
            self.launch.await_end()
        while (report := self._heard()).kind != ReportKind.CLOSED:
            self._note(report)
        if not self.launch.has_executed():
            raise self._silent()
        self._tell(f"child process in init(): {self.launch.pid} is in the container")
        self._tell("setns_init: about to exec: nothing is left to be told")

    def until_forked(self) -> None:
        """The first part of that, for a stage that forks: until the process which will execute is known."""
        self.launch.await_fork()
        while self._forks:
            report = self._heard()
            if report.kind == ReportKind.CLOSED:
                raise self._silent()
            self._note(report)

    def _heard(self) -> Report:
        report = self.launch.receive()
        if self._trace:
            self._trace(f"stage {self.launch.pid}: {report.kind.name.lower()} {report.step} {report.detail}".rstrip())
        return report

    def take_console(self) -> int | None:
        fd, self._console = self._console, -1
        return fd if fd >= 0 else None

    def raise_limits(self, limits: Sequence[tuple[int, int, int]]) -> None:
        """Set on behalf of the process what its own user namespace did not let it set, if we may."""
        if not any(text.startswith("rlimit ") for text in self.warnings):
            return
        with contextlib.suppress(OSError, ValueError):
            for number, soft, hard in limits:
                resource.prlimit(self.launch.pid, number, (_signed(soft), _signed(hard)))
            self.warnings = [text for text in self.warnings if not text.startswith("rlimit ")]

    def abandon(self) -> None:
        """Kill, reap and close whatever there is."""
        self.launch.disconnect()
        if self.launch.pidfd >= 0:
            kill_and_reap(self.launch.pidfd)
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
        _let_go(report)

    def _note(self, report: Report) -> None:
        if report.kind == ReportKind.CONSOLE and report.fd >= 0 and self._console < 0:
            self._console = report.fd
        elif report.kind == ReportKind.WARNING:
            self.warnings.append(_warning(report))
        elif report.kind == ReportKind.PID:
            self._adopt_final(report.errno)
        elif report.kind == ReportKind.ERROR:
            self._hear_out()
            raise launch_failed(report, self._occasion)
        elif answer := self.answers.pop(report.kind, None):
            self._answer(answer, report)
        else:
            raise self._silent()

    def _silent(self) -> BulkheadError:
        return _late() if self.launch.overdue else _died(self.launch)

    def _answer(self, answer: Answer, report: Report) -> None:
        try:
            answer(report)
        except OSError as error:
            raise self._unanswered(report, error) from error
        self._proceed()

    def _unanswered(self, report: Report, error: OSError) -> LaunchFailed:
        step = {ReportKind.USER: "user-namespace", ReportKind.TIME: "time-namespace"}.get(report.kind, report.step)
        told_by_program = error.filename and "/" not in str(error.filename)  # newuidmap: its words are the reason
        detail = str((error.strerror if told_by_program else error.filename) or error.strerror or "")
        failure = Report(kind=ReportKind.ERROR, step=step, errno=error.errno or errno.EIO, detail=detail)
        failed = launch_failed(failure, self._occasion)
        failed.add_note(str(error))
        return failed

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


def _warning(report: Report) -> str:
    return f"{report.step} {report.detail}: {os.strerror(report.errno)}"


def _let_go(report: Report) -> None:
    if report.fd >= 0:
        os.close(report.fd)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def kill_and_reap(fd: int) -> None:
    """End a child of ours for good."""
    pidfd.send_signal(fd, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        pidfd.wait(fd)


def finish(launch: Launch, fd: int, occasion: Occasion, warnings: list[str] | None = None) -> bool:
    """Let the parked process exec; True when it has, False when it was dead before. LaunchFailed when it could not;
    it is dead and reaped then.

    With `warnings` it was let go on before, and what it says on its way is added to them.
    """
    try:
        if warnings is None:
            launch.proceed()
        report = launch.receive()
    except (BrokenPipeError, ConnectionResetError):
        return False
    while warnings is not None and report.kind == ReportKind.WARNING:
        warnings.append(_warning(report))
        report = launch.receive()
    executed = report.kind == ReportKind.CLOSED and not launch.overdue and launch.has_executed()
    if executed:
        return True
    kill_and_reap(fd)
    if launch.overdue:
        raise _late()
    if report.kind == ReportKind.CLOSED:
        # It never was the container's program, whose end this would be taken for.
        died = Report(
            kind=ReportKind.ERROR, step=launch.struck or "exec", errno=errno.ECANCELED, detail="its stage died"
        )
        raise launch_failed(died, occasion)
    raise launch_failed(report, occasion)


def _died(launch: Launch) -> Internal:
    where = f" at step {launch.struck}" if launch.struck else ""
    return Internal(f"cannot launch the process: its stage died{where}")


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("cannot launch the process: its stage did not finish in time and was killed")
