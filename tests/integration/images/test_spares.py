"""Directories of removed containers go to those that come next, with nothing of the former in, on or about them."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bulkhead import failpoints
from bulkhead.ctl.seed.images import Tree
from bulkhead.manager.adapters.spares import Spares
from bulkhead.manager.adapters.trash import Trash
from bulkhead.model.instance import SPARE
from tests.integration.images.conftest import Engine, Registry
from tests.integration.images.test_overlay import image_id
from tests.support.eventually import eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="spares are root's, and made somebody else's: needs root"),
]


@pytest.fixture
async def trash(tmp_path: Path) -> AsyncIterator[Trash]:
    async with Trash(tmp_path / "trash") as found:
        yield found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where containers' directories are."""
    (tmp_path / "containers").mkdir()
    return tmp_path / "containers"


@pytest.fixture
def spares(root: Path, trash: Trash) -> Spares:
    return Spares(root, trash)


def made(place: Path) -> Path:
    """A container's directory, with what a life leaves in it."""
    place.mkdir(mode=0o700)
    (place / "exit.json").write_text("7")
    (place / "deep" / "er").mkdir(parents=True)
    return place


def names(root: Path) -> list[str]:
    return sorted(each.name for each in root.iterdir())


def test_a_directory_is_handed_on_empty(spares: Spares, root: Path) -> None:
    former = made(root / "former").stat().st_ino
    assert not spares.take(root / "before")
    spares.clear(root / "former")
    (waiting,) = names(root)
    assert waiting.startswith(SPARE)
    assert spares.take(root / "next")
    assert names(root) == ["next"]
    found = (root / "next").stat()
    assert (found.st_ino, stat.S_IMODE(found.st_mode), list((root / "next").iterdir())) == (former, 0o700, [])
    assert not spares.take(root / "another")


@contextmanager
def held(place: Path) -> Iterator[None]:
    """By a shim that has not left."""
    fd = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    "change",
    [
        lambda place: place.chmod(0o755),
        lambda place: os.chown(place, 1000, 0),
        lambda place: os.chown(place, 0, 1000),
        lambda place: os.setxattr(place, "user.note", b"former"),
        lambda place: os.setxattr(place, "trusted.overlay.opaque", b"y"),
        lambda place: subprocess.run(["chattr", "+d", place], check=True),
    ],
    ids=["mode", "owner", "group", "attribute", "overlay", "flag"],
)
def test_what_is_not_as_we_make_it_is_not_handed_on(
    spares: Spares, root: Path, change: Callable[[Path], object]
) -> None:
    change(made(root / "former"))
    spares.clear(root / "former")
    assert names(root) == []
    assert not spares.take(root / "next")


def test_what_somebody_holds_is_not_handed_on(spares: Spares, root: Path) -> None:
    with held(made(root / "former")):
        spares.clear(root / "former")
        assert names(root) == []


def test_what_is_written_by_somebody_late_is_not_handed_on(spares: Spares, root: Path) -> None:
    """By one who has had the directory open since before it was emptied."""
    directory = os.open(made(root / "former"), os.O_RDONLY | os.O_DIRECTORY)
    failpoints.set_to("manager.spare.named=delay(300)")
    try:
        clearing = threading.Thread(target=spares.clear, args=(root / "former",))
        clearing.start()
        while (root / "former").exists():
            pass
        os.close(os.open("exit.json", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=directory))
        clearing.join()
    finally:
        failpoints.set_to("")
        os.close(directory)
    assert names(root) == []
    assert not spares.take(root / "next")


def test_there_are_few(spares: Spares, root: Path) -> None:
    for number in range(20):
        spares.clear(made(root / str(number)))
    assert len(names(root)) == 8


def test_one_is_used_so_many_times(spares: Spares, root: Path) -> None:
    """Where files are deleted and made again and again, ext4 without a journal looks for inodes ever longer."""
    made(root / "0")
    uses = 0
    while names(root):
        spares.clear(root / str(uses))
        uses += 1
        spares.take(root / str(uses))
    assert uses == 16


def test_none_is_kept_while_somebody_asks_for_quiet(spares: Spares, trash: Trash, root: Path) -> None:
    with trash.paused():
        spares.clear(made(root / "former"))
        assert names(root) == []


def test_one_that_somebody_took_away_is_not_missed(spares: Spares, root: Path) -> None:
    for number in range(2):
        spares.clear(made(root / str(number)))
    (root / names(root)[0]).rmdir()
    assert spares.take(root / "next")
    assert not spares.take(root / "another")
    assert names(root) == ["next"]


