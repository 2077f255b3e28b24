"""Small trees deleted by whoever asks: on directory descriptors, within bounds, through no link."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

# So many entries, so many levels of directories: more is left to who has time.
SMALL, SHALLOW = 64, 4


def empty(directory: int, most: int = SMALL, levels: int = SHALLOW) -> int:
    """Delete what is in a directory; how many entries more there might have been.

    Raises OSError for more than `most` entries or `levels` levels, of which a part is gone then.
    """
    with os.scandir(directory) as entries:
        found = list(islice(entries, most + 1))
    most -= len(found)
    if most < 0 or not levels:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    for entry in found:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.name, dir_fd=directory)
        elif not removed(directory, entry.name):
            most = erase(directory, entry.name, most, levels - 1)
    return most


def erase(parent: int, name: str, most: int = SMALL, levels: int = SHALLOW) -> int:
    """The same, and the directory too."""
    with opened(name, parent) as directory:
        most = empty(directory, most, levels)
    os.rmdir(name, dir_fd=parent)
    return most


def removed(directory: int, name: str) -> bool:
    """Whether a directory was empty, as those of a container that has written nothing are."""
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


@contextlib.contextmanager
def opened(name: str | Path, parent: int | None = None) -> Iterator[int]:
    """A descriptor of a directory that is no link."""
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)
