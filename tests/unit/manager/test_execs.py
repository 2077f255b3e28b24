"""Execs on fakes: states, texts, and an end that is never lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bulkhead import failpoints
from bulkhead.errors import Conflict, InvalidArgument, LaunchFailed, NotFound, ResourceExhausted, Unavailable
from bulkhead.linux import process
from bulkhead.manager import execs as execs_module
from bulkhead.manager.ports import AskedExec, KnownExec
from bulkhead.model.events import Event
from bulkhead.model.execs import Exec, ExecPhase, ExecSpec
from tests.support.eventually import eventually
from tests.support.manager_core import Running, fake_core, new_world, running_core


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Running]:
    async with fake_core(tmp_path) as running:
        yield running


async def _created(core: Running, container_id: str, **spec: object) -> Exec:
    told = {"command": ("ls", "-l"), **spec}
    return await core.core.execs.create(container_id, ExecSpec(**told))  # type: ignore[arg-type]


def _asked(record: Exec) -> AskedExec:
    return AskedExec(record=record, process={}, stdin=False, size=(0, 0))


async def _ended(core: Running, exec_id: str) -> Exec:
    def has_ended() -> bool:
        found = core.records.exec(exec_id)
        return found is not None and found.phase is ExecPhase.EXITED

    await eventually(has_ended)
    return await core.core.execs.inspect(exec_id)


async def test_detached_from_create_to_end(core: Running) -> None:
    container_id = await core.run("sleep", "9", env=("A=b",), working_dir="/w", user="app")
    record = await _created(core, container_id, env=("C=d",), tty=True)
    assert core.core.queries.exec_ids(container_id) == [record.id]
    started = await core.core.execs.start(record.id, detach=True, size=(0, 0))
    assert started.socket == ""
    process = core.shim(container_id).exec_processes[record.id]
    assert process["args"] == ["ls", "-l"]
    assert process["cwd"] == "/w"
    assert process["user"]["username"] == "app"
    assert {"A=b", "C=d", "TERM=xterm"} <= set(process["env"])
    assert (await core.core.execs.inspect(record.id)).phase is ExecPhase.RUNNING
    core.shim(container_id).exit_exec(record.id, 6)
    assert (await _ended(core, record.id)).exit_code == 6
    assert core.core.queries.exec_ids(container_id) == []
    assert await core.actions() == ["create", "start", "exec_create: ls -l", "exec_start: ls -l", "exec_die"]


async def test_attached_answers_with_the_shims_socket(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    started = await core.core.execs.start(record.id, detach=False, size=(0, 0))
    assert started.socket == str(core.world.instance.stdio_socket(container_id))


async def test_whoever_asks_again_before_it_has_begun_has_it_begin_once(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    for _ in range(2):
        await core.core.execs.start(record.id, detach=False, size=(0, 0))
    core.shim(container_id).begin_exec(record.id)
    core.shim(container_id).exit_exec(record.id, 3)
    assert (await _ended(core, record.id)).exit_code == 3
    assert (await core.actions())[2:] == ["exec_create: ls -l", "exec_start: ls -l", "exec_die"]


async def test_end_is_known_as_soon_as_the_shim_knows_it(core: Running) -> None:
    """A client asks for the exit code right after the stream's end, before the manager's own wait returns."""
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    await core.core.execs.start(record.id, detach=False, size=(0, 0))
    core.shim(container_id).exit_exec(record.id, 3)
    found = await core.core.execs.inspect(record.id)
    assert (found.phase, found.exit_code) == (ExecPhase.EXITED, 3)


async def test_refusals(core: Running) -> None:
    created = await core.create("sleep", "9", name="web")
    with pytest.raises(Conflict, match=f"Container {created} is not running"):
        await _created(core, "web")
    with pytest.raises(NotFound, match="No such container: nosuch"):
        await _created(core, "nosuch")
    await core.core.containers.start("web")
    with pytest.raises(InvalidArgument, match="No exec command specified"):
        await _created(core, "web", command=())
    with pytest.raises(InvalidArgument, match="invalid environment variable: =x"):
        await _created(core, "web", env=("=x",))
    await core.core.containers.pause("web")
    with pytest.raises(Conflict, match="Container web is paused, unpause the container before exec"):
        await _created(core, "web")
    with pytest.raises(NotFound, match="No such exec instance: nosuch"):
        await core.core.execs.inspect("nosuch")


async def test_second_start(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    await core.core.execs.start(record.id, detach=True, size=(0, 0))
    with pytest.raises(Conflict, match=f"exec command {record.id} is already running"):
        await core.core.execs.start(record.id, detach=True, size=(0, 0))
    core.shim(container_id).exit_exec(record.id, 0)
    with pytest.raises(Conflict, match=f"exec command {record.id} has already run"):
        await core.core.execs.start(record.id, detach=True, size=(0, 0))


async def test_container_stopped_between_create_and_start(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    await core.core.containers.stop(container_id, "", None)
    with pytest.raises(Conflict, match="is not running"):
        await core.core.execs.start(record.id, detach=True, size=(0, 0))


async def test_what_has_run_is_refused_for_its_container_first(core: Running) -> None:
    """Who was told to dial, and found the shim gone, asks again."""
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    await core.core.execs.start(record.id, detach=False, size=(0, 0))
    await core.core.containers.stop(container_id, "", None)
    with pytest.raises(Conflict, match=f"Container {container_id} is not running"):
        await core.core.execs.start(record.id, detach=False, size=(0, 0))


async def test_command_that_cannot_be_run(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    core.shim(container_id).failures["start_exec"] = LaunchFailed("no such file", exit_code=127)
    with pytest.raises(LaunchFailed):
        await core.core.execs.start(record.id, detach=True, size=(0, 0))
    assert (await core.core.execs.inspect(record.id)).exit_code == 127


async def test_resize_and_its_refusal(core: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs_module, "_RESIZE_SECONDS", 0.01)
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    with pytest.raises(Conflict, match="is not running"):
        await core.core.execs.resize(record.id, 5, 6)
    await core.core.execs.start(record.id, detach=True, size=(0, 0))
    await core.core.execs.resize(record.id, 5, 6)
    assert core.shim(container_id).sizes == [(5, 6, record.id)]


async def test_records_go_with_their_container(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    await core.core.containers.remove(container_id, force=True, volumes=False)
    with pytest.raises(NotFound):
        await core.core.execs.inspect(record.id)


async def test_old_ones_are_forgotten(core: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs_module, "SWEEP_SECONDS", 0.001)
    monkeypatch.setattr(execs_module, "KEPT_NS", 0)
    container_id = await core.run("sleep", "9")
    old, live = await _created(core, container_id), await _created(core, container_id)
    for each in (old, live):
        await core.core.execs.start(each.id, detach=True, size=(0, 0))
    core.shim(container_id).exit_exec(old.id, 0)
    sweeping = core.core.exits.actors.own(core.core.execs.keep_swept(), "sweep")
    await eventually(lambda: core.records.exec(old.id) is None)
    sweeping.cancel()
    assert core.records.exec(live.id) is not None


async def test_of_very_many_the_last_are_remembered(core: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loop of execs leaves in memory must not depend on how fast it is."""
    monkeypatch.setattr(execs_module, "SWEEP_SECONDS", 0.001)
    monkeypatch.setattr(execs_module, "MOST_ENDED", 2)
    container_id = await core.run("sleep", "9")
    made = [await _created(core, container_id) for _ in range(4)]
    for each in made:
        await core.core.execs.start(each.id, detach=True, size=(0, 0))
    for each in made[:3]:
        core.shim(container_id).exit_exec(each.id, 0)
        await _ended(core, each.id)
    sweeping = core.core.exits.actors.own(core.core.execs.keep_swept(), "sweep")
    await eventually(lambda: core.records.exec(made[0].id) is None)
    sweeping.cancel()
    assert [each.id for each in core.records.execs()] == [each.id for each in made[1:]]


