from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bulkhead.shim.loop import Loop
from bulkhead.shim.ports import Stdio
from bulkhead.shim.sinks import NoLog
from bulkhead.shim.stdio import STDOUT, Streams
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


def test_the_pipes_of_a_process_that_lasts_hold_as_much_as_others() -> None:
    """Most processes whose output ends with them are over before anybody could want that."""
    loop = Loop(lambda event, error: None)
    loop.open()
    others, streams = Streams(loop), Streams(loop, ends_with_process=True)
    wanted = _sizes(others.open(tty=False, stdin=False, lasting=True))
    theirs = streams.open(tty=False, stdin=False, lasting=True)
    assert _sizes(theirs) < wanted
    streams.lasts()
    assert _sizes(theirs) == wanted
    for each in (others, streams):
        each.abandon()


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 50_000])
def test_what_a_process_leaves_in_its_pipe_is_read_whole(size: int) -> None:
    loop = Loop(lambda event, error: None)
    loop.open()
    streams, log = Streams(loop, ends_with_process=True), _Kept()
    streams.log = log
    said = os.urandom(size)
    assert os.write(streams.open(tty=False, stdin=False, lasting=True).stdout, said) == size
    ended: list[bool] = []
    streams.drain(lambda: ended.append(True))
    assert (ended, log.said) == ([True], said)


class _Kept(NoLog):
    said = b""

    def write(self, stream: int, chunk: bytes) -> None:
        assert stream == STDOUT
        self.said += chunk


def _sizes(stdio: Stdio) -> list[int]:
    return [fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ) for descriptor in (stdio.stdout, stdio.stderr)]


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
