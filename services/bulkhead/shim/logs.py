"""The container's log file: written as read, rotated, and never the reason why a container stands still.

    <path>, <path>.1 ... <path>.<max_file - 1>     Docker's json-file names, newest first; .gz when packed

A write that fails (full disk) is tried again every half second. Meanwhile up to 1 MiB waits in
memory, the rest is dropped and counted, and when writing works again a line says how much is missing.
A disk that is slow holds the container for at most five seconds at a time; then lines are dropped, too.
Writes are made by a thread, which comes with the first of them: the shim itself never waits for the disk.
What waits is in a journal that outlives the shim: its successor logs the rest, every line once.
"""
# ruff: noqa: PTH104, PTH108, PTH110 -- see linux.atomicfile

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import select
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from bulkhead.linux import atomicfile
from bulkhead.model.losses import Loss
from bulkhead.model.losses import Lost as Losable
from bulkhead.shim.journal import Entry, Journal, Kind, Left, Place
from bulkhead.shim.jsonfile import Encoder
from bulkhead.shim.loop import Loop, Timer

_BACKLOG = 1 << 20
RETRY = 0.5
PATIENCE = 5.0
# zlib: the format of gzip, the largest window.
_GZIP = 31
_PACK_BLOCK = 256 << 10
_STREAMS = {1: "stdout", 2: "stderr"}
# Of a file as it was written, and packed.
_SUFFIXES = ("", ".gz")
_READ = 256 << 10
_CHUNK = 256 << 10
_NEWLINE = 0x0A


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTarget:
    """Where the log goes. `max_size` in bytes, 0 is unlimited; `max_file` counts the current one too.

    `compress` packs the files that are rotated away. `attributes` is a JSON object that every line bears, or nothing.
    With `non_blocking` the container never waits: what does not fit into `max_buffer` bytes is dropped. `verbatim`:
    bytes that are not UTF-8 are kept.
    """

    path: str
    max_size: int = 0
    max_file: int = 1
    compress: bool = False
    attributes: bytes = b""
    non_blocking: bool = False
    max_buffer: int = 0
    verbatim: bool = False


class LogSink(Protocol):
    """Takes what a container's streams say. It has no bodies: whoever hands things on must hand on each."""

    @abstractmethod
    def take(self, stream: int, source: int, *, terminal: bool) -> bytes:
        """As read(2), from a descriptor of stream 1 or 2; `write` comes next, for the same stream."""

    @abstractmethod
    def to_keep(self) -> dict[str, int]:
        """Descriptors that a successor needs, by name."""

    @abstractmethod
    def write(self, stream: int, chunk: bytes) -> None:
        """`chunk` was read from stream 1 or 2."""

    @abstractmethod
    def end(self, stream: int) -> None:
        """The stream has ended: its last line may lack a newline."""

    @abstractmethod
    def finish(self, done: Callable[[], None]) -> None:
        """Write what still waits, then call `done`; soon, even if the disk is stuck."""

    @abstractmethod
    def unlogged(self) -> Loss | None:
        """What has been taken and is not in the log: to be asked when it is finished."""

    @abstractmethod
    def rest(self) -> None:
        """Nothing may come for a while: let go of what can be had again."""

    @abstractmethod
    def close(self) -> None: ...


