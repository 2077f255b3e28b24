"""Writable layers as empty directories, and a trash that deletes at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bulkhead.errors import BulkheadError
from bulkhead.manager.ports import Dirs, OverlayDirs


@dataclass(slots=True)
class FakeSnapshots:
    """`bulkhead.manager.ports.Snapshots`."""

    root: Path
    failure: BulkheadError | None = None

    async def prepare(self, container_id: str, image_id: str) -> OverlayDirs:
        dirs = self.dirs(container_id, image_id)
        self.make(container_id, dirs)
        return dirs

    def dirs(self, container_id: str, image_id: str) -> OverlayDirs:
        place = self.root / container_id
        return OverlayDirs(lower=(f"/layers/{image_id}",), upper=str(place / "upper"), work=str(place / "work"))

    def make(self, container_id: str, dirs: Dirs) -> None:
        place = self.root / container_id
        if self.failure is not None:
            # Half-way, as by want of descriptors.
            place.mkdir(parents=True)
            raise self.failure
        for each in (dirs.upper, dirs.work):
            Path(each).mkdir(parents=True, exist_ok=True)

    def clear(self, container_id: str) -> None:
        shutil.rmtree(self.root / container_id, ignore_errors=True)

    def make_below(self, dirs: Dirs, path: str) -> None:
        """There are no files that it could be looked for in."""

    def let_go(self) -> None:
        pass

    async def usage(self, container_id: str) -> int:
        return 1024

    async def usages(self, container_ids: Sequence[str]) -> list[int]:
        return [await self.usage(each) for each in container_ids]


class FakeTrash:
    """`bulkhead.manager.ports.Trash`."""

    def throw(self, path: Path) -> bool:
        there = path.exists()
        shutil.rmtree(path, ignore_errors=True)
        return there


class FakeSpares:
    """`bulkhead.manager.ports.Spares`, of which there are none."""

    def take(self, place: Path) -> bool:
        assert not place.exists()
        return False

    def clear(self, place: Path) -> None:
        shutil.rmtree(place, ignore_errors=True)


class FakeGroups:
    """`bulkhead.manager.ports.Groups`: `found` are listed, once `listed` lets them."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.removed: list[str] = []
        self.listed: Callable[[], object] = lambda: None

    def names(self) -> frozenset[str]:
        self.listed()
        return frozenset(self.found)

    def remove(self, name: str) -> None:
        self.removed.append(name)
