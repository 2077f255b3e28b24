"""gRPC's health question, answered: whoever can be asked serves (grpc/doc/health-checking.md).

grpclib has the same, on Google's protobuf, which nothing else here needs: 3 MB and 30 ms of each service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from grpclib.const import Status
from grpclib.exceptions import GRPCError

from bulkhead.wire.gen.grpc.health.v1 import (
    HealthBase,
    HealthCheckRequest,
    HealthCheckResponse,
    HealthCheckResponseServingStatus,
)

_SERVING = HealthCheckResponseServingStatus.SERVING
_UNKNOWN = HealthCheckResponseServingStatus.SERVICE_UNKNOWN


class Health(HealthBase):
    """Of the server as a whole; single services are not known."""

    async def check(self, message: HealthCheckRequest) -> HealthCheckResponse:
        if message.service:
            raise GRPCError(Status.NOT_FOUND)
        return HealthCheckResponse(status=_SERVING)

    async def watch(self, message: HealthCheckRequest) -> AsyncIterator[HealthCheckResponse]:
        yield HealthCheckResponse(status=_UNKNOWN if message.service else _SERVING)
        await asyncio.Event().wait()  # it changes with the end of the server, which ends the call
