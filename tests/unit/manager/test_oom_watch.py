"""Processes that the kernel kills for want of memory while their container goes on, on fakes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bulkhead.manager import oom_watch
from bulkhead.manager.ports import Exit
from bulkhead.manager.updating import Update
from bulkhead.model.container import Resources
from tests.support.eventually import eventually
from tests.support.manager_core import Running, fake_core, new_world, running_core

LIMITED = Resources(memory=16 << 20, memory_swap=16 << 20)


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Running]:
    async with fake_core(tmp_path) as running:
        yield running


async def followed(core: Running, container_id: str) -> None:
    await eventually(lambda: container_id in core.world.memory.open)


async def killed(core: Running, container_id: str, *, known: int) -> None:
    """One more, and it is on record."""
    core.world.memory.kill(container_id)
    await eventually(lambda: core.get(container_id).oom_kills == known)


async def test_each_kill_is_told_while_the_container_lives(core: Running) -> None:
    container_id = await core.run("sleep", "9", resources=LIMITED)
    await followed(core, container_id)
    for known in (1, 2):
        await killed(core, container_id, known=known)
    assert core.get(container_id).oom_killed
    assert await core.actions() == ["create", "start", "oom", "oom"]


async def test_a_kill_is_told_at_once_however_long_it_is_until_the_next_look(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the kernel says so: whoever follows from now on looks for kills of which he was told too late."""
    monkeypatch.setattr(oom_watch, "_LOOK_FIRST", 3600.0)
    container_id = await core.run("sleep", "9", resources=LIMITED)
    await followed(core, container_id)
    for known in (1, 2):
        await killed(core, container_id, known=known)


async def test_an_end_tells_only_of_what_nobody_has_told(core: Running) -> None:
    for kills, told in ((1, ["oom", "die"]), (2, ["oom", "oom", "die"])):
        container_id = await core.run("sleep", "9", resources=LIMITED)
        await followed(core, container_id)
        await killed(core, container_id, known=1)
        shim = core.shim(container_id)
        shim.exit(137)
        shim.ended = Exit(code=137, at=shim.ended.at if shim.ended else 0, oom_killed=True, oom_kills=kills)
        await core.ended(container_id)
        assert (await core.actions())[-len(told) :] == told
        assert core.get(container_id).oom_killed


async def test_nobody_is_followed_beyond_the_end(core: Running) -> None:
    container_id = await core.run("sleep", "9", resources=LIMITED)
    await followed(core, container_id)
    core.shim(container_id).exit(0)
    await core.ended(container_id)
    await eventually(lambda: not core.world.memory.open)
    assert not core.get(container_id).oom_killed


async def test_the_next_run_begins_anew(core: Running) -> None:
    container_id = await core.run("sleep", "9", resources=LIMITED)
    await followed(core, container_id)
    await killed(core, container_id, known=1)
    core.shim(container_id).exit(0)
    await core.ended(container_id)
    core.world.memory.renew(container_id)
    await core.core.containers.start(container_id)
    assert (core.get(container_id).oom_killed, core.get(container_id).oom_kills) == (False, 0)


async def test_a_limit_that_comes_later_is_followed(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    await core.core.updating.update(container_id, Update(resources=LIMITED))
    await followed(core, container_id)
    await killed(core, container_id, known=1)


async def test_what_a_manager_was_not_there_for_is_told_by_the_next(tmp_path: Path) -> None:
    world = new_world(tmp_path)
    async with running_core(world) as core:
        container_id = await core.run("sleep", "9", resources=LIMITED)
        await followed(core, container_id)
        await killed(core, container_id, known=1)
    world.memory.kill(container_id)
    async with running_core(world) as core:
        await eventually(lambda: core.get(container_id).oom_kills == 2)
        assert await core.actions() == ["create", "start", "oom", "oom"]
