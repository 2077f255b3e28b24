"""Control groups: one face over cgroup v1 (every mounted hierarchy) and v2 (cgroups(7)).

A group is a path that exists below the root of each hierarchy. Where v1 controllers are mounted and an
empty v2 hierarchy beside them (systemd's hybrid layout, and this project's build machines), the group
exists there too: processes can be born in it, and `cgroup.kill` kills them without a race.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from bulkhead.linux import cgroup_devices, cgroup_freezer, cgroup_stats
from bulkhead.linux.cgroup_files import (
    exists,
    make_directory,
    members,
    read,
    read_table,
    remove_tree,
    try_write,
    write,
)
from bulkhead.linux.cgroup_limits import (
    AFTER_QUOTA,
    Resources,
    Write,
    undo_of,
    v1_writes,
    v2_writes,
    without_bfq,
)
from bulkhead.linux.cgroup_mounts import Hierarchies, hierarchies, own_paths

__all__ = ["Cgroup", "Hierarchies", "hierarchies"]

_TOLERATED = (errno.EPERM, errno.EACCES, errno.EROFS)
# What an unprivileged v2 group lets its owner have (Linux 4.15 lists it, older kernels do not).
_DELEGATED = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


class Cgroup:
    """One group in every hierarchy. Methods raise OSError; nothing here waits except `remove` and freezing."""

    __slots__ = ("_directories", "_mounted", "path")

    def __init__(self, path: str, mounted: Hierarchies | None = None) -> None:
        """`path` is from each hierarchy's root, or without a leading slash from where this process is.

        ValueError when it could leave its place.
        """
        parts = path.strip("/").split("/")
        if any(part in ("", ".", "..") for part in parts) or "\0" in path or "\n" in path:
            raise ValueError(f"{path!r} is not a cgroup path")
        self._mounted = mounted if mounted is not None else hierarchies()
        self.path = ("/" if path.startswith("/") else "") + "/".join(parts)
        above = {} if path.startswith("/") else _own_places(self._mounted)
        self._directories = {root: f"{root}{above.get(root, '')}/{'/'.join(parts)}" for root in self._mounted.roots()}

    @classmethod
    def at(cls, paths: Mapping[str, str]) -> Cgroup:
        """The group that another process called `paths`; where that process was may be forgotten by now."""
        mounted = hierarchies()
        group = cls("/none", mounted)
        group._directories = {root: paths[key] for key, root in _keys(mounted).items() if key in paths}
        group.path = next((place.removeprefix(root) for root, place in group._directories.items()), "/none")
        return group

    @property
    def paths(self) -> dict[str, str]:
        """The group's directory by controller (or name=...), the v2 hierarchy under ""; as in runc's state."""
        keys = _keys(self._mounted)
        return {key: self._directories[root] for key, root in keys.items() if root in self._directories}

    def present(self) -> Cgroup:
        """The same without the hierarchies it was left out of (`create` with `tolerant`)."""
        return Cgroup.at({key: place for key, place in self.paths.items() if Path(place).is_dir()})

    # ---- existence ----

    def create(self, *, tolerant: bool = False, occupied: bool = False) -> None:
        """Make the group (and its parents) everywhere; an empty one that exists already is taken over.

        `tolerant`: hierarchies that this user may not write are left out. `occupied`: somebody else made it for us,
        members are no surprise and controllers not our business. FileExistsError when there are members.
        """
        existed = {root: self._make(root, tolerant) for root in list(self._directories)}
        if cpuset := self._place("cpuset"):
            root = self._mounted.v1["cpuset"]
            _inherit_cpuset(root, cpuset, is_new=not existed[root])
        unified = self._mounted.unified
        if unified in self._directories:
            _become_threaded(self._directories[unified])
            if self._mounted.is_v2 and not occupied:  # beside v1 the v2 hierarchy serves to be born in and to kill
                _enable_controllers(unified, self._directories[unified])
        if any(existed.values()) and not occupied and self.pids():
            raise FileExistsError(errno.EEXIST, "the cgroup is in use", self.path)

    def _make(self, root: str, tolerant: bool) -> bool:
        try:
            return make_directory(self._directories[root])
        except OSError as error:
            if not tolerant or error.errno not in _TOLERATED:
                raise
        del self._directories[root]
        return False

    @property
    def is_held(self) -> bool:
        """Whether somebody keeps the group until there are members, and waits for `settled`."""
        return False

    def settled(self) -> None:
        """There are members now, which keep the group."""

    def delegate(self, uid: int, gid: int) -> None:
        """Give the v2 group to a user: the directory and the files that the kernel says are safe to give."""
        unified = self._directories.get(self._mounted.unified or "")
        if unified is None or not self._mounted.is_v2:
            return
        try:
            names = Path("/sys/kernel/cgroup/delegate").read_text().split()
        except OSError:
            names = list(_DELEGATED)
        for path in (unified, *(f"{unified}/{name}" for name in names)):
            with contextlib.suppress(FileNotFoundError):
                os.chown(path, uid, gid)

    def remove(self) -> None:
        """Remove the group and what is below it; retried while the kernel still sees a dying process."""
        for directory in self._directories.values():
            remove_tree(directory)

    def exists(self) -> bool:
        return any(Path(directory).is_dir() for directory in self._directories.values())

    def directory(self, controller: str) -> str | None:
        """Where this controller's files of the group are, or None when it is not mounted."""
        return self._directories.get(self._mounted.unified or "") if self._mounted.is_v2 else self._place(controller)

    def _place(self, controller: str) -> str | None:
        return self._directories.get(self._mounted.v1.get(controller, ""))

    def open_unified(self) -> int:
        """O_PATH descriptor for CLONE_INTO_CGROUP, owned by the caller; -1 without a v2 hierarchy."""
        unified = self._directories.get(self._mounted.unified or "")
        return -1 if unified is None else os.open(unified, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_tasks(self) -> list[int]:
        """The `tasks` files of the v1 hierarchies, owned by the caller: whoever writes "0" there has joined."""
        opened: list[int] = []
        try:
            for root, directory in self._directories.items():
                if root != self._mounted.unified:
                    opened.append(os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC))
        except OSError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        return opened

    # ---- processes ----

    def add(self, pid: int) -> None:
        """Move a process here, in every hierarchy."""
        for directory in self._directories.values():
            write(directory, "cgroup.procs", str(pid))

    def pids(self) -> list[int]:
        """Members of the group and of all below it, as seen from our pid namespace (0 for invisible ones)."""
        return sorted(set().union(*map(members, self._process_directories())))

    def _process_directories(self) -> Iterable[str]:
        """The v2 group, and one v1 hierarchy: a process that left the one is still in the other."""
        v1 = next(filter(None, map(self._place, ("pids", "memory", "freezer"))), None)
        both = (self._directories.get(self._mounted.unified or ""), v1)
        return [place for place in both if place] or self._directories.values()

    def kill_all(self) -> None:
        """SIGKILL to every member, forks included. A group that is gone has none."""
        unified = self._directories.get(self._mounted.unified or "")
        if unified and try_write(unified, "cgroup.kill", "1"):
            killed = members(unified)
            if killed.issuperset(self.pids()):
                if self.is_frozen():  # v1: nobody dies before it is thawed
                    with contextlib.suppress(OSError):
                        self.thaw()
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
        """Stop every member; returns once the kernel says so. TimeoutError after two seconds, and none is stopped."""
        if self._mounted.is_v2:
            cgroup_freezer.freeze_v2(self._freezer())
        else:
            cgroup_freezer.freeze_v1(self._freezer())

    def thaw(self) -> None:
        if self._mounted.is_v2:
            cgroup_freezer.thaw_v2(self._freezer())
        else:
            cgroup_freezer.thaw_v1(self._freezer())

    def is_frozen(self) -> bool:
        """Whether the members are stopped; False for a group that is gone or cannot be stopped."""
        ask = cgroup_freezer.is_frozen_v2 if self._mounted.is_v2 else cgroup_freezer.is_frozen_v1
        try:
            return ask(self._freezer())
        except OSError:
            return False

    def open_freezer(self) -> int:
        """Descriptor of the file that tells the same as often as it is read, owned by the caller."""
        state = cgroup_freezer.STATE_V2 if self._mounted.is_v2 else cgroup_freezer.STATE_V1
        return os.open(f"{self._freezer()}/{state}", os.O_RDONLY | os.O_CLOEXEC)

    def _freezer(self) -> str:
        directory = self.directory("freezer")
        if directory is None:
            raise OSError(errno.EOPNOTSUPP, "the freezer controller is not mounted", self.path)
        return directory

    # ---- limits ----

    def apply(self, resources: Resources) -> None:
        """Set OCI LinuxResources, devices included. ValueError for what cannot be expressed here."""
        self.apply_limits(resources)
        self.apply_devices(resources)

    def apply_limits(self, resources: Resources) -> None:
        """All but the devices. What was set before an error stays: the group is about to be removed."""
        self._write_all(self._planned(resources), None)

    def update(self, resources: Resources) -> None:
        """Change the limits of a group in use (devices too, when rules are told); after an error nothing is changed."""
        planned, undo = self._planned(resources), list[Write]()
        try:
            self._write_all(planned, undo)
            self.apply_devices(resources)
        except (OSError, ValueError):
            for back in reversed(undo):
                with contextlib.suppress(OSError):
                    write(self._needed(back), back.file, back.value)
            raise

    def apply_devices(self, resources: Resources) -> None:
        """The device rules alone: they come last, when the container's own device nodes exist."""
        self.prepare_devices(resources)()

    def prepare_devices(self, resources: Resources) -> Callable[[], None]:
        """What sets the device rules, worked out; nobody else may change them before it is called."""
        rules = cgroup_devices.parse_rules(resources.get("devices") or ())
        if not rules:
            return _nothing
        directory = self.directory("devices")
        if directory is None:
            raise OSError(errno.EOPNOTSUPP, "the devices controller is not mounted", self.path)
        if self._mounted.is_v2:
            return functools.partial(cgroup_devices.attach, directory, rules)
        return functools.partial(
            _write_lines, directory, tuple(cgroup_devices.v1_writes(rules, read(directory, "devices.list")))
        )

    def _planned(self, resources: Resources) -> list[Write]:
        planned = v2_writes if self._mounted.is_v2 else v1_writes
        return list(planned(resources, self._now))

    def _now(self, controller: str, file: str) -> str | None:
        directory = self.directory(controller)
        try:
            return read(directory, file) if directory else None
        except OSError:
            return None

    def _write_all(self, writes: list[Write], undo: list[Write] | None) -> None:
        """`undo` collects what would put everything back."""
        postponed = list[Write]()
        for index, each in enumerate(writes):
            try:
                self._apply(each, undo)
            except OSError as error:
                quota = AFTER_QUOTA.get(each.file)
                if error.errno != errno.EINVAL or not any(later.file == quota for later in writes[index + 1 :]):
                    raise
                postponed.append(each)
        for each in postponed:
            self._apply(each, undo)

    def _apply(self, each: Write, undo: list[Write] | None) -> None:
        directory = self._needed(each)
        if ".bfq." in each.file and not exists(directory, each.file):
            each = without_bfq(each)
        if not exists(directory, each.file):
            if each.optional:
                return
            raise OSError(errno.EOPNOTSUPP, self._reason(directory, each), f"{directory}/{each.file}")
        if undo is not None:
            undo.append(undo_of(each, self._now(each.controller, each.file) or ""))
        if each.file == "cpu.rt_runtime_us":
            self._raise_realtime(directory, int(each.value))
        try:
            write(directory, each.file, each.value)
        except OSError as error:
            raise _explained(error, directory, each) from None
        if each.file == "cpu.shares":
            _verify_shares(directory, int(each.value))

    def _needed(self, each: Write) -> str:
        directory = self.directory(each.controller)
        if directory is None:
            text = f"the {each.controller} controller is not mounted"
            raise OSError(errno.EOPNOTSUPP, text, each.file)
        return directory

    def _reason(self, directory: str, each: Write) -> str:
        if self._mounted.is_v2 and each.controller not in ("cgroup", *read(directory, "cgroup.controllers").split()):
            return f"the {each.controller} controller is not available"
        return f"the kernel has no {each.file}"

    def _raise_realtime(self, directory: str, runtime: int) -> None:
        """A group may have what the one above it has; all but the root begin with nothing."""
        above, root = directory.rpartition("/")[0], self._mounted.v1["cpu"]
        if above != root and int(read(above, "cpu.rt_runtime_us")) < runtime:
            self._raise_realtime(above, runtime)
            write(above, "cpu.rt_runtime_us", str(runtime))

    # ---- figures ----

    def oom_kills(self) -> int:
        """How many members the kernel killed for want of memory."""
        file = "memory.events" if self._mounted.is_v2 else "memory.oom_control"
        return read_table(self.directory("memory"), file).get("oom_kill", 0)

    def stats(self) -> cgroup_stats.Stats:
        """What the group has used so far. A group that is gone has used nothing."""
        unified = self.directory("") if self._mounted.is_v2 else None
        return cgroup_stats.read_v2(unified) if unified else cgroup_stats.read_v1(self._place)


