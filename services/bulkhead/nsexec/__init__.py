"""The clone/exec core: starts `nsinit` in new namespaces and speaks with it over the launch socket.

`spawn` clones without copying this process's memory and executes the sealed stage program; from then on
the stage reports what happens (`Launch.receive`) until it execs the container's program, which closes
the socket. Nothing here knows OCI: see bulkhead.runtime.
"""

from __future__ import annotations

import array
import contextlib
import enum
import os
import signal
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bulkhead import failpoints
from bulkhead.nsexec import _nsexec
from bulkhead.nsexec._nsexec import (
    STEPS,
    SpawnError,
    await_end,
    be_model,
    bear,
    check_plan,
    copy_memory,
    empty_directory,
    give_back_memory,
    has_likeness,
    is_new_directory,
    json_lines,
    new_network,
    prepare,
    settle,
    share_memory,
    write_files,
    written_memory,
)

__all__ = [
    "STEPS",
    "Launch",
    "Report",
    "ReportKind",
    "SpawnError",
    "Unborn",
    "be_model",
    "check_plan",
    "copy_memory",
    "empty_directory",
    "give_back_memory",
    "has_likeness",
    "is_new_directory",
    "json_lines",
    "new_network",
    "prepare",
    "share_memory",
    "spawn",
    "write_files",
    "written_memory",
]

# As typing has it, without loading typing into a runtime command that lives for milliseconds.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from bulkhead.nsexec._nsexec import Birth
    from bulkhead.nsexec.points import Armed

_FIXED = struct.Struct("=IIiI")
_LARGEST = 1024
_ROOM = socket.CMSG_SPACE(struct.calcsize("i"))
# STAGE_NAME in csrc/steps.h.
_STAGE_NAME = b"nsinit [stage]"
# Of /proc/<pid>/stat behind the name (proc_pid_stat(5)): the size of its memory, 0 when it has given that up.
_VSIZE = 20
# How often a stage that says nothing is looked at.
_GLANCE_SECONDS = 0.25


class ReportKind(enum.IntEnum):
    """enum report_kind in csrc/steps.h; CLOSED is the end of the socket: exec worked, or the stage died."""

    CLOSED = 0
    ERROR = 1
    WARNING = 2
    MOUNTED = 3
    CONSOLE = 4
    PID = 5
    READY = 6
    USER = 7
    TIME = 8
    LISTENER = 9
    FAILPOINT = 10


_CARRY = (ReportKind.CONSOLE, ReportKind.MOUNTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One message of the stage. `errno` holds the pid for PID, the stage's descriptor for LISTENER; `fd` is owned by
    the receiver."""

    kind: ReportKind
    step: str = "none"
    errno: int = 0
    detail: str = ""
    fd: int = -1


class Launch:
    """A stage on its way: its pid, pidfd and our end of the launch socket, all owned by this object.

    What `birth` is of may be the stage only in a moment, while we do something else.
    """

    __slots__ = ("_armed", "_birth", "_deadline", "_failure", "_socket", "overdue", "pid", "pidfd", "struck")

    def __init__(self, pid: int, pidfd: int, sync: int, birth: Birth | None = None, armed: Armed | None = None) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.overdue = False  # it was killed for taking too long
        self.struck = ""  # the step of the last failpoint that did something
        self._armed = armed
        self._birth = birth
        self._failure: Report | None = None
        self._deadline: float | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, sync)
        self._socket.settimeout(_GLANCE_SECONDS)

    def limit(self, seconds: float | None) -> None:
        """The rest may take this long: who has not executed its program by then is killed. None for no limit."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def await_stage(self) -> None:
        """Wait until it is the stage, or has failed before, which is the next report."""
        birth, self._birth = self._birth, None
        try:
            if birth is not None:
                settle(birth)
        except SpawnError as error:
            number, _, step = error.args
            self._failure = Report(kind=ReportKind.ERROR, step=STEPS[step], errno=number)

    def await_end(self) -> None:
        """Wait until nothing more is said, for a moment at most: who needs no answer is not disturbed by us on its way,
        and what it has said is received then."""
        if self._armed is None:
            await_end(self.sync_fd, -1, int(_GLANCE_SECONDS * 1000))

    def await_fork(self) -> None:
        """The same, until a stage that forks the process which goes on has ended, too."""
        if self._armed is None:
            await_end(self.sync_fd, self.pidfd, int(_GLANCE_SECONDS * 1000))

    def receive(self) -> Report:
        """Wait for the next report. See `_receive`; failpoints are seen to here."""
        while (report := self._receive()).kind == ReportKind.FAILPOINT and self._armed is not None:
            try:
                waits = self._armed.passed(report.errno)
            except ValueError:
                return Report(kind=ReportKind.CLOSED)
            self.struck = report.step
            if waits:
                with contextlib.suppress(BrokenPipeError):
                    self._socket.send(b"g", socket.MSG_NOSIGNAL)
        return report

    def has_executed(self) -> bool:
        """Whether the end of the socket was the program's begin. A stage that died before bears its name still.

        Who dies gives its memory up before its descriptors, and an exec has the new one before it closes any (do_exit,
        begin_new_exec): so there is no moment between that could be taken for the other.
        """
        try:
            about, _, rest = _read(f"/proc/{self.pid}/stat").rpartition(b") ")
        except OSError:
            return True
        return rest.split()[_VSIZE] != b"0" or about.partition(b" (")[2] != _STAGE_NAME

    def _receive(self) -> Report:
        """What cannot be parsed counts as CLOSED: the peer may be hostile by then.

        Our caller serves a whole container meanwhile, and that container may see the process before it execs:
        one that it stopped (SIGSTOP), or that is beyond its limit (a lease on the program), is killed.
        """
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_LARGEST, _ROOM, socket.MSG_CMSG_CLOEXEC)
                break
            except ConnectionResetError:
                # It left without reading our word, which is told once, and first: what it said before comes now.
                continue
            except TimeoutError:
                self._kill_if_stuck()
        # Who has said something, or ended, has left our memory.
        self.await_stage()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            return failure
        fds = _descriptors(ancillary)
        report = _parse(data, fds)
        if report.fd < 0:
            for fd in fds:
                os.close(fd)
        return report

    def _kill_if_stuck(self) -> None:
        late = self._deadline is not None and time.monotonic() > self._deadline
        self.overdue = self.overdue or late
        if late or _is_stopped(self.pid):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def proceed(self) -> None:
        """Let the stage go on from where it waits. BrokenPipeError when it is gone."""
        failpoints.hit("nsexec.proceed.begun")
        self._socket.send(b"g", socket.MSG_NOSIGNAL)

    @property
    def sync_fd(self) -> int:
        """Our end of the launch socket: while a copy of it is open, a parked container stays."""
        return self._socket.fileno()

    def disconnect(self) -> None:
        self._socket.close()

    def close(self) -> None:
        self.disconnect()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def _read(path: str) -> bytes:
    """Of a process: the program that has just begun may wait for our processor."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _LARGEST)
    finally:
        os.close(descriptor)


def _is_stopped(pid: int) -> bool:
    """By a signal, or by a tracer in a container (proc(5), `status`); one of the host's own (strace) lets go again."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
        state, tracer = (_field(status, name) for name in (b"State", b"TracerPid"))
        return state == b"T" or (state == b"t" and not _shares_our_pids(int(tracer)))
    except OSError:
        return False


