"""Numbers of which each is drawn by one process only, of all the processes of tests on this machine."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class Drawn:
    """What this process has drawn: bytes of a file, locked until the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own: set[int] = set()
        self._fd = -1

    def take(self, number: int) -> bool:
        """False when this process or another one has it already."""
        if number in self._own:
            return False
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        self._own.add(number)
        return True
