"""A tar archive read front to back from untrusted bytes: ustar, pax and GNU names, nothing trusted.

The caller walks `entries()` and takes each regular file's content with `pour`, `read` or not at all.
Every size is bounded before anything is allocated. POSIX.1-2017 pax, and GNU tar's manual for `L`/`K`.
"""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bulkhead.content import sparse
from bulkhead.errors import DataLoss, InvalidArgument

BLOCK = 512
# Linux refuses longer paths (PATH_MAX), and longer components (NAME_MAX) by itself.
MAX_NAME = 4096
# A pax header holds names and extended attributes; the kernel's limit for the latter is 64 KiB each.
MAX_PAX = 1 << 20
MAX_CONTENT = 1 << 43
_ZERO = bytes(BLOCK)
_XATTR = b"SCHILY.xattr."
_SUPPORTED = frozenset(b"0\x001234567S")
_ADLER = 65521
_REPEATED = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")


class Entry(NamedTuple):
    """One member of an archive; names are bytes, as the file system takes them."""

    name: bytes
    kind: bytes
    """One of b"0" regular, b"1" hard link, b"2" symlink, b"3" char, b"4" block, b"5" directory, b"6" fifo."""
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    linkname: bytes
    major: int
    minor: int
    xattrs: dict[bytes, bytes]
    pieces: sparse.Map | None = None
    """Of a file with holes, what is there; `size` counts the holes."""


class TarStream:
    """Reads members from `source`, which gives the next bytes at each call and b"" at the end."""

    def __init__(self, source: Callable[[], bytes]) -> None:
        self._source = source
        self._view = memoryview(b"")
        self._position = 0
        self._left = 0
        self._padding = 0
        self._pieces: sparse.Map | None = None
        self._size = 0

    def entries(self) -> Iterator[Entry]:
        """Members in order; the content of one must be taken before the next is asked for.

        Raises InvalidArgument for what no honest archive has, DataLoss for a torn or damaged one.
        """
        pax: dict[bytes, bytes] = {}
        long_name = long_link = b""
        while True:
            self._finish_member()
            header = self._header()
            if header is None:
                return
            kind, size = header[156:157], _number(header[124:136])
            if kind == b"x":
                pax |= _pax_records(self._metadata(size, MAX_PAX))
            elif kind == b"g":
                # Docker and containerd ignore global headers: what git archive puts there is a comment.
                self._metadata(size, MAX_PAX)
            elif kind == b"L":
                long_name = self._metadata(size, MAX_NAME + 1).rstrip(b"\0")
            elif kind == b"K":
                long_link = self._metadata(size, MAX_NAME + 1).rstrip(b"\0")
            else:
                holes = sparse.old_map(header, _number, lambda: self._take(BLOCK)) if kind == b"S" else None
                entry = _entry(header, kind, size, pax, long_name, long_link)
                if entry.kind == b"0":
                    self._left = entry.size
                    self._padding = -entry.size % BLOCK
                    if holes is not None or sparse.is_sparse(pax):
                        entry = self._with_holes(entry, pax, holes)
                self._pieces, self._size = entry.pieces, entry.size
                yield entry
                pax, long_name, long_link = {}, b"", b""

    def pour(self, fd: int) -> None:
        """Write the present member's content to an empty file. Raises OSError, DataLoss."""
        if self._pieces is not None:
            self._pour_pieces(fd, self._pieces)
            return
        while self._left:
            piece = self._piece(self._left)
            self._left -= len(piece)
            while piece:
                piece = piece[os.write(fd, piece) :]

    def read(self, limit: int) -> bytes:
        """The present member's whole content; raises InvalidArgument when it is larger than `limit`."""
        self._check_solid()
        if self._left > limit:
            raise InvalidArgument(f"cannot read archive: a member is larger than {limit} bytes")
        found, self._left = self._take(self._left), 0
        return found

    def pieces(self) -> Iterator[memoryview]:
        """The present member's content, piece by piece."""
        self._check_solid()
        while self._left:
            piece = self._piece(self._left)
            self._left -= len(piece)
            yield piece

    def _check_solid(self) -> None:
        if self._pieces is not None:
            raise InvalidArgument("cannot read archive: a sparse file is not expected here")

    def _pour_pieces(self, fd: int, pieces: sparse.Map) -> None:
        for offset, length in pieces:
            os.lseek(fd, offset, os.SEEK_SET)
            left = length
            while left:
                piece = self._piece(left)
                left -= len(piece)
                self._left -= len(piece)
                while piece:
                    piece = piece[os.write(fd, piece) :]
        os.ftruncate(fd, self._size)

    def _with_holes(self, entry: Entry, pax: dict[bytes, bytes], old: tuple[sparse.Map, int] | None) -> Entry:
        """The entry of a file with holes; what its map takes of the content is taken."""
        name = pax.get(b"GNU.sparse.name", entry.name)
        if old is not None:
            pieces, real = old
        elif b"GNU.sparse.map" in pax:
            pieces, real = sparse.pax_map(pax[b"GNU.sparse.map"]), _decimal(pax, b"GNU.sparse.size", entry.size)
        else:
            pieces = sparse.content_map(self._take_content)
            real = _decimal(pax, b"GNU.sparse.realsize", entry.size)
        if real > MAX_CONTENT or len(name) > MAX_NAME or b"\0" in name:
            raise InvalidArgument("cannot read archive: a member has an impossible size")
        return entry._replace(name=name, size=real, pieces=sparse.checked(pieces, self._left, real))

    def _take_content(self, count: int) -> bytes:
        if count > self._left:
            raise DataLoss("cannot read archive: a sparse file's map is damaged")
        self._left -= count
        return self._take(count)

    def drain(self) -> None:
        """Take what follows the end of the archive: its digest covers that too."""
        self._view = memoryview(b"")
        while self._source():
            pass

    def _finish_member(self) -> None:
        left = self._left + self._padding
        self._left = self._padding = 0
        while left:
            left -= len(self._piece(left))

    def _header(self) -> bytes | None:
        """The next header block, None at the end of the archive."""
        if self._position == len(self._view) and not self._refill():
            return None
        header = self._take(BLOCK)
        if header == _ZERO:
            more = self._position < len(self._view) or self._refill()
            if more and self._take(BLOCK) != _ZERO:
                raise DataLoss("cannot read archive: a member follows its end")
            return None
        _check_sum(header)
        return header

    def _metadata(self, size: int, limit: int) -> bytes:
        if size > limit:
            raise InvalidArgument(f"cannot read archive: a header is larger than {limit} bytes")
        data = self._take(size)
        self._padding = -size % BLOCK
        self._finish_member()
        return data

    def _take(self, count: int) -> bytes:
        start, end = self._position, self._position + count
        if end <= len(self._view):
            self._position = end
            return bytes(self._view[start:end])
        found = bytearray()
        while len(found) < count:
            found += self._piece(count - len(found))
        return bytes(found)

    def _piece(self, most: int) -> memoryview:
        """At least one byte, at most `most`; raises DataLoss at the end."""
        if self._position == len(self._view) and not self._refill():
            raise DataLoss("cannot read archive: unexpected EOF")
        start = self._position
        self._position = min(start + most, len(self._view))
        return self._view[start : self._position]

    def _refill(self) -> bool:
        data = self._source()
        self._view, self._position = memoryview(data), 0
        return bool(data)


