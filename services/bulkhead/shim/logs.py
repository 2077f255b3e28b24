"""The container's log file: written as read, rotated, and never the reason why a container stands still.

    <path>, <path>.1 ... <path>.<max_file - 1>     Docker's json-file names, newest first

A write that fails (full disk) is tried again every half second. Meanwhile up to 1 MiB waits in
memory, the rest is dropped and counted, and when writing works again a line says how much is missing.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bulkhead.shim.jsonfile import Encoder
from bulkhead.shim.loop import Loop, Timer

_BACKLOG = 1 << 20
_RETRY = 0.5
_STREAMS = {1: "stdout", 2: "stderr"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTarget:
    """Where the log goes. `max_size` in bytes, 0 is unlimited; `max_file` counts the current one too."""

    path: Path
    max_size: int = 0
    max_file: int = 1


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


class JsonFile:
    """The driver `json-file`. `grown` is called whenever readers can find more."""

    def __init__(self, target: LogTarget, loop: Loop, grown: Callable[[], None]) -> None:
        self._file = RotatingFile(target)
        self._loop = loop
        self._grown = grown
        self._encoders = {number: Encoder(name) for number, name in _STREAMS.items()}
        self._backlog: deque[bytes] = deque()
        self._waiting = 0
        self._lost = Lost()
        self._retry: Timer | None = None
        self._done: Callable[[], None] | None = None

    def write(self, stream: int, chunk: bytes) -> None:
        self._append(self._encoders[stream].feed(chunk, time.time_ns()))

    def end(self, stream: int) -> None:
        self._append(self._encoders[stream].finish(time.time_ns()))

    def finish(self, done: Callable[[], None]) -> None:
        if not self._waiting:
            done()
            return
        # The exit must not wait for a disk: one more try, then the end is announced without these lines.
        self._done = done
        self._loop.later(_RETRY, self._give_up)

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._file.close()

    def _append(self, records: bytes) -> None:
        if not records:
            return
        if self._waiting + len(records) > _BACKLOG and self._waiting:
            self._lost.add(records)
            return
        self._backlog.append(records)
        self._waiting += len(records)
        if self._retry is None:
            self._flush()

    def _flush(self) -> None:
        self._retry = None
        try:
            while self._backlog:
                self._file.write(self._backlog[0])
                self._waiting -= len(self._backlog.popleft())
            if self._lost.lines:
                self._file.write(self._lost.marker(time.time_ns()))
                self._lost = Lost()
        except OSError as error:
            self._lost.reason = error.strerror or str(error)
            self._retry = self._loop.later(_RETRY, self._flush)
            return
        self._grown()
        self._finished()

    def _finished(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done()

    def _give_up(self) -> None:
        if self._done is not None:
            self._finished()


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
        for number in range(self._target.max_file - 1, 0, -1):
            newer = _numbered(path, number - 1)
            if newer.exists():
                newer.rename(_numbered(path, number))
        # With a single file, those who still read the old one keep it until they close it.
        path.unlink(missing_ok=True)
        fresh = self._open()
        os.close(self._fd)
        self._fd = fresh
        self._size = os.fstat(fresh).st_size

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._target.path, flags, 0o640)


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path
