from __future__ import annotations

import gc
import os
import select

from bulkhead.shim.loop import Loop, Timer


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


def test_timers_that_were_cancelled_are_not_kept_until_they_are_due() -> None:
    """Each exec cancels some that would be due in ten seconds: thousands of them would be held at any time."""
    loop = Loop(lambda event, error: None)
    loop.open()
    fired: list[int] = []
    for number in range(300):
        loop.later(number * 1e-5, lambda number=number: fired.append(number))  # type: ignore[misc]
    for _ in range(10_000):
        loop.later(60, lambda: fired.append(-1)).cancel()
    assert sum(isinstance(each, Timer) for each in gc.get_objects()) < 1000
    loop.later(0.01, loop.stop)
    loop.run()
    assert fired == list(range(300))


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


def test_an_event_of_a_closed_descriptor_is_not_told_to_the_next_of_its_number() -> None:
    """A stream that has just begun would take the hang-up of one that has ended for its own."""
    loop = Loop(lambda event, error: None)
    loop.open()
    read, write = os.pipe()
    ended = [os.pipe(), os.pipe()]
    heard: list[int] = []
    reused: list[int] = []

    def replace(index: int) -> None:
        other = ended[1 - index][0]
        loop.remove(other)
        reused.append(os.dup2(read, other))
        loop.add(other, select.EPOLLIN, heard.append)

    for index, (ours, theirs) in enumerate(ended):
        os.close(theirs)
        loop.add(ours, select.EPOLLIN, lambda _events, index=index: replace(index))  # type: ignore[misc]
    loop.turn(1)
    assert len(reused) == 1 and heard == []
    loop.remove(next(ours for ours, _ in ended if ours != reused[0]))
    os.write(write, b"x")
    loop.turn(1)
    assert heard == [select.EPOLLIN]
    for fd in (read, write, *(ours for ours, _ in ended)):
        os.close(fd)
