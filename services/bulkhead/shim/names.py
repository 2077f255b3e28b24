"""DNS at 127.0.0.11 in the container's network namespace: names of its networks from files, the rest from upstream.

Packets are RFC 1035's. The manager writes what is answered (manager/networks/names.py); while it is away the files
stay. A file is read again when it was replaced. Upstream servers are asked from the host's network, over UDP or TCP
as the client asked us; a second one is asked when the first is slow. Imported by the first container that needs it.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from bulkhead.errors import Unavailable
from bulkhead.shim.loop import Loop, Timer
from bulkhead.shim.redirect import redirect

ADDRESS, PORT = "127.0.0.11", 53
TTL = 600
_A, _PTR, _AAAA, _ANY = 1, 12, 28, 255
_REVERSE, _REVERSE6 = ".in-addr.arpa", ".ip6.arpa"
_IN = 1
_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")
_ANSWER = struct.Struct("!HHIH")
_RESPONSE, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0100, 0x0080
_NO_ERROR, _SERVER_FAILURE, _NO_NAME, _NOT_IMPLEMENTED = 0, 2, 3, 4
_NAME_AT_QUESTION = b"\xc0\x0c"
_LARGEST_UDP, _LARGEST = 4096, 65535
_PLAIN_UDP = 512
_CLONE_NEWNET = 0x40000000
_PATIENCE, _HEDGE = 4.0, 0.4
_AT_ONCE = 256
_NEGATIVE_SECONDS, _REMEMBERED = 5.0, 256
_TCP_IDLE = 10.0
_MOST_CLIENTS = 64


class Zone:
    """What the container's networks call their containers, as the files say now."""

    def __init__(self, directory: str, container: str) -> None:
        self._directory = directory
        self._container = container
        self._read: dict[str, tuple[tuple[int, int, int], dict[str, object]]] = {}

    @property
    def servers(self) -> Sequence[str]:
        """Whom to ask about everything else; none from an internal network."""
        about = self._file(self._container)
        return [] if about.get("internal") else _texts(about.get("servers"))

    @property
    def internal(self) -> bool:
        return bool(self._file(self._container).get("internal"))

    def addresses(self, name: str) -> list[str] | None:
        """The addresses of a name (without its last dot), None when it is not known here."""
        about = self._file(self._container)
        links = about.get("links")
        name = links.get(name, name) if isinstance(links, dict) else name
        wanted = str(name).lower()
        found = []
        for network in self._networks(about):
            plain = wanted.removesuffix(f".{str(network.get('name', '')).lower()}")
            found += [address for names, address in _hosts(network) if wanted in names or plain in names]
        return list(dict.fromkeys(found)) or None

    def name_of(self, address: str) -> str | None:
        """Who has an address, as `name.network`."""
        for network in self._networks(self._file(self._container)):
            for names, its in _hosts(network):
                if its == address and names:
                    return f"{names[0]}.{network.get('name', '')}"
        return None

    def _networks(self, about: Mapping[str, object]) -> Iterable[dict[str, object]]:
        return [self._file(network) for network in _texts(about.get("networks"))]

    def _file(self, name: str) -> dict[str, object]:
        path = f"{self._directory}/{name}"
        try:
            found = os.stat(path)  # noqa: PTH116 (pathlib costs a forked process a quarter of a megabyte)
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            known = self._read.get(name)
            if known is None or known[0] != mark:
                with open(path, "rb") as file:  # noqa: PTH123
                    content = json.loads(file.read())
                known = (mark, content if isinstance(content, dict) else {})
                self._read[name] = known
        except (OSError, ValueError):
            return {}
        return known[1]


