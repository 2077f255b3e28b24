"""Lines to other machines: a receiver that is slow or gone must never be the reason why a container stands still."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import Internal
from bulkhead.model.losses import Loss, Lost
from bulkhead.shim.loop import Loop
from bulkhead.shim.shipping import Shipped, sender
from bulkhead.shim.sinks import LogSink, NoLog

PLACE: dict[str, Any] = {
    "kind": "syslog",
    "transport": "udp",
    "host": "127.0.0.1",
    "port": 0,
    "path": "",
    "facility": 3,
    "format": "rfc5424",
    "tag": "tag",
    "hostname": "host",
    "ca": "",
    "certificate": "",
    "key": "",
    "unverified": False,
}


def unexpected(event: str, error: BaseException) -> None:
    raise AssertionError(event) from error


def shipped(limit: int = 1 << 20, cache: LogSink | None = None, **destination: Any) -> tuple[Shipped, Loop]:
    loop = Loop(unexpected)
    loop.open()
    return Shipped(sender(json.dumps(destination).encode()), cache or NoLog(), loop, limit), loop


class Broken(NoLog):
    """A cache whose disk has refused three lines."""

    def unlogged(self) -> Loss:
        return Loss(what=Lost.LOG.value, since=1, until=2, lines=3)


def test_lines_that_its_cache_lacks_are_stated() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        log, _ = shipped(cache=Broken(), **{**PLACE, "port": server.getsockname()[1]})
        assert log.unlogged() == Loss(what="log", since=1, until=2, lines=3)
        log.close()


def test_rfc5424_by_udp() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        log, _ = shipped(**{**PLACE, "port": server.getsockname()[1]})
        log.write(1, b"one\ntw")
        log.write(1, b"o\n\nrest")
        log.write(2, b"bad\n")
        log.end(1)
        received = [server.recv(65536).decode() for _ in range(4)]
        log.close()
    pattern = r"<(\d+)>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ host tag \d+ tag - (.*)\n"
    found = [re.fullmatch(pattern, each) for each in received]
    assert [(int(match[1]), match[2]) for match in found if match] == [
        (30, "one"),
        (30, "two"),
        (27, "bad"),
        (30, "rest"),
    ]


def test_the_older_formats_by_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for name, pattern in (
            ("rfc3164", r"<30>\w{3} [ \d]\d [\d:]{8} host tag\[\d+\]: hi\n"),
            ("", r"<30>.{15} tag\[\d+\]: hi\n"),
        ):
            log, _ = shipped(**{**PLACE, "transport": "tcp", "port": server.getsockname()[1], "format": name})
            peer, _address = server.accept()
            peer.settimeout(10)
            log.write(1, b"hi\n")
            assert re.fullmatch(pattern, peer.recv(65536).decode())
            log.close()
            peer.close()


def test_a_server_that_is_not_there_is_told_at_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Internal, match=f"failed to initialize logging driver: dial tcp 127.0.0.1:{port}: .*refused"):
        shipped(**{**PLACE, "transport": "tcp", "port": port})


def test_a_server_that_reads_nothing_holds_nobody_and_hears_how_much_it_has_missed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        log, loop = shipped(100_000, **{**PLACE, "transport": "tcp", "port": server.getsockname()[1]})
        peer, _ = server.accept()
        for _ in range(2000):
            log.write(1, b"x" * 9_999 + b"\n")
        peer.settimeout(20)
        tail = b""
        while b"lines of log were lost" not in tail:
            tail = tail[-200:] + peer.recv(1 << 20)
        done: list[bool] = []
        log.finish(lambda: done.append(True))
        peer.close()
        while not done:
            loop.turn(1.0)
        log.close()


def test_a_server_that_comes_back_gets_what_waited() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        log, _ = shipped(**{**PLACE, "transport": "tcp", "port": server.getsockname()[1]})
        first, _address = server.accept()
        first.close()
        server.settimeout(10)
        second = None
        while second is None:
            log.write(1, b"again\n")
            server.settimeout(0.1)
            try:
                second, _address = server.accept()
            except TimeoutError:
                continue
        second.settimeout(10)
        assert b"again\n" in second.recv(65536)
        log.close()
        second.close()


def test_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.settimeout(10)
        log, _ = shipped(kind="journald", path=str(path), fields={"CONTAINER_ID": "abc", "LONG": "a\nb"})
        log.write(2, b"hello\n")
        received = server.recv(65536)
        log.close()
    assert received.startswith(b"MESSAGE=hello\nPRIORITY=3\nSYSLOG_TIMESTAMP=")
    assert b"CONTAINER_ID=abc\n" in received
    assert received.endswith(b"LONG\n\x03\0\0\0\0\0\0\0a\nb\n")
