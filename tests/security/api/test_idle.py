"""M08: heads without end, crowds, bursts; others are served. Heads that never end: `integration/api/test_idle`."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.security.api.wire import SECONDS, connected, descriptors, exchange, settled, statuses
from tests.support.engine import Engine

IDLE = 2000
BURST = 1000
PING = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"


TOO_MUCH = {
    "uri": b"GET /_ping?" + b"a" * (2 << 20) + b" HTTP/1.1\r\nHost: docker\r\n\r\n",
    "field": b"GET /_ping HTTP/1.1\r\nHost: docker\r\nX: " + b"a" * (2 << 20) + b"\r\n\r\n",
    "fields": b"GET /_ping HTTP/1.1\r\nHost: docker\r\n" + b"X: a\r\n" * 100_000 + b"\r\n",
    "name-of-a-field": b"GET /_ping HTTP/1.1\r\nHost: docker\r\n" + b"X" * (2 << 20) + b": a\r\n\r\n",
    "long-fields": b"GET /_ping HTTP/1.1\r\nHost: docker\r\n" + (b"X: " + b"a" * 60_000 + b"\r\n") * 40 + b"\r\n",
    "attach": b"POST /containers/x/attach HTTP/1.1\r\nHost: docker\r\n" + b"X: a\r\n" * 100_000 + b"\r\n",
}


@pytest.mark.parametrize("raw", TOO_MUCH.values(), ids=TOO_MUCH)
def test_a_head_without_end_is_refused(engine: Engine, raw: bytes) -> None:
    assert statuses(exchange(engine, raw)) == [431]


def test_a_head_of_a_size_that_clients_send_is_read(engine: Engine) -> None:
    """The control: X-Registry-Config and filters are long."""
    head = b"GET /_ping?" + b"a" * 60_000 + b" HTTP/1.1\r\nHost: docker\r\nConnection: close\r\nX: " + b"a" * 60_000
    assert statuses(exchange(engine, head + b"\r\n\r\n")) == [200]


@pytest.fixture
def crowd(engine: Engine) -> Iterator[list[socket.socket]]:
    """Many clients, each with half a request."""
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (own[1], own[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, own)
        clients = [stack.enter_context(connected(engine)) for _ in range(IDLE)]
        for client in clients:
            client.sendall(PING[:20])
        yield clients


def test_a_crowd_of_idle_clients_keeps_nobody_out(engine: Engine, crowd: list[socket.socket]) -> None:
    assert settled(lambda: descriptors(engine) > IDLE)  # the control: they are all connected
    assert engine.api("GET", "/containers/json", seconds=20).status == 200
    crowd[0].sendall(PING[20:])
    assert crowd[0].recv(100).startswith(b"HTTP/1.1 200 ")
    for client in crowd:
        client.close()
    assert settled(lambda: descriptors(engine) < 100)


def test_a_burst_waits_in_line(engine: Engine) -> None:
    """Go's clients do not wait to connect: a full line is an error to them at once."""
    api = engine.pid("api")
    assert api is not None
    with contextlib.ExitStack() as stack:
        os.kill(api, signal.SIGSTOP)
        try:
            for _ in range(BURST):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(engine.instance.docker_socket))
                client.sendall(PING)
        finally:
            os.kill(api, signal.SIGCONT)
        client.settimeout(SECONDS)
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_more_clients_than_descriptors(engine: Engine) -> None:
    """M10: who does not fit waits or is turned away; afterwards everything is as before, without a restart."""
    container = engine.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "100"]}).json["Id"]
    assert engine.api("POST", f"/containers/{container}/start").status == 204
    api = engine.pid("api")
    assert api is not None
    limits = resource.prlimit(api, resource.RLIMIT_NOFILE, (256, limits_of(api)[1]))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(400):
                client = stack.enter_context(connected(engine))
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # turned away: libuv closes at EMFILE
                    client.sendall(PING[:20])
            assert settled(lambda: descriptors(engine) > 240)
        assert settled(lambda: descriptors(engine) < 100)
        assert engine.api("GET", f"/containers/{container}/json").json["State"]["Running"] is True
        assert engine.pid("api") == api
    finally:
        resource.prlimit(api, resource.RLIMIT_NOFILE, limits)
        engine.remove_containers()
    assert engine.journals.tracebacks() == []


def limits_of(pid: int) -> tuple[int, int]:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)
