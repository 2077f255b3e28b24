"""Layers and writable layers as directories of one file system."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayDirs:
    """What an overlay mount is made of: absolute paths; `lower` topmost first."""

    lower: tuple[str, ...]
    upper: str
    work: str


class OverlaySnapshots:
    async def prepare(self, container_id: str, image_id: str) -> OverlayDirs:
        """Make a container's writable layer on top of an image. Raises NotFound, ResourceExhausted."""
        raise NotImplementedError

    async def remove(self, container_id: str) -> None:
        """Forget a container's writable layer; nothing happens when there is none."""
        raise NotImplementedError

    async def usage(self, container_id: str) -> int:
        """Bytes in a container's writable layer."""
        raise NotImplementedError

    async def recover(self, known_ids: Collection[str]) -> None:
        """Sweep the writable layers of containers that are not in `known_ids`."""
        raise NotImplementedError
