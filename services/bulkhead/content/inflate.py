"""A compressed stream as pieces of plain bytes, inflated in one thread and hashed in another.

The codec is told by the stream's first bytes, as Docker does: media types lie. Limits stop what would
expand without end; the consumer raises whatever went wrong in a thread.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, cast

from bulkhead.errors import DataLoss, InvalidArgument

PIECE = 256 << 10
_READ = 256 << 10
# Pieces between two threads: enough to keep both busy, few enough to bound memory.
_QUEUED = 8
# Of a mark, see Following.
WHOLE = 1 << 63
_MARK = 8
# A zstd frame may ask for gigabytes of window; encoders in use stay below this (zstd --ultra is 128 MiB).
_ZSTD_WINDOW = 128 << 20

Reader = Callable[[int], bytes]
Codec = Callable[[Reader], Iterator[bytes]]


class Limits(NamedTuple):
    """What an archive may expand to (battery M01)."""

    size: int = 256 << 30
    entries: int = 5_000_000
    # Within the allowance any ratio is taken: a gigabyte of zeros is a legal file.
    ratio: int = 200
    allowance: int = 2 << 30


class Inflated:
    """The plain bytes of `read(n)`'s stream; call it for the next piece, b"" is the end."""

    def __init__(
        self, read: Reader, limits: Limits, *, consumed: Callable[[int], None], codec: Codec | None = None
    ) -> None:
        """`codec` where it is known, and not told by the stream's beginning."""
        self._read = read
        self._codec = codec or plain
        self._limits = limits
        self._consumed = consumed
        self._pieces: queue.Queue[bytes | BaseException] = queue.Queue(_QUEUED)
        self._to_hash: queue.Queue[bytes] = queue.Queue(_QUEUED)
        self._hasher = hashlib.sha256()
        self._end: bytes | BaseException | None = None
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._inflate, self._hash)]
        for thread in self._threads:
            thread.start()

    def __call__(self) -> bytes:
        piece = self._end if self._end is not None else self._pieces.get()
        if piece == b"" or isinstance(piece, BaseException):
            self._end = piece
        if isinstance(piece, BaseException):
            raise piece
        return piece

    def hexdigest(self) -> str:
        """sha256 of all plain bytes; to be asked after the end was reached."""
        for thread in self._threads:
            thread.join()
        return self._hasher.hexdigest()

    def _inflate(self) -> None:
        try:
            for piece in bounded(self._read, self._limits, self._consumed, self._codec):
                self._pieces.put(piece)
                self._to_hash.put(piece)
        except BaseException as error:
            self._pieces.put(error)
        else:
            self._pieces.put(b"")
        finally:
            self._to_hash.put(b"")

    def _hash(self) -> None:
        while piece := self._to_hash.get():
            self._hasher.update(piece)


def bounded(
    read: Reader, limits: Limits, consumed: Callable[[int], None], codec: Codec | None = None
) -> Iterator[bytes]:
    """`codec(read)`, which is `plain` if not said, refused with InvalidArgument where it grows beyond its limits."""
    taken = made = 0

    def counted(count: int) -> bytes:
        nonlocal taken
        data = read(count)
        taken += len(data)
        consumed(taken)
        return data

    for piece in (codec or plain)(counted):
        made += len(piece)
        if made > limits.size:
            raise InvalidArgument(f"cannot unpack archive: it expands to more than {limits.size} bytes")
        if made > limits.allowance and made > taken * limits.ratio:
            raise InvalidArgument(f"cannot unpack archive: it expands more than {limits.ratio}-fold")
        yield piece


def plain(read: Reader) -> Iterator[bytes]:
    """The plain bytes of gzip, zstd, bzip2, xz or uncompressed input. Raises DataLoss when it is damaged."""
    head = b""
    while len(head) < 6 and (more := read(_READ)):
        head += more
    for magic, codec in _CODECS.items():
        if head.startswith(magic):
            return codec(_pushed_back(head, read))
    return stored(_pushed_back(head, read))


def read_fd(fd: int) -> Reader:
    """A reader of a file descriptor."""

    def read(count: int) -> bytes:
        return os.read(fd, count)

    return read


class Following:
    """A reader of a file that still grows: `marks` gives its length, time and again, 8 bytes each, little-endian.

    The highest bit says that this is all. Raises DataLoss when the marks end before.
    """

    def __init__(self, fd: int, marks: int) -> None:
        self._fd = fd
        self._marks = marks
        self._position = 0
        self._there = 0
        self._whole = False

    def __call__(self, count: int) -> bytes:
        self.wait(self._position + 1)
        data = os.pread(self._fd, min(count, self._there - self._position), self._position)
        self._position += len(data)
        return data

    def wait(self, length: int) -> None:
        """Until the file is so long, or whole."""
        while self._there < length and not self._whole:
            mark = os.read(self._marks, _MARK)
            if len(mark) < _MARK:
                raise DataLoss("cannot unpack archive: it did not arrive whole")
            value = int.from_bytes(mark, "little")
            self._there, self._whole = value & ~WHOLE, bool(value & WHOLE)


