"""One attached client: its socket, what it still has to be sent, what it may type."""

from __future__ import annotations

import select
import socket
import struct
from collections import deque
from typing import Protocol

from bulkhead.shim.detach import DetachScanner
from bulkhead.shim.loop import Loop, Timer

BUFFER = 1 << 20
# How long a client may hold up the process before it is dropped, and a leaver may take its last bytes.
PATIENCE = 10.0
_LINGER = 2.0
_READ_SIZE = 64 << 10
_FRAME = struct.Struct(">BxxxI")


class Attached(Protocol):
    """The streams a peer is attached to, as the peer sees them."""

    @property
    def tty(self) -> bool: ...

    def typed(self, data: bytes) -> None:
        """Input for the process; the streams pause their peers' input when it is too much."""

    def input_ended(self) -> None:
        """The client will type no more."""

    def hold(self, holder: object) -> None:
        """The holder cannot take more: read no more output."""

    def unhold(self, holder: object) -> None:
        """The holder can again."""

    def left(self, peer: Peer) -> None:
        """The peer is not to be given anything any more."""


class Peer:
    """Sends output in stdcopy frames (raw for a terminal) and passes input on.

    `accepts_input` is whether the client's bytes are input at all; otherwise they are thrown away.
    """

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        streams: Attached,
        *,
        accepts_input: bool,
        wants: frozenset[int],
        detach_keys: bytes,
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._streams = streams
        self._accepts_input = accepts_input
        self._wants = wants
        self._scanner = DetachScanner(detach_keys)
        self._unsent: deque[memoryview] = deque()
        self._unsent_size = 0
        self._input_open = True
        self._input_paused = False
        self._output_open = True
        self._finishing = False
        self._congested: Timer | None = None
        self._deadline: Timer | None = None
        self._hung_up = False
        self._discarding = False
        self._events: int | None = None
        self.open = True
        self._watch()

    def offer(self, stream: int, chunk: bytes) -> None:
        """Output of the process: sent at once as far as the socket takes it, else kept."""
        if stream not in self._wants or not self._output_open or self._finishing:
            return
        header = b"" if self._streams.tty else _FRAME.pack(stream, len(chunk))
        sent = 0
        if not self._unsent:
            sent = self._try_send(header, chunk)
            if not self._output_open or sent == len(header) + len(chunk):
                return
        for part in (header, chunk):
            if sent < len(part):
                self._unsent.append(memoryview(part)[sent:])
                self._unsent_size += len(part) - sent
            sent = max(0, sent - len(part))
        self._watch()
        if self._unsent_size > BUFFER and self._congested is None:
            self._congested = self._loop.later(PATIENCE, self.drop)
            self._streams.hold(self)

    def first_input(self, data: bytes) -> None:
        """Bytes that came together with the handshake line."""
        if data:
            self._take_input(data)

    def pause_input(self) -> None:
        """Read nothing from the client until `resume_input`."""
        self._input_paused = True
        self._watch()

    def resume_input(self) -> None:
        self._input_paused = False
        self._watch()

    def finish(self) -> None:
        """The stream has ended: send what is left, then half-close, then wait a little for the client to go."""
        if self._finishing or not self.open:
            return
        if not self._output_open:
            self.drop()
            return
        self._finishing = True
        self._accepts_input = False
        self._input_paused = False
        if self._unsent:
            self._deadline = self._loop.later(PATIENCE, self.drop)
        self._watch()
        self._finish_output()

    def busy(self) -> bool:
        """Whether closing it now would cost it something: unsent output, or a reset over input that still comes."""
        discarding, self._discarding = self._discarding, False
        return self.open and (bool(self._unsent) or discarding)

    def drop(self) -> None:
        """Close now, whatever is unsent."""
        if not self.open:
            return
        self.open = self._output_open = False
        for timer in (self._congested, self._deadline):
            if timer is not None:
                timer.cancel()
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        self._unsent.clear()
        self._streams.unhold(self)
        self._streams.left(self)

    def _watch(self) -> None:
        if not self.open:
            return
        events = select.EPOLLIN if self._input_open and not self._input_paused else 0
        if self._unsent:
            events |= select.EPOLLOUT
        # A hang-up is always reported: once it is known, it must not wake the loop until something can be done.
        wanted = None if self._hung_up and not events else events
        if wanted == self._events:
            return
        fd = self._socket.fileno()
        if wanted is None:
            self._loop.remove(fd)
        elif self._events is None:
            self._loop.add(fd, wanted, self._ready)
        else:
            self._loop.change(fd, wanted)
        self._events = wanted

    def _ready(self, events: int) -> None:
        if events & (select.EPOLLHUP | select.EPOLLERR):
            # Gone, or half-closed as we are: what it has sent before is read to its end either way.
            self._hung_up = True
            self._output_lost()
        if self._unsent and events & select.EPOLLOUT:
            self._flush()
        if self.open and self._input_open and not self._input_paused and events & ~select.EPOLLOUT:
            self._receive()

    def _try_send(self, *parts: bytes | memoryview) -> int:
        try:
            return self._socket.sendmsg(parts, (), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError:
            self._output_lost()
            return 0

    def _flush(self) -> None:
        sent = self._try_send(*list(self._unsent)[:16])
        self._unsent_size -= sent
        while self._unsent and sent >= len(self._unsent[0]):
            sent -= len(self._unsent.popleft())
        if sent:
            self._unsent[0] = self._unsent[0][sent:]
        if self._congested is not None and self._unsent_size <= BUFFER // 2:
            self._congested.cancel()
            self._congested = None
            self._streams.unhold(self)
        self._watch()
        self._finish_output()

    def _finish_output(self) -> None:
        if not self._finishing or self._unsent or not self._output_open:
            return
        self._output_open = False
        if self._deadline is not None:
            self._deadline.cancel()
        # Closing with unread input would reset the connection under the client; it closes first, or time does.
        self._deadline = self._loop.later(_LINGER, self.drop)
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.drop()
            return
        if not self._input_open:
            self.drop()

    def _output_lost(self) -> None:
        """The client reads no more; what it has typed counts all the same."""
        self._output_open = False
        self._unsent.clear()
        self._unsent_size = 0
        self._streams.unhold(self)
        if self._input_open:
            self._watch()
        else:
            self.drop()

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
            self._hung_up = True
        if data:
            self._take_input(data)
            return
        self._input_open = False
        if self._accepts_input:
            self._streams.input_ended()
        if not self.open:
            return
        if self._hung_up or not self._output_open:
            self.drop()
        else:
            self._watch()

    def _take_input(self, data: bytes) -> None:
        if not self._accepts_input:
            self._discarding = True
            return
        detached = False
        if self._streams.tty:
            data, detached = self._scanner.feed(data)
        if data:
            self._streams.typed(data)
        if detached:
            self._detach()

    def _detach(self) -> None:
        self._unsent.clear()
        self._unsent_size = 0
        self._streams.unhold(self)
        self._streams.left(self)
        self.finish()
