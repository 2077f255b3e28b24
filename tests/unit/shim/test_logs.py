from __future__ import annotations

import errno
import gzip
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bulkhead.api.adapters.logfiles import FileCursor, open_log
from bulkhead.shim.jsonfile import Encoder
from bulkhead.shim.logs import Hand, JsonFile, LogTarget, RotatingFile
from bulkhead.shim.loop import Loop


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


def test_files_rotate_at_their_size_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "log"
    one = len(records("00"))
    file = RotatingFile(LogTarget(path=str(path), max_size=3 * one, max_file=3))
    for number in range(11):
        file.write(records(f"{number:02}"))
    # A file that has reached its size is rotated by the next write.
    assert logged(path) == ["09", "10"]
    assert logged(tmp_path / "log.1") == ["06", "07", "08"]
    assert logged(tmp_path / "log.2") == ["03", "04", "05"]
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1", "log.2"]  # noqa: PTH208


def test_a_large_chunk_is_spread_over_files_whole_records_each(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(LogTarget(path=str(path), max_size=1000, max_file=50))
    texts = [f"line {number}" for number in range(100)]
    left = records(*texts)
    while left:
        left = left[file.write(left) :]
    files = sorted(
        tmp_path.iterdir(), key=lambda found: int(found.suffix[1:] or 0) if found.suffix else 0, reverse=True
    )
    assert [text for found in files for text in logged(found)] == texts
    longest = max(len(records(text)) for text in texts)
    assert all(found.stat().st_size < 1000 + longest for found in files)


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
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    monkeypatch.setattr(*(("_thread.start_new_thread", refuse) if missing == "thread" else ("os.eventfd", refuse)))
    log.write(1, b"one\ntwo\n")
    assert logged(path) == ["one", "two"]
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208
    monkeypatch.undo()
    log.write(1, b"three\n")
    done: list[bool] = []
    log.finish(lambda: done.append(True))
    while not done:
        loop.turn(5)
    assert logged(path) == ["one", "two", "three"]
    log.close()
    loop.close()


def test_a_single_file_starts_anew_and_its_reader_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(LogTarget(path=str(path), max_size=10, max_file=1))
    file.write(records("old"))
    with path.open("rb") as reader:
        file.write(records("new"))
        assert json.loads(reader.read())["log"] == "old\n"
    assert logged(path) == ["new"]


def test_an_existing_log_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for text in ("first life", "second life"):
        file = RotatingFile(LogTarget(path=str(path), max_size=10_000, max_file=2))
        file.write(records(text))
        file.close()
    assert logged(path) == ["first life", "second life"]


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        RotatingFile(LogTarget(path=str(tmp_path / "log")))


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


def test_rotated_files_are_packed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    one = len(records("00"))
    file = RotatingFile(LogTarget(path=str(path), max_size=2 * one, max_file=3, compress=True))
    for number in range(7):
        file.write(records(f"{number:02}"))
    file.close()
    with file._packing:
        assert sorted(os.listdir(tmp_path)) == ["log", "log.1.gz", "log.2.gz"]  # noqa: PTH208
    found = [json.loads(line)["log"] for line in gzip.decompress((tmp_path / "log.1.gz").read_bytes()).splitlines()]
    assert found == ["04\n", "05\n"]
    cursor = open_log(str(path), 4, None)
    assert [json.loads(line)["log"] for line in _everything(cursor)] == ["03\n", "04\n", "05\n", "06\n"]


def _everything(cursor: FileCursor) -> list[bytes]:
    lines: list[bytes] = []
    while block := cursor.read():
        lines += block.splitlines()
    cursor.close()
    return lines


def _killed_at(moment: int, file: RotatingFile, record: bytes) -> bool:
    """Whether a process that was to write `record` was killed instead of its change number `moment` of a name."""
    child = os.fork()
    if not child:
        left = moment

        def dying(change: Callable[..., None]) -> Callable[..., None]:
            def change_or_die(*names: str) -> None:
                nonlocal left
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                change(*names)

            return change_or_die

        os.rename, os.unlink = dying(os.rename), dying(os.unlink)
        file.write(record)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("moment", range(6))
def test_a_death_in_the_midst_of_a_rotation_takes_no_older_file(packed: bool, moment: int, tmp_path: Path) -> None:
    path = tmp_path / "log"
    target = LogTarget(path=str(path), max_size=10, max_file=4)
    file = RotatingFile(target)
    for text in ("1", "2", "3"):
        file.write(records(text))
    if packed:
        _pack(tmp_path / "log.1")
        _pack(tmp_path / "log.2")
        # Whoever packed this one was killed before the plain file went.
        (tmp_path / "log.2").write_bytes(records("1"))
    killed = _killed_at(moment, file, records("4"))
    file.close()
    assert _texts(path) == (["1", "2", "3"] if killed else ["1", "2", "3", "4"])
    file = RotatingFile(target)
    if killed:
        file.write(records("4"))
    assert _texts(path) == ["1", "2", "3", "4"]
    for text in ("5", "6"):
        file.write(records(text))
    assert _texts(path) == ["3", "4", "5", "6"]
    file.close()


def _pack(path: Path) -> None:
    Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def _texts(path: Path) -> list[str]:
    return [json.loads(line)["log"].rstrip("\n") for line in _everything(open_log(str(path), None, None))]


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
