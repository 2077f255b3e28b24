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
from typing import TypeVar

from bulkhead.errors import Unavailable
from bulkhead.shim.loop import Loop
from bulkhead.shim.redirect import redirect
from bulkhead.shim.upstream import Servers, Upstream

T = TypeVar("T")

ADDRESS, PORT = "127.0.0.11", 53
TTL = 600
_A, _PTR, _AAAA, _OPT, _ANY = 1, 12, 28, 41, 255
_REVERSE, _REVERSE6 = ".in-addr.arpa", ".ip6.arpa"
_IN = 1
_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")
_ANSWER = struct.Struct("!HHIH")
_RECORD = struct.Struct("!BHHIH")  # of the root: name, type, class, TTL, length
_RESPONSE, _TRUNCATED, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0200, 0x0100, 0x0080
_FORMAT_ERROR, _SERVER_FAILURE, _NO_NAME, _NOT_IMPLEMENTED = 1, 2, 3, 4
_NAME_AT_QUESTION = b"\xc0\x0c"
_LARGEST_UDP, _LARGEST = 4096, 65535
_PLAIN_UDP = 512
_CLONE_NEWNET = 0x40000000
_LONGEST_NAME, _LONGEST_LABEL = 255, 63
_LARGEST_FILE = 1 << 24
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
        if about.get("internal"):
            return []
        # The host may have moved to another network since the container was started.
        followed = self._nameservers(str(about["follow"])) if about.get("follow") else []
        return followed or _texts(about.get("servers"))

    @property
    def asks_from_inside(self) -> bool:
        """Whether the servers are the user's choice, to be asked from the container's network."""
        return bool(self._file(self._container).get("inside"))

    @property
    def asks_of_dotless(self) -> bool:
        """Whether others are asked about names without a dot."""
        return bool(self._file(self._container).get("dotless", True))

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
                if its == address:
                    fits = (name for name in names if all(len(label) <= _LONGEST_LABEL for label in name.split(".")))
                    name = next(fits, None)
                    return None if name is None else f"{name}.{network.get('name', '')}"
        return None

    def _networks(self, about: Mapping[str, object]) -> Iterable[dict[str, object]]:
        return [self._file(network) for network in _texts(about.get("networks"))]

    def _file(self, name: str) -> dict[str, object]:
        return self._parsed(f"{self._directory}/{name}", json.loads)

    def _nameservers(self, path: str) -> list[str]:
        """Those that a resolv.conf(5) names now."""
        return _texts(self._parsed(path, _resolv_conf).get("servers"))

    def _parsed(self, path: str, parse: Callable[[bytes], object]) -> dict[str, object]:
        """What a file says, read again when it was replaced; nothing when it is missing or broken."""
        try:
            found = os.stat(path)  # noqa: PTH116 (pathlib costs a forked process a quarter of a megabyte)
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            known = self._read.get(path)
            if known is None or known[0] != mark:
                with open(path, "rb") as file:  # noqa: PTH123
                    content = parse(file.read(_LARGEST_FILE))
                known = (mark, content if isinstance(content, dict) else {})
                self._read[path] = known
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
        self._servers = Servers()
        self._netns = -1

    def serve(self, directory: str, container: str, pid: int) -> None:
        """Answer in the network namespace of `pid` from the files in `directory`. Raises Unavailable."""
        self._zone = Zone(directory, container)
        if self._udp is not None:
            return
        try:
            self._netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            self._udp, self._tcp = _in_netns(self._netns, _redirected)
        except OSError as error:
            self.close()
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
        if self._netns >= 0:
            os.close(self._netns)
            self._netns = -1

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
        assert self._zone is not None
        question = parse(query)
        if question is None:
            refusal = _unanswerable(query)
            if refusal is not None:
                answer(refusal)
            return
        name, kind, end = question
        known = self._known(query[:end], name, kind)
        if known is not None:
            answer(known if _payload(query) is None else _with_edns(known))
            return
        if "." not in name and not self._zone.asks_of_dotless:
            answer(reply(query[:end], []))
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

        opener = self._open_inside if self._zone.asks_from_inside else socket.socket
        Upstream(self._loop, opener, self._servers, servers, query, end, done, tcp=tcp)

    def _open_inside(self, family: int, kind: int) -> socket.socket:
        """A socket in the container's network namespace: servers that its user named are asked as it would itself."""
        return _in_netns(self._netns, lambda: socket.socket(family, kind))

    def _remember(self, key: bytes, reply: bytes) -> None:
        if len(self._negative) >= _REMEMBERED:
            self._negative.clear()
        self._negative[key] = (time.monotonic() + _NEGATIVE_SECONDS, reply)


