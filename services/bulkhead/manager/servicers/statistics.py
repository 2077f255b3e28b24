"""The gRPC face of the sampler."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from bulkhead.manager.sampling import Sampler
from bulkhead.wire.convert import to_message
from bulkhead.wire.gen.bulkhead.manager import v1 as api


@dataclass(frozen=True, slots=True)
class StatisticsServicer(api.StatisticsBase):
    """protos/bulkhead/manager/v1/statistics.proto."""

    _sampler: Sampler

    async def snapshot(self, message: api.StatisticsSnapshotRequest) -> api.StatisticsSnapshotResponse:
        found = await self._sampler.snapshot()
        return api.StatisticsSnapshotResponse(samples=[to_message(api.Sample, each) for each in found])

    async def watch(self, message: api.WatchStatisticsRequest) -> AsyncIterator[api.Sample]:
        watching = self._sampler.watch(message.ref, stream=message.stream, immediately=message.immediately)
        async with contextlib.aclosing(watching) as samples:
            async for sample in samples:
                yield to_message(api.Sample, sample)