async def test_exec_outlives_the_manager(tmp_path: Path) -> None:
    world = new_world(tmp_path)
    async with running_core(world) as core:
        container_id = await core.run("sleep", "9")
        record = await _created(core, container_id)
        await core.core.execs.start(record.id, detach=True, size=(0, 0))
    async with running_core(world) as core:
        assert (await core.core.execs.inspect(record.id)).phase is ExecPhase.RUNNING
        core.shim(container_id).exit_exec(record.id, 8)
        assert (await _ended(core, record.id)).exit_code == 8


async def test_a_start_cut_short_is_made_again(tmp_path: Path) -> None:
    """The manager dies between the exec's record and its start; or the API before it dials."""
    world = new_world(tmp_path)
    async with running_core(world) as core:
        container_id = await core.run("sleep", "9")
        record = await _created(core, container_id)
        await core.shim(container_id).create_exec(_asked(record))
        await core.records.save_exec(replace(record, phase=ExecPhase.RUNNING))
    async with running_core(world) as core:
        assert (await core.core.execs.inspect(record.id)).phase is ExecPhase.CREATED
        await core.core.execs.start(record.id, detach=True, size=(0, 0))
        assert (await core.core.execs.inspect(record.id)).phase is ExecPhase.RUNNING
        core.shim(container_id).exit_exec(record.id, 4)
        assert (await _ended(core, record.id)).exit_code == 4
        assert (await core.actions()).count("exec_die") == 1


