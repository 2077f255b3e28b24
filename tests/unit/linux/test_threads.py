"""Threads for what blocks, by a pool that asks no more than it must."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from bulkhead.linux.threads import Hands
from tests.support.eventually import until

SECONDS = 30


@pytest.fixture
def hands() -> Iterator[Hands]:
    hands = Hands(3, "test")
    yield hands
    hands.close(SECONDS)


def test_all_that_blocks_at_once_has_a_thread_up_to_the_most(hands: Hands) -> None:
    """A disk that stands still must not hold those who write to another."""
    meet, done = threading.Barrier(4), threading.Semaphore(0)
    for _ in range(3):
        hands.do(lambda: meet.wait(SECONDS))
    hands.do(done.release)
    assert not done.acquire(timeout=0.05)
    meet.wait(SECONDS)
    assert done.acquire(timeout=SECONDS)


def test_one_thread_does_what_comes_when_it_is_free(hands: Hands) -> None:
    seen: list[int] = []
    for number in range(20):
        hands.do(lambda: seen.append(threading.get_ident()))
        until(lambda: hands._free == 1)
        assert len(seen) == number + 1
    assert len(set(seen)) == 1


def test_work_that_waited_leaves_the_count_of_free_threads_right(hands: Hands) -> None:
    first = threading.Event()
    for _ in range(3):
        hands.do(lambda: first.wait(SECONDS))
    for _ in range(5):
        hands.do(lambda: None)
    assert hands._free == -5
    first.set()
    until(lambda: hands._free == 3)


def test_what_is_asked_for_is_done_before_the_end_and_more_can_be_asked_for_later(hands: Hands) -> None:
    done: list[int] = []
    for turn in range(2):
        for _ in range(50):
            hands.do(lambda: done.append(1))
        assert hands.close(SECONDS)
        assert len(done) == 50 * (turn + 1)


def test_work_waits_for_the_threads_that_there_are_when_there_can_be_no_more(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy, done = threading.Event(), threading.Event()
    hands.do(lambda: busy.wait(SECONDS))

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    hands.do(done.set)
    busy.set()
    assert done.wait(SECONDS)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        Hands(1, "none").do(lambda: None)


def test_who_is_held_by_a_disk_does_not_hold_the_end(hands: Hands) -> None:
    disk = threading.Event()
    hands.do(lambda: disk.wait(SECONDS))
    assert not hands.close(0.01)
    disk.set()


def test_who_is_left_behind_does_not_count_for_those_who_come_after(hands: Hands) -> None:
    held, done = threading.Event(), threading.Event()
    left = threading.Event()

    def stands_still() -> None:
        held.wait(SECONDS)
        left.set()

    hands.do(stands_still)
    assert not hands.close(0)
    held.set()
    assert left.wait(SECONDS)
    hands.do(done.set)
    assert done.wait(SECONDS)
