"""Read-only views of trees as mounts that are attached nowhere: only who holds the descriptor can look.

open_tree(2), fsopen(2), fsconfig(2), fsmount(2), mount_setattr(2); Linux 5.12 and later. Device nodes cannot be
opened through such a view, and closing the descriptor is the whole clean-up.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

_LIBC = ctypes.CDLL(None, use_errno=True)
_OPEN_TREE, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 430, 431, 432, 442
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_SET_STRING, _CREATE = 1, 6  # FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _NOATIME = 0x1, 0x2, 0x4, 0x8, 0x10
_ATIME = 0x70
_LOCKED = _RDONLY | _NOSUID | _NODEV | _NOEXEC | _NOATIME


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def view(layers: Sequence[str]) -> int:
    """A descriptor of what `layers` (topmost first) are together, read-only. Raises OSError.

    An overlay's upper directory may be among them, also while a container writes to it: what is looked up is what
    is there at that moment.
    """
    mounted = _clone(layers[0]) if len(layers) == 1 else _overlay(layers)
    try:
        # What these calls give is an O_PATH descriptor; the mount lives as long as anything in it is open.
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mounted)
    finally:
        os.close(mounted)


def _clone(path: str) -> int:
    tree = _call(_OPEN_TREE, _AT_FDCWD, path.encode(), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        attributes = _MountAttr(_LOCKED, _ATIME, 0, 0)
        size = ctypes.sizeof(attributes)
        _call(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), ctypes.c_size_t(size))
    except OSError:
        os.close(tree)
        raise
    return tree


def _overlay(layers: Sequence[str]) -> int:
    context = _call(_FSOPEN, b"overlay", _CLOEXEC)
    try:
        _name_layers(context, layers)
        for key, value in ((b"index", b"off"), (b"metacopy", b"off"), (b"redirect_dir", b"nofollow")):
            _set(context, key, value)
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _CLOEXEC, _LOCKED)
    finally:
        os.close(context)


def _name_layers(context: int, layers: Sequence[str]) -> None:
    try:
        for layer in layers:
            _set(context, b"lowerdir+", layer.encode())
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Linux before 6.8 takes all of them in one option, of at most 255 bytes by this call.
        _set(context, b"lowerdir", ":".join(layers).encode())


def _set(context: int, key: bytes, value: bytes) -> None:
    _call(_FSCONFIG, context, _SET_STRING, key, value, 0)


def _call(number: int, *arguments: object) -> int:
    result = int(_LIBC.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
