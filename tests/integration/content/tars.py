"""Archives written byte by byte, honest and hostile: no tar program or library would write some of them."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass, field

BLOCK = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member; `header` overrides raw fields by their offset, `pax` is written before it."""

    name: bytes
    kind: bytes = b"0"
    data: bytes = b""
    link: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = 1_600_000_000
    major: int = 0
    minor: int = 0
    size: int | None = None
    pax: dict[bytes, bytes] = field(default_factory=dict)
    header: dict[int, bytes] = field(default_factory=dict)


def archive(*members: Member, end: bytes = bytes(2 * BLOCK)) -> bytes:
    """A tar of these members."""
    return b"".join(_written(member) for member in members) + end


def packed(*members: Member) -> bytes:
    """The same, through gzip."""
    return gzip.compress(archive(*members), 1, mtime=0)


def diff_id(tar: bytes) -> str:
    return f"sha256:{hashlib.sha256(tar).hexdigest()}"


def directory(name: bytes, mode: int = 0o755) -> Member:
    return Member(name=name, kind=b"5", mode=mode)


def symlink(name: bytes, target: bytes) -> Member:
    return Member(name=name, kind=b"2", link=target)


def hard_link(name: bytes, target: bytes) -> Member:
    return Member(name=name, kind=b"1", link=target)


def gnu_long(kind: bytes, text: bytes) -> Member:
    """A GNU `L` (name) or `K` (link) header for the member after it."""
    return Member(name=b"././@LongLink", kind=kind, data=text + b"\0")


def pax_record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(str(length)) + len(key) + len(value) + 3 != length:
        length = len(str(length)) + len(key) + len(value) + 3
    return str(length).encode() + b" " + key + b"=" + value + b"\n"


def _written(member: Member) -> bytes:
    before = b""
    if member.pax:
        records = b"".join(pax_record(key, value) for key, value in member.pax.items())
        before = _written(Member(name=b"pax", kind=b"x", data=records))
    size = len(member.data) if member.size is None else member.size
    header = bytearray(BLOCK)
    header[: min(len(member.name), 100)] = member.name[:100]
    header[100:108] = b"%07o\0" % member.mode
    header[108:116] = _number(member.uid, 8)
    header[116:124] = _number(member.gid, 8)
    header[124:136] = _number(size, 12)
    header[136:148] = _number(member.mtime, 12)
    header[156:157] = member.kind
    header[157 : 157 + min(len(member.link), 100)] = member.link[:100]
    header[257:265] = b"ustar\x0000"
    header[329:337] = _number(member.major, 8)
    header[337:345] = _number(member.minor, 8)
    for offset, raw in member.header.items():
        header[offset : offset + len(raw)] = raw
    if 148 not in member.header:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return before + bytes(header) + member.data + bytes(-len(member.data) % BLOCK)


def _number(value: int, width: int) -> bytes:
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    raw = value.to_bytes(width, "big", signed=True)
    return bytes([raw[0] | 0x80]) + raw[1:]
