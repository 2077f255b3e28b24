"""System calls that Python's os has no name for, by number through libc. Not for the fast path: ctypes is slow to
import, and is only when one is called."""

from __future__ import annotations

import functools
import os
from typing import Any

_NUMBERS = {
    "x86_64": {"unshare": 272, "setns": 308, "capget": 125, "capset": 126, "setfsuid": 122, "setfsgid": 123},
    "aarch64": {"unshare": 97, "setns": 268, "capget": 90, "capset": 91, "setfsuid": 151, "setfsgid": 152},
}
# The same everywhere.
_COMMON = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "openat2": 437,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
    "quotactl_fd": 443,
}


def call(name: str, *arguments: Any) -> int:
    """The result; OSError with the kernel's errno. Arguments are numbers, bytes, None or ctypes objects."""
    import ctypes

    number = _COMMON.get(name) or _NUMBERS[os.uname().machine][name]
    given = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result: int = _function()(ctypes.c_long(number), *given)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), name)
    return result


@functools.cache
def _function() -> Any:
    import ctypes

    function = ctypes.CDLL(None, use_errno=True).syscall
    function.restype = ctypes.c_long
    return function
