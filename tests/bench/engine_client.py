"""A client of the Engine API that adds as little as it can to what is measured: one kept-alive connection."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from pathlib import Path
from typing import Any


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(str(self._path))


class EngineClient:
    """Blocking calls over one connection to the Unix socket `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = _UnixConnection(path)

    def call(self, method: str, route: str, body: Any = None, *, login: str = "") -> tuple[int, bytes]:
        """Status and whole body of one request; `login` is what X-Registry-Auth says."""
        payload = json.dumps(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if payload else {}
        if login:
            headers["X-Registry-Auth"] = login
        self._connection.request(method, f"/v1.41{route}", payload, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def json(self, method: str, route: str, body: Any = None) -> Any:
        """Parsed body of a request that must succeed."""
        status, data = self.call(method, route, body)
        if status >= 300 and status != 304:
            raise RuntimeError(f"{method} {route}: {status} {data[:300]!r}")
        return json.loads(data) if data.strip() else None

    def create(self, image: str, command: list[str], **host_config: Any) -> str:
        body = {"Image": image, "Cmd": command, "HostConfig": host_config}
        created: dict[str, str] = self.json("POST", "/containers/create", body)
        return created["Id"]

    def start(self, container: str) -> None:
        self.json("POST", f"/containers/{container}/start")

    def wait(self, container: str) -> int:
        code: int = self.json("POST", f"/containers/{container}/wait")["StatusCode"]
        return code

    def remove(self, container: str) -> None:
        self.json("DELETE", f"/containers/{container}?force=1")

    def exec(self, container: str, command: list[str]) -> bytes:
        """Output of an attached exec; returns when the process has ended and its exit code was read."""
        body = {"AttachStdout": True, "AttachStderr": True, "Cmd": command}
        created = self.json("POST", f"/containers/{container}/exec", body)["Id"]
        output = self._hijack(f"/exec/{created}/start", {"Detach": False, "Tty": False})
        if self.json("GET", f"/exec/{created}/json")["ExitCode"] != 0:
            raise RuntimeError(f"exec {command} failed: {output!r}")
        return output

    def _hijack(self, route: str, body: Any) -> bytes:
        payload = json.dumps(body).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
            raw.connect(str(self.path))
            raw.sendall(
                f"POST /v1.41{route} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n".encode()
                + payload
            )
            received = b"".join(iter(lambda: raw.recv(65536), b""))
        return _unframe(received.partition(b"\r\n\r\n")[2])


def _unframe(stream: bytes) -> bytes:
    """Payloads of Docker's stdcopy frames, in order."""
    pieces = []
    position = 0
    while position + 8 <= len(stream):
        size = struct.unpack_from(">I", stream, position + 4)[0]
        pieces.append(stream[position + 8 : position + 8 + size])
        position += 8 + size
    return b"".join(pieces)
