"""What a hostile layer tries (battery C12, C13, M01, M02): refused in our words, nothing outside touched."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import pytest
import zstandard

from bulkhead.content.inflate import Limits
from bulkhead.errors import DataLoss, InvalidArgument
from tests.integration.content.conftest import Unpack, size_of
from tests.integration.content.tars import (
    BLOCK,
    Member,
    archive,
    diff_id,
    directory,
    gnu_long,
    hard_link,
    packed,
    symlink,
)

FILE = Member(name=b"x", data=b"evil")
LONG = b"/".join([b"d" * 200] * 25)

CLIMBING: dict[str, list[Member]] = {
    "dotdot": [Member(name=b"../canary/new", data=b"x")],
    "dotdot inside": [directory(b"a"), Member(name=b"a/../../canary/victim", data=b"x")],
    "dotdot only": [Member(name=b"..", data=b"x")],
    "dotdot directory": [directory(b"../canary")],
    "dotdot behind dot": [Member(name=b"./../canary/new", data=b"x")],
    "dotdot that stays inside": [Member(name=b"a/../b", data=b"x")],
    "absolute": [Member(name=b"/etc/bulkhead-test", data=b"x")],
    "absolute with two slashes": [Member(name=b"//etc/bulkhead-test", data=b"x")],
    "empty name": [Member(name=b"", data=b"x")],
    "the root as a file": [Member(name=b"./", data=b"x")],
    "the root as a symlink": [symlink(b".", b"../canary")],
    "pax path climbs": [Member(name=b"ok", data=b"x", pax={b"path": b"../canary/new"})],
    "pax path absolute": [Member(name=b"ok", data=b"x", pax={b"path": b"/etc/bulkhead-test"})],
    "pax path with NUL": [Member(name=b"ok", data=b"x", pax={b"path": b"ok\0/../../canary/new"})],
    "gnu long name climbs": [gnu_long(b"L", b"../canary/new"), Member(name=b"ok", data=b"x")],
    "ustar prefix climbs": [Member(name=b"new", data=b"x", header={345: b"../canary"})],
    "through an absolute symlink": [symlink(b"l", b"/tmp"), Member(name=b"l/new", data=b"x")],
    "through a relative symlink": [symlink(b"l", b"../canary"), Member(name=b"l/new", data=b"x")],
    "through a symlink that stays inside": [directory(b"d"), symlink(b"l", b"d"), Member(name=b"l/new", data=b"x")],
    "through a symlink to itself": [symlink(b"l", b"l"), Member(name=b"l/new", data=b"x")],
    "directory below a symlink": [symlink(b"l", b"../canary"), directory(b"l/d")],
    "directory turned into a symlink": [
        directory(b"d"),
        Member(name=b"d/a", data=b"x"),
        symlink(b"d", b"../canary"),
        Member(name=b"d/b", data=b"x"),
    ],
    "symlink below a symlink": [symlink(b"l", b"../canary"), symlink(b"l/s", b"x")],
    "device below a symlink": [symlink(b"l", b"../canary"), Member(name=b"l/z", kind=b"3", major=1, minor=5)],
    "hard link out": [hard_link(b"h", b"../canary/victim")],
    "hard link out, then written": [hard_link(b"h", b"../canary/victim"), Member(name=b"h", data=b"x")],
    "hard link absolute": [hard_link(b"h", b"/etc/passwd")],
    "hard link through a symlink": [symlink(b"l", b"../canary"), hard_link(b"h", b"l/victim")],
    "hard link by pax linkpath": [Member(name=b"h", kind=b"1", link=b"x", pax={b"linkpath": b"../canary/victim"})],
    "hard link by gnu long link": [gnu_long(b"K", b"../canary/victim"), hard_link(b"h", b"x")],
    "hard link to nothing": [hard_link(b"h", b"missing")],
    "hard link to itself": [FILE, hard_link(b"x", b"x")],
    "hard link to a directory": [directory(b"d"), hard_link(b"h", b"d")],
    "hard link to the root": [hard_link(b"h", b".")],
    "below a file": [FILE, Member(name=b"x/y", data=b"x")],
    "whiteout through a symlink": [symlink(b"l", b"../canary"), Member(name=b"l/.wh.victim")],
    "opaque through a symlink": [symlink(b"l", b"../canary"), Member(name=b"l/.wh..wh..opq")],
    "whiteout climbs": [Member(name=b"../canary/.wh.victim")],
}


def old_sparse(*pieces: tuple[int, int], real: int) -> Member:
    """An old GNU sparse member of ten bytes."""
    numbers = b"".join(_base256(number) for piece in pieces for number in piece)
    return Member(name=b"s", kind=b"S", data=b"x" * 10, header={257: b"ustar  \0", 386: numbers, 483: _base256(real)})


def _base256(value: int) -> bytes:
    raw = value.to_bytes(12, "big", signed=True)
    return bytes([raw[0] | 0x80]) + raw[1:]


def pax_sparse(key: bytes, value: bytes) -> Member:
    return Member(name=b"s", data=b"x" * 10, pax={key: value, b"GNU.sparse.size": b"4096"})


FORGED: dict[str, list[Member]] = {
    "whiteout of nothing": [Member(name=b".wh.")],
    "whiteout of dot": [Member(name=b".wh..")],
    "whiteout of dotdot": [Member(name=b".wh...")],
    "whiteout of a whiteout": [Member(name=b".wh..wh.x")],
    "whiteout as a directory": [directory(b".wh.x")],
    "whiteout as a symlink": [symlink(b".wh.x", b"y")],
    "below a whiteout": [Member(name=b".wh.x/y", data=b"x")],
    "device that is a whiteout": [Member(name=b"x", kind=b"3")],
    "hard link to a whiteout": [Member(name=b".wh.x"), hard_link(b"y", b"x")],
    "opaque by xattr": [Member(name=b"d", kind=b"5", pax={b"SCHILY.xattr.trusted.overlay.opaque": b"y"})],
    "redirect by xattr": [Member(name=b"d", kind=b"5", pax={b"SCHILY.xattr.trusted.overlay.redirect": b"/etc"})],
    "metacopy by xattr": [Member(name=b"f", pax={b"SCHILY.xattr.trusted.overlay.metacopy": b""})],
    "user overlay xattr": [Member(name=b"f", pax={b"SCHILY.xattr.user.overlay.opaque": b"y"})],
    "overlay xattr on a symlink": [
        Member(name=b"l", kind=b"2", link=b"x", pax={b"SCHILY.xattr.trusted.overlay.opaque": b"y"})
    ],
    "xattr with a name too long": [Member(name=b"f", pax={b"SCHILY.xattr.user." + b"n" * 256: b"y"})],
    "device out of range": [Member(name=b"x", kind=b"3", major=0x1000, minor=1)],
    "minor out of range": [Member(name=b"x", kind=b"4", major=8, minor=0x100000)],
    "owner out of range": [Member(name=b"x", data=b"x", pax={b"uid": b"4294967296"})],
    "the owner that means none": [Member(name=b"x", data=b"x", pax={b"gid": b"4294967295"})],
    "negative owner": [Member(name=b"x", data=b"x", uid=-1)],
    "negative size": [Member(name=b"x", size=-512)],
    "time beyond the clock": [Member(name=b"x", pax={b"mtime": b"99999999999999999"})],
    "size beyond belief": [Member(name=b"x", size=1 << 60)],
    "size by pax beyond belief": [Member(name=b"x", pax={b"size": b"9999999999999999999"})],
    "path too long": [Member(name=b"ok", data=b"x", pax={b"path": LONG})],
    "component too long": [Member(name=b"ok", data=b"x", pax={b"path": b"n" * 256})],
    "symlink to nothing": [symlink(b"l", b"")],
    "sparse map beyond the file": [old_sparse((0, 1), (4096, 9), real=4096)],
    "sparse map that goes back": [old_sparse((4096, 5), (0, 5), real=8192)],
    "sparse map that overlaps": [old_sparse((0, 8), (4, 2), real=8192)],
    "sparse map of more than there is": [old_sparse((0, 11), real=8192)],
    "sparse map of less than there is": [old_sparse((0, 9), real=8192)],
    "sparse file of exabytes": [old_sparse((0, 10), real=1 << 60)],
    "sparse file of negative size": [old_sparse((0, 10), real=-1)],
    "sparse files of terabytes": [old_sparse((0, 10), real=1 << 39)],
    "pax sparse map of half a piece": [pax_sparse(b"GNU.sparse.map", b"0")],
    "pax sparse map of nothing": [pax_sparse(b"GNU.sparse.map", b"0,9,1")],
    "pax sparse that climbs": [
        Member(
            name=b"ok",
            data=b"x" * 10,
            pax={b"GNU.sparse.map": b"0,10", b"GNU.sparse.size": b"20", b"GNU.sparse.name": b"../canary/victim"},
        )
    ],
    "pax sparse map without end": [
        Member(name=b"s", data=b"9" * 2048, pax={b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"})
    ],
    "pax sparse map of millions": [
        Member(name=b"s", data=b"9999999\n" * 256, pax={b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"})
    ],
    "unknown type": [Member(name=b"u", kind=b"Z")],
    "pax header of a gigabyte": [Member(name=b"pax", kind=b"x", size=1 << 30)],
    "gnu long name of a gigabyte": [Member(name=b"././@LongLink", kind=b"L", size=1 << 30)],
}

DAMAGED: dict[str, bytes] = {
    "header checksum": archive(Member(name=b"x", header={148: b"0000000\0"})),
    "letters in a number": archive(Member(name=b"x", header={100: b"zzzzzzz\0"})),
    "digits that are not octal": archive(Member(name=b"x", header={124: b"00000000009\0"})),
    "torn header": archive(FILE, end=b"x" * 100),
    "torn content": archive(Member(name=b"x", data=b"y" * BLOCK, size=10 * BLOCK), end=b""),
    "member after the end": archive(FILE)[: 2 * BLOCK] + bytes(BLOCK) + archive(FILE),
    "pax record without end": archive(Member(name=b"pax", kind=b"x", data=b"30 path=x\n"), FILE),
    "pax record with a wrong length": archive(Member(name=b"pax", kind=b"x", data=b"5 path=x\n"), FILE),
    "pax record without equals": archive(Member(name=b"pax", kind=b"x", data=b"9 path.x\n"), FILE),
    "pax length that is no number": archive(Member(name=b"pax", kind=b"x", data=b"-1 path=x\n"), FILE),
    "no tar at all": b"this is not a tar archive" * 100,
    "torn gzip": gzip.compress(archive(Member(name=b"x", data=bytes(range(256)) * 400)), 1)[:-20],
    "gzip with a wrong check": gzip.compress(archive(FILE))[:-8] + bytes(8),
    "garbage after gzip": gzip.compress(archive(FILE)) + b"garbage",
    "flipped bits in gzip": gzip.compress(archive(FILE))[:40] + b"\xff" * 20 + gzip.compress(archive(FILE))[60:],
    "sparse map that is no map": archive(
        Member(name=b"s", data=b"1\nx\n9\n" + bytes(506), pax={b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"})
    ),
    "sparse map longer than the content": archive(
        Member(name=b"s", data=b"3\n1\n", pax={b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0"})
    ),
    "torn zstd": zstandard.compress(archive(Member(name=b"x", data=bytes(range(256)) * 2000)))[:-20],
    "zstd torn in its checksum": zstandard.ZstdCompressor(write_checksum=True).compress(archive(FILE))[:-2],
    "flipped bits in zstd": zstandard.compress(archive(FILE))[:20] + b"\xff" * 20,
}


@pytest.mark.parametrize("members", CLIMBING.values(), ids=CLIMBING)
async def test_a_layer_never_reaches_outside(members: list[Member], unpack: Unpack, canary: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"^cannot (unpack layer|read archive): "):
        await unpack(packed(*members))


@pytest.mark.parametrize("members", FORGED.values(), ids=FORGED)
async def test_a_layer_that_no_builder_writes_is_refused(members: list[Member], unpack: Unpack, canary: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"^cannot (unpack layer|read archive): "):
        await unpack(packed(*members))


@pytest.mark.parametrize("blob", DAMAGED.values(), ids=DAMAGED)
async def test_a_damaged_layer_is_told_from_a_hostile_one(blob: bytes, unpack: Unpack, canary: Path) -> None:
    with pytest.raises(DataLoss, match=r"^cannot (unpack|read) archive: "):
        await unpack(blob)


async def test_content_that_is_not_the_diff_id_is_refused(unpack: Unpack) -> None:
    with pytest.raises(DataLoss, match="diff id"):
        await unpack(packed(FILE), diff_id(b"something else"))


async def test_bytes_after_the_end_of_the_archive_count_for_the_diff_id(unpack: Unpack) -> None:
    tar = archive(FILE)
    with pytest.raises(DataLoss, match="diff id"):
        await unpack(gzip.compress(tar + bytes(10 * BLOCK)), diff_id(tar))


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
async def test_a_bomb_is_stopped_by_its_ratio(codec: str, unpack: Unpack, target: Path) -> None:
    tar = archive(Member(name=b"zeros", data=bytes(64 << 20)))
    blob = zlib.compress(tar, 9, wbits=31) if codec == "gzip" else zstandard.compress(tar, 19)
    with pytest.raises(InvalidArgument, match="expands more than"):
        await unpack(blob, limits=Limits(allowance=4 << 20))
    assert size_of(target) <= 16 << 20


async def test_a_bomb_is_stopped_by_its_size(unpack: Unpack) -> None:
    with pytest.raises(InvalidArgument, match="expands to more than"):
        await unpack(packed(Member(name=b"zeros", data=bytes(8 << 20))), limits=Limits(size=4 << 20))


async def test_a_layer_of_endless_entries_is_stopped(unpack: Unpack) -> None:
    members = [directory(b"d%d" % number) for number in range(50)]
    with pytest.raises(InvalidArgument, match="more than 49 entries"):
        await unpack(packed(*members), limits=Limits(entries=49))


async def test_a_zstd_window_of_gigabytes_is_refused(unpack: Unpack) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=30, compression_level=1)
    blob = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = blob.compress(archive(FILE)) + blob.flush()
    with pytest.raises(DataLoss, match="damaged zstd data"):
        await unpack(data)


async def test_deep_trees_are_removed_without_recursion(unpack: Unpack, target: Path) -> None:
    """A directory of a thousand levels is replaced by a file: Python's stack must not be what limits us."""
    deep = b"/".join([b"d"] * 1500)
    await unpack(packed(Member(name=b"x", kind=b"5", pax={b"path": deep}), Member(name=b"d", data=b"file")))
    assert (target / "d").read_bytes() == b"file"
