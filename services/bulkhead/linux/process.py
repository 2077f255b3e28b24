"""Processes that other processes left: found again on the word of a file, and asked how they ended.

A pid alone is never believed: (pid, start time, boot id) names a process on disk, a pidfd in memory.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import os
import signal
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any

from bulkhead.linux import atomicfile, pidfd

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# <malloc.h>
_M_TRIM_THRESHOLD, _M_ARENA_MAX = -1, -8
# The end of the heap to keep: all of it.
_NEVER = ctypes.c_size_t(1 << 40)
# So that a thread finds one while the other is in use.
_ARENAS = 2
# Fields 3, 14 to 17, 22 and 52 of /proc/<pid>/stat (proc(5)), counted behind the command's name.
_STAT_STATE, _STAT_TIMES, _STAT_START_TIME, _STAT_EXIT_CODE = 0, slice(11, 15), 19, 49
# No such process; or a thread's number, or none that can be: how kernels say that differs.
_NO_PROCESS = (errno.ESRCH, errno.EINVAL, errno.ENOENT)
_libc = ctypes.CDLL(None, use_errno=True)


def start_time(pid: int) -> int | None:
    """Clock ticks since boot; None when there is no such process. Raises OSError when that cannot be told."""
    fields = _stat(pid)
    return int(fields[_STAT_START_TIME]) if fields else None


def cpu_ticks(pid: int) -> int:
    """What a process, and its children that it has waited for, have had of the CPU, in clock ticks; 0 when it is gone.

    Raises OSError when that cannot be told.
    """
    return sum(map(int, (_stat(pid) or [])[_STAT_TIMES]))


def boot_id() -> str:
    """The kernel's random name for this boot."""
    return atomicfile.read("/proc/sys/kernel/random/boot_id", 64).decode().strip()


def open_verified(pid: int, started: int) -> int | None:
    """A pidfd of the process (pid, start time), or None when it is gone or the pid is another's now.

    Raises OSError when that cannot be told: where descriptors are short, nobody is dead for that.
    """
    try:
        fd = pidfd.open_pid(pid)
    except OSError as error:
        if error.errno in _NO_PROCESS:
            return None
        raise
    try:
        # The pidfd is held first: if the start time matches afterwards, it is that process's.
        same = start_time(pid) == started
    except OSError:
        os.close(fd)
        raise
    if same:
        return fd
    os.close(fd)
    return None


def trim_memory() -> None:
    """Give back to the kernel what this process has freed (malloc_trim(3)); a C library without it keeps it."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def empty_memory() -> None:
    """As `trim_memory`, but the heap stays as large as it is: only the pages of freed pieces go."""
    trim = getattr(_libc, "malloc_trim", None)
    if trim is not None:
        trim(_NEVER)


def keep_heap() -> None:
    """Never make the heap smaller (mallopt(3), M_TRIM_THRESHOLD): its addresses stay what they are."""
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def share_arenas() -> None:
    """Let all threads allocate from two arenas (mallopt(3)), instead of eight for each CPU; before the first thread.

    Each arena keeps what its threads have freed, megabytes of buffers for each, and one more is made whenever more
    threads than ever allocate at once. Where the C library has no such setting nothing happens.
    """
    mallopt = getattr(_libc, "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def is_namespace_init(pid: int) -> bool:
    """Whether the process is pid 1 of a namespace below ours: all others in there die with it."""
    try:
        status = atomicfile.read(f"/proc/{pid}/status", 4096)
    except OSError:
        return False
    _, _, rest = status.partition(b"\nNSpid:")
    numbers = rest.partition(b"\n")[0].split()
    return len(numbers) > 1 and numbers[-1] == b"1"


def pid_of(descriptor: int) -> int:
    """The process of a pidfd (proc(5), fdinfo); 0 when it is gone."""
    try:
        told = atomicfile.read(f"/proc/self/fdinfo/{descriptor}", 4096)
    except OSError:
        return 0
    found = [line.split()[1] for line in told.splitlines() if line.startswith(b"Pid:")]
    return max(int(found[0]), 0) if found else 0


def zombie_exit_code(pid: int) -> int | None:
    """How somebody else's child ended that is not reaped yet: 0..255, 128+n for signal n; None otherwise."""
    try:
        fields = _stat(pid)
    except OSError:
        return None
    if not fields or fields[_STAT_STATE] != b"Z":
        return None
    return pidfd.decode_status(int(fields[_STAT_EXIT_CODE])).code


def is_stopped(pid: int) -> bool:
    """By a signal or a tracer (proc(5), state T and t)."""
    fields = _stat(pid)
    return fields is not None and fields[_STAT_STATE] in (b"T", b"t")


def waits_for_disk(pid: int) -> bool:
    """Or for something else that no signal ends (proc(5), state D)."""
    fields = _stat(pid)
    return fields is not None and fields[_STAT_STATE] == b"D"


def _stat(pid: int) -> list[bytes] | None:
    """/proc/<pid>/stat from its third field on: the second, the command's name, may hold anything."""
    try:
        stat = atomicfile.read(f"/proc/{pid}/stat", 4096)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat[stat.rindex(b")") + 2 :].split()


def set_title(title: str) -> None:
    """What ps shows of this process from now on."""
    _setproctitle.setproctitle(title)


def title(pid: int) -> str:
    """What ps shows of a process; nothing of one that is gone."""
    try:
        return atomicfile.read(f"/proc/{pid}/cmdline", 4096).rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""


def _load_setproctitle() -> Any:
    """The extension without its package: that imports `threading`, whose fork handlers write to 400 KB
    of every child's memory."""
    package = importlib.util.find_spec("setproctitle")
    assert package is not None and package.submodule_search_locations
    (place,) = Path(package.submodule_search_locations[0]).glob("_setproctitle.*.so")
    loader = ExtensionFileLoader("_setproctitle", str(place))
    spec = importlib.util.spec_from_loader("_setproctitle", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


_setproctitle = _load_setproctitle()


def end_with(parent: int) -> None:
    """Be killed when the parent, the process `parent`, ends (PR_SET_PDEATHSIG); at once if it has. Raises OSError."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def become_subreaper() -> None:
    """Orphans below this process come to it instead of to init (prctl(2)). Raises OSError."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
