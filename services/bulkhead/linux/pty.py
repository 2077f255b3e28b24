"""Size of a terminal by its master (ioctl_tty(2))."""

from __future__ import annotations

import fcntl
import struct
import termios

_WINSIZE = struct.Struct("HHHH")


def set_size(master: int, rows: int, columns: int) -> None:
    """Resize; the foreground process group gets SIGWINCH. ValueError beyond 16 bits."""
    if not (0 <= rows < 1 << 16 and 0 <= columns < 1 << 16):
        raise ValueError(f"a terminal of {rows} x {columns} does not exist")
    fcntl.ioctl(master, termios.TIOCSWINSZ, _WINSIZE.pack(rows, columns, 0, 0))


def size(master: int) -> tuple[int, int]:
    """(rows, columns)."""
    rows, columns, _, _ = _WINSIZE.unpack(fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(_WINSIZE.size)))
    return rows, columns
