"""A DNS query on its way to other servers: over UDP or TCP as the client asked, a second one asked when one is slow.

Nothing here blocks the shim, whatever the servers do: refuse, answer in pieces, lie, or never answer.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence

from bulkhead.shim.loop import Loop, Timer

# (family, type) -> a socket in the network namespace from which is asked.
Opener = Callable[[int, int], socket.socket]
PORT = 53
PATIENCE, HEDGE = 4.0, 0.4
# A server that let a query's time pass is asked last for so long.
_AVOIDED_SECONDS = 30.0
_LARGEST = 65535
_HEADER_SIZE, _RESPONSE = 12, 0x80
_SERVER_FAILURE, _NOT_IMPLEMENTED, _REFUSED = 2, 4, 5
# What another server may know better.
_UNHELPFUL = frozenset((_SERVER_FAILURE, _NOT_IMPLEMENTED, _REFUSED))


class Servers:
    """Which servers were slow lately."""

    def __init__(self) -> None:
        self._avoided: dict[str, float] = {}

    def ordered(self, servers: Sequence[str]) -> list[str]:
        """The servers as they are to be asked: those that were slow come last."""
        now = time.monotonic()
        return sorted(servers, key=lambda server: self._avoided.get(server, 0.0) > now)

    def slow(self, server: str) -> None:
        self._avoided[server] = time.monotonic() + _AVOIDED_SECONDS

    def answered(self, server: str) -> None:
        self._avoided.pop(server, None)


class Upstream:
    """One query; `done` is told the answer, or None, once. `end` is where the query's question ends."""

    def __init__(
        self,
        loop: Loop,
        opener: Opener,
        servers: Servers,
        chosen: Sequence[str],
        query: bytes,
        end: int,
        done: Callable[[bytes | None], None],
        *,
        tcp: bool,
    ) -> None:
        self._loop, self._opener, self._servers, self._done, self._tcp = loop, opener, servers, done, tcp
        # An id of our own: nobody who guesses the client's can answer in the server's place.
        self._query = os.urandom(2) + query[2:]
        self._question = query[_HEADER_SIZE:end].lower()
        self._left = servers.ordered(chosen)
        self._attempts: list[_Attempt] = []
        self._refusal: bytes | None = None
        self._ended = False
        self._timers: list[Timer] = [loop.later(PATIENCE, self._give_up)]
        self._next()

    def _next(self) -> None:
        """Ask one server more; with nobody left, and nobody to wait for, that was all."""
        while self._left and not self._ended:
            kind = _Stream if self._tcp else _Datagram
            try:
                attempt = kind(self._loop, self._opener, self._left.pop(0), self._query, self._heard)
            except OSError:
                continue
            self._attempts.append(attempt)
            self._timers.append(self._loop.later(HEDGE, self._hedge))
            return
        if not self._attempts:
            self._end(self._refusal)

    def _hedge(self) -> None:
        """Nobody has answered for a while: ask another, or once more."""
        for attempt in self._attempts:
            self._servers.slow(attempt.server)
        if self._left:
            self._next()
        else:
            for attempt in self._attempts:
                attempt.repeat()

    def _heard(self, attempt: _Attempt, reply: bytes | None) -> None:
        if reply is not None and not self._answers(reply):
            if not self._tcp:
                return  # of somebody who guesses: the true one may come yet
            reply = None
        attempt.close()
        self._attempts.remove(attempt)
        if reply is not None:
            self._servers.answered(attempt.server)
            if reply[3] & 0xF not in _UNHELPFUL:
                self._end(reply)
                return
            self._refusal = reply
        self._next()

    def _answers(self, reply: bytes) -> bool:
        """Whether a packet is an answer to what we asked; a refusal may leave out the question."""
        if len(reply) < _HEADER_SIZE or reply[:2] != self._query[:2] or not reply[2] & _RESPONSE:
            return False
        question = reply[_HEADER_SIZE : _HEADER_SIZE + len(self._question)].lower()
        return question == self._question if reply[5] else reply[3] & 0xF != 0

    def _give_up(self) -> None:
        self._end(self._refusal)

    def _end(self, got: bytes | None) -> None:
        if self._ended:
            return
        self._ended = True
        for timer in self._timers:
            timer.cancel()
        for attempt in self._attempts:
            attempt.close()
        self._done(got)


class _Attempt:
    """A query at one server; `heard` is told each answer, None when there will be none."""

    # The socket's type, and what is awaited of it first.
    KIND: int
    FIRST: int

    def __init__(
        self,
        loop: Loop,
        opener: Opener,
        server: str,
        query: bytes,
        heard: Callable[[_Attempt, bytes | None], None],
    ) -> None:
        self.server = server
        self._loop, self._query, self._heard = loop, query, heard
        family, address = _address(server)
        self._socket = opener(family, self.KIND | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            self._begin(address)
            loop.add(self._socket.fileno(), self.FIRST, self._ready)
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove(self._socket.fileno())
            self._socket.close()

    def repeat(self) -> None:
        """Ask once more, where that can help."""

    def _begin(self, address: tuple[str | int, ...]) -> None:
        raise NotImplementedError

    def _step(self, events: int) -> None:
        raise NotImplementedError

    def _ready(self, events: int) -> None:
        if self._socket.fileno() < 0:
            return
        try:
            self._step(events)
        except BlockingIOError:
            return
        except OSError:
            self._heard(self, None)


class _Datagram(_Attempt):
    """Over UDP: connected, so that only the server can answer."""

    KIND, FIRST = socket.SOCK_DGRAM, select.EPOLLIN

    def repeat(self) -> None:
        try:
            self._socket.send(self._query)
        except OSError:
            return  # the first may be answered yet

    def _begin(self, address: tuple[str | int, ...]) -> None:
        self._socket.connect(address)
        self._socket.send(self._query)

    def _step(self, _events: int) -> None:
        self._heard(self, self._socket.recv(_LARGEST))


class _Stream(_Attempt):
    """Over TCP: two bytes of length come before each message (RFC 7766)."""

    KIND, FIRST = socket.SOCK_STREAM, select.EPOLLOUT

    def _begin(self, address: tuple[str | int, ...]) -> None:
        self._sent = False
        self._got = bytearray()
        number = self._socket.connect_ex(address)
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, os.strerror(number))

    def _step(self, _events: int) -> None:
        if not self._sent:
            # It fits the empty buffer of a new connection; a failed connect is told here, too.
            self._socket.send(struct.pack("!H", len(self._query)) + self._query)
            self._sent = True
            self._loop.change(self._socket.fileno(), select.EPOLLIN)
            return
        piece = self._socket.recv(_LARGEST)
        self._got += piece
        if not piece:
            self._heard(self, None)
        elif len(self._got) >= 2 and len(self._got) >= 2 + int.from_bytes(self._got[:2]):
            self._heard(self, bytes(self._got[2 : 2 + int.from_bytes(self._got[:2])]))


def _address(server: str) -> tuple[int, tuple[str | int, ...]]:
    host, _, scope = server.partition("%")
    if ":" not in host:
        return socket.AF_INET, (host, PORT)
    try:
        index = int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    except (OSError, ValueError):
        index = 0
    return socket.AF_INET6, (host, PORT, 0, index)
