"""The container's log file: written as read, rotated, and never the reason why a container stands still.

    <path>, <path>.1 ... <path>.<max_file - 1>     Docker's json-file names, newest first; .gz when packed

A write that fails (full disk) is tried again every half second. Meanwhile up to 1 MiB waits in
memory, the rest is dropped and counted, and when writing works again a line says how much is missing.
A disk that is slow holds the container for at most five seconds at a time; then lines are dropped, too.
Writes are made by a thread, which comes with the first of them: the shim itself never waits for the disk.
"""
# ruff: noqa: PTH104, PTH108, PTH110 -- see linux.atomicfile

from __future__ import annotations

import _thread
import contextlib
import os
import select
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bulkhead.linux import atomicfile
from bulkhead.shim.jsonfile import Encoder
from bulkhead.shim.loop import Loop, Timer

_BACKLOG = 1 << 20
RETRY = 0.5
PATIENCE = 5.0
# zlib: the format of gzip, the largest window.
_GZIP = 31
_PACK_BLOCK = 256 << 10
_STREAMS = {1: "stdout", 2: "stderr"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTarget:
    """Where the log goes. `max_size` in bytes, 0 is unlimited; `max_file` counts the current one too.

    `compress` packs the files that are rotated away. `attributes` is a JSON object that every line bears, or nothing.
    With `non_blocking` the container never waits: what does not fit into `max_buffer` bytes is dropped.
    """

    path: str
    max_size: int = 0
    max_file: int = 1
    compress: bool = False
    attributes: bytes = b""
    non_blocking: bool = False
    max_buffer: int = 0


class LogSink(Protocol):
    """Takes what a container's streams say."""

    def write(self, stream: int, chunk: bytes) -> None:
        """`chunk` was read from stream 1 or 2."""

    def end(self, stream: int) -> None:
        """The stream has ended: its last line may lack a newline."""

    def finish(self, done: Callable[[], None]) -> None:
        """Write what still waits, then call `done`; soon, even if the disk is stuck."""

    def close(self) -> None: ...


class NoLog:
    """The driver `none`."""

    def write(self, stream: int, chunk: bytes) -> None:
        """Nothing is kept."""

    def end(self, stream: int) -> None:
        """Nothing is kept."""

    def finish(self, done: Callable[[], None]) -> None:
        done()

    def close(self) -> None:
        """Nothing is open."""


class Brake(Protocol):
    """Stops and lets go the reading of the container's output."""

    def hold(self, holder: object) -> None: ...

    def unhold(self, holder: object) -> None: ...


class JsonFile:
    """The drivers `json-file` and `local`, and the cache of those that write elsewhere.

    `grown` is called whenever readers can find more.
    """

    def __init__(self, target: LogTarget, loop: Loop, brake: Brake, grown: Callable[[], None]) -> None:
        self._file = RotatingFile(target)
        self._loop = loop
        self._brake = brake
        self._grown = grown
        self._encoders = {number: Encoder(name, target.attributes) for number, name in _STREAMS.items()}
        self._non_blocking = target.non_blocking
        self._limit = target.max_buffer or _BACKLOG
        self._backlog: deque[bytes] = deque()
        self._waiting = 0
        self._lost = Lost()
        self._retry: Timer | None = None
        self._patience: Timer | None = None
        self._dropping = False
        self._hand: Hand | None = None
        self._done: Callable[[], None] | None = None
        self._closed = False

    def write(self, stream: int, chunk: bytes) -> None:
        self._append(self._encoders[stream].feed(chunk, time.time_ns()))

    def end(self, stream: int) -> None:
        self._append(self._encoders[stream].finish(time.time_ns()))

    def finish(self, done: Callable[[], None]) -> None:
        if not self._waiting:
            done()
            return
        # An exit must not wait for a broken disk: it is announced without these lines then.
        self._done = done
        self._loop.later(PATIENCE if self._retry is None else 2 * RETRY, self._finished)

    def close(self) -> None:
        self._closed = True
        for timer in (self._retry, self._patience):
            if timer is not None:
                timer.cancel()
        if self._hand is not None:
            self._hand.close()
        else:
            self._file.close()

    def _append(self, records: bytes) -> None:
        if not records:
            return
        unheld = self._dropping or self._retry is not None or self._non_blocking
        if self._dropping or (unheld and self._waiting and self._waiting + len(records) > self._limit):
            self._lost.add(records)
            return
        self._backlog.append(records)
        self._waiting += len(records)
        if self._hand is None:
            self._hand = Hand(self._file, self._loop, self._hand_done)
        if self._retry is None:
            self._hand.offer(self._next())
            self._brake_if_full()

    def _next(self) -> bytes | None:
        """What is to be written now: records, then the marker of a gap; None when there is nothing."""
        if not self._backlog and self._lost.lines:
            # It joins the backlog, since a write that fails must be repeated with the same bytes.
            marker, self._lost = self._lost.marker(time.time_ns()), Lost()
            self._backlog.append(marker)
            self._waiting += len(marker)
        return self._backlog[0] if self._backlog else None

    def _hand_done(self, error: OSError | None) -> None:
        """The other thread has written, or failed to."""
        if self._closed or self._hand is None:
            return
        if error is not None:
            self._failed(error)
            return
        self._written()
        self._hand.offer(self._next())
        self._finished_if_empty()

    def _written(self) -> None:
        self._waiting -= len(self._backlog.popleft())
        self._grown()
        if self._waiting <= self._limit // 2:
            self._release()

    def _failed(self, error: OSError) -> None:
        """The disk refuses. What waits goes on waiting; what does not fit is dropped, nobody is held for it."""
        self._lost.reason = error.strerror or str(error)
        self._release()
        self._retry = self._loop.later(RETRY, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        if self._hand is not None:
            self._hand.offer(self._next())

    def _brake_if_full(self) -> None:
        """A slow disk holds the container, but not for ever."""
        if self._non_blocking:
            return
        if self._waiting > self._limit and self._patience is None and self._retry is None:
            self._brake.hold(self)
            self._patience = self._loop.later(PATIENCE, self._start_dropping)

    def _start_dropping(self) -> None:
        self._dropping = True
        self._lost.reason = "the disk is too slow"
        self._brake.unhold(self)

    def _release(self) -> None:
        self._dropping = False
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
            self._brake.unhold(self)

    def _finished_if_empty(self) -> None:
        if not self._waiting:
            self._finished()

    def _finished(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done()


class Hand:
    """A thread that writes, so that a write which takes long stops nothing else. One job at a time."""

    def __init__(self, file: RotatingFile, loop: Loop, done: Callable[[OSError | None], None]) -> None:
        self._file = file
        self._loop = loop
        self._done = done
        self._job: bytes | None = None
        self._failure: OSError | None = None
        self._closing = False
        self._told = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._work = _thread.allocate_lock()
        self._work.acquire()
        loop.add(self._told, select.EPOLLIN, self._heard)
        _thread.start_new_thread(self._run, ())

    def offer(self, records: bytes | None) -> None:
        """Write `records` unless something is being written already."""
        if records is not None and self._job is None:
            self._job = records
            self._work.release()

    def close(self) -> None:
        """Close the file once the write under way, if any, has returned."""
        self._closing = True
        self._loop.remove(self._told)
        if self._job is None:
            self._work.release()

    def _run(self) -> None:
        while True:
            self._work.acquire()
            if self._job is not None:
                try:
                    self._file.write(self._job)
                except OSError as error:
                    self._failure = error
            if self._closing:
                self._file.close()
                return
            os.eventfd_write(self._told, 1)

    def _heard(self, _events: int) -> None:
        os.eventfd_read(self._told)
        failure, self._failure, self._job = self._failure, None, None
        self._done(failure)


@dataclass(slots=True)
class Lost:
    """What had to be dropped since the file could last be written."""

    lines: int = 0
    size: int = 0
    reason: str = ""

    def add(self, records: bytes) -> None:
        self.lines += records.count(b"\n")
        self.size += len(records)

    def marker(self, now: int) -> bytes:
        """A record that tells readers of the gap."""
        text = f"[bulkhead: {self.lines} lines ({self.size} bytes) of log were lost: {self.reason}]\n"
        return Encoder("stderr").feed(text.encode(), now)


class RotatingFile:
    """Appends whole records. A write that failed half-way goes on where it stopped, so no record is torn."""

    def __init__(self, target: LogTarget) -> None:
        self._target = target
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size
        self._torn: memoryview | None = None
        self._packing = _thread.allocate_lock()

    def write(self, records: bytes) -> None:
        """Append; call it again with the same records after OSError, and only with them."""
        rest = self._torn if self._torn is not None else memoryview(records)
        self._torn = rest
        while rest:
            if self._full():
                self._rotate()
            room = self._room(records, len(records) - len(rest))
            written = os.write(self._fd, rest[:room])
            self._size += written
            rest = rest[written:]
            self._torn = rest
        self._torn = None

    def close(self) -> None:
        os.close(self._fd)

    def _full(self) -> bool:
        return 0 < self._target.max_size <= self._size

    def _room(self, records: bytes, position: int) -> int:
        """How much of `records` from `position` on belongs into this file: up to the record that fills it."""
        rest = len(records) - position
        if not self._target.max_size or self._size + rest <= self._target.max_size:
            return rest
        fills = position + max(self._target.max_size - self._size, 1) - 1
        return records.index(b"\n", fills) + 1 - position

    def _rotate(self) -> None:
        path = self._target.path
        # One at a time: what is being packed now must have its name first.
        with self._packing:
            # Absent when the new file could not be made the last time: then the others have moved already.
            if os.path.exists(path):
                self._move_up(path)
        fresh = self._open()
        os.close(self._fd)
        self._fd = fresh
        self._size = os.fstat(fresh).st_size

        if self._target.compress and self._target.max_file > 1:
            self._packing.acquire()
            _thread.start_new_thread(self._pack, (_numbered(path, 1),))

    def _move_up(self, path: str) -> None:
        last = self._target.max_file - 1
        for suffix in ("", ".gz"):
            # With a single file, those who still read the old one keep it until they close it.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_numbered(path, last) + suffix)
        for number in range(last, 0, -1):
            for suffix in ("", ".gz") if number > 1 else ("",):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(_numbered(path, number - 1) + suffix, _numbered(path, number) + suffix)

    def _pack(self, path: str) -> None:
        """A rotated file that cannot be packed stays as it is."""
        try:
            with contextlib.suppress(OSError):
                _compress(path)
        finally:
            self._packing.release()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._target.path, flags, 0o640)


def _compress(path: str) -> None:
    """Put `<path>.gz` in the place of `path`. Raises OSError."""
    import zlib  # most logs are never packed

    temporary = f"{path}.gz.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        target = os.open(temporary, flags, 0o640)
        try:
            packer = zlib.compressobj(wbits=_GZIP)
            while block := os.read(source, _PACK_BLOCK):
                atomicfile.write_all(target, packer.compress(block))
            atomicfile.write_all(target, packer.flush())
            os.fsync(target)
            os.rename(temporary, f"{path}.gz")
        except OSError:
            os.unlink(temporary)
            raise
        finally:
            os.close(target)
    finally:
        os.close(source)
    os.unlink(path)


def _numbered(path: str, number: int) -> str:
    return f"{path}.{number}" if number else path
