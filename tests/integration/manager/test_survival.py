"""The manager dies in every way; its containers do not notice, and the next manager knows the truth."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from bulkhead.errors import Unavailable
from bulkhead.linux import process
from bulkhead.linux.cgroups import Cgroup
from bulkhead.wire.gen.bulkhead.manager import v1 as api
from bulkhead.wire.gen.bulkhead.shim.v1 import ExecCreateRequest
from bulkhead.wire.gen.bulkhead.types import v1 as types
from bulkhead.wire.ttrpc_client import ShimClient, TtrpcClient
from tests.integration.manager.conftest import SERVICES
from tests.support.engine import Engine
from tests.support.eventually import catches, eventually
from tests.support.manager_client import ManagerClient, manager_client


async def _kill(engine: Engine, *services: str) -> None:
    await asyncio.to_thread(engine.kill, *services)


async def _start(engine: Engine) -> None:
    await asyncio.to_thread(engine.start, *SERVICES)


async def test_killed_manager_finds_its_containers_as_they_are(manager: ManagerClient, watched_engine: Engine) -> None:
    container_id = await manager.run("sh", "-c", "while :; do echo x; sleep 0.02; done", network_mode="bridge")
    before = await manager.inspect(container_id)
    await _kill(watched_engine, "manager")
    with pytest.raises(Unavailable, match="the manager service is not available"):
        await manager.inspect(container_id)
    await _start(watched_engine)
    assert await manager.inspect(container_id) == before
    written = len(await manager.output(container_id))

    async def writes_on() -> bool:
        return len(await manager.output(container_id)) > written

    await eventually(writes_on)
    assert await manager.stop(container_id, 0)


async def test_exit_while_everything_is_down_is_kept(
    manager: ManagerClient, watched_engine: Engine, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    mount = types.Mount(type="bind", source=str(tmp_path), target="/host")
    container_id = await manager.run("sh", "-c", "read x < /host/go; exit 7", mounts=[mount])
    await _kill(watched_engine, "manager", "supervisor")
    await asyncio.to_thread(go.write_text, "now\n")
    record = watched_engine.instance.exit_record(container_id)
    await eventually(record.exists)
    await _start(watched_engine)
    after = await manager.inspect(container_id)
    assert (after.phase, after.exit_code) == ("exited", 7)


async def test_killed_shim_is_replaced_and_the_exit_code_is_true(
    manager: ManagerClient, watched_engine: Engine
) -> None:
    container_id = await manager.run("sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done")
    before = await manager.inspect(container_id)
    shim = _shim_pid(watched_engine, container_id)
    os.kill(shim, signal.SIGKILL)

    async def answers_again() -> bool:
        try:
            return _shim_pid(watched_engine, container_id) != shim
        except OSError:
            return False

    await eventually(answers_again)
    assert (await manager.inspect(container_id)).pid == before.pid
    await eventually(lambda: catches(before.pid, signal.SIGTERM))
    await manager.stop(container_id, 10)
    after = await manager.inspect(container_id)
    assert (after.phase, after.exit_code) == ("exited", 5)


async def test_manager_and_shim_killed_together(manager: ManagerClient, watched_engine: Engine) -> None:
    alive = await manager.run("sleep", "99")
    dead = await manager.run("sleep", "98")
    pids = {each: (await manager.inspect(each)).pid for each in (alive, dead)}
    await _kill(watched_engine, "manager")
    for each in (alive, dead):
        os.kill(_shim_pid(watched_engine, each), signal.SIGKILL)
    os.kill(pids[dead], signal.SIGKILL)
    await eventually(lambda: process.start_time(pids[dead]) is None)
    await _start(watched_engine)
    assert (await manager.inspect(alive)).phase == "running"

    async def dead_is_known() -> bool:
        return (await manager.inspect(dead)).phase == "exited"

    await eventually(dead_is_known)
    assert (await manager.inspect(dead)).exit_code in (137, 255)
    await manager.kill(alive)
    assert await manager.wait(alive) == 137


async def test_an_exec_that_begins_after_the_next_manager_is_on_record(
    manager: ManagerClient, watched_engine: Engine
) -> None:
    """Its client was sent to the shim by the manager that died, and takes its time; nobody asks for the exec."""
    container_id = await manager.run("sleep", "99")
    spec = api.ExecSpec(command=["/bin/sleep", "9"])
    exec_id = (await manager.execs.create(api.CreateExecRequest(ref=container_id, spec=spec))).id
    await _kill(watched_engine, "manager")
    async with TtrpcClient(watched_engine.instance.shim_socket(container_id)) as client:
        shim = ShimClient(client)
        await shim.exec_create(ExecCreateRequest(exec_id=exec_id, process=b'{"args": ["/bin/sleep", "9"], "cwd": "/"}'))
        await _start(watched_engine)
        assert (await manager.inspect(container_id)).exec_ids == [exec_id]
        await shim.exec_start(exec_id)
        await shim.kill(signal.SIGKILL, exec_id=exec_id)

        async def has_ended() -> bool:
            return (await manager.inspect(container_id)).exec_ids == []

        await eventually(has_ended)


async def test_an_exec_whose_manager_dies_with_his_answer_is_the_next_ones(
    manager: ManagerClient, watched_engine: Engine
) -> None:
    """Nothing of it is on disk: its shim tells."""
    container_id = await manager.run("sleep", "99")
    spec = api.ExecSpec(command=["/bin/sh", "-c", "exit 5"], env=["A=b"], attach_stdout=True)
    created = await manager.execs.create(api.CreateExecRequest(ref=container_id, spec=spec))
    os.kill(watched_engine.pid("manager") or 0, signal.SIGKILL)  # before what may be late is written
    await _kill(watched_engine, "manager")
    async with TtrpcClient(watched_engine.instance.shim_socket(container_id)) as client:
        await ShimClient(client).exec_start(created.id)
        assert (await ShimClient(client).wait(created.id)).exit_code == 5
    await _start(watched_engine)
    found = await manager.execs.inspect(api.InspectExecRequest(id=created.id))
    assert (found.started, found.exit_code, found.spec) == (True, 5, spec)


async def test_silent_shims_hold_up_nobody_else(manager: ManagerClient, watched_engine: Engine) -> None:
    wedged = [await manager.run("sleep", "99") for _ in range(3)]
    shims = [_shim_pid(watched_engine, each) for each in wedged]
    for shim in shims:
        os.kill(shim, signal.SIGSTOP)
    killing = [asyncio.create_task(manager.kill(each)) for each in wedged]
    assert {each.id for each in await manager.list()} == set(wedged)
    assert (await manager.inspect(wedged[0])).phase == "running"
    assert await manager.run_to_end("true") == (0, "")
    # A stopped shim is ended, another one adopts the container and tells how it ended.
    await asyncio.gather(*killing)
    assert [await manager.wait(each) for each in wedged] == [137, 137, 137]


async def test_supervisor_away_is_named_and_reads_go_on(manager: ManagerClient, watched_engine: Engine) -> None:
    running = await manager.run("sleep", "99")
    await _kill(watched_engine, "supervisor")  # first: for a container that has just been made a shim is there already
    container_id = await manager.create("true")
    with pytest.raises(Unavailable, match="the supervisor service is not available"):
        await manager.start(container_id)
    assert {each.id for each in await manager.list()} == {running, container_id}
    await manager.kill(running)
    assert await manager.wait(running) == 137, "its shim needs no supervisor"
    await _start(watched_engine)
    assert (await manager.start(container_id)).failure is None
    assert await manager.wait(container_id) == 0


async def test_wiped_run_directory_keeps_what_runs(manager: ManagerClient, watched_engine: Engine) -> None:
    container_id = await manager.run("sleep", "99")
    before = await manager.inspect(container_id)
    await _kill(watched_engine, "manager", "supervisor")
    await asyncio.to_thread(shutil.rmtree, watched_engine.instance.run / "containers")
    await _start(watched_engine)
    assert (await manager.inspect(container_id)).pid == before.pid
    await manager.kill(container_id)
    assert await manager.wait(container_id) == 137


async def test_as_after_a_reboot(manager: ManagerClient, watched_engine: Engine) -> None:
    container_id = await manager.run("sleep", "99", network_mode="bridge")
    before = await manager.inspect(container_id)
    await _kill(watched_engine, "manager", "supervisor")
    os.kill(_shim_pid(watched_engine, container_id), signal.SIGKILL)
    os.kill(before.pid, signal.SIGKILL)
    await asyncio.to_thread(shutil.rmtree, watched_engine.instance.run / "containers")
    await _start(watched_engine)

    async def is_over() -> bool:
        return (await manager.inspect(container_id)).phase == "exited"

    await eventually(is_over)
    await manager.start(container_id)
    assert (await manager.inspect(container_id)).phase == "running"


async def test_second_manager_on_the_same_data_is_refused(watched_engine: Engine, tmp_path: Path) -> None:
    environ = {**watched_engine.environ, "BULKHEAD_RUN": str(tmp_path / "run")}
    command = [sys.executable, "-m", "bulkhead.manager"]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environ, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "another manager is running on this data directory" in done.stderr


@pytest.mark.parametrize("delay", [0.004, 0.01, 0.02, 0.04])
async def test_kill_in_the_middle_of_a_start(watched_engine: Engine, delay: float) -> None:
    """Wherever it is hit, nothing half-done stays and the start can be repeated."""
    async with manager_client(watched_engine.instance.manager_socket) as manager:
        container_id = await manager.create("sleep", "99", network_mode="bridge")
        starting = asyncio.create_task(manager.start(container_id))
        await asyncio.sleep(delay)
        await _kill(watched_engine, "manager")
        answered = not isinstance((await asyncio.gather(starting, return_exceptions=True))[0], BaseException)
        await _start(watched_engine)
        found = await manager.inspect(container_id)
        assert found.phase in ("created", "running")
        if answered:
            assert found.phase == "running", "what was acknowledged is kept"
        if found.phase == "created":
            await manager.start(container_id)
        assert (await manager.inspect(container_id)).phase == "running"
        await manager.remove(container_id, force=True)


async def test_kill_in_the_middle_of_removals(watched_engine: Engine) -> None:
    async with manager_client(watched_engine.instance.manager_socket) as manager:
        ids = [await manager.run("sleep", "99", network_mode="bridge") for _ in range(6)]
        removing = [asyncio.create_task(manager.remove(each, force=True)) for each in ids]
        await asyncio.sleep(0.02)
        await _kill(watched_engine, "manager")
        done = await asyncio.gather(*removing, return_exceptions=True)
        await _start(watched_engine)
        known = {each.id for each in await manager.list()}
        gone = {each for each, result in zip(ids, done, strict=True) if result is None}
        assert not gone & known, "what was acknowledged as removed stays removed"
        await manager.remove_all()


async def test_what_a_shim_that_nobody_has_wanted_made_ahead_goes_with_the_container_when_it_was_killed(
    manager: ManagerClient, watched_engine: Engine
) -> None:
    """No config names its cgroup yet."""
    container_id = await manager.create("true")
    group = Cgroup(f"/{watched_engine.instance.label}/{container_id}")

    await _made_ahead(group)
    os.kill(_shim_pid(watched_engine, container_id), signal.SIGKILL)
    await manager.remove(container_id)
    assert not group.exists()


async def test_container_starts_in_the_cgroup_that_a_killed_shim_has_made(
    manager: ManagerClient, watched_engine: Engine
) -> None:
    container_id = await manager.create("sleep", "600")
    group = Cgroup(f"/{watched_engine.instance.label}/{container_id}")

    await _made_ahead(group)
    os.kill(_shim_pid(watched_engine, container_id), signal.SIGKILL)

    async def starts() -> bool:
        # A call may be on its way to the shim before its end is noticed.
        with suppress(Unavailable):
            await manager.start(container_id)
            return True
        return False

    await eventually(starts)
    assert (await manager.inspect(container_id)).pid in group.pids()


async def _made_ahead(group: Cgroup) -> None:
    await eventually(lambda: asyncio.to_thread(_is_complete, group))


def _is_complete(group: Cgroup) -> bool:
    return all(Path(place).exists() for place in group.paths.values())


def _shim_pid(engine: Engine, container_id: str) -> int:
    return int(json.loads((engine.instance.container_data(container_id) / "shim.json").read_text())["pid"])