async def test_a_start_that_no_record_knows_of_goes_on(tmp_path: Path) -> None:
    """The manager dies when whoever started it was answered, before its record says so."""
    world = new_world(tmp_path)
    async with running_core(world) as core:
        container_id = await core.run("sleep", "9")
        begun, waiting = await _created(core, container_id), await _created(core, container_id)
        for each in (begun, waiting):
            await core.shim(container_id).create_exec(_asked(each))
        await core.shim(container_id).start_exec(begun.id)
    async with running_core(world) as core:
        assert (await core.core.execs.inspect(begun.id)).phase is ExecPhase.RUNNING
        with pytest.raises(Conflict, match=f"exec command {begun.id} is already running"):
            await core.core.execs.start(begun.id, detach=True, size=(0, 0))
        core.shim(container_id).exit_exec(begun.id, 4)
        assert (await _ended(core, begun.id)).exit_code == 4
        assert (await core.core.execs.inspect(waiting.id)).phase is ExecPhase.CREATED
        assert [each for each in await core.actions() if "exec_start" in each or each == "exec_die"] == [
            "exec_start: ls -l",
            "exec_die",
        ]


async def test_a_start_that_no_record_knows_of_is_taken_up_when_its_shim_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(tmp_path)
    async with running_core(world) as core:
        container_id = await core.run("sleep", "9")
        record = await _created(core, container_id)
        shim = core.shim(container_id)
        await shim.create_exec(_asked(record))
        await shim.start_exec(record.id)

    async def nap(_: float) -> None:
        shim.failures.clear()
        await asyncio.sleep(0)

    monkeypatch.setattr(execs_module, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": nap}))
    shim.failures["exec_state"] = Unavailable("it is being replaced")
    async with running_core(world) as core:
        shim.exit_exec(record.id, 4)
        assert (await _ended(core, record.id)).exit_code == 4
        assert (await core.actions())[-2:] == ["exec_start: ls -l", "exec_die"]


@pytest.mark.parametrize("phase", [ExecPhase.RUNNING, ExecPhase.EXITED])
async def test_a_start_that_no_record_knows_of_may_begin_after_the_next_manager(
    tmp_path: Path, phase: ExecPhase
) -> None:
    """Its client was answered by the manager that died, and dials when the next one has asked already."""
    world = new_world(tmp_path)
    async with running_core(world) as core:
        container_id = await core.run("sleep", "9")
        record = await _created(core, container_id)
        shim = core.shim(container_id)
        await shim.create_exec(_asked(record))
    async with running_core(world) as core:
        await eventually(lambda: record.id in shim.awaited_execs)
        await shim.start_exec(record.id)
        if phase is ExecPhase.EXITED:
            shim.exit_exec(record.id, 4)
        assert (await core.core.execs.inspect(record.id)).phase is phase
        if phase is ExecPhase.RUNNING:
            shim.exit_exec(record.id, 4)
        assert (await _ended(core, record.id)).exit_code == 4
        assert (await core.actions())[-2:] == ["exec_start: ls -l", "exec_die"]


async def test_what_a_dead_manager_had_made_and_no_shim_knows_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have begun under a shim that died with him: created for ever is no true word of it."""
    monkeypatch.setattr(execs_module, "SWEEP_SECONDS", 0.001)
    monkeypatch.setattr(execs_module, "KEPT_NS", 0)
    world = new_world(tmp_path)
    async with running_core(world) as core:
        container_id = await core.run("sleep", "9")
        lost, known, claimed = [await _created(core, container_id) for _ in range(3)]
        await core.shim(container_id).create_exec(_asked(known))
    async with running_core(world) as core:
        own = await _created(core, container_id)
        await core.core.execs.start(claimed.id, detach=True, size=(0, 0))
        core.core.exits.actors.own(core.core.execs.keep_swept(), "sweep")
        await eventually(lambda: core.records.exec(lost.id) is None)
        assert {each.id for each in core.records.execs()} == {known.id, claimed.id, own.id}
        with pytest.raises(NotFound, match=f"No such exec instance: {lost.id}"):
            await core.core.execs.start(lost.id, detach=True, size=(0, 0))


async def test_what_begins_after_the_next_manager_is_recorded_though_nobody_asks(tmp_path: Path) -> None:
    world = new_world(tmp_path)
    async with running_core(world) as core:
        container_id = await core.run("sleep", "9")
        record, never = await _created(core, container_id), await _created(core, container_id)
        shim = core.shim(container_id)
        for each in (record, never):
            await shim.create_exec(_asked(each))
    async with running_core(world) as core:
        await eventually(lambda: {record.id, never.id} <= shim.awaited_execs)
        await shim.start_exec(record.id)
        await eventually(lambda: _phase(core, record.id) is ExecPhase.RUNNING)
        shim.exit_exec(record.id, 4)
        await eventually(lambda: _phase(core, record.id) is ExecPhase.EXITED)
        await core.core.containers.stop(container_id, "", None)
        assert _phase(core, never.id) is ExecPhase.CREATED
        assert [each for each in await core.actions() if each.startswith(("exec_start", "exec_die"))] == [
            "exec_start: ls -l",
            "exec_die",
        ]


def _phase(core: Running, exec_id: str) -> ExecPhase | None:
    found = core.records.exec(exec_id)
    return None if found is None else found.phase


async def _expected(core: Running, container_id: str) -> Exec:
    """One with streams, which its shim knows."""
    record = await _created(core, container_id, attach_stdout=True)
    await eventually(lambda: record.id in core.shim(container_id).exec_processes)
    return record


async def test_one_with_streams_runs_though_nobody_asks_for_its_start(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    shim = core.shim(container_id)
    shim.brief, shim.began_at = True, 17
    record = await _expected(core, container_id)
    assert (await core.core.execs.inspect(record.id)).phase is ExecPhase.CREATED
    shim.begin_exec(record.id)
    assert (await core.core.execs.inspect(record.id)).phase is ExecPhase.RUNNING
    shim.exit_exec(record.id, 6)
    assert (await _ended(core, record.id)).exit_code == 6
    assert (await core.actions())[2:] == ["exec_create: ls -l", "exec_start: ls -l", "exec_die"]


async def test_of_those_that_nobody_starts_few_are_expected(core: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is an open call. The others are started as ever, and expected again when there is room."""
    monkeypatch.setattr(execs_module, "MOST_EXPECTED", 1)
    container_id = await core.run("sleep", "9")
    shim = core.shim(container_id)
    first = await _expected(core, container_id)
    second = await _created(core, container_id, attach_stdout=True)
    assert [each.record.id for each in shim.known_execs] == [first.id]
    await core.core.execs.start(second.id, detach=False, size=(0, 0))
    assert second.id in shim.exec_processes
    shim.begin_exec(first.id)
    await eventually(lambda: _phase(core, first.id) is ExecPhase.RUNNING)
    await _expected(core, container_id)


async def test_a_brief_end_is_recorded_with_the_moment_of_its_beginning(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    shim = core.shim(container_id)
    shim.brief, shim.began_at = True, 17
    record = await _expected(core, container_id)
    shim.begin_exec(record.id)
    shim.exit_exec(record.id, 6)
    await eventually(lambda: _phase(core, record.id) is ExecPhase.EXITED)
    times = {each.action: each.time for each in await core.journal()}
    assert times["exec_start: ls -l"] == 17


async def test_one_that_lasts_is_on_record_while_it_runs(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    record = await _expected(core, container_id)
    core.shim(container_id).begin_exec(record.id)
    await eventually(lambda: _phase(core, record.id) is ExecPhase.RUNNING)
    with pytest.raises(Conflict, match=f"exec command {record.id} is already running"):
        await core.core.execs.start(record.id, detach=False, size=(0, 0))
    core.shim(container_id).exit_exec(record.id, 3)
    assert (await _ended(core, record.id)).exit_code == 3
    assert (await core.actions()).count("exec_start: ls -l") == 1


async def test_a_start_that_is_asked_for_is_recorded_once(core: Running) -> None:
    """The client's own API does not know the exec, say: it was created by another one."""
    container_id = await core.run("sleep", "9")
    record = await _expected(core, container_id)
    await core.core.execs.start(record.id, detach=False, size=(0, 0))
    core.shim(container_id).begin_exec(record.id)
    core.shim(container_id).exit_exec(record.id, 3)
    assert (await _ended(core, record.id)).exit_code == 3
    told = [each for each in await core.actions() if each.startswith(("exec_start", "exec_die"))]
    assert told == ["exec_start: ls -l", "exec_die"]


async def test_what_never_begins_says_nothing(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    record = await _expected(core, container_id)
    await core.core.containers.stop(container_id, "", None)
    assert (await core.core.execs.inspect(record.id)).phase is ExecPhase.CREATED
    assert not [each for each in await core.actions() if each.startswith(("exec_start", "exec_die"))]


async def test_one_that_its_shim_took_along_has_ended(core: Running) -> None:
    """Its client had the shim start it and was told nothing: nobody knows how it ended."""
    container_id = await core.run("sleep", "9")
    record = await _expected(core, container_id)
    core.shim(container_id).die()
    await core.world.shims.ensure(container_id)
    assert (await core.core.execs.inspect(record.id, asked=True)).phase is ExecPhase.RUNNING
    assert (await _ended(core, record.id)).exit_code == execs_module.UNKNOWN_EXIT
    assert (await core.actions())[-2:] == ["exec_start: ls -l", "exec_die"]


async def test_a_shim_of_before_is_asked_whether_it_has_begun(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    shim = core.shim(container_id)
    shim.old = True
    record = await _expected(core, container_id)
    await eventually(lambda: record.id in shim.awaited_execs)
    shim.begin_exec(record.id)
    await eventually(lambda: _phase(core, record.id) is ExecPhase.RUNNING)
    shim.exit_exec(record.id, 3)
    assert (await _ended(core, record.id)).exit_code == 3


async def test_who_creates_one_that_its_shim_keeps_waits_for_no_disk(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    core.shim(container_id).brief = True
    with _standing_disk(core):
        record = await asyncio.wait_for(_expected(core, container_id), 20)
        assert (await core.core.execs.inspect(record.id)).phase is ExecPhase.CREATED
        core.shim(container_id).begin_exec(record.id)
        core.shim(container_id).exit_exec(record.id, 6)
        assert (await core.core.execs.inspect(record.id)).exit_code == 6
        assert core.world.shims.shims[container_id].known_execs == [KnownExec(record=record)]
    assert (await _ended(core, record.id)).exit_code == 6
    assert (await core.actions())[2:] == ["exec_create: ls -l", "exec_start: ls -l", "exec_die"]


async def test_who_creates_one_that_its_shim_does_not_keep_waits_for_the_disk(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    core.shim(container_id).keeps_execs = False
    with _standing_disk(core):
        creating = asyncio.ensure_future(_created(core, container_id, attach_stdout=True))
        await eventually(lambda: bool(core.shim(container_id).exec_processes))
        assert not creating.done()
    assert (await creating).id in core.shim(container_id).exec_processes


async def test_a_shim_keeps_all_that_a_standing_disk_owes(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    shim = core.shim(container_id)
    shim.brief = True
    with _standing_disk(core):
        while core.records.owed_execs < execs_module.MOST_OWED:
            record = await asyncio.wait_for(_expected(core, container_id), 20)
            shim.begin_exec(record.id)
            shim.exit_exec(record.id, 0)
        asked = len(shim.exec_processes)
        creating = asyncio.ensure_future(_created(core, container_id, attach_stdout=True))
        await eventually(lambda: len(shim.exec_processes) > asked)
        assert not creating.done()
    assert (await creating).phase is ExecPhase.CREATED
    await eventually(lambda: core.records.owed_execs == 0)


@contextlib.contextmanager
def _standing_disk(core: Running) -> Iterator[None]:
    with core.records._database._turn:
        yield


async def test_one_that_nobody_starts_is_on_record_soon(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    before = core.events.last_sequence
    record = await _expected(core, container_id)
    await eventually(lambda: core.events.last_sequence > before)
    assert (await core.actions())[-1] == "exec_create: ls -l"
    assert _phase(core, record.id) is ExecPhase.CREATED


async def test_one_is_told_of_before_the_end_of_its_container(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    await _expected(core, container_id)
    await core.core.containers.stop(container_id, "", None)
    await core.core.containers.remove(container_id, force=False, volumes=False)
    actions = await core.actions()
    assert actions.index("exec_create: ls -l") < actions.index("die")
    assert not core.records._owed


async def test_what_the_disk_refused_is_told_with_what_comes_next(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    core.shim(container_id).brief = True
    failpoints.set_to("manager.records.written=error(ENOSPC)")
    try:
        record = await _expected(core, container_id)
        with pytest.raises(ResourceExhausted):
            await core.records.meta("any")
    finally:
        failpoints.set_to("")
    assert (await core.core.execs.inspect(record.id)).phase is ExecPhase.CREATED
    core.shim(container_id).begin_exec(record.id)
    core.shim(container_id).exit_exec(record.id, 6)
    await eventually(lambda: _phase(core, record.id) is ExecPhase.EXITED)
    assert (await core.actions())[2:] == ["exec_create: ls -l", "exec_start: ls -l", "exec_die"]


def _dies_before_it_writes(core: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(record: Exec, *_: Event, seconds: float) -> None:
        core.records._execs.put(record)

    monkeypatch.setattr(core.records, "save_exec_later", put)


async def test_the_next_manager_is_told_by_the_shim_of_what_is_on_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = new_world(tmp_path)
    world.shims.real_process = _own_process()
    async with running_core(world) as core:
        container_id = await core.run("sleep", "9")
        _dies_before_it_writes(core, monkeypatch)
        record = await _expected(core, container_id)
    async with running_core(world) as core:
        assert (await core.core.execs.inspect(record.id)) == record
        assert await core.actions() == ["create", "start", "exec_create: ls -l"]
        assert [each.time for each in await core.journal()][-1] == record.created_at
    async with running_core(world) as core:
        core.shim(container_id).begin_exec(record.id)
        core.shim(container_id).exit_exec(record.id, 6)
        assert (await _ended(core, record.id)).exit_code == 6
        assert (await core.actions())[2:] == ["exec_create: ls -l", "exec_start: ls -l", "exec_die"]


async def test_what_a_shim_knows_of_execs_that_were_swept_does_not_bring_them_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execs_module, "MOST_ENDED", 2)
    world = new_world(tmp_path)
    world.shims.real_process = _own_process()
    async with running_core(world) as core:
        container_id = await core.run("sleep", "9")
        made = [await _expected(core, container_id) for _ in range(4)]
        for each in made:
            core.shim(container_id).begin_exec(each.id)
            core.shim(container_id).exit_exec(each.id, 0)
            await eventually(lambda each=each: _phase(core, each.id) is ExecPhase.EXITED)  # type: ignore[misc]
        ended = [core.records.exec(each.id) for each in made]
        known = [KnownExec(record=each, exited_at=end.exited_at) for each, end in zip(made, ended, strict=True) if end]
        world.shims.shims[container_id].known_execs = known
        await core.records.drop_execs([each.id for each in made[:2]])
        _dies_before_it_writes(core, monkeypatch)
        lost = await _expected(core, container_id)
    long_ago = KnownExec(record=replace(lost, id="0" * 64), exited_at=time.time_ns() - execs_module.KEPT_NS)
    world.shims.shims[container_id].known_execs.append(long_ago)
    async with running_core(world) as core:
        assert {each.id for each in core.records.execs()} == {each.id for each in (*made[2:], lost)}


def _own_process() -> tuple[int, int]:
    """One that lives."""
    return os.getpid(), process.start_time(os.getpid()) or 0


async def test_one_that_no_record_takes_is_expected_no_more(core: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    container_id = await core.run("sleep", "9")
    core.shim(container_id).keeps_execs = False

    async def full(*_: object) -> None:
        await eventually(lambda: bool(core.shim(container_id).exec_processes))
        raise ResourceExhausted("no space left on device")

    monkeypatch.setattr(core.records, "save_exec", full)
    with pytest.raises(ResourceExhausted):
        await _created(core, container_id, attach_stdout=True)
    await eventually(lambda: not core.core.execs._expected)


async def test_an_attached_start_is_on_record_soon(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    await core.core.execs.start(record.id, detach=False, size=(0, 0))
    found = core.records.exec(record.id)
    assert found is not None
    assert found.phase is ExecPhase.RUNNING
    core.shim(container_id).exit_exec(record.id, 3)
    await _ended(core, record.id)
    assert await core.actions() == ["create", "start", "exec_create: ls -l", "exec_start: ls -l", "exec_die"]


async def test_a_long_exec_is_said_to_have_begun_while_it_runs(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    before = core.events.last_sequence
    await core.core.execs.start(record.id, detach=False, size=(0, 0))
    await eventually(lambda: core.events.last_sequence > before)
    assert (await core.actions())[-1] == "exec_start: ls -l"
    core.shim(container_id).exit_exec(record.id, 3)
    await _ended(core, record.id)
    assert (await core.actions())[-2:] == ["exec_start: ls -l", "exec_die"]


async def test_a_start_that_nobody_answers_does_not_run_for_ever(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    core.shim(container_id).failures["start_exec"] = Unavailable("cannot call the shim: the connection ended")
    with pytest.raises(Unavailable):
        await core.core.execs.start(record.id, detach=True, size=(0, 0))
    # As it had run all the same, and ended.
    core.shim(container_id).exit_exec(record.id, 7)
    assert (await _ended(core, record.id)).exit_code == 7


async def test_an_exec_whose_pid_no_record_takes_runs_and_its_end_is_recorded(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    save = core.records.save_exec

    async def full(known: Exec, *events: Event) -> None:
        if known.pid:
            raise ResourceExhausted("no space left on device")
        await save(known, *events)

    monkeypatch.setattr(core.records, "save_exec", full)
    await core.core.execs.start(record.id, detach=True, size=(0, 0))
    assert (await core.core.execs.inspect(record.id)).pid > 0
    core.shim(container_id).exit_exec(record.id, 7)
    assert (await _ended(core, record.id)).exit_code == 7


async def test_a_shim_that_speaks_otherwise_is_asked_ever_more_rarely(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = await core.run("sleep", "9")
    record = await _created(core, container_id)
    core.shim(container_id).failures["wait"] = Unavailable("it speaks another protocol")
    naps: list[float] = []

    async def nap(seconds: float) -> None:
        naps.append(seconds)
        await asyncio.sleep(0)

    monkeypatch.setattr(execs_module, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": nap}))
    await core.core.execs.start(record.id, detach=True, size=(0, 0))
    await eventually(lambda: len(naps) > 8)
    assert naps[:8] == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
