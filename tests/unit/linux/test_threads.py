"""Threads for what blocks, by a pool that asks no more than it must."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from bulkhead.linux import threads
from bulkhead.linux.threads import Hands, Threads
from tests.support.eventually import until

SECONDS = 30


def quietly(wait: Callable[[float], object]) -> None:
    """What work returns would be called."""
    wait(SECONDS)


@pytest.fixture
def hands() -> Iterator[Hands]:
    hands = Hands(3, "test")
    yield hands
    hands.close(SECONDS)


def test_all_that_blocks_at_once_has_a_thread_up_to_the_most(hands: Hands) -> None:
    """A disk that stands still must not hold those who write to another."""
    meet, done = threading.Barrier(4), threading.Semaphore(0)
    for _ in range(3):
        hands.do(lambda: quietly(meet.wait))
    hands.do(done.release)
    assert not done.acquire(timeout=0.05)
    meet.wait(SECONDS)
    assert done.acquire(timeout=SECONDS)


def test_one_thread_does_what_comes_when_it_is_free(hands: Hands) -> None:
    seen: list[int] = []
    for number in range(20):
        hands.do(lambda: seen.append(threading.get_ident()))
        until(lambda: hands.idle == 1)
        assert len(seen) == number + 1
    assert len(set(seen)) == 1


def test_work_that_waited_is_done_by_those_that_there_are(hands: Hands) -> None:
    first = threading.Event()
    for _ in range(3):
        hands.do(lambda: quietly(first.wait))
    for _ in range(5):
        hands.do(lambda: None)
    first.set()
    until(lambda: hands.idle == 3)


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
    hands.do(lambda: quietly(busy.wait))

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
    hands.do(lambda: quietly(disk.wait))
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


def test_whoever_hears_of_an_end_finds_the_thread_free(hands: Hands) -> None:
    """Or the next work would be given to a new one."""
    seen: list[int] = []
    told = threading.Semaphore(0)

    def work() -> Callable[[], None]:
        seen.append(threading.get_ident())
        return told.release

    for _ in range(200):
        hands.do(work)
        assert told.acquire(timeout=SECONDS)
    assert len(seen) == 200
    assert len(set(seen)) == 1


def test_the_last_that_came_to_rest_is_called_first(hands: Hands) -> None:
    all_at_once(hands, 3)
    seen: set[int] = set()
    for _ in range(20):
        hands.do(lambda: seen.add(threading.get_ident()))
        until(lambda: hands.idle == 3)
    assert len(seen) == 1


def test_threads_that_nobody_calls_end_and_one_stays(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each keeps a tenth of a megabyte."""
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.02)
    before = threading.active_count()
    for _ in range(3):
        all_at_once(hands, 3)
        until(lambda: hands.idle == 1)
        until(lambda: threading.active_count() <= before + 1)
        done = threading.Event()
        hands.do(done.set)
        assert done.wait(SECONDS), "the one that stayed"


def test_one_that_is_called_as_it_leaves_does_its_work(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.0005)
    done = threading.Semaphore(0)
    for round_ in range(300):
        for _ in range(1 + round_ % 3):
            hands.do(done.release)
        for _ in range(1 + round_ % 3):
            assert done.acquire(timeout=SECONDS)
        threading.Event().wait(0.0005 * (round_ % 3))
    assert hands.close(SECONDS)


def test_a_pool_answers_by_futures_and_its_threads_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.02)
    begun: list[int] = []
    pool = Threads(3, "test", lambda: begun.append(1))
    assert [*pool.map(divmod, (7, 9), (2, 4))] == [(3, 1), (2, 1)]
    with pytest.raises(ZeroDivisionError):
        pool.submit(divmod, 1, 0).result(SECONDS)
    assert begun
    held = threading.Event()
    futures = [pool.submit(held.wait, SECONDS) for _ in range(3)]
    late = pool.submit(held.is_set)
    held.set()
    pool.shutdown()
    assert all(each.done() for each in (*futures, late))
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(held.is_set)


def all_at_once(hands: Hands, count: int) -> None:
    """So many threads at work at a time."""
    meet = threading.Barrier(count + 1)
    for _ in range(count):
        hands.do(lambda: quietly(meet.wait))
    meet.wait(SECONDS)
    until(lambda: hands.idle == count)
