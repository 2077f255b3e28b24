"""The one bounded pool of threads through which content does its blocking calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from bulkhead.linux.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")


class Blocking:
    """Runs blocking calls in at most `workers` threads.

    A cancelled `run` waits for its call to end before it lets the cancellation through: the thread
    cannot be stopped, and its caller is about to close the file that the call works on.
    """

    def __init__(self, workers: int = 4) -> None:
        self._pool = Threads(workers, "content")

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`call(*args, **kwargs)` in a thread; its result, or what it raised."""
        return await ended(asyncio.wrap_future(self._pool.submit(call, *args, **kwargs)))

    def close(self) -> None:
        """Wait for running calls and end the threads."""
        self._pool.shutdown(wait=True)


async def to_its_end(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The same in a thread of the event loop's: who is cancelled leaves no call behind that goes on by itself."""
    return await ended(asyncio.ensure_future(asyncio.to_thread(call, *args, **kwargs)))


async def ended(future: asyncio.Future[T]) -> T:
    """What comes of it, which its awaiter's cancellation waits for."""
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await settle(future)
        raise


async def settle(future: asyncio.Future[T]) -> None:
    """Wait for its end, also when cancelled; an error of its has been heard then."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue
    if not future.cancelled():
        future.exception()
