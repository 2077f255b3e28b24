"""Log lines that go elsewhere: to a syslog server or the journal, beside the local file that `docker logs` reads.

A thread sends; the container never waits for it. What does not fit into the buffer while the receiver is slow or away
is dropped and counted, and the receiver is told how much it has missed when it is back.
"""

from __future__ import annotations

import _thread
import contextlib
import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from bulkhead.errors import Internal
from bulkhead.model.losses import Loss
from bulkhead.shim.loop import Loop
from bulkhead.shim.sinks import LogSink

PIECE = 16 << 10
BUFFER = 1 << 20
CONNECT_SECONDS = 5.0
SEND_SECONDS = 5.0
RETRY_FIRST, RETRY_LONGEST = 0.1, 5.0
# How long the container's end waits for its last lines to be sent.
FAREWELL = 2.0
_POLL = 0.02
_ERROR, _INFO = 3, 6
_LOCAL_SOCKETS = ("/dev/log", "/var/run/syslog", "/var/run/log")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


class Sender(Protocol):
    """One receiver. Its methods block and raise OSError; after a failure `connect` comes first."""

    def connect(self) -> None: ...

    def send(self, stream: int, at: float, line: bytes, *, partial: bool) -> None:
        """`line` has no newline; `at` in Unix seconds."""

    def close(self) -> None: ...


class Shipped(LogSink):
    """What goes to `cache` goes to `sender` too.

    Raises Internal when the receiver is not there, unless it is `known` that it was: then it may come back.
    """

    def __init__(self, sender: Sender, cache: LogSink, loop: Loop, limit: int, *, known: bool = False) -> None:
        self._sender = sender
        self._cache = cache
        self._loop = loop
        self._limit = limit
        self._carry = {1: b"", 2: b""}
        self._queue: deque[tuple[int, float, bytes, bool]] = deque()
        self._size = 0
        self._lost = 0
        self._closing = False
        self._news = _thread.allocate_lock()
        self._news.acquire()
        try:
            if not known:
                sender.connect()
        except OSError as error:
            raise Internal(f"failed to initialize logging driver: {error}") from error
        _thread.start_new_thread(self._run, ())

    def take(self, stream: int, source: int, *, terminal: bool) -> bytes:
        return self._cache.take(stream, source, terminal=terminal)

    def to_keep(self) -> dict[str, int]:
        return self._cache.to_keep()

    def write(self, stream: int, chunk: bytes) -> None:
        self._cache.write(stream, chunk)
        data = self._carry[stream] + chunk
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._offer_pieces(stream, line)
        while len(rest) >= PIECE:
            self._offer(stream, rest[:PIECE], partial=True)
            rest = rest[PIECE:]
        self._carry[stream] = rest

    def end(self, stream: int) -> None:
        self._cache.end(stream)
        rest, self._carry[stream] = self._carry[stream], b""
        if rest:
            self._offer(stream, rest)

    def finish(self, done: Callable[[], None]) -> None:
        self._await_sent(time.monotonic() + FAREWELL, done)

    def unlogged(self) -> Loss | None:
        return self._cache.unlogged()

    def rest(self) -> None:
        self._cache.rest()

    def close(self) -> None:
        self._cache.close()
        self._closing = True
        self._wake()

    def _await_sent(self, deadline: float, done: Callable[[], None]) -> None:
        if not self._queue or time.monotonic() > deadline:
            self._cache.finish(done)
        else:
            self._loop.later(_POLL, lambda: self._await_sent(deadline, done))

    def _offer_pieces(self, stream: int, line: bytes) -> None:
        while len(line) > PIECE:
            self._offer(stream, line[:PIECE], partial=True)
            line = line[PIECE:]
        # An empty line is none to Docker's drivers.
        if line:
            self._offer(stream, line)

    def _offer(self, stream: int, line: bytes, *, partial: bool = False) -> None:
        if self._size + len(line) > self._limit and self._queue:
            self._lost += 1
            return
        self._size += len(line)
        self._queue.append((stream, time.time(), line, partial))
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):
            # Held means asleep, or about to be: released twice is an error that means "it knows already".
            self._news.release()

    # The thread

    def _run(self) -> None:
        delay = 0.0
        while True:
            if not self._queue:
                if self._closing:
                    self._sender.close()
                    return
                self._news.acquire()
                continue
            try:
                if delay:
                    time.sleep(delay)
                    self._sender.connect()
                self._send_next()
                delay = 0.0
            except OSError:
                if self._closing:
                    self._sender.close()
                    return
                delay = min(delay * 2, RETRY_LONGEST) or RETRY_FIRST

    def _send_next(self) -> None:
        """The line goes from the queue once it is sent."""
        if self._lost:
            lost = self._lost
            text = f"[bulkhead: {lost} lines of log were lost: the receiver was too slow or away]"
            self._sender.send(2, time.time(), text.encode(), partial=False)
            self._lost -= lost
        stream, at, line, partial = self._queue[0]
        self._sender.send(stream, at, line, partial=partial)
        self._queue.popleft()
        self._size -= len(line)


