"""A directory's content copied into another directory, by descriptors only: no symlink is followed on either side.

Kept: owner, mode, times, extended attributes, hard links, symlinks, FIFOs and device nodes. Sockets are left out.
Attributes that only the kernel may read (`trusted.*`) are left out too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1 << 24
_NOT_POSSIBLE = frozenset((errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))
# A tree deeper than this is nobody's data; each level costs two descriptors.
_DEEPEST = 400


@dataclass(slots=True)
class _Copy:
    """One copy: what has been copied under another name already, by (device, inode)."""

    root: int
    links: dict[tuple[int, int], str] = field(default_factory=dict)


def copy_tree(source: int, target: int) -> None:
    """Copy what is in directory `source` into directory `target`, then `source`'s own owner, mode and attributes.

    Both are descriptors. Raises OSError; the target then holds a part.
    """
    _copy_directory(_Copy(root=target), source, target, "", 0)


def _copy_directory(copy: _Copy, source: int, target: int, path: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
    with os.scandir(source) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        _copy_entry(copy, source, target, name, f"{path}{name}", depth)
    _copy_attributes_of_open(source, target, os.fstat(source))


def _copy_entry(copy: _Copy, source: int, target: int, name: str, path: str, depth: int) -> None:
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        os.mkdir(name, 0o700, dir_fd=target)
        with _opened(name, _DIRECTORY, source) as inner, _opened(name, _DIRECTORY, target) as made:
            _copy_directory(copy, inner, made, f"{path}/", depth + 1)
    elif stat.S_ISSOCK(mode) or (found.st_nlink > 1 and _linked(copy, found, target, name, path)):
        return
    elif stat.S_ISREG(mode):
        _copy_file(source, target, name, found)
    else:
        _copy_special(source, target, name, found)


def _linked(copy: _Copy, found: os.stat_result, target: int, name: str, path: str) -> bool:
    """Make another name of a file that has been copied; remember one that has not."""
    first = copy.links.setdefault((found.st_dev, found.st_ino), path)
    if first == path:
        return False
    # The path was made by this copy, in a tree that nobody else has yet.
    os.link(first, name, src_dir_fd=copy.root, dst_dir_fd=target, follow_symlinks=False)
    return True


def _copy_file(source: int, target: int, name: str, found: os.stat_result) -> None:
    # Non-blocking and checked again: what was a file a moment ago may be a FIFO now.
    with (
        _opened(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, source) as inner,
        _opened(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, target, 0o600) as made,
    ):
        if stat.S_ISREG(os.fstat(inner).st_mode):
            _copy_bytes(inner, made)
            _copy_attributes_of_open(inner, made, found)


def _copy_bytes(source: int, target: int) -> None:
    try:
        while os.copy_file_range(source, target, _PIECE):
            pass
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            raise
        while os.sendfile(target, source, None, _PIECE):
            pass


def _copy_special(source: int, target: int, name: str, found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
    os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_attributes_of_open(source: int, target: int, found: os.stat_result) -> None:
    os.fchown(target, found.st_uid, found.st_gid)
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    # After the owner: a change of it takes capabilities away.
    for attribute in os.listxattr(source):
        if not attribute.startswith("trusted."):
            with contextlib.suppress(OSError):  # the target's file system may not have such
                os.setxattr(target, attribute, os.getxattr(source, attribute))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


@contextlib.contextmanager
def _opened(name: str, flags: int, directory: int, mode: int = 0) -> Iterator[int]:
    fd = os.open(name, flags, mode, dir_fd=directory)
    try:
        yield fd
    finally:
        os.close(fd)