class NameServer:
    """Serves one container from the shim's loop; `serve` any number of times."""

    def __init__(self, loop: Loop, report: Callable[[str, BaseException], None]) -> None:
        self._loop = loop
        self._report = report
        self._zone: Zone | None = None
        self._udp: socket.socket | None = None
        self._tcp: socket.socket | None = None
        self._asking = 0
        self._clients = 0
        self._negative: dict[bytes, tuple[float, bytes]] = {}

    def serve(self, directory: str, container: str, pid: int) -> None:
        """Answer in the network namespace of `pid` from the files in `directory`. Raises Unavailable."""
        self._zone = Zone(directory, container)
        if self._udp is not None:
            return
        try:
            self._udp, self._tcp = _listeners(pid)
        except OSError as error:
            raise Unavailable(f"cannot answer names at {ADDRESS}: {error.strerror}") from error
        self._loop.add(self._udp.fileno(), select.EPOLLIN, self._datagram)
        self._loop.add(self._tcp.fileno(), select.EPOLLIN, self._accept)

    def close(self) -> None:
        """Answer no more; harmless when it never did."""
        for listener in (self._udp, self._tcp):
            if listener is not None:
                self._loop.remove(listener.fileno())
                listener.close()
        self._udp = self._tcp = None

    def _datagram(self, _events: int) -> None:
        udp = self._udp
        if udp is None:
            return
        try:
            query, client = udp.recvfrom(_LARGEST_UDP)
        except OSError:
            return

        def answer(reply: bytes) -> None:
            try:
                udp.sendto(_fitted(reply, query), client)
            except OSError:
                return  # the client left, or the namespace did: it will ask again

        self._handle(query, answer, tcp=False)

    def _accept(self, _events: int) -> None:
        if self._tcp is None:
            return
        try:
            client, _ = self._tcp.accept()
        except OSError:
            return
        if self._clients >= _MOST_CLIENTS:
            client.close()
            return
        self._clients += 1
        _Stream(self._loop, client, self._handle, self._client_left)

    def _client_left(self) -> None:
        self._clients -= 1

    def _handle(self, query: bytes, answer: Callable[[bytes], None], *, tcp: bool) -> None:
        question = parse(query)
        if question is None:
            if len(query) >= _HEADER.size:
                answer(_refusal(query, _NOT_IMPLEMENTED))
            return
        name, kind, end = question
        known = self._known(query[:end], name, kind)
        if known is not None:
            answer(known)
            return
        self._forward(query, end, answer, tcp=tcp)

    def _known(self, asked: bytes, name: str, kind: int) -> bytes | None:
        """The answer to what the files know, None for what has to be asked upstream."""
        assert self._zone is not None
        if kind == _PTR and name.endswith((_REVERSE, _REVERSE6)):
            owner = self._zone.name_of(_address_of(name))
            return None if owner is None else reply(asked, [(_PTR, encode_name(owner))])
        addresses = self._zone.addresses(name)
        if addresses is None:
            return None
        packed = [(_A, socket.inet_aton(each)) for each in addresses if ":" not in each]
        packed += [(_AAAA, socket.inet_pton(socket.AF_INET6, each)) for each in addresses if ":" in each]
        wanted = [each for each in packed if kind in (each[0], _ANY)]
        random.shuffle(wanted)
        return reply(asked, wanted)

    def _forward(self, query: bytes, end: int, answer: Callable[[bytes], None], *, tcp: bool) -> None:
        assert self._zone is not None
        key = query[2:]
        remembered = self._negative.get(key)
        if remembered is not None and remembered[0] > time.monotonic():
            answer(query[:2] + remembered[1])
            return
        servers = self._zone.servers
        if not servers or self._asking >= _AT_ONCE:
            code = _NO_NAME if self._zone.internal else _SERVER_FAILURE
            answer(_refusal(query[:end], code))
            return
        self._asking += 1

        def done(got: bytes | None) -> None:
            self._asking -= 1
            if got is None:
                answer(_refusal(query[:end], _SERVER_FAILURE))
                return
            if got[3] & 0xF == _NO_NAME:
                self._remember(key, got[2:])
            answer(query[:2] + got[2:])

        _Upstream(self._loop, servers, query, done, tcp=tcp)

    def _remember(self, key: bytes, reply: bytes) -> None:
        if len(self._negative) >= _REMEMBERED:
            self._negative.clear()
        self._negative[key] = (time.monotonic() + _NEGATIVE_SECONDS, reply)


