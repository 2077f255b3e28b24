"""Writable layers and the trash: modes that keep strangers out, trees made to resist deletion."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bulkhead.ctl.seed.images import Tree, image_of
from bulkhead.ctl.seed.push import push
from bulkhead.errors import NotFound
from bulkhead.manager.adapters.trash import Trash
from tests.integration.images.conftest import Engine, Open, Registry
from tests.support.cold_trees import MANY, cold_trees, holds_up_nobody

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="layers are unpacked with their owners: needs root"),
]
NOBODY = 65534


async def image_id(engine: Engine, registry: Registry, name: str, *trees: Tree) -> str:
    push(registry.host, f"library/{name}", "latest", image_of(*trees, command=["/x"]))
    await engine.pull(name)
    return (await engine.images.store.resolve(name)).id


def mode(path: str | Path) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


async def test_state_is_closed_to_others_whatever_it_was(open_engine: Open, registry: Registry, tmp_path: Path) -> None:
    """Battery H11: setuid files of images must be out of reach, also below directories that were 0777 before."""
    snapshots = tmp_path / "data" / "snapshots"
    open_to_all(snapshots, snapshots / "layers", snapshots / "containers")
    async with open_engine() as engine:
        setuid = Tree().file("su", b"#!", 0o4755)
        image = await image_id(engine, registry, "setuid", setuid)
        dirs = await engine.images.snapshots.prepare("c1", image)
        assert mode(Path(dirs.lower[0]) / "su") == 0o4755
        for path in (dirs.lower[0], dirs.upper, dirs.work):
            assert not reachable_by_nobody(path), path
        assert [mode(path) for path in (snapshots, snapshots / "layers", snapshots / "containers")] == [0o700] * 3


def open_to_all(*paths: Path) -> None:
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)


def reachable_by_nobody(path: str) -> bool:
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os._exit(0 if os.access(path, os.X_OK) else 1)
    return os.waitpid(child, 0)[1] == 0


async def test_root_of_a_container_is_as_its_image_has_it(engine: Engine, registry: Registry) -> None:
    """An upper layer that does not speak of `/` must not make a closed root open."""
    image = await image_id(engine, registry, "closed", Tree().directory("./", 0o711), Tree().file("f", b""))
    dirs = await engine.images.snapshots.prepare("c1", image)
    assert mode(dirs.upper) == 0o711


async def test_image_without_layers_can_be_mounted(engine: Engine, registry: Registry) -> None:
    dirs = await engine.images.snapshots.prepare("c1", await image_id(engine, registry, "hollow"))
    assert len(dirs.lower) == 1
    assert list_of(dirs.lower[0]) == [Path(dirs.lower[0], "etc")]


def list_of(path: str) -> list[Path]:
    return list(Path(path).iterdir())


async def test_long_stacks_of_layers_are_kept_in_order(engine: Engine, registry: Registry) -> None:
    trees = [Tree().file("n", str(number).encode()) for number in range(20)]
    dirs = await engine.images.snapshots.prepare("c1", await image_id(engine, registry, "stack", *trees))
    *image, base = dirs.lower
    assert [int((Path(lower) / "n").read_text()) for lower in image] == list(range(19, -1, -1))
    assert [path.name for path in list_of(f"{base}/etc")] == ["mtab"]


async def test_usage_counts_what_the_container_wrote(engine: Engine, registry: Registry) -> None:
    image = await image_id(engine, registry, "usage", Tree().file("f", b"lower"))
    dirs = await engine.images.snapshots.prepare("c1", image)
    upper = Path(dirs.upper)
    (upper / "dir").mkdir()
    (upper / "dir" / "file").write_bytes(bytes(1000))
    (upper / "hard").hardlink_to(upper / "dir" / "file")
    (upper / "way-out").symlink_to("/")
    make_deep(upper / "dir", 600)
    assert await engine.images.snapshots.usage("c1") == 1000 + len("/")
    assert await engine.images.snapshots.usage("absent") == 0
    assert await engine.images.snapshots.usages(["absent", "c1", "absent"]) == [0, 1001, 0]
    # Asked for with each of thousands of containers: not by a look at all containers that there are.
    assert engine.images.store.size(image) == len(b"lower")


async def test_whose_layer_is_counted_holds_up_nobody_else(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    thaws = cold_trees(monkeypatch)
    assert await holds_up_nobody(lambda _: engine.images.snapshots.usage("c1"), thaws) == [7] * MANY


@pytest.mark.parametrize("container", ["", "..", "../x", "a/b", ".hidden"])
async def test_names_that_are_no_containers_lead_nowhere(engine: Engine, registry: Registry, container: str) -> None:
    image = await image_id(engine, registry, "named", Tree().file("f", b"named"))
    with pytest.raises(NotFound):
        await engine.images.snapshots.prepare(container, image)
    with pytest.raises(NotFound):
        await engine.images.snapshots.remove(container)


async def test_unknown_image_has_no_layers(engine: Engine) -> None:
    with pytest.raises(NotFound):
        await engine.images.snapshots.prepare("c1", f"sha256:{'0' * 64}")


@pytest.fixture
async def trash(tmp_path: Path) -> AsyncIterator[Trash]:
    async with Trash(tmp_path / "trash") as found:
        yield found


async def test_trees_made_to_resist_are_deleted(trash: Trash, tmp_path: Path) -> None:
    """A container can make a tree that is deeper than any stack, and links that lead out of it."""
    (tmp_path / "precious").write_text("kept")
    tree = tmp_path / "tree"
    tree.mkdir()
    make_deep(tree, 1500)
    (tree / "out").symlink_to(tmp_path)
    (tree / "closed").mkdir(mode=0)
    assert trash.throw(tree)
    assert not trash.throw(tree)
    await asyncio.wait_for(trash.emptied(), 30)
    assert list_of(str(tmp_path / "trash")) == []
    assert (tmp_path / "precious").read_text() == "kept"


def make_deep(root: Path, depth: int) -> None:
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


async def test_a_small_tree_is_gone_at_once(trash: Trash, tmp_path: Path) -> None:
    """The files of most containers: two threads less are woken."""
    (tmp_path / "precious").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "upper" / "etc").mkdir(parents=True)
    (tree / "upper" / "etc" / "hosts").write_text("x")
    (tree / "upper" / "out").symlink_to(tmp_path)
    (tree / "work" / "work").mkdir(mode=0, parents=True)
    trash.clear(tree)
    # The loop has not had its turn since: who empties the trash cannot have.
    assert list_of(str(tmp_path / "trash")) == []
    assert sorted(each.name for each in list_of(str(tmp_path))) == ["precious", "trash"]
    trash.clear(tree)


@pytest.mark.parametrize("large", ["deep", "wide"])
async def test_a_large_tree_is_left_to_those_who_have_time(trash: Trash, tmp_path: Path, large: str) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    if large == "deep":
        make_deep(tree, 1500)
    else:
        for number in range(200):
            (tree / str(number)).touch()
    await trash.emptied()
    trash.clear(tree)
    assert not tree.exists()
    assert list_of(str(tmp_path / "trash"))
    await asyncio.wait_for(trash.emptied(), 30)
    assert list_of(str(tmp_path / "trash")) == []


async def test_what_is_cleared_waits_for_quiet_too(trash: Trash, tmp_path: Path) -> None:
    (tmp_path / "thing").write_text("x")
    with trash.paused():
        trash.clear(tmp_path / "thing")
        assert len(list_of(str(tmp_path / "trash"))) == 1
    await asyncio.wait_for(gone(tmp_path / "trash"), 30)


async def test_nothing_is_deleted_while_somebody_asks_for_quiet(trash: Trash, tmp_path: Path) -> None:
    await trash.emptied()
    (tmp_path / "thing").write_text("x")
    with trash.paused():
        trash.throw(tmp_path / "thing")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(gone(tmp_path / "trash")), 0.2)
    await asyncio.wait_for(gone(tmp_path / "trash"), 30)


async def gone(path: Path) -> None:
    while list_of(str(path)):  # noqa: ASYNC110 - a directory has no event
        await asyncio.sleep(0.01)
