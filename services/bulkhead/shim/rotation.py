"""A file of whole records that is rotated and packed.

<path>, <path>.1 ... <path>.<max_file - 1>     Docker's json-file names, newest first; .gz when packed
"""
# ruff: noqa: PTH104, PTH108, PTH110 -- see linux.atomicfile

from __future__ import annotations

import _thread
import contextlib
import os

from bulkhead.linux import atomicfile
from bulkhead.shim.journal import Place
from bulkhead.shim.sinks import LogTarget

# zlib: the format of gzip, the largest window.
_GZIP = 31
_PACK_BLOCK = 256 << 10
# Of a file as it was written, and packed.
_SUFFIXES = ("", ".gz")
_READ = 256 << 10
_NEWLINE = 0x0A


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
        before, self._fd = self._fd, self._open()
        self._inode, self._size = _inode_and_size(self._fd)
        # Closed, whatever a file server has to say of it (close(2)): the number is another's from here on.
        with contextlib.suppress(OSError):
            os.close(before)

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