class _Stream:
    """A client over TCP: queries with two bytes of length before each, answered in turn (RFC 7766)."""

    def __init__(
        self,
        loop: Loop,
        client: socket.socket,
        handle: Callable[..., None],
        left: Callable[[], None],
    ) -> None:
        self._loop, self._client, self._handle, self._left = loop, client, handle, left
        self._got = bytearray()
        client.setblocking(False)
        loop.add(client.fileno(), select.EPOLLIN, self._readable)
        self._timer = loop.later(_TCP_IDLE, self._close)

    def _readable(self, _events: int) -> None:
        try:
            piece = self._client.recv(_LARGEST)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            self._close()
            return
        self._got += piece
        while len(self._got) >= 2 and len(self._got) >= 2 + (length := self._got[0] << 8 | self._got[1]):
            query = bytes(self._got[2 : 2 + length])
            del self._got[: 2 + length]
            self._handle(query, self._answer, tcp=True)

    def _answer(self, reply: bytes) -> None:
        if self._client.fileno() < 0:
            return
        try:
            self._client.send(struct.pack("!H", len(reply)) + reply)
        except OSError:
            self._close()

    def _close(self) -> None:
        if self._client.fileno() >= 0:
            self._timer.cancel()
            self._loop.remove(self._client.fileno())
            self._client.close()
            self._left()


class _Upstream:
    """One query on its way to the host's servers; `done` is told the answer, or None, once."""

    def __init__(
        self, loop: Loop, servers: Sequence[str], query: bytes, done: Callable[[bytes | None], None], *, tcp: bool
    ) -> None:
        self._loop, self._done, self._tcp = loop, done, tcp
        # An id of our own: nobody who guesses the client's can answer in the server's place.
        self._query = os.urandom(2) + query[2:]
        self._left = list(servers)
        self._sockets: list[socket.socket] = []
        self._timers: list[Timer] = [loop.later(_PATIENCE, self._give_up)]
        self._next()

    def _next(self) -> None:
        if not self._left or not self._timers:
            return
        server = self._left.pop(0)
        try:
            asked = self._ask(server)
        except OSError:
            self._next_soon(0)
            return
        self._sockets.append(asked)
        self._loop.add(asked.fileno(), select.EPOLLIN, lambda _events: self._readable(asked))
        self._next_soon(_HEDGE)

    def _next_soon(self, seconds: float) -> None:
        if self._left:
            self._timers.append(self._loop.later(seconds, self._next))

    def _ask(self, server: str) -> socket.socket:
        host, _, scope = server.partition("%")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        kind = socket.SOCK_STREAM if self._tcp else socket.SOCK_DGRAM
        asked = socket.socket(family, kind | socket.SOCK_CLOEXEC)
        try:
            asked.settimeout(1.0 if self._tcp else 0)
            address = (host, PORT) if family == socket.AF_INET else (host, PORT, 0, _scope(scope))
            asked.connect(address)
            asked.send(struct.pack("!H", len(self._query)) + self._query if self._tcp else self._query)
            asked.setblocking(False)
        except OSError:
            asked.close()
            raise
        return asked

    def _readable(self, asked: socket.socket) -> None:
        if asked.fileno() < 0:
            return
        try:
            got = asked.recv(_LARGEST)
        except BlockingIOError:
            return
        except OSError:
            got = b""
        if self._tcp:
            got = got[2:]
        if len(got) < _HEADER.size or got[:2] != self._query[:2]:
            self._drop(asked)
            if not self._sockets and not self._left:
                self._end(None)
            return
        self._end(got)

    def _give_up(self) -> None:
        self._end(None)

    def _drop(self, asked: socket.socket) -> None:
        self._loop.remove(asked.fileno())
        asked.close()
        self._sockets.remove(asked)

    def _end(self, got: bytes | None) -> None:
        if not self._timers:
            return
        for timer in self._timers:
            timer.cancel()
        self._timers = []
        for asked in list(self._sockets):
            self._drop(asked)
        self._done(got)


def parse(query: bytes) -> tuple[str, int, int] | None:
    """Name in lower case, type, end of the question; None for what is no plain query of one question."""
    if len(query) < _HEADER.size:
        return None
    _, flags, questions, *_ = _HEADER.unpack_from(query)
    if flags & _RESPONSE or flags >> 11 & 0xF or questions != 1:
        return None
    labels, at = [], _HEADER.size
    while at < len(query) and (length := query[at]):
        if length > 63 or at + 1 + length > len(query):
            return None
        labels.append(query[at + 1 : at + 1 + length].decode("latin-1").lower())
        at += 1 + length
    if at + 1 + _QUESTION.size > len(query):
        return None
    kind, family = _QUESTION.unpack_from(query, at + 1)
    return (".".join(labels), kind, at + 1 + _QUESTION.size) if family == _IN else None


