"""The operator's commands, over a socket that only the owner of the run directory reaches."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import msgspec
from aiohttp import web

from bulkhead import settings
from bulkhead.errors import BulkheadError, Unavailable
from bulkhead.registry.collection import Collector
from bulkhead.registry.config import ADMIN_SOCKET
from bulkhead.registry.errors import response
from bulkhead.registry.ports import Swept

# A round deletes objects one by one; a large registry's may take long, in seconds.
PATIENCE = 3600.0


@asynccontextmanager
async def listening(path: Path, collector: Collector) -> AsyncIterator[None]:
    """Take `POST /gc` on a Unix socket at `path`. Raises Unavailable."""

    async def collect(request: web.Request) -> web.StreamResponse:
        try:
            return web.Response(body=msgspec.json.encode(asdict(await collector.collect())))
        except BulkheadError as error:
            return response(error)

    app = web.Application()
    app.router.add_post("/gc", collect)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, _bound(path)).start()
        yield
    finally:
        await runner.cleanup()
        with suppress(FileNotFoundError):
            await asyncio.to_thread(path.unlink)


def _bound(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        path.unlink(missing_ok=True)
        # The mode is set before anybody can connect: nothing listens yet.
        listener.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        raise Unavailable(f"cannot listen on {path}: {os.strerror(error.errno or 0).lower()}") from error
    return listener


def collect_now(argv: Sequence[str]) -> int:
    """`bulkhead-registry gc`: have the running registry collect, and say what went; the exit status."""
    parser = ArgumentParser(prog="bulkhead-registry gc", description="Have the running registry collect garbage now.")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file (default /etc/bulkhead/config.toml)")
    options = parser.parse_args(argv)
    try:
        swept = _ask(settings.load(path=options.config).instance.run / ADMIN_SOCKET)
    except BulkheadError as error:
        print(f"bulkhead-registry: {error}", file=sys.stderr)
        return 1
    print(f"removed {swept.manifests} manifests, {swept.links} links, {swept.blobs} blobs, {swept.uploads} uploads")
    print(f"deleted {swept.objects} objects, {swept.bytes} bytes")
    return 0


def _ask(path: Path) -> Swept:
    connection = http.client.HTTPConnection("registry", timeout=PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(str(path))
        connection.request("POST", "/gc")
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise Unavailable(f"cannot collect: {body.decode(errors='replace')[:500]}")
        return msgspec.json.decode(body, type=Swept)
    except OSError as error:
        raise Unavailable(f"cannot reach the registry at {path}: {(error.strerror or str(error)).lower()}") from error
    finally:
        connection.close()
