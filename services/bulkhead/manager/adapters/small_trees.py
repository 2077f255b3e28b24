"""Small trees deleted by whoever asks: on directory descriptors, within bounds, through no link."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from bulkhead.runtime.trees import empty_directory

# So many entries, so many levels of directories: more is left to who has time.
SMALL, SHALLOW = 64, 4


def empty(directory: int, most: int = SMALL, levels: int = SHALLOW) -> None:
    """Delete what is in a directory. Raises OSError for more than `most` entries or `levels` levels, of which a part is
    gone then.
    """
    empty_directory(directory, most, levels)


def erase(parent: int, name: str) -> None:
    """The same, and the directory too."""
    with opened(name, parent) as directory:
        empty(directory)
    os.rmdir(name, dir_fd=parent)


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
