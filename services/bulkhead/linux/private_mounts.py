"""A mount namespace of this process's own, and an overlay in it (mount_namespaces(7), move_mount(2))."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

from bulkhead.linux import overlay, syscall
from bulkhead.linux.mounts import MS_REC, MS_SLAVE
from bulkhead.linux.namespaces import NEWNS

_libc = ctypes.CDLL(None, use_errno=True)
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100
_MNT_DETACH = 2


def enter() -> None:
    """Leave the caller's mounts: what is mounted from now on, nobody else sees; what others mount is still seen.

    The process must have one thread. Raises OSError.
    """
    _check(_libc.unshare(NEWNS), "unshare")
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(MS_SLAVE | MS_REC), None), "mount")


def hide(path: str) -> None:
    """Take a mount out of this namespace; what uses it keeps it. Raises OSError."""
    _check(_libc.umount2(os.fsencode(path), _MNT_DETACH), "umount2")


def mount_overlay(target: str, *, lower: Sequence[str], upper: str, work: str, volatile: bool = False) -> None:
    """Mount an overlay at `target`; `lower` is topmost first. Raises OSError (EINVAL below Linux 6.5)."""
    attach(overlay.detached(lower, upper=upper, work=work, volatile=volatile), target)


def attach(tree: int, target: str) -> None:
    """Mount a detached tree at `target`; its descriptor is closed. Raises OSError."""
    try:
        syscall.call("move_mount", tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def _check(result: int, name: str) -> None:
    if result != 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, f"{name}: {os.strerror(number)}")
