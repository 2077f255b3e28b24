"""Who owns a new process's terminal: this command while it waits, a console socket's listener otherwise."""

from __future__ import annotations

import os
import socket

from bulkhead.errors import InvalidArgument, Unavailable
from bulkhead.linux import fdpass

_SECONDS = 30.0


def check(*, terminal: bool, detached: bool, console_socket: str) -> None:
    """InvalidArgument for a terminal that nobody would get, or a socket that would get none."""
    if detached and terminal and not console_socket:
        raise InvalidArgument("cannot allocate tty if runc will detach without setting console socket")
    if console_socket and not (detached and terminal):
        raise InvalidArgument("cannot use console socket if runc will not detach or allocate tty")


def hand_over(console_socket: str, master: int) -> None:
    """Send the terminal's master to who listens there. Unavailable when nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(_SECONDS)
        try:
            peer.connect(console_socket)
            fdpass.send(peer, b"/dev/ptmx", [master])
        except OSError as error:
            raise Unavailable(
                f"cannot send the console to {console_socket}: {(error.strerror or '').lower()}"
            ) from error
    os.close(master)
