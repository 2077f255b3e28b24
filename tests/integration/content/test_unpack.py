"""An honest layer becomes the directory that its tar describes, with overlay's own marks for what it removes."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import lzma
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bulkhead.content import media_types
from bulkhead.content.unpack import unpack_layer
from bulkhead.errors import InvalidArgument, ResourceExhausted
from bulkhead.model.digest import Digest
from tests.integration.content.conftest import Unpack
from tests.integration.content.tars import Member, archive, diff_id, directory, gnu_long, hard_link, packed, symlink

OPAQUE = "trusted.overlay.opaque"


REAL_TREE = "/usr/share/perl" if Path("/usr/share/perl").is_dir() else "/etc"


def output_of(*command: str) -> bytes:
    return subprocess.run(command, capture_output=True, check=True).stdout


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_in(directory: Path) -> list[bytes]:
    return sorted(os.fsencode(path.name) for path in directory.iterdir())


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


async def test_every_kind_of_entry_arrives_as_written(unpack: Unpack, target: Path) -> None:
    tar = archive(
        directory(b"./", mode=0o751),
        Member(name=b"d/", kind=b"5", mode=0o1777, uid=7, gid=8, mtime=1_500_000_000),
        Member(name=b"d/file", data=b"content", mode=0o4755, uid=1, gid=2, mtime=1_400_000_000),
        symlink(b"d/link", b"/absolute/is/fine"),
        hard_link(b"hard", b"d/file"),
        Member(name=b"null", kind=b"3", major=1, minor=3, mode=0o666),
        Member(name=b"disk", kind=b"4", major=8, minor=1, gid=6),
        Member(name=b"pipe", kind=b"6"),
    )
    result = await unpack(gzip.compress(tar), diff_id(tar))
    assert (result.size, result.entries, str(result.diff_id), result.implied) == (7, 8, diff_id(tar), ())
    file, tree = (target / "d/file").lstat(), (target / "d").lstat()
    assert (file.st_uid, file.st_gid, stat.S_IMODE(file.st_mode), file.st_mtime) == (1, 2, 0o4755, 1_400_000_000)
    assert (tree.st_uid, tree.st_gid, stat.S_IMODE(tree.st_mode), tree.st_mtime) == (7, 8, 0o1777, 1_500_000_000)
    assert (target / "d/link").readlink() == Path("/absolute/is/fine")
    assert (target / "hard").lstat().st_ino == file.st_ino
    null, disk = (target / "null").lstat(), (target / "disk").lstat()
    assert (stat.S_ISCHR(null.st_mode), null.st_rdev, stat.S_IMODE(null.st_mode)) == (True, os.makedev(1, 3), 0o666)
    assert (stat.S_ISBLK(disk.st_mode), disk.st_rdev, disk.st_gid) == (True, os.makedev(8, 1), 6)
    assert stat.S_ISFIFO((target / "pipe").lstat().st_mode)
    assert mode_of(target) == 0o751


@pytest.mark.parametrize(
    "compress",
    [bytes, gzip.compress, zstandard.compress, bz2.compress, lzma.compress],
    ids=["none", "gzip", "zstd", "bzip2", "xz"],
)
async def test_the_codec_is_told_by_the_bytes(compress: Callable[[bytes], bytes], unpack: Unpack, target: Path) -> None:
    tar = archive(Member(name=b"f", data=bytes(range(256)) * 3000))
    await unpack(compress(tar), diff_id(tar))
    assert (target / "f").stat().st_size == 256 * 3000


async def test_gzip_members_and_padding_are_one_stream(unpack: Unpack, target: Path) -> None:
    tar = archive(Member(name=b"f", data=b"x" * 5000))
    await unpack(gzip.compress(tar[:1000]) + gzip.compress(tar[1000:]) + bytes(64), diff_id(tar))
    assert (target / "f").stat().st_size == 5000


async def test_names_of_every_dialect(unpack: Unpack, target: Path) -> None:
    long = b"l" * 200
    await unpack(
        packed(
            gnu_long(b"L", b"gnu-" + long),
            Member(name=b"short", data=b"1"),
            gnu_long(b"K", b"gnu-" + long),
            hard_link(b"gnu-link", b"short"),
            Member(name=b"short", data=b"2", pax={b"path": b"pax-" + long}),
            Member(name=b"in-prefix", data=b"3", header={345: b"prefix/of/it"}),
            Member(name=b"not \xff utf-8 \n", data=b"4"),
            Member(name=b"old-directory/", kind=b"\0"),
            Member(name=b"pax-only", kind=b"g", data=b""),
        )
    )
    assert (target / f"gnu-{'l' * 200}").read_text() == (target / "gnu-link").read_text() == "1"
    assert (target / f"pax-{'l' * 200}").read_text() == "2"
    assert (target / "prefix/of/it/in-prefix").read_text() == "3"
    assert b"not \xff utf-8 \n" in names_in(target)
    assert (target / "old-directory").is_dir()


async def test_pax_overrides_the_header(unpack: Unpack, target: Path) -> None:
    pax = {b"mtime": b"1234567890.123456789", b"uid": b"3000000", b"SCHILY.xattr.user.note": b"a\0b"}
    await unpack(packed(Member(name=b"f", data=b"x", pax=pax), Member(name=b"old", mtime=-86400)))
    found = (target / "f").stat()
    assert (found.st_mtime_ns, found.st_uid) == (1234567890123456789, 3000000)
    assert (target / "old").stat().st_mtime == -86400
    assert os.getxattr(target / "f", "user.note") == b"a\0b"


async def test_capabilities_survive_a_change_of_owner(unpack: Unpack, target: Path) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    member = Member(name=b"ping", data=b"x", uid=5, pax={b"SCHILY.xattr.security.capability": capability})
    await unpack(packed(member))
    assert os.getxattr(target / "ping", "security.capability") == capability


async def test_policy_of_the_packing_host_is_left_out(unpack: Unpack, target: Path) -> None:
    pax = {b"SCHILY.xattr.security.selinux": b"x", b"SCHILY.xattr.trusted.md5": b"y"}
    await unpack(packed(Member(name=b"f", pax=pax)))
    assert not [name for name in os.listxattr(target / "f") if name.startswith("trusted.")]


async def test_whiteouts_become_overlays_own(unpack: Unpack, target: Path) -> None:
    await unpack(
        packed(
            directory(b"d"),
            Member(name=b"d/.wh.gone"),
            directory(b"o"),
            Member(name=b"o/.wh..wh..opq"),
            Member(name=b"o/new", data=b"x"),
            Member(name=b"a.wh.b", data=b"an ordinary name"),
            directory(b".wh..wh.plnk"),
            Member(name=b".wh..wh.plnk/1.2", data=b"aufs"),
        )
    )
    assert is_whiteout(target / "d/gone")
    assert os.getxattr(target / "o", OPAQUE) == b"y"
    assert names_in(target) == [b"a.wh.b", b"d", b"o"]


@pytest.mark.parametrize("whiteout_first", [True, False])
async def test_a_directory_that_was_removed_and_made_anew_hides_the_old(
    whiteout_first: bool, unpack: Unpack, target: Path
) -> None:
    members = [Member(name=b".wh.d"), directory(b"d"), Member(name=b"d/new", data=b"x")]
    await unpack(packed(*(members if whiteout_first else [*members[1:], members[0]])))
    assert os.getxattr(target / "d", OPAQUE) == b"y"
    assert (target / "d/new").read_text() == "x"


@pytest.mark.parametrize("whiteout_first", [True, False])
async def test_a_file_beside_its_own_whiteout_stays(whiteout_first: bool, unpack: Unpack, target: Path) -> None:
    members = [Member(name=b".wh.f"), Member(name=b"f", data=b"new")]
    await unpack(packed(*(members if whiteout_first else reversed(members))))
    assert (target / "f").read_text() == "new"


async def test_a_whiteout_below_which_something_appears_is_an_opaque_directory(unpack: Unpack, target: Path) -> None:
    await unpack(packed(Member(name=b".wh.d"), Member(name=b"d/e/f", data=b"x")))
    assert os.getxattr(target / "d", OPAQUE) == b"y"
    assert (target / "d/e/f").read_text() == "x"


async def test_later_entries_replace_earlier_ones(unpack: Unpack, target: Path) -> None:
    await unpack(
        packed(
            Member(name=b"f", data=b"old"),
            Member(name=b"f", data=b"new"),
            directory(b"d"),
            Member(name=b"d/x", data=b"x"),
            Member(name=b"d", data=b"now a file"),
            Member(name=b"e", data=b"was a file"),
            directory(b"e"),
            Member(name=b"e/y", data=b"y"),
            symlink(b"l", b"f"),
            Member(name=b"l", data=b"no longer a link"),
        )
    )
    assert (target / "f").read_text() == "new"
    assert (target / "d").read_text() == "now a file"
    assert (target / "e/y").read_text() == "y"
    assert (target / "l").read_text() == "no longer a link"


async def test_directories_that_no_entry_described_are_told(unpack: Unpack, target: Path) -> None:
    result = await unpack(packed(Member(name=b"a/b/c", data=b"x"), directory(b"a", mode=0o700)))
    assert result.implied == ("", "a/b")
    assert mode_of(target / "a/b") == 0o755


async def test_many_directories_at_once_need_few_descriptors(unpack: Unpack, target: Path) -> None:
    members = [Member(name=b"d%d/e/f" % number, data=b"x") for number in range(600)]
    links = [hard_link(b"d%d/e/h" % (599 - number), b"d%d/e/f" % number) for number in range(600)]
    result = await unpack(packed(*members, *links))
    assert result.entries == 1200
    assert (target / "d0/e/h").stat().st_ino == (target / "d599/e/f").stat().st_ino


async def test_an_empty_layer_is_an_empty_directory(unpack: Unpack, target: Path) -> None:
    tar = bytes(1024)
    result = await unpack(gzip.compress(tar), diff_id(tar))
    assert (result.size, result.entries, names_in(target)) == (0, 0, [])


async def test_what_gnu_tar_writes_is_what_we_unpack(unpack: Unpack, target: Path) -> None:
    """A tree of real files, against tar(1) itself."""
    tar = output_of("tar", "-C", REAL_TREE, "-c", ".")
    await unpack(gzip.compress(tar, 1), diff_id(tar))
    assert output_of("diff", "-r", "--no-dereference", REAL_TREE, str(target)) == b""


async def test_progress_is_told_in_bytes_of_the_blob(tmp_path: Path, target: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(archive(Member(name=b"f", data=os.urandom(5 << 20))))
    seen: list[int] = []
    await unpack_layer(blob, media_types.OCI_LAYER, target, None, seen.append)
    assert seen == sorted(seen)
    assert len(seen) >= 4
    assert seen[-1] <= blob.stat().st_size


async def test_an_unknown_media_type_is_refused_before_anything_starts(tmp_path: Path, target: Path) -> None:
    with pytest.raises(InvalidArgument, match="not supported"):
        await unpack_layer(tmp_path / "none", "application/x-layer", target, None)


async def test_cancelling_leaves_no_worker_behind(tmp_path: Path, target: Path) -> None:
    """A pipe as the blob: the worker waits for bytes that never come, until it is told to stop."""
    blob = tmp_path / "pipe"
    os.mkfifo(blob)
    keep_open = os.open(blob, os.O_RDWR)
    try:
        task = asyncio.create_task(unpack_layer(blob, media_types.OCI_LAYER, target, None))
        async with asyncio.timeout(20):
            # There is no event to wait for in another process's start: only its arguments show.
            while not (workers := _workers_on(target)):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert workers
        assert _workers_on(target) == []
    finally:
        os.close(keep_open)


async def test_a_full_disk_is_said(tmp_path: Path, small_disk: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(packed(Member(name=b"big", data=os.urandom(4 << 20))))
    with pytest.raises(ResourceExhausted, match="no space left on device: remove what is unused"):
        await unpack_layer(blob, media_types.OCI_LAYER_GZIP, small_disk, None)


async def test_the_diff_id_of_a_result_is_checked_against_what_was_expected(tmp_path: Path, target: Path) -> None:
    tar = archive(Member(name=b"f", data=b"x"))
    blob = tmp_path / "blob"
    blob.write_bytes(tar)
    result = await unpack_layer(blob, media_types.OCI_LAYER, target, Digest.parse(diff_id(tar)))
    assert str(result.diff_id) == diff_id(tar)


def _workers_on(target: Path) -> list[int]:
    """Processes whose arguments name this target."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if os.fsencode(target) in arguments:
                found.append(int(entry.name))
    return found


