"""Processes as the kernel knows them: start times, pidfds, the last words of one that is gone.

A pid alone is never believed: (pid, start time, boot id) names a process on disk, a pidfd in memory.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
# struct pidfd_info (linux/pidfd.h) up to exit_code: mask, cgroupid, ten ids, exit_code.
_PIDFD_INFO = struct.Struct("=QQ11Ii")
_PIDFD_INFO_SIZE = 64
_PIDFD_INFO_EXIT = 1 << 3
# _IOWR(0xFF, 11, struct pidfd_info)
_PIDFD_GET_INFO = 3 << 30 | _PIDFD_INFO_SIZE << 16 | 0xFF << 8 | 11
_libc = ctypes.CDLL(None, use_errno=True)
_STAT_STATE, _STAT_START_TIME, _STAT_EXIT_CODE = 0, 19, 49


def start_time(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat (clock ticks since boot); None when there is no such process."""
    fields = _stat(pid)
    return int(fields[_STAT_START_TIME]) if fields else None


def boot_id() -> str:
    """The kernel's random name for this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def open_verified(pid: int, started: int) -> int | None:
    """A pidfd of the process (pid, start time), or None when it is gone or the pid is another's now."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    # The pidfd is held first: if the start time matches afterwards, it is that process's.
    if start_time(pid) == started:
        return pidfd
    os.close(pidfd)
    return None


def exit_code_of(pidfd: int, pid: int) -> int | None:
    """How a process that is not our child ended: 0..255, 128+n for signal n; None while unknown.

    From the pidfd once it is reaped (PIDFD_GET_INFO, Linux 6.15), from /proc while it is a zombie.
    """
    status = _reaped_status(pidfd)
    if status is None:
        status = _zombie_status(pid)
    return None if status is None else exit_code(status)


def exit_code(status: int) -> int:
    """A wait(2) status as Docker reports it."""
    signal = status & 0x7F
    return 128 + signal if signal else status >> 8 & 0xFF


def become_subreaper() -> None:
    """Orphans below this process come to it instead of to init (prctl(2)). Raises OSError."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The command's name may hold spaces and parentheses; the last one closes it.
    return text[text.rindex(")") + 2 :].split()


def _reaped_status(pidfd: int) -> int | None:
    asked = bytearray(_PIDFD_INFO_SIZE)
    struct.pack_into("=Q", asked, 0, _PIDFD_INFO_EXIT)
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, asked)
    except OSError:
        return None
    fields = _PIDFD_INFO.unpack(bytes(asked))
    return int(fields[-1]) if fields[0] & _PIDFD_INFO_EXIT else None


def _zombie_status(pid: int) -> int | None:
    fields = _stat(pid)
    if not fields or fields[_STAT_STATE] != "Z":
        return None
    return int(fields[_STAT_EXIT_CODE])
