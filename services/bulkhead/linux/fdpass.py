"""File descriptors across a Unix socket (SCM_RIGHTS, unix(7)), always close-on-exec."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

_INT = array.array("i").itemsize
# As numbers: what enumerations are combined by takes longer than the call.
_NO_SIGNAL, _CLOSE_ON_EXEC = int(socket.MSG_NOSIGNAL), int(socket.MSG_CMSG_CLOEXEC)
_CUT_SHORT = int(socket.MSG_CTRUNC) | int(socket.MSG_TRUNC)
NO_WAIT = int(socket.MSG_DONTWAIT)


def send(connection: socket.socket, data: bytes, descriptors: Sequence[int], flags: int = 0) -> None:
    """Send `data` (at least one byte) with `descriptors`; the caller keeps its own copies. `flags` may be NO_WAIT."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    connection.sendmsg([data], ancillary, _NO_SIGNAL | flags)


def receive(connection: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """Receive at most `size` bytes and `most` descriptors, which the caller then owns.

    Empty data means that the peer is gone. A message cut short raises OSError, and nothing leaks.
    """
    data, ancillary, flags, _ = connection.recvmsg(size, socket.CMSG_SPACE(most * _INT), _CLOSE_ON_EXEC)
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(payload[: len(payload) - len(payload) % _INT])
    if flags & _CUT_SHORT:
        for descriptor in descriptors:
            os.close(descriptor)
        raise OSError("message with descriptors was cut short")
    return data, list(descriptors)
