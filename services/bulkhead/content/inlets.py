"""Where an archive for a worker comes in: straight from its sender, past the service that started the worker.

The sender tells the archive's end by shutdown(2). A connection that is closed without it has broken off, whatever the
reason, and what came of the archive is not taken for all of it.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bulkhead.errors import InvalidArgument

# As much as tells of every codec which it is.
_HEAD = 8
_FIRST = 64 << 10
_CREDENTIALS = struct.Struct("3i")


class Inlets:
    """The Unix sockets below a directory, which must be nobody else's."""

    def __init__(self, directory: Path) -> None:
        """Those that were left by a process that died are removed."""
        shutil.rmtree(directory, ignore_errors=True)
        self._directory = directory

    @contextmanager
    def opened(self) -> Iterator[socket.socket]:
        """One that listens while entered; its name is where the sender connects. Raises OSError."""
        # Each time: whoever tidies up the run directory takes away what lies idle there.
        self._directory.mkdir(mode=0o700, exist_ok=True)
        path = self._directory / f"{secrets.token_hex(8)}.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listener:
            listener.bind(str(path))
            try:
                listener.listen(1)
                yield listener
            finally:
                path.unlink(missing_ok=True)


class Incoming:
    """The archive as its reader has it: `head`, its first bytes, and then what `read` gives."""

    def __init__(self, listener: int) -> None:
        """Blocks until there is a sender who has sent something. Raises ConnectionError for a stranger, OSError."""
        with socket.socket(fileno=listener) as door:
            self._connection, _ = door.accept()
        raw = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(raw)[1] != os.geteuid():
            raise ConnectionRefusedError("it is sent by another user")
        self.head = b""
        while len(self.head) < _HEAD and (more := self._receive(_FIRST)):
            self.head += more
        self._held = self.head

    def read(self, count: int) -> bytes:
        """The next bytes, about `count` at most; b"" at the end. Raises InvalidArgument when there is none."""
        held, self._held = self._held, b""
        return held or self._receive(count)

    def _receive(self, count: int) -> bytes:
        data = self._connection.recv(count)
        if not data:
            self._check_end()
        return data

    def _check_end(self) -> None:
        """Who has shut down its own direction is still there; of a closed connection poll(2) says that it hung up."""
        poller = select.poll()
        poller.register(self._connection, 0)
        if poller.poll(0):
            raise InvalidArgument("cannot unpack archive: it broke off")
