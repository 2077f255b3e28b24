"""config.json -> launch plan: pure but for the seccomp cache and what kernel and process are. The config has passed
`validate`."""

from __future__ import annotations

import os
import posixpath
import resource
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bulkhead.linux import caps, idmap, mounts, namespaces
from bulkhead.linux.cgroups import Cgroup, Hierarchies
from bulkhead.linux.seccomp import Filter
from bulkhead.nsexec.plan import Capabilities, Device, Flag, Mount, MountFlag, MountKind, Plan, Root, RootKind
from bulkhead.runtime import hooks, tuning
from bulkhead.runtime.filters import filter_for, unknown_in
from bulkhead.runtime.rootfs import OverlayRootfs

Config = Mapping[str, Any]

USER_ANNOTATION = "org.bulkhead.user"
GROUPS_ANNOTATION = "org.bulkhead.groups"
# Followed by a bind's destination: what below its source is meant, which somebody hostile may be writing to.
SUBPATH_ANNOTATION = "org.bulkhead.subpath:"

# What may be mounted inside /proc: files that lxcfs and its like provide (runc's list).
PROC_TARGETS = frozenset(
    (
        *("/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime"),
        *("/proc/loadavg", "/proc/slabinfo", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled"),
    )
)

_DEFAULT_NODES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_NODE_TYPES = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}

RLIMITS = {
    name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"
} | {"RLIMIT_LOCKS": 10}


def container_plan(config: Config, rootfs: OverlayRootfs | None, cgroup: Cgroup, mounted: Hierarchies) -> Plan:
    """The plan of a new container; `joins` follow `joined_namespaces`."""
    linux: Config = config.get("linux") or {}
    kinds = _kinds(linux)
    process = process_plan(config, config["process"])
    joined = tuple(namespaces.FLAGS[kind] for kind, _ in joined_namespaces(config))
    built = tuple(_mounts(config, cgroup, mounted)) if "mount" in kinds else ()
    slash = _propagation(linux)
    policy, nodes = tuning.memory_policy(linux)
    return replace(
        process,
        flags=process.flags | _container_flags(config, kinds),
        root=_root(config, rootfs),
        joins=joined,
        mounts=built,
        devices=tuple(_devices(linux)),
        masked=tuple(linux.get("maskedPaths") or ()),
        readonly=tuple(linux.get("readonlyPaths") or ()),
        sysctl=tuple((_sysctl_path(key), str(value)) for key, value in (linux.get("sysctl") or {}).items()),
        hostname=config.get("hostname") or None,
        domainname=config.get("domainname") or None,
        root_propagation=slash[0],
        final_propagation=slash[1],
        unshare=_new_flags(kinds) if _is_late(kinds) else 0,
        tuning=tuning.joined(process.tuning, policy),
        nodes=nodes,
    )


def resolved(config: Config, bundle: str) -> Config:
    """The config with root.path made absolute, and without what names this process's own user namespace: nobody can
    join that."""
    root: Config = config.get("root") or {}
    path = root.get("path")
    if bundle and isinstance(path, str) and path and not path.startswith("/"):
        config = {**config, "root": {**root, "path": posixpath.normpath(posixpath.join(bundle, path))}}
    linux: Config = config.get("linux") or {}
    listed = linux.get("namespaces") or ()
    if any(isinstance(entry, Mapping) and entry.get("type") == "user" and entry.get("path") for entry in listed):
        kept = [entry for entry in listed if not (entry.get("type") == "user" and _is_own(entry.get("path")))]
        config = {**config, "linux": {**linux, "namespaces": kept}}
    return config


def _is_own(path: Any) -> bool:
    try:
        return bool(path) and Path(path).samefile("/proc/self/ns/user")
    except OSError:
        return False


