"""The container's log file: written as read, and never the reason why a container stands still.

A write that fails (full disk) is tried again every half second. Meanwhile up to 1 MiB waits in
memory, the rest is dropped and counted, and when writing works again a line says how much is missing.
A disk that is slow holds the container for at most five seconds at a time; then lines are dropped, too.
Writes are made by a thread, which comes with the first of them: the shim itself never waits for the disk.
What waits is in a journal that outlives the shim: its successor logs the rest, every line once.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from bulkhead.model.losses import Loss
from bulkhead.model.losses import Lost as Losable
from bulkhead.shim.hand import Hand
from bulkhead.shim.journal import Entry, Journal, Kind, Left
from bulkhead.shim.jsonfile import Encoder
from bulkhead.shim.loop import Loop, Timer
from bulkhead.shim.rotation import RotatingFile
from bulkhead.shim.sinks import Brake, LogSink, LogTarget

_BACKLOG = 1 << 20
RETRY = 0.5
PATIENCE = 5.0
_STREAMS = {1: "stdout", 2: "stderr"}


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
        self._take_up(left)

    def _take_up(self, left: Left | None) -> None:
        """Begin, or go on where an earlier shim's journal ends."""
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
