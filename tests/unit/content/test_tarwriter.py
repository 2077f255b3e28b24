"""What we write, tarfile and our own reader must read as it was meant."""

from __future__ import annotations

import io
import tarfile

import pytest

from bulkhead.content.tarstream import TarStream
from bulkhead.content.tarwriter import END, Member, header, padding

LONG = b"d" * 120 + b"/" + b"f" * 120
MEMBERS = [
    Member(name=b"file", kind=b"0", mode=0o4755, uid=1, gid=2, size=3, mtime=4),
    Member(name=b"d/", kind=b"5", mode=0o755),
    Member(name=b"p" * 99 + b"/" + b"n" * 90, kind=b"0", mode=0o644),
    Member(name=LONG, kind=b"0", mode=0o644),
    Member(name=LONG + b"/", kind=b"5", mode=0o644),
    Member(name=b"p" * 150 + b"/", kind=b"5", mode=0o644),
    # The sum of this header's bytes is more than the modulus of the sum that makes it fast.
    Member(name=b"\xc3\xbf" * 49, kind=b"2", mode=0o777, link=b"\xf4\x8f\xbf\xbf" * 25),
    Member(name=b"\xc3\xbf" * 74 + b"/" + b"\xc3\xbf" * 49, kind=b"2", mode=0o777, link=b"\xf4\x8f\xbf\xbf" * 25),
    Member(name="gr\u00fc\u00dfe".encode(), kind=b"2", mode=0o777, link=b"l" * 200),
    Member(name=b"big", kind=b"1", mode=0o644, uid=2**31, gid=2**32 - 2, mtime=-5, link=b"file"),
    Member(name=b"x", kind=b"5", mode=0o755, xattrs={b"user.a": b"1\n2\0", b"security.capability": b"\1" * 20}),
    Member(name=b"null", kind=b"3", mode=0o666, major=1, minor=3),
]


@pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name[:8].decode())
def test_round_trip(member: Member) -> None:
    packed = header(member) + b"abc"[: member.size] + padding(member.size) + END
    with tarfile.open(fileobj=io.BytesIO(packed), errors="surrogateescape") as archive:
        (other,) = archive.getmembers()
    name = member.name.decode().rstrip("/")
    assert (other.name, other.type, other.mode, other.linkname) == (
        name,
        member.kind,
        member.mode,
        member.link.decode(),
    )
    assert (other.uid, other.gid, other.mtime, other.size) == (member.uid, member.gid, member.mtime, member.size)
    pieces = iter([packed])
    (own,) = TarStream(lambda: next(pieces, b"")).entries()
    assert (own.name, own.linkname, own.uid, own.gid) == (member.name, member.link, member.uid, member.gid)
    assert (own.xattrs, own.major, own.minor) == (dict(member.xattrs), member.major, member.minor)
    assert own.mtime_ns == member.mtime * 10**9


@pytest.mark.parametrize("length", [*range(80, 110), *range(980, 1005)])
def test_a_record_counts_its_own_length(length: int) -> None:
    """Its digits are part of it: the lengths where one more is needed are where it goes wrong."""
    member = Member(name=b"\xc3\xa4" + b"x" * length, kind=b"0", mode=0o644)
    pieces = iter([header(member) + END])
    assert next(TarStream(lambda: next(pieces, b"")).entries()).name == member.name
