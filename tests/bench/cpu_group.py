"""A cgroup of one engine's own processes: which they are and what CPU time they took, those that ended included."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from bulkhead.ctl.remains import hierarchies

REMOVE_SECONDS = 5.0


class CpuGroup:
    """Made empty. A container's processes leave it for their own group: what is here is the engine."""

    def __init__(self, hierarchy: Path) -> None:
        self._directory = hierarchy / f"bh-bench-{secrets.token_hex(4)}"
        self._outside = hierarchy / _own_group(hierarchy) / "cgroup.procs"
        self._directory.mkdir()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """What this process starts meanwhile is in the group; it itself leaves again."""
        (self._directory / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            self._outside.write_text(str(os.getpid()))

    @property
    def pids(self) -> set[int]:
        return {int(line) for line in (self._directory / "cgroup.procs").read_text().split()} - {0}

    @property
    def milliseconds(self) -> float:
        """CPU time so far, user and system."""
        usage = self._directory / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) / 1e6
        stat = dict(line.split() for line in (self._directory / "cpu.stat").read_text().splitlines())
        return int(stat["usage_usec"]) / 1e3

    def remove(self) -> None:
        """Once its processes have ended."""
        deadline = time.monotonic() + REMOVE_SECONDS
        while True:
            try:
                self._directory.rmdir()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def accounting() -> Path:
    """The hierarchy that counts CPU time: cpuacct of cgroup v1, or cgroup v2."""
    found = list(hierarchies())
    for place in found:
        if (place / "cpuacct.usage").exists():
            return place
    return next(place for place in found if (place / "cgroup.controllers").exists())


def _own_group(hierarchy: Path) -> str:
    """Where this process is in it (cgroups(7), /proc/self/cgroup)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if ("cpuacct" in controllers.split(",")) == (hierarchy / "cpuacct.usage").exists() and (
            controllers == "" or "cpuacct" in controllers
        ):
            return path.lstrip("/")
    return ""
