"""DNS at 127.0.0.11 in a real network namespace, with servers beyond it that help, refuse, lie or say nothing."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bulkhead.linux import netlink
from bulkhead.linux.netlink import Netlink
from bulkhead.linux.netns import in_netns
from bulkhead.shim import names
from bulkhead.shim.loop import Loop
from bulkhead.shim.names import NameServer

pytestmark = pytest.mark.root

# Addresses of this process alone: tests run beside each other.
LOOPBACK = f"127.{64 + (os.getpid() >> 8) % 128}.{os.getpid() % 256}"

A, PTR, TXT, AAAA, OPT = 1, 12, 16, 28, 41
PATIENCE = 20.0
GOOD, SILENT, BROKEN, ABSENT = (f"{LOOPBACK}.{last}" for last in range(101, 105))
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NO_NAME, NOT_IMPLEMENTED, REFUSED = range(6)


def ask(name: str, kind: int = A, *, payload: int = 0, cookie: bytes = b"", family: int = 1) -> bytes:
    options = struct.pack("!HH", 10, len(cookie)) + cookie if cookie else b""
    opt = struct.pack("!BHHIH", 0, OPT, payload, 0, len(options)) + options if payload else b""
    head = struct.pack("!HHHHHH", 0x4711, 0x0100, 1, 0, 0, bool(payload))
    return head + names.encode_name(name) + struct.pack("!HH", kind, family) + opt


class Reply:
    """What came back."""

    def __init__(self, packet: bytes) -> None:
        self.number, self.flags, _, self.answers, _, self.additional = struct.unpack_from("!HHHHHH", packet)
        self.packet = packet

    @property
    def code(self) -> int:
        return int(self.flags) & 0xF

    @property
    def truncated(self) -> bool:
        return bool(self.flags & 0x0200)

    def addresses(self) -> list[str]:
        """Those of an answer of A records."""
        end = names.parse(b"\0\0\1\0" + self.packet[4:])
        assert end is not None
        records = [self.packet[at : at + 16] for at in range(end[2], end[2] + 16 * self.answers, 16)]
        return sorted(socket.inet_ntoa(record[12:]) for record in records)


class World:
    """Servers on the host's loopback: `zone` answers by name, `heard` is what they were asked."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str]] = []
        self._ends: list[Callable[[], None]] = []

    def serve(self, address: str, answer: Callable[[bytes, str], bytes | None], protocols: str = "udp tcp") -> None:
        for protocol in protocols.split():
            kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
            server = socket.socket(socket.AF_INET, kind)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((address, 53))
            work = self._datagrams if protocol == "udp" else self._streams
            thread = threading.Thread(target=work, args=(server, address, answer), daemon=True)
            if protocol == "tcp":
                server.listen()
            thread.start()
            self._ends.append(lambda server=server, thread=thread: _end(server, thread))  # type: ignore[misc]

    def close(self) -> None:
        for end in self._ends:
            end()

    def _datagrams(self, server: socket.socket, address: str, answer: Callable[[bytes, str], bytes | None]) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, client = server.recvfrom(4096)
                if not query:
                    return
                self._note(query, address, "udp")
                reply = answer(query, "udp")
                if reply is not None:
                    server.sendto(reply, client)

    def _streams(self, server: socket.socket, address: str, answer: Callable[[bytes, str], bytes | None]) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                with client:
                    query = client.recv(4096)[2:]
                    self._note(query, address, "tcp")
                    reply = answer(query, "tcp")
                    # In two pieces, as large answers come.
                    whole = b"" if reply is None else struct.pack("!H", len(reply)) + reply
                    client.sendall(whole[:7])
                    client.sendall(whole[7:])

    def _note(self, query: bytes, address: str, protocol: str) -> None:
        parsed = names.parse(query)
        self.heard.append((parsed[0] if parsed else "", address, protocol))


def _end(server: socket.socket, thread: threading.Thread) -> None:
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
        waker.sendto(b"", server.getsockname())
    thread.join(PATIENCE)
    server.close()


def good(query: bytes, protocol: str) -> bytes | None:
    """A helpful server: one address, none, many, more than UDP carries, a refusal, an answer to another question."""
    name, _, end = names.parse(query) or ("", 0, 12)
    asked = query[:end]
    few, many = [(A, bytes((192, 0, 2, 1)))], [(A, bytes((192, 0, 2, number))) for number in range(100)]
    if name.startswith("large"):
        reply = names.reply(asked, many)
        return reply if protocol == "tcp" else names.reply(asked, [])[:2] + b"\x83\x80" + names.reply(asked, [])[4:]
    if name.startswith("huge"):
        return names.reply(asked, many * 40)
    if name.startswith("lie"):
        return names.reply(asked[:2] + ask("other")[2:], few)
    if name.startswith("no"):
        return asked[:2] + b"\x81\x83" + asked[4:10] + b"\0\0" + asked[12:]
    return names.reply(asked, few)


def broken(query: bytes, _protocol: str) -> bytes | None:
    return query[:2] + b"\x81\x82" + query[4:]


