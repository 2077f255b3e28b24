"""Control groups: one face over cgroup v1 (every mounted hierarchy) and v2 (cgroups(7)).

A group is a path that exists below the root of each hierarchy. Where v1 controllers are mounted and an
empty v2 hierarchy beside them (systemd's hybrid layout, and this project's build machines), the group
exists there too: processes can be born in it, and `cgroup.kill` kills them without a race.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkhead.linux import cgroup_devices
from bulkhead.linux.cgroup_limits import Resources, Write, io_weight, v1_writes, v2_writes

REMOVE_ATTEMPTS = 10  # from 1 ms, doubling: about a second for the kernel to let go of dead processes


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


_CONTROLLERS = frozenset(
    (
        *("cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer", "net_cls"),
        *("perf_event", "net_prio", "hugetlb", "pids", "rdma", "misc"),
    )
)


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


class Cgroup:
    """One group in every hierarchy. Methods raise OSError; nothing here waits except `remove` and `freeze`."""

    __slots__ = ("_mounted", "path")

    def __init__(self, path: str, mounted: Hierarchies | None = None) -> None:
        """`path` is absolute, from each hierarchy's root; ValueError when it could leave it."""
        parts = path.strip("/").split("/")
        if not path.startswith("/") or any(part in ("", ".", "..") for part in parts):
            raise ValueError(f"{path!r} is not an absolute cgroup path")
        self.path = "/" + "/".join(parts)
        self._mounted = mounted if mounted is not None else hierarchies()

    # ---- existence ----

    def create(self) -> None:
        """Make the group (and its parents) everywhere; an empty one that exists already is taken over."""
        existed = [_make_directory(directory) for directory in self._directories()]
        if cpuset := self._mounted.v1.get("cpuset"):
            _inherit_cpuset(cpuset, self.path)
        if self._mounted.is_v2 and self._mounted.unified:  # beside v1 the v2 hierarchy serves to be born in and to kill
            _enable_controllers(self._mounted.unified, self.path)
        if any(existed) and self.pids():
            raise FileExistsError(errno.EEXIST, "the cgroup is in use", self.path)

    def remove(self) -> None:
        """Remove the group and what is below it; retried while the kernel still sees a dying process."""
        for directory in self._directories():
            _remove_tree(directory)

    def exists(self) -> bool:
        return any(Path(directory).is_dir() for directory in self._directories())

    def directory(self, controller: str) -> str | None:
        """Where this controller's files of the group are, or None when it is not mounted."""
        root = self._mounted.unified if self._mounted.is_v2 else self._mounted.v1.get(controller)
        return root + self.path if root else None

    def open_unified(self) -> int:
        """O_PATH descriptor for CLONE_INTO_CGROUP, owned by the caller; -1 without a v2 hierarchy."""
        if self._mounted.unified is None:
            return -1
        return os.open(self._mounted.unified + self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_tasks(self) -> list[int]:
        """The `tasks` files of the v1 hierarchies, owned by the caller: whoever writes "0" there has joined."""
        opened: list[int] = []
        try:
            for root in dict.fromkeys(self._mounted.v1.values()):
                opened.append(os.open(f"{root}{self.path}/tasks", os.O_WRONLY | os.O_CLOEXEC))  # noqa: PERF401
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        return opened

    def _directories(self) -> list[str]:
        return [root + self.path for root in self._mounted.roots()]

    # ---- processes ----

    def add(self, pid: int) -> None:
        """Move a process here, in every hierarchy."""
        for directory in self._directories():
            _write(directory, "cgroup.procs", str(pid))

    def pids(self) -> list[int]:
        """Members of the group and of all below it, as seen from our pid namespace (0 for invisible ones)."""
        return sorted(set().union(*map(_members, self._process_directories())))

    def _process_directories(self) -> list[str]:
        """The v2 group, and one v1 hierarchy: a process that left the one is still in the other."""
        mounted = self._mounted
        roots = [mounted.unified] if mounted.unified else []
        first = next((name for name in ("pids", "memory", "freezer") if name in mounted.v1), None)
        if first:
            roots.append(mounted.v1[first])
        return [root + self.path for root in roots or mounted.roots()]

    def kill_all(self) -> None:
        """SIGKILL to every member, forks included. A group that is gone has none."""
        unified = self._mounted.unified and self._mounted.unified + self.path
        if unified and _try_write(unified, "cgroup.kill", "1"):
            killed = _members(unified)
            if killed.issuperset(self.pids()):
                return
        if self.pids():
            self._kill_frozen()

    def _kill_frozen(self) -> None:
        """Without cgroup.kill: stop them first, so that none forks while the list is walked."""
        with contextlib.suppress(OSError):
            self.freeze()
        try:
            for pid in filter(None, self.pids()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        finally:
            with contextlib.suppress(OSError):
                self.thaw()

    # ---- freezing ----

    def freeze(self) -> None:
        """Stop every member; returns once the kernel says so. TimeoutError after two seconds."""
        self._set_frozen(True)

    def thaw(self) -> None:
        self._set_frozen(False)

    def is_frozen(self) -> bool:
        """Whether the members are stopped; False for a group that is gone."""
        try:
            return self._frozen()
        except FileNotFoundError:
            return False

    def _frozen(self) -> bool:
        if self._mounted.is_v2:
            return "frozen 1" in _read(self._directories()[0], "cgroup.events")
        directory = self.directory("freezer")
        return directory is not None and _read(directory, "freezer.state").strip() == "FROZEN"

    def _set_frozen(self, wanted: bool) -> None:
        for _ in range(400):
            self._write_frozen(wanted)
            if self._frozen() == wanted:
                return
            time.sleep(0.005)
        raise TimeoutError(errno.ETIMEDOUT, "the freezer does not settle", self.path)

    def _write_frozen(self, wanted: bool) -> None:
        if self._mounted.is_v2:
            _write(self._directories()[0], "cgroup.freeze", "1" if wanted else "0")
            return
        directory = self.directory("freezer")
        if directory is None:
            raise OSError(errno.EOPNOTSUPP, "the freezer controller is not mounted", self.path)
        _write(directory, "freezer.state", "FROZEN" if wanted else "THAWED")

    # ---- limits ----

    def apply(self, resources: Resources) -> None:
        """Set OCI LinuxResources, devices included. ValueError for what cannot be expressed here."""
        self.apply_limits(resources)
        self.apply_devices(resources)

    def apply_limits(self, resources: Resources) -> None:
        writes = list(v2_writes(resources) if self._mounted.is_v2 else v1_writes(resources))
        for write in self._in_possible_order(writes):
            self._apply(write)

    def apply_devices(self, resources: Resources) -> None:
        """The device rules alone: they come last, when the container's own device nodes exist."""
        rules = cgroup_devices.parse_rules(resources.get("devices") or ())
        if not rules:
            return
        if self._mounted.is_v2:
            cgroup_devices.attach(self._directories()[0], rules)
            return
        directory = self.directory("devices")
        if directory is None:
            raise OSError(errno.EOPNOTSUPP, "the devices controller is not mounted", self.path)
        for file, value in cgroup_devices.v1_writes(rules):
            _write(directory, file, value)

    def _in_possible_order(self, writes: list[Write]) -> list[Write]:
        """v1: memory+swap may never be below memory, so a raised pair starts with the sum."""
        limit = next((w for w in writes if w.file == "memory.limit_in_bytes"), None)
        both = next((w for w in writes if w.file == "memory.memsw.limit_in_bytes"), None)
        directory = self.directory("memory")
        if limit is None or both is None or directory is None:
            return writes
        now = int(_read(directory, both.file)) if Path(directory, both.file).exists() else 0
        if 0 < int(both.value) <= now:
            return writes
        return [both, limit, *(w for w in writes if w not in (both, limit))]

    def _apply(self, write: Write) -> None:
        directory = self.directory(write.controller)
        if directory is None:
            raise OSError(errno.EOPNOTSUPP, f"the {write.controller} controller is not mounted", write.file)
        if write.file == "io.bfq.weight" and not Path(directory, write.file).exists():
            *device, weight = write.value.split()
            write = Write(controller="io", file="io.weight", value=" ".join([*device, str(io_weight(int(weight)))]))
        if write.file.startswith("blkio.bfq.") and not Path(directory, write.file).exists():
            write = Write(controller="blkio", file=write.file.replace(".bfq", ""), value=write.value)
        try:
            _write(directory, write.file, write.value)
        except OSError as error:
            if write.file != "cpu.cfs_period_us" or error.errno != errno.EINVAL:
                raise
            _write(directory, "cpu.cfs_quota_us", "-1")  # the old quota does not fit the new period
            _write(directory, write.file, write.value)

    # ---- figures ----

    def oom_kills(self) -> int:
        """How many members the kernel killed for want of memory."""
        directory = self.directory("memory")
        if directory is None:
            return 0
        file = "memory.events" if self._mounted.is_v2 else "memory.oom_control"
        return _read_table(directory, file).get("oom_kill", 0)

    def stats(self) -> dict[str, Any]:
        """CPU in nanoseconds, memory in bytes, counts; keys that this kernel does not have are absent."""
        return _v2_stats(self) if self._mounted.is_v2 else _v1_stats(self)


# ---- directories and files ----


def _members(directory: str) -> set[int]:
    found = set[int]()
    for place in _walk(directory):
        with contextlib.suppress(OSError):
            found.update(map(int, _read(place, "cgroup.procs").split()))
    return found


def _make_directory(directory: str) -> bool:
    """With its parents; whether it existed. Plain os calls: there are ten of these before every container."""
    try:
        os.mkdir(directory)  # noqa: PTH102
    except FileExistsError:
        return True
    except FileNotFoundError:
        _make_directory(directory.rpartition("/")[0])
        return _make_directory(directory)
    return False


def _enable_controllers(root: str, path: str) -> None:
    """In every ancestor. Best effort: a limit on a controller that could not be enabled fails by its name."""
    available = _read(root, "cgroup.controllers").split()
    if not available or _read(root + path, "cgroup.controllers").split() == available:
        return
    place = root
    for part in path.strip("/").split("/"):
        wanted = [f"+{name}" for name in _read(place, "cgroup.controllers").split()]
        if wanted and not _try_write(place, "cgroup.subtree_control", " ".join(wanted)):
            for name in wanted:
                _try_write(place, "cgroup.subtree_control", name)
        place = f"{place}/{part}"


def _inherit_cpuset(root: str, path: str) -> None:
    """A new v1 cpuset has neither CPUs nor memory nodes, and no process can enter it."""
    above, _, _ = path.rpartition("/")
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not _read(root + path, name).strip():
            if above and not _read(root + above, name).strip():
                _inherit_cpuset(root, above)
            _write(root + path, name, _read(root + above, name).strip())


def _remove_tree(directory: str) -> None:
    try:
        os.rmdir(directory)  # noqa: PTH106
    except FileNotFoundError:
        return
    except OSError:  # something is below, or still dying
        for place in reversed(list(_walk(directory))):
            _remove_one(place)


def _remove_one(directory: str) -> None:
    delay = 0.001
    for attempt in range(REMOVE_ATTEMPTS):
        try:
            os.rmdir(directory)  # noqa: PTH106
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or attempt == REMOVE_ATTEMPTS - 1:
                raise
        time.sleep(delay)
        delay *= 2


def _walk(directory: str) -> Iterator[str]:
    """The directory and all below it, parents first; what vanishes meanwhile is skipped."""
    pending = [directory]
    while pending:
        place = pending.pop()
        try:
            with os.scandir(place) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            continue
        yield place
        pending.extend(below)


def _read(directory: str, file: str) -> str:
    with open(f"{directory}/{file}") as stream:  # noqa: PTH123
        return stream.read()


def _write(directory: str, file: str, value: str) -> None:
    """One write(2): control files take a whole command at once. The error names the file."""
    path = f"{directory}/{file}"
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def _try_write(directory: str, file: str, value: str) -> bool:
    try:
        _write(directory, file, value)
    except OSError:
        return False
    return True


def _read_table(directory: str, file: str) -> dict[str, int]:
    """Lines of "key number"; empty when the file is not there."""
    try:
        lines = _read(directory, file).splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _read_number(directory: str | None, file: str) -> int | None:
    """None when there is no such file or no limit ("max")."""
    if directory is None:
        return None
    try:
        text = _read(directory, file).strip()
    except OSError:
        return None
    return int(text) if text.lstrip("-").isdigit() else None


# ---- statistics ----


def _present(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}


def _io_rows(directory: str | None, file: str) -> list[dict[str, Any]]:
    """v1 "8:0 Read 512" and v2 "8:0 rbytes=512 ..." alike as rows of major, minor, op, value."""
    rows = list[dict[str, Any]]()
    if directory is None:
        return rows
    try:
        lines = _read(directory, file).splitlines()
    except OSError:
        return rows
    for line in lines:
        device, *fields = line.split()
        major, colon, minor = device.partition(":")
        if not colon:
            continue
        pairs = [f.split("=", 1) for f in fields] if "=" in line else [fields]
        rows.extend({"major": int(major), "minor": int(minor), "op": op, "value": int(value)} for op, value in pairs)
    return rows


def _v1_stats(group: Cgroup) -> dict[str, Any]:
    cpu, account, memory = group.directory("cpu"), group.directory("cpuacct"), group.directory("memory")
    pids, block = group.directory("pids"), group.directory("blkio")
    usage = account and _read_table(account, "cpuacct.stat")
    ticks = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    throttled = _read_table(cpu, "cpu.stat") if cpu else {}
    return {
        "cpu": _present(
            {
                "total_ns": _read_number(account, "cpuacct.usage"),
                "user_ns": usage["user"] * ticks if usage else None,
                "system_ns": usage["system"] * ticks if usage else None,
                "periods": throttled.get("nr_periods"),
                "throttled_periods": throttled.get("nr_throttled"),
                "throttled_ns": throttled.get("throttled_time"),
            }
        ),
        "memory": _present(
            {
                "usage": _read_number(memory, "memory.usage_in_bytes"),
                "max_usage": _read_number(memory, "memory.max_usage_in_bytes"),
                "limit": _read_number(memory, "memory.limit_in_bytes"),
                "failcnt": _read_number(memory, "memory.failcnt"),
                "stats": _read_table(memory, "memory.stat") if memory else None,
            }
        ),
        "pids": _present({"current": _read_number(pids, "pids.current"), "limit": _read_number(pids, "pids.max")}),
        "io": {
            "bytes": _io_rows(block, "blkio.throttle.io_service_bytes_recursive"),
            "operations": _io_rows(block, "blkio.throttle.io_serviced_recursive"),
        },
    }


def _v2_stats(group: Cgroup) -> dict[str, Any]:
    directory = group.directory("")
    assert directory is not None
    cpu = {key: value * 1000 for key, value in _read_table(directory, "cpu.stat").items() if key.endswith("_usec")}
    counts = _read_table(directory, "cpu.stat")
    return {
        "cpu": _present(
            {
                "total_ns": cpu.get("usage_usec"),
                "user_ns": cpu.get("user_usec"),
                "system_ns": cpu.get("system_usec"),
                "periods": counts.get("nr_periods"),
                "throttled_periods": counts.get("nr_throttled"),
                "throttled_ns": cpu.get("throttled_usec"),
            }
        ),
        "memory": _present(
            {
                "usage": _read_number(directory, "memory.current"),
                "max_usage": _read_number(directory, "memory.peak"),
                "limit": _read_number(directory, "memory.max"),
                "stats": _read_table(directory, "memory.stat") or None,
            }
        ),
        "pids": _present(
            {"current": _read_number(directory, "pids.current"), "limit": _read_number(directory, "pids.max")}
        ),
        "io": {"bytes": _io_rows(directory, "io.stat"), "operations": []},
    }
