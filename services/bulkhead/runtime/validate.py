"""What a config.json may say here (oci-runtime reference 3.1).

Everything wrong, and everything that the specification knows but this runtime does not do, is
InvalidArgument before anything is made: never silence, never half a container.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bulkhead.errors import InvalidArgument
from bulkhead.linux import mounts, namespaces, overlay
from bulkhead.runtime.rootfs import OverlayRootfs
from bulkhead.runtime.translate import RLIMITS

Config = Mapping[str, Any]

_ID = re.compile(r"[A-Za-z0-9_+.-]+")
_VERSION = re.compile(r"1\.\d+\.\d+([-+].*)?")
_MAX_ID = 0xFFFFFFFE  # -1 means "unchanged" to the kernel

# Known to the specification, not done here: a value that asks for it is refused.
_UNSUPPORTED_TOP = ("hooks", "vm", "windows", "solaris", "zos", "freebsd")
_UNSUPPORTED_PROCESS = ("apparmorProfile", "selinuxLabel", "scheduler", "ioPriority", "execCPUAffinity", "commandLine")
_UNSUPPORTED_LINUX = (
    "uidMappings",
    "gidMappings",
    "timeOffsets",
    "intelRdt",
    "mountLabel",
    "memoryPolicy",
    "personality",
    "netDevices",
)
_UNSUPPORTED_NAMESPACES = ("user", "time")
_UNSUPPORTED_MOUNT_OPTIONS = frozenset(
    {"tmpcopyup", "idmap", "ridmap", "copy-symlink", "src-nofollow", "dest-nofollow"}
)

# Settings that belong to the IPC namespace; net.* belong to the network namespace.
_IPC_SYSCTLS = frozenset(
    (
        *("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.msg_next_id", "kernel.sem", "kernel.sem_next_id"),
        *("kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_next_id", "kernel.shm_rmid_forced"),
    )
)


def container(container_id: str, config: Config, rootfs: OverlayRootfs | None) -> None:
    """The whole config of a new container, and its root file system."""
    if not _ID.fullmatch(container_id) or container_id in (".", ".."):
        raise InvalidArgument(f"cannot create the container: invalid id {container_id!r}")
    _version(config)
    _unsupported(config, _UNSUPPORTED_TOP, "")
    process(_mapping(config, "process", "config", required=True))
    linux = _mapping(config, "linux", "config")
    kinds = _namespaces(linux)
    _root(config, rootfs)
    _names(config, kinds)
    _mounts(config)
    _linux(linux, kinds)
    for key, value in _mapping(config, "annotations", "config").items():
        _check(isinstance(key, str) and isinstance(value, str), f"annotation {key!r} is not text")


def process(process: Config) -> None:
    """The process of a container, or a further one for a running container."""
    _unsupported(process, _UNSUPPORTED_PROCESS, "process.")
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


_CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")


def _version(config: Config) -> None:
    version = config.get("ociVersion")
    _check(isinstance(version, str) and _VERSION.fullmatch(version) is not None, f"ociVersion {version!r} is not 1.x.y")


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
        _check(kind not in _UNSUPPORTED_NAMESPACES, f"a {kind} namespace is not supported")
        _check(kind not in kinds, f"namespace {kind} is given twice")
        _check(isinstance(path, str) and (not path or path.startswith("/")), f"namespace path {path!r} is not absolute")
        kinds[str(kind)] = str(path)
    _check(kinds.get("mount") == "", "a container without a mount namespace of its own is not supported")
    return kinds


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
        place = posixpath.normpath("/" + str(target).lstrip("/"))
        _check(place != "/", f"mount {target}: the root itself cannot be mounted over")
        bound = mounts.parse_options(options).bind or entry.get("type") == "bind"
        _check(place != "/proc" or bound or entry.get("type") == "proc", f"mount {target}: only a procfs can be there")
        _unsupported(entry, ("uidMappings", "gidMappings"), f"mount {target}: ")
        _check(isinstance(entry.get("type") or "", str), f"mount {target}: type is not text")
        if bound:
            _bind(entry, str(target), options)
        else:
            _check(bool(entry.get("type")), f"mount {target}: no type is given")


def _bind(entry: Config, target: str, options: Iterable[str]) -> None:
    source = entry.get("source")
    _check(
        isinstance(source, str) and source.startswith("/"), f"mount {target}: source {source!r} is not an absolute path"
    )
    data = mounts.parse_options(options).data
    _check(not data, f"mount {target}: option {data[0][0] if data else ''!r} means nothing to a bind")


def _linux(linux: Config, kinds: Mapping[str, str]) -> None:
    _unsupported(linux, _UNSUPPORTED_LINUX, "linux.")
    group = linux.get("cgroupsPath") or "/x"
    _check(isinstance(group, str) and group.startswith("/"), f"linux.cgroupsPath {group!r} is not an absolute path")
    _check(
        not {"", ".", ".."}.intersection(group[1:].rstrip("/").split("/")), f"linux.cgroupsPath {group!r} is not a path"
    )
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
        _check("ipc" in kinds, f'sysctl "{key}" needs an ipc namespace')
    elif parts[0] == "net":
        _check("network" in kinds, f'sysctl "{key}" is not allowed in the hosts network namespace')
    else:
        raise InvalidArgument(f'cannot create the container: sysctl "{key}" is not in a separate kernel namespace')


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