def test_nothing_is_put_in_the_place_of_what_is_there(spares: Spares, root: Path) -> None:
    spares.clear(made(root / "former"))
    made(root / "there")
    assert not spares.take(root / "there")
    assert (root / "there" / "exit.json").read_text() == "7"
    assert names(root) == ["there"]


def refused(_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_one_that_a_full_disk_leaves_unfurnished_is_none(trash: Trash, root: Path) -> None:
    spares = Spares(root, trash, refused)
    spares.clear(made(root / "former"))
    assert names(root) == []
    assert not spares.take(root / "next")


def test_one_that_a_full_disk_leaves_unfinished_gives_its_blocks_back(spares: Spares, root: Path) -> None:
    spares.clear(made(root / "former"))
    assert not spares.take(root / "next", refused)
    assert names(root) == []


def test_there_may_be_nothing_to_clear(spares: Spares, root: Path) -> None:
    spares.clear(root / "never")
    assert names(root) == []


async def test_a_writable_layer_is_new_but_for_its_place(engine: Engine, registry: Registry, tmp_path: Path) -> None:
    """What a container can change of its root, and the kernel of its work directory, goes with it."""
    closed = await image_id(engine, registry, "closed", Tree().directory("./", 0o711), Tree().file("f", b""))
    plain = await image_id(engine, registry, "plain", Tree().file("f", b""))
    snapshots = engine.images.snapshots
    former = await snapshots.prepare("c1", closed)
    place, inodes = inode_of(parent(former.upper)), {inode_of(former.upper), inode_of(former.work)}
    with lived_in(former.upper, former.work):
        await snapshots.remove("c1")
        asked = await later(tmp_path)
        next_one = await snapshots.prepare("c2", plain)
        assert inode_of(parent(next_one.upper)) == place
        assert inodes.isdisjoint((inode_of(next_one.upper), inode_of(next_one.work)))
    assert content(next_one.upper) == [".dockerenv"]
    assert content(next_one.work) == []
    assert about(next_one.work) == (0o700, 0, 0, [])
    for path in (next_one.upper, f"{next_one.upper}/.dockerenv"):
        assert about(path) == (0o755, 0, 0, [])
        assert modified(path) >= asked, "when another container was removed is nobody's business"


@contextmanager
def lived_in(upper: str, work: str) -> Iterator[None]:
    """By a container that does what it likes with its root; its inodes are nobody else's meanwhile."""
    kept = [os.open(path, os.O_RDONLY) for path in (upper, work)]
    Path(upper).chmod(0o1777)
    os.chown(upper, 1000, 1000)
    os.setxattr(upper, "user.note", b"former")
    (Path(upper) / "left").write_text("x")
    (Path(work) / "work").mkdir(mode=0)
    try:
        yield
    finally:
        for fd in kept:
            os.close(fd)


def parent(path: str) -> str:
    return str(Path(path).parent)


def inode_of(path: str) -> int:
    return Path(path).stat().st_ino


def modified(path: str) -> int:
    return Path(path).stat().st_mtime_ns


async def later(place: Path) -> int:
    """A time after now by the clock of files, which is behind others until it ticks."""
    before = touched(place / "before")
    await eventually(lambda: touched(place / "after") > before)
    return modified(str(place / "after"))


def touched(path: Path) -> int:
    path.touch()
    return modified(str(path))


def content(path: str) -> list[str]:
    return names(Path(path))


def about(path: str) -> tuple[int, int, int, list[str]]:
    found = Path(path).stat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, os.listxattr(path)


async def test_a_layer_of_another_root_gets_its_owner_and_mode(engine: Engine, registry: Registry) -> None:
    plain = await image_id(engine, registry, "plain", Tree().file("f", b""))
    closed = await image_id(engine, registry, "closed", Tree().directory("./", 0o711), Tree().file("f", b""))
    snapshots = engine.images.snapshots
    await snapshots.prepare("c1", plain)
    await snapshots.remove("c1")
    assert about((await snapshots.prepare("c2", closed)).upper) == (0o711, 0, 0, [])


async def test_spares_are_nobodys_only_when_the_next_manager_comes(engine: Engine, registry: Registry) -> None:
    plain = await image_id(engine, registry, "plain", Tree().file("f", b""))
    snapshots = engine.images.snapshots
    root = Path((await snapshots.prepare("c1", plain)).upper).parents[1]
    await snapshots.remove("c1")
    (spare,) = names(root)
    os.utime(root / spare, (0, 0))
    assert snapshots.strays(()) == []
    await snapshots.recover(())
    assert names(root) == []
    assert content((await snapshots.prepare("c2", plain)).upper) == [".dockerenv"]
