"""Where the cgroup hierarchies are mounted, and where this process is in them (cgroups(7))."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CONTROLLERS = frozenset(
    (
        *("cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer", "net_cls"),
        *("perf_event", "net_prio", "hugetlb", "pids", "rdma", "misc"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchies:
    """What is mounted: `v1` maps a controller (or name=...) to its mount point; co-mounted ones share it."""

    v1: Mapping[str, str]
    unified: str | None

    @property
    def is_v2(self) -> bool:
        return not any(not name.startswith("name=") for name in self.v1)

    def roots(self) -> list[str]:
        """Each hierarchy's mount point once."""
        unified = [self.unified] if self.unified else []
        return [*dict.fromkeys(self.v1.values()), *unified]


def parse_mountinfo(text: str) -> Hierarchies:
    """From /proc/self/mountinfo; the first mount of a hierarchy counts."""
    v1: dict[str, str] = {}
    unified = None
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        point = _unescaped(left.split(" ")[4])
        if kind == "cgroup2":
            unified = unified or point
        elif kind == "cgroup":
            for name in options.split(","):
                if name in _CONTROLLERS or name.startswith("name="):
                    v1.setdefault(name, point)
    return Hierarchies(v1=v1, unified=unified)


@functools.cache
def hierarchies() -> Hierarchies:
    """Of this mount namespace, looked up once per process."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return parse_mountinfo("\n".join(line for line in lines if " - cgroup" in line and _visible(line)))


def _visible(line: str) -> bool:
    """Whether the mount is reached by its path: another may have been mounted over it since."""
    fields = line.split(" ")
    major, _, minor = fields[2].partition(":")
    try:
        return Path(_unescaped(fields[4])).stat().st_dev == os.makedev(int(major), int(minor))
    except OSError:
        return False


def _unescaped(point: str) -> str:
    return point.replace("\\040", " ")


def own_paths(text: str, mounted: Hierarchies) -> dict[str, str]:
    """The group of a process in each hierarchy by mount point, "" for the root; `text` is its /proc/PID/cgroup.

    A path that climbs (another cgroup namespace's) counts as the root: nothing is made above what we see.
    """
    found = dict[str, str]()
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        kept = "" if path == "/" or path.startswith("/..") else path
        if not names and mounted.unified:
            found[mounted.unified] = kept
        for name in names.split(","):
            if name in mounted.v1:
                found[mounted.v1[name]] = kept
    return found
