"""Duplicates of a container's descriptors, kept by the supervisor so that the shim's death loses nothing.

The supervisor that has made a process a shim hears over the link between them whenever what there is to keep has
changed; another keeper dials stdio.sock with {"op":"keep"}. Either hears a JSON line:

    {"id":"...","data_dir":"...","pid":4711,"start_time":99,"names":["pid","stdout"]}   with a descriptor per name
    {"id":"...","data_dir":"...","pid":0,"start_time":0,"names":[]}                     there is nothing to keep

A connection that ends leaves the keeper what it heard last: the estate, which the next shim is given.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bulkhead.linux import fdpass
from bulkhead.shim.identity import Identity
from bulkhead.shim.loop import Loop

PID, STDIN, STDOUT, STDERR, CONSOLE = "pid", "stdin", "stdout", "stderr", "console"
# Of execs, the names begin so: "exec <id> stdout".
EXEC = "exec "
# More than anybody sends; the kernel's own limit for a message is 253.
MOST_DESCRIPTORS = 128
_LONG = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estate:
    """The descriptors of one run of a container: of the process `pid` that started at `start_time`."""

    pid: int = 0
    start_time: int = 0
    descriptors: Mapping[str, int] = field(default_factory=dict)

    def close(self) -> None:
        """Let go of every descriptor."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)

    def label(self) -> dict[str, Any]:
        """What goes with the descriptors over a socket."""
        return {"pid": self.pid, "start_time": self.start_time, "names": list(self.descriptors)}

    @classmethod
    def labelled(cls, label: Mapping[str, Any], received: list[int]) -> Estate:
        """The descriptors under the names of `label`. ValueError when they are not as many; they are closed then."""
        names = label.get("names")
        if not isinstance(names, list) or len(names) != len(received):
            for descriptor in received:
                os.close(descriptor)
            raise ValueError("as many names as descriptors were expected")
        return cls(
            pid=int(label["pid"]),
            start_time=int(label["start_time"]),
            descriptors=dict(zip(map(str, names), received, strict=True)),
        )


class Custody:
    """The shim's side: who keeps, told of every change. `estate` tells what there is to keep now."""

    def __init__(self, loop: Loop, estate: Callable[[], Estate]) -> None:
        self._loop = loop
        self._estate = estate
        self._keepers: dict[int, socket.socket] = {}
        self._link: socket.socket | None = None
        self._identity = Identity("", "", "")

    def claim(self, identity: Identity) -> None:
        """It is known whose descriptors these are."""
        self._identity = identity

    def confide(self, link: socket.socket, *, heir: bool) -> None:
        """Let the other end of `link` keep from now on; the link stays the caller's.

        It is told at once what it does not expect: that there is something, or what `heir` was given of its own.
        """
        self._link = link
        if heir or self._estate().descriptors:
            self._tell_link(link)

    def join(self, sock: socket.socket) -> None:
        """Let `sock` keep from now on."""
        fd = sock.fileno()
        self._keepers[fd] = sock
        self._loop.add(fd, select.EPOLLIN, lambda _events: self._heard(fd))
        self._tell(fd)

    def changed(self) -> None:
        """Give every keeper what there is now; it lets go of what it had."""
        if self._link is not None:
            self._tell_link(self._link)
        for fd in tuple(self._keepers):
            self._tell(fd)

    def ended(self) -> None:
        """There is nothing to keep any more. The link hears of it by what is said there next: that this is a spare.

        If that takes long, for want of a manager who has us leave, it is told like others.
        """
        for fd in tuple(self._keepers):
            self._tell(fd)
        if self._link is not None:
            self._loop.later(_LONG, self.changed)

    def close(self) -> None:
        """Hang up on every keeper; each has what it heard last."""
        self._link = None
        for fd in tuple(self._keepers):
            self._drop(fd)

    def _tell(self, fd: int) -> None:
        try:
            self._send(self._keepers[fd])
        except OSError:
            # A keeper that does not read keeps nothing; it may come back.
            self._drop(fd)

    def _tell_link(self, link: socket.socket) -> None:
        try:
            self._send(link)
        except OSError:
            # Nor may it believe that it hears everything.
            self._link = None
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    def _send(self, sock: socket.socket) -> None:
        estate = self._estate()
        told = {"id": self._identity.container_id, "data_dir": self._identity.data_dir} | estate.label()
        given = tuple(estate.descriptors.values())
        fdpass.send(sock, json.dumps(told).encode() + b"\n", given, fdpass.NO_WAIT)

    def _heard(self, fd: int) -> None:
        """A keeper has nothing to say: this is its end."""
        try:
            heard = self._keepers[fd].recv(4096)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if not heard:
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        sock = self._keepers.pop(fd)
        self._loop.remove(fd)
        sock.close()
