"""Where zstd frames begin and end (RFC 8878 section 3): the decoder takes a torn frame for the end of its input.

Only the sizes in headers are read; whether the blocks are sound is the decoder's to say.
"""

from __future__ import annotations

from collections.abc import Generator

_MAGIC = 0xFD2FB528
_SKIPPABLE = 0x184D2A50
_DICTIONARY_BYTES = (0, 1, 2, 4)
_CONTENT_SIZE_BYTES = (0, 2, 4, 8)
_RLE = 1


class Frames:
    """Follows a stream of frames as it is fed."""

    def __init__(self) -> None:
        self._walk = _walk()
        self._wanted = next(self._walk)
        self._header = b""
        self._skip = 0
        self._boundary = True

    @property
    def complete(self) -> bool:
        """Whether what was fed so far ends where a frame ends."""
        return self._boundary and not self._skip and not self._header

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream."""
        position = 0
        while position < len(data):
            if self._skip:
                taken = min(self._skip, len(data) - position)
                self._skip -= taken
                position += taken
                continue
            piece = data[position : position + self._wanted - len(self._header)]
            self._header += piece
            position += len(piece)
            if len(self._header) == self._wanted:
                self._advance()

    def _advance(self) -> None:
        """A header is whole: what follows it is to be skipped, or is the next header."""
        header, self._header = self._header, b""
        wanted = self._walk.send(header)
        while wanted < 0:
            self._skip += -wanted
            wanted = self._walk.send(b"")
        self._boundary = wanted == 0
        self._wanted = wanted or 4


def _walk() -> Generator[int, bytes, None]:
    """Asks for the next header's bytes by a positive number, skips by a negative one; 0 is a frame's end."""
    header = yield 4
    while True:
        magic = int.from_bytes(header, "little")
        if magic & ~0xF == _SKIPPABLE:
            size = yield 4
            yield from _skipped(int.from_bytes(size, "little"))
        elif magic == _MAGIC:
            yield from _frame()
        # Anything else is garbage: the decoder refuses it.
        header = yield 0


def _frame() -> Generator[int, bytes, None]:
    descriptor = (yield 1)[0]
    single = descriptor >> 5 & 1
    content_size = _CONTENT_SIZE_BYTES[descriptor >> 6] or single
    yield from _skipped((not single) + _DICTIONARY_BYTES[descriptor & 3] + content_size)
    last = False
    while not last:
        block = int.from_bytes((yield 3), "little")
        last = bool(block & 1)
        yield from _skipped(1 if block >> 1 & 3 == _RLE else block >> 3)
    if descriptor >> 2 & 1:
        yield from _skipped(4)


def _skipped(count: int) -> Generator[int, bytes, None]:
    if count:
        yield -count
