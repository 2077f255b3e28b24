"""What an installation has in the kernel right now, read without asking any of its services.

Cgroups below `<hierarchy>/<label>`, one per container; processes that hold a file or socket below
the run or data directory, or name the run directory in their title.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bulkhead.model.instance import Instance

_LONGEST_TITLE = 16384


def cgroup_parents(instance: Instance) -> list[Path]:
    """The installation's cgroup in each hierarchy that is mounted, where it exists."""
    return [path for root in hierarchies() if (path := root / instance.label).is_dir()]


def running_containers(instance: Instance) -> set[str]:
    """Names of the cgroups (container ids) that hold at least one process."""
    return {
        child.name
        for parent in cgroup_parents(instance)
        for child in parent.iterdir()
        if child.is_dir() and cgroup_pids(child)
    }


def cgroup_pids(cgroup: Path) -> set[int]:
    """Every process in a cgroup and below; zero for one that this pid namespace cannot name is left out."""
    pids: set[int] = set()
    for directory, _, _ in os.walk(cgroup):
        with contextlib.suppress(OSError):
            pids |= {int(line) for line in Path(directory, "cgroup.procs").read_text().split()}
    return pids - {0}


def processes(instance: Instance) -> dict[int, str]:
    """Pid and title of each Bulkhead process of this installation: services, zygote, spares and shims."""
    sockets, places = _unix_sockets(instance), (f"{instance.run}/", f"{instance.data}/")
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):  # noqa: PTH208 -- hundreds, at each look
        if pid != os.getpid():
            with contextlib.suppress(OSError):
                if not _may_be_ours(pid):
                    continue
                title = _title(pid)
                if _is_ours(title) and (_names(title, instance) or _holds(pid, places, sockets)):
                    found[pid] = title
    return found


def hierarchies() -> Iterator[Path]:
    """Where each cgroup hierarchy (v1 or v2) is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] in {"cgroup", "cgroup2"}:
            yield Path(before.split()[4])


def _may_be_ours(pid: int) -> bool:
    """By its short name (proc(5), comm), which is always to be had: a title waits for a process that is held up in
    its memory, as by a disk that stands still.
    """
    return _start(f"/proc/{pid}/comm").startswith((b"bulkhead", b"python"))


def _title(pid: int) -> str:
    return _start(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def _start(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _LONGEST_TITLE)
    finally:
        os.close(fd)


def _is_ours(title: str) -> bool:
    return title.startswith("bulkhead-") or " -m bulkhead." in title


def _names(title: str, instance: Instance) -> bool:
    return any(str(path) in title.split() for path in (instance.run, instance.data))


def _holds(pid: int, places: tuple[str, ...], sockets: set[str]) -> bool:
    directory = f"/proc/{pid}/fd"
    for fd in os.listdir(directory):  # noqa: PTH208
        with contextlib.suppress(OSError):
            target = os.readlink(f"{directory}/{fd}")  # noqa: PTH115
            if target in sockets or target.startswith(places):
                return True
    return False


def _unix_sockets(instance: Instance) -> set[str]:
    """`socket:[inode]` of every Unix socket bound below the run directory."""
    fields = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {f"socket:[{f[6]}]" for f in fields if len(f) > 7 and f[7].startswith(f"{instance.run}/")}
