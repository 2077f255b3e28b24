"""Execs that are created at the shim's door, without the manager, who is told of them before anybody else.

He allows it by a pattern: what a process like the container's own comes to, but for its command. Who asks for more than
a command, or asks while he is away, is refused, and goes to him.

He is told by lines on a connection that he has dialled and does not watch: who waits for an exec, or for its end, does
not wait for him to wake up. He reads them when he is asked about execs, or when we ring, for want of that, a moment
later (his call `NewExecs` is answered).

    {"record":{...},"began_at":0,"exited_at":0,"exit_code":0}

A line is in the kernel before a client hears of what it says, and so outlives us. With him dies what he has not read,
and what he has not written down: whoever comes after him asks for all that is remembered here (`State`), so of execs
that he has not read of there are few, and more are refused. An end that finds no room waits for him to read: until
then he takes the exec for one that may run, and asks.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import termios
import time
from collections.abc import Mapping
from typing import Any

from bulkhead.errors import Conflict, InvalidArgument, ResourceExhausted
from bulkhead.model.ids import new_exec_id
from bulkhead.runtime import planned
from bulkhead.shim.container import Container
from bulkhead.shim.execs import Exec, ExecPhase, Execs
from bulkhead.shim.loop import Loop, Timer
from bulkhead.shim.messages import Empty, KnownExec
from bulkhead.wire import ended_execs
from bulkhead.wire.ttrpc_server import Call

# Most have ended by then, and been asked about.
SOON = 0.05
# With what he may have read and not written down, fewer than are remembered when they have ended.
_MOST_UNREAD = 24
# So many are told of at once.
_MANY = _MOST_UNREAD // 2
_LARGEST_RECORD = 16 << 10
# What the pattern is without.
_SPECIAL = ("env", "user", "working_dir", "privileged", "tty")


class NewExecs:
    """Creates them, and tells the manager."""

    def __init__(self, loop: Loop, container: Container, execs: Execs) -> None:
        self._loop = loop
        self._container = container
        self._execs = execs
        self._pattern = b""
        # The manager's, answered or not: it tells whether he is there.
        self._call: Call | None = None
        self._news: socket.socket | None = None
        # What the connection did not take.
        self._unsent = b""
        # Where whoever has seen the end of one finds how it went.
        self._ended = -1
        # How many were created since he was seen to have read all, at most.
        self._unread = 0
        self._timer: Timer | None = None

    def tell_to(self, sock: socket.socket) -> None:
        """Whoever dialled it from now on; he who did so before hears of no more."""
        self._hang_up()
        self._news = sock
        # He says nothing; it tells when he is gone.
        self._loop.add(sock.fileno(), 0, lambda _events: self._hang_up())

    def close(self) -> None:
        """Of no use any more."""
        self._hang_up()
        if self._ended >= 0:
            os.close(self._ended)
            self._ended = -1

    def _hang_up(self) -> None:
        """Tell nobody of any more."""
        sock, self._news = self._news, None
        self._unsent, self._unread = b"", 0
        if sock is not None:
            self._loop.remove(sock.fileno())
            sock.close()

    def allow(self, pattern: bytes, call: Call) -> None:
        """Answer when there is something to read; another one who waits for that waits no longer."""
        before, self._call = self._call, call
        if before is not None and before.open:
            before.fail(Conflict("cannot tell of execs: somebody else asks"))
        if pattern:
            # Another version's, and this shim makes none without the manager.
            self._pattern = pattern if planned.unpack(pattern) is not None else b""
        self._send()
        self._ring_after(SOON)

    def create(self, container_id: str, spec: Mapping[str, Any]) -> Exec:
        """A new one. Raises Conflict and the like when the manager is to be asked for it."""
        command = self._command(container_id, spec)
        exec_id = new_exec_id(container_id)
        record = {"id": exec_id, "container_id": container_id, "spec": spec, "created_at": time.time_ns()}
        text = json.dumps(record).encode()
        if len(text) > _LARGEST_RECORD:
            raise InvalidArgument("cannot create exec: it is too long for a shim")
        plan = planned.with_arguments(self._pattern, command)
        one = self._execs.add(exec_id, spec=spec, planned=plan, record=text)
        if not self._is_told(one):
            self._execs.forget(one)
            raise ResourceExhausted("cannot create exec: the manager cannot be told of it")
        self._unread += 1
        self._ring_after(SOON if self._unread < _MANY else 0)
        one.lasting.append(self._lasts)
        return one

    def _command(self, container_id: str, spec: Mapping[str, Any]) -> list[str]:
        if container_id != self._container.identity.container_id or not self._pattern:
            raise Conflict("cannot create exec: the manager is to be asked")
        if self._call is None or not self._call.caller_is_there or self._news is None:
            raise Conflict("cannot create exec: the manager is not there")
        if self._unsent or (self._unread >= _MOST_UNREAD and not self._is_read()):
            raise ResourceExhausted("cannot create exec: the manager has not read of too many")
        command = spec.get("command")
        if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
            raise InvalidArgument("No exec command specified")
        if any(spec.get(name) for name in _SPECIAL):
            raise InvalidArgument("cannot create exec: it asks for more than a command")
        return command

    @property
    def owes(self) -> bool:
        """Whether there is what the manager cannot read."""
        return bool(self._unsent)

    def _lasts(self, one: Exec) -> None:
        """Or has ended. Its end is told, too: whoever heard of it asks for that, but we may die before he is awake."""
        if one.phase is ExecPhase.RUNNING:
            one.lasting.append(self._lasts)
        if one.phase is not ExecPhase.CREATED:
            line = _line(one)
            if one.started_at and one.exited_at:
                self._leave_behind(one.exec_id, line)
            self._unsent += line
            self._send()
            self._ring_after(SOON)

    def leave_behind(self, one: Exec) -> None:
        """How one has ended, for whoever asks when we are dead."""
        if one.started_at and one.exited_at:
            self._leave_behind(one.exec_id, _line(one))

    def _leave_behind(self, exec_id: str, line: bytes) -> None:
        """Where that cannot be written, the manager is asked."""
        try:
            if self._ended < 0:
                self._ended = ended_execs.create(self._container.identity.run_dir)
            ended_execs.write(self._ended, exec_id, line)
        except OSError:
            return

    def _is_told(self, one: Exec) -> bool:
        """Whether a new one's line is with the kernel."""
        line = _line(one)
        self._unsent = line
        self._send()
        if self._unsent and len(self._unsent) < len(line):
            # Half of it has gone, and the next would be read as its end.
            self._hang_up()
        is_told, self._unsent = self._news is not None and not self._unsent, b""
        return is_told

    def _send(self) -> None:
        """What the connection takes."""
        if self._news is None:
            self._unsent = b""
        elif self._unsent:
            try:
                self._unsent = self._unsent[self._news.send(self._unsent, socket.MSG_NOSIGNAL) :]
            except BlockingIOError:
                return
            except OSError:
                self._hang_up()

    def _is_read(self) -> bool:
        """Whether he has read all there is."""
        if self._news is None or self._unsent:
            return False
        waits = int.from_bytes(fcntl.ioctl(self._news.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        if not waits:
            self._unread = 0
        return not waits

    def _ring_after(self, seconds: float) -> None:
        if self._timer is not None:
            if seconds:
                return
            self._timer.cancel()
        self._timer = self._loop.later(seconds, self._ring)

    def _ring(self) -> None:
        """If he is there and has not read it all; if he is busy, when he asks next."""
        self._timer = None
        if self._news is not None and not self._is_read() and self._call is not None:
            self._call.reply(Empty())


def _told(one: Exec) -> tuple[bytes, int, int, int]:
    """What there is to tell of it, in the order of a line."""
    return one.record, one.started_at, one.exited_at, one.exit_code or 0


def _line(one: Exec) -> bytes:
    return b'{"record":%b,"began_at":%d,"exited_at":%d,"exit_code":%d}\n' % _told(one)


def known(one: Exec) -> KnownExec:
    """The same as a message."""
    record, began_at, exited_at, exit_code = _told(one)
    return KnownExec(record=record, began_at=began_at, exited_at=exited_at, exit_code=exit_code)
