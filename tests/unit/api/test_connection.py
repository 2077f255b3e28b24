"""A connection whose client asks a great deal at once takes turns with all others."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from bulkhead.api.connection import EngineConnection

MANY = 200


class _Engine(web.Server):
    def __call__(self) -> RequestHandler:
        return EngineConnection(self, loop=self._loop, **self._kwargs)


def _asking(path: str, number: int = 1) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: engine\r\n\r\n".encode() * number


async def test_who_asks_much_at_once_takes_turns_with_others(tmp_path: Path) -> None:
    order: list[str] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        order.append(request.path)
        return web.Response(text="x\n")

    engine = _Engine(handle)
    server = await asyncio.get_running_loop().create_unix_server(engine, str(tmp_path / "s"))
    greedy, modest = [await asyncio.open_unix_connection(str(tmp_path / "s")) for _ in range(2)]
    try:
        for reader, writer in (greedy, modest):
            writer.write(_asking("/first"))
            await reader.readuntil(b"x\n")
        greedy[1].write(_asking("/many", MANY))
        modest[1].write(_asking("/one"))
        await modest[0].readuntil(b"x\n")
        for _ in range(MANY):
            await greedy[0].readuntil(b"x\n")
    finally:
        greedy[1].close()
        modest[1].close()
        server.close()
        await engine.shutdown()
    assert order.count("/many") == MANY
    assert order.index("/one") < MANY // 2
