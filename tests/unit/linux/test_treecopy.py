"""Trees copied by descriptors: what is kept, what is refused."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from bulkhead.linux import resolve
from bulkhead.linux.treecopy import copy_tree


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    return made


def copied(source: Path) -> Path:
    target = source.parent / "target"
    target.mkdir()
    inner, outer = (os.open(place, os.O_RDONLY | os.O_DIRECTORY) for place in (source, target))
    try:
        copy_tree(inner, outer)
    finally:
        os.close(inner)
        os.close(outer)
    return target


def test_owner_mode_times_attributes(source: Path) -> None:
    file = source / "dir" / "file"
    file.parent.mkdir()
    file.write_bytes(b"x" * 100_000)
    os.chown(file, 5, 6)
    file.chmod(0o4751)
    os.setxattr(file, "user.colour", b"red")
    os.utime(file, ns=(1_000_000_001, 2_000_000_002))
    source.chmod(0o1777)
    os.chown(source, 7, 8)
    target = copied(source)
    made = (target / "dir" / "file").stat()
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode), made.st_mtime_ns) == (5, 6, 0o4751, 2_000_000_002)
    assert os.getxattr(target / "dir" / "file", "user.colour") == b"red"
    assert (target / "dir" / "file").read_bytes() == b"x" * 100_000
    top = target.stat()
    assert (top.st_uid, top.st_gid, stat.S_IMODE(top.st_mode)) == (7, 8, 0o1777)


def test_links_and_special_files(source: Path) -> None:
    (source / "a").write_text("1")
    (source / "sub").mkdir()
    os.link(source / "a", source / "sub" / "b")
    (source / "out").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(source / "sock"))
        target = copied(source)
    assert (target / "a").stat().st_ino == (target / "sub" / "b").stat().st_ino
    assert (target / "out").readlink() == Path("/etc/passwd")
    assert stat.S_ISFIFO((target / "pipe").stat().st_mode)
    assert (target / "null").stat().st_rdev == os.makedev(1, 3)
    assert not (target / "sock").exists()


def test_a_symlink_in_the_root_leads_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("inside")
    (tmp_path / "absolute").symlink_to("/etc/passwd")
    (tmp_path / "dots").symlink_to("../../../../etc/passwd")
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name in ("absolute", "dots"):
            fd = resolve.open_in_root(root, name, os.O_RDONLY)
            assert os.read(fd, 100) == b"inside"
            os.close(fd)
    finally:
        os.close(root)
