"""The stream of a container's samples, over restarts of the manager."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator

from bulkhead.api.ports.containers import Statistics
from bulkhead.api.waiting import pauses
from bulkhead.errors import NotFound, Unavailable
from bulkhead.model.sample import Sample


async def samples(statistics: Statistics, ref: str, *, stream: bool, immediately: bool) -> AsyncGenerator[Sample, None]:
    """Samples, each once a second, until the container is removed; one or two without `stream`.

    Raises NotFound, and Unavailable before the first sample.
    """
    begun = False
    tries = pauses()
    while True:
        try:
            async with contextlib.aclosing(statistics.watch(ref, stream=stream, immediately=immediately)) as watching:
                async for sample in watching:
                    begun = True
                    yield sample
            return
        except NotFound:
            if not begun:
                raise
            return
        except Unavailable:
            if not (begun and stream):
                raise
        await anext(tries)
