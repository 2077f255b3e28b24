"""A mount namespace of this process's own, and an overlay in it (mount_namespaces(7), fsopen(2))."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

from bulkhead.linux.mounts import MS_REC, MS_SLAVE
from bulkhead.linux.namespaces import NEWNS

_libc = ctypes.CDLL(None, use_errno=True)
# Numbers 424 and up are the same on every architecture.
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432
_SET_FLAG, _SET_STRING, _SET_FD, _CREATE = 0, 1, 5, 6
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100
_MNT_DETACH = 2
# fsconfig takes strings below this; a longer path goes in as a descriptor (6.13).
_LONGEST_STRING = 255


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
    context = _call(_FSOPEN, b"overlay", _FSOPEN_CLOEXEC)
    try:
        for layer in lower:
            _set_path(context, b"lowerdir+", layer)
        _set_path(context, b"upperdir", upper)
        _set_path(context, b"workdir", work)
        for key, value in _OPTIONS:
            _call(_FSCONFIG, context, _SET_STRING, key, value, 0)
        if volatile:
            _call(_FSCONFIG, context, _SET_FLAG, b"volatile", None, 0)
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        mounted = _call(_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        _call(_MOVE_MOUNT, mounted, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(mounted)


# What nsinit sets too: nothing in the upper directory may steer the overlay.
_OPTIONS = ((b"index", b"off"), (b"metacopy", b"off"), (b"redirect_dir", b"nofollow"), (b"uuid", b"off"))


def _set_path(context: int, key: bytes, path: str) -> None:
    encoded = os.fsencode(path)
    if len(encoded) <= _LONGEST_STRING:
        _call(_FSCONFIG, context, _SET_STRING, key, encoded, 0)
        return
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _call(_FSCONFIG, context, _SET_FD, key, None, fd)
    finally:
        os.close(fd)


def _call(number: int, *arguments: int | bytes | None) -> int:
    widened = [ctypes.c_long(each) if isinstance(each, int) else ctypes.c_char_p(each) for each in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *widened))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _check(result: int, name: str) -> None:
    if result != 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, f"{name}: {os.strerror(number)}")
