"""Volumes over the manager's core: records, directories, what uses them, what survives a crash."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from bulkhead.errors import Conflict, InvalidArgument, NotFound
from bulkhead.linux.hostmounts import mounted_below
from bulkhead.manager.ports import Change
from bulkhead.manager.volumes.places import Places
from bulkhead.model.container import Mount
from bulkhead.model.volume import ANONYMOUS_LABEL, Volume
from tests.support.cold_trees import MANY, cold_trees, holds_up_nobody
from tests.support.manager_core import Running, fake_core, new_world, running_core


def place(core: Running, name: str) -> Path:
    return core.world.instance.data / "volumes" / name / "_data"


async def test_create_is_idempotent_and_announced_once(tmp_path: Path) -> None:
    async with fake_core(tmp_path) as core:
        first = await core.core.volumes.create(Volume(name="data", labels={"a": "b"}))
        second = await core.core.volumes.create(Volume(name="data", labels={"other": ""}))
        assert first == second and place(core, "data").is_dir()
        assert await core.actions("volume") == ["create"]


async def test_volumes_that_wait_for_a_disk_hold_up_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a service does beside its loop has one pool of threads: those who wait there were all that it has."""
    thaws = threading.Event()
    make = Places.make

    def make_late(places: Places, name: str, quota: int) -> bool:
        thaws.wait(30)
        return make(places, name, quota)

    monkeypatch.setattr(Places, "make", make_late)
    async with fake_core(tmp_path) as core:
        names = [f"data{number}" for number in range(MANY)]
        await holds_up_nobody(lambda number: core.core.volumes.create(Volume(name=names[number])), thaws)
        assert set(core.core.volumes.places.names()) == set(names)


async def test_volumes_that_are_counted_hold_up_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    thaws = cold_trees(monkeypatch)
    async with fake_core(tmp_path) as core:
        await core.core.volumes.create(Volume(name="data"))
        assert await holds_up_nobody(lambda _: core.core.volumes.size("data"), thaws) == [7] * MANY


async def test_volumes_survive_the_manager(tmp_path: Path) -> None:
    world = new_world(tmp_path)
    async with running_core(world) as core:
        made = await core.core.volumes.create(Volume(name="data", options={"type": "tmpfs", "device": "tmpfs"}))
    async with running_core(world) as core:
        assert core.core.volumes.get("data") == made


@pytest.mark.parametrize(
    ("wanted", "kind", "text"),
    [
        (Volume(name="a"), InvalidArgument, "volume name is too short"),
        (Volume(name="x" * 256), InvalidArgument, "volume name is too long, names have 255 characters at most"),
        (Volume(name="../x"), InvalidArgument, "includes invalid characters for a local volume name"),
        (Volume(name="ok", driver="nope"), NotFound, 'plugin "nope" not found'),
        (Volume(name="ok", options={"foo": "1"}), InvalidArgument, 'create ok: invalid option: "foo"'),
        (Volume(name="ok", options={"o": "x"}), InvalidArgument, 'missing required option: "device"'),
        (Volume(name="ok", options={"type": "none", "device": "rel"}), InvalidArgument, "must be an absolute path"),
        (Volume(name="ok", options={"size": "huge"}), InvalidArgument, "invalid size: 'huge'"),
    ],
)
async def test_refusals_leave_nothing(tmp_path: Path, wanted: Volume, kind: type[Exception], text: str) -> None:
    async with fake_core(tmp_path) as core:
        with pytest.raises(kind) as caught:
            await core.core.volumes.create(wanted)
        assert text in str(caught.value)
        assert core.records.volumes == {} and core.core.volumes.places.names() == []


async def test_a_name_may_be_as_long_as_a_files(tmp_path: Path) -> None:
    async with fake_core(tmp_path) as core:
        made = await core.core.volumes.create(Volume(name="x" * 255))
        assert core.core.volumes.places.names() == [made.name]
        await core.core.volumes.remove(made.name, force=False)
        assert core.core.volumes.places.names() == []


