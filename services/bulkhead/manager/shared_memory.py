"""/dev/shm of a container whose IPC namespace others may join (`--ipc shareable`).

A tmpfs in its data directory, mounted while it runs: a mount that several containers have cannot live in the mount
namespace of one. Any other container's /dev/shm does.
"""

from __future__ import annotations

import errno
from pathlib import Path

from bulkhead.errors import Conflict, Internal
from bulkhead.linux import hostmounts
from bulkhead.manager.sharing import ipc_owner, shares_memory
from bulkhead.model.container import Container
from bulkhead.model.instance import Instance
from bulkhead.runtime.defaults import DEFAULT_SHM_SIZE

_OPTIONS = ("nosuid", "noexec", "nodev", "mode=1777")


def prepared(container: Container, instance: Instance) -> str:
    """The path to be bound over /dev/shm, mounted if it is to be; nothing when the container has one to itself.

    Raises Conflict when that of another container is gone, Internal. Blocking.
    """
    owner = ipc_owner(container.spec)
    if owner is not None:
        return _of(owner, instance)
    if not shares_memory(container.spec):
        return ""
    place = instance.shared_memory(container.id)
    release(container, instance)
    size = container.spec.shm_size or DEFAULT_SHM_SIZE
    uid, gid = container.remapping.root if container.remapping is not None else (0, 0)
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        hostmounts.mount("tmpfs", "shm", place, (*_OPTIONS, f"size={size}", f"uid={uid}", f"gid={gid}"))
    except OSError as error:
        raise Internal(f"mounting shm tmpfs: {error.strerror}") from error
    return str(place)


def release(container: Container, instance: Instance) -> None:
    """Unmount it; who still has it keeps it. No error when it is not mounted. Raises Internal."""
    if shares_memory(container.spec):
        unmount(instance.shared_memory(container.id))


def unmount(place: Path) -> None:
    """Unmount one. Raises Internal."""
    try:
        hostmounts.unmount(place)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise Internal(f"cannot unmount {place}: {error.strerror}") from error


def _of(owner: str, instance: Instance) -> str:
    place = instance.shared_memory(owner)
    if not place.is_mount():
        raise Conflict(f"can't join IPC of container {owner}: container {owner} is not running")
    return str(place)
