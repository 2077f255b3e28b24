"""M09: what a client sends behind a request that takes the connection over belongs to the stream alone."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.security.api.wire import connected, containers, create, exchange, statuses, until
from tests.support.engine import Engine

HIDDEN = create({"Image": "busybox"})
UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"


@pytest.fixture
def cat(engine: Engine) -> Iterator[str]:
    """A container that repeats what it is told."""
    host = {"NetworkMode": "none"}
    body = {"Image": "busybox", "Cmd": ["cat"], "OpenStdin": True, "HostConfig": host}
    container: str = engine.api("POST", "/containers/create", body).json["Id"]
    assert engine.api("POST", f"/containers/{container}/start").status == 204
    yield container
    engine.remove_containers()


def attach(path: str, lines: str = UPGRADE, body: str = "") -> bytes:
    query = "stream=1&stdin=1&stdout=1"
    return f"POST {path}?{query} HTTP/1.1\r\nHost: docker\r\n{lines}\r\n{body}".encode()


WAYS = {
    "upgrade": ("/containers/{}/attach", UPGRADE),
    "no-upgrade": ("/containers/{}/attach", ""),
    "versioned": ("/v1.41/containers/{}/attach", UPGRADE),
    "absolute": ("http://docker/containers/{}/attach", UPGRADE),
    "escaped": ("/containers/{}/att%61ch", UPGRADE),
    "escaped-no-upgrade": ("/containers/{}/att%61ch", ""),
}


@pytest.mark.parametrize(("path", "lines"), WAYS.values(), ids=WAYS)
def test_a_request_behind_attach_is_input(engine: Engine, cat: str, path: str, lines: str) -> None:
    """Not done, and not dropped: the process repeats it."""
    with connected(engine) as client:
        client.sendall(attach(path.format(cat), lines) + HIDDEN + b"the end\n")
        said = until(client, b"the end\n")
    assert len(statuses(said)) == 1 and statuses(said)[0] in (101, 200)
    assert b"POST /containers/create" in said
    assert containers(engine) == [cat]


@pytest.mark.parametrize("path", ["/containers/nobody/st%61rt", "http://docker/containers/nobody/start"])
def test_a_request_behind_one_that_takes_nothing_over_is_done(engine: Engine, path: str) -> None:
    """The control: what was held back for a stream goes on as the next request."""
    first = f"POST {path} HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n\r\n".encode()
    assert statuses(exchange(engine, first + HIDDEN)) == [404, 201]
    engine.remove_containers()


def test_a_request_behind_exec_start_is_not_done(engine: Engine, cat: str) -> None:
    config = {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True}
    made = engine.api("POST", f"/containers/{cat}/exec", config).json["Id"]
    start = create({"Detach": False}, target=f"/exec/{made}/start").replace(b"Connection: close\r\n", UPGRADE.encode())
    with connected(engine) as client:
        client.sendall(start + HIDDEN + b"the end\n")
        said = until(client, b"the end\n")
        assert statuses(said) == [101] and b"POST /containers/create" in said
    assert containers(engine) == [cat]


def test_a_connection_that_was_taken_over_serves_no_further_request(engine: Engine, cat: str) -> None:
    """After the stream's end, too: the engine closes it."""
    ping = b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n"
    with connected(engine) as client:
        client.sendall(attach(f"/containers/{cat}/attach"))
        said = until(client, b"\r\n\r\n")
        assert engine.api("POST", f"/containers/{cat}/kill").status == 204
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(ping)
            while data := client.recv(4096):
                said += data
    assert statuses(said) == [101]


def test_a_session_is_not_there(engine: Engine) -> None:
    """BuildKit's: refused, and the bytes behind it are not done (it is an ordinary request: the control is above)."""
    raw = b"POST /session HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    with connected(engine) as client:
        client.sendall(raw + json.dumps({"x": 1}).encode())
        assert statuses(until(client, b"\r\n\r\n")) == [501]
    assert containers(engine) == []


TWISTED = {
    "two-lengths": "Content-Length: 0\r\nContent-Length: 900\r\n",
    "length-in-a-fold": "X:\r\n content-length: 5\r\n",
    "length-and-chunks": "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    "signed-length": "Content-Length: +0\r\n",
}


@pytest.mark.parametrize("lines", TWISTED.values(), ids=TWISTED)
def test_a_twisted_attach_is_refused_and_closed(engine: Engine, cat: str, lines: str) -> None:
    said = exchange(engine, attach(f"/containers/{cat}/attach", UPGRADE + lines) + HIDDEN)
    assert statuses(said) == [400]
    assert containers(engine) == [cat]
