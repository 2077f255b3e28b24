"""Overlay file systems: what is left on disk between two mounts (Documentation/filesystems/overlayfs.rst)."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

MAX_LOWER = 500  # OVL_MAX_STACK

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_SET_STRING, _SET_FD, _CREATE = 1, 5, 6
_READ_ONLY = 0x1 | 0x2 | 0x4 | 0x8  # MOUNT_ATTR_RDONLY, _NOSUID, _NODEV, _NOEXEC
_LONGEST_STRING = 255  # of fsconfig(2)


def open_view(lower: Sequence[str]) -> int:
    """A descriptor of the root of `lower` (topmost first) merged, read-only and mounted nowhere; Linux 6.5.

    It is to be walked with `resolve.open_in_root` alone: absolute symlinks in it name the layers' own root. The
    view ends with its last descriptor. Raises OSError.
    """
    if len(lower) == 1:
        return os.open(lower[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    context = _call(_SYS_FSOPEN, b"overlay", _CLOEXEC)
    try:
        for directory in lower:
            _add_lower(context, directory)
        _call(_SYS_FSCONFIG, context, _CREATE, None, None, 0)
        return _call(_SYS_FSMOUNT, context, _CLOEXEC, _READ_ONLY)
    finally:
        os.close(context)


def _add_lower(context: int, directory: str) -> None:
    path = os.fsencode(directory)
    if len(path) <= _LONGEST_STRING:
        _call(_SYS_FSCONFIG, context, _SET_STRING, b"lowerdir+", path, 0)
        return
    # Longer paths go in as descriptors (Linux 6.13).
    fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(_SYS_FSCONFIG, context, _SET_FD, b"lowerdir+", None, fd)
    finally:
        os.close(fd)


def _call(number: int, *arguments: object) -> int:
    result = _LIBC.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def forgive_volatile(work: str) -> None:
    """Let an upper directory that was mounted `volatile` be mounted again.

    The kernel refuses it so that nobody trusts unsynced files after a crash; that is for the caller to know.
    """
    marker = Path(work, "work", "incompat", "volatile")
    with contextlib.suppress(FileNotFoundError):
        for entry in marker.iterdir():
            entry.unlink()
        marker.rmdir()
