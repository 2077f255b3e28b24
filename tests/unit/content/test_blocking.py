"""Blocking calls in threads: nobody is left alone with one."""

from __future__ import annotations

import asyncio
import threading

import pytest

from bulkhead.content.blocking import Blocking, to_its_end


@pytest.mark.parametrize("pooled", [True, False])
async def test_who_is_cancelled_waits_for_the_calls_end(pooled: bool) -> None:
    begun, going_on, ended = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        assert going_on.wait(10)
        ended.set()

    pool = Blocking()
    task = asyncio.create_task(pool.run(call) if pooled else to_its_end(call))
    assert await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    asyncio.get_running_loop().call_later(0.05, going_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    pool.close()
