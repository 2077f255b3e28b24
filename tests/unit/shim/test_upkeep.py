from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterator

import pytest

from bulkhead.shim import loop as shim_loop
from bulkhead.shim import upkeep
from bulkhead.shim.loop import Loop
from bulkhead.shim.upkeep import Upkeep


def _unexpected(event: str, error: BaseException) -> None:
    raise AssertionError(event) from error


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop(_unexpected)
    made.open()
    yield made
    made.close()


def _stir(loop: Loop) -> None:
    """Let something happen."""
    event = os.eventfd(1, os.EFD_CLOEXEC)
    loop.add(event, select.EPOLLIN, lambda _events: loop.remove(event))
    loop.turn(1)
    os.close(event)


def _turn_until(loop: Loop, calls: list[str], count: int) -> None:
    deadline = time.monotonic() + 30
    while len(calls) < count:
        assert time.monotonic() < deadline, calls
        loop.turn(0.005)


class Clock:
    """What the loop and its upkeep take for the time."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_memory_is_given_back_a_while_after_the_launch_and_again_when_something_has_happened(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    clock = Clock()

    def after(seconds: float) -> list[str]:
        calls.clear()
        clock.now += seconds
        loop.turn(0)
        return list(calls)

    monkeypatch.setattr(shim_loop, "time", clock)
    monkeypatch.setattr(upkeep, "time", clock)
    monkeypatch.setattr("bulkhead.nsexec.give_back_memory", lambda: calls.append("give back"))
    Upkeep(loop, lambda: calls.append("rest")).begin()
    _stir(loop)
    assert after(upkeep._AFTER - 0.1) == []
    _stir(loop)
    assert after(0.2) == ["rest", "give back"]
    _stir(loop)
    assert after(upkeep._PAUSE - 1) == []
    assert after(2) == ["rest", "give back"]
    # Its own timers are no events: it does not wake itself.
    assert [after(10 * upkeep._PAUSE) for _ in range(3)] == [[], [], []]
    _stir(loop)
    assert after(upkeep._AFTER + 0.1) == ["rest", "give back"]


def test_a_thread_that_has_not_ended_is_waited_for_a_few_times(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def busy() -> int:
        calls.append("busy")
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(upkeep, "_AFTER", 0.0)
    monkeypatch.setattr(upkeep, "_RETRY", 0.001)
    monkeypatch.setattr("bulkhead.nsexec.give_back_memory", busy)
    Upkeep(loop, lambda: None).begin()
    _stir(loop)
    _turn_until(loop, calls, 6)
    for _ in range(5):
        loop.turn(0.005)
    assert calls == ["busy"] * 6
