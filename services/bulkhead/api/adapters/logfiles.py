"""The files of a json-file log: `x-json.log`, and its rotated `.1`, `.2.gz` and so on, the oldest last.

A cursor starts where the client's `tail` or `since` says, found from the end or by bisection, and never holds more
of a file in memory than a block. It follows rotation by inode and truncation by size.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO

import msgspec

from bulkhead.api.logs import Entry, fixed_width
from bulkhead.api.schema.times import rfc3339_fixed
from bulkhead.errors import Internal

BLOCK = 256 << 10
TAIL_BLOCK = 64 << 10
# A line is at most 16 KiB of output, six bytes for each when escaped, and its attributes.
LONGEST_LINE = 1 << 20
# Not blocking: a FIFO in the place of a log must not hold up a thread.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_BISECTION_ENDS = 64 << 10


def open_log(path: str, tail: int | None, since: int | None) -> FileCursor:
    """A cursor on the log at `path`, before the last `tail` lines or the first line of `since` (ns)."""
    sources = _sources(path)
    try:
        if tail is not None:
            sources = _last_lines(sources, tail)
        elif since is not None:
            _skip_until(sources, rfc3339_fixed(since))
        return FileCursor(path, sources)
    except BaseException:
        for source in sources:
            source.close()
        raise


@dataclass(slots=True)
class _Source:
    """An open file of the log; `skip` lines of it are not wanted."""

    raw: FileIO
    inode: int
    unpacked: gzip.GzipFile | None = None
    skip: int = 0

    @property
    def file(self) -> FileIO | gzip.GzipFile:
        return self.unpacked or self.raw

    def close(self) -> None:
        self.raw.close()


class FileCursor:
    """`logs.Cursor`."""

    def __init__(self, path: str, sources: list[_Source]) -> None:
        self._path = path
        self._sources = sources  # oldest first; the last is the one that grows
        self._partial = b""

    def read(self) -> bytes:
        while True:
            if not self._sources:
                self._sources = _sources(self._path)[-1:]
                if not self._sources:
                    return b""
            source = self._sources[0]
            data = _read(source)
            if data:
                lines = _without_first(self._complete(data), source)
                if lines:
                    return lines
            elif not self._advance():
                return b""

    def _complete(self, data: bytes) -> bytes:
        """The complete lines; the beginning of the next one is kept."""
        data = self._partial + data
        end = data.rfind(b"\n") + 1
        self._partial = data[end:] if len(data) - end < LONGEST_LINE else b""
        return data[:end]

    def _advance(self) -> bool:
        """At the end of a file: whether there is another one to go on with."""
        source = self._sources[0]
        if len(self._sources) == 1:
            newer = self._newer(source)
            if not newer:
                return self._truncated(source)
            # Lines may have been added between our last read and the rotation.
            self._sources += newer
            return True
        source.close()
        del self._sources[0]
        self._partial = b""
        return True

    def _newer(self, source: _Source) -> list[_Source]:
        """The files that came after `source`, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            if os.stat(self._path).st_ino == source.inode:  # noqa: PTH116
                return []
        found = _sources(self._path, compressed=False)
        inodes = [each.inode for each in found]
        if source.inode in inodes:
            newer = found[inodes.index(source.inode) + 1 :]
        else:
            # Compressed or dropped meanwhile: what was written to later came later.
            written = os.fstat(source.raw.fileno()).st_mtime_ns
            older = sum(os.fstat(each.raw.fileno()).st_mtime_ns <= written for each in found)
            newer = found[older:]
        for each in found[: len(found) - len(newer)]:
            each.close()
        return newer

    def _truncated(self, source: _Source) -> bool:
        if source.unpacked or os.fstat(source.raw.fileno()).st_size >= source.file.tell():
            return False
        source.file.seek(0)
        self._partial = b""
        return True

    def close(self) -> None:
        for source in self._sources:
            source.close()
        self._sources = []


