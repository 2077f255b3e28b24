from __future__ import annotations

import os
import select

from bulkhead.shim.loop import Loop


def test_timers_fire_in_order_and_cancelled_ones_never() -> None:
    loop = Loop(lambda event, error: None)
    loop.open()
    fired: list[str] = []
    loop.later(0.02, lambda: fired.append("late"))
    loop.later(0.0, lambda: fired.append("early"))
    loop.later(0.01, lambda: fired.append("never")).cancel()
    loop.later(0.03, loop.stop)
    loop.run()
    assert fired == ["early", "late"]


def test_a_failing_callback_is_reported_and_the_others_go_on() -> None:
    reports: list[str] = []
    loop = Loop(lambda event, error: reports.append(f"{event}: {error!r}"))
    loop.open()
    read, write = os.pipe()
    os.write(write, b"x")

    def fail(events: int) -> None:
        loop.remove(read)
        raise ValueError("no")

    loop.add(read, select.EPOLLIN, fail)
    loop.later(0.0, loop.stop)
    loop.run()
    assert reports == ["callback failed: ValueError('no')"]
    os.close(read)
    os.close(write)


def test_a_descriptor_that_was_removed_in_the_same_turn_is_not_called() -> None:
    loop = Loop(lambda event, error: None)
    loop.open()
    pipes = [os.pipe(), os.pipe()]
    called: list[int] = []

    def ready(index: int) -> None:
        called.append(index)
        loop.remove(pipes[1 - index][0])

    for index, (read, write) in enumerate(pipes):
        os.write(write, b"x")
        loop.add(read, select.EPOLLIN, lambda _events, index=index: ready(index))  # type: ignore[misc]
    loop.turn(1)
    assert len(called) == 1
    for read, write in pipes:
        os.close(read)
        os.close(write)
