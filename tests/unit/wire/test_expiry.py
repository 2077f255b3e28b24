"""Time limits of many futures with one timer: each expires in its time, whatever was asked for before or after it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

from bulkhead.wire.expiry import Deadlines

LONG = 900.0


def run(what: Coroutine[Any, Any, None]) -> None:
    """In the loop that services have."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(what)


async def _expired(future: asyncio.Future[None], began: float) -> float:
    """How long it took by the loop's clock, which limits are counted with: it is read once a turn."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(30):
            await asyncio.shield(future)
    assert future.done() and isinstance(future.exception(), TimeoutError)
    return asyncio.get_running_loop().time() - began


@pytest.mark.parametrize("order", [(LONG, 0.1, 0.2), (0.2, LONG, 0.1), (0.1, 0.2, LONG)])
def test_each_expires_in_its_time_whatever_their_order(order: tuple[float, ...]) -> None:
    async def story() -> None:
        loop, deadlines = asyncio.get_running_loop(), Deadlines()
        began, futures = loop.time(), {seconds: loop.create_future() for seconds in order}
        for seconds, future in futures.items():
            deadlines.set(future, seconds)
        first = await _expired(futures[0.1], began)
        second = await _expired(futures[0.2], began)
        assert first >= 0.09 and second >= 0.19
        assert not futures[LONG].done()
        deadlines.drop()

    run(story())


def test_a_limit_that_is_lifted_is_none() -> None:
    async def story() -> None:
        loop, deadlines = asyncio.get_running_loop(), Deadlines()
        began = loop.time()
        lifted, other = loop.create_future(), loop.create_future()
        deadlines.set(lifted, 0.05)
        deadlines.set(other, 0.1)
        deadlines.lift(lifted)
        await _expired(other, began)
        assert not lifted.done()

    run(story())


def test_what_is_set_after_the_timer_was_over_expires_as_well() -> None:
    async def story() -> None:
        loop, deadlines = asyncio.get_running_loop(), Deadlines()
        for _ in range(2):
            began, future = loop.time(), loop.create_future()
            deadlines.set(future, 0.05)
            assert await _expired(future, began) >= 0.04

    run(story())


def test_dropped_limits_leave_no_timer_behind() -> None:
    async def story() -> None:
        deadlines, future = Deadlines(), asyncio.get_running_loop().create_future()
        deadlines.set(future, 0.02)
        deadlines.drop()
        await asyncio.sleep(0.06)
        assert not future.done()

    run(story())
