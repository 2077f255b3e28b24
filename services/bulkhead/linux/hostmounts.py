"""File systems mounted in the manager's own mount namespace: for volumes of the kinds that must be mounted once."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType

_LIBC = ctypes.CDLL(None, use_errno=True)
_MNT_DETACH = 2
# Options of mount(8) that are flags of mount(2): (set, clear). The rest is the file system's own.
_FLAGS = MappingProxyType(
    {
        "ro": (1, 0),
        "rw": (0, 1),
        "nosuid": (2, 0),
        "suid": (0, 2),
        "nodev": (4, 0),
        "dev": (0, 4),
        "noexec": (8, 0),
        "exec": (0, 8),
        "sync": (16, 0),
        "async": (0, 16),
        "dirsync": (128, 0),
        "noatime": (1024, 0),
        "atime": (0, 1024),
        "nodiratime": (2048, 0),
        "relatime": (1 << 21, 0),
        "strictatime": (1 << 24, 0),
        "defaults": (0, 0),
    }
)


def mount(kind: str, device: str, target: Path, options: Iterable[str]) -> None:
    """mount(2) a file system of `kind` at `target`; host names in `addr=` are looked up, as mount.nfs does.

    Blocks. Raises OSError.
    """
    flags, data = 0, list[str]()
    for option in options:
        if option in _FLAGS:
            added, removed = _FLAGS[option]
            flags = (flags | added) & ~removed
        elif option:
            data.append(_resolved(option))
    result = _LIBC.mount(
        os.fsencode(device),
        os.fsencode(target),
        os.fsencode(kind),
        ctypes.c_ulong(flags),
        os.fsencode(",".join(data)),
    )
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def unmount(target: Path) -> None:
    """Take the mount at `target` off, once nobody uses it any more. Raises OSError (EINVAL: nothing is mounted)."""
    if _LIBC.umount2(os.fsencode(target), _MNT_DETACH) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


def mounted_below(root: Path) -> list[Path]:
    """What is mounted below `root`, from /proc/self/mountinfo. Raises OSError."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        path = Path(os.fsdecode(line.split(b" ")[4].decode("unicode_escape").encode("latin-1")))
        if path.is_relative_to(root):
            found.append(path)
    return found


def peers_of(path: str) -> tuple[str, bool, bool]:
    """The mount that a path is on, and whether it passes mounts on, and whether it gets those of others.

    mount_namespaces(7): a member of a peer group does both, a slave the latter. Raises OSError.
    """
    real = os.path.realpath(path)
    found = ("/", False, False)
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        words = line.partition(b" - ")[0].split(b" ")
        point = os.fsdecode(words[4].decode("unicode_escape").encode("latin-1"))
        if len(point) >= len(found[0]) and (f"{real}/".startswith(f"{point}/") or point == "/"):
            shared = any(word.startswith(b"shared:") for word in words[6:])
            found = (point, shared, shared or any(word.startswith(b"master:") for word in words[6:]))
    return found


def _resolved(option: str) -> str:
    name, _, value = option.partition("=")
    if name != "addr" or not value:
        return option
    try:
        return f"addr={socket.getaddrinfo(value, None)[0][4][0]}"
    except OSError as error:
        raise OSError(error.errno, f"cannot look up {value}: {error.strerror}") from error
