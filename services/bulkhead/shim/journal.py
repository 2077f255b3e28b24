"""What was taken from a container's pipes and is not yet in its log, where the shim's death cannot reach it.

A memory file for each stream; the supervisor keeps duplicates of their descriptors (custody). Bytes come by
splice(2), whose file offset, shared by all duplicates, moves in the same system call as the pipe: whoever comes
after a SIGKILL finds each byte either in the pipe or here. Positions only grow; what is logged becomes a hole.

    0        header: what waits first, where in the log file it goes, where each stream's unfinished line begins
    4 KiB    entries, a ring: which bytes make the records that wait for the disk, in the log's order, and their time
    1 MiB    the bytes (the second file has nothing before them)

An entry's bytes begin with the unfinished line before it, so that its records follow from the entry alone.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

FIRST, SECOND = "journal1", "journal2"
# A terminal's output comes through a pipe of ours, since splice wants one.
HOPPER_IN, HOPPER_OUT = "hopper-in", "hopper-out"
NAMES = (FIRST, SECOND, HOPPER_IN, HOPPER_OUT)
_STREAMS = {1: FIRST, 2: SECOND}
_CHUNK = 256 << 10
_VERSION = 2
_HEADER = struct.Struct("=II9QI")
_ENTRY = struct.Struct("=QIIQQQ")
_ENTRIES = 4 << 10
_DATA = 1 << 20
RING = 16 << 10
_PAGE = mmap.PAGESIZE
# Memory is given back when so much of it is logged.
_WORTHWHILE = 32 << 10


class Kind(IntEnum):
    """What makes an entry's records."""

    CHUNK = 0
    # The stream's last line, which lacks its end.
    END = 1
    # The marker of a gap: `start` lines, `end` bytes, for the errno `stream`.
    GAP = 2
    # A newline behind a record that nobody can complete.
    TORN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An end of the log file: its inode and size."""

    inode: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`start` and `end` are positions in the stream's bytes, `time` Unix nanoseconds."""

    kind: Kind
    stream: int
    start: int
    end: int
    time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a dead shim has left: entries not known to be logged behind `place`, lines unfinished, lines dropped.

    Of the first entry's records, `done` bytes are in the log before `place`.
    """

    place: Place
    done: int
    entries: Sequence[Entry]
    lost_lines: int
    lost_size: int
    lost_errno: int


class Journal:
    """One container's. The descriptors are its own."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        self.descriptors = {name: descriptors[name] for name in NAMES if name in descriptors}
        self._fds = {stream: self.descriptors[name] for stream, name in _STREAMS.items()}
        self._marks = self._fds[1]
        self._works = True
        self._first = self._next = self._base = 0
        self._place = Place()
        self._done = 0
        self._open = dict.fromkeys(_STREAMS, _DATA)
        self._end = dict.fromkeys(_STREAMS, _DATA)
        self._freed = dict.fromkeys(_STREAMS, _DATA)
        self._lost = (0, 0, 0)
        # Where bytes were dropped last and are not given back, while nothing else comes.
        self._gap: dict[int, int] = {}

    @classmethod
    def make(cls, *, terminal: bool = False) -> Journal:
        """An empty one. Raises OSError."""
        made: dict[str, int] = {}
        try:
            for name in _STREAMS.values():
                made[name] = os.memfd_create(f"bulkhead-{name}", os.MFD_CLOEXEC)
                os.lseek(made[name], _DATA, os.SEEK_SET)
            if terminal:
                made[HOPPER_OUT], made[HOPPER_IN] = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                # A terminal gives a page at a time; all of it should fit.
                widen(made[HOPPER_IN], _CHUNK)
        except OSError:
            for descriptor in made.values():
                os.close(descriptor)
            raise
        return cls(made)

    @classmethod
    def inherited(cls, descriptors: Mapping[str, int]) -> tuple[Journal, Left] | None:
        """An earlier shim's; None when there is none, or not of this version: then they are closed."""
        if FIRST not in descriptors or SECOND not in descriptors:
            return None
        journal = cls(descriptors)
        header = _header(descriptors)
        if header is None:
            journal.close()
            return None
        return journal, journal._resume(header)

    @staticmethod
    def is_among(descriptors: Mapping[str, int]) -> bool:
        """Whether `inherited` will find one, which nobody has given up."""
        return SECOND in descriptors and _header(descriptors) is not None

    # Work

    def begin(self, place: Place) -> None:
        """The log's end is `place` now, and nothing waits."""
        self._place = place
        self._write_header()

    def take(self, stream: int, source: int, *, terminal: bool) -> bytes:
        """Move what the source has here; empty when it has ended. BlockingIOError when it has nothing."""
        if not self._works or (terminal and HOPPER_IN not in self.descriptors):
            self._give_up()
            return os.read(source, _CHUNK)
        if terminal:
            size = os.splice(source, self.descriptors[HOPPER_IN], _CHUNK, flags=os.SPLICE_F_NONBLOCK)
            return self._received(stream, self.descriptors[HOPPER_OUT]) if size else b""
        return self._received(stream, source)

    def add(self, kind: Kind, stream: int, time: int, *, size: int) -> None:
        """Records are about to wait for the disk: of the last `size` bytes of the stream."""
        end = self._end.get(stream, 0)
        self._gap.pop(stream, None)
        self.add_entry(Entry(kind=kind, stream=stream, start=end - size, end=end, time=time))

    def add_entry(self, entry: Entry) -> None:
        """The same of any kind."""
        if not self._works:
            return
        place = _ENTRIES + (self._next - self._base) % RING * _ENTRY.size
        packed = _ENTRY.pack(self._next, entry.kind, entry.stream, entry.start, entry.end, entry.time)
        self._next += 1
        self._write(packed, place)

    def partly_logged(self, size: int, place: Place) -> None:
        """The next `size` bytes of the first entry's records are in the log, up to `place`: it is rotated now."""
        self._done += size
        self._place = place
        if self._works:
            self._write_header()

    def logged(self, stream: int, unfinished: int, place: Place, *, done: int = 0) -> None:
        """The entry that has waited longest is in the log, up to `place`; the stream goes on at `unfinished`.

        Of the next one `done` bytes are, too.
        """
        if not self._works:
            return
        self._first += 1
        if self._first == self._next:
            self._base = self._next
        self._place, self._done = place, done
        if stream:
            self._open[stream] = max(self._open[stream], unfinished)
        self._write_header()
        # Not up to where the stream is open: what was dropped lies behind entries that still wait.
        if stream and unfinished - self._freed[stream] >= _WORTHWHILE:
            self._free(stream, self._freed[stream], unfinished)
            self._freed[stream] = unfinished & -_PAGE

    def dropped(self, stream: int, size: int, unfinished: int, lost: tuple[int, int, int]) -> None:
        """The last `size` bytes will never be logged; (lines, bytes, errno) of all that is lost and not told yet."""
        if not self._works:
            return
        self._lost = lost
        self._open[stream] = unfinished
        self._write_header()
        # A chunk may be smaller than a page: the run of drops is given back as one.
        begin = self._gap.get(stream, self._end[stream] - size)
        self._free(stream, begin, unfinished)
        self._gap[stream] = max(begin, unfinished & -_PAGE)

    def told(self) -> None:
        """What is lost is in an entry now."""
        self._lost = (0, 0, 0)
        if self._works:
            self._write_header()

    @property
    def crowded(self) -> bool:
        """Whether there is no room for more entries than those that nobody can put off."""
        return self._works and self._next - self._first >= RING - 8

    def position(self, stream: int) -> int:
        """Behind the stream's last byte."""
        return self._end[stream]

    # Succession

    def read(self, stream: int, start: int, end: int) -> bytes:
        """The bytes between two positions."""
        found = b""
        while start + len(found) < end:
            piece = os.pread(self._fds[stream], end - start - len(found), start + len(found))
            if not piece:
                break
            found += piece
        return found

    def unfinished(self, stream: int, start: int) -> bytes:
        """What no entry covers, from `start` on or where the dead shim says; `take` goes on behind it."""
        return self.read(stream, max(start, self._open[stream]), self._end[stream])

    def close(self) -> None:
        """Let go of the memory."""
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()
        self._works = False

    # Inside

    def _received(self, stream: int, pipe: int) -> bytes:
        fd = self._fds[stream]
        try:
            size = os.splice(pipe, fd, _CHUNK, flags=os.SPLICE_F_NONBLOCK)
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.ENOSPC, errno.EFBIG):
                raise
            # Without memory for it there is a log all the same.
            self._give_up()
            return os.read(pipe, _CHUNK)
        if not size:
            return b""
        begun = self._end[stream]
        self._end[stream] = begun + size
        return os.pread(fd, size, begun)

    def _give_up(self) -> None:
        """From now on the shim's death costs what it has taken."""
        if self._works:
            self._works = False
            os.ftruncate(self._marks, 0)

    def _write_header(self) -> None:
        # Within one page: a write that a signal cannot cut in two.
        place, begins = self._place, self._open
        lines, size, number = self._lost
        header = _HEADER.pack(
            *(_VERSION, 0, self._first, self._base, place.inode, place.size, self._done),
            *(begins[1], begins[2], lines, size, number),
        )
        self._write(header, 0)

    def _write(self, packed: bytes, place: int) -> None:
        try:
            os.pwrite(self._marks, packed, place)
        except OSError:
            self._give_up()

    def _resume(self, header: tuple[int, ...]) -> Left:
        _, _, self._first, self._base, inode, size, self._done, first, second, *lost = header
        self._next = self._first
        self._place = Place(inode=inode, size=size)
        self._open = {1: first, 2: second}
        self._lost = (lost[0], lost[1], lost[2])
        if HOPPER_OUT in self.descriptors:
            _empty(self.descriptors[HOPPER_OUT], self._fds[1])
        entries = []
        while (entry := self._entry(self._next)) is not None:
            entries.append(entry)
            self._next += 1
        for stream, fd in self._fds.items():
            self._end[stream] = os.lseek(fd, 0, os.SEEK_CUR)
        return Left(
            place=self._place,
            done=self._done,
            entries=entries,
            lost_lines=lost[0],
            lost_size=lost[1],
            lost_errno=lost[2],
        )

    def _entry(self, number: int) -> Entry | None:
        if number - self._first >= RING:
            return None
        place = _ENTRIES + (number - self._base) % RING * _ENTRY.size
        found = os.pread(self._marks, _ENTRY.size, place)
        # Number 0 is not told from nothing by its number alone.
        if len(found) < _ENTRY.size or not any(found):
            return None
        said, kind, stream, start, end, time = _ENTRY.unpack(found)
        return Entry(kind=Kind(kind), stream=stream, start=start, end=end, time=time) if said == number else None

    def _free(self, stream: int, start: int, end: int) -> None:
        """Give the whole pages between back: os has no fallocate(2) that makes holes."""
        start, end = -(-start // _PAGE) * _PAGE, end & -_PAGE
        if end <= start:
            return
        try:
            with mmap.mmap(self._fds[stream], end - start, offset=start) as view:
                view.madvise(mmap.MADV_REMOVE)
        except (OSError, ValueError):
            return


def _header(descriptors: Mapping[str, int]) -> tuple[int, ...] | None:
    """None where there is none of this version."""
    found = os.pread(descriptors[FIRST], _HEADER.size, 0) if FIRST in descriptors else b""
    header = _HEADER.unpack(found) if len(found) == _HEADER.size else (0,)
    return header if header[0] == _VERSION else None


def widen(pipe: int, size: int) -> None:
    """Let a pipe hold so many bytes, if this user may. Raises OSError."""
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
    except OSError as error:
        # EPERM: this user's pipes hold too much already (pipe(7)); the default size works as well.
        if error.errno != errno.EPERM:
            raise


def _empty(pipe: int, into: int) -> None:
    while True:
        try:
            if not os.splice(pipe, into, _CHUNK, flags=os.SPLICE_F_NONBLOCK):
                return
        except BlockingIOError:
            return
