"""Headers of a tar archive as Docker's own: ustar, with a pax header where ustar cannot say it. POSIX.1-2017 pax."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

from bulkhead.content.tarstream import BLOCK

END = bytes(2 * BLOCK)
_NAME, _PREFIX = 100, 155
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
# With no names of user and group behind it; and what fills the block.
_MAGIC, _END = b"ustar\x0000" + bytes(64), bytes(12)
# 65520 / 255 bytes that are no zeros, at most.
_ZEROS = BLOCK - 256


class Member(NamedTuple):
    """One member; names are bytes, `mtime` in seconds."""

    name: bytes
    kind: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    xattrs: Mapping[bytes, bytes] = {}


def header(member: Member) -> bytes:
    """The blocks before a member's content."""
    records = _records(member)
    if not records:
        return _ustar(member)
    body = b"".join(_record(key, value) for key, value in sorted(records.items()))
    # Only a name that says what it is for: readers take the one in the record.
    extended = Member(name=b"PaxHeaders.0/" + member.name.rpartition(b"/")[2][:80], kind=b"x", mode=0, size=len(body))
    return _ustar(extended) + body + padding(len(body)) + _ustar(_fitting(member))


def padding(size: int) -> bytes:
    """What fills the last block of content."""
    return bytes(-size % BLOCK)


def _records(member: Member) -> dict[bytes, bytes]:
    found = {b"SCHILY.xattr." + name: value for name, value in member.xattrs.items()}
    if not member.name.isascii() or _split(member.name) is None:
        found[b"path"] = member.name
    if not member.link.isascii() or len(member.link) > _NAME:
        found[b"linkpath"] = member.link
    for key, value, most in (
        (b"uid", member.uid, _MAX_ID),
        (b"gid", member.gid, _MAX_ID),
        (b"size", member.size, _MAX_SIZE),
        (b"mtime", member.mtime, _MAX_SIZE),
    ):
        if not 0 <= value <= most:
            found[key] = b"%d" % value
    return found


def _record(key: bytes, value: bytes) -> bytes:
    """`length key=value\\n`; the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _fitting(member: Member) -> Member:
    """The member with what only its pax header can say left out."""
    name = member.name if _split(member.name) is not None else member.name[:_NAME]
    return member._replace(
        name=name,
        link=member.link[:_NAME],
        uid=member.uid if 0 <= member.uid <= _MAX_ID else 0,
        gid=member.gid if 0 <= member.gid <= _MAX_ID else 0,
        size=member.size if member.size <= _MAX_SIZE else 0,
        mtime=member.mtime if 0 <= member.mtime <= _MAX_SIZE else 0,
    )


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Prefix and name as ustar has room for; None when it has not."""
    if len(name) <= _NAME:
        return b"", name
    cut = name.rfind(b"/", 0, _PREFIX + 1)
    # A slash at the very end belongs to the name of a directory.
    if cut <= 0 or cut == len(name) - 1 or len(name) - cut - 1 > _NAME:
        return None
    return name[:cut], name[cut + 1 :]


def _ustar(member: Member) -> bytes:
    prefix, name = _split(member.name) or (b"", member.name[:_NAME])
    numbers = (member.mode, member.uid, member.gid, member.size, member.mtime)
    before = name.ljust(_NAME, b"\0") + b"%07o\0%07o\0%07o\0%011o\0%011o\0" % numbers
    after = b"".join(
        (
            member.kind,
            member.link.ljust(_NAME, b"\0"),
            _MAGIC,
            b"%07o\0%07o\0" % (member.major, member.minor),
            prefix.ljust(_PREFIX, b"\0"),
            _END,
        )
    )
    return b"%b%06o\0 %b" % (before, _sum(b"%b        %b" % (before, after)), after)


def _sum(block: bytes) -> int:
    """Of all bytes. adler32's low half is one more than that, modulo a number which this many zeros stay below."""
    return (zlib.adler32(block) & 0xFFFF) - 1 if block.count(0) >= _ZEROS else sum(block)