class _Stream:
    """A client over TCP: queries with two bytes of length before each, answered as answers come (RFC 7766)."""

    def __init__(
        self,
        loop: Loop,
        client: socket.socket,
        handle: Callable[..., None],
        left: Callable[[], None],
    ) -> None:
        self._loop, self._client, self._handle, self._left = loop, client, handle, left
        self._got, self._unsent = bytearray(), bytearray()
        client.setblocking(False)
        loop.add(client.fileno(), select.EPOLLIN, self._ready)
        self._timer = loop.later(_TCP_IDLE, self._close)

    def _ready(self, events: int) -> None:
        if self._client.fileno() < 0:
            return
        try:
            if events & select.EPOLLOUT:
                self._send()
            if events & ~select.EPOLLOUT:
                self._receive()
        except BlockingIOError:
            return
        except OSError:
            self._close()

    def _receive(self) -> None:
        piece = self._client.recv(_LARGEST)
        if not piece:
            self._close()
            return
        self._renew()
        self._got += piece
        while len(self._got) >= 2 and len(self._got) >= 2 + (length := self._got[0] << 8 | self._got[1]):
            query = bytes(self._got[2 : 2 + length])
            del self._got[: 2 + length]
            self._handle(query, self._answer, tcp=True)

    def _answer(self, reply: bytes) -> None:
        if self._client.fileno() < 0:
            return
        self._unsent += struct.pack("!H", len(reply)) + reply
        self._ready(select.EPOLLOUT)

    def _send(self) -> None:
        del self._unsent[: self._client.send(self._unsent)]
        # Who asks and does not read is read from no more: what waits for it stays bounded.
        self._loop.change(self._client.fileno(), select.EPOLLOUT if self._unsent else select.EPOLLIN)

    def _renew(self) -> None:
        self._timer.cancel()
        self._timer = self._loop.later(_TCP_IDLE, self._close)

    def _close(self) -> None:
        if self._client.fileno() >= 0:
            self._timer.cancel()
            self._loop.remove(self._client.fileno())
            self._client.close()
            self._left()


def parse(query: bytes) -> tuple[str, int, int] | None:
    """Name in lower case, type, end of the question; None for what is no plain query of one question."""
    if len(query) < _HEADER.size:
        return None
    _, flags, questions, *_ = _HEADER.unpack_from(query)
    if flags & _RESPONSE or flags >> 11 & 0xF or questions != 1:
        return None
    labels, at = [], _HEADER.size
    while at < len(query) and (length := query[at]):
        if length > _LONGEST_LABEL or at + 1 + length > len(query) or at + 1 + length - _HEADER.size >= _LONGEST_NAME:
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


def _unanswerable(query: bytes) -> bytes | None:
    """The answer to what is no question that we know; None to what is no query, lest two servers talk for ever."""
    if len(query) < _HEADER.size or query[2] & _RESPONSE >> 8:
        return None
    # Another operation, or another class than the Internet's; else it could not be read.
    other = query[2] & 0x78 or (query[-4:-2] != b"\0\1" and query.endswith((b"\0\3", b"\0\4")))
    return _refusal(query[: _HEADER.size], _NOT_IMPLEMENTED if other else _FORMAT_ERROR)


def _fitted(reply: bytes, query: bytes) -> bytes:
    """Cut to what the client can take over UDP; the mark of truncation makes it ask again over TCP.

    As many answers as fit are left: not every client knows TCP.
    """
    most = _payload(query) or _PLAIN_UDP
    if len(reply) <= most:
        return reply
    number, flags, questions, answers, *_ = _HEADER.unpack_from(reply)
    question = parse(bytes((*query[:2], query[2] & 0x79)) + query[3:])
    end, kept = question[2] if question else _HEADER.size, 0
    while question and kept < answers and (after := _record_end(reply, end)) is not None and after <= most:
        end, kept = after, kept + 1
    return _HEADER.pack(number, flags | _TRUNCATED, questions, kept, 0, 0) + reply[_HEADER.size : end]


def _record_end(packet: bytes, at: int) -> int | None:
    """Where a record ends, None where it does not end inside the packet."""
    while at < len(packet) and 0 < packet[at] <= _LONGEST_LABEL:
        at += 1 + packet[at]
    at += 2 if at < len(packet) and packet[at] > _LONGEST_LABEL else 1  # a pointer ends a name, too
    after = at + 10 + int.from_bytes(packet[at + 8 : at + 10])
    return after if after <= len(packet) else None


def _payload(query: bytes) -> int | None:
    """The size of UDP answers that the client takes, by EDNS0 (RFC 6891); None without that."""
    question = parse(query)
    if question is None or query[6:10] != b"\0\0\0\0":
        return None
    at = question[2]
    for _ in range(int.from_bytes(query[10:12])):
        # OPT belongs to the root, and anything before it would, too (TSIG comes last).
        if at + _RECORD.size > len(query):
            return None
        root, kind, size, _, length = _RECORD.unpack_from(query, at)
        if root == 0 and kind == _OPT:
            return max(int(size), _PLAIN_UDP)
        at += _RECORD.size + int(length)
    return None


def _with_edns(reply: bytes) -> bytes:
    """An answer that says that we know EDNS0, too."""
    return reply[:10] + b"\0\1" + reply[12:] + _RECORD.pack(0, _OPT, _LARGEST_UDP, 0, 0)


def _in_netns(netns: int, body: Callable[[], T]) -> T:
    """What `body` returns inside a network namespace; this process is in its own again after."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(libc, netns)
        try:
            return body()
        finally:
            _enter(libc, own)
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


def _resolv_conf(content: bytes) -> dict[str, object]:
    words = (line.split() for line in content.decode("latin-1").splitlines())
    return {"servers": [each[1] for each in words if len(each) > 1 and each[0] == "nameserver"]}


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
