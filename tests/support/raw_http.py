"""HTTP by hand over a Unix socket: what was sent is what was written, what came is what arrived."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 20


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        assert self.body.endswith(b"\n")
        text: str = self.json["message"]
        return text


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: str | bytes) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(SECONDS):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status_line, *lines = text.split("\r\n")
        pairs = (line.split(": ", 1) for line in lines if line)
        return int(status_line.split(" ")[1]), {name.lower(): value for name, value in pairs}

    async def reply(self, *, bodyless: bool = False) -> Reply:
        """A whole answer with Content-Length or in chunks."""
        status, headers = await self.head()
        async with asyncio.timeout(SECONDS):
            if bodyless or status in (204, 304):
                return Reply(status, headers, b"")
            if headers.get("transfer-encoding") == "chunked":
                return Reply(status, headers, b"".join([chunk async for chunk in self.chunks()]))
            return Reply(status, headers, await self.reader.readexactly(int(headers["content-length"])))

    async def chunk(self) -> bytes:
        """The next chunk; empty at the end of the body."""
        async with asyncio.timeout(SECONDS):
            size = int(await self.reader.readline(), 16)
            return (await self.reader.readexactly(size + 2))[:size]

    async def chunks(self) -> AsyncIterator[bytes]:
        while chunk := await self.chunk():
            yield chunk

    async def frame(self) -> tuple[int, bytes]:
        """One stdcopy frame of a hijacked stream."""
        async with asyncio.timeout(SECONDS):
            stream, size = struct.unpack(">BxxxL", await self.reader.readexactly(8))
            return stream, await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(SECONDS):
            return await self.reader.read()


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def request(method: str, path: str, body: Any = None, **headers: str) -> bytes:
    """A request as bytes; `body` is sent as JSON unless it is bytes."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": "docker", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body is not None:
        fields.setdefault("Content-Type", "application/json")
        fields["Content-Length"] = str(len(data))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + data


async def call(path: Path, method: str, target: str, body: Any = None, **headers: str) -> Reply:
    """One request on a connection of its own."""
    async with connected(path) as wire:
        wire.send(request(method, target, body, **headers))
        return await wire.reply(bodyless=method == "HEAD")