def in_manner(
    plan: Plan, *, fifo: bool = False, preserved: int = 0, no_pivot: bool = False, keyring: bool = True
) -> Plan:
    """The same launch in the manner that the command line asks for."""
    flags = plan.flags | (Flag.FIFO if fifo else Flag(0))
    if not keyring:
        flags &= ~Flag.KEYRING
    hidden: tuple[str, ...] = ()
    if no_pivot and plan.root is not None and not plan.flags & Flag.CHROOT:
        flags |= Flag.MOVE_ROOT
        hidden = tuple(mounts.points_of(("proc", "sysfs"), outside=plan.root.path))
    if flags == plan.flags and not preserved:
        return plan
    return replace(plan, flags=flags, preserved=preserved, hidden=hidden)


def with_hooks(plan: Plan, config: Config, container_id: str, bundle: str) -> Plan:
    """The hooks that the stage runs, with the state that they read."""
    inside = hooks.inside(config)
    if not inside:
        return plan
    return replace(plan, hooks=inside, state=hooks.state_parts(config, container_id=container_id, bundle=bundle))


def warnings(process: Config) -> tuple[str, ...]:
    """What of a process is left out although it is asked for."""
    sets: Config = process.get("capabilities") or {}
    unknown = sorted({name for names in sets.values() for name in names or () if not caps.known(name)})
    return tuple(f"capability {name} is unknown here and was left out" for name in unknown)


def unknown_calls(config: Config) -> tuple[str, ...]:
    """What of the seccomp profile is left out, as runc does: names that no architecture has."""
    profile = (config.get("linux") or {}).get("seccomp")
    return tuple(f"unknown seccomp syscall {name!r} ignored" for name in (unknown_in(profile) if profile else ()))


def first_affinity(process: Config) -> frozenset[int] | None:
    """The processors on which a further process is while it joins the container."""
    text = (process.get("execCPUAffinity") or {}).get("initial")
    return tuning.parse_cpus(text) if text else None


def clone_flags(config: Config) -> int:
    """CLONE_NEW* of the namespaces that are made at birth. The cgroup namespace comes later, once placed."""
    kinds = _kinds(config.get("linux") or {})
    return 0 if _is_late(kinds) else _new_flags(kinds)


def _new_flags(kinds: Mapping[str, str]) -> int:
    return sum(namespaces.FLAGS[kind] for kind, path in kinds.items() if not path and kind != "cgroup")


def _is_late(kinds: Mapping[str, str]) -> bool:
    """Whether the stage itself makes the namespaces: a user namespace must be mapped before anything is executed in
    it, a time namespace gets its clocks before anybody is in it."""
    return "user" in kinds or kinds.get("time") == ""


def joined_namespaces(config: Config) -> list[tuple[str, str]]:
    """(kind, path) of the namespaces that exist already, in the order of joining."""
    kinds = _kinds(config.get("linux") or {})
    return [(kind, path) for kind, path in kinds.items() if path]


def exec_plan(config: Config, process: Config) -> Plan:
    """The plan of a further process in a running container; its one join is the container's pidfd."""
    plan = process_plan(config, merged_process(config, process))
    kinds = _kinds(config.get("linux") or {})
    flags = (plan.flags & ~Flag.CREATE_CWD) | Flag.EXEC | Flag.FORK_LATE | _user_flags(config, kinds)
    if "user" in kinds:
        flags |= Flag.BECOME_ROOT
    affinity = tuning.exec_affinity(process)
    return replace(plan, flags=flags, joins=(sum(namespaces.FLAGS[kind] for kind in kinds),), affinity=affinity)


def merged_process(config: Config, process: Config) -> Config:
    """What a further process does not say about its confinement, it takes from the container's."""
    base: Config = config.get("process") or {}
    inherited = {key: base[key] for key in _INHERITED if key in base}
    return {**inherited, **{key: value for key, value in process.items() if value is not None}}


_INHERITED = (
    *("capabilities", "rlimits", "noNewPrivileges", "oomScoreAdj", "scheduler", "ioPriority"),
    *("apparmorProfile", "selinuxLabel"),
)


