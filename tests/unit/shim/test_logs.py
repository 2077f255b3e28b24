"""What becomes of a container's output on its way to the disk, also where that is slow, full or broken."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkhead.shim.hand import Hand
from bulkhead.shim.jsonfile import Encoder
from bulkhead.shim.logs import JsonFile
from bulkhead.shim.loop import Loop
from bulkhead.shim.rotation import RotatingFile
from bulkhead.shim.sinks import LogTarget
from tests.support.descriptors import left_since, open_descriptors


def records(*texts: str) -> bytes:
    return b"".join(Encoder("stdout").feed(text.encode() + b"\n", 0) for text in texts)


class NoBrake:
    def hold(self, holder: object) -> None:
        raise AssertionError("the disk is quick")

    def unhold(self, holder: object) -> None:
        pass


def logged(path: Path) -> list[str]:
    return [json.loads(line)["log"].rstrip("\n") for line in path.read_bytes().splitlines()]


def unexpected(event: str, error: BaseException) -> None:
    raise AssertionError(event) from error


@pytest.mark.parametrize("missing", ["thread", "descriptor"])
def test_without_a_thread_the_shim_writes_by_itself(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        if missing == "thread":
            raise RuntimeError("can't start new thread")
        raise OSError(errno.EMFILE, "Too many open files")

    loop = Loop(unexpected)
    loop.open()
    path = tmp_path / "log"
    log = JsonFile(LogTarget(path=str(path)), loop, NoBrake(), lambda: None)
    before = open_descriptors()
    monkeypatch.setattr(*(("_thread.start_new_thread", refuse) if missing == "thread" else ("os.eventfd", refuse)))
    log.write(1, b"one\ntwo\n")
    assert logged(path) == ["one", "two"]
    assert not left_since(before)
    monkeypatch.undo()
    log.write(1, b"three\n")
    done: list[bool] = []
    log.finish(lambda: done.append(True))
    while not done:
        loop.turn(5)
    assert logged(path) == ["one", "two", "three"]
    log.close()
    loop.close()


def test_streams_keep_their_order_and_their_partial_lines(tmp_path: Path) -> None:
    loop = Loop(unexpected)
    loop.open()
    log = JsonFile(LogTarget(path=str(tmp_path / "log")), loop, NoBrake(), lambda: None)
    log.write(1, b"out 1\npart")
    log.write(2, b"err 1\n")
    log.write(1, b"ial\n")
    log.write(2, b"end")
    log.end(1)
    log.end(2)
    done: list[bool] = []
    log.finish(lambda: done.append(True))
    while not done:
        loop.turn(1.0)
    assert logged(tmp_path / "log") == ["out 1", "err 1", "partial", "end"]
    log.close()
    loop.close()


def test_every_line_bears_the_attributes() -> None:
    encoder = Encoder("stdout", b'{"tag":"t"}')
    for record in (encoder.feed(b"a\nb", 0).splitlines()[0], encoder.finish(0)):
        assert json.loads(record)["attrs"] == {"tag": "t"}


def test_a_log_that_must_not_hold_drops_what_does_not_fit(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    disk = os.open(tmp_path / "log", os.O_RDWR)
    loop = Loop(unexpected)
    loop.open()
    target = LogTarget(path=str(tmp_path / "log"), non_blocking=True, max_buffer=100_000)
    log = JsonFile(target, loop, NoBrake(), lambda: None)
    for _ in range(50):
        log.write(1, b"x" * 9_999 + b"\n")
    received = b""
    while b"lines (" not in received:
        received += os.read(disk, 65536)
        loop.turn(0.01)
    log.close()
    loop.close()
    os.close(disk)
    assert len(received) < 400_000


def test_a_disk_with_errors_costs_time_and_no_line_until_the_buffer_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(unexpected)
    loop.open()
    log = JsonFile(LogTarget(path=str(tmp_path / "log"), max_buffer=20_000), loop, NoBrake(), lambda: None)
    broken = True
    write = RotatingFile.write

    def fail(file: RotatingFile, data: bytes) -> int:
        if broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return write(file, data)

    monkeypatch.setattr(RotatingFile, "write", fail)
    log.write(1, b"first\n")
    while log._retry is None:
        loop.turn(0.05)
    for number in range(10):
        log.write(1, b"%d" % number * 5_000 + b"\n")
    loss = log.unlogged()
    assert loss is not None
    assert (loss.what, loss.lines, 0 < loss.since <= loss.until) == ("log", 11, True)
    broken = False
    done: list[bool] = []
    log.finish(lambda: done.append(True))
    while not done:
        loop.turn(0.05)
    lines = logged(tmp_path / "log")
    assert [line[:1] for line in lines[:4]] == ["f", "0", "1", "2"]
    while len(lines) < 5:
        loop.turn(0.05)
        lines = logged(tmp_path / "log")
    assert lines[-1].startswith("[bulkhead: 7 lines (")
    assert lines[-1].endswith("Input/output error]")
    assert log.unlogged() is None
    log.close()
    loop.close()


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def _turned_until(loop: Loop, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        loop.turn(0.01)


def test_a_log_at_rest_has_no_thread_and_goes_on_with_the_next_line(tmp_path: Path) -> None:
    loop = Loop(unexpected)
    loop.open()
    path = tmp_path / "log"
    before = _threads()
    log = JsonFile(LogTarget(path=str(path)), loop, NoBrake(), lambda: None)
    log.rest()
    for number in range(5):
        log.write(1, b"%d\n" % number)
        # What is being written keeps it.
        log.rest()
        _turned_until(loop, lambda wanted=number + 1: len(path.read_bytes().splitlines()) == wanted)  # type: ignore[misc]
        loop.turn(0.01)
        log.rest()
        _turned_until(loop, lambda: _threads() <= before)
    assert logged(path) == ["0", "1", "2", "3", "4"]
    log.finish(lambda: None)
    log.close()
    loop.close()


def test_the_hand_of_a_closed_log_ends_by_itself(tmp_path: Path) -> None:
    """A container may end in the moment in which its shim comes to rest."""
    loop = Loop(unexpected)
    loop.open()
    log = JsonFile(LogTarget(path=str(tmp_path / "log")), loop, NoBrake(), lambda: None)
    before = _threads()
    hand = Hand(log._file, loop, lambda _failure, _written: None)
    hand.close()
    assert not hand.dismiss()
    _turned_until(loop, lambda: _threads() <= before)
    loop.close()
