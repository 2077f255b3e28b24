"""Processes by descriptor: signal, reap, start time (pidfd_open(2), waitid(2), proc(5))."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
from dataclasses import dataclass

# ioctl PIDFD_GET_INFO (Linux 6.13; with exit codes 6.15): _IOWR(0xFF, 11, struct pidfd_info)
_GET_INFO = 0xC040FF0B
_INFO = struct.Struct("=QQ11Ii")
_INFO_EXIT = 1 << 3
_STAT_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """How a process ended: 0..255, or 128 + signal as shells and Docker report it."""

    code: int
    signal: int = 0


def open_pid(pid: int) -> int:
    """A pidfd; OSError ESRCH when there is no such process."""
    return os.pidfd_open(pid)


def start_time(pid: int) -> int:
    """Field 22 of /proc/<pid>/stat in clock ticks since boot; ProcessLookupError when it is gone."""
    # By bare calls: it is asked for every container.
    try:
        file = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, "no such process") from None
    try:
        stat = os.read(file, _STAT_BYTES)
    finally:
        os.close(file)
    # The second field may hold anything, so count from its end.
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def is_child(pid: int) -> bool:
    """Whether it is a child of this process, dead or alive, that has not been reaped."""
    try:
        # __WALL: a stage that has not exec'd yet has no exit signal.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT | 0x40000000)
    except ChildProcessError:
        return False
    return True


def send_signal(pidfd: int, number: int) -> bool:
    """False when the process has already ended."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def reap(pidfd: int) -> ExitStatus | None:
    """Exit status without waiting; None while it runs.

    For a process that somebody else has reaped the status comes from the pidfd itself (Linux 6.15);
    ChildProcessError where the kernel cannot tell.
    """
    return _reap(pidfd, os.WEXITED | os.WNOHANG)


def wait(pidfd: int) -> ExitStatus:
    """As `reap`, but blocks until the process ends (which must be a child of this one)."""
    status = _reap(pidfd, os.WEXITED)
    assert status is not None
    return status


def _reap(pidfd: int, options: int) -> ExitStatus | None:
    try:
        # __WALL: a stage that has not exec'd yet has no exit signal.
        info = os.waitid(os.P_PIDFD, pidfd, options | 0x40000000)
    except ChildProcessError:
        return _recorded(pidfd)
    if info is None:
        return None
    if info.si_code == os.CLD_EXITED:
        return ExitStatus(code=info.si_status)
    return ExitStatus(code=128 + info.si_status, signal=info.si_status)


def _recorded(pidfd: int) -> ExitStatus | None:
    request = bytearray(_INFO.pack(_INFO_EXIT, *(0,) * 13))
    try:
        fcntl.ioctl(pidfd, _GET_INFO, request)
    except ProcessLookupError:
        raise ChildProcessError(errno.ECHILD, "its exit status is lost") from None
    except OSError as error:
        raise ChildProcessError(errno.ECHILD, "not a child of this process") from error
    mask, status = _INFO.unpack(request)[0], _INFO.unpack(request)[-1]
    if not mask & _INFO_EXIT:
        return None
    return decode_status(status)


def decode_status(status: int) -> ExitStatus:
    """The status word of wait(2)."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return ExitStatus(code=128 + number, signal=number)
    return ExitStatus(code=os.WEXITSTATUS(status))
