"""`GET /containers/{id}/stats`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

import msgspec
from aiohttp import web

from bulkhead.api import answers
from bulkhead.api.call import Call
from bulkhead.api.ports.containers import Statistics
from bulkhead.api.schema import statistics as schema
from bulkhead.api.statistics import samples
from bulkhead.api.streams import begin
from bulkhead.errors import InvalidArgument
from bulkhead.model.sample import Sample


class StatisticsRoutes:
    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    async def stats(self, call: Call) -> web.StreamResponse:
        stream, one_shot = call.flag("stream", default=True), call.flag("one-shot")
        if stream and one_shot:
            raise InvalidArgument("cannot have stream=true and one-shot=true")
        watching = samples(self._statistics, call["id"], stream=stream, immediately=one_shot)
        async with contextlib.aclosing(watching) as found:
            if stream:
                return await self._follow(call, found)
            before: Sample | None = None
            sample = await anext(found)
            async for latest in found:
                before, sample = sample, latest
        return answers.json(schema.shown(sample, before))

    async def _follow(self, call: Call, found: AsyncGenerator[Sample]) -> web.StreamResponse:
        sample, before = await anext(found), None
        # Begun with the first sample: an unknown container has its own status.
        response = await begin(call, endless=True)
        await response.write(_line(sample, before))
        async for latest in found:
            before, sample = sample, latest
            await response.write(_line(sample, before))
        return response


def _line(sample: Sample, before: Sample | None) -> bytes:
    return msgspec.json.encode(schema.shown(sample, before)) + b"\n"
