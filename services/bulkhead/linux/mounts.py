"""Mount options as fstab and OCI spell them, turned into what the new mount API takes (mount_setattr(2))."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bulkhead.linux import resolve, syscall

RDONLY = 0x00000001
NOSUID = 0x00000002
NODEV = 0x00000004
NOEXEC = 0x00000008
ATIME = 0x00000070
RELATIME = 0x00000000
NOATIME = 0x00000010
STRICTATIME = 0x00000020
NODIRATIME = 0x00000080
NOSYMFOLLOW = 0x00200000

MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20

PROPAGATION = {
    "private": MS_PRIVATE,
    "slave": MS_SLAVE,
    "shared": MS_SHARED,
    "unbindable": MS_UNBINDABLE,
    "rprivate": MS_PRIVATE | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "rshared": MS_SHARED | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
}

# name -> (attributes to set, attributes to clear)
ATTRIBUTES = {
    "ro": (RDONLY, 0),
    "rw": (0, RDONLY),
    "nosuid": (NOSUID, 0),
    "suid": (0, NOSUID),
    "nodev": (NODEV, 0),
    "dev": (0, NODEV),
    "noexec": (NOEXEC, 0),
    "exec": (0, NOEXEC),
    "noatime": (NOATIME, ATIME),
    "atime": (RELATIME, ATIME),
    "relatime": (RELATIME, ATIME),
    "norelatime": (RELATIME, ATIME),
    "strictatime": (STRICTATIME, ATIME),
    "nostrictatime": (RELATIME, ATIME),
    "nodiratime": (NODIRATIME, 0),
    "diratime": (0, NODIRATIME),
    "nosymfollow": (NOSYMFOLLOW, 0),
    "symfollow": (0, NOSYMFOLLOW),
}
RECURSIVE_ATTRIBUTES = {
    f"r{name}": value for name, value in ATTRIBUTES.items() if name not in ("atime", "norelatime", "nostrictatime")
} | {"ratime": ATTRIBUTES["atime"], "rnorelatime": ATTRIBUTES["norelatime"]}

# Flags of the file system itself: they go to fsconfig as they are, or mean nothing there.
SUPERBLOCK_FLAGS = frozenset({"sync", "dirsync", "lazytime", "mand", "iversion", "silent"})
IGNORED = frozenset(
    {"defaults", "async", "nomand", "noiversion", "loud", "nolazytime"} | {"bind", "rbind", "remount", "tmpcopyup"}
)

_CLONE, _CLOEXEC, _RECURSIVE, _EMPTY_PATH = 1, os.O_CLOEXEC, 0x8000, 0x1000
_IDMAP = 0x00100000


_IDMAPS = frozenset({"idmap", "ridmap"})


# Not a NamedTuple: the runtime's command starts without `typing`, and is broken by a module that brings it.
@dataclass(frozen=True, slots=True, kw_only=True)
class MountOptions:
    """Parsed options. Attributes are MOUNT_ATTR_*, propagation MS_*; `data` belongs to the file system."""

    bind: bool = False
    recursive: bool = False
    remount: bool = False
    copy_up: bool = False
    idmap: bool = False
    idmap_tree: bool = False
    set: int = 0
    clear: int = 0
    tree_set: int = 0
    tree_clear: int = 0
    propagation: int = 0
    data: tuple[tuple[str, str], ...] = ()


def parse_options(options: Iterable[str]) -> MountOptions:
    """Later options override earlier ones, as in mount(8). ValueError for an empty one."""
    plain, tree = (0, 0), (0, 0)
    propagation, data = 0, list[tuple[str, str]]()
    names = list(options)
    for option in names:
        if not option:
            raise ValueError("an option is empty")
        if option in ATTRIBUTES:
            plain = _override(plain, ATTRIBUTES[option])
        elif option in RECURSIVE_ATTRIBUTES:
            tree = _override(tree, RECURSIVE_ATTRIBUTES[option])
        elif option in PROPAGATION:
            propagation = PROPAGATION[option]
        elif option not in IGNORED and option not in _IDMAPS:
            key, _, value = option.partition("=")
            data.append((key, value))
    return MountOptions(
        bind="bind" in names or "rbind" in names,
        recursive="rbind" in names,
        remount="remount" in names,
        copy_up="tmpcopyup" in names,
        idmap="idmap" in names or "ridmap" in names,
        idmap_tree="ridmap" in names,
        set=plain[0],
        clear=plain[1],
        tree_set=tree[0],
        tree_clear=tree[1],
        propagation=propagation,
        data=tuple(data),
    )


def _override(before: tuple[int, int], change: tuple[int, int]) -> tuple[int, int]:
    """What is set is no longer cleared and the reverse; a change of the atime mode replaces the mode."""
    to_set, to_clear = change
    return (before[0] & ~to_clear) | to_set, (before[1] & ~(to_set & ~ATIME)) | to_clear


def clone_tree(path: str, *, recursive: bool, at: int = -100) -> int:
    """Descriptor of a copy of the mount at `path`, attached nowhere (open_tree(2)); "" is `at` itself.

    OSError names the path.
    """
    flags = _CLONE | _CLOEXEC | (_RECURSIVE if recursive else 0) | (0 if path else _EMPTY_PATH)
    try:
        return syscall.call("open_tree", at, os.fsencode(path), flags)
    except OSError as error:
        error.filename = path
        raise


def clone_below(source: str, subpath: str, *, recursive: bool) -> int:
    """As `clone_tree`, of what is at `subpath` of directory `source` now ("" for itself), opened once: whoever writes
    to `source` cannot lead it out of there. Raises OSError."""
    if not subpath:
        return clone_tree(source, recursive=recursive)
    root = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = resolve.open_in_root(root, subpath, os.O_PATH)
    finally:
        os.close(root)
    try:
        return clone_tree("", recursive=recursive, at=found)
    finally:
        os.close(found)


def map_ids(fd: int, user_namespace: int, *, recursive: bool) -> None:
    """Show the ids of a detached mount as this user namespace maps them (mount_setattr(2), Linux 5.12)."""
    attributes = struct.pack("<4Q", _IDMAP, 0, 0, user_namespace)
    flags = _EMPTY_PATH | (_RECURSIVE if recursive else 0)
    syscall.call("mount_setattr", fd, b"", flags, attributes, len(attributes))


def points_of(kinds: Iterable[str], *, outside: str) -> list[str]:
    """Where this mount namespace has file systems of these types, other than below `outside`; the deepest first."""
    found = list[str]()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4].replace("\\040", " ")
        if right.split(" ")[0] in kinds and not f"{point}/".startswith(f"{outside}/"):
            found.append(point)
    return sorted(found, key=len, reverse=True)
