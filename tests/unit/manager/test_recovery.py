"""A manager dies and another one comes: records x shims x exit records -> one truth."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import Unavailable
from bulkhead.linux import process
from bulkhead.manager.ports import Change
from bulkhead.model.container import Container, Resources, RestartPolicy, ThrottleDevice
from bulkhead.model.lifecycle import Phase
from bulkhead.model.losses import Loss
from tests.support.eventually import eventually
from tests.support.fake_shims import FakeShim
from tests.support.manager_core import Running, World, new_world, running_core


@pytest.fixture
def world(tmp_path: Path) -> World:
    return new_world(tmp_path)


@asynccontextmanager
async def one_life(world: World) -> AsyncIterator[Running]:
    async with running_core(world) as running:
        yield running


async def _run_in_a_first_life(world: World, **spec: Any) -> str:
    async with one_life(world) as core:
        return await core.run("sleep", "9", **spec)


def _sorted(core: Running) -> list[Container]:
    return sorted(core.records.index, key=lambda each: each.id)


def _have_real_processes(world: World) -> None:
    """From now on containers' processes exist: they are ours."""
    world.shims.real_process = (os.getpid(), process.start_time(os.getpid()) or 0)


async def test_running_container_is_rejoined_as_it_is(world: World) -> None:
    async with one_life(world) as core:
        container_id = await core.run("sleep", "9")
        before = core.get(container_id)
    async with one_life(world) as core:
        assert core.get(container_id) == before
        assert world.shims.launched == [container_id], "no second shim"
        core.shim(container_id).exit(4)
        assert await core.ended(container_id) == 4
        assert await core.actions() == ["create", "start", "die"]


async def _with_limits_unapplied(core: Running, container_id: str, resources: Resources) -> Container:
    """As an update that a crash cut short leaves it."""
    found = core.get(container_id)
    cut_short = replace(found, spec=replace(found.spec, resources=resources), unapplied=True)
    await core.records.commit(Change(update=cut_short))
    return cut_short


async def test_a_limited_device_that_is_gone_keeps_no_container_from_being_watched(world: World) -> None:
    gone = Resources(device_read_bps=(ThrottleDevice(path="/dev/nosuch", rate=1),))
    async with one_life(world) as core:
        container_id = await core.run("sleep", "9")
        await _with_limits_unapplied(core, container_id, gone)
    async with one_life(world) as core:
        core.shim(container_id).exit(4)
        assert await core.ended(container_id) == 4


async def test_losses_noted_while_limits_are_applied_again_stay(world: World) -> None:
    lost = (Loss(what="log", since=1, until=2),)
    async with one_life(world) as core:
        container_id = await core.run("sleep", "9")
        before = await _with_limits_unapplied(core, container_id, Resources(memory=64 << 20))
        core.core.exits.note_losses(before, lost)
        await eventually(lambda: core.get(container_id).losses == lost)
        await core.core.recovery.apply_limits(before)
        assert (core.get(container_id).unapplied, core.get(container_id).losses) == (False, lost)


async def test_exit_while_the_manager_was_down_is_reported_with_its_code(world: World) -> None:
    container_id = await _run_in_a_first_life(world)
    world.shims.shims[container_id].exit(7)
    async with one_life(world) as core:
        ended = core.get(container_id)
        assert (ended.phase, ended.exit_code) == (Phase.EXITED, 7)
        assert await core.actions() == ["create", "start", "die"]
        assert world.shims.discarded == [container_id]


async def test_exit_while_everything_was_down_is_read_from_the_record(world: World) -> None:
    container_id = await _run_in_a_first_life(world)
    shim = world.shims.shims[container_id]
    shim.exit(7)
    shim.die()
    async with one_life(world) as core:
        assert (core.get(container_id).phase, core.get(container_id).exit_code) == (Phase.EXITED, 7)