def blocks(path: Path) -> int:
    """What a file takes once it is on the disk: before, a file system does not count what it needs for itself."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_blocks


@pytest.mark.parametrize(
    "dialect",
    [("gnu",), ("pax", "0.0"), ("pax", "0.1"), ("pax", "1.0")],
    ids=["old gnu", "pax 0.0", "pax 0.1", "pax 1.0"],
)
async def test_holes_stay_holes(dialect: tuple[str, ...], unpack: Unpack, target: Path, tmp_path: Path) -> None:
    """What GNU tar writes of a file with many holes is that file again, and takes no more space."""
    original = tmp_path / "tree" / "holes"
    original.parent.mkdir()
    with original.open("wb") as file:
        for number in range(40):
            file.seek(number * 300_000)
            file.write(b"piece %d" % number)
        file.truncate(20_000_000)
    (original.parent / "end").write_text("after it")
    version = [f"--sparse-version={each}" for each in dialect[1:]]
    tar = output_of("tar", "-C", str(original.parent), "-S", f"--format={dialect[0]}", *version, "-c", "holes", "end")
    assert len(tar) < 1_000_000, "this is not sparse"
    result = await unpack(gzip.compress(tar), diff_id(tar))
    assert (target / "holes").read_bytes() == original.read_bytes()
    assert blocks(target / "holes") <= blocks(original)
    assert (target / "end").read_text() == "after it"
    assert result.size == 20_000_008
