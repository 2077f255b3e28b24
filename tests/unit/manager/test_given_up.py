"""Operations that are given up while their record is on its way to the disk: what comes of it."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import BulkheadError
from bulkhead.linux import process
from bulkhead.manager.adapters.records import SqliteRecords
from bulkhead.manager.ports import Change
from bulkhead.manager.updating import Update
from bulkhead.model.container import Container, Resources, RestartPolicy
from bulkhead.model.lifecycle import Phase
from bulkhead.model.network import AddressBlock, NetworkRecord
from tests.support.eventually import eventually
from tests.support.manager_core import Running, fake_core

SHARES = Update(resources=Resources(cpu_shares=512))


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Running]:
    async with fake_core(tmp_path) as running:
        yield running


@asynccontextmanager
async def _given_up(
    core: Running,
    container_id: str,
    operation: Coroutine[Any, Any, None] | None,
    wanted: Callable[[Container], bool] = lambda _: True,
) -> AsyncIterator[None]:
    """The disk stands still before the first record that is `wanted`, and the operation's time is over; in the block
    the disk still stands."""
    disk, reached, commit = threading.Event(), asyncio.Event(), SqliteRecords.commit

    async def standing(records: SqliteRecords, change: Change, **how: Any) -> None:
        if not reached.is_set() and change.update is not None and wanted(change.update):
            held.append(asyncio.ensure_future(core.records._database.read(lambda _: disk.wait(60))))
            await asyncio.sleep(0)
            reached.set()
        await commit(records, change, **how)

    held: list[asyncio.Future[bool]] = []
    asked = asyncio.ensure_future(operation) if operation is not None else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqliteRecords, "commit", standing)
        await reached.wait()
    running = core.core.actors._actors[container_id].running
    assert running is not None
    running.cancel()
    if asked is not None:
        with pytest.raises(BulkheadError):
            await asked
    try:
        yield
    finally:
        disk.set()
        await asyncio.gather(*held)
    await _settled(core, container_id)


async def _settled(core: Running, container_id: str) -> None:
    """All that was to be written is, and what follows from it has been done."""
    await core.records.written()
    with suppress(BulkheadError):
        await core.settled(container_id)
    await eventually(lambda: "settle" not in {each.name for each in core.core.actors.in_flight})


async def test_limits_come_into_force(core: Running) -> None:
    told: list[Any] = []
    container_id = await core.run("sleep", "9")
    updating = replace(core.core.updating, limit=lambda _, limits: told.append(limits))
    async with _given_up(core, container_id, updating.update(container_id, SHARES)):
        pass
    assert (core.get(container_id).spec.resources.cpu_shares, core.get(container_id).unapplied) == (512, False)
    assert [each["cpu"]["shares"] for each in told] == [512]
    assert await core.actions() == ["create", "start", "update"]


async def test_limits_that_have_not_come_into_force_do_with_the_next(core: Running) -> None:
    told: list[Any] = []
    container_id = await core.run("sleep", "9")
    updating = replace(core.core.updating, limit=lambda _, limits: told.append(limits))
    container = core.get(container_id)
    spec = replace(container.spec, resources=replace(container.spec.resources, cpu_shares=512))
    await core.records.commit(Change(update=replace(container, spec=spec, unapplied=True)))
    await updating.update(container_id, Update(resources=Resources(memory=64 << 20, memory_swap=64 << 20)))
    assert not core.get(container_id).unapplied
    assert (told[0]["cpu"]["shares"], told[0]["memory"]["limit"]) == (512, 64 << 20)


async def test_limits_that_the_kernel_refuses_are_put_back(core: Running) -> None:
    def refuse(group: str, _limits: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "the kernel has no cpu.shares", group)

    container_id = await core.run("sleep", "9")
    alive = replace(core.get(container_id), pid=os.getpid(), pid_start_time=process.start_time(os.getpid()) or 0)
    await core.records.commit(Change(update=alive))
    updating = replace(core.core.updating, limit=refuse)
    async with _given_up(core, container_id, updating.update(container_id, SHARES)):
        pass
    assert core.get(container_id) == alive


async def test_a_name_is_the_containers(core: Running) -> None:
    subnet = AddressBlock(subnet="10.9.8.0/24")
    network = await core.core.networks.create(NetworkRecord(id="", name="net", blocks=(subnet,)))
    container_id = await core.run("sleep", "9", name="old", network_mode="net")
    async with _given_up(core, container_id, core.core.containers.rename("old", "new")):
        assert core.records.index.is_reserved("new")
    assert core.records.index.find("new").id == container_id
    assert not core.records.index.is_reserved("old")
    assert "new" in (core.world.instance.names_directory / network.id).read_text()


@pytest.mark.parametrize("paused", [False, True])
async def test_a_pause_is_what_its_record_says(core: Running, paused: bool) -> None:
    container_id = await core.run("sleep", "9")
    change = core.core.containers.pause
    if paused:
        await change(container_id)
        change = core.core.containers.unpause
    async with _given_up(core, container_id, change(container_id)):
        pass
    assert core.get(container_id).phase is (Phase.RUNNING if paused else Phase.PAUSED)
    assert core.shim(container_id).phase == ("running" if paused else "paused")


async def test_a_pause_whose_answer_nobody_has_waited_for_is_taken_back(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    shim = core.shim(container_id)
    shim.gates["pause"] = asyncio.Event()
    pausing = asyncio.create_task(core.core.containers.pause(container_id))
    await eventually(lambda: "pause" in shim.called)
    running = core.core.actors._actors[container_id].running
    assert running is not None
    running.cancel()
    shim.phase = "paused"
    with pytest.raises(BulkheadError):
        await pausing
    await eventually(lambda: shim.phase == "running")
    assert core.get(container_id).phase is Phase.RUNNING


async def test_a_start_is_undone_on_record_too(core: Running) -> None:
    container_id = await core.create("sleep", "9")
    start = core.core.containers.start(container_id)
    async with _given_up(core, container_id, start, lambda each: each.phase is Phase.RUNNING):
        pass
    assert core.get(container_id).phase is Phase.CREATED
    assert "took too long" in core.get(container_id).error
    await core.core.containers.start(container_id)
    assert core.get(container_id).phase is Phase.RUNNING


async def test_all_that_comes_of_an_end_follows(core: Running) -> None:
    container_id = await core.run("sleep", "9", restart_policy=RestartPolicy(name="on-failure", maximum_retry_count=1))
    waiting = asyncio.create_task(core.ended(container_id, "next-exit"))
    await asyncio.sleep(0)
    first = core.get(container_id).started_at
    asyncio.get_running_loop().call_soon(core.shim(container_id).exit, 3)
    async with _given_up(core, container_id, None):
        pass
    assert await asyncio.wait_for(waiting, 10) == 3
    await eventually(lambda: core.get(container_id).phase is Phase.RUNNING)
    assert core.get(container_id).started_at != first
    assert await core.actions() == ["create", "start", "die", "start"]
