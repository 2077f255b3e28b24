"""Requests by the byte, on a socket of the engine that nothing tidies up."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.engine import Engine

SECONDS = 20.0
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


@contextlib.contextmanager
def connected(engine: Engine) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        # Without a timeout it waits until there is room in the line.
        client.connect(str(engine.instance.docker_socket))
        client.settimeout(SECONDS)
        yield client


def to_the_end(client: socket.socket) -> bytes:
    """What the engine still says until it closes; a TimeoutError when it does not."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(1 << 16):
            said += data
    return said


def until(client: socket.socket, mark: bytes) -> bytes:
    """What the engine says up to `mark`; an assertion when it closes before."""
    said = b""
    while mark not in said:
        data = client.recv(1 << 16)
        assert data, f"closed after {said!r}"
        said += data
    return said


def exchange(engine: Engine, data: bytes) -> bytes:
    """What is said to `data` until the engine closes the connection of its own accord."""
    with connected(engine) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(data)
        return to_the_end(client)


def statuses(said: bytes) -> list[int]:
    return [int(status) for status in _STATUS.findall(said)]


def create(body: Any, *lines: str, target: str = "/containers/create", length: bool = True) -> bytes:
    """A create request with further lines of its head; `body` is JSON, or bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"POST {target} HTTP/1.1", "Host: docker", "Content-Type: application/json", "Connection: close", *lines]
    if length:
        head.append(f"Content-Length: {len(data)}")
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


def containers(engine: Engine) -> list[str]:
    return [each["Id"] for each in engine.api("GET", "/containers/json?all=1").json]


def descriptors(engine: Engine, service: str = "api") -> int:
    return len(list(Path(f"/proc/{engine.pid(service)}/fd").iterdir()))


def resident(engine: Engine, service: str) -> int:
    """Its memory in MiB."""
    text = Path(f"/proc/{engine.pid(service)}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) >> 10


def settled(holds: Callable[[], bool]) -> bool:
    """Whether `holds()` becomes true in time: for what nobody announces."""
    deadline = time.monotonic() + SECONDS
    while not (true := holds()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return true