def process_plan(config: Config, process: Config) -> Plan:
    """Everything that `process` says, with the container's seccomp profile."""
    user: Config = process.get("user") or {}
    named = _named_user(config, process)
    profile = (config.get("linux") or {}).get("seccomp")
    compiled = filter_for(profile) if profile else None
    score = process.get("oomScoreAdj")
    size = process.get("consoleSize") or {}
    return Plan(
        flags=_process_flags(process, named, compiled),
        argv=tuple(process["args"]),
        env=tuple(process.get("env") or ()),
        cwd=process["cwd"],
        user=named,
        group_names=_group_names(config),
        uid=user.get("uid", 0),
        gid=user.get("gid", 0),
        groups=tuple(user.get("additionalGids") or ()),
        umask=user.get("umask", 0o022),
        rlimits=tuple(_rlimits(process.get("rlimits") or ())),
        capabilities=_capabilities(process.get("capabilities") or {}),
        oom_score_adj=score or 0,
        console_size=(size.get("height", 0), size.get("width", 0)),
        filter=compiled.code if compiled else b"",
        filter_flags=compiled.flags if compiled else 0,
        tuning=tuning.of_process(config, process),
        profile=_profile(process),
    )


def _profile(process: Config) -> str | None:
    """What is written to which file under /proc/<pid>/attr."""
    if process.get("apparmorProfile"):
        return f"apparmor/exec=exec {process['apparmorProfile']}"
    return f"exec={process['selinuxLabel']}" if process.get("selinuxLabel") else None


def _kinds(linux: Config) -> dict[str, str]:
    return {entry["type"]: entry.get("path") or "" for entry in linux.get("namespaces") or ()}


def _named_user(config: Config, process: Config) -> str | None:
    """`name[:group]`, to be looked up inside the container.

    process.user.username wins; the annotation speaks for the container's own process, and for one that
    does not say who it is.
    """
    user: Config = process.get("user") or {}
    if user.get("username"):
        return str(user["username"])
    annotation = (config.get("annotations") or {}).get(USER_ANNOTATION)
    if annotation is not None and (process is config.get("process") or "uid" not in user):
        return str(annotation)
    return None


def _group_names(config: Config) -> tuple[str, ...]:
    text = (config.get("annotations") or {}).get(GROUPS_ANNOTATION) or ""
    return tuple(name for name in text.split(",") if name)


def _process_flags(process: Config, named: str | None, compiled: Filter | None) -> Flag:
    chosen = {
        Flag.KEYRING: True,
        Flag.CREATE_CWD: True,
        Flag.TERMINAL: process.get("terminal"),
        Flag.NO_NEW_PRIVILEGES: process.get("noNewPrivileges"),
        Flag.OOM_SCORE: process.get("oomScoreAdj") is not None,
        Flag.USER_CAPS: named is not None,
        # With no_new_privs a filter needs no privilege: it is loaded as late as can be. A filter that
        # forbids what a late fork needs must wait for it too, at the price of holding CAP_SYS_ADMIN.
        Flag.LATE_FILTER: process.get("noNewPrivileges") or (compiled and not compiled.lets_fork),
    }
    return _union(chosen)


def _container_flags(config: Config, kinds: Mapping[str, str]) -> Flag:
    chosen = {
        Flag.PARK: True,
        Flag.WAIT_CGROUP: True,
        Flag.NEW_CGROUP_NS: kinds.get("cgroup") == "",
        Flag.ROOT_READONLY: (config.get("root") or {}).get("readonly"),
        Flag.LOOPBACK: kinds.get("network") == "",
        Flag.FORK_EARLY: bool(kinds.get("pid")) or (_is_late(kinds) and "" in (kinds.get("pid"), kinds.get("time"))),
        Flag.SETUP_DEV: _own_dev(config),
        Flag.CHROOT: "mount" not in kinds,
        Flag.ROOT_GIVEN: _opens_for(kinds) and "mount" in kinds,
        Flag.BECOME_ROOT: bool(kinds.get("user")),
        Flag.TIME_OFFSETS: kinds.get("time") == "" and (config.get("linux") or {}).get("timeOffsets"),
        Flag.BIND_DEVICES: "user" in kinds or not idmap.in_initial_namespace(),
    }
    return _union(chosen) | _user_flags(config, kinds)


