"""Execs that shims create by themselves, on fakes: on record when anybody asks, and none is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bulkhead.errors import NotFound, ResourceExhausted
from bulkhead.manager import execs as execs_module
from bulkhead.manager import new_execs as new_execs_module
from bulkhead.manager.execs import Execs
from bulkhead.manager.planning import ProcessPlans
from bulkhead.manager.ports import KnownExec
from bulkhead.model.execs import Exec, ExecPhase, ExecSpec
from bulkhead.model.ids import new_exec_id
from bulkhead.model.lifecycle import Phase
from tests.support.eventually import eventually
from tests.support.manager_core import Running, fake_core, new_world, running_core

SPEC = ExecSpec(command=("ls",), attach_stdout=True)


@pytest.fixture
async def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    monkeypatch.setattr(ProcessPlans, "of", lambda *_: b"plan")
    async with fake_core(tmp_path) as running:
        yield running


async def heard(core: Running) -> str:
    """A container whose shim may create execs."""
    container_id = await core.run("sleep", "9")
    await core.core.execs.create(container_id, SPEC)
    await eventually(lambda: core.shim(container_id).pattern == b"plan")
    return container_id


def made(container_id: str, created_at: int = 5) -> Exec:
    return Exec(id=new_exec_id(container_id), container_id=container_id, spec=SPEC, created_at=created_at)


async def test_a_shim_gets_its_pattern_after_the_first_exec(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    assert core.shim(container_id).pattern == b""
    await core.core.execs.create(container_id, SPEC)
    await eventually(lambda: core.shim(container_id).pattern == b"plan")


async def test_one_that_has_hung_up_is_dialled_again_by_the_next_that_it_refuses(core: Running) -> None:
    container_id = await heard(core)
    shim = core.shim(container_id)
    assert "renew_news" not in shim.called
    await core.core.execs.create(container_id, SPEC)
    assert "renew_news" in shim.called


async def test_one_of_another_runtime_gets_none(core: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    container_id = await core.run("sleep", "9")
    monkeypatch.setattr(type(core.core.execs), "has_foreign_runtime", lambda *_: True)
    container = core.records.index.get(container_id)
    assert core.core.execs.pattern(container) == b""


async def test_what_is_told_is_on_record(core: Running) -> None:
    container_id = await heard(core)
    shim, record = core.shim(container_id), made(container_id)
    shim.create_exec_itself(record)
    await eventually(lambda: core.records.exec(record.id) is not None)
    assert record.id in core.core.queries.exec_ids(container_id)
    shim.begin_exec(record.id)
    assert (await core.core.execs.inspect(record.id)).phase is ExecPhase.RUNNING
    shim.exit_exec(record.id, 6)
    await eventually(lambda: core.records.exec(record.id).phase is ExecPhase.EXITED)  # type: ignore[union-attr]
    assert (await core.core.execs.inspect(record.id)).exit_code == 6
    told = [each for each in await core.journal() if each.attributes.get("execID") == record.id]
    assert [each.action for each in told] == ["exec_create: ls", "exec_start: ls", "exec_die"]
    assert told[0].time == 5


async def test_a_brief_one_is_told_of_at_its_end(core: Running) -> None:
    container_id = await heard(core)
    record = made(container_id)
    core.shim(container_id).tell(KnownExec(record=record, began_at=6, exited_at=7, exit_code=9))
    await eventually(lambda: core.records.exec(record.id) is not None)
    assert (await core.core.execs.inspect(record.id)).exit_code == 9
    told = [each for each in await core.journal() if each.attributes.get("execID") == record.id]
    assert [(each.action, each.time) for each in told][:2] == [("exec_create: ls", 5), ("exec_start: ls", 6)]
    assert told[2].attributes["exitCode"] == "9"


async def test_its_code_is_told_before_its_end_is_on_record(core: Running) -> None:
    """Who asks has waited for the end; the rest has time, and is done without anybody's asking."""
    container_id = await heard(core)
    record = made(container_id)
    known = KnownExec(record=record, began_at=6, exited_at=7, exit_code=9)
    core.shim(container_id).tell(known, told=False)
    found = await core.core.execs.inspect(record.id)
    assert core.records.exec(record.id) is None
    assert (found.phase, found.exit_code) == (ExecPhase.EXITED, 9)
    await eventually(lambda: core.records.exec(record.id) is not None)
    assert (await core.core.execs.inspect(record.id)).exit_code == 9
    told = [each.action for each in await core.journal() if each.attributes.get("execID") == record.id]
    assert told == ["exec_create: ls", "exec_start: ls", "exec_die"]