def safe_path(name: bytes, what: str) -> bytes:
    """`name` without `./` and trailing slashes, b"" for the root; raises InvalidArgument when it leads elsewhere."""
    if name and not (name[:1] in b"./" or b"/." in name or b"//" in name or name.endswith(b"/")):
        return name
    if name.startswith(b"/"):
        raise refused_entry(what, name, "its name is absolute")
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise refused_entry(what, name, "its name climbs out")
    if not name:
        raise refused_entry(what, name, "its name is empty")
    return b"/".join(parts)


def refused_entry(what: str, name: bytes, reason: str) -> InvalidArgument:
    """The error for a member that no honest archive has; `what` is the archive's role."""
    shown = name[:200].decode("utf-8", "backslashreplace")
    return InvalidArgument(f"cannot unpack {what}: entry {shown!r} is refused: {reason}")


def _entry(header: bytes, kind: bytes, size: int, pax: dict[bytes, bytes], long_name: bytes, long_link: bytes) -> Entry:
    if kind not in _SUPPORTED_KINDS:
        raise InvalidArgument(f"cannot read archive: type {kind!r} is not supported")
    name = long_name or _name(header)
    linkname = long_link or header[157:257].partition(b"\0")[0]
    uid, gid = _number(header[108:116]), _number(header[116:124])
    mtime_ns = _number(header[136:148], signed=True) * 1_000_000_000
    xattrs: dict[bytes, bytes] = {}
    if pax:
        name, linkname = pax.get(b"path", name), pax.get(b"linkpath", linkname)
        uid, gid, size = (_decimal(pax, key, value) for key, value in ((b"uid", uid), (b"gid", gid), (b"size", size)))
        mtime_ns = _nanoseconds(pax[b"mtime"]) if b"mtime" in pax else mtime_ns
        xattrs = {key[len(_XATTR) :]: value for key, value in pax.items() if key.startswith(_XATTR)}
    if kind in b"\x007S":
        kind = b"5" if name.endswith(b"/") and kind != b"S" else b"0"
    if size > MAX_CONTENT:
        raise InvalidArgument("cannot read archive: a member has an impossible size")
    if len(name) > MAX_NAME or len(linkname) > MAX_NAME or b"\0" in name or b"\0" in linkname:
        raise InvalidArgument("cannot read archive: a member has an impossible name")
    return Entry(
        name,
        kind,
        _number(header[100:108]) & 0o7777,
        uid,
        gid,
        # Links and directories may carry a size that means nothing; no content follows them.
        size if kind == b"0" else 0,
        mtime_ns,
        linkname,
        _number(header[329:337]) if kind in b"34" else 0,
        _number(header[337:345]) if kind in b"34" else 0,
        xattrs,
    )