def opens_for_users(config: Config) -> bool:
    """Whether this process opens the sources of mounts: it may, and the container's root cannot reach them all."""
    return _opens_for(_kinds(config.get("linux") or {}))


def _opens_for(kinds: Mapping[str, str]) -> bool:
    return "user" in kinds and os.geteuid() == 0


def _user_flags(config: Config, kinds: Mapping[str, str]) -> Flag:
    """Who may not map more than himself may not change groups either (user_namespaces(7))."""
    gids = [(entry["containerID"], entry["hostID"], entry["size"]) for entry in _gid_maps(config)]
    alone = "user" in kinds and os.geteuid() != 0 and idmap.is_single(gids)
    return Flag.NO_SETGROUPS if alone else Flag(0)


def _gid_maps(config: Config) -> Iterable[Config]:
    found: Iterable[Config] = (config.get("linux") or {}).get("gidMappings") or ()
    return found


def _union(chosen: Mapping[Flag, object]) -> Flag:
    flags = Flag(0)
    for flag, wanted in chosen.items():
        if wanted:
            flags |= flag
    return flags


def _own_dev(config: Config) -> bool:
    """Whether /dev is the container's: not when the host's or a volume is bound there."""
    entries = config.get("mounts") or ()
    return not any(_clean(entry["destination"]) == "/dev" and _is_bind(entry) for entry in entries)


