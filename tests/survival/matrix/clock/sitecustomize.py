"""The clock of an engine under the matrix: every interpreter that finds this in PYTHONPATH loads it.

Wall time is what the kernel says plus the nanoseconds that stand in the file BULKHEAD_TEST_CLOCK names, whenever they
change, as after `date -s`; the monotonic clocks and the file systems' are left alone. CLOCK_REALTIME has no namespace,
and no C code of ours asks for it.
"""

import mmap
import os
import time


def _follow(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    offset = memoryview(mmap.mmap(fd, 8, prot=mmap.PROT_READ)).cast("q")
    os.close(fd)
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + offset[0] / 1e9
    time.time_ns = lambda: now_ns() + offset[0]


if "BULKHEAD_TEST_CLOCK" in os.environ:
    _follow(os.environ["BULKHEAD_TEST_CLOCK"])
