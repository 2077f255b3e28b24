"""The mounts of an OCI config: Docker's defaults, then what the user asked for, parents first.

A user's mount replaces the default at the same place. Sources are host paths by now: volumes have been resolved.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from bulkhead.errors import Internal
from bulkhead.model.container import Mount
from bulkhead.runtime import defaults

OciMount = dict[str, Any]

_TMPFS_FLAGS = (
    "ro rw exec noexec suid nosuid dev nodev sync async dirsync remount mand nomand atime noatime diratime nodiratime "
    "relatime norelatime strictatime nostrictatime private rprivate shared rshared slave rslave unbindable runbindable"
)
_TMPFS_FLAG = frozenset(_TMPFS_FLAGS.split())
_TMPFS_VALUE = frozenset(("size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"))
_OPPOSITE = {"exec": "noexec", "suid": "nosuid", "dev": "nodev"}


def mounts(
    user: Sequence[Mount],
    sources: Mapping[str, str],
    *,
    shm_size: int,
    ipc_mode: str,
    privileged: bool,
    read_only: bool,
    engine_files: Mapping[str, str],
    shared_memory: str = "",
    writable_cgroups: bool = False,
    own_volumes: Container[str] = frozenset(),
    remapped: bool = False,
) -> list[OciMount]:
    """All mounts in the order in which they are made.

    `sources` holds the host path of each bind and volume by its target, `engine_files` those of /etc/hosts and its
    like; `shared_memory` is where /dev/shm is when several containers share it. `remapped`: the container's users are
    not the host's; the engine's files and the volumes at `own_volumes` show them as theirs.
    Raises Internal with Docker's text for a tmpfs option that does not exist.
    """
    asked = {clean_target(mount.target): mount for mount in user}
    chosen = [_default(each, privileged, ipc_mode) for each in defaults.default_mounts(shm_size)]
    if shared_memory:
        chosen = [_shared(each, shared_memory) for each in chosen]
    if writable_cgroups:
        chosen = [_writable(each) if each["destination"] == "/sys/fs/cgroup" else each for each in chosen]
    kept = [each for each in chosen if not _replaced(each["destination"], asked, ipc_mode)]
    files = [_file(target, source, read_only) for target, source in engine_files.items() if target not in asked]
    wanted = [_asked(target, mount, sources) for target, mount in asked.items()]
    if remapped:
        ours = {target for target, mount in asked.items() if mount.target in own_volumes}
        files = [_idmapped(each) for each in files]
        wanted = [_idmapped(each) if each["destination"] in ours else each for each in wanted]
    return [*kept, *sorted([*files, *wanted], key=_depth)]


def clean_target(target: str) -> str:
    """Where in the container a mount is made, in one spelling."""
    return str(PurePosixPath("/") / target)


def _depth(mount: OciMount) -> int:
    return sum(1 for name in mount["destination"].split("/") if name)


def _replaced(destination: str, asked: Container[str], ipc_mode: str) -> bool:
    """The user has his own there, or a /dev of his own that it would only cover, or wants none (`--ipc none`)."""
    if destination == "/dev/shm" and ipc_mode == "none":
        return True
    return destination in asked or (destination.startswith("/dev/") and "/dev" in asked)


def _default(mount: Mapping[str, Any], privileged: bool, ipc_mode: str) -> OciMount:
    options = list(mount.get("options", ()))
    if ipc_mode == "host" and mount["destination"] == "/dev/shm":
        return _bind(mount["destination"], mount["destination"], ["rbind", "rprivate", "nosuid", "noexec", "nodev"])
    if privileged and mount["destination"] in ("/sys", "/sys/fs/cgroup"):
        return _writable(mount)
    return {**mount, "options": options}


def _writable(mount: Mapping[str, Any]) -> OciMount:
    return {**mount, "options": ["rw" if option == "ro" else option for option in mount["options"]]}


def _shared(mount: OciMount, memory: str) -> OciMount:
    if mount["destination"] != "/dev/shm":
        return mount
    return _bind("/dev/shm", memory, ["bind", "rprivate", "nosuid", "noexec", "nodev"])


def _bind(target: str, source: str, options: list[str]) -> OciMount:
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _file(target: str, source: str, read_only: bool) -> OciMount:
    return _bind(target, source, ["rbind", "rprivate", "ro" if read_only else "rw"])


def _idmapped(mount: OciMount) -> OciMount:
    """Its files have the container's ids on disk, as those of the root file system do."""
    return {**mount, "options": [*mount["options"], "idmap"]}


def _asked(target: str, mount: Mount, sources: Mapping[str, str]) -> OciMount:
    if mount.type == "tmpfs":
        return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": _tmpfs_options(mount)}
    binding = "bind" if mount.non_recursive else "rbind"
    options = [binding, *_access(mount), mount.propagation or "rprivate"]
    return _bind(target, sources[mount.target], options)


def _access(mount: Mount) -> list[str]:
    if not mount.read_only:
        return ["rw"]
    return ["ro"] if mount.writable_below else ["ro", "rro"]


def _tmpfs_options(mount: Mount) -> list[str]:
    options = [option for text in mount.options for option in text.split(",") if option]
    bad = [option for option in options if not _is_tmpfs_option(option)]
    if bad:
        listed = " ".join(f'"{part}"' for part in bad[0].split("=", 1))
        raise Internal(f"invalid tmpfs option [{listed}]")
    undone = {_OPPOSITE[option] for option in options if option in _OPPOSITE}
    base = [option for option in ("noexec", "nosuid", "nodev") if option not in undone]
    if mount.read_only:
        base.append("ro")
    if mount.size_bytes:
        base.append(f"size={mount.size_bytes}")
    if mount.mode:
        base.append(f"mode={mount.mode:o}")
    return list(dict.fromkeys([*base, *options]))


def _is_tmpfs_option(option: str) -> bool:
    name, separator, _ = option.partition("=")
    return name in _TMPFS_VALUE if separator else name in _TMPFS_FLAG
