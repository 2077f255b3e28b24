"""Clients that come over TCP and have not shown a certificate yet: so many, and for so long."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from bulkhead.api import relay
from bulkhead.api.relay import Relay
from tests.security.api.conftest import Authority

SECONDS = 20


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class Relayed:
    """A relay before an echo, and its clients."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.port, self._context = port, context
        self._open = contextlib.AsyncExitStack()

    async def silent(self) -> asyncio.StreamReader:
        """A client that says nothing."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._open.callback(writer.close)
        return reader

    async def shaken(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """One that showed its certificate."""
        async with asyncio.timeout(SECONDS):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self._context, server_hostname="engine.test"
            )
        self._open.callback(writer.close)
        return reader, writer

    async def close(self) -> None:
        await self._open.aclose()


@asynccontextmanager
async def relayed(base: Path) -> AsyncIterator[Relayed]:
    authority = Authority(base, "ours").make()
    authority.issue("cert")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(base / "ca.pem"))
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(base / "ca.pem"))
    for context in (server, client):
        context.load_cert_chain(base / "cert.pem", base / "cert-key.pem")
    listening = await asyncio.get_running_loop().create_server(Relay(server, Echo), "127.0.0.1", 0)
    made = Relayed(listening.sockets[0].getsockname()[1], client)
    try:
        yield made
    finally:
        await made.close()
        listening.close()


async def ended(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(SECONDS):
        with contextlib.suppress(ConnectionError):
            return await reader.read() == b""
    return True


async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"hello")
    async with asyncio.timeout(SECONDS):
        return await reader.readexactly(5) == b"hello"


async def test_to_one_more_the_oldest_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MOST_HANDSHAKES", 2)
    async with relayed(tmp_path) as service:
        oldest, second = await service.silent(), await service.silent()
        client = await service.shaken()
        assert await ended(oldest) and await echoes(*client)
        third, _ = await service.silent(), await service.silent()
        assert await ended(second), "who is done with the handshake is not counted"
        assert not third.at_eof() and await echoes(*client)


async def test_a_client_that_never_shows_a_certificate_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "HANDSHAKE_SECONDS", 0.1)
    async with relayed(tmp_path) as service:
        assert await ended(await service.silent())