def _clean(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def _is_bind(mount: Config) -> bool:
    return mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(mount.get("options") or ())


def _root(config: Config, rootfs: OverlayRootfs | None) -> Root:
    if rootfs is None:  # also where only the root directory changes
        return Root(kind=RootKind.BIND, path=config["root"]["path"])
    if opens_for_users(
        config
    ):  # the overlay comes along: of layers whose ids are shown as the container's users have them
        return Root(kind=RootKind.BIND, path=rootfs.upper)
    return Root(
        kind=RootKind.OVERLAY,
        path=rootfs.upper,
        upper=rootfs.upper,
        work=rootfs.work,
        lower=rootfs.lower,
        volatile=rootfs.volatile,
    )


def _propagation(linux: Config) -> tuple[int, int]:
    """(the whole tree before anything is mounted, the new root at the end).

    With shared propagation the stage keeps the new root itself off the host's peers.
    """
    name = linux.get("rootfsPropagation") or "rslave"
    value = mounts.PROPAGATION[name]
    if value & mounts.MS_SHARED:  # only "/" itself: the host's other mounts stay the peers they are
        return mounts.MS_SHARED, value
    private = value & (mounts.MS_PRIVATE | mounts.MS_UNBINDABLE)
    before = (mounts.MS_PRIVATE if private else mounts.MS_SLAVE) | mounts.MS_REC
    return before, value if value & mounts.MS_UNBINDABLE else 0


def _sysctl_path(key: str) -> str:
    return key if "/" in key else key.replace(".", "/")


# ---- mounts ----


def _mounts(config: Config, cgroup: Cgroup, mounted: Hierarchies) -> Iterator[Mount]:
    kinds = _kinds(config.get("linux") or {})
    private = kinds.get("cgroup") is not None
    everything = _opens_for(kinds)
    for entry in config.get("mounts") or ():
        options = mounts.parse_options(entry.get("options") or ())
        target = _clean(entry["destination"])
        kind = entry.get("type") or ""
        if options.remount:
            yield _remount(target, options)
        elif options.bind or kind == "bind":
            yield _bind(entry, target, options, given=everything or _is_given(entry, config))
        elif kind == "cgroup" or (kind == "cgroup2" and mounted.is_v2):
            yield from _cgroup_mounts(target, options, cgroup, mounted, private)
        else:
            made = _filesystem(kind, str(entry.get("source") or ""), target, options)
            yield replace(made, flags=made.flags | MountFlag.OR_HOST) if kind == "sysfs" and "user" in kinds else made


def given_mounts(config: Config) -> list[Config]:
    """The binds whose source this process opens: all that the container's root may not reach, whose ids are shown
    differently, and those of something below a source."""
    everything = _opens_for(_kinds(config.get("linux") or {}))
    binds = (entry for entry in config.get("mounts") or () if _is_bind(entry) and not _is_remount(entry))
    return [entry for entry in binds if everything or _is_given(entry, config)]


def _is_given(entry: Config, config: Config) -> bool:
    return is_idmapped(entry) or bool(subpath(config, entry))


def subpath(config: Config, entry: Config) -> str:
    """What below a bind's source is meant; "" for the source itself."""
    return str((config.get("annotations") or {}).get(f"{SUBPATH_ANNOTATION}{entry['destination']}") or "")


def is_idmapped(entry: Config) -> bool:
    """Whether a mount shows other ids than its file system has."""
    return bool(entry.get("uidMappings")) or not {"idmap", "ridmap"}.isdisjoint(entry.get("options") or ())


def _is_remount(entry: Config) -> bool:
    return "remount" in (entry.get("options") or ())


def _remount(target: str, options: mounts.MountOptions) -> Mount:
    """Of the mount that is there already; what is not named stays as it is."""
    return Mount(
        kind=MountKind.REMOUNT,
        target=target,
        set=options.set,
        clear=_cleared(options.set, options.clear),
        tree_set=options.tree_set,
        tree_clear=_cleared(options.tree_set, options.tree_clear),
        propagation=options.propagation,
        options=() if options.bind else options.data,
    )


def _bind(entry: Config, target: str, options: mounts.MountOptions, *, given: bool) -> Mount:
    flags = MountFlag.RECURSIVE if options.recursive else MountFlag.NONE
    if given:
        flags |= MountFlag.GIVEN
    if target in PROC_TARGETS:
        flags |= MountFlag.PROC_OK
    if target == "/proc":
        flags |= MountFlag.NEEDS_PROC
    return Mount(
        kind=MountKind.BIND,
        source=entry["source"],
        target=target,
        flags=flags,
        set=options.set,
        # A bind never becomes more writable than what it shows: `rw` is the absence of `ro`.
        clear=_cleared(options.set, options.clear & ~mounts.RDONLY),
        tree_set=options.tree_set,
        tree_clear=_cleared(options.tree_set, options.tree_clear),
        propagation=options.propagation,
    )


def group_owner(config: Config) -> tuple[int, int] | None:
    """Whom the container's cgroup is to be given to: the host's ids of its root, if that has a user and a cgroup
    namespace of its own and may write there."""
    linux: Config = config.get("linux") or {}
    kinds = _kinds(linux)
    mounted = [entry for entry in config.get("mounts") or () if entry.get("type") in ("cgroup", "cgroup2")]
    writable = any("ro" not in (entry.get("options") or ()) for entry in mounted)
    if not writable or kinds.get("user") != "" or kinds.get("cgroup") != "":
        return None
    return host_root(linux)


def host_root(linux: Config) -> tuple[int, int] | None:
    """The host's ids of the root of the user namespace that linux.uidMappings and gidMappings make, if they do."""
    uid, gid = (_host_root(linux.get(key) or ()) for key in ("uidMappings", "gidMappings"))
    return None if uid is None or gid is None else (uid, gid)


def _host_root(mappings: Iterable[Config]) -> int | None:
    return next((entry["hostID"] for entry in mappings if entry["containerID"] == 0), None)


def _cleared(to_set: int, to_clear: int) -> int:
    """The kernel wants the whole atime field cleared when one of its modes is set."""
    return to_clear | mounts.ATIME if to_set & mounts.ATIME else to_clear


_ORDINARY = {"proc": MountFlag.NOFOLLOW | MountFlag.IS_PROC, "sysfs": MountFlag.NOFOLLOW}


def _filesystem(kind: str, source: str, target: str, options: mounts.MountOptions) -> Mount:
    flags = _ORDINARY.get(kind, MountFlag.NONE)
    if target == "/dev" and kind == "tmpfs":
        flags |= MountFlag.IS_DEV
    if kind == "devpts" and target == "/dev/pts":
        flags |= MountFlag.IS_PTS
    if options.copy_up and kind == "tmpfs":
        flags |= MountFlag.COPY_UP
    data = tuple(pair for pair in options.data if pair != ("newinstance", ""))
    return Mount(
        kind=MountKind.FILESYSTEM,
        type=kind,
        source=source,
        target=target,
        flags=flags,
        set=options.set | options.tree_set,
        propagation=options.propagation,
        options=data,
    )


def _cgroup_mounts(
    target: str, options: mounts.MountOptions, cgroup: Cgroup, mounted: Hierarchies, private: bool
) -> Iterator[Mount]:
    """The container's own group and nothing above it, bound from where it was made.

    v2 without a cgroup namespace shows the whole tree, as Docker does. An ordinary user's container has no group of its
    own to be sure of: it sees the host's, to read.
    """
    if os.geteuid() != 0:
        yield _all_groups(target, options, mounted)
        return
    if mounted.is_v2:
        source = (mounted.unified or "") + (cgroup.path if private else "")
        yield _group_bind(source, target, options)
        return
    outer = options.set & ~mounts.RDONLY
    yield Mount(
        kind=MountKind.FILESYSTEM, type="tmpfs", source="tmpfs", target=target, set=outer, options=(("mode", "755"),)
    )
    for root in mounted.roots():
        yield _group_bind(root + cgroup.path, f"{target}/{posixpath.basename(root)}", options)
    for controller, root in mounted.v1.items():
        name = posixpath.basename(root)
        if controller != name and not controller.startswith("name="):
            yield Mount(kind=MountKind.SYMLINK, source=name, target=f"{target}/{controller}")
    if options.set & mounts.RDONLY:
        yield Mount(kind=MountKind.REMOUNT, target=target, set=mounts.RDONLY)


def _all_groups(target: str, options: mounts.MountOptions, mounted: Hierarchies) -> Mount:
    whole = mounted.unified if mounted.is_v2 else posixpath.dirname(mounted.roots()[0])
    return Mount(
        kind=MountKind.BIND,
        source=whole or "/sys/fs/cgroup",
        target=target,
        flags=MountFlag.RECURSIVE,
        tree_set=options.set | mounts.RDONLY,
        propagation=mounts.MS_PRIVATE | mounts.MS_REC,
    )


def _group_bind(source: str, target: str, options: mounts.MountOptions) -> Mount:
    return Mount(kind=MountKind.BIND, source=source, target=target, set=options.set, propagation=mounts.MS_PRIVATE)


# ---- devices, limits, capabilities ----


def _devices(linux: Config) -> Iterator[Device]:
    own = {_clean(device["path"]) for device in linux.get("devices") or ()}
    for name, major, minor in _DEFAULT_NODES:
        if f"/dev/{name}" not in own:
            yield Device(path=f"/dev/{name}", mode=stat.S_IFCHR | 0o666, major=major, minor=minor)
    for entry in linux.get("devices") or ():
        yield Device(
            path=_clean(entry["path"]),
            mode=_NODE_TYPES[entry["type"]] | (entry.get("fileMode", 0o666) & 0o7777),
            major=entry.get("major", 0),
            minor=entry.get("minor", 0),
            uid=entry.get("uid", 0),
            gid=entry.get("gid", 0),
        )


def _rlimits(entries: Iterable[Config]) -> Iterator[tuple[int, int, int]]:
    for entry in entries:
        yield RLIMITS[entry["type"]], _rlimit(entry["soft"]), _rlimit(entry["hard"])


def _rlimit(value: int) -> int:
    """-1 is how callers in C spell no limit."""
    return value & 0xFFFFFFFFFFFFFFFF


def _capabilities(sets: Config) -> Capabilities:
    """Names that this kernel's headers do not know are left out, as everybody does."""
    return Capabilities(**{name: caps.mask(filter(caps.known, sets.get(name) or ())) for name in _SETS})


_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
