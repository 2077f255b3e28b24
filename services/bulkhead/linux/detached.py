"""Read-only views of trees as mounts that are attached nowhere: only who holds the descriptor can look.

open_tree(2), fsmount(2), mount_setattr(2); Linux 5.12 and later. Device nodes cannot be opened through such a view,
and closing the descriptor is the whole clean-up. It is to be walked with `resolve.open_in_root` alone: absolute
symlinks in it lead to the caller's own root.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

from bulkhead.linux import mounts, overlay, syscall

_AT_EMPTY_PATH = 0x1000
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _NOATIME = 0x1, 0x2, 0x4, 0x8, 0x10
_ATIME = 0x70
_LOCKED = _RDONLY | _NOSUID | _NODEV | _NOEXEC | _NOATIME


def view(layers: Sequence[str]) -> int:
    """A descriptor of what `layers` (topmost first) are together, read-only. Raises OSError.

    An overlay's upper directory may be among them, also while a container writes to it: what is looked up is what
    is there at that moment.
    """
    mounted = tree(layers)
    try:
        # What these calls give is an O_PATH descriptor; the mount lives as long as anything in it is open.
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mounted)
    finally:
        os.close(mounted)


def tree(layers: Sequence[str]) -> int:
    """The same as a descriptor (O_PATH) to resolve paths from; also those with `..` in them.

    Once it is closed the mount belongs to no namespace, and each step through it touches the lock of all mounts: to
    openat2(2) that looks as if somebody were mounting all the time.
    """
    return _clone(layers[0]) if len(layers) == 1 else overlay.detached(layers, attributes=_LOCKED)


def _clone(path: str) -> int:
    tree = mounts.clone_tree(path, recursive=False)
    try:
        attributes = struct.pack("=4Q", _LOCKED, _ATIME, 0, 0)  # struct mount_attr: set, clear, propagation, userns
        syscall.call("mount_setattr", tree, b"", _AT_EMPTY_PATH, attributes, len(attributes))
    except OSError:
        os.close(tree)
        raise
    return tree
