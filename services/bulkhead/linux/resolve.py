"""openat2(2): paths below a directory that somebody hostile may write to, resolved without being led out of it."""

from __future__ import annotations

import errno
import os
import stat
import struct

from bulkhead.linux import syscall

_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _IN_ROOT = 0x01, 0x02, 0x04, 0x08, 0x10
_HOW = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve
_TRIES = 2000


def open_in_root(root: int, path: str, flags: int) -> int:
    """A descriptor (close-on-exec) of `path`, with directory `root` as "/" of every link and `..` on the way.

    Raises OSError; EAGAIN when somebody goes on renaming what is on the way.
    """
    return _open(root, os.fsencode(path), flags, _IN_ROOT | _NO_MAGICLINKS)


def open_directory_beneath(root: int, path: bytes) -> int:
    """A descriptor of directory `path` below `root`, on its device and with no symlink on the way.

    Raises OSError: ELOOP for a symlink, EXDEV for a way out, ENOENT, ENOTDIR.
    """
    # The same device: a mount below a layer would be a mistake of ours, not a place to write.
    return _open(root, path, os.O_RDONLY | os.O_DIRECTORY, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS | _NO_XDEV)


def read_regular(root: int, path: str, limit: int) -> bytes | None:
    """At most `limit` bytes of a regular file in `root`; None when there is no such file, or another kind of file."""
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with open(fd, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(fd)


def _open(root: int, path: bytes, flags: int, how: int) -> int:
    told = _HOW.pack(flags | os.O_CLOEXEC, 0, how)
    for _ in range(_TRIES):
        try:
            return syscall.call("openat2", root, path, told, len(told))
        except OSError as error:
            # EAGAIN: somebody renames on the way; it may be a container that does nothing else.
            if error.errno not in (errno.EINTR, errno.EAGAIN):
                raise OSError(error.errno, os.strerror(error.errno or 0), os.fsdecode(path)) from None
            os.sched_yield()
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), os.fsdecode(path))
