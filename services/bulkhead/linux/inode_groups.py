"""Where a file system puts the inodes of what is made in a directory.

ext4 makes a file in its directory's block group, from the group's first free inode on, and steps over each inode
that was deleted in the last minutes one by one (`recently_deleted` in fs/ext4/ialloc.c): a tree of files beside
a deleted one is made several times slower. Directories in one that has the T attribute are told apart instead:
each begins in a block group with few others (chattr(1), the Orlov allocator).
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
from pathlib import Path

_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_FS_TOPDIR_FL = 0x00020000


def spread_children(directory: Path) -> None:
    """Have the directories that will be made in `directory` begin in block groups of their own.

    A hint: nothing happens where the file system knows no such thing. Raises OSError when there is no such directory.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            _set(fd, _flags(fd) | _FS_TOPDIR_FL)
    finally:
        os.close(fd)


def are_children_spread(directory: Path) -> bool:
    """Whether `directory` has the attribute. Raises OSError, also when its file system has no attributes."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return bool(_flags(fd) & _FS_TOPDIR_FL)
    finally:
        os.close(fd)


def _flags(fd: int) -> int:
    flags = array.array("l", [0])
    fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
    return flags[0]


def _set(fd: int, flags: int) -> None:
    fcntl.ioctl(fd, _FS_IOC_SETFLAGS, array.array("l", [flags]))
