"""The registry put together: storage, endpoints, HTTP server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from aiohttp import web

from bulkhead import telemetry
from bulkhead.content.blocking import Blocking
from bulkhead.errors import BulkheadError, Unavailable
from bulkhead.registry import routes, tls
from bulkhead.registry.adapters.fs_storage import FileStorage
from bulkhead.registry.admission import admission
from bulkhead.registry.blobs import Blobs
from bulkhead.registry.config import Config, configured
from bulkhead.registry.errors import API_VERSION, Code, Refusal, response
from bulkhead.registry.gate import Gate
from bulkhead.registry.manifests import Manifests
from bulkhead.registry.tags import Tags
from bulkhead.registry.uploads import Uploads
from bulkhead.settings import Settings

# Requests under way get this long to end once the service is told to stop.
DRAIN_SECONDS = 30.0
# Handlers that are left then are cancelled, and get this long to clean up.
CLOSE_SECONDS = 2.0
# A refused body is read for so long, so that the client gets to read the refusal.
LINGER_SECONDS = 3.0
# One read of a body: uploads come in pieces of up to this size.
READ_BUFFER = 1 << 20
WORKERS = 8
# nginx's number in logs for a client that went away.
CLIENT_GONE = 499


@asynccontextmanager
async def serve(settings: Settings) -> AsyncIterator[None]:
    """The registry as `bulkhead.service` runs it."""
    async with serving(configured(settings)) as (host, port):
        structlog.get_logger().info("listening", host=host, port=port)
        yield


@asynccontextmanager
async def serving(config: Config) -> AsyncIterator[tuple[str, int]]:
    """Serve until left; yields the address, whose port the kernel may have chosen."""
    storage = FileStorage(config.root)
    blocking = Blocking(WORKERS)
    storage.open()
    try:
        with admission(config.root, config.access, config.limits, blocking) as admitted:
            table = routes.table(
                Blobs(storage, blocking, deletable=config.delete),
                Uploads(storage, largest=config.limits.blob_bytes),
                Manifests(storage, blocking, deletable=config.delete, largest=config.limits.manifest_bytes),
                Tags(storage),
            )
            async with (
                tls.serving(config.tls) as context,
                _listening(_Edge((*admitted.rows, *table), admitted.gate), config, context) as address,
            ):
                yield address
    finally:
        blocking.close()
        storage.close()


@asynccontextmanager
async def _listening(edge: _Edge, config: Config, context: ssl.SSLContext | None) -> AsyncIterator[tuple[str, int]]:
    runner = _runner(edge)
    await runner.setup()
    try:
        yield await _listen(runner, config, context)
    finally:
        await _drain(runner, edge)


def _runner(edge: _Edge) -> web.ServerRunner:
    server = web.Server(edge.handle, read_bufsize=READ_BUFFER, access_log=None, lingering_time=LINGER_SECONDS)
    return web.ServerRunner(server, shutdown_timeout=CLOSE_SECONDS)


async def _drain(runner: web.ServerRunner, edge: _Edge) -> None:
    """Take no more connections, let requests under way end, close.

    aiohttp's own shutdown throws away what arrives meanwhile, so an upload would wait for its body in vain.
    """
    for site in list(runner.sites):
        await site.stop()
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            await edge.drained()
    except TimeoutError:
        structlog.get_logger().warning("requests cut off", count=edge.active)
    finally:
        await runner.cleanup()


async def _listen(runner: web.ServerRunner, config: Config, context: ssl.SSLContext | None) -> tuple[str, int]:
    site = web.TCPSite(runner, config.host, config.port, backlog=1024, ssl_context=context)
    try:
        await site.start()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Unavailable(f"cannot listen on {config.host}:{config.port}: {reason}") from error
    address = runner.addresses[0]
    return address[0], address[1]


class _Edge:
    """Every request passes here: request id, route, errors to codes, one log line."""

    def __init__(self, table: routes.Routes, gate: Gate) -> None:
        self._table = table
        self._gate = gate
        self._log = structlog.get_logger()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.active = 0

    async def drained(self) -> None:
        """Wait until no request is under way; those that still come get an answer and no further turn."""
        self._draining = True
        await self._idle.wait()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.active += 1
        self._idle.clear()
        try:
            return await self._handle(request)
        finally:
            self.active -= 1
            if not self.active:
                self._idle.set()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        telemetry.bind_request_id(request.headers.get(telemetry.REQUEST_ID_HEADER))
        answer = await self._answer(request)
        if not answer.prepared:
            answer.headers.update(API_VERSION)
            if self._draining:
                answer.force_close()
        if request.method not in ("GET", "HEAD") or answer.status >= 400:
            self._log.info("request", method=request.method, path=request.path, status=answer.status)
        return answer

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            handler, arguments = routes.find(self._table, request.method, request.path)
            return await self._gate.serve(request, handler, arguments)
        except BulkheadError as error:
            return response(error)
        except web.HTTPNotFound:
            return web.Response(status=404, text="404 page not found\n")
        except ConnectionError:
            # Nobody is left to answer: what is returned here goes nowhere.
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=CLIENT_GONE)
        except Exception:
            self._log.exception("request failed", method=request.method, path=request.path)
            return response(Refusal(Code.UNKNOWN))
