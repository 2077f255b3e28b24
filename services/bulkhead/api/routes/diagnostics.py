"""What operators and their machines ask: health, metrics, and what is in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.metrics import Metrics
from bulkhead.api.ports.containers import Statistics
from bulkhead.api.ports.system import EngineActivity, EngineOperation, System
from bulkhead.api.versions import HEADERS
from bulkhead.counting import counts
from bulkhead.errors import BulkheadError, DeadlineExceeded, Unavailable
from bulkhead.wire.inflight import InFlight

# A manager that does not answer a trivial question within this long is not well.
HEALTH_SECONDS = 5.0

T = TypeVar("T")


class DiagnosticRoutes:
    def __init__(self, *, system: System, statistics: Statistics, metrics: Metrics, in_flight: InFlight) -> None:
        self._system = system
        self._statistics = statistics
        self._metrics = metrics
        self._in_flight = in_flight

    async def health(self, call: Call) -> web.StreamResponse:
        """200 when the API and the manager answer, else 503 with the reason."""
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await self._system.activity()
        except TimeoutError:
            raise Unavailable("the manager service does not answer") from None
        except DeadlineExceeded as error:
            raise Unavailable(str(error)) from error
        return web.Response(body=b"ok\n", headers={**HEADERS, "Content-Type": "text/plain; charset=utf-8"})

    async def metrics(self, call: Call) -> web.StreamResponse:
        """Answered without the manager too: that it is away is the first thing to be told."""
        from bulkhead.api import exposition  # 0.9 MB and 10 ms of a start with Prometheus's library: few ask

        engine, samples = await asyncio.gather(_if_told(self._system.info()), _if_told(self._statistics.snapshot()))
        body = exposition.text(self._metrics, engine, samples or ())
        return web.Response(body=body, headers={**HEADERS, "Content-Type": exposition.CONTENT_TYPE})

    async def operations(self, call: Call) -> web.StreamResponse:
        """Everything that API and manager have begun and not ended, oldest first in each, and their counts."""
        own = [
            EngineOperation(
                name=each.name,
                object=each.object,
                phase=each.phase,
                age=each.age,
                seconds=each.seconds,
                request_id=each.request_id,
            )
            for each in self._in_flight
        ]
        missing = ""
        managed = EngineActivity()
        try:
            managed = await self._system.activity()
        except BulkheadError as error:
            missing = str(error)
        rows = [*(_shown("api", each) for each in own), *(_shown("manager", each) for each in managed.operations)]
        counted = {"api": dict(counts), "manager": dict(managed.counts)}
        return answers.json({"Operations": rows, "Counts": counted, "Error": missing})


async def _if_told(question: Awaitable[T]) -> T | None:
    try:
        return await question
    except BulkheadError:
        return None


def _shown(service: str, operation: EngineOperation) -> dict[str, Any]:
    return {
        "Service": service,
        "Operation": operation.name,
        "Object": operation.object,
        "Phase": operation.phase,
        "AgeSeconds": round(operation.age, 3),
        "DeadlineSeconds": operation.seconds or None,
        "RequestId": operation.request_id,
    }
