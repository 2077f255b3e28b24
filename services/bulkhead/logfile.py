"""A service's own log file, kept small by the service itself.

Logs lie below the run directory, which is memory (tmpfs) on most machines: one file and the one
before it, each at most `LIMIT_BYTES` plus what is written between two looks.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

LIMIT_BYTES = 8 << 20
LOOK_SECONDS = 10.0


def open_log(path: Path) -> int:
    """A descriptor that appends to `path`, which only its owner may read. Raises OSError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def rotate(fileno: int, limit: int = LIMIT_BYTES) -> bool:
    """Put a fresh file behind `fileno` when its log has grown past `limit`; the old one becomes `<name>.1`.

    Only a regular file that still is where its name says is touched: a terminal, a pipe, a journal's
    socket or a file that another process has renamed is left alone. Never raises.
    """
    try:
        found = os.fstat(fileno)
        if not stat.S_ISREG(found.st_mode) or found.st_size <= limit:
            return False
        path = Path(f"/proc/self/fd/{fileno}").readlink()
        if path.suffix != ".log" or not os.path.samestat(found, path.stat()):
            return False
        path.rename(f"{path}.1")
        fresh = open_log(path)
    except OSError:
        return False
    os.dup2(fresh, fileno, inheritable=True)
    os.close(fresh)
    return True


async def keep_small(fileno: int) -> None:
    """Look at the log every few seconds, for ever."""
    while True:
        rotate(fileno)
        await asyncio.sleep(LOOK_SECONDS)