async def test_exit_record_of_another_run_is_not_believed(world: World) -> None:
    container_id = await _run_in_a_first_life(world)
    shim = world.shims.shims[container_id]
    record = {"exit_code": 3, "exited_at": shim.started_at + 1, "pid": shim.pid + 1}
    world.instance.exit_record(container_id).write_text(json.dumps(record))
    shim.die()
    async with one_life(world) as core:
        assert core.get(container_id).exit_code == 255


async def test_an_end_whose_output_a_new_shim_still_reads_is_awaited(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = await _run_in_a_first_life(world)
    world.shims.shims[container_id].die()
    ensure = world.shims.ensure

    async def reading(container_id: str, **_: bool) -> FakeShim:
        shim = await ensure(container_id)
        shim.phase, shim.ended = "running", None
        return shim

    monkeypatch.setattr(world.shims, "ensure", reading)
    async with one_life(world) as core:
        assert core.get(container_id).phase is Phase.RUNNING
        core.shim(container_id).exit(7)
        assert await core.ended(container_id) == 7


async def test_an_end_is_asked_after_once_more_when_the_supervisor_comes_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = await _run_in_a_first_life(world)
    world.shims.shims[container_id].die()
    world.shims.supervisor_away = True
    ensure = world.shims.ensure

    async def told(container_id: str, **_: bool) -> FakeShim:
        shim = await ensure(container_id)
        shim.exit(7)
        return shim

    monkeypatch.setattr(world.shims, "ensure", told)
    async with one_life(world) as core:
        world.shims.supervisor_away = False
        assert await core.ended(container_id) == 7


async def test_run_directory_wiped_by_a_reboot_is_exit_255(world: World) -> None:
    container_id = await _run_in_a_first_life(world)
    world.shims.shims.clear()
    async with one_life(world) as core:
        assert (core.get(container_id).phase, core.get(container_id).exit_code) == (Phase.EXITED, 255)


async def test_live_process_whose_shim_died_stays_running_and_gets_a_new_shim(world: World) -> None:
    _have_real_processes(world)
    container_id = await _run_in_a_first_life(world)
    dead = world.shims.shims[container_id]
    dead.die()
    async with one_life(world) as core:
        assert core.get(container_id).phase is Phase.RUNNING
        await eventually(lambda: world.shims.shims[container_id] is not dead)
        core.shim(container_id).exit(0)
        assert await core.ended(container_id) == 0


async def test_silent_shim_does_not_hold_up_the_others(world: World) -> None:
    _have_real_processes(world)
    wedged = await _run_in_a_first_life(world)
    async with one_life(world) as core:
        other = await core.run("sleep", "9")
        ended = await core.run("sleep", "9")
    gate = world.shims.shims[wedged].gates["state"] = asyncio.Event()
    world.shims.shims[ended].exit(3)
    async with one_life(world) as core:
        assert core.get(ended).exit_code == 3
        assert [core.get(each).phase for each in (wedged, other)] == [Phase.RUNNING, Phase.RUNNING]
        await core.core.containers.kill(other, "TERM")
        waiting = asyncio.create_task(core.core.containers.kill(wedged, "TERM"))
        await eventually(lambda: [each.name for each in core.core.actors.in_flight][-2:] == ["kill", "signal"])
        assert not world.shims.shims[wedged].signals
        gate.set()
        await waiting
        assert await core.ended(wedged) == 128 + 15
    assert world.shims.launched == [wedged, other, ended], "no second shim"


async def test_silent_shim_is_left_to_its_watcher_in_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    _have_real_processes(world)
    monkeypatch.setattr("bulkhead.manager.recovery._PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr("bulkhead.manager.recovery._BUDGET_SECONDS", 0.05)
    wedged = await _run_in_a_first_life(world)
    gate = world.shims.shims[wedged].gates["state"] = asyncio.Event()
    async with one_life(world) as core:
        await core.settled(wedged)
        assert core.get(wedged).phase is Phase.RUNNING
        gate.set()
        core.shim(wedged).exit(5)
        assert await core.ended(wedged) == 5


async def test_nothing_is_said_of_an_end_that_is_not_confirmed(world: World) -> None:
    """Its shim keeps silent, and has an end to tell: neither policy nor `--rm` act before."""
    _have_real_processes(world)
    silent = [
        await _run_in_a_first_life(world, restart_policy=RestartPolicy(name="always")),
        await _run_in_a_first_life(world, auto_remove=True),
    ]
    gate = asyncio.Event()
    for each in silent:
        world.shims.shims[each].gates["state"] = gate
    async with one_life(world) as core:
        before = await core.actions()
        for each in silent:
            world.shims.shims[each].exit(1)
        assert [core.get(each).phase for each in silent] == [Phase.RUNNING, Phase.RUNNING]
        assert await core.actions() == before
        gate.set()
        await eventually(lambda: not core.records.index.knows(silent[1]))
        await eventually(lambda: core.get(silent[0]).restart_count == 1)


async def test_start_cut_short_by_a_crash_is_undone(world: World) -> None:
    async with one_life(world) as core:
        container_id = await core.create("sleep", "9")
        shim = await world.shims.ensure(container_id)
        shim.phase = "created"
        await core.records.commit(Change(intent="start", about=container_id))
    async with one_life(world) as core:
        assert core.get(container_id).phase is Phase.CREATED
        assert world.shims.discarded == [container_id]
        await core.core.containers.start(container_id)
        assert core.get(container_id).phase is Phase.RUNNING
    async with one_life(world) as core:
        assert core.records.intents == {}


async def test_container_with_rm_whose_start_a_crash_cut_short_is_removed(world: World) -> None:
    """As after any start that fails; `docker run --rm` waits for that, and would for good."""
    async with one_life(world) as core:
        begun = await core.create("true", auto_remove=True)
        await core.records.commit(Change(intent="start", about=begun))
    async with one_life(world) as core:
        await eventually(lambda: not core.records.index.knows(begun))


async def test_container_with_rm_that_has_not_run_is_removed_as_dockerd_does(world: World) -> None:
    """Its start may have come just before the crash, with nothing on disk to tell of it."""
    async with one_life(world) as core:
        created, kept = await core.create("true", auto_remove=True), await core.create("true")
    async with one_life(world) as core:
        await eventually(lambda: not core.records.index.knows(created))
        assert core.get(kept).phase is Phase.CREATED


async def test_shim_that_a_client_attached_to_before_start_is_kept(world: World) -> None:
    async with one_life(world) as core:
        container_id = await core.create("sleep", "9")
        await core.core.containers.stdio(container_id, attach=True)
        core.shim(container_id).attended = True
    async with one_life(world) as core:
        assert container_id in world.shims.shims
        assert world.shims.discarded == []


async def test_shim_that_was_launched_ahead_of_a_start_ends_with_its_manager(world: World) -> None:
    async with one_life(world) as core:
        container_id = await core.create("sleep", "9")
        await eventually(lambda: world.shims.launched == [container_id])
    async with one_life(world) as core:
        assert world.shims.discarded == [container_id]
        await core.core.containers.start(container_id)
        assert core.get(container_id).phase is Phase.RUNNING


async def test_second_recovery_changes_nothing(world: World) -> None:
    running = await _run_in_a_first_life(world)
    async with one_life(world) as core:
        exited = await core.run("true")
        core.shim(exited).exit(2)
        await core.ended(exited)
        await core.settled(exited)
        records = _sorted(core)
        events = await core.journal()
    for _ in range(2):
        async with one_life(world) as core:
            assert _sorted(core) == records
            assert await core.journal() == events
    assert world.shims.launched == [running, exited]


async def test_restart_policy_goes_on_where_it_was(world: World) -> None:
    policy = RestartPolicy(name="always")
    async with one_life(world) as core:
        container_id = await core.run("false", restart_policy=policy)
        core.shim(container_id).exit(1)
        await eventually(lambda: core.get(container_id).phase is Phase.RESTARTING)
    async with one_life(world) as core:
        assert core.get(container_id).phase is Phase.RESTARTING
        await eventually(lambda: core.get(container_id).phase is Phase.RUNNING)
        assert core.get(container_id).restart_count == 1


@pytest.mark.parametrize(
    ("policy", "stopped", "starts"),
    [
        ("always", False, True),
        ("always", True, True),
        ("unless-stopped", False, True),
        ("unless-stopped", True, False),
        ("no", False, False),
    ],
)
async def test_policies_at_boot(world: World, policy: str, stopped: bool, starts: bool) -> None:
    async with one_life(world) as core:
        container_id = await core.run("sleep", "9", restart_policy=RestartPolicy(name=policy))
        if stopped:
            await core.core.containers.stop(container_id, "", None)
    world.shims.shims.clear()
    world.boot_id = "boot-2"
    async with one_life(world) as core:
        await eventually(lambda: not starts or core.get(container_id).phase is Phase.RUNNING)
        assert core.get(container_id).phase is (Phase.RUNNING if starts else Phase.EXITED)


async def test_compose_services_start_after_what_they_depend_on(world: World) -> None:
    # The one that depends is the older record, so that no luck puts it second.
    async with one_life(world) as core:
        told = {"com.docker.compose.project": "p", "com.docker.compose.service": "web"}
        told["com.docker.compose.depends_on"] = "db:service_started:false"
        policy = RestartPolicy(name="always")
        web = await core.run("sleep", "9", restart_policy=policy, labels=told)
        of_db = {"com.docker.compose.project": "p", "com.docker.compose.service": "db"}
        db = await core.run("sleep", "9", restart_policy=policy, labels=of_db)
    world.shims.shims.clear()
    world.boot_id = "boot-2"
    async with one_life(world) as core:
        await eventually(lambda: all(core.get(each).phase is Phase.RUNNING for each in (web, db)))
        assert core.get(db).started_at < core.get(web).started_at


async def test_always_that_was_stopped_stays_stopped_without_a_reboot(world: World) -> None:
    async with one_life(world) as core:
        container_id = await core.run("sleep", "9", restart_policy=RestartPolicy(name="always"))
        await core.core.containers.stop(container_id, "", None)
    async with one_life(world) as core:
        await core.settled(container_id)
        assert core.get(container_id).phase is Phase.EXITED


async def test_container_with_rm_that_ended_meanwhile_is_removed(world: World) -> None:
    container_id = await _run_in_a_first_life(world, auto_remove=True)
    world.shims.shims[container_id].exit(0)
    async with one_life(world) as core:
        assert not core.records.index.knows(container_id)
        assert (await core.actions())[-2:] == ["die", "destroy"]


async def test_what_no_record_owns_is_swept(world: World) -> None:
    kept = await _run_in_a_first_life(world)
    stray = "f" * 64
    (world.instance.data / "containers" / stray).mkdir(parents=True)
    world.instance.container_run(stray).mkdir(parents=True)
    shim = await world.shims.ensure(stray)
    shim.phase = "running"
    world.groups.found = {kept, stray}
    async with one_life(world):
        assert stray not in world.shims.shims
        assert not (world.instance.data / "containers" / stray).exists()
        assert world.instance.container_data(kept).exists()
        assert world.groups.removed == [stray]


async def test_a_cgroup_that_a_policy_is_filling_meanwhile_is_not_swept(world: World) -> None:
    container_id = await _restarting_in_a_first_life(world)
    world.groups.found = {container_id}
    world.shims.gates["start"] = asyncio.Event()
    begun = threading.Event()
    loop = asyncio.get_running_loop()

    def listed() -> None:
        assert begun.wait(10)
        loop.call_soon_threadsafe(loop.call_later, 0.05, world.shims.gates["start"].set)

    async def tell_when_begun() -> None:
        await eventually(
            lambda: container_id in world.shims.shims and world.shims.shims[container_id].phase == "created"
        )
        begun.set()

    world.groups.listed = listed
    telling = asyncio.create_task(tell_when_begun())
    async with one_life(world) as core:
        await telling
        assert core.get(container_id).phase is Phase.RUNNING
        assert world.groups.removed == []


async def test_the_cgroup_of_who_waits_for_its_policy_is_swept(world: World) -> None:
    container_id = await _restarting_in_a_first_life(world)
    world.groups.found = {container_id}
    async with one_life(world):
        assert world.groups.removed == [container_id]


async def _restarting_in_a_first_life(world: World) -> str:
    async with one_life(world) as core:
        container_id = await core.run("false", restart_policy=RestartPolicy(name="always"))
        core.shim(container_id).exit(1)
        await eventually(lambda: core.get(container_id).phase is Phase.RESTARTING)
        return container_id


async def test_network_holds_what_lives_and_nothing_else(world: World) -> None:
    async with one_life(world) as core:
        gone = await core.run("sleep", network_mode="bridge")
        kept = await core.run("sleep", network_mode="bridge")
        addresses = {each: core.get(each).endpoints[0].address for each in (gone, kept)}
    world.shims.shims[gone].exit(0)
    async with one_life(world) as core:
        assert core.get(gone).attachments == ()
        fresh = core.get(await core.run("sleep", network_mode="bridge"))
        assert fresh.endpoints[0].address and fresh.endpoints[0].address != addresses[kept]


async def test_shim_that_dies_under_a_living_manager_is_replaced(world: World) -> None:
    _have_real_processes(world)
    async with one_life(world) as core:
        container_id = await core.run("sleep", "9")
        core.shim(container_id).die()
        await eventually(lambda: not core.shim(container_id).dead)
        assert core.get(container_id).phase is Phase.RUNNING
        core.shim(container_id).exit(6)
        assert await core.ended(container_id) == 6


async def test_lost_shim_and_no_supervisor_ends_in_255_only_when_the_process_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bulkhead.manager.exits._RETRY_LONGEST", 0.01)
    monkeypatch.setattr("bulkhead.manager.exits._RETRY_FIRST", 0.01)
    async with one_life(world) as core:
        container_id = await core.run("sleep", "9")
        world.shims.supervisor_away = True
        core.shim(container_id).failures["wait"] = Unavailable("gone")
        core.shim(container_id).die()
        assert await core.ended(container_id) == 255


async def test_a_dead_process_is_asked_after_while_shims_come_that_know_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed one after the other, now and then before they answer: the next one tells."""
    monkeypatch.setattr("bulkhead.manager.exits._RETRY_LONGEST", 0.01)
    monkeypatch.setattr("bulkhead.manager.exits._RETRY_FIRST", 0.01)
    turns = iter(3 * (8 * ["dies"] + 8 * ["silent"]))
    ensure = world.shims.ensure

    async def killed(container_id: str, **_: bool) -> FakeShim:
        turn = next(turns, "well")
        if turn == "silent":
            raise Unavailable("cannot launch shim: the spare died")
        shim = await ensure(container_id)
        if turn == "dies":
            shim.failures["wait"] = Unavailable("cannot call the shim: the connection ended")
        else:
            shim.failures.clear()
            shim.exit(6)
        return shim

    async with one_life(world) as core:
        container_id = await core.run("sleep", "9")
        monkeypatch.setattr(world.shims, "ensure", killed)
        core.shim(container_id).die()
        assert await core.ended(container_id) == 6


async def test_a_container_suspended_for_a_commit_runs_on(world: World) -> None:
    """Its user never asked for the pause; one that was paused by its user stays so."""
    committed = await _run_in_a_first_life(world)
    paused = await _run_in_a_first_life(world)
    async with one_life(world) as core:
        for container_id in (committed, paused):
            await core.core.containers.pause(container_id)
        await core.records.commit(Change(about=committed, intent="commit"))
    async with one_life(world) as core:
        assert (core.get(committed).phase, core.get(paused).phase) == (Phase.RUNNING, Phase.PAUSED)
        assert (await world.shims.shims[committed].state()).phase == "running"
    async with one_life(world) as core:
        assert core.records.intents == {}