class NoLog(LogSink):
    """The driver `none`."""

    def take(self, _stream: int, source: int, *, terminal: bool) -> bytes:
        del terminal
        return os.read(source, _CHUNK)

    def to_keep(self) -> dict[str, int]:
        return {}

    def write(self, stream: int, chunk: bytes) -> None:
        """Nothing is kept."""

    def end(self, stream: int) -> None:
        """Nothing is kept."""

    def finish(self, done: Callable[[], None]) -> None:
        done()

    def unlogged(self) -> Loss | None:
        """Nothing was to be."""
        return None

    def rest(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is open."""


class Brake(Protocol):
    """Stops and lets go the reading of the container's output."""

    def hold(self, holder: object) -> None: ...

    def unhold(self, holder: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Waiting:
    """Records for the file; then their stream is unfinished from position `unfinished` on.

    Before them, `done` bytes of their entry are in the file already.
    """

    records: bytes
    stream: int = 0
    unfinished: int = 0
    done: int = 0


class JsonFile(LogSink):
    """The drivers `json-file` and `local`, and the cache of those that write elsewhere.

    `grown` is called whenever readers can find more. `left` is what is in a journal that an earlier shim had.
    """

    def __init__(
        self,
        target: LogTarget,
        loop: Loop,
        brake: Brake,
        grown: Callable[[], None],
        journal: Journal | None = None,
        left: Left | None = None,
    ) -> None:
        self._file = RotatingFile(target)
        self._loop = loop
        self._brake = brake
        self._grown = grown
        self._encoders = {
            number: Encoder(name, target.attributes, verbatim=target.verbatim) for number, name in _STREAMS.items()
        }
        self._non_blocking = target.non_blocking
        self._limit = target.max_buffer or _BACKLOG
        self._backlog: deque[Waiting] = deque()
        self._waiting = 0
        self._lost = Lost()
        # Since when the disk refuses, 0 while it does not.
        self._trouble = 0
        self._retry: Timer | None = None
        self._patience: Timer | None = None
        self._dropping = False
        self._hand: Hand | None = None
        self._done: Callable[[], None] | None = None
        self._closed = False
        self._journal = journal or Journal.make()
        if left is None:
            self._journal.begin(self._file.place())
        else:
            self._resume(left)
        if not self._backlog and not self._file.whole:
            # Nobody knows how the torn record would go on: it must not spoil the next one.
            self._journal.add_entry(Entry(kind=Kind.TORN, stream=0, start=0, end=0, time=time.time_ns()))
            self._wait(Waiting(b"\n"))
        if self._lost.lines and self._retry is None:
            # The container may never say a word again that would bring it up.
            self._offer()

    def take(self, stream: int, source: int, *, terminal: bool) -> bytes:
        return self._journal.take(stream, source, terminal=terminal)

    def to_keep(self) -> dict[str, int]:
        return self._journal.descriptors

    def write(self, stream: int, chunk: bytes) -> None:
        encoder, now = self._encoders[stream], time.time_ns()
        size = len(encoder.line) + len(chunk)
        self._append(Kind.CHUNK, stream, size, encoder.feed(chunk, now), now)

    def end(self, stream: int) -> None:
        encoder, now = self._encoders[stream], time.time_ns()
        size = len(encoder.line)
        self._append(Kind.END, stream, size, encoder.finish(now), now)

    def finish(self, done: Callable[[], None]) -> None:
        if not self._waiting:
            done()
            return
        # An exit must not wait for a broken disk: it is announced without these lines then.
        self._done = done
        self._loop.later(PATIENCE if self._retry is None else 2 * RETRY, self._finished)

    def unlogged(self) -> Loss | None:
        lines = self._lost.lines + sum(each.records.count(b"\n") for each in self._backlog)
        return Loss(what=Losable.LOG.value, since=self._trouble, until=time.time_ns(), lines=lines) if lines else None

    def rest(self) -> None:
        if self._hand is not None and self._hand.dismiss():
            self._hand = None

    def close(self) -> None:
        self._closed = True
        for timer in (self._retry, self._patience):
            if timer is not None:
                timer.cancel()
        if self._hand is not None:
            self._hand.close()
        else:
            self._file.close()
        self._journal.close()

    def _append(self, kind: Kind, stream: int, size: int, records: bytes, now: int) -> None:
        """`records` of the stream's last `size` bytes."""
        if not records:
            return
        unfinished = self._journal.position(stream) - len(self._encoders[stream].line)
        unheld = self._dropping or self._retry is not None or self._non_blocking
        full = self._journal.crowded or (self._waiting and self._waiting + len(records) > self._limit)
        if self._dropping or (unheld and full):
            self._lost.add(records)
            self._journal.dropped(stream, size, unfinished, self._lost.counts)
            return
        self._journal.add(kind, stream, now, size=size)
        self._wait(Waiting(records, stream, unfinished))

    def _wait(self, waiting: Waiting) -> None:
        self._backlog.append(waiting)
        self._waiting += len(waiting.records)
        if self._retry is None:
            self._offer()
            self._brake_if_full()

    def _offer(self) -> None:
        """Have what comes next written, unless something is being written already."""
        records = self._next()
        if records is None:
            return
        if self._hand is None:
            try:
                self._hand = Hand(self._file, self._loop, self._hand_done)
            except OSError:
                self._write_here(records)
                return
        self._hand.offer(records)

    def _write_here(self, records: bytes) -> None:
        """No thread and no descriptor is left for a hand: better a shim that waits for the disk than lines lost."""
        try:
            written = self._file.write(records)
        except OSError as error:
            self._failed(error)
        else:
            self._hand_done(None, written)

    def _next(self) -> bytes | None:
        """What is to be written now: records, then the marker of a gap; None when there is nothing."""
        if not self._backlog and self._lost.lines:
            # It joins the backlog, since a write that fails must be repeated with the same bytes.
            lost, self._lost = self._lost, Lost()
            entry = lost.entry(time.time_ns())
            self._journal.add_entry(entry)
            self._journal.told()
            self._backlog.append(Waiting(marker(entry)))
            self._waiting += len(self._backlog[0].records)
        return self._backlog[0].records if self._backlog else None

    # After an earlier shim's death

    def _resume(self, left: Left) -> None:
        """Log what an earlier shim has taken and has not, or not wholly, logged."""
        for waiting in self._rest([self._again(entry) for entry in left.entries], left):
            self._wait(waiting)
        if not _is_told(left):
            self._lost = Lost(left.lost_lines, left.lost_size, left.lost_errno)
        for stream, encoder in self._encoders.items():
            covered = [each.unfinished for each in self._backlog if each.stream == stream]
            encoder.resume(b"")
            rest = self._journal.unfinished(stream, max(covered, default=0))
            if rest:
                now = time.time_ns()
                self._append(Kind.CHUNK, stream, len(rest), encoder.feed(rest, now), now)

    def _again(self, entry: Entry) -> Waiting:
        """The same records as the earlier shim's."""
        if entry.kind is Kind.GAP:
            return Waiting(marker(entry))
        if entry.kind is Kind.TORN:
            return Waiting(b"\n")
        encoder = self._encoders[entry.stream]
        encoder.resume(b"")
        records = encoder.feed(self._journal.read(entry.stream, entry.start, entry.end), entry.time)
        if entry.kind is Kind.END:
            records += encoder.finish(entry.time)
        return Waiting(records, entry.stream, entry.end - len(encoder.line))

    def _rest(self, all_of_it: list[Waiting], left: Left) -> list[Waiting]:
        """Without what is in the file already. Nothing is left out of the list: each must be ticked off."""
        records = b"".join(each.records for each in all_of_it)
        found = self._file.begun(records[left.done :], left.place)
        done, rest = left.done + found, []
        for each in all_of_it:
            own = min(done, len(each.records))
            rest.append(replace(each, records=each.records[own:], done=own))
            done -= own
        if found:
            self._journal.partly_logged(rest[0].done - left.done, self._file.place())
        return rest

    def _hand_done(self, error: OSError | None, written: int) -> None:
        """The other thread has written so many bytes, or failed to."""
        if self._closed:
            return
        if error is not None:
            self._failed(error)
            return
        if written < len(self._backlog[0].records):
            self._written_partly(written)
        else:
            self._written()
        self._offer()
        self._finished_if_empty()

    def _written_partly(self, size: int) -> None:
        """The file is full: it is noted how far it goes before it is rotated."""
        first = self._backlog[0]
        self._backlog[0] = replace(first, records=first.records[size:])
        self._waiting -= size
        self._journal.partly_logged(size, self._file.place())
        self._grown()

    def _written(self) -> None:
        waiting = self._backlog.popleft()
        self._trouble = 0
        self._waiting -= len(waiting.records)
        next_done = self._backlog[0].done if self._backlog else 0
        self._journal.logged(waiting.stream, waiting.unfinished, self._file.place(), done=next_done)
        self._grown()
        if self._waiting <= self._limit // 2:
            self._release()

    def _failed(self, error: OSError) -> None:
        """The disk refuses. What waits goes on waiting; what does not fit is dropped, nobody is held for it."""
        self._lost.errno = error.errno or errno.EIO
        self._trouble = self._trouble or time.time_ns()
        self._release()
        self._retry = self._loop.later(RETRY, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._offer()

    def _brake_if_full(self) -> None:
        """A slow disk holds the container, but not for ever."""
        if self._non_blocking:
            return
        full = self._waiting > self._limit or self._journal.crowded
        if full and self._patience is None and self._retry is None:
            self._brake.hold(self)
            self._patience = self._loop.later(PATIENCE, self._start_dropping)

    def _start_dropping(self) -> None:
        self._dropping = True
        self._lost.errno = 0
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
    """A thread that writes, so that a write which takes long stops nothing else. One job at a time.

    Raises OSError when there can be no thread, or no descriptor for its answers.
    """

    def __init__(self, file: RotatingFile, loop: Loop, done: Callable[[OSError | None, int], None]) -> None:
        self._file = file
        self._loop = loop
        self._done = done
        self._job: bytes | None = None
        self._failure: OSError | None = None
        self._written = 0
        self._closing = False
        self._dismissed = False
        self._told = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._work = _thread.allocate_lock()
        self._work.acquire()
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError as error:
            os.close(self._told)
            raise OSError(errno.EAGAIN, str(error)) from error
        loop.add(self._told, select.EPOLLIN, self._heard)

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

    def dismiss(self) -> bool:
        """End the thread, not the file; False while something is being written, and once it is to end by itself."""
        if self._job is not None or self._closing:
            return False
        self._loop.remove(self._told)
        # All that the thread had to tell was heard.
        os.close(self._told)
        self._dismissed = True
        self._work.release()
        return True

    def _run(self) -> None:
        while True:
            self._work.acquire()
            if self._dismissed:
                return
            if self._job is not None:
                try:
                    self._written = self._file.write(self._job)
                except OSError as error:
                    self._failure = error
            if self._closing:
                self._file.close()
                # Nobody hears it any more.
                os.close(self._told)
                return
            os.eventfd_write(self._told, 1)

    def _heard(self, _events: int) -> None:
        os.eventfd_read(self._told)
        failure, self._failure, self._job = self._failure, None, None
        self._done(failure, self._written)


@dataclass(slots=True)
class Lost:
    """What had to be dropped since the file could last be written."""

    lines: int = 0
    size: int = 0
    # Why; 0 is a disk that is too slow.
    errno: int = 0

    def add(self, records: bytes) -> None:
        self.lines += records.count(b"\n")
        self.size += len(records)

    @property
    def counts(self) -> tuple[int, int, int]:
        return self.lines, self.size, self.errno

    def entry(self, now: int) -> Entry:
        """Of the marker that tells of it."""
        return Entry(kind=Kind.GAP, stream=self.errno, start=self.lines, end=self.size, time=now)


def marker(gap: Entry) -> bytes:
    """A record that tells readers of the gap."""
    reason = os.strerror(gap.stream) if gap.stream else "the disk is too slow"
    text = f"[bulkhead: {gap.start} lines ({gap.end} bytes) of log were lost: {reason}]\n"
    return Encoder("stderr").feed(text.encode(), gap.time)


def _is_told(left: Left) -> bool:
    """Whether the earlier shim died between the gap's entry and forgetting the gap."""
    last = left.entries[-1] if left.entries else None
    counts = (left.lost_errno, left.lost_lines, left.lost_size)
    return last is not None and last.kind is Kind.GAP and (last.stream, last.start, last.end) == counts


class RotatingFile:
    """Appends whole records. A write that failed half-way goes on where it stopped, so no record is torn."""

    def __init__(self, target: LogTarget) -> None:
        self._target = target
        self._fd = self._open()
        self._inode, self._size = _inode_and_size(self._fd)
        # Whether it ends with a whole record, unless somebody died while writing.
        self.whole = not self._size or os.pread(self._fd, 1, self._size - 1) == b"\n"
        self._torn: memoryview | None = None
        self._packing = _thread.allocate_lock()

    def write(self, records: bytes) -> int:
        """Append as much as belongs into one file, and tell how much that was; a full file is rotated before.

        Call it again with the same records after OSError, and only with them.
        """
        rest = self._torn if self._torn is not None else memoryview(records)
        self._torn = rest
        # A record that was cut short belongs to the file that has its beginning.
        if self._full() and self.whole:
            self._rotate()
        while rest:
            written = os.write(self._fd, rest[: self._room(records, len(records) - len(rest))])
            self._size += written
            self.whole = rest[written - 1] == _NEWLINE
            rest = rest[written:]
            self._torn = rest
            if self._full() and self.whole:
                break
        self._torn = None
        return len(records) - len(rest)

    def place(self) -> Place:
        """Where the next record goes; not to be asked during a write."""
        return Place(inode=self._inode, size=self._size)

    def begun(self, records: bytes, place: Place) -> int:
        """How many bytes of `records` are in the file, which were to be written behind `place`.

        How far a full file goes is noted before it is rotated: in another file than the place's they begin it.
        """
        found = _tail(self._target.path, place.size if self._inode == place.inode else 0, len(records))
        return len(found) if records.startswith(found) else 0

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
        self._inode, self._size = _inode_and_size(fresh)

        if self._target.compress and self._target.max_file > 1:
            self._packing.acquire()
            _thread.start_new_thread(self._pack, (_numbered(path, 1),))

    def _move_up(self, path: str) -> None:
        """Free `path`. Who is killed within this leaves a number free, and the next one goes on from there."""
        last = self._target.max_file - 1
        free = next((number for number in range(1, last + 1) if not _is_there(path, number)), last)
        if free == last:
            # With a single file, those who still read the old one keep it until they close it.
            _remove(path, last)
        for number in range(free, 0, -1):
            _move(path, number - 1)

    def _pack(self, path: str) -> None:
        """A rotated file that cannot be packed stays as it is."""
        try:
            with contextlib.suppress(OSError):
                _compress(path)
        finally:
            self._packing.release()

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._target.path, flags, 0o640)


def _inode_and_size(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_ino, found.st_size


def _tail(path: str, start: int, most: int) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        found = b""
        while len(found) < most and (piece := os.pread(fd, _READ, start + len(found))):
            found += piece
        return found
    finally:
        os.close(fd)


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


def _is_there(path: str, number: int) -> bool:
    return any(os.path.lexists(_numbered(path, number) + suffix) for suffix in _SUFFIXES)


def _remove(path: str, number: int) -> None:
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_numbered(path, number) + suffix)


def _move(path: str, number: int) -> None:
    """To the next number, as one file: a packed one is complete, whoever died before the plain one was unlinked."""
    source, target = _numbered(path, number), _numbered(path, number + 1)
    if number and os.path.lexists(f"{source}.gz"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(source)
        os.rename(f"{source}.gz", f"{target}.gz")
    else:
        os.rename(source, target)


def _numbered(path: str, number: int) -> str:
    return f"{path}.{number}" if number else path