def _nothing() -> None:
    """There are no rules."""


def _write_lines(directory: str, lines: Iterable[tuple[str, str]]) -> None:
    """In this order; a file is opened once for what goes there in a row."""
    for file, together in itertools.groupby(lines, lambda line: line[0]):
        write(directory, file, *(value for _, value in together))


def _keys(mounted: Hierarchies) -> dict[str, str]:
    unified = {"": mounted.unified} if mounted.unified else {}
    return {**mounted.v1, **unified}


def _own_places(mounted: Hierarchies) -> dict[str, str]:
    """Where this process is. On v2 the group above it: one that has processes cannot give out controllers."""
    places = own_paths(Path("/proc/self/cgroup").read_text(), mounted)
    if mounted.is_v2 and mounted.unified in places:
        places[mounted.unified] = places[mounted.unified].rpartition("/")[0]
    return places


def _enable_controllers(root: str, directory: str) -> None:
    """In every ancestor. Best effort: a limit on a controller that could not be enabled fails by its name."""
    available = read(root, "cgroup.controllers").split()
    if not available or read(directory, "cgroup.controllers").split() == available:
        return
    place = root
    for part in directory.removeprefix(root).strip("/").split("/"):
        wanted = [f"+{name}" for name in read(place, "cgroup.controllers").split()]
        if wanted and not try_write(place, "cgroup.subtree_control", " ".join(wanted)):
            for name in wanted:
                try_write(place, "cgroup.subtree_control", name)
        place = f"{place}/{part}"