_SUPPORTED_KINDS = frozenset(bytes([byte]) for byte in _SUPPORTED)


def _name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    # GNU's magic has spaces where POSIX has NUL and version, and other things where the prefix is.
    if header[345] and header[257:263] == b"ustar\0":
        return header[345:500].partition(b"\0")[0] + b"/" + name
    return name


def _check_sum(header: bytes) -> None:
    told = _number(header[148:156])
    blanked = header[:148] + b"        " + header[156:]
    # adler32's low half is one more than the sum of all bytes: the only fast sum the standard library has.
    if zlib.adler32(blanked) & 0xFFFF == (told + 1) % _ADLER:
        return
    signed = sum(byte - 256 if byte > 127 else byte for byte in blanked)
    if told != signed:
        raise DataLoss("cannot read archive: a header's checksum is wrong")


# Members of one archive have few owners, modes and times: most fields were read before.
@functools.lru_cache(maxsize=4096)
def _number(field: bytes, *, signed: bool = False) -> int:
    """Octal digits, or GNU's base 256 when the first bit is set."""
    if field[0] & 0x80:
        value = (
            int.from_bytes(field, "big", signed=True)
            if field[0] == 0xFF
            else int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        )
        if value < 0 and not signed:
            raise InvalidArgument("cannot read archive: a number is negative")
        if value.bit_length() > 62:
            raise InvalidArgument("cannot read archive: a number is too large")
        return value
    digits = field.partition(b"\0")[0].strip()
    if not digits:
        return 0
    if not digits.isdigit():
        raise DataLoss("cannot read archive: a number has other characters than digits")
    try:
        return int(digits, 8)
    except ValueError as error:
        raise DataLoss("cannot read archive: a number is not octal") from error


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """`length key=value\\n`, where the length counts itself."""
    records: dict[bytes, bytes] = {}
    holes: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 20)
        length = data[position:space] if space > 0 else b""
        if not length.isdigit() or not 4 <= int(length) <= len(data) - position:
            raise DataLoss("cannot read archive: an extended header is damaged")
        end = position + int(length)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key or data[end - 1 : end] != b"\n" or end - 1 <= space:
            raise DataLoss("cannot read archive: an extended header is damaged")
        if key in _REPEATED:
            # Sparse format 0.0: the only records that mean something more than once.
            holes.append(value)
        elif not (value == b"" and records.pop(key, None) is not None):
            records[key] = value
        position = end
    if holes:
        records[b"GNU.sparse.map"] = b",".join(holes)
    return {key: value for key, value in records.items() if value or key.startswith(_XATTR)}


def _decimal(pax: dict[bytes, bytes], key: bytes, otherwise: int) -> int:
    text = pax.get(key)
    if text is None:
        return otherwise
    if not text.isdigit() or len(text) > 19:
        raise InvalidArgument(f"cannot read archive: {key.decode()} of a member is impossible")
    return int(text)


def _nanoseconds(text: bytes) -> int:
    """A pax time: seconds with an optional sign and fraction."""
    negative = text.startswith(b"-")
    whole, _, fraction = text.removeprefix(b"-").partition(b".")
    if not whole.isdigit() or len(whole) > 18 or (fraction and not fraction.isdigit()):
        raise InvalidArgument("cannot read archive: a member has an impossible time")
    value = int(whole) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0") or b"0")
    return -value if negative else value
