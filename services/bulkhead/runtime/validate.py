"""What a config.json may say here (oci-runtime reference 3.1).

Everything wrong, and everything that the specification knows but this runtime does not do, is
InvalidArgument before anything is made: never silence, never half a container.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bulkhead.errors import InvalidArgument, LaunchFailed
from bulkhead.linux import idmap, lsm, mounts, namespaces, overlay
from bulkhead.runtime import hooks, tuning
from bulkhead.runtime.names import is_container_id, is_version
from bulkhead.runtime.rootfs import OverlayRootfs
from bulkhead.runtime.translate import RLIMITS

Config = Mapping[str, Any]

_INTERFACE = re.compile(r"(?!\.\.?$)[^/:\s\0]{1,15}")
_MAX_ID = 0xFFFFFFFE  # -1 means "unchanged" to the kernel

# Known to the specification, not done here: a value that asks for it is refused.
_UNSUPPORTED_MOUNT_OPTIONS = frozenset({"copy-symlink", "src-nofollow", "dest-nofollow"})

# Settings that belong to the IPC namespace; net.* belong to the network namespace.
_IPC_SYSCTLS = frozenset(
    (
        *("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.msg_next_id", "kernel.sem", "kernel.sem_next_id"),
        *("kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_next_id", "kernel.shm_rmid_forced"),
    )
)


def container(container_id: str, config: Config, rootfs: OverlayRootfs | None) -> None:
    """The whole config of a new container, and its root file system."""
    if not is_container_id(container_id):
        raise InvalidArgument(f"cannot create the container: invalid id {container_id!r}")
    _version(config)
    process(_mapping(config, "process", "config", required=True))
    linux = _mapping(config, "linux", "config")
    kinds = _namespaces(linux)
    _root(config, rootfs)
    _names(config, kinds)
    _users(linux, kinds)
    _clocks(linux, kinds)
    _inherited_mounts(config, linux, kinds, rootfs)
    _mounts(config)
    _linux(linux, kinds)
    _hooks(config)
    for key, value in _mapping(config, "annotations", "config").items():
        _check(isinstance(key, str) and isinstance(value, str), f"annotation {key!r} is not text")


def further(wanted: Config) -> None:
    """The process of an exec. Raises LaunchFailed with the text that clients know for a relative directory."""
    cwd = wanted.get("cwd")
    if isinstance(cwd, str) and not cwd.startswith("/"):
        text = "OCI runtime exec failed: exec failed: Cwd must be an absolute path: unknown"
        raise LaunchFailed(text, step="cwd", errno=errno.EINVAL)
    process(wanted)


def process(process: Config) -> None:
    """The process of a container, or a further one for a running container."""
    args = _texts(process, "args", "process")
    _check(bool(args), "process.args is empty")
    _texts(process, "env", "process")
    cwd = process.get("cwd")
    _check(isinstance(cwd, str) and cwd.startswith("/"), f"process.cwd {cwd!r} is not an absolute path")
    _user(_mapping(process, "user", "process"))
    for name, names in _mapping(process, "capabilities", "process").items():
        _check(name in _CAPABILITY_SETS, f"process.capabilities.{name} is no capability set")
        _check(_is_texts(names), f"process.capabilities.{name} is not a list of names")
    _rlimits(_list(process, "rlimits", "process"))
    score = process.get("oomScoreAdj")
    _check(
        score is None or (_is_int(score) and -1000 <= score <= 1000), f"process.oomScoreAdj {score!r} is out of range"
    )
    size = _mapping(process, "consoleSize", "process")
    for key in ("height", "width"):
        value = size.get(key, 0)
        _check(_is_int(value) and 0 <= value <= 0xFFFF, f"process.consoleSize.{key} {value!r} is out of range")
    _scheduler(_mapping(process, "scheduler", "process"))
    _io_priority(_mapping(process, "ioPriority", "process"))
    for key, cpus in _mapping(process, "execCPUAffinity", "process").items():
        _check(key in ("initial", "final"), f"process.execCPUAffinity.{key} is unknown")
        _cpus(cpus, f"process.execCPUAffinity.{key}")
    _labels(process)


_CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")


def _version(config: Config) -> None:
    version = config.get("ociVersion")
    _check(isinstance(version, str) and is_version(version), f"ociVersion {version!r} is not 1.x.y")


def _labels(process: Config) -> None:
    """A profile that the kernel cannot apply would be no confinement."""
    for key, present in (("apparmorProfile", lsm.apparmor_enabled), ("selinuxLabel", lsm.selinux_enabled)):
        name = process.get(key) or ""
        _check(isinstance(name, str) and "\0" not in name, f"process.{key} is not text")
        module = "AppArmor" if key == "apparmorProfile" else "SELinux"
        _check(not name or present(), f"process.{key} is set to {name!r}, but {module} is not enabled on this host")


def _scheduler(wanted: Config) -> None:
    if not wanted:
        return
    policy, nice, priority = wanted.get("policy"), wanted.get("nice") or 0, wanted.get("priority") or 0
    _check(policy in tuning.POLICIES, f"process.scheduler.policy {policy!r} is unknown")
    for name in _texts(wanted, "flags", "process.scheduler"):
        _check(name in tuning.SCHEDULER_FLAGS, f"process.scheduler flag {name!r} is unknown")
    _check(_is_int(nice) and -20 <= nice <= 19, f"process.scheduler.nice {nice!r} is not in -20..19")
    real_time = policy in ("SCHED_FIFO", "SCHED_RR")
    _check(_is_int(priority) and 0 <= priority <= 99, f"process.scheduler.priority {priority!r} is not in 0..99")
    _check(not priority or real_time, "process.scheduler.priority can only be set with SCHED_FIFO or SCHED_RR")
    for key in ("runtime", "deadline", "period"):
        value = wanted.get(key) or 0
        _check(_is_int(value) and 0 <= value < 1 << 63, f"process.scheduler.{key} {value!r} is out of range")
        _check(not value or policy == "SCHED_DEADLINE", f"process.scheduler.{key} can only be set with SCHED_DEADLINE")


def _io_priority(wanted: Config) -> None:
    if not wanted:
        return
    kind, priority = wanted.get("class"), wanted.get("priority") or 0
    _check(kind in tuning.IO_CLASSES, f"process.ioPriority.class {kind!r} is unknown")
    _check(_is_int(priority) and 0 <= priority <= 7, f"process.ioPriority.priority {priority!r} is not in 0..7")


def _cpus(text: Any, where: str) -> None:
    try:
        _check(isinstance(text, str), f"{where} is not text")
        tuning.parse_cpus(text)
    except ValueError as error:
        raise InvalidArgument(f"cannot create the container: {where} {text!r} is no list of numbers") from error


def _user(user: Config) -> None:
    for key in ("uid", "gid"):
        value = user.get(key, 0)
        _check(_is_int(value) and 0 <= value <= _MAX_ID, f"process.user.{key} {value!r} is out of range")
    for gid in _list(user, "additionalGids", "process.user"):
        _check(_is_int(gid) and 0 <= gid <= _MAX_ID, f"process.user.additionalGids {gid!r} is out of range")
    umask = user.get("umask", 0)
    _check(_is_int(umask) and 0 <= umask <= 0o777, f"process.user.umask {umask!r} is out of range")
    _check(isinstance(user.get("username", ""), str), "process.user.username is not text")


def _rlimits(entries: Iterable[Any]) -> None:
    seen = set[str]()
    for entry in entries:
        _check(isinstance(entry, Mapping), "process.rlimits holds what is no object")
        name, soft, hard = str(entry.get("type")), entry.get("soft"), entry.get("hard")
        _check(name in RLIMITS, f"resource limit {name!r} is unknown")
        _check(name not in seen, f"resource limit {name} is given twice")
        _check(
            _is_int(soft) and _is_int(hard) and -1 <= soft < 1 << 64 and -1 <= hard < 1 << 64, f"{name} is no number"
        )
        _check(_unsigned(soft) <= _unsigned(hard), f"{name}: the soft limit is above the hard limit")
        seen.add(name)


def _unsigned(value: int) -> int:
    return value & 0xFFFFFFFFFFFFFFFF


def _root(config: Config, rootfs: OverlayRootfs | None) -> None:
    if rootfs is not None:
        _check(bool(rootfs.lower), "the root file system has no layers")
        _check(len(rootfs.lower) <= overlay.MAX_LOWER, f"the root file system has more than {overlay.MAX_LOWER} layers")
        for layer in (*rootfs.lower, rootfs.upper, rootfs.work):
            _check(layer.startswith("/"), f"layer {layer!r} is not an absolute path")
            _check("\\" not in layer, f"layer {layer!r} holds a backslash, which overlay takes for an escape")
        return
    path = _mapping(config, "root", "config", required=True).get("path")
    _check(isinstance(path, str) and path.startswith("/"), f"root.path {path!r} is not an absolute path")
    _check(Path(str(path)).is_dir(), f"root.path {path!r} is not a directory")


def _namespaces(linux: Config) -> dict[str, str]:
    """Path by kind, empty for a new one."""
    kinds = dict[str, str]()
    for entry in _list(linux, "namespaces", "linux"):
        _check(isinstance(entry, Mapping), "linux.namespaces holds what is no object")
        kind, path = entry.get("type"), entry.get("path") or ""
        _check(kind in namespaces.FLAGS, f"namespace type {kind!r} is unknown")
        _check(kind not in kinds, f"namespace {kind} is given twice")
        _check(isinstance(path, str) and (not path or path.startswith("/")), f"namespace path {path!r} is not absolute")
        kinds[str(kind)] = str(path)
    return kinds


def _users(linux: Config, kinds: Mapping[str, str]) -> None:
    maps = {key: _id_maps(linux, key, f"linux.{key}") for key in ("uidMappings", "gidMappings")}
    given = [key for key, found in maps.items() if found]
    new = kinds.get("user") == ""
    _check(not given or "user" in kinds, f"linux.{given and given[0]}: user namespace mappings need a user namespace")
    _check(not (given and kinds.get("user")), "user namespace path and mappings cannot both be given")
    for key, found in maps.items():
        _check(not new or bool(found), f"a user namespace needs linux.{key}")
        _check(not new or idmap.covers(found, 0), f"linux.{key} does not map id 0 of the container")
    _check(os.geteuid() == 0 or "user" in kinds, "an ordinary user needs a user namespace (rootless container)")


def _id_maps(entry: Config, key: str, where: str) -> list[tuple[int, int, int]]:
    found = list[tuple[int, int, int]]()
    for line in _list(entry, key, where.rpartition(".")[0]):
        _check(isinstance(line, Mapping), f"{where} holds what is no object")
        numbers = tuple(line.get(name, 0) for name in ("containerID", "hostID", "size"))
        _check(all(_is_int(value) and 0 <= value <= 0xFFFFFFFF for value in numbers), f"{where} {line!r} is no mapping")
        _check(numbers[2] > 0, f"{where}: a mapping of no ids")
        found.append(numbers)
    _check(len(found) <= idmap.MAX_LINES, f"{where} has more than {idmap.MAX_LINES} lines")
    return found


def _clocks(linux: Config, kinds: Mapping[str, str]) -> None:
    offsets = _mapping(linux, "timeOffsets", "linux")
    _check(not offsets or kinds.get("time") == "", "linux.timeOffsets needs a time namespace of its own")
    for clock, offset in offsets.items():
        _check(clock in ("monotonic", "boottime"), f"linux.timeOffsets: clock {clock!r} has no offset")
        _check(isinstance(offset, Mapping), f"linux.timeOffsets.{clock} is not an object")
        seconds, rest = offset.get("secs") or 0, offset.get("nanosecs") or 0
        _check(_is_int(seconds) and abs(seconds) < 1 << 62, f"linux.timeOffsets.{clock}.secs is out of range")
        _check(_is_int(rest) and 0 <= rest < 10**9, f"linux.timeOffsets.{clock}.nanosecs is out of range")


def _inherited_mounts(config: Config, linux: Config, kinds: Mapping[str, str], rootfs: OverlayRootfs | None) -> None:
    """Without a mount namespace only the root directory changes: what is mounted would be mounted on the host."""
    if "mount" in kinds:
        return
    asked: dict[str, Any] = {key: linux.get(key) for key in ("maskedPaths", "readonlyPaths", "rootfsPropagation")}
    asked |= {"mounts": config.get("mounts"), "an overlay": rootfs, "linux.devices": linux.get("devices")}
    asked["root.readonly"] = _mapping(config, "root", "config").get("readonly")
    for name, value in asked.items():
        _check(not value, f"unable to restrict sys entries without a private MNT namespace: {name} needs one")


def _hooks(config: Config) -> None:
    for kind, listed in _mapping(config, "hooks", "config").items():
        _check(kind in hooks.KINDS, f"hooks.{kind} is unknown")
        _check(isinstance(listed, list | tuple | None), f"hooks.{kind} is not a list")
        for entry in listed or ():
            _check(isinstance(entry, Mapping), f"hooks.{kind} holds what is no object")
            path, timeout = entry.get("path"), entry.get("timeout")
            _check(isinstance(path, str) and path.startswith("/"), f"hooks.{kind}: path {path!r} is not absolute")
            _check("\0" not in path, f"hooks.{kind}: path {path!r} holds a NUL")
            _check(
                timeout is None or (_is_int(timeout) and 0 < timeout < 1 << 31), f"hooks.{kind}: timeout {timeout!r}"
            )
            _texts(entry, "args", f"hooks.{kind}")
            _texts(entry, "env", f"hooks.{kind}")


def _names(config: Config, kinds: Mapping[str, str]) -> None:
    for key in ("hostname", "domainname"):
        name = config.get(key) or ""
        _check(isinstance(name, str) and len(name.encode()) <= 64, f"{key} {name!r} is longer than 64 bytes")
        _check(not name or "uts" in kinds, f"{key} cannot be set without a uts namespace")


def _mounts(config: Config) -> None:
    for entry in _list(config, "mounts", "config"):
        _check(isinstance(entry, Mapping), "mounts holds what is no object")
        target = entry.get("destination")
        _check(isinstance(target, str) and bool(target), f"mount destination {target!r} is not a path")
        options = _texts(entry, "options", f"mount {target}")
        refused = sorted(_UNSUPPORTED_MOUNT_OPTIONS.intersection(options))
        _check(not refused and "" not in options, f"mount {target}: option {''.join(refused[:1])!r} is not supported")
        parsed = mounts.parse_options(options)
        place = posixpath.normpath("/" + str(target).lstrip("/"))
        _check(place != "/", f"mount {target}: the root itself cannot be mounted over")
        bound = parsed.bind or entry.get("type") == "bind"
        _idmapped(entry, config, parsed, f"mount {target}", bound=bound)
        if not bound:
            _mapped_owner(parsed.data, config, f"mount {target}")
        if parsed.remount:
            continue
        _check(place != "/proc" or bound or entry.get("type") == "proc", f"mount {target}: only a procfs can be there")
        _check(not parsed.copy_up or entry.get("type") == "tmpfs", f"mount {target}: only a tmpfs knows tmpcopyup")
        _check(isinstance(entry.get("type") or "", str), f"mount {target}: type is not text")
        if bound:
            _bind(entry, str(target), options)
        else:
            _check(bool(entry.get("type")), f"mount {target}: no type is given")


def _idmapped(entry: Config, config: Config, options: mounts.MountOptions, where: str, *, bound: bool) -> None:
    uids, gids = (_id_maps(entry, key, f"{where}.{key}") for key in ("uidMappings", "gidMappings"))
    if not (uids or gids or options.idmap):
        return
    _check(bound and not options.remount, f"{where}: id-mapped mounts are only supported for bind-mounts")
    _check(bool(uids) == bool(gids), f"{where}: uidMappings and gidMappings must both be given")
    linux = _mapping(config, "linux", "config")
    users = any(isinstance(found, Mapping) and found.get("type") == "user" for found in linux.get("namespaces") or ())
    _check(bool(uids) or users, f"{where}: id-mapped mounts need mappings or a user namespace")
    _check(os.geteuid() == 0, f"{where}: id-mapped mounts need root")


def _mapped_owner(data: Iterable[tuple[str, str]], config: Config, where: str) -> None:
    """A file system cannot belong to somebody whom its user namespace does not map: the kernel says only EINVAL."""
    linux = _mapping(config, "linux", "config")
    for name, value in data:
        if name not in ("uid", "gid") or not value.isdecimal():
            continue
        maps = _id_maps(linux, f"{name}Mappings", f"linux.{name}Mappings")
        mapped = not maps or idmap.covers(maps, int(value))
        _check(mapped, f"{where}: cannot specify {name}= mount options for unmapped {name} in rootless containers")


def _bind(entry: Config, target: str, options: Iterable[str]) -> None:
    source = entry.get("source")
    _check(
        isinstance(source, str) and source.startswith("/"), f"mount {target}: source {source!r} is not an absolute path"
    )
    data = mounts.parse_options(options).data
    _check(not data, f"mount {target}: option {data[0][0] if data else ''!r} means nothing to a bind")


def _linux(linux: Config, kinds: Mapping[str, str]) -> None:
    _net_devices(_mapping(linux, "netDevices", "linux"), kinds)
    _unlabelled(linux)
    group = linux.get("cgroupsPath") or "/x"
    _check(isinstance(group, str) and "\0" not in group, f"linux.cgroupsPath {group!r} is not a path")
    parts = group.removeprefix("/").rstrip("/").split("/")
    _check(not {"", ".", ".."}.intersection(parts), f"linux.cgroupsPath {group!r} is not a path")
    domain = _mapping(linux, "personality", "linux")
    _check(not domain or domain.get("domain") in tuning.PERSONALITIES, f"linux.personality {domain!r} is unknown")
    _check(not domain.get("flags"), "linux.personality.flags are not supported")
    _memory_policy(_mapping(linux, "memoryPolicy", "linux"))
    propagation = linux.get("rootfsPropagation") or "rslave"
    _check(propagation in mounts.PROPAGATION, f"linux.rootfsPropagation {propagation!r} is unknown")
    for key in ("maskedPaths", "readonlyPaths"):
        for path in _texts(linux, key, "linux"):
            _check(path.startswith("/"), f"linux.{key}: {path!r} is not an absolute path")
    for key, value in _mapping(linux, "sysctl", "linux").items():
        _sysctl(key, value, kinds)
    for entry in _list(linux, "devices", "linux"):
        _device(entry)
    _mapping(linux, "resources", "linux")
    _mapping(linux, "seccomp", "linux")


def _unlabelled(linux: Config) -> None:
    label = linux.get("mountLabel") or ""
    _check(
        not label or lsm.selinux_enabled(),
        f"linux.mountLabel is set to {label!r}, but SELinux is not enabled on this host",
    )
    _unsupported(linux, ("mountLabel",), "linux.")
    if linux.get("intelRdt"):
        _check(Path("/sys/fs/resctrl/schemata").exists(), "linux.intelRdt needs /sys/fs/resctrl, which is not mounted")
        _unsupported(linux, ("intelRdt",), "linux.")


def _memory_policy(policy: Config) -> None:
    if not policy:
        return
    mode = policy.get("mode")
    _check(mode in tuning.MEMORY_MODES, f"linux.memoryPolicy.mode {mode!r} is unknown")
    for name in _texts(policy, "flags", "linux.memoryPolicy"):
        _check(name in tuning.MEMORY_FLAGS, f"linux.memoryPolicy flag {name!r} is unknown")
    _cpus(policy.get("nodes") or "", "linux.memoryPolicy.nodes")


def _sysctl(key: Any, value: Any, kinds: Mapping[str, str]) -> None:
    """Only what the container's own namespaces hold: anything else would change the host."""
    _check(isinstance(key, str) and isinstance(value, str), f"sysctl {key!r} is not text")
    name = key.replace("/", ".")
    parts = name.split(".")
    _check("" not in parts and not {"..", "."}.intersection(key.split("/")), f"sysctl {key!r} is not a name")
    if name == "kernel.hostname":
        raise InvalidArgument('cannot create the container: sysctl "kernel.hostname" conflicts with hostname: use that')
    if name == "kernel.domainname":
        _check("uts" in kinds, f'sysctl "{key}" needs a uts namespace')
    elif name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
        _check("ipc" in kinds, f'sysctl "{key}" is not allowed in the hosts ipc namespace')
    elif parts[0] == "net":
        _check("network" in kinds, f'sysctl "{key}" is not allowed in the hosts network namespace')
        path = kinds["network"]
        _check(not _is_own_network(path), f'sysctl "{key}" is not allowed in the hosts network namespace')
    else:
        raise InvalidArgument(f'cannot create the container: sysctl "{key}" is not in a separate kernel namespace')