def _field(status: bytes, name: bytes) -> bytes:
    return status.partition(name + b":\t")[2].split(maxsplit=1)[0]


def _shares_our_pids(pid: int) -> bool:
    return Path(f"/proc/{pid}/ns/pid").stat().st_ino == Path("/proc/self/ns/pid").stat().st_ino


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def _parse(data: bytes, fds: list[int]) -> Report:
    if len(data) < _FIXED.size:
        return Report(kind=ReportKind.CLOSED)
    kind, step, errno, length = _FIXED.unpack_from(data)
    detail = data[_FIXED.size : _FIXED.size + length].decode("utf-8", "replace")
    if not ReportKind.ERROR <= kind <= ReportKind.FAILPOINT or step >= len(STEPS):
        return Report(kind=ReportKind.CLOSED)
    fd = fds[0] if kind in _CARRY and len(fds) == 1 else -1
    return Report(kind=ReportKind(kind), step=STEPS[step], errno=errno, detail=detail, fd=fd)


def spawn(
    plan: bytes,
    *,
    clone_flags: int = 0,
    network_fd: int = -1,
    cgroup_fd: int = -1,
    stdio: tuple[int, int, int],
    extra_fds: Sequence[int] = (),
    task_fds: Sequence[int] = (),
) -> Launch:
    """Start the stage with this plan, in the network namespace `network_fd`, born in the v2 group `cgroup_fd` and a
    member of the v1 groups whose `tasks` files are `task_fds`. SpawnError (errno, text, index into STEPS) leaves
    nothing behind; what fails between clone and exec is told by the first report."""
    failpoints.hit("nsexec.spawn.begun", lambda error: SpawnError(error.errno, error.strerror, STEPS.index("clone")))
    armed, words = None, b""
    if failpoints.any_set():
        # Not at the top: hardly any process is told to fail.
        from bulkhead.nsexec.points import arm

        plan, armed, words = arm(plan)
    birth = _nsexec.conceive(plan, clone_flags, network_fd, cgroup_fd, stdio, extra_fds, task_fds, words)
    launch = Launch(*bear(birth), birth, armed)
    failpoints.hit("nsexec.spawn.cloned")
    return launch


class Unborn:
    """A stage for which all is made ready. The descriptors it was given are its giver's, and stay open until it is
    begun, or forgotten with this object."""

    __slots__ = ("_birth",)

    def __init__(
        self,
        plan: bytes,
        *,
        cgroup_fd: int,
        stdio: tuple[int, int, int],
        extra_fds: Sequence[int],
        task_fds: Sequence[int],
    ) -> None:
        """Raises SpawnError. Nothing in it is set to fail: who has something set (`failpoints.any_set`) spawns."""
        self._birth = _nsexec.conceive(plan, 0, -1, cgroup_fd, stdio, extra_fds, task_fds)

    def begin(self) -> Launch:
        """Once. Raises SpawnError."""
        return Launch(*bear(self._birth), self._birth)
