"""A very small client of the Engine API on `docker.sock`, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bulkhead.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer; `json` is None when the body is not JSON."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None


def call(docker_socket: Path, method: str, path: str, body: Any = None, *, seconds: float = 60) -> Answer:
    """One request, e.g. `call(sock, "POST", "/containers/create?name=x", {...})`; bodies are sent as JSON.

    Raises Unavailable when nothing answers on the socket.
    """
    connection = _UnixConnection(docker_socket, seconds)
    headers = {} if body is None else {"Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"cannot reach the engine at {docker_socket}: {error}") from error
    finally:
        connection.close()


def unframe(body: bytes) -> bytes:
    """The payloads of Docker's stream frames (a header of eight bytes: stream, 0, 0, 0, length) in a row."""
    payloads, at = [], 0
    while at + 8 <= len(body):
        length = int.from_bytes(body[at + 4 : at + 8], "big")
        payloads.append(body[at + 8 : at + 8 + length])
        at += 8 + length
    return b"".join(payloads)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
