"""Trees that containers made, read while they may be changing: nothing followed, nothing lost, nothing invented."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import shutil
import tarfile
import threading
from pathlib import Path

import pytest

from bulkhead.content.blocking import Blocking
from bulkhead.content.trees import Tree, changes, merged, reading
from bulkhead.errors import Internal, InvalidArgument

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounts overlays: needs root")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An upper directory over two lower ones; the topmost hides what is in the other."""
    upper, top, base = tmp_path / "upper", tmp_path / "top", tmp_path / "base"
    for place in (upper, top, base):
        place.mkdir()
    (base / "etc").mkdir()
    (base / "etc/passwd").write_text("root")
    (base / "old").mkdir()
    (base / "old/file").write_text("x")
    (base / "gone").write_text("x")
    (top / "bin").mkdir()
    (top / "bin/sh").write_text("#!")
    return Tree(upper=str(upper), lower=(str(top), str(base)), made=("etc", "etc/hosts", "proc"))


def told(tree: Tree) -> list[str]:
    async def run() -> list[str]:
        return [f"{each.kind.value} {each.path.decode()}" for each in await changes(tree, Blocking(1))]

    return asyncio.run(run())


def packed(tree: Tree, want: str) -> dict[str, tarfile.TarInfo]:
    async def run() -> bytes:
        blocking = Blocking(1)
        if want == "tree":
            return b"".join([piece async for piece in merged(tree, blocking)])
        found = bytearray()
        async with reading(want, tree) as source:
            while piece := await blocking.run(source.read, 1 << 20):
                found += piece
        return bytes(found)

    with tarfile.open(fileobj=io.BytesIO(asyncio.run(run()))) as archive:
        return {member.name: member for member in archive}


def whiteout(path: Path) -> None:
    os.mknod(path, 0o020000, os.makedev(0, 0))


def test_deletions_and_replaced_directories(tree: Tree) -> None:
    upper = Path(tree.upper)
    whiteout(upper / "gone")
    (upper / "old").mkdir()
    os.setxattr(upper / "old", "trusted.overlay.opaque", b"y")
    (upper / "old/new").write_text("")
    assert told(tree) == ["D gone", "C old", "D old/file", "A old/new"]
    assert {"old", "old/new"} <= packed(tree, "tree").keys() and "gone" not in packed(tree, "tree")
    assert list(packed(tree, "layer")) == [".wh.gone", "old", "old/.wh..wh..opq", "old/new"]


def test_what_a_replaced_directory_hides_at_any_depth(tree: Tree) -> None:
    base, upper = Path(tree.lower[1]), Path(tree.upper)
    (base / "old/deep").mkdir()
    (base / "old/deep/gone").touch()
    (upper / "old/deep").mkdir(parents=True)
    os.setxattr(upper / "old", "trusted.overlay.opaque", b"y")
    assert told(tree) == ["C old", "D old/file", "C old/deep", "D old/deep/gone"]


def test_only_differences_are_changes(tree: Tree) -> None:
    """A file that was copied up, a directory in which something was done: neither is itself changed."""
    base, upper = Path(tree.lower[1]), Path(tree.upper)
    (upper / "etc").mkdir()
    shutil.copy2(base / "etc/passwd", upper / "etc/passwd")
    (upper / "old").mkdir()
    assert told(tree) == []
    (upper / "etc/passwd").write_text("more")
    (upper / "old").chmod(0o700)
    assert told(tree) == ["C etc", "C etc/passwd", "C old"]


def test_what_the_engine_made_is_no_change(tree: Tree) -> None:
    upper = Path(tree.upper)
    (upper / "etc").mkdir()
    (upper / "etc/hosts").touch()
    (upper / "proc").mkdir()
    assert told(tree) == [] and packed(tree, "layer") == {}
    (upper / "etc/own").touch()
    assert told(tree) == ["C etc", "A etc/own"]
    (upper / "etc/hosts").write_text("mine")
    assert "A etc/hosts" in told(tree)


def test_sparse_large_and_linked_files(tree: Tree) -> None:
    upper = Path(tree.upper)
    (upper / "big").write_bytes(os.urandom(3 << 20))
    os.link(upper / "big", upper / "same")
    os.setxattr(upper / "big", "user.note", b"n")
    found = packed(tree, "layer")
    assert (found["big"].size, found["same"].linkname) == (3 << 20, "big")
    assert found["big"].pax_headers["SCHILY.xattr.user.note"] == "n"


def test_links_are_never_followed(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("k")
    (Path(tree.upper) / "way").symlink_to(tmp_path / "secret")
    assert list(packed(tree, "layer")) == ["way"]
    assert not any("key" in name for name in packed(tree, "tree"))


def test_a_tree_that_changes_meanwhile(tree: Tree) -> None:
    """Files shrink, grow, go and become something else: the archive stays whole."""
    upper = Path(tree.upper)
    done = threading.Event()

    def churn() -> None:
        count = 0
        while not done.is_set():
            count += 1
            path = upper / f"f{count % 40}"
            path.unlink(missing_ok=True)
            if count % 3:
                path.write_bytes(b"x" * (count * 37_000 % 900_000))
            else:
                os.mkfifo(path)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(5):
            assert "etc/passwd" in packed(tree, "tree")
            packed(tree, "layer")
    finally:
        done.set()
        thread.join()


def test_a_path_that_no_archive_holds(tree: Tree) -> None:
    fd = os.open(tree.upper, os.O_RDONLY)
    for _ in range(30):
        os.mkdir("d" * 200, dir_fd=fd)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    os.close(fd)
    with pytest.raises(InvalidArgument, match="longer than 4096"):
        packed(tree, "tree")


def test_a_tree_that_is_not_there(tree: Tree) -> None:
    with pytest.raises(Internal, match="no such file"):
        told(Tree(upper=tree.upper + "x", lower=tree.lower))


def test_a_reader_that_leaves_ends_the_worker(tree: Tree) -> None:
    (Path(tree.upper) / "big").write_bytes(bytes(8 << 20))

    before = _children()

    async def run() -> None:
        async with reading("tree", tree) as source:
            await Blocking(1).run(source.read, 10)
            assert _children() - before
            raise KeyError

    with pytest.raises(KeyError):
        asyncio.run(run())
    assert not _children() - before


def _children() -> set[str]:
    """Processes that any of our threads has started; a thread may end while it is looked at."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update((task / "children").read_text().split())
    return found
