"""What a shim tells of the execs that it creates by itself: lines that lie in a socket until somebody wants to know."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import msgspec
import structlog

from bulkhead.errors import Unavailable
from bulkhead.manager.ports import KnownExec
from bulkhead.wire.ttrpc import is_own_user

log = structlog.get_logger()
_READ_SIZE = 64 << 10
_decode = msgspec.json.Decoder(KnownExec).decode


class ExecNews:
    """A connection to a shim's door that is never waited for. What it was told stays readable when it has died."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._is_wanted = False
        # The beginning of a line.
        self._rest = b""

    def dial(self) -> None:
        """From now on it may tell. Raises Unavailable."""
        self.close()
        self._is_wanted = True
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(self._path)
            if not is_own_user(sock):
                raise PermissionError(0, "it is served by another user")
            sock.send(b'{"op":"news"}\n', socket.MSG_NOSIGNAL)
        except OSError as error:
            sock.close()
            raise Unavailable(f"cannot hear of execs by {self._path}: {error.strerror}") from error
        self._socket = sock

    def renew(self) -> None:
        """Dial again, if there is nobody at the other end, and nothing left to read. Raises Unavailable."""
        if self._is_wanted and (self._socket is None or _has_hung_up(self._socket)):
            self.dial()

    def read(self) -> Sequence[KnownExec]:
        """What it has told since: of each what it told last, in the order in which they were created."""
        data = self._read()
        if not data:
            return ()
        *lines, self._rest = (self._rest + data).split(b"\n")
        return tuple({each.record.id: each for each in known_execs(lines)}.values())

    def _read(self) -> bytes:
        if self._socket is None:
            return b""
        data = b""
        try:
            while more := self._socket.recv(_READ_SIZE):
                data += more
                if len(more) < _READ_SIZE:
                    break
        except BlockingIOError:
            pass
        except OSError as error:
            log.warning("cannot read what a shim tells", path=self._path, reason=error.strerror)
        return data

    def close(self) -> None:
        """Hear of no more."""
        sock, self._socket, self._rest, self._is_wanted = self._socket, None, b"", False
        if sock is not None:
            sock.close()


def _has_hung_up(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True


def known_execs(lines: Sequence[bytes]) -> Iterator[KnownExec]:
    """What lines of a shim's say."""
    for line in lines:
        try:
            yield _decode(line)
        except msgspec.MsgspecError as error:
            log.warning("cannot read what a shim tells of an exec", reason=str(error))
