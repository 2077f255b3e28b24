"""The clone/exec core: starts `nsinit` in new namespaces and speaks with it over the launch socket.

`spawn` clones without copying this process's memory and executes the sealed stage program; from then on
the stage reports what happens (`Launch.receive`) until it execs the container's program, which closes
the socket. Nothing here knows OCI: see bulkhead.runtime.
"""

from __future__ import annotations

import array
import enum
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from bulkhead.nsexec import _nsexec
from bulkhead.nsexec._nsexec import STEPS, SpawnError, check_plan, prepare

__all__ = ["STEPS", "Launch", "Report", "ReportKind", "SpawnError", "check_plan", "prepare", "spawn"]

_FIXED = struct.Struct("=IIiI")
_LARGEST = 1024


class ReportKind(enum.IntEnum):
    """enum report_kind in csrc/steps.h; CLOSED is the end of the socket: exec worked, or the stage died."""

    CLOSED = 0
    ERROR = 1
    WARNING = 2
    MOUNTED = 3
    CONSOLE = 4
    PID = 5
    READY = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One message of the stage. `errno` holds the pid for PID; `fd` is owned by the receiver."""

    kind: ReportKind
    step: str = "none"
    errno: int = 0
    detail: str = ""
    fd: int = -1


class Launch:
    """A stage on its way: its pid, pidfd and our end of the launch socket, all owned by this object."""

    __slots__ = ("_socket", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, sync: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, sync)

    def receive(self) -> Report:
        """Wait for the next report. What cannot be parsed counts as CLOSED: the peer may be hostile by then."""
        room = socket.CMSG_SPACE(struct.calcsize("i"))
        try:
            data, ancillary, _, _ = self._socket.recvmsg(_LARGEST, room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return Report(kind=ReportKind.CLOSED)
        fds = _descriptors(ancillary)
        report = _parse(data, fds)
        if report.fd < 0:
            for fd in fds:
                os.close(fd)
        return report

    def proceed(self) -> None:
        """Let the stage go on from where it waits. BrokenPipeError when it is gone."""
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
    if not ReportKind.ERROR <= kind <= ReportKind.READY or step >= len(STEPS):
        return Report(kind=ReportKind.CLOSED)
    fd = fds[0] if kind == ReportKind.CONSOLE and len(fds) == 1 else -1
    return Report(kind=ReportKind(kind), step=STEPS[step], errno=errno, detail=detail, fd=fd)


def spawn(
    plan: bytes,
    *,
    clone_flags: int = 0,
    cgroup_fd: int = -1,
    stdio: tuple[int, int, int],
    extra_fds: Sequence[int] = (),
) -> Launch:
    """Start the stage with this plan. SpawnError (errno, text, index into STEPS) leaves nothing behind."""
    return Launch(*_nsexec.spawn(plan, clone_flags, cgroup_fd, stdio, extra_fds))
