"""Overlay file systems: made attached nowhere, and what is left on disk between two mounts
(Documentation/filesystems/overlayfs.rst, fsopen(2), fsconfig(2), fsmount(2))."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from bulkhead.linux import alarm, fsids, mounts, syscall

MAX_LOWER = 500  # OVL_MAX_STACK

_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_SET_FLAG, _SET_STRING, _SET_FD, _CREATE = 0, 1, 5, 6
# fsconfig takes strings of up to this many bytes; a longer path goes in as a descriptor (Linux 6.13).
_LONGEST_STRING = 255
# What nsinit sets too: nothing in the directories may steer the overlay.
_OPTIONS = ((b"index", b"off"), (b"metacopy", b"off"), (b"redirect_dir", b"nofollow"))


# A directory by its path, or open.
Directory = str | int


def detached(
    lower: Sequence[Directory],
    *,
    upper: Directory = "",
    work: Directory = "",
    volatile: bool = False,
    attributes: int = 0,
) -> int:
    """A descriptor (O_PATH) of a new overlay's root; `lower` is topmost first, `attributes` are MOUNT_ATTR_*.

    Raises OSError: EINVAL for an upper directory below Linux 6.5, and for long paths and descriptors below 6.13.
    """
    context = syscall.call("fsopen", b"overlay", _CLOEXEC)
    try:
        _name_lower(context, lower)
        for key, value in _OPTIONS:
            _set(context, key, value)
        if upper != "":
            _set_path(context, b"upperdir", upper)
            _set_path(context, b"workdir", work)
            _set(context, b"uuid", b"off")
        if volatile:
            syscall.call("fsconfig", context, _SET_FLAG, b"volatile", None, 0)
        syscall.call("fsconfig", context, _CREATE, None, None, 0)
        return syscall.call("fsmount", context, _CLOEXEC, attributes)
    finally:
        os.close(context)


def idmapped(
    lower: Sequence[str], *, upper: str, work: str, users: int, owner: tuple[int, int], volatile: bool = False
) -> int:
    """The same with ids as the user namespace `users` maps them: on disk they are those of the container.

    `owner` are the host's ids of that namespace's root. Nothing is mounted anywhere but in the overlay itself. Raises
    OSError: EINVAL for a file system that cannot do it (FS_ALLOW_IDMAP), and below Linux 6.15, which takes no layers
    that are not mounted.
    """
    with contextlib.ExitStack() as opened:

        def shown(path: str) -> int:
            tree = mounts.clone_tree(path, recursive=False)
            opened.callback(os.close, tree)
            mounts.map_ids(tree, users, recursive=False)
            return tree

        def below(directory: int, path: str) -> int:
            found = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
            opened.callback(os.close, found)
            return found

        layers = [shown(directory) for directory in lower]
        both = os.path.commonpath((upper, work))  # the kernel wants these two on one mount
        pair = shown(both)
        upper_fd, work_fd = (below(pair, os.path.relpath(path, both)) for path in (upper, work))
        # What the kernel makes in the work directory is made by whoever mounts, who must be somebody there.
        with fsids.owner(*owner):
            return detached(layers, upper=upper_fd, work=work_fd, volatile=volatile)


def _name_lower(context: int, lower: Sequence[Directory]) -> None:
    try:
        for directory in lower:
            _set_path(context, b"lowerdir+", directory)
    except OSError as error:
        together = ":".join(directory for directory in lower if isinstance(directory, str))
        if not together:
            raise
        if error.errno != errno.EINVAL or len(os.fsencode(together)) > _LONGEST_STRING:
            raise
        _set(context, b"lowerdir", os.fsencode(together))  # Linux before 6.5


def _set_path(context: int, key: bytes, path: Directory) -> None:
    if isinstance(path, int):
        syscall.call("fsconfig", context, _SET_FD, key, None, path)
        return
    encoded = os.fsencode(path)
    if len(encoded) <= _LONGEST_STRING:
        _set(context, key, encoded)
        return
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syscall.call("fsconfig", context, _SET_FD, key, None, fd)
    finally:
        os.close(fd)


def _set(context: int, key: bytes, value: bytes) -> None:
    syscall.call("fsconfig", context, _SET_STRING, key, value, 0)


def lock_in_use(work: str) -> int:
    """A descriptor which, while it is open, says that the overlay with this work directory is mounted still: for a
    mount that is attached nowhere, on its way out. Raises OSError."""
    fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def await_unused(work: str, seconds: float) -> None:
    """Wait until it is not. Two mounts of the same directories are nobody's idea (the kernel warns, and that is all).

    Blocking, in the main thread. Nothing is waited for where the directory is missing. Raises TimeoutError.
    """
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _lock_shared(fd, seconds)
        finally:
            os.close(fd)


def _lock_shared(fd: int, seconds: float) -> None:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return
    with alarm.limited(seconds):
        fcntl.flock(fd, fcntl.LOCK_SH)


def forgive_volatile(work: str) -> None:
    """Let an upper directory that was mounted `volatile` be mounted again.

    The kernel refuses it so that nobody trusts unsynced files after a crash; that is for the caller to know.
    """
    marker = Path(work, "work", "incompat", "volatile")
    with contextlib.suppress(FileNotFoundError):
        for entry in marker.iterdir():
            entry.unlink()
        marker.rmdir()
