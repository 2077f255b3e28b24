"""Blocking calls beside the loop: answers, errors, and threads that come and go with their loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading

import pytest

from bulkhead.content import aside as module
from bulkhead.content.aside import aside
from tests.support.eventually import until

_name: contextvars.ContextVar[str] = contextvars.ContextVar("name")


async def test_answers_from_another_thread_in_the_callers_context() -> None:
    _name.set("the caller's")

    def work(number: int, *, more: int) -> tuple[int, str, bool]:
        return number + more, _name.get(), threading.current_thread() is threading.main_thread()

    assert await aside(work, 1, more=2) == (3, "the caller's", False)


async def test_raises_what_was_raised() -> None:
    def work() -> None:
        raise FileNotFoundError("no such file")

    with pytest.raises(FileNotFoundError, match="no such file"):
        await aside(work)


async def test_one_that_stands_still_holds_up_no_other() -> None:
    going_on = threading.Event()
    stuck = [asyncio.create_task(aside(going_on.wait, 10)) for _ in range(5)]
    await asyncio.sleep(0)
    assert await aside(int, "7") == 7
    assert not any(task.done() for task in stuck)
    going_on.set()
    assert await asyncio.gather(*stuck) == [True] * 5


async def test_there_are_no_more_threads_than_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_THREADS", 3)
    seen: set[int] = set()
    for _ in range(20):
        seen.add(await aside(threading.get_ident))
    assert len(seen) == 1
    both = threading.Barrier(3)
    assert sorted(await asyncio.gather(*(aside(both.wait, 10) for _ in range(6)))) == [0, 0, 1, 1, 2, 2]


async def test_who_is_cancelled_leaves_it_behind() -> None:
    begun, going_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert going_on.wait(10)
        ended.set()

    task = asyncio.create_task(aside(work))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    going_on.set()
    assert await asyncio.to_thread(ended.wait, 10)


async def test_what_was_cancelled_before_its_turn_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_THREADS", 1)
    begun, going_on, late = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert going_on.wait(10)

    first = asyncio.create_task(aside(work))
    await asyncio.to_thread(begun.wait, 10)
    second = asyncio.create_task(aside(late.set))
    await asyncio.sleep(0)
    second.cancel()
    going_on.set()
    await first
    assert await aside(late.is_set) is False


def test_a_loops_threads_end_with_it() -> None:
    async def work() -> threading.Thread:
        return await aside(threading.current_thread)

    thread = asyncio.run(work())
    gc.collect()
    until(lambda: not thread.is_alive())
