"""Small file systems of their own, in files: whether the kernel has one mounted still, and one that stands still."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class LoopDisk:
    """An ext4 in a file, mounted at `place`."""

    def __init__(self, base: Path, megabytes: int) -> None:
        self.place = base / "disk"
        self._image = base / "image"
        self._megabytes = megabytes
        self._known = Path()

    def mount(self) -> None:
        """The test is skipped where there are no loop devices."""
        self.place.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(self._megabytes << 20)
        subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0", self._image], check=True)
        if subprocess.run(["mount", "-o", "loop", self._image, self.place], check=False).returncode:
            pytest.skip("no loop devices here")
        number = self.place.stat().st_dev
        device = Path(f"/sys/dev/block/{number >> 8}:{number & 0xFF}").resolve().name
        self._known = Path("/sys/fs/ext4", device)
        assert self.is_in_use()

    def is_in_use(self) -> bool:
        """By any mount of it, also one that nobody sees."""
        return self._known.exists()

    def unmount(self) -> None:
        """Where it is seen; who uses it does so on."""
        subprocess.run(["umount", "-l", self.place], check=True)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Whoever writes to it waits."""
        subprocess.run(["fsfreeze", "-f", self.place], check=True)
        try:
            yield
        finally:
            self.thaw()

    def thaw(self) -> None:
        """Harmless when it is not frozen."""
        subprocess.run(["fsfreeze", "-u", self.place], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def loop_disk(base: Path, megabytes: int = 32) -> Iterator[LoopDisk]:
    """Mounted here until the end."""
    disk = LoopDisk(base, megabytes)
    disk.mount()
    try:
        yield disk
    finally:
        # It may be unmounted already.
        subprocess.run(["umount", "-q", "-l", disk.place], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def slow_disk(base: Path) -> Iterator[tuple[LoopDisk, LoopDisk]]:
    """One, and the one below it: while that is frozen, it can be written to, but not synced."""
    with loop_disk(base / "below", 96) as below, loop_disk(below.place / "above") as above:
        yield above, below
