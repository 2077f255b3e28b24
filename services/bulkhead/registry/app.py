"""The registry put together: storage, endpoints, HTTP server."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import structlog
from aiohttp import web

from bulkhead import telemetry
from bulkhead.content.blocking import Blocking
from bulkhead.errors import BulkheadError, InvalidArgument, Unavailable
from bulkhead.registry import administration, routes, tls
from bulkhead.registry.adapters.file_objects import FileObjects
from bulkhead.registry.adapters.storage import DurableStorage
from bulkhead.registry.admission import admission
from bulkhead.registry.blobs import Blobs
from bulkhead.registry.collection import Collector
from bulkhead.registry.config import Config, configured
from bulkhead.registry.errors import API_VERSION, Code, Refusal, response
from bulkhead.registry.gate import Gate
from bulkhead.registry.manifests import Manifests
from bulkhead.registry.metrics import Metrics
from bulkhead.registry.ports import Objects
from bulkhead.registry.tags import Tags
from bulkhead.registry.uploads import Uploads
from bulkhead.registry.upstreams.assembly import pulling_through
from bulkhead.registry.upstreams.pulls import Pulls
from bulkhead.settings import Settings

# Requests under way get this long to end once the service is told to stop.
DRAIN_SECONDS = 10.0
# Handlers that are left then are cancelled, and get this long to clean up.
CLOSE_SECONDS = 2.0
# A refused body is read for so long, so that the client gets to read the refusal.
LINGER_SECONDS = 3.0
# One read of a body: uploads come in pieces of up to this size.
READ_BUFFER = 1 << 20
WORKERS = 8
# Routes that are asked again and again by machines that watch.
_UNTOLD = frozenset({"health", "metrics", "version"})
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
    blocking = Blocking(WORKERS)
    # A pool of its own: looking something up must not wait for those who take large blobs slowly.
    storing = Blocking(WORKERS)
    storage = DurableStorage(config.root, _objects(config, storing), storing, config.gc)
    await storage.open()
    try:
        metrics = Metrics()
        with admission(config.root, config.access, config.limits, blocking) as admitted:
            table = routes.table(
                Blobs(storage, blocking, deletable=config.delete),
                Uploads(
                    storage,
                    largest=config.limits.blob_bytes,
                    automount=config.automount and not config.access.enabled,
                ),
                Manifests(storage, blocking, deletable=config.delete, largest=config.limits.manifest_bytes),
                Tags(storage),
                metrics,
            )
            collector = Collector(storage, config.gc, metrics.collected)
            async with (
                tls.serving(config.tls) as context,
                pulling_through(config.root, config.upstreams, config.cache) as pulls,
                _listening(_Edge((*admitted.rows, *table), admitted.gate, pulls, metrics), config, context) as address,
                _collecting(collector, config.admin),
            ):
                yield address
        await storage.save_records()
    finally:
        await storage.close()
        storing.close()
        blocking.close()


def _objects(config: Config, blocking: Blocking) -> Objects:
    if config.s3 is None:
        return FileObjects(config.root, blocking)
    try:
        from bulkhead.registry.adapters.s3_objects import Bucket, S3Objects
    except ImportError as error:
        raise InvalidArgument(f"cannot use [registry.s3]: {error}; install bulkhead[s3]") from error
    table = config.s3
    bucket = Bucket(
        name=table.bucket,
        prefix=f"{table.prefix.strip('/')}/" if table.prefix.strip("/") else "",
        endpoint=table.endpoint,
        region=table.region,
        access_key=table.access_key,
        secret_key=table.secret_key,
    )
    return S3Objects(bucket, blocking)


@asynccontextmanager
async def _collecting(collector: Collector, admin: Path | None) -> AsyncIterator[None]:
    """The collector on its schedule, and the operator's socket."""
    async with AsyncExitStack() as stack:
        if admin is not None:
            await stack.enter_async_context(administration.listening(admin, collector))
        schedule = asyncio.create_task(collector.run())
        try:
            yield
        finally:
            schedule.cancel()
            with suppress(asyncio.CancelledError):
                await schedule


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

    def __init__(self, table: routes.Routes, gate: Gate, pulls: Pulls, metrics: Metrics) -> None:
        self._table = table
        self._gate = gate
        self._pulls = pulls
        self._metrics = metrics
        self._log = structlog.get_logger()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> int:
        """Requests under way."""
        return self._metrics.active

    async def drained(self) -> None:
        """Wait until no request is under way; those that still come get an answer and no further turn."""
        self._draining = True
        await self._idle.wait()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._metrics.active += 1
        self._idle.clear()
        try:
            return await self._handle(request)
        finally:
            self._metrics.active -= 1
            if not self.active:
                self._idle.set()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        began = time.monotonic()
        telemetry.bind_request_id(request.headers.get(telemetry.REQUEST_ID_HEADER))
        found = routes.find(self._table, request.path)
        answer = await self._answer(request, found)
        if not answer.prepared:
            answer.headers.update(API_VERSION)
            answer.headers[telemetry.REQUEST_ID_HEADER] = telemetry.request_id()
            if self._draining:
                answer.force_close()
        self._tell(request, answer, found.name if found is not None else "none", time.monotonic() - began)
        return answer

    def _tell(self, request: web.BaseRequest, answer: web.StreamResponse, route: str, seconds: float) -> None:
        """Count the request, and say it in one line; what probes and polls ask is only counted."""
        received, sent = request.content.total_bytes, answer.content_length or 0
        self._metrics.answered(request.method, route, answer.status, seconds, received, sent)
        if route in _UNTOLD and answer.status < 400:
            return
        self._log.info(
            "request",
            method=request.method,
            path=request.path,
            status=answer.status,
            milliseconds=round(seconds * 1000, 1),
            received=received,
            sent=sent,
            remote=request.remote,
            agent=request.headers.get("User-Agent", "")[:200],
        )

    async def _answer(self, request: web.BaseRequest, found: routes.Found | None) -> web.StreamResponse:
        if found is None:
            return web.Response(status=404, text="404 page not found\n")
        try:
            handler, arguments = self._pulls.redirected(request, found)
            return await self._gate.serve(request, handler, arguments)
        except BulkheadError as error:
            return response(error)
        except ConnectionError:
            # Nobody is left to answer: what is returned here goes nowhere.
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=CLIENT_GONE)
        except Exception:
            self._log.exception("request failed", method=request.method, path=request.path)
            return response(Refusal(Code.UNKNOWN))
