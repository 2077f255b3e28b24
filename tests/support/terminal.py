"""A program on a real pseudo-terminal, as a person would use it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

EXPECT_SECONDS = 20.0


class Terminal:
    """What has been shown so far, and a keyboard."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.process = process
        self.shown = b""

    def send(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def expect(self, text: bytes, seconds: float = EXPECT_SECONDS) -> bytes:
        """Wait until `text` is shown; everything shown up to its end, which is then forgotten."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} never came, but {self.shown!r}")
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process.send_signal(signal.SIGWINCH)

    def resize_until(self, rows: int, columns: int, text: bytes) -> None:
        """Resize, and say so again until the program has shown `text`: the docker CLI hears of a window only from
        the moment on when it listens for the signal, which is some time after its container has begun to speak.
        """
        deadline = time.monotonic() + EXPECT_SECONDS
        while True:
            self.resize(rows, columns)
            try:
                self.expect(text, min(1.0, deadline - time.monotonic()))
                return
            except AssertionError:
                if time.monotonic() > deadline:
                    raise

    def ends(self, seconds: float = EXPECT_SECONDS) -> int:
        """Wait for the end of the program; its exit status."""
        deadline = time.monotonic() + seconds
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(timeout=max(1.0, deadline - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        """Take in what comes next; False when nothing came in time or the terminal hung up."""
        if seconds <= 0 or not select.select([self._master], [], [], seconds)[0]:
            return False
        try:
            self.shown += (chunk := os.read(self._master, 65536))
        except OSError:  # EIO: the last holder of the other side is gone
            return False
        return bool(chunk)


@contextmanager
def terminal(
    command: Sequence[str], environ: Mapping[str, str], *, rows: int = 24, columns: int = 80
) -> Iterator[Terminal]:
    """Run `command` on a new terminal; killed at the end if it still runs."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(command, env=dict(environ), stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)
