"""Order, deadlines, and operations that outlive who asked for them."""

from __future__ import annotations

import asyncio

import pytest

from bulkhead import telemetry
from bulkhead.errors import DeadlineExceeded, NotFound, Unavailable
from bulkhead.manager.actors import Actors


async def test_operations_of_one_container_run_one_after_the_other() -> None:
    order: list[str] = []

    async def work(name: str) -> str:
        order.append(f"{name} begins")
        await asyncio.sleep(0)
        order.append(f"{name} ends")
        return name

    async with Actors() as actors:
        results = await asyncio.gather(*(actors.perform("c", n, lambda n=n: work(n), seconds=5) for n in "abc"))  # type: ignore[misc]
    assert results == ["a", "b", "c"]
    assert order == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]


async def test_containers_do_not_wait_for_each_other() -> None:
    stuck = asyncio.Event()

    async def quick() -> int:
        return 1

    async with Actors() as actors:
        first = asyncio.create_task(actors.perform("a", "wait", stuck.wait, seconds=5))
        assert await actors.perform("b", "work", quick, seconds=5) == 1
        stuck.set()
        await first


async def test_operation_runs_on_when_its_caller_is_cancelled() -> None:
    begun, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await go.wait()
        done.set()

    async with Actors() as actors:
        caller = asyncio.create_task(actors.perform("c", "work", work, seconds=5))
        await begun.wait()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        go.set()
        await asyncio.wait_for(done.wait(), 20)


async def test_deadline_ends_an_operation_and_lets_the_next_one_run() -> None:
    undone = asyncio.Event()

    async def stuck() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            undone.set()

    async def quick() -> int:
        return 2

    async with Actors() as actors:
        with pytest.raises(DeadlineExceeded, match=r"cannot start container: it took longer than 0\.01 s"):
            await actors.perform("c", "start", stuck, seconds=0.01)
        assert undone.is_set()
        assert await actors.perform("c", "next", quick, seconds=5) == 2


async def test_error_goes_to_who_asked() -> None:
    async def fails() -> None:
        raise NotFound("nothing")

    async with Actors() as actors:
        with pytest.raises(NotFound, match="nothing"):
            await actors.perform("c", "work", fails, seconds=5)


async def test_timeout_inside_is_not_the_deadline() -> None:
    async def fails() -> None:
        raise TimeoutError("mine")

    async with Actors() as actors:
        with pytest.raises(TimeoutError, match="mine"):
            await actors.perform("c", "work", fails, seconds=5)


async def test_request_id_goes_with_the_operation() -> None:
    async def who() -> str:
        return telemetry.request_id()

    async with Actors() as actors:
        telemetry.bind_request_id("asked-by-me")
        assert await actors.perform("c", "work", who, seconds=5) == "asked-by-me"


async def test_stopping_ends_what_runs_and_refuses_the_rest() -> None:
    begun = asyncio.Event()

    async def work() -> str:
        begun.set()
        await asyncio.sleep(0.02)  # while they are being stopped
        return "done"

    actors = Actors()
    async with actors:
        first = asyncio.create_task(actors.perform("c", "one", work, seconds=5))
        second = asyncio.create_task(actors.perform("c", "two", work, seconds=5))
        await begun.wait()
    assert await first == "done"
    with pytest.raises(Unavailable, match="cannot two container: the manager is stopping"):
        await second
    with pytest.raises(Unavailable):
        await actors.perform("c", "three", work, seconds=5)


async def test_owned_tasks_end_with_the_owner() -> None:
    async with Actors() as actors:
        task = actors.own(asyncio.Event().wait(), "watch")
    assert task.cancelled()
