from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bulkhead.shim.loop import Loop
from bulkhead.shim.stdio import Streams
from tests.support.descriptors import left_since, open_descriptors


@pytest.mark.parametrize("room", range(10))
def test_streams_for_which_there_are_too_few_descriptors_leave_none_open(room: int) -> None:
    loop = Loop(lambda event, error: None)
    loop.open()
    streams = Streams(loop)
    before = open_descriptors()
    with _room_for(room):
        try:
            streams.open(tty=False, stdin=True, lasting=True)
        except OSError:
            # Six are made, and for each lasting pipe one more for a moment.
            assert room < 7
        else:
            assert room >= 7
            streams.abandon()
    assert not left_since(before)


@pytest.mark.parametrize("ends_with_process", [True, False])
def test_a_process_that_closes_its_output_wakes_nobody_before_it_ends(ends_with_process: bool) -> None:
    loop = Loop(lambda event, error: None)
    loop.open()
    woken: list[bool] = []
    loop.stirred = lambda: woken.append(True)
    streams = Streams(loop, ends_with_process=ends_with_process)
    before = open_descriptors()
    stdio = streams.open(tty=False, stdin=False, lasting=True)
    theirs = [os.dup(descriptor) for descriptor in (stdio.stdout, stdio.stderr)]
    streams.launched(None)
    for descriptor in theirs:
        os.close(descriptor)
    loop.turn(0)
    assert bool(woken) is not ends_with_process
    ended: list[bool] = []
    streams.drain(lambda: ended.append(True))
    assert ended == [True]
    assert not left_since(before)


@contextmanager
def _room_for(count: int) -> Iterator[None]:
    """Of this process, as many more descriptors may be open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = _numbers()
    free = (number for number in range(limits[0]) if number not in taken)
    last = [next(free) for _ in range(count + 1)][-1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (last, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def _numbers() -> set[int]:
    # The listing's own is closed by the time that it is looked at.
    listed = tuple(Path("/proc/self/fd").iterdir())
    return {int(each.name) for each in listed if each.is_symlink()}
