"""Who this thread is to file systems (setfsuid(2), capset(2)), which says whose what it makes becomes."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

from bulkhead.linux import syscall

_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_UNCHANGED = 0xFFFFFFFF


@contextlib.contextmanager
def owner(uid: int, gid: int) -> Iterator[None]:
    """What this thread makes while entered belongs to `uid` and `gid`, and it keeps what root may do. Needs root.

    The kernel takes a signal of the parent's death (PR_SET_PDEATHSIG) away from who changes these ids.
    Raises OSError.
    """
    held = _capabilities()
    before = _change(uid, gid)
    try:
        _set_capabilities(held)  # with root's id the kernel took its power over files
        yield
    finally:
        _change(*before)
        _set_capabilities(held)


def _change(uid: int, gid: int) -> tuple[int, int]:
    """The ids before; the calls themselves never fail, so it is looked whether they did anything."""
    group = syscall.call("setfsgid", gid)
    user = syscall.call("setfsuid", uid)
    if syscall.call("setfsuid", _UNCHANGED) != uid or syscall.call("setfsgid", _UNCHANGED) != gid:
        raise PermissionError(1, "cannot change the ids of this thread for file systems")
    return user, group


def _capabilities() -> bytes:
    import ctypes

    sets = ctypes.create_string_buffer(24)
    syscall.call("capget", _header(), sets)
    return sets.raw


def _set_capabilities(sets: bytes) -> None:
    syscall.call("capset", _header(), sets)


def _header() -> bytes:
    return struct.pack("<Ii", _VERSION, 0)