async def test_a_volume_in_use_stays(tmp_path: Path) -> None:
    world = new_world(tmp_path)
    async with running_core(world) as core:
        container = await core.create(mounts=(Mount(type="volume", source="data", target="/d"),))
    async with running_core(world) as core:  # the protection is in the records
        with pytest.raises(Conflict, match=rf"remove data: volume is in use - \[{container}\]"):
            await core.core.volumes.remove("data", force=True)
        await core.core.containers.remove(container, force=True, volumes=True)
        assert place(core, "data").is_dir()
        await core.core.volumes.remove("data", force=False)
        assert not place(core, "data").exists()
        assert await core.actions("volume") == ["create", "destroy"]


async def test_removing_what_is_not_there(tmp_path: Path) -> None:
    async with fake_core(tmp_path) as core:
        await core.core.volumes.remove("nosuch", force=True)
        with pytest.raises(NotFound, match="get nosuch: no such volume"):
            await core.core.volumes.remove("nosuch", force=False)


async def test_anonymous_volumes_go_with_their_container(tmp_path: Path) -> None:
    async with fake_core(tmp_path) as core:
        container = await core.create(volumes=("/a",))
        (name,) = core.get(container).anonymous_volumes
        assert core.core.volumes.get(name).labels == {ANONYMOUS_LABEL: ""}
        other = await core.create(volumes_from=(container,))
        await core.core.containers.remove(container, force=False, volumes=True)
        assert place(core, name).is_dir()  # the other one still has it
        await core.core.containers.remove(other, force=False, volumes=False)
        pruned = await core.core.volume_pruning.prune({})
        assert pruned.names == (name,) and not place(core, name).exists()


async def test_prune_leaves_named_ones_unless_told(tmp_path: Path) -> None:
    async with fake_core(tmp_path) as core:
        await core.core.volumes.create(Volume(name="named", labels={"keep": ""}))
        (place(core, "named") / "file").write_bytes(b"12345")
        assert (await core.core.volume_pruning.prune({})).names == ()
        assert (await core.core.volume_pruning.prune({"all": ["1"], "label!": ["keep"]})).names == ()
        pruned = await core.core.volume_pruning.prune({"all": ["true"]})
        assert (pruned.names, pruned.space_reclaimed) == (("named",), 5)
        with pytest.raises(InvalidArgument, match="Invalid filter"):
            await core.core.volume_pruning.prune({"until": ["1h"]})


async def test_prune_leaves_what_was_made_with_options(tmp_path: Path) -> None:
    """As dockerd does: the files may be anybody's."""
    async with fake_core(tmp_path) as core:
        await core.core.volumes.create(Volume(name="mounted", options={"type": "tmpfs", "device": "tmpfs"}))
        assert (await core.core.volume_pruning.prune({"all": ["1"]})).names == ()
        await core.core.volumes.remove("mounted", force=False)


async def test_list_filters(tmp_path: Path) -> None:
    async with fake_core(tmp_path) as core:
        for name in ("one", "two", "twofold"):
            await core.core.volumes.create(Volume(name=name, labels={"n": name}))
        await core.create(mounts=(Mount(type="volume", source="two", target="/d"),))

        def found(**filters: str) -> list[str]:
            wanted = {key: [value] for key, value in filters.items()}
            return [each.name for each in core.core.volume_pruning.select(wanted)]

        assert found() == ["one", "two", "twofold"]
        assert found(name="two") == ["two", "twofold"] and found(label="n=one") == ["one"]
        assert found(dangling="true") == ["one", "twofold"] and found(dangling="0") == ["two"]
        assert found(driver="nfs") == []
        with pytest.raises(InvalidArgument):
            found(dangling="perhaps")


