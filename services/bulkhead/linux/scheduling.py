"""How soon a process runs that has been woken: sched(7), sched_setattr(2).

Whoever runs may finish a slice of some milliseconds before the kernel lets in whom somebody has woken, unless that one
has asked for shorter slices (Linux 6.12; older kernels take no notice). Nobody gets more of a processor for it.
"""

from __future__ import annotations

import ctypes
import os
import struct

# The shortest that the kernel grants (nanoseconds).
SHORTEST = 100_000
_SETATTR = {"x86_64": 314, "aarch64": 274}
_RESET_ON_FORK = 1
# struct sched_attr (VER0): size, policy, flags, nice, priority, runtime, deadline, period.
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
_libc = ctypes.CDLL(None, use_errno=True)


def be_prompt(*, children: bool) -> None:
    """Short slices for this thread; threads and processes that it begins have them, too, or none of these `children`.

    Whoever has set another policy than the ordinary one knows better, and what is refused is only slower.
    """
    _ask(SHORTEST, 0 if children else _RESET_ON_FORK)


def be_ordinary() -> None:
    """As the kernel has it for everybody."""
    _ask(0, 0)


def _ask(slice_: int, flags: int) -> None:
    number = _SETATTR.get(os.uname().machine)
    if number is None or os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, flags, nice, 0, slice_, 0, 0)
    _libc.syscall(ctypes.c_long(number), ctypes.c_long(0), attributes, ctypes.c_long(0))