def _become_threaded(directory: str) -> None:
    """Below a threaded group only threaded ones can have members; the kernel makes them "domain invalid"."""
    with contextlib.suppress(FileNotFoundError):
        if read(directory, "cgroup.type").strip() == "domain invalid":
            write(directory, "cgroup.type", "threaded")


def _inherit_cpuset(root: str, directory: str, *, is_new: bool = False) -> None:
    """A new v1 cpuset has neither CPUs nor memory nodes (cgroup.clone_children: the same), no process can enter it."""
    above = directory.rpartition("/")[0]
    for name in ("cpuset.cpus", "cpuset.mems"):
        if is_new or not read(directory, name).strip():
            if not (inherited := read(above, name).strip()) and above != root:
                _inherit_cpuset(root, above)
                inherited = read(above, name).strip()
            write(directory, name, inherited)


def _explained(error: OSError, directory: str, each: Write) -> OSError:
    """runc's words for a limit below what is in use."""
    text = error.strerror
    if error.errno == errno.EBUSY and each.file == "memory.limit_in_bytes":
        usage, peak = (read(directory, f"memory.{name}_in_bytes").strip() for name in ("usage", "max_usage"))
        text = f"unable to set memory limit to {each.value} (current usage: {usage}, peak usage: {peak})"
    return OSError(error.errno, text, error.filename)


def _verify_shares(directory: str, wanted: int) -> None:
    """The kernel moves a number that is out of its range without a word."""
    got = int(read(directory, "cpu.shares"))
    if got != wanted:
        raise ValueError(f"the {'maximum' if wanted > got else 'minimum'} allowed cpu-shares is {got}")
