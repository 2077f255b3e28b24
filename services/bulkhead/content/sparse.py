"""Files with holes in tar archives: which bytes of one are there (GNU tar's manual, "Sparse Formats").

Old GNU keeps the map in the header and in blocks after it, pax 0.0 and 0.1 in records, pax 1.0 before the content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bulkhead.errors import DataLoss, InvalidArgument

# (offset, length) of each piece that is there, in order.
Map = tuple[tuple[int, int], ...]
# Two numbers a piece; a real file of so many pieces has not been seen.
MAX_PIECES = 1 << 17
_BLOCK = 512
_PAIR = 24
_MAX_DIGITS = 19


def is_sparse(pax: Mapping[bytes, bytes]) -> bool:
    """Whether pax records describe a file with holes."""
    return b"GNU.sparse.map" in pax or b"GNU.sparse.major" in pax


def checked(pieces: Map, stored: int, real: int) -> Map:
    """The map, if it fits `stored` bytes into a file of `real` bytes, in order; raises InvalidArgument."""
    end = total = 0
    for offset, length in pieces:
        if offset < end or length < 0 or offset + length > real:
            raise InvalidArgument("cannot read archive: a sparse file's map is impossible")
        end = offset + length
        total += length
    if total != stored:
        raise InvalidArgument("cannot read archive: a sparse file's map is not that of its content")
    return pieces


def old_map(header: bytes, number: Callable[[bytes], int], more: Callable[[], bytes]) -> tuple[Map, int]:
    """Map and real size from an old GNU header; `more()` gives the next block of the map."""
    pieces = _pairs(header[386:482], number)
    extended = header[482]
    while extended:
        block = more()
        pieces += _pairs(block[:504], number)
        extended = block[504]
        _check_count(len(pieces))
    return tuple(pieces), number(header[483:495])


def pax_map(text: bytes) -> Map:
    """The map in a GNU.sparse.map record."""
    numbers = [_decimal(part) for part in text.split(b",")] if text else []
    if len(numbers) % 2:
        raise InvalidArgument("cannot read archive: a sparse file's map is impossible")
    _check_count(len(numbers) // 2)
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def content_map(take: Callable[[int], bytes]) -> Map:
    """The map before the content (pax 1.0); `take(n)` gives the next n bytes of that."""
    text = b""
    lines: list[bytes] = []
    wanted = 1
    while len(lines) < wanted:
        block = take(_BLOCK)
        *whole, text = (text + block).split(b"\n")
        lines += whole
        if len(text) > _MAX_DIGITS and len(lines) < wanted:
            raise InvalidArgument("cannot read archive: a sparse file's map is impossible")
        if lines:
            count = _decimal(lines[0])
            _check_count(count)
            wanted = 1 + 2 * count
    numbers = [_decimal(line) for line in lines[1:wanted]]
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _pairs(data: bytes, number: Callable[[bytes], int]) -> list[tuple[int, int]]:
    found = []
    for start in range(0, len(data) - _PAIR + 1, _PAIR):
        if not data[start]:
            break
        found.append((number(data[start : start + 12]), number(data[start + 12 : start + _PAIR])))
    return found


def _check_count(count: int) -> None:
    if count > MAX_PIECES:
        raise InvalidArgument(f"cannot read archive: a sparse file of more than {MAX_PIECES} pieces")


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > _MAX_DIGITS:
        raise DataLoss("cannot read archive: a sparse file's map is damaged")
    return int(text)