async def test_a_crash_between_record_and_directory_is_finished(tmp_path: Path) -> None:
    world = new_world(tmp_path)
    async with running_core(world) as core:
        await core.core.volumes.create(Volume(name="gone"))
        await core.records.commit(Change(drop_volumes=("gone",)), durable=True)  # killed here
    unknown = world.instance.data / "volumes/found/_data"
    unknown.mkdir(parents=True)
    half_made = world.instance.data / "volumes/.half.1234"
    half_made.mkdir()
    for _ in range(2):  # a second recovery changes nothing
        async with running_core(world) as core:
            assert list(core.records.volumes) == ["found"] and unknown.is_dir()
            assert not place(core, "gone").exists() and not half_made.exists()


async def test_a_container_that_fails_leaves_no_volume(tmp_path: Path) -> None:
    async with fake_core(tmp_path) as core:
        mounts = (
            Mount(type="volume", source="fresh", target="/d"),
            Mount(type="bind", source="/nosuch/source", target="/b"),
        )
        with pytest.raises(InvalidArgument, match="bind source path does not exist"):
            await core.create(mounts=mounts)
        assert core.records.volumes == {} and not place(core, "fresh").exists()


async def test_create_and_remove_at_the_same_time(tmp_path: Path) -> None:
    """Whoever wins, a record has its directory and no directory is without its record."""
    async with fake_core(tmp_path) as core:
        volumes = core.core.volumes
        for _ in range(20):
            made = asyncio.create_task(core.create(mounts=(Mount(type="volume", source="race", target="/d"),)))
            gone = asyncio.create_task(volumes.remove("race", force=True))
            results = await asyncio.gather(made, gone, return_exceptions=True)
            assert isinstance(results[0], str)
            assert isinstance(results[1], Conflict | None)
            assert ("race" in core.records.volumes) and place(core, "race").is_dir()
            await core.core.containers.remove(results[0], force=True, volumes=False)


async def test_nobody_begins_to_use_what_is_leaving(tmp_path: Path) -> None:
    """`rm -v` of the one container, `--volumes-from` it by another: the newcomer is refused, or keeps the volume."""
    async with fake_core(tmp_path) as core:
        owner = await core.create(volumes=("/a",))
        (name,) = core.get(owner).anonymous_volumes
        async with core.core.volumes.leaving(core.get(owner)) as gone:
            assert gone == (name,)
            with pytest.raises(Conflict, match=f"cannot use volume {name}: it is being removed"):
                await core.create(volumes_from=(owner,))
        other = await core.create(volumes_from=(owner,))
        async with core.core.volumes.leaving(core.get(owner)) as gone:
            assert gone == ()
        assert core.get(other).spec.mounts[0].source == name


async def test_users_of_one_volume_that_leave_at_once_take_it_along(tmp_path: Path) -> None:
    """As `docker rm -v` has it of several containers: neither leaves it to the other."""
    async with fake_core(tmp_path) as core:
        owner = await core.create(volumes=("/a", "/b"))
        users = [owner, *[await core.create(volumes_from=(owner,)) for _ in range(2)]]
        names = core.get(owner).anonymous_volumes
        await asyncio.gather(*(core.core.containers.remove(each, force=True, volumes=True) for each in users))
        assert core.records.volumes == {} and not any(place(core, name).exists() for name in names)


async def test_a_volume_mounted_twice_is_held_once(tmp_path: Path) -> None:
    """A start that fails unmounts it, wherever and how often the container wanted it."""
    async with fake_core(tmp_path) as core:
        wanted = Volume(name="mem", options={"type": "tmpfs", "device": "tmpfs"})
        await core.core.volumes.create(wanted)
        mounts = tuple(Mount(type="volume", source="mem", target=target) for target in ("/a", "/b"))
        container = core.get(await core.create(mounts=mounts))
        with pytest.raises(KeyError):
            async with core.core.volumes.used_by(container):
                assert place(core, "mem") in mounted_below(tmp_path)
                raise KeyError
        assert not mounted_below(tmp_path)