async def test_who_asks_for_those_that_run_does_not_wait_for_those_that_are_over(core: Running) -> None:
    container_id = await heard(core)
    over, running = made(container_id), made(container_id, 6)
    ended = KnownExec(record=over, began_at=6, exited_at=7, exit_code=9)
    core.shim(container_id).tell(ended, told=False)
    await core.core.execs.catch_up(container_id)
    assert core.records.exec(over.id) is None
    await eventually(lambda: core.records.exec(over.id) is not None)
    core.shim(container_id).create_exec_itself(running, told=False)
    core.shim(container_id).begin_exec(running.id)
    await core.core.execs.catch_up(container_id)
    assert core.core.queries.exec_ids(container_id)[-1] == running.id
    core.shim(container_id).tell(KnownExec(record=running, began_at=8, exited_at=9), told=False)
    await core.core.execs.catch_up(container_id)
    assert running.id not in core.core.queries.exec_ids(container_id)


@pytest.mark.parametrize("told", ["inspect", "start", "ids"])
async def test_whoever_asks_for_it_is_not_told_that_there_is_none(core: Running, told: str) -> None:
    """Its client has its id before its shim comes to tell of it."""
    container_id = await heard(core)
    shim, record = core.shim(container_id), made(container_id)
    shim.create_exec_itself(record, told=False)
    if told == "inspect":
        assert (await core.core.execs.inspect(record.id)).phase is ExecPhase.CREATED
    elif told == "start":
        await core.core.execs.start(record.id, detach=True, size=(0, 0))
        assert record.id in shim.started_execs
    else:
        await core.core.execs.catch_up(container_id)
        assert record.id in core.core.queries.exec_ids(container_id)


async def test_one_that_nobody_made_is_not_there(core: Running) -> None:
    container_id = await heard(core)
    with pytest.raises(NotFound):
        await core.core.execs.inspect(made(container_id).id)
    with pytest.raises(NotFound):
        await core.core.execs.inspect("f" * 64)


async def test_one_of_another_container_is_not_believed(core: Running) -> None:
    container_id = await heard(core)
    strange = made("e" * 64)
    core.shim(container_id).tell(KnownExec(record=strange, began_at=6, exited_at=7))
    record = made(container_id)
    core.shim(container_id).tell(KnownExec(record=record, began_at=6, exited_at=7))
    await eventually(lambda: core.records.exec(record.id) is not None)
    assert core.records.exec(strange.id) is None


async def test_told_twice_is_recorded_once(core: Running) -> None:
    container_id = await heard(core)
    record = made(container_id)
    for _ in range(2):
        core.shim(container_id).tell(KnownExec(record=record, began_at=6, exited_at=7, exit_code=9))
        await core.core.execs.catch_up(container_id)
    await eventually(lambda: core.records.exec(record.id) is not None)
    told = [each.action for each in await core.journal() if each.attributes.get("execID") == record.id]
    assert told == ["exec_create: ls", "exec_start: ls", "exec_die"]


async def test_a_later_manager_hears_of_what_was_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProcessPlans, "of", lambda *_: b"plan")
    world = new_world(tmp_path)
    async with running_core(world) as core:
        container_id = await heard(core)
        record = made(container_id)
        core.shim(container_id).create_exec_itself(record, told=False)
    async with running_core(world) as later:
        assert (await later.core.execs.inspect(record.id)).phase is ExecPhase.CREATED


async def test_a_later_manager_finds_how_those_went_whose_shim_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both died at once. One was never on record, of one the record says that it was created, and one is forgotten."""
    monkeypatch.setattr(ProcessPlans, "of", lambda *_: b"plan")
    world = new_world(tmp_path)
    now = time.time_ns()
    async with running_core(world) as core:
        container_id = await heard(core)
        unknown, known, old, strange = made(container_id), made(container_id), made(container_id), made("e" * 64)
        core.shim(container_id).create_exec_itself(known, told=False)
        await core.core.execs.catch_up(container_id)
        core.shim(container_id).die()
    world.shims.left[container_id] = [
        *(KnownExec(record=each, began_at=now, exited_at=now, exit_code=9) for each in (unknown, known, strange)),
        KnownExec(record=old, began_at=6, exited_at=7, exit_code=9),
    ]
    async with running_core(world) as later:
        for each in (unknown, known):
            found = await later.core.execs.inspect(each.id)
            assert (found.phase, found.exit_code) == (ExecPhase.EXITED, 9)
            told = [event.action for event in await later.journal() if event.attributes.get("execID") == each.id]
            assert told == ["exec_create: ls", "exec_start: ls", "exec_die"]
        assert later.records.exec(old.id) is later.records.exec(strange.id) is None


async def test_with_much_that_the_disk_owes_the_next_wait_for_it(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execs_module, "MOST_OWED", 0)
    container_id = await heard(core)
    waits, goes_on, written = asyncio.Event(), asyncio.Event(), core.records.written

    async def slowly() -> None:
        waits.set()
        await goes_on.wait()
        await written()

    monkeypatch.setattr(core.records, "written", slowly)
    record = made(container_id)
    core.shim(container_id).create_exec_itself(record)
    await waits.wait()
    assert core.records.exec(record.id) is None
    goes_on.set()
    await eventually(lambda: core.records.exec(record.id) is not None)


async def test_a_shim_is_heard_to_the_end_of_its_container(core: Running) -> None:
    """Its execs' ids have been told, and nobody else knows them."""
    container_id = await heard(core)
    record = made(container_id)
    core.shim(container_id).create_exec_itself(record, told=False)
    core.shim(container_id).exit(0)
    await core.settled(container_id)
    await eventually(lambda: core.get(container_id).phase is Phase.EXITED)
    await core.settled(container_id)
    assert core.records.exec(record.id) is not None


