"""Ports of the host that no rule of the kernel's leads into the container: listened on here, and carried over by hand.

Those are [::1], to which the kernel takes no answers from a network, and IPv6 addresses of the host for a container
that has no IPv6. What crosses is bounded: so many connections at a time, so many bytes of each; whoever comes when all
are taken waits in a backlog.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from bulkhead.errors import Unavailable
from bulkhead.shim.loop import Loop, Timer

# Of all ports of a container together.
MOST_CONNECTIONS = 256
MOST_FLOWS = 256
# A UDP flow in which nothing moves is forgotten.
FLOW_SECONDS = 90.0
_PIECE = 32 << 10
_LARGEST_DATAGRAM = 65535
_BACKLOG = 128
# So that one busy connection does not keep the shim from everything else.
_PIECES_AT_ONCE = 8
_DATAGRAMS_AT_ONCE = 32
_PAUSE = 0.2
_ABORT = struct.pack("ii", 1, 0)

_Client = tuple[str | int, ...]


class Way(NamedTuple):
    """From an address and port of the host to those of the container; `protocol` is tcp or udp."""

    protocol: str
    host: str
    host_port: int
    address: str
    port: int


class Relays:
    """Those of one container."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._open: dict[Way, _Streams | _Datagrams] = {}
        self._connections = 0

    def serve(self, wanted: Sequence[tuple[str, str, int, str, int]]) -> None:
        """Carry these and nothing else. Raises Unavailable, and then carries none that is new."""
        ways = [Way(*each) for each in wanted]
        for way in self._open.keys() - set(ways):
            self._open.pop(way).close()
        new = [way for way in ways if way not in self._open]
        try:
            for way in new:
                self._open[way] = self._opened(way)
        except OSError as error:
            for way in new:
                if way in self._open:
                    self._open.pop(way).close()
            raise Unavailable(
                f"failed to bind host port for {_shown(way.host)}:{way.host_port}/{way.protocol}: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Carry nothing more; harmless when it never did."""
        self.serve(())

    def _opened(self, way: Way) -> _Streams | _Datagrams:
        if way.protocol == "udp":
            return _Datagrams(self._loop, way)
        return _Streams(self._loop, way, self._take, self._give)

    def _take(self) -> bool:
        """Room for one connection more, if there is."""
        if self._connections >= MOST_CONNECTIONS:
            return False
        self._connections += 1
        return True

    def _give(self) -> None:
        self._connections -= 1
        for each in self._open.values():
            if isinstance(each, _Streams):
                each.resume()


class _Streams:
    """A TCP port. `take` asks for room for a connection, `give` gives it back."""

    def __init__(self, loop: Loop, way: Way, take: Callable[[], bool], give: Callable[[], None]) -> None:
        self._loop, self._way, self._take, self._give = loop, way, take, give
        self._connections: set[_Connection] = set()
        self._listening = False
        self._closed = False
        self._socket = _bound(way, socket.SOCK_STREAM)
        try:
            self._socket.listen(_BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self.resume()

    def resume(self) -> None:
        """Accept again."""
        if not self._listening and not self._closed:
            self._listening = True
            self._loop.add(self._socket.fileno(), select.EPOLLIN, self._accept)

    def close(self) -> None:
        self._closed = True
        self._pause()
        self._socket.close()
        for connection in list(self._connections):
            connection.close()

    def _pause(self) -> None:
        self._listening = False
        self._loop.remove(self._socket.fileno())

    def _accept(self, _events: int) -> None:
        if not self._take():
            self._pause()
            return
        try:
            client, _ = self._socket.accept()
        except BlockingIOError:
            self._give()
            return
        except OSError:
            # No descriptors, say: whoever waits is still there later.
            self._give()
            self._pause()
            self._loop.later(_PAUSE, self.resume)
            return
        connection = _Connection(self._loop, client, self._left)
        self._connections.add(connection)
        connection.begin(self._way.address, self._way.port)

    def _left(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._give()


class _Connection:
    """A client and the container, until both have said all they had to; `left` is called once."""

    def __init__(self, loop: Loop, client: socket.socket, left: Callable[[_Connection], None]) -> None:
        self._loop, self._left = loop, left
        self._client, self._server = client, client
        self._pipes: tuple[_Pipe, ...] = ()
        self._events: dict[socket.socket, int] = {}
        self._open = True
        self._connecting = True

    def begin(self, address: str, port: int) -> None:
        """Reach for the container."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            self._server = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            for each in (self._client, self._server):
                each.setblocking(False)
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with contextlib.suppress(BlockingIOError):
                self._server.connect((address, port))
        except OSError:
            self.close()
            return
        self._pipes = (_Pipe(self._client, self._server), _Pipe(self._server, self._client))
        self._watch(self._server, select.EPOLLOUT)

    def close(self) -> None:
        """At once; who has not been told the end is told that it was cut off."""
        if not self._open:
            return
        self._open = False
        over = bool(self._pipes) and all(pipe.over for pipe in self._pipes)
        for each in {self._client, self._server}:
            self._watch(each, 0)
            if not over:
                with contextlib.suppress(OSError):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            each.close()
        self._left(self)

    def _ready(self, _events: int) -> None:
        if not self._open:
            return
        try:
            if self._connecting:
                self._connected()
            for pipe in self._pipes:
                pipe.move()
        except OSError:
            self.close()
            return
        if all(pipe.over for pipe in self._pipes):
            self.close()
            return
        there, back = self._pipes
        self._watch(self._client, there.wants_in | back.wants_out)
        self._watch(self._server, back.wants_in | there.wants_out)

    def _connected(self) -> None:
        number = self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
        self._connecting = False

    def _watch(self, sock: socket.socket, events: int) -> None:
        """One that has nothing to tell is not watched at all: its hang-up would be told over and over."""
        before = self._events.get(sock, 0)
        if events == before:
            return
        self._events[sock] = events
        if not events:
            self._loop.remove(sock.fileno())
        elif not before:
            self._loop.add(sock.fileno(), events, self._ready)
        else:
            self._loop.change(sock.fileno(), events)


class _Pipe:
    """One direction: at most a piece is on its way, and no more is read until that has gone."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self._source, self._sink = source, sink
        self._unsent = memoryview(b"")
        self.over = False

    @property
    def wants_in(self) -> int:
        return 0 if self.over or self._unsent else select.EPOLLIN

    @property
    def wants_out(self) -> int:
        return select.EPOLLOUT if self._unsent else 0

    def move(self) -> None:
        """What can be moved now. Raises OSError when an end is broken."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_PIECES_AT_ONCE):
                if self.over:
                    return
                if not self._unsent:
                    self._unsent = memoryview(self._source.recv(_PIECE))
                    if not self._unsent:
                        self.over = True
                        self._sink.shutdown(socket.SHUT_WR)
                        return
                self._unsent = self._unsent[self._sink.send(self._unsent) :]


class _Datagrams:
    """A UDP port: a socket for each client, by which the container's answers find their way back."""

    def __init__(self, loop: Loop, way: Way) -> None:
        self._loop, self._way = loop, way
        # The least lately used comes first.
        self._flows: dict[_Client, tuple[socket.socket, float]] = {}
        self._timer: Timer | None = None
        self._socket = _bound(way, socket.SOCK_DGRAM)
        loop.add(self._socket.fileno(), select.EPOLLIN, self._arrived)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for client in list(self._flows):
            self._forget(client)
        self._loop.remove(self._socket.fileno())
        self._socket.close()

    def _arrived(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(_DATAGRAMS_AT_ONCE):
                datagram, client = self._socket.recvfrom(_LARGEST_DATAGRAM)
                # What is lost on the way, its sender sends again.
                with contextlib.suppress(OSError):
                    self._flow(client).send(datagram)

    def _flow(self, client: _Client) -> socket.socket:
        known = self._flows.pop(client, None)
        flow = self._new_flow(client) if known is None else known[0]
        self._flows[client] = (flow, time.monotonic())
        return flow

    def _new_flow(self, client: _Client) -> socket.socket:
        if len(self._flows) >= MOST_FLOWS:
            self._forget(next(iter(self._flows)))
        family = socket.AF_INET6 if ":" in self._way.address else socket.AF_INET
        flow = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            flow.connect((self._way.address, self._way.port))
            self._loop.add(flow.fileno(), select.EPOLLIN, lambda _: self._answered(flow, client))
        except OSError:
            flow.close()
            raise
        if self._timer is None:
            self._timer = self._loop.later(FLOW_SECONDS, self._sweep)
        return flow

    def _answered(self, flow: socket.socket, client: _Client) -> None:
        try:
            for _ in range(_DATAGRAMS_AT_ONCE):
                datagram = flow.recv(_LARGEST_DATAGRAM)
                self._flow(client)
                self._socket.sendto(datagram, client)
        except OSError:
            return  # nothing more now, or nobody is there: its client will see that itself

    def _sweep(self) -> None:
        late = time.monotonic() - FLOW_SECONDS
        for client in [client for client, (_, last) in self._flows.items() if last <= late]:
            self._forget(client)
        self._timer = self._loop.later(FLOW_SECONDS, self._sweep) if self._flows else None

    def _forget(self, client: _Client) -> None:
        flow, _ = self._flows.pop(client)
        self._loop.remove(flow.fileno())
        flow.close()


def _bound(way: Way, kind: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in way.host else socket.AF_INET
    made = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            # Connections of a predecessor that have ended are no obstacle.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((way.host, way.host_port))
    except OSError:
        made.close()
        raise
    return made


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
