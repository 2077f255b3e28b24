"""What an image has at the target of a mount goes into an empty volume, once (Docker's copy-up)."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from bulkhead.content.durable import disk_errors
from bulkhead.linux import detached, resolve
from bulkhead.linux.treecopy import copy_tree
from bulkhead.manager.volumes.places import Places


def _image_has(lower: Sequence[str], target: str) -> bool:
    """Whether `target` may be in one of the layers. Cheap: a symlink on the way counts as yes. Blocks."""
    path = ""
    for part in target.strip("/").split("/"):
        path = f"{path}/{part}" if path else part
        kinds = [found for directory in lower if (found := _kind(Path(directory, path))) is not None]
        if not kinds:
            return False
        if any(stat.S_ISLNK(kind) for kind in kinds):
            return True
    return True


def fill(places: Places, name: str, lower: Sequence[str], target: str, *, in_place: bool) -> None:
    """Copy the directory `target` of the image into volume `name` if that is empty. Blocks.

    The volume is exchanged whole, unless it is mounted somewhere (`in_place`). Nothing is done when the image has no
    such directory. Raises Internal, ResourceExhausted: then the volume is as it was, or partly filled in place.
    """
    if not places.is_empty(name) or not _image_has(lower, target):
        return
    with disk_errors(f"copy {target} of the image into volume {name}"):
        source = _open(lower, target)
        if source is None:
            return
        try:
            _copy(places, name, source, in_place=in_place)
        finally:
            os.close(source)


def _copy(places: Places, name: str, source: int, *, in_place: bool) -> None:
    if in_place:
        _copy_into(source, places.data(name))
        return
    filled = places.begin_filling(name)
    try:
        _copy_into(source, filled)
    except BaseException:
        places.abandon_filling(filled)
        raise
    places.end_filling(name, filled)


def _copy_into(source: int, directory: Path) -> None:
    target = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        copy_tree(source, target)
    finally:
        os.close(target)


def _open(lower: Sequence[str], target: str) -> int | None:
    view = detached.tree(lower)
    try:
        return resolve.open_in_root(view, target, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    finally:
        os.close(view)


def _kind(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except OSError:
        return None
