"""Room for the records on a full disk: what ends, is removed or pruned is recorded all the same, without new blocks.

The write-ahead log has its blocks in advance, for as many pages as SQLite lets gather there, its index, which is
mapped memory and would end the process by SIGBUS, too, and the file itself has free pages. SQLite removes log and
index when the manager stops: second names keep their blocks for the next one.

A log that is written over and over in place has its price where the kernel no longer has its pages in memory: frames
end in the middle of pages, so that each page is read before it is written, one after the other, while the writer
waits. `read_ahead` has them read together, and in time.

    <file>-wal, <file>-shm                   log and index
    <file>-reserve-wal, <file>-reserve-shm   their blocks while no manager runs
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sqlite3
import struct
import time
from pathlib import Path

# SQLite moves the log into the file every 1,000 pages (wal_autocheckpoint).
_LOG = 5 << 20
_INDEX = 32 << 10
_FREE_PAGES = 64
_ROOM = 512 << 10
# A log whose header is no header is an empty log (sqlite.org/walformat.html).
_HEADER = 32
# Of the index (sqlite.org/walformat.html, 2.1): the size of pages and the number of frames, then how many of these are
# in the file. All are there: the log begins anew with the next one.
_INDEX_HEAD = struct.Struct("=14x H I 76x I")
_FRAME_HEADER = 24
# Read at a time; what a container's life writes, about. Half of it is ahead at least.
_AHEAD = 128 << 10
# What was read stays in memory for so long, on a machine where it is worth reading at all (seconds).
_STAYS = 1.0


class Reserve:
    """Of one file of records; for its only writer."""

    def __init__(self, path: Path) -> None:
        self._log, self._index = (path.with_name(f"{path.name}-{kind}") for kind in ("wal", "shm"))
        self._log_kept, self._index_kept = (path.with_name(f"{path.name}-reserve-{kind}") for kind in ("wal", "shm"))
        self._held = -1
        self._read = -1
        # The index's head as it is at each moment; up to where in the log, and when, was last read ahead.
        self._head: mmap.mmap | None = None
        self._ahead, self._since = 0, 0.0

    def take_back(self) -> None:
        """Before SQLite opens the file: the reserve becomes its log and index, unless there are some.

        An empty log is none: a reader such as the doctor leaves one behind, with an index.
        """
        in_use = _size(self._log) > 0
        with contextlib.suppress(OSError):
            if not in_use and self._log_kept.exists():
                with self._log_kept.open("r+b") as file:
                    file.write(bytes(_HEADER))
        for kept, name in ((self._log_kept, self._log), (self._index_kept, self._index)):
            with contextlib.suppress(OSError):
                if in_use and name.exists():
                    kept.unlink(missing_ok=True)
                else:
                    kept.replace(name)

    def fill(self, connection: sqlite3.Connection) -> None:
        """Take the blocks that are still wanting. A disk that has none is no reason not to start."""
        with contextlib.suppress(OSError, ValueError):  # the latter of an index that is shorter than its head
            # Closing any descriptor of the index would drop SQLite's locks on it (fcntl(2)).
            self._held = os.open(self._index, os.O_RDWR | os.O_CLOEXEC)
            # Written, not only allocated: a page of an extent that was never written may still want blocks.
            os.pwrite(self._held, os.pread(self._held, _INDEX, 0), 0)
            os.fsync(self._held)
            self._head = mmap.mmap(self._held, _INDEX_HEAD.size, prot=mmap.PROT_READ)
        with contextlib.suppress(OSError, sqlite3.Error), self._log.open("r+b") as file:
            _make_room(connection)
            self._read = os.dup(file.fileno())
            # Written, too: the first write to a block that was only allocated changes the file's map, and whoever has
            # the disk sync a record waits for that as well.
            file.write(bytes(max(0, _LOG - file.seek(0, os.SEEK_END))))
            file.flush()
            os.fdatasync(file.fileno())

    def read_ahead(self) -> None:
        """Before a write: have the kernel read what it has not of the pages to be written; nobody waits for it.

        Without a system call where it was told just now: each gives the interpreter to whoever wants it.
        """
        if self._head is None or self._read < 0:
            return
        page, frames, in_file = _INDEX_HEAD.unpack_from(self._head)
        begin = 0 if frames == in_file else _HEADER + frames * (page + _FRAME_HEADER)
        end = (begin + 3 * _AHEAD // 2) // _AHEAD * _AHEAD
        now = time.monotonic()
        if end != self._ahead or now - self._since > _STAYS:
            self._ahead, self._since = end, now
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._read, begin, end - begin, os.POSIX_FADV_WILLNEED)

    def put_aside(self) -> None:
        """Before SQLite closes the file."""
        for name, kept in ((self._log, self._log_kept), (self._index, self._index_kept)):
            with contextlib.suppress(OSError):
                kept.unlink(missing_ok=True)
                kept.hardlink_to(name)

    def close(self) -> None:
        """After SQLite has closed the file."""
        if self._head is not None:
            self._head.close()
            self._head = None
        for descriptor in (self._held, self._read):
            if descriptor >= 0:
                os.close(descriptor)
        self._held = self._read = -1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _make_room(connection: sqlite3.Connection) -> None:
    """Pages that are written once and freed are in the file for good, and go to whoever needs some."""
    if connection.execute("PRAGMA freelist_count").fetchone()[0] >= _FREE_PAGES:
        return
    connection.executescript(
        "DROP TABLE IF EXISTS reserve; BEGIN; CREATE TABLE reserve (bytes BLOB);"
        f" INSERT INTO reserve VALUES (zeroblob({_ROOM})); COMMIT; DROP TABLE reserve; PRAGMA wal_checkpoint(PASSIVE)"
    )