def _net_devices(devices: Config, kinds: Mapping[str, str]) -> None:
    if not devices:
        return
    own = "network" not in kinds or _is_own_network(kinds["network"])
    _check(not own, "linux.netDevices: unable to move network devices without a network namespace")
    for name, device in devices.items():
        _check(isinstance(device or {}, Mapping), f"linux.netDevices.{name} is not an object")
        for text in (name, (device or {}).get("name") or name):
            _check(
                isinstance(text, str) and _INTERFACE.fullmatch(text) is not None,
                f"invalid network device name {text!r}",
            )


def _is_own_network(path: str) -> bool:
    try:
        return bool(path) and Path(path).samefile("/proc/self/ns/net")
    except OSError:
        return False


def _device(entry: Any) -> None:
    _check(isinstance(entry, Mapping), "linux.devices holds what is no object")
    path = entry.get("path")
    _check(isinstance(path, str) and path.startswith("/"), f"device path {path!r} is not absolute")
    _check(entry.get("type") in ("c", "u", "b", "p"), f"device {path}: type {entry.get('type')!r} is unknown")
    ranges = {"major": 0xFFF, "minor": 0xFFFFF, "fileMode": 0o177777, "uid": _MAX_ID, "gid": _MAX_ID}
    for key, limit in ranges.items():
        value = entry.get(key) or 0
        _check(_is_int(value) and 0 <= value <= limit, f"device {path}: {key} {value!r} is out of range")


# ---- shapes ----


def _check(holds: bool, problem: str) -> None:
    if not holds:
        raise InvalidArgument(f"cannot create the container: {problem}")


def _unsupported(entry: Config, keys: Iterable[str], where: str) -> None:
    for key in keys:
        _check(not entry.get(key), f"{where}{key} is not supported")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) and "\0" not in text for text in value)


def _typed(entry: Config, key: str, where: str, fits: Callable[[Any], bool], kind: str, default: Any) -> Any:
    value = entry.get(key)
    if value is None:
        return default
    _check(fits(value), f"{where}.{key} is not {kind}")
    return value


def _texts(entry: Config, key: str, where: str) -> list[str]:
    value: list[str] = _typed(entry, key, where, _is_texts, "a list of texts", [])
    return value


def _list(entry: Config, key: str, where: str) -> list[Any]:
    value: list[Any] = _typed(entry, key, where, lambda found: isinstance(found, list | tuple), "a list", [])
    return value


def _mapping(entry: Config, key: str, where: str, *, required: bool = False) -> Config:
    value: Config = _typed(entry, key, where, lambda found: isinstance(found, Mapping), "an object", {})
    _check(bool(value) or not required, f"{where}.{key} is missing")
    return value