async def test_what_is_told_to_somebody_who_leaves_is_not_lost(core: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execs_module, "MOST_OWED", 0)
    container_id = await heard(core)
    record, waits = made(container_id), asyncio.Event()

    async def never() -> None:
        waits.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(core.records, "written", never)
        core.shim(container_id).create_exec_itself(record, told=False)
        asking = asyncio.create_task(core.core.execs.catch_up(container_id))
        await waits.wait()
        asking.cancel()
        await asyncio.wait([asking])
    await core.core.execs.catch_up(container_id)
    assert core.records.exec(record.id) is not None


async def test_a_shim_is_heard_on_when_the_disk_took_nothing(core: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    container_id = await heard(core)
    monkeypatch.setattr(new_execs_module, "_AGAIN_SECONDS", 0.01)
    refused: list[Execs] = []
    make_room = Execs.make_room

    async def full_at_first(self: Execs) -> None:
        if not refused:
            refused.append(self)
            raise ResourceExhausted("no space left on device")
        await make_room(self)

    monkeypatch.setattr(Execs, "make_room", full_at_first)
    first, second = made(container_id), made(container_id)
    core.shim(container_id).create_exec_itself(first)
    await eventually(lambda: core.records.exec(first.id) is not None)
    core.shim(container_id).create_exec_itself(second)
    await eventually(lambda: core.records.exec(second.id) is not None)
    assert refused


async def test_what_a_shim_told_before_it_died_is_on_record(core: Running) -> None:
    """Its client has the id, and starts it when the container has another shim."""
    container_id = await heard(core)
    shim, record = core.shim(container_id), made(container_id)
    shim.create_exec_itself(record, told=False)
    shim.die()
    await eventually(lambda: not core.core.execs.new.may_create(container_id))
    assert core.records.exec(record.id) is not None


async def test_an_end_that_a_shim_told_before_it_died_is_on_record(core: Running) -> None:
    """Of one whose record said that it runs."""
    container_id = await heard(core)
    shim, record = core.shim(container_id), made(container_id)
    shim.create_exec_itself(record, told=False)
    shim.tell(KnownExec(record=record, began_at=6), told=False)
    await core.core.execs.catch_up(container_id)
    await eventually(lambda: "wait" in shim.called)
    shim.tell(KnownExec(record=record, began_at=6, exited_at=7, exit_code=9), told=False)
    shim.die()
    await eventually(lambda: core.records.exec(record.id).phase is ExecPhase.EXITED)  # type: ignore[union-attr]
    assert (await core.core.execs.inspect(record.id)).exit_code == 9
    told = [each for each in await core.journal() if each.attributes.get("execID") == record.id]
    assert [each.action for each in told] == ["exec_create: ls", "exec_start: ls", "exec_die"]


async def test_whose_end_was_waited_for_need_not_ring(core: Running) -> None:
    """Its shim has told of it besides, for the case that it dies."""
    container_id = await heard(core)
    shim, record = core.shim(container_id), made(container_id)
    shim.create_exec_itself(record, told=False)
    shim.tell(KnownExec(record=record, began_at=6), told=False)
    await core.core.execs.catch_up(container_id)
    shim.tell(KnownExec(record=record, began_at=6, exited_at=7, exit_code=9), told=False)
    shim.exit_exec(record.id, 9)
    await eventually(lambda: not shim.untold_execs)
    told = [each.action for each in await core.journal() if each.attributes.get("execID") == record.id]
    assert told == ["exec_create: ls", "exec_start: ls", "exec_die"]


async def test_who_may_create_none_leaves_no_doubt(core: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a container with links, say: each doubt is a call that stays open."""
    doubted: list[str] = []
    monkeypatch.setattr(Execs, "pattern", lambda *_: b"")
    monkeypatch.setattr(Execs, "doubt_all", lambda _, container_id: doubted.append(container_id))
    container_id = await core.run("sleep", "9")
    await core.core.execs.create(container_id, SPEC)
    assert core.core.execs.new.may_create(container_id)
    await eventually(lambda: not core.core.execs.new.may_create(container_id))
    assert not doubted
