"""A ttrpc server for a process that runs its own epoll loop; no thread, no asyncio.

Handlers run on the loop. One answers at once, or keeps its `Call` and answers when the thing waited
for has happened (Wait). Whatever a handler raises becomes a status; it never leaves the server.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Mapping
from typing import Any

from bulkhead.errors import BulkheadError, InvalidArgument, NotImplementedYet
from bulkhead.wire import direct
from bulkhead.wire.acceptor import Acceptor, Reactor
from bulkhead.wire.status import code_of
from bulkhead.wire.ttrpc import (
    REQUEST_ID_KEY,
    TYPE_REQUEST,
    TYPE_RESPONSE,
    Frame,
    FrameReader,
    Response,
    Status,
    frame,
)
from bulkhead.wire.ttrpc_protobuf import Message, decode, encode

_READ_SIZE = 64 << 10
# A caller that does not read its answers is cut off rather than stored.
_MAX_UNSENT = 8 << 20


class Call:
    """One call that waits for its answer; only the first answer counts."""

    __slots__ = ("_answered", "_connection", "_stream", "method", "request_id")

    def __init__(self, connection: _Connection, stream: int, method: str, request_id: str) -> None:
        self._connection = connection
        self._answered = False
        self._stream = stream
        self.method = method
        self.request_id = request_id

    @property
    def open(self) -> bool:
        """Whether an answer can still reach the caller."""
        return not self._answered and self._connection.open

    @property
    def caller_is_there(self) -> bool:
        """Whether he is still connected, though he may have his answer."""
        return self._connection.open

    def reply(self, message: Message) -> None:
        """Answer with a message."""
        self._send(direct.response(encode(message)))

    def fail(self, error: BaseException) -> None:
        """Answer with an error's status."""
        text = str(error) if isinstance(error, BulkheadError) else f"{type(error).__name__}: {error}"
        self._send(encode(Response(status=Status(code=code_of(error), message=text))))

    def _send(self, response: bytes) -> None:
        if self.open:
            self._answered = True
            self._connection.send(frame(self._stream, TYPE_RESPONSE, response))


# A row of the service table: how the method's request is read, and who handles it.
Method = tuple[type[Message], Callable[[Any, Call], None]]
Services = Mapping[str, Mapping[str, Method]]
Failed = Callable[[Call, BaseException], None]


class TtrpcServer:
    """Serves `services` (name -> method -> row) on a listening Unix socket.

    `failed` is told of every handler that raised something other than a BulkheadError.
    """

    def __init__(self, reactor: Reactor, services: Services, failed: Failed) -> None:
        self._reactor = reactor
        self._services = services
        self._failed = failed
        self._acceptor = Acceptor(reactor, self._admit)
        self._connections: set[_Connection] = set()

    def listen(self, listener: socket.socket) -> None:
        """Start to accept on `listener`, which the server owns from now on; it replaces a former one."""
        self._acceptor.listen(listener)

    def stop_listening(self) -> None:
        """Accept no more; connections live on."""
        self._acceptor.stop()

    @property
    def idle(self) -> bool:
        """Whether every answer given so far has left this process."""
        return not any(connection.unsent for connection in self._connections)

    @property
    def deserted(self) -> bool:
        """Whether nobody is connected: somebody who hung up is noticed by the answer that he cannot be sent."""
        return not self._connections

    def hang_up(self) -> None:
        """Drop every connection whose answers have left this process."""
        for connection in tuple(self._connections):
            if not connection.unsent:
                connection.close()

    def close(self) -> None:
        """Stop listening and drop every connection."""
        self.stop_listening()
        for connection in tuple(self._connections):
            connection.close()

    def _admit(self, sock: socket.socket) -> None:
        self._connections.add(_Connection(self._reactor, sock, self._handle, self._connections.discard))

    def _handle(self, connection: _Connection, received: Frame) -> None:
        if received.type != TYPE_REQUEST:
            raise InvalidArgument(f"cannot handle frame: type {received.type} is not a request")
        asked = direct.asked(received.payload)
        _, service, method = asked.route.split("/", 2)
        call = Call(connection, received.stream, method, asked.metadata.get(REQUEST_ID_KEY, ""))
        try:
            kind, handle = self._find(service, method)
            handle(decode(kind, asked.message), call)
        except BulkheadError as error:
            call.fail(error)
        except Exception as error:
            self._failed(call, error)
            call.fail(error)

    def _find(self, service: str, method: str) -> Method:
        found = self._services.get(service, {}).get(method)
        if found is None:
            raise NotImplementedYet(f"cannot call {service}/{method}: no such method")
        return found


class _Connection:
    """One caller's socket."""

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        handle: Callable[[_Connection, Frame], None],
        closed: Callable[[_Connection], None],
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self._handle = handle
        self._closed = closed
        self._reader = FrameReader()
        self.unsent = bytearray()
        self.open = True
        reactor.add(sock.fileno(), select.EPOLLIN, self._ready)

    def send(self, data: bytes) -> None:
        """Send now what the socket takes, the rest when it is writable."""
        if not self.unsent:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
        if not data:
            return
        self.unsent += data
        if len(self.unsent) > _MAX_UNSENT:
            self.close()
            return
        self._reactor.change(self._socket.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def close(self) -> None:
        """Drop the connection; calls in flight lose their caller."""
        if not self.open:
            return
        self.open = False
        self._reactor.remove(self._socket.fileno())
        self._socket.close()
        self.unsent.clear()
        self._closed(self)

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if self.open and events & ~select.EPOLLOUT:
            self._receive()

    def _flush(self) -> None:
        try:
            del self.unsent[: self._socket.send(self.unsent)]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not self.unsent:
            self._reactor.change(self._socket.fileno(), select.EPOLLIN)

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for received in self._reader.feed(data):
                self._handle(self, received)
                if not self.open:
                    return
        except InvalidArgument:
            # What follows a broken frame cannot be told apart from it.
            self.close()
