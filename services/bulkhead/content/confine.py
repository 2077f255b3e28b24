"""Staying inside one directory: a root of one's own for a worker that reads what strangers wrote."""

from __future__ import annotations

import ctypes
import errno
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CLONE_NEWNS = 0x00020000
_MS_BIND = 0x1000
_MS_PRIVATE_RECURSIVE = (1 << 18) | 0x4000
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_SIGKILL = 9


def enter_private_root(directory: str) -> None:
    """Make `directory` the root of this process, in a mount namespace that holds nothing else.

    The process must have one thread. Raises OSError.
    """
    leave_mounts()
    path = os.fsencode(directory)
    _mount(path, path, _MS_BIND)
    enter_mount(directory)


def leave_mounts() -> None:
    """A mount namespace of this process's own, whose mounts nobody else sees, nor do others' come here. OSError."""
    _check(_LIBC.unshare(_CLONE_NEWNS), "unshare")
    _mount(None, b"/", _MS_PRIVATE_RECURSIVE)


def enter_mount(directory: str) -> None:
    """Make what is mounted at `directory` the root, and the only mounts there are. Raises OSError."""
    os.chdir(directory)
    # The old root is stacked onto the new one and then taken off: no directory for it is needed.
    _check(_LIBC.syscall(_SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _check(_LIBC.umount2(b".", _MNT_DETACH), "umount2")
    os.chdir("/")


def die_with_parent(parent: int) -> None:
    """Be killed when the thread that started this process ends, gain no privilege by exec. Raises OSError."""
    _check(_LIBC.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0), "prctl")
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        raise ProcessLookupError(errno.ESRCH, "the parent is gone")


def _mount(source: bytes | None, target: bytes, flags: int) -> None:
    _check(_LIBC.mount(source, target, None, ctypes.c_ulong(flags), None), "mount")


def _check(result: int, name: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
