"""Ports that a shim carries over by hand: real sockets, clients and servers of all manners."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from bulkhead.errors import Unavailable
from bulkhead.shim import relay
from bulkhead.shim.loop import Loop
from bulkhead.shim.relay import Relays, Way
from tests.support.ports import PORTS

PATIENCE = 20.0
MUCH = os.urandom(3 << 20)


class Carried:
    """Relays whose loop turns in a thread of its own; what is done to them is done there."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.loop = Loop(lambda _, error: self.failures.append(error))
        self.loop.open()
        self.relays = Relays(self.loop)
        read, self._wake = os.pipe()
        self._asked: list[tuple[Callable[[], object], threading.Event]] = []
        self.loop.add(read, 1, lambda _: self._work(read))
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def do(self, work: Callable[[], object]) -> None:
        """Raises what it raises."""
        raised: list[BaseException] = []

        def kept() -> None:
            try:
                work()
            except Exception as error:
                raised.append(error)

        done = threading.Event()
        self._asked.append((kept, done))
        os.write(self._wake, b"x")
        assert done.wait(PATIENCE)
        if raised:
            raise raised[0]

    def serve(self, *ways: Way) -> None:
        self.do(lambda: self.relays.serve(ways))

    def end(self) -> None:
        self.do(self.relays.close)
        self.do(self.loop.stop)
        self._thread.join(PATIENCE)

    def _work(self, read: int) -> None:
        os.read(read, 1)
        work, done = self._asked.pop(0)
        work()
        done.set()


@pytest.fixture
def carried() -> Iterator[Carried]:
    made = Carried()
    yield made
    made.end()
    assert not made.failures


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """The container's: on IPv4, as one without IPv6 has it."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(PATIENCE)
        yield made


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """One that nobody has at [::1]."""
    while True:
        port = random.choice(PORTS)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6, kind) as found:
            found.bind(("::1", port))
            return port


def way_to(server: socket.socket, protocol: str = "tcp") -> Way:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    return Way(protocol, "::1", free_port(kind), "127.0.0.1", server.getsockname()[1])


def dial(way: Way) -> socket.socket:
    return socket.create_connection((way.host, way.host_port), timeout=PATIENCE)


def say(sock: socket.socket, what: bytes) -> None:
    sock.sendall(what)
    sock.shutdown(socket.SHUT_WR)


def everything(sock: socket.socket) -> bytes:
    with sock.makefile("rb") as file:
        return file.read()


def test_both_directions_and_each_ones_end(carried: Carried, server: socket.socket) -> None:
    way = way_to(server)
    carried.serve(way)
    with dial(way) as client, server.accept()[0] as peer:
        peer.settimeout(PATIENCE)
        sending = threading.Thread(target=say, args=(client, MUCH))
        sending.start()
        assert everything(peer) == MUCH
        sending.join()
        # It has said all, and hears on.
        sending = threading.Thread(target=say, args=(peer, MUCH[::-1]))
        sending.start()
        assert everything(client) == MUCH[::-1]
        sending.join()


def test_who_reads_nothing_holds_up_himself_alone(carried: Carried, server: socket.socket) -> None:
    way = way_to(server)
    carried.serve(way)
    with dial(way) as slow, server.accept()[0] as stuck, dial(way) as client, server.accept()[0] as peer:
        slow.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                slow.send(MUCH)
        client.sendall(b"here")
        assert peer.recv(4) == b"here"
        stuck.close()


def test_a_broken_end_is_told_to_the_other(carried: Carried, server: socket.socket) -> None:
    way = way_to(server)
    carried.serve(way)
    with dial(way) as client, server.accept()[0] as peer:
        client.sendall(b"x")
        assert peer.recv(1) == b"x"
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_nobody_listens_in_the_container(carried: Carried, server: socket.socket) -> None:
    way = way_to(server)
    server.close()
    carried.serve(way)
    with contextlib.suppress(ConnectionResetError), dial(way) as client:
        assert client.recv(1) == b""


def test_who_comes_when_all_are_taken_waits(
    carried: Carried, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOST_CONNECTIONS", 2)
    way, other = way_to(server), way_to(server)
    carried.serve(way, other)
    with contextlib.ExitStack() as stack:
        taken = [(stack.enter_context(dial(way)), stack.enter_context(server.accept()[0])) for _ in range(2)]
        waiting = stack.enter_context(dial(other))
        waiting.sendall(b"late")
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
        server.settimeout(PATIENCE)
        for end in taken[0]:
            end.close()
        peer = stack.enter_context(server.accept()[0])
        peer.settimeout(PATIENCE)
        assert peer.recv(4) == b"late"


def test_only_what_was_told_last_is_carried(carried: Carried, server: socket.socket) -> None:
    stays, goes = way_to(server), way_to(server)
    carried.serve(stays, goes)
    with dial(stays) as client, server.accept()[0] as peer, dial(goes) as cut, server.accept()[0]:
        carried.serve(stays)
        with pytest.raises(ConnectionResetError):
            cut.recv(1)
        client.sendall(b"x")
        assert peer.recv(1) == b"x"
    with pytest.raises(ConnectionRefusedError):
        dial(goes)
    carried.serve(stays, goes)
    dial(goes).close()


def test_a_port_that_is_taken(carried: Carried, server: socket.socket) -> None:
    free, way = way_to(server), way_to(server)
    with socket.create_server((way.host, way.host_port), family=socket.AF_INET6):
        text = rf"failed to bind host port for \[::1\]:{way.host_port}/tcp: [Aa]ddress already in use"
        with pytest.raises(Unavailable, match=text):
            carried.serve(free, way)
    with pytest.raises(ConnectionRefusedError):
        dial(free)
    carried.serve(free, way)


def test_datagrams_find_their_way_back(carried: Carried, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MOST_FLOWS", 2)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE)
        way = way_to(server, "udp")
        carried.serve(way)
        clients = []
        for number in range(3):  # the first one's flow makes room for the third's
            client = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            client.settimeout(PATIENCE)
            client.connect((way.host, way.host_port))
            client.send(b"%d" % number)
            got, sender = server.recvfrom(100)
            server.sendto(got + b"!", sender)
            assert client.recv(100) == b"%d!" % number
            clients.append((client, sender))
        for client, before in (clients[2], clients[0]):
            client.send(b"again")
            got, sender = server.recvfrom(100)
            assert (got, sender == before) == (b"again", client is clients[2][0])
            server.sendto(b"well", sender)
            assert client.recv(100) == b"well"


def test_silent_flows_are_forgotten(carried: Carried, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "FLOW_SECONDS", 0.05)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE)
        way = way_to(server, "udp")
        carried.serve(way)
        client.connect((way.host, way.host_port))
        senders = set()
        client.send(b"x")
        senders.add(server.recvfrom(9)[1])
        swept = threading.Event()
        carried.do(lambda: carried.loop.later(0.3, swept.set))
        assert swept.wait(PATIENCE)
        client.send(b"x")
        senders.add(server.recvfrom(9)[1])
        assert len(senders) == 2