def reply(asked: bytes, records: Sequence[tuple[int, bytes]]) -> bytes:
    """The answer to a question (header and question alone) by (type, data)."""
    number, flags, *_ = _HEADER.unpack_from(asked)
    head = _RESPONSE | _RECURSION_AVAILABLE | (flags & _RECURSION_DESIRED)
    body = b"".join(_NAME_AT_QUESTION + _ANSWER.pack(kind, _IN, TTL, len(data)) + data for kind, data in records)
    return _HEADER.pack(number, head, 1, len(records), 0, 0) + asked[_HEADER.size :] + body


def encode_name(name: str) -> bytes:
    """A name as labels."""
    labels = [label.encode("latin-1", "replace")[:63] for label in name.split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def _refusal(asked: bytes, code: int) -> bytes:
    number, flags, questions, *_ = _HEADER.unpack_from(asked)
    head = _RESPONSE | _RECURSION_AVAILABLE | (flags & 0x7900) | code
    return _HEADER.pack(number, head, questions if len(asked) > _HEADER.size else 0, 0, 0, 0) + asked[_HEADER.size :]


def _fitted(reply: bytes, query: bytes) -> bytes:
    """Cut to what the client can take over UDP; the mark of truncation makes it ask again over TCP."""
    if len(reply) <= _PLAIN_UDP or _takes(query) >= len(reply):
        return reply
    question = parse(bytes((query[0], query[1], query[2] & 0x79, query[3])) + query[4:])
    end = question[2] if question else _HEADER.size
    number, flags, questions, *_ = _HEADER.unpack_from(reply)
    return _HEADER.pack(number, flags | 0x0200, questions, 0, 0, 0) + reply[_HEADER.size : end]


def _takes(query: bytes) -> int:
    """What EDNS0 says in the query's last record (RFC 6891), else the plain limit."""
    if len(query) >= 11 and query[11] and query[-11:-8] == b"\0\0\x29":
        return int.from_bytes(query[-8:-6])
    return _PLAIN_UDP


def _listeners(pid: int) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP sockets in the network namespace of `pid`; this process is in its own again after."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(libc, there)
            try:
                return _redirected()
            finally:
                _enter(libc, own)
        finally:
            os.close(there)
    finally:
        os.close(own)


def _redirected() -> tuple[socket.socket, socket.socket]:
    """Listeners that port 53 leads to; on port 53 itself where the kernel cannot translate."""
    listeners = _bound(socket.SOCK_DGRAM, 0), _bound(socket.SOCK_STREAM, 0)
    ports = [listener.getsockname()[1] for listener in listeners]
    try:
        redirect(ADDRESS, PORT, dict(zip((socket.IPPROTO_UDP, socket.IPPROTO_TCP), ports, strict=True)))
    except OSError:
        for listener in listeners:
            listener.close()
        return _bound(socket.SOCK_DGRAM, PORT), _bound(socket.SOCK_STREAM, PORT)
    return listeners


def _enter(libc: ctypes.CDLL, netns: int) -> None:
    if libc.setns(netns, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _bound(kind: int, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((ADDRESS, port))
        if kind == socket.SOCK_STREAM:
            listener.listen(16)
    except OSError:
        listener.close()
        raise
    return listener


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _address_of(name: str) -> str:
    """The address that a name of the reverse zones stands for (RFC 1035, 3596), empty for nonsense."""
    parts = name.removesuffix(_REVERSE).removesuffix(_REVERSE6).split(".")[::-1]
    if name.endswith(_REVERSE):
        return ".".join(parts)
    try:
        return socket.inet_ntop(socket.AF_INET6, bytes.fromhex("".join(parts)))
    except ValueError:
        return ""


def _hosts(network: Mapping[str, object]) -> Iterable[tuple[list[str], str]]:
    hosts = network.get("hosts")
    for host in hosts if isinstance(hosts, list) else ():
        names = [str(name).lower() for name in host.get("names", ())]
        yield from ((names, str(host[key])) for key in ("address", "address6") if host.get(key))


def _scope(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else socket.if_nametoindex(name)
    except OSError:
        return 0
