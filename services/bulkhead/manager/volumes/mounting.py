"""Volumes that are file systems of their own (tmpfs, NFS, a block device): mounted once while anybody runs with them.

They are the one kind of mount that the host's table shows: a tmpfs mounted per container would be another one each
time, and NFS has to be spoken to from the host's network.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Collection
from pathlib import Path

from bulkhead.content.aside import Apart
from bulkhead.content.durable import disk_errors
from bulkhead.errors import Internal
from bulkhead.linux import hostmounts
from bulkhead.model.volume import Volume

# A file server that does not answer holds mount(2) for minutes; the caller does not wait that long.
_SECONDS = 30.0
# Those of file servers that are away stay: others must not wait for them.
_AT_ONCE = 64


class Mounting:
    """Mounts and unmounts, each in a thread of its own pool's."""

    def __init__(self) -> None:
        self._servers = Apart(_AT_ONCE, "mounts")

    async def mount(self, volume: Volume, target: Path) -> None:
        """Mount the volume unless it is. Raises Internal with Docker's text, ResourceExhausted."""
        try:
            await asyncio.wait_for(self._servers.run(_mount, volume, target), _SECONDS)
        except TimeoutError:
            raise _failed(volume, target, "connection timed out") from None

    async def unmount(self, target: Path) -> None:
        """Unmount, no error when nothing is mounted. Raises Internal."""
        await self._servers.run(_unmount, target)

    async def reconcile(self, root: Path, used: Collection[Path]) -> None:
        """Unmount what is mounted below `root` and not in `used`. Raises Internal."""
        await asyncio.to_thread(_reconcile, root, used)


def _mount(volume: Volume, target: Path) -> None:
    if target in hostmounts.mounted_below(target):
        return
    options = volume.options
    try:
        hostmounts.mount(options["type"], options.get("device", ""), target, options.get("o", "").split(","))
    except OSError as error:
        raise _failed(volume, target, (error.strerror or str(error)).lower()) from error


def _failed(volume: Volume, target: Path, reason: str) -> Internal:
    options = volume.options
    told = ", ".join(f"{key}: {options[key]}" for key in ("type", "device", "o") if options.get(key))
    return Internal(
        f"error while mounting volume '{target}': failed to mount local volume: mount {options.get('device', '')}:"
        f"{target}, {told}: {reason}"
    )


def missing(volume: Volume, target: Path) -> Internal:
    """What dockerd says of a volume whose directory of the host is not there."""
    flags = 0x1001 if volume.is_bound_read_only else 0x1000  # mount(2)'s MS_BIND, MS_RDONLY
    return Internal(
        f"error while mounting volume '{target}': failed to mount local volume: mount {volume.bound_directory}:"
        f"{target}, flags: {flags:#x}: no such file or directory"
    )


def _unmount(target: Path) -> None:
    with disk_errors(f"unmount {target}"):
        try:
            hostmounts.unmount(target)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):
                raise


def _reconcile(root: Path, used: Collection[Path]) -> None:
    with disk_errors(f"read what is mounted below {root}"):
        mounted = hostmounts.mounted_below(root)
    for target in mounted:
        if target != root and target not in used:
            _unmount(target)