def _sources(path: str, *, compressed: bool = True) -> list[_Source]:
    """The files that are there, open, oldest first.

    One name may be free in the midst of them: a rotation is under way, or whoever made it was killed.
    """
    found: dict[int, _Source] = {}
    missing = 0
    for name in _names(path):
        # Newest first, so that a rotation meanwhile shows a file twice rather than never.
        source = _open_any((name, f"{name}.gz") if compressed and name != path else (name,))
        if source is None:
            missing += 1
            if missing > 1:
                break
        elif source.inode in found:
            source.close()
        else:
            found[source.inode] = source
    return [*found.values()][::-1]


def _open_any(names: tuple[str, ...]) -> _Source | None:
    return next((source for name in names if (source := _open(name)) is not None), None)


def _names(path: str) -> Iterator[str]:
    yield path
    number = 1
    while True:
        yield f"{path}.{number}"
        number += 1


def _open(name: str) -> _Source | None:
    try:
        fd = os.open(name, _FLAGS)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Internal(f"cannot read log {name}: {error.strerror}") from error
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise Internal(f"cannot read log {name}: not a regular file")
    file = FileIO(fd, "rb")
    unpacked = gzip.GzipFile(fileobj=file, mode="rb") if name.endswith(".gz") else None
    return _Source(file, found.st_ino, unpacked)


def _read(source: _Source) -> bytes:
    with contextlib.suppress(EOFError, gzip.BadGzipFile, zlib.error):
        return source.file.read(BLOCK) or b""
    return b""


def _without_first(lines: bytes, source: _Source) -> bytes:
    while source.skip and lines:
        lines = lines[lines.find(b"\n") + 1 :]
        source.skip -= 1
    return lines


def _last_lines(sources: list[_Source], wanted: int) -> list[_Source]:
    """The sources that hold the last `wanted` lines, each placed before its first wanted one."""
    kept: list[_Source] = []
    for source in reversed(sources):
        if wanted <= 0 and kept:
            source.close()
            continue
        kept.insert(0, source)
        wanted -= _seek_compressed(source, wanted) if source.unpacked else _seek_last(source, wanted)
    return kept


def _seek_last(source: _Source, wanted: int) -> int:
    """Place a plain file before its last `wanted` complete lines; how many there are."""
    file = source.raw
    position = end = os.fstat(file.fileno()).st_size
    seen = 0  # newlines; one of them ends the last line
    while position > 0:
        size = min(TAIL_BLOCK, position)
        position -= size
        block = os.pread(file.fileno(), size, position)
        count = block.count(b"\n")
        if seen + count <= wanted:
            seen += count
            continue
        index = len(block)
        for _ in range(wanted + 1 - seen):
            index = block.rfind(b"\n", 0, index)
        file.seek(position + index + 1)
        return wanted
    file.seek(0 if end else end)
    return seen


def _seek_compressed(source: _Source, wanted: int) -> int:
    lines = 0
    while block := _read(source):
        lines += block.count(b"\n")
    source.file.seek(0)
    source.skip = max(lines - wanted, 0)
    return min(lines, wanted)


def _skip_until(sources: list[_Source], since: str) -> None:
    """Place plain files by bisection before their first line that is not older than `since`."""
    for source in sources:
        if source.unpacked:
            continue
        low, high = 0, os.fstat(source.raw.fileno()).st_size
        while high - low > _BISECTION_ENDS:
            middle = (low + high) // 2
            start, stamp = _first_stamp(source, middle)
            if stamp and stamp < since:
                low = start
            else:
                high = middle
        source.file.seek(low)


def _first_stamp(source: _Source, position: int) -> tuple[int, str]:
    """Where the first whole line after `position` begins, and its time; empty when there is none nearby."""
    block = os.pread(source.raw.fileno(), _BISECTION_ENDS, position)
    start = block.find(b"\n") + 1
    end = block.find(b"\n", start)
    if start == 0 or end < 0:
        return position, ""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        return position + start, fixed_width(msgspec.json.decode(block[start:end], type=Entry).time)
    return position, ""
