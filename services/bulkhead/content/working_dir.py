"""The working directory of a container that does not run yet, made where its image has none.

Docker makes it at the create: who copies files into it before the start finds it, `docker diff` tells of it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from bulkhead.content.durable import translated
from bulkhead.errors import InvalidArgument
from bulkhead.linux import detached, overlay, resolve

_MODE = 0o755


def make(path: str, *, lower: Sequence[str], upper: str, work: str) -> None:
    """Have directory `path` (absolute, normal) in the root file system of these layers, which nobody has mounted.

    What is in the way only now, or cannot be made here on this kernel, the start will tell of. Blocking. Raises
    InvalidArgument for what is no directory, ResourceExhausted, Internal.
    """
    try:
        if not _is_there(path, (upper, *lower)):
            _make_in_layer(path, lower, upper, work)
    except NotADirectoryError:
        raise InvalidArgument(f"Cannot mkdir: {path} is not a directory") from None
    except FileExistsError:
        return  # a symlink that leads nowhere
    except OSError as error:
        if error.errno != errno.EINVAL:  # Linux before 6.5
            raise translated(error, f"make working directory {path}") from error


def _is_there(path: str, layers: Sequence[str]) -> bool:
    root = detached.tree(layers)
    try:
        os.close(resolve.open_in_root(root, path, os.O_PATH | os.O_DIRECTORY))
    except FileNotFoundError:
        return False
    finally:
        os.close(root)
    return True


def _make_in_layer(path: str, lower: Sequence[str], upper: str, work: str) -> None:
    """Without a wait for the disk, as for an overlay that is not volatile: after a power loss the start makes it."""
    root = overlay.detached(lower, upper=upper, work=work, volatile=True)
    try:
        _make_below(root, path)
    finally:
        os.close(root)
        overlay.forgive_volatile(work)


def _make_below(root: int, path: str) -> None:
    parent, _, name = path.rpartition("/")
    try:
        above = resolve.open_in_root(root, parent or "/", os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        _make_below(root, parent)
        above = resolve.open_in_root(root, parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.mkdir(name, _MODE, dir_fd=above)
    finally:
        os.close(above)