class Syslog:
    """A syslog server by UDP, TCP, TLS or a Unix socket (RFC 3164, 5424; RFC 5425 framing by TLS, else newlines)."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told
        self._transport = told["transport"]
        self._socket: socket.socket | None = None
        self._pid = os.getpid()

    def connect(self) -> None:
        self.close()
        made = self._connected()
        made.settimeout(SEND_SECONDS)
        self._socket = made

    def send(self, stream: int, at: float, line: bytes, *, partial: bool) -> None:
        del partial
        if self._socket is None:
            raise ConnectionError("not connected")
        message = self._header(stream, at) + line + b"\n"
        if self._transport == "tcp+tls" and self._told["format"].startswith("rfc5424"):
            message = b"%d %b" % (len(message), message)
        try:
            self._socket.sendall(message)
        except OSError as error:
            if self._transport == "udp" and isinstance(error, ConnectionRefusedError):
                # Nobody promised that datagrams arrive; this one tells of an earlier one, too.
                return
            self.close()
            raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _header(self, stream: int, at: float) -> bytes:
        told, pid = self._told, self._pid
        priority = told["facility"] << 3 | (_ERROR if stream == 2 else _INFO)
        tag, host = told["tag"], told["hostname"]
        if told["format"].startswith("rfc5424"):
            stamp = _rfc3339(at, micro=told["format"].endswith("micro"))
            return f"<{priority}>1 {stamp} {host} {tag} {pid} {tag} - ".encode()
        now = time.localtime(at)
        stamp = f"{_MONTHS[now.tm_mon - 1]} {now.tm_mday:2d} {now.tm_hour:02d}:{now.tm_min:02d}:{now.tm_sec:02d}"
        if told["format"] == "rfc3164":
            return f"<{priority}>{stamp} {host} {tag}[{pid}]: ".encode()
        return f"<{priority}>{stamp} {tag}[{pid}]: ".encode()

    def _connected(self) -> socket.socket:
        if self._transport in ("unix", "unixgram"):
            return _unix(self._told["path"], stream=self._transport == "unix")
        if not self._transport:
            return _machines_own()
        place = (self._told["host"], self._told["port"])
        if self._transport == "udp":
            family = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)[0][0]
            made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            made.connect(place)
            return made
        try:
            plain = socket.create_connection(place, CONNECT_SECONDS)
        except OSError as error:
            raise ConnectionError(f"dial tcp {place[0]}:{place[1]}: {error.strerror or error}".lower()) from error
        return self._secured(plain) if self._transport == "tcp+tls" else plain

    def _secured(self, plain: socket.socket) -> socket.socket:
        import ssl  # where it is needed: it costs megabytes

        context = ssl.create_default_context(cafile=self._told["ca"] or None)
        if self._told["unverified"]:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self._told["certificate"]:
            context.load_cert_chain(self._told["certificate"], self._told["key"] or None)
        return context.wrap_socket(plain, server_hostname=self._told["host"])


class Journal:
    """The systemd journal by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._path = told["path"]
        self._fields = b"".join(_field(name, value.encode()) for name, value in told["fields"].items())
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        self.close()
        self._socket = _unix(self._path, stream=False)

    def send(self, stream: int, at: float, line: bytes, *, partial: bool) -> None:
        if self._socket is None:
            raise ConnectionError("not connected")
        parts = [
            _field("MESSAGE", line),
            b"PRIORITY=%d\n" % (_ERROR if stream == 2 else _INFO),
            _field("SYSLOG_TIMESTAMP", _rfc3339(at, micro=True).encode()),
            self._fields,
        ]
        if partial:
            parts.append(b"CONTAINER_PARTIAL_MESSAGE=true\n")
        try:
            self._socket.send(b"".join(parts))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def sender(destination: bytes) -> Sender:
    """What the manager has described."""
    told = json.loads(destination)
    return Journal(told) if told["kind"] == "journald" else Syslog(told)


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


def _rfc3339(at: float, *, micro: bool) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    return f"{whole}.{int(at % 1 * 1_000_000):06d}Z" if micro else f"{whole}Z"


def _unix(path: str, *, stream: bool) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, (socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) | socket.SOCK_CLOEXEC)
    made.settimeout(SEND_SECONDS)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


def _machines_own() -> socket.socket:
    for path in _LOCAL_SOCKETS:
        for stream in (False, True):
            with contextlib.suppress(OSError):
                return _unix(path, stream=stream)
    raise ConnectionError("Unix syslog delivery error")
