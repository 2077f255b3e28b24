"""Who asks for short slices has them, and whom else they concern."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Thread

import pytest

from bulkhead.linux import scheduling
from tests.support.slices import are_told, slice_of

pytestmark = pytest.mark.skipif(not are_told(), reason="slices are Linux 6.12's")


def in_a_child(work: Callable[[], int]) -> int:
    """What it tells, in a process of its own."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, str(work()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        text = told.read()
    os.waitpid(pid, 0)
    return int(text)


def of_a_child() -> int:
    return in_a_child(lambda: slice_of(0))


def of_a_thread() -> int:
    found: list[int] = []
    thread = Thread(target=lambda: found.append(slice_of(0)))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("children", [True, False])
@pytest.mark.parametrize("child", [of_a_child, of_a_thread])
def test_short_slices_are_those_of_children_where_they_are_meant_to_be(
    child: Callable[[], int], children: bool
) -> None:
    usual = slice_of(0)

    def work() -> int:
        scheduling.be_prompt(children=children)
        assert slice_of(0) == scheduling.SHORTEST
        return child()

    assert usual > scheduling.SHORTEST
    assert in_a_child(work) == (scheduling.SHORTEST if children else usual)


def test_they_are_given_back() -> None:
    def work() -> int:
        scheduling.be_prompt(children=True)
        scheduling.be_ordinary()
        return slice_of(0)

    assert in_a_child(work) == slice_of(0)


def test_who_was_made_nicer_stays_so() -> None:
    def work() -> int:
        os.nice(3)
        before = os.getpriority(os.PRIO_PROCESS, 0)
        scheduling.be_prompt(children=True)
        return os.getpriority(os.PRIO_PROCESS, 0) - before

    assert in_a_child(work) == 0


def test_another_policy_is_somebodys_will() -> None:
    def work() -> int:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        scheduling.be_prompt(children=True)
        return os.sched_getscheduler(0)

    assert in_a_child(work) == os.SCHED_BATCH
