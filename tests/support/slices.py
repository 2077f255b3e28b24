"""The slices that the kernel gives a process, in nanoseconds (sched_getattr(2)); 0 where it does not tell."""

from __future__ import annotations

import ctypes
import os
import struct

_GETATTR = {"x86_64": 315, "aarch64": 275}
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")


def slice_of(pid: int) -> int:
    return _attributes(pid)[5]


def are_told() -> bool:
    """Linux 6.12 and newer."""
    return slice_of(0) > 0


def _attributes(pid: int) -> tuple[int, ...]:
    told = ctypes.create_string_buffer(_ATTRIBUTES.size)
    number = ctypes.c_long(_GETATTR[os.uname().machine])
    size = ctypes.c_long(_ATTRIBUTES.size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, ctypes.c_long(pid), told, size, ctypes.c_long(0)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return _ATTRIBUTES.unpack(told.raw)