def _pushed_back(head: bytes, read: Reader) -> Reader:
    held = [head] if head else []

    def again(count: int) -> bytes:
        return held.pop() if held else read(count)

    return again


def stored(read: Reader) -> Iterator[bytes]:
    """What is not packed, as it is."""
    while data := read(PIECE):
        yield data


def _gzip(read: Reader) -> Iterator[bytes]:
    from isal import isal_zlib

    # isal's stubs do not say that it is an exception.
    damage = cast("type[Exception]", isal_zlib.error)
    data = read(_READ)
    while data:
        member = isal_zlib.decompressobj(wbits=31)
        while not member.eof:
            if not data:
                raise DataLoss("cannot unpack archive: unexpected end of gzip data")
            try:
                piece = member.decompress(data, PIECE)
            except damage as error:
                raise DataLoss(f"cannot unpack archive: damaged gzip data: {error}") from error
            data = member.unconsumed_tail or (b"" if member.eof else read(_READ))
            if piece:
                yield piece
        data = _next_member(member.unused_data, read)


def _next_member(data: bytes, read: Reader) -> bytes:
    """What follows a gzip member: another one, or padding of zeros to be left out."""
    while True:
        data = data.lstrip(b"\0")
        if len(data) >= 2 or not (more := read(_READ)):
            break
        data += more
    if data and not data.startswith(b"\x1f\x8b"):
        raise DataLoss("cannot unpack archive: damaged gzip data: garbage after its end")
    return data


def _zstd(read: Reader) -> Iterator[bytes]:
    import zstandard

    from bulkhead.content.zstd_frames import Frames

    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    frames = Frames()

    def followed(count: int) -> bytes:
        data = read(count)
        frames.feed(data)
        return data

    source = cast(BinaryIO, _File(followed))
    try:
        with decompressor.stream_reader(source, read_size=_READ, read_across_frames=True) as reader:
            while piece := reader.read(PIECE):
                yield piece
    except zstandard.ZstdError as error:
        raise DataLoss(f"cannot unpack archive: damaged zstd data: {error}") from error
    if not frames.complete:
        raise DataLoss("cannot unpack archive: unexpected end of zstd data")


class _File:
    """A reader in the shape that zstandard wants."""

    def __init__(self, read: Reader) -> None:
        self.read = read


def _bzip2(read: Reader) -> Iterator[bytes]:
    import bz2

    return _with_decompressor(read, bz2.BZ2Decompressor, "bzip2")


def _xz(read: Reader) -> Iterator[bytes]:
    import lzma

    return _with_decompressor(read, lambda: lzma.LZMADecompressor(memlimit=256 << 20), "xz")


def _with_decompressor(read: Reader, make: Callable[[], Any], name: str) -> Iterator[bytes]:
    """The interface that bz2 and lzma share."""
    data = read(_READ)
    while data:
        member = make()
        while not member.eof:
            if member.needs_input and not data and not (data := read(_READ)):
                raise DataLoss(f"cannot unpack archive: unexpected end of {name} data")
            try:
                piece = member.decompress(data, PIECE)
            except Exception as error:
                raise DataLoss(f"cannot unpack archive: damaged {name} data: {error}") from error
            data = b""
            if piece:
                yield piece
        data = member.unused_data.lstrip(b"\0") or read(_READ)


_CODECS: dict[bytes, Codec] = {
    b"\x1f\x8b": _gzip,
    b"\x28\xb5\x2f\xfd": _zstd,
    **{bytes([0x50 + low, 0x2A, 0x4D, 0x18]): _zstd for low in range(16)},
    b"BZh": _bzip2,
    b"\xfd7zXZ\x00": _xz,
}


def preload(magic: bytes) -> None:
    """Import the codec of a stream that begins so: a confined process cannot import later."""
    for known, codec in _CODECS.items():
        if magic.startswith(known):
            _IMPORTS[codec]()


def _import_gzip() -> None:
    import isal.isal_zlib  # noqa: F401


def _import_zstd() -> None:
    import zstandard  # noqa: F401

    import bulkhead.content.zstd_frames  # noqa: F401


def _import_bzip2() -> None:
    import bz2  # noqa: F401


def _import_xz() -> None:
    import lzma  # noqa: F401


_IMPORTS: dict[Codec, Callable[[], None]] = {
    _gzip: _import_gzip,
    _zstd: _import_zstd,
    _bzip2: _import_bzip2,
    _xz: _import_xz,
}
