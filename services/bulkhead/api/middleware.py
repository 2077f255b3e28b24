"""What happens to every request: its route, its API version, its id; every error becomes Docker's answer.

Who may connect is the listener's business (the socket's mode, certificates); where a request comes from is asked
here first of all, see `admission`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from functools import partial
from typing import Any, cast

import structlog
from aiohttp import web

from bulkhead import failpoints, telemetry
from bulkhead.api import answers, versions
from bulkhead.api.admission import Admission
from bulkhead.api.call import Call
from bulkhead.api.connection import EngineConnection
from bulkhead.api.errors import body_of, status_of
from bulkhead.api.metrics import Metrics
from bulkhead.api.plain import PlainRequest
from bulkhead.api.routing import Found, Handler, Table
from bulkhead.api.versions import HEADERS, NEWEST, OLDEST, Version
from bulkhead.errors import BulkheadError, Forbidden, InvalidArgument, Unavailable
from bulkhead.wire.inflight import InFlight

log = structlog.get_logger()

_VERSIONED = re.compile(r"/v([0-9.]+)(/.*)")


class Edge:
    """aiohttp's handler: called with each request of each connection."""

    def __init__(
        self, table: Table, admission: Admission, metrics: Metrics, in_flight: InFlight, *, patience: float
    ) -> None:
        self._table = table
        self._admission = admission
        self._metrics = metrics
        self._in_flight = in_flight
        self._patience = patience
        self._handling: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._cut = False

    async def idle(self) -> None:
        """Return when no request is being handled. The tasks are connections', which go on."""
        while self._handling:
            self._idle.clear()
            await self._idle.wait()

    def cut_off(self) -> None:
        """The service leaves now: those whose answer has not begun are told, the others broken off."""
        self._cut = True
        for task in self._handling:
            task.cancel()

    async def __call__(self, request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._handling.add(task)
        try:
            return await self._handle(request)
        except asyncio.CancelledError:
            if not self._cut or request.writer.output_size > 0:
                raise
            task.uncancel()
            return _last(failure(Unavailable("the API service is stopping: the operation may go on")))
        finally:
            self._handling.discard(task)
            if not self._handling:
                self._idle.set()

    async def _handle(self, request: web.BaseRequest | PlainRequest) -> web.StreamResponse:
        telemetry.bind_request_id(request.headers.get(telemetry.REQUEST_ID_HEADER))
        began = time.monotonic()
        method, whole = request.method, request.path
        is_text = isinstance(request, PlainRequest) or _is_text(request)
        path, version = _split(whole)
        found = self._table.find(method, path) if is_text else None
        route = found.pattern if found is not None else "none"
        self._metrics.active += 1
        failpoints.hit("api.request.begun")
        try:
            with self._in_flight.tracked(f"{method} {route}", _printable(path)):
                asked = self._admitted(request, found, version, is_text)
                response = await _guarded(*asked) if isinstance(asked, tuple) else asked
        finally:
            self._metrics.active -= 1
        failpoints.hit("api.request.answered")
        connection = cast(EngineConnection, request.protocol)
        over = time.monotonic() if connection.over is None else connection.over
        # Nobody waits for that.
        connection.behind = partial(self._note, method, route, whole, response.status, over - began)
        return response

    def _note(self, method: str, route: str, path: str, status: int, took: float) -> None:
        self._metrics.answered(method, route, status, took)
        level = logging.DEBUG if method in ("GET", "HEAD") and status < 500 else logging.INFO
        if telemetry.tells(level):
            told = {"method": method, "path": _printable(path), "status": status}
            telemetry.line_soon(level, "request", **told, milliseconds=round(took * 1000, 1))

    def _admitted(
        self, request: web.BaseRequest | PlainRequest, found: Found | None, told: str | None, is_text: bool
    ) -> tuple[Handler, Call] | web.StreamResponse:
        """What is to be done, or the answer that there already is."""
        try:
            self._admission.check(request)
        except Forbidden as error:
            return failure(error)
        if not isinstance(request, PlainRequest) and _is_coded(request):
            # aiohttp would hand out the body in a coding that only others know of.
            return _last(failure(InvalidArgument("unsupported transfer encoding")))
        if request.method == "OPTIONS":
            return answers.Whole(200, answers.PLAIN)
        if not is_text:
            return failure(InvalidArgument("invalid request: its path or query is not UTF-8"))
        if found is None:
            # Docker's mux knows no "method not allowed", and answers before the version check sets its headers.
            return web.Response(status=404, body=body_of("page not found"), content_type="application/json")
        try:
            version = versions.parse(told) if told is not None else NEWEST
        except InvalidArgument as error:
            return failure(error)
        if not OLDEST <= version <= NEWEST:
            return _refused(version)
        call = Call(request=request, version=version, arguments=found.arguments, patience=self._patience)
        return found.handler, call


def _split(path: str) -> tuple[str, str | None]:
    """A path without its version, and that version."""
    match = _VERSIONED.fullmatch(path)
    return (match[2], match[1]) if match else (path, None)


def _is_text(request: web.BaseRequest) -> bool:
    """Whether path and query are Unicode; bytes that are not come from aiohttp as lone surrogates."""
    text = request.path + request.query_string
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_coded(request: web.BaseRequest) -> bool:
    """Whether its body is in another coding than in chunks."""
    coding = request.headers.get("Transfer-Encoding")
    return coding is not None and coding.strip().lower() != "chunked"


def _printable(path: str) -> str:
    return path if path.isascii() else path.encode("ascii", "backslashreplace").decode()


async def _guarded(handler: Handler, call: Call) -> web.StreamResponse:
    try:
        return await handler(call)
    except ConnectionError:
        raise
    except Exception as error:
        if not isinstance(error, BulkheadError):
            log.exception("request failed", path=_printable(call.request.path))
        elif call.answered:
            log.warning("answer broken off", path=_printable(call.request.path), reason=str(error))
        if call.answered:
            raise ConnectionError("part of the answer is out: it can only be broken off") from error
        await call.hear_out()
        return failure(error)


def _last(response: web.StreamResponse) -> web.StreamResponse:
    """The last answer on its connection."""
    response.force_close()
    return response


def failure(error: BaseException) -> web.StreamResponse:
    """The answer that tells `error`."""
    status = status_of(error)
    if status == 304:
        return answers.empty(304)
    known = isinstance(error, BulkheadError)
    message = str(error) if known else f"internal error: {type(error).__name__}: {error}"
    return answers.encoded(body_of(message), status)


def _refused(version: Version) -> web.StreamResponse:
    try:
        versions.check(version)
    except InvalidArgument as refusal:
        error = refusal
    if version < OLDEST:
        # Clients that old do not expect JSON.
        return web.Response(status=400, text=f"{error}\n", content_type="text/plain", headers=HEADERS)
    return failure(error)