class Container:
    """A namespace whose names a server of ours answers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._loop = Loop(self._failed)
        self._loop.open()
        self._process = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec cat"], stdin=-1, stdout=-1)
        assert self._process.stdout is not None and self._process.stdout.read(1)
        self.netns = os.open(f"/proc/{self._process.pid}/ns/net", os.O_RDONLY)
        in_netns(self.netns, _loopback_up)
        self.server = NameServer(self._loop, self._failed)
        self.failures: list[BaseException] = []
        self._ended = threading.Event()
        self.server.serve(str(directory), "me", self._process.pid)
        self._thread = threading.Thread(target=self._turn)
        self._thread.start()

    def tell(self, *, servers: tuple[str, ...] = (), **more: bool | str) -> None:
        about: dict[str, object] = {"networks": ["net"], "servers": list(servers), "links": {}, **more}
        (self.directory / "next").write_text(json.dumps(about))
        (self.directory / "next").rename(self.directory / "me")

    def udp(self, query: bytes) -> Reply:
        def exchange() -> bytes:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(PATIENCE)
                client.connect((names.ADDRESS, 53))
                client.send(query)
                return client.recv(65535)

        return Reply(in_netns(self.netns, exchange))

    def tcp(self, *queries: bytes) -> list[Reply]:
        def exchange() -> list[bytes]:
            with socket.create_connection((names.ADDRESS, 53), timeout=PATIENCE) as client:
                client.sendall(b"".join(struct.pack("!H", len(query)) + query for query in queries))
                stream = client.makefile("rb")
                return [stream.read(int.from_bytes(stream.read(2))) for _ in queries]

        return [Reply(each) for each in in_netns(self.netns, exchange)]

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self.server.close()
        self._loop.close()
        os.close(self.netns)
        self._process.communicate()
        assert not self.failures

    def _turn(self) -> None:
        while not self._ended.is_set():
            self._loop.turn(0.05)

    def _failed(self, _what: str, error: BaseException) -> None:
        self.failures.append(error)


def _loopback_up() -> None:
    with Netlink() as inside:
        inside.request(netlink.link_up(1))


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    world.serve(GOOD, good)
    world.serve(SILENT, lambda _query, _protocol: None)
    world.serve(BROKEN, broken)
    yield world
    world.close()


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    hosts = [{"container": "a", "names": ["web"], "address": "10.0.0.2"}]
    hosts += [{"container": f"c{n}", "names": ["crowd"], "address": f"10.0.1.{n}"} for n in range(60)]
    hosts += [{"container": "l", "names": ["x" * 70, "long"], "address": "10.0.2.1"}]
    (tmp_path / "net").write_text(json.dumps({"name": "app", "hosts": hosts}))
    made = Container(tmp_path)
    made.tell(servers=(GOOD,))
    yield made
    made.close()


def test_what_does_not_fit_a_datagram_is_cut_and_whole_over_tcp(container: Container) -> None:
    cut = container.udp(ask("crowd"))
    assert cut.truncated and len(cut.packet) <= 512
    assert cut.answers == len(set(cut.addresses())) == (512 - len(ask("crowd"))) // 16, "what fits: musl knows no TCP"
    whole = container.udp(ask("crowd", payload=4096, cookie=b"12345678"))
    assert not whole.truncated and whole.answers == 60 and whole.additional == 1
    assert [reply.answers for reply in container.tcp(ask("crowd"), ask("web"))] == [60, 1]


def test_edns_is_answered_where_it_is_spoken(container: Container) -> None:
    assert container.udp(ask("web", payload=1232)).packet.endswith(b"\0\0\x29\x10\0" + bytes(6))
    assert container.udp(ask("web")).additional == 0


def test_known_names_have_other_types_empty_and_are_never_asked_about(container: Container, world: World) -> None:
    for kind in (AAAA, TXT, 65):
        reply = container.udp(ask("web", kind))
        assert (reply.code, reply.answers) == (NO_ERROR, 0)
    assert not world.heard


def test_what_cannot_be_read_is_told_so_and_an_answer_is_not_answered(container: Container) -> None:
    long_label = ask("web")[:12] + b"\x40" + b"a" * 64 + b"\0\0\1\0\1"
    long_name = ask(".".join(["a" * 60] * 5))
    assert [container.udp(bad).code for bad in (long_label, long_name, ask("web")[:-3])] == [FORMAT_ERROR] * 3
    assert container.udp(ask("version.bind", TXT, family=3)).code == NOT_IMPLEMENTED
    assert container.udp(b"\x12\x34\x10" + ask("web")[3:]).code == NOT_IMPLEMENTED
    with pytest.raises(TimeoutError):
        in_netns(container.netns, lambda: _send_only(ask("web")[:2] + b"\x81" + ask("web")[3:]))


def _send_only(packet: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.3)
        client.sendto(packet, (names.ADDRESS, 53))
        return client.recv(100)


def test_a_container_s_address_has_a_name_that_fits_a_label(container: Container) -> None:
    reply = container.udp(ask("2.0.0.10.in-addr.arpa", PTR))
    assert reply.packet.endswith(names.encode_name("web.app"))
    assert container.udp(ask("1.2.0.10.in-addr.arpa", PTR)).packet.endswith(names.encode_name("long.app"))


def test_others_are_asked_over_what_the_client_spoke(container: Container, world: World) -> None:
    assert container.udp(ask("example.org")).addresses() == ["192.0.2.1"]
    assert container.udp(ask("large.example.org")).truncated
    assert container.tcp(ask("large.example.org"))[0].answers == 100
    assert [(name, how) for name, _, how in world.heard] == [
        ("example.org", "udp"),
        ("large.example.org", "udp"),
        ("large.example.org", "tcp"),
    ]


def test_an_answer_as_large_as_can_be_arrives_whole(container: Container, world: World) -> None:
    (reply,) = container.tcp(ask("huge.example.org"))
    assert reply.answers == 4000
    assert len(reply.packet) > 60_000


def test_names_without_a_dot_are_the_search_domains_where_ndots_is_set(container: Container, world: World) -> None:
    container.tell(servers=(GOOD,), dotless=False)
    reply = container.udp(ask("nosuch"))
    assert (reply.code, reply.answers) == (NO_ERROR, 0) and not world.heard
    assert container.udp(ask("web")).addresses() == ["10.0.0.2"]
    assert container.udp(ask("up.example.org")).addresses() == ["192.0.2.1"]


def test_names_that_are_not_are_remembered_for_a_while(container: Container, world: World) -> None:
    assert [container.udp(ask("nosuch.example.org")).code for _ in range(3)] == [NO_NAME] * 3
    assert len(world.heard) == 1


@pytest.mark.parametrize(
    "first", [SILENT, BROKEN, ABSENT, "192.0.2.255%nosuch"], ids=["silent", "broken", "absent", "nowhere"]
)
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_a_second_server_is_asked_when_the_first_does_not_help(
    container: Container, world: World, first: str, protocol: str
) -> None:
    container.tell(servers=(first, GOOD))
    query = ask("example.org")
    for _ in range(2):
        reply = container.udp(query) if protocol == "udp" else container.tcp(query)[0]
        assert reply.addresses() == ["192.0.2.1"]
    if first == SILENT and protocol == "udp":
        assert [where for _, where, _ in world.heard] == [SILENT, GOOD, GOOD], "the slow one is asked last then"


def test_servers_that_all_fail_are_a_failure_and_a_liar_is_not_believed(container: Container, world: World) -> None:
    container.tell(servers=(BROKEN, ABSENT))
    assert container.udp(ask("example.org")).code == SERVER_FAILURE
    container.tell(servers=(GOOD,))
    assert container.udp(ask("lie.example.org")).code == SERVER_FAILURE
    assert container.tcp(ask("lie.example.org"))[0].code == SERVER_FAILURE


def test_others_are_answered_while_a_server_says_nothing(container: Container, world: World) -> None:
    """A blackhole over TCP must not hold the shim up."""
    container.tell(servers=("203.0.113.1",))

    def both() -> bytes:
        with socket.create_connection((names.ADDRESS, 53), timeout=PATIENCE) as slow:
            query = ask("example.org")
            slow.sendall(struct.pack("!H", len(query)) + query)
            return container.udp(ask("web")).packet

    assert Reply(in_netns(container.netns, both)).addresses() == ["10.0.0.2"]


def test_an_internal_network_s_questions_reach_nobody(container: Container, world: World) -> None:
    """H22."""
    container.tell(servers=(GOOD,), internal=True)
    questions = [ask("example.org"), ask("example.org", AAAA), ask("1.0.0.127.in-addr.arpa", PTR)]
    questions += [ask("example.org", TXT, payload=1232), ask("nosuch")]
    assert {container.udp(question).code for question in questions} == {NO_NAME}
    assert {reply.code for reply in container.tcp(*questions)} == {NO_NAME}
    assert container.udp(ask("web")).addresses() == ["10.0.0.2"]
    assert not world.heard


def test_the_host_s_servers_are_followed_as_they_change(container: Container, world: World, tmp_path: Path) -> None:
    place = tmp_path / "resolv.conf"
    place.write_text(f"# before\nnameserver {BROKEN}\noptions ndots:1\n")
    container.tell(servers=(ABSENT,), follow=str(place))
    assert container.udp(ask("example.org")).code == SERVER_FAILURE
    place.write_text(f"nameserver {GOOD}\n")
    assert container.udp(ask("example.org")).addresses() == ["192.0.2.1"]
    container.tell(servers=(GOOD,), follow=str(tmp_path / "nosuch"))
    assert container.udp(ask("example.net")).addresses() == ["192.0.2.1"]


def test_servers_of_the_user_s_choice_are_asked_from_the_container_s_network(
    container: Container, world: World
) -> None:
    container.tell(servers=(GOOD,), inside=True)
    inner = World()
    try:
        in_netns(container.netns, lambda: inner.serve(GOOD, good))
        assert container.udp(ask("example.org")).addresses() == ["192.0.2.1"]
        assert container.tcp(ask("example.org"))[0].addresses() == ["192.0.2.1"]
        assert not world.heard and len(inner.heard) == 2
    finally:
        in_netns(container.netns, inner.close)
