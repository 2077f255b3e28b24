"""A command at a terminal of its own, and what is typed there once it reads: cli_typing.py KEYS COMMAND..."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import termios
import time

_SECONDS = 40.0
_CANONICAL = 3  # the local modes of termios.tcgetattr


def main(keys: bytes, command: list[str]) -> int:
    """The command's exit status; what it wrote goes to our output."""
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    deadline = time.monotonic() + _SECONDS
    waiting = keys
    while time.monotonic() < deadline:
        # The client has put its terminal into raw mode: from now on keys are its own to read.
        if waiting and not termios.tcgetattr(fd)[_CANONICAL] & termios.ICANON:
            time.sleep(0.5)
            os.write(fd, waiting)
            waiting = b""
        if select.select([fd], [], [], 0.1)[0]:
            try:
                data = os.read(fd, 65536)
            except OSError:
                break
            sys.stdout.buffer.write(data)
    else:
        os.kill(pid, signal.SIGKILL)
        print("did not end")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1].encode().decode("unicode_escape").encode("latin-1"), sys.argv[2:]))
