"""Workers started and ended beside a process that opens files in the same table: run as a program.

    python -m tests.support.shared_files COUNT

Exit code 1 when a file of the other was closed. A process, not a thread: nothing of ours makes it wait.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from subprocess import PIPE

import uvloop

from bulkhead.content import worker

_CLONE = {"x86_64": 56, "aarch64": 220}  # clone(2)
_CLONE_FILES = 0x400


def main() -> int:
    other = ctypes.CDLL(None).syscall(_CLONE[platform.machine()], _CLONE_FILES | signal.SIGCHLD, 0, 0, 0, 0)
    if other == 0:
        _open_files(os.getppid())
    uvloop.run(_workers(int(sys.argv[1])))
    os.kill(other, signal.SIGTERM)
    _, status = os.waitpid(other, 0)
    return 0 if os.WIFSIGNALED(status) else 1


def _open_files(parent: int) -> None:
    try:
        while os.getppid() == parent:
            os.close(os.open("/dev/null", os.O_RDONLY))
    finally:
        os._exit(1)


async def _workers(count: int) -> None:
    for _ in range(count):
        await worker.end(await worker.start("this", "test", complaints=PIPE))


if __name__ == "__main__":
    sys.exit(main())
