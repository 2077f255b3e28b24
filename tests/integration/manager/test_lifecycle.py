"""Containers from end to end over gRPC: real shims, processes, mounts, networks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from bulkhead.errors import Conflict, InvalidArgument, NotFound
from bulkhead.linux.scheduling import SHORTEST
from bulkhead.wire.gen.bulkhead.manager import v1 as api
from bulkhead.wire.gen.bulkhead.types import v1 as types
from tests.support.engine import Engine
from tests.support.eventually import catches, eventually
from tests.support.manager_client import ManagerClient
from tests.support.slices import are_told, slice_of


async def test_exit_code_and_output(manager: ManagerClient) -> None:
    code, output = await manager.run_to_end("sh", "-c", "echo hello; echo $HOSTNAME; exit 7", hostname="box")
    assert (code, output) == (7, "hello\nbox\n")


async def test_inspect_tells_the_life(manager: ManagerClient) -> None:
    container_id = await manager.create("sh", "-c", "exit 3", name="life", labels={"a": "b"})
    created = await manager.inspect("life")
    assert (created.phase, created.pid, created.started_at) == ("created", 0, 0)
    assert await manager.wait("life") == 0, "a created container is not running"
    waiting = asyncio.create_task(manager.wait("life", "next-exit"))
    await manager.start(container_id)
    assert await waiting == 3
    ended = await manager.inspect("/life")
    assert (ended.phase, ended.exit_code, ended.pid) == ("exited", 3, 0)
    assert ended.created_at < ended.started_at < ended.finished_at
    (listed,) = await manager.list(name=["life"])
    assert (listed.phase, listed.labels["a"], listed.command) == ("exited", "b", "sh -c 'exit 3'")


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("nosuchcommand", 127, 'exec: "nosuchcommand": executable file not found in $PATH'),
        ("/nosuch", 127, "no such file or directory"),
        ("/etc", 126, "permission denied"),
    ],
)
async def test_command_that_cannot_be_run(manager: ManagerClient, command: str, code: int, text: str) -> None:
    container_id = await manager.create(command)
    failure = (await manager.start(container_id)).failure
    assert failure is not None
    assert failure.exit_code == code
    assert text in failure.message
    container = await manager.inspect(container_id)
    assert (container.phase, container.exit_code, container.error) == ("created", code, failure.message)


async def test_stop_of_an_obedient_and_of_a_stubborn_container(manager: ManagerClient) -> None:
    polite = await manager.run("sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done")
    pid = (await manager.inspect(polite)).pid
    await eventually(lambda: catches(pid, signal.SIGTERM))
    assert await manager.stop(polite, 10)
    assert (await manager.inspect(polite)).exit_code == 5
    assert not await manager.stop(polite)
    stubborn = await manager.run("sleep", "99")
    await manager.stop(stubborn, 0)
    assert (await manager.inspect(stubborn)).exit_code == 137


async def test_kill_and_its_errors(manager: ManagerClient) -> None:
    container_id = await manager.run("sleep", "99", name="victim")
    with pytest.raises(InvalidArgument, match="Invalid signal: FOO"):
        await manager.kill("victim", "FOO")
    await manager.kill("victim")
    assert await manager.wait(container_id) == 137
    with pytest.raises(Conflict, match=f"Cannot kill container: victim: Container {container_id} is not running"):
        await manager.kill("victim")


async def test_pause_freezes_and_kill_ends_a_frozen_one(manager: ManagerClient) -> None:
    container_id = await manager.run("sh", "-c", "while :; do echo x; sleep 0.01; done")
    pid = (await manager.inspect(container_id)).pid
    await eventually(lambda: _written(pid) > 0)
    await manager.containers.pause(api.PauseContainerRequest(ref=container_id))
    assert (await manager.inspect(container_id)).phase == "paused"
    before = _written(pid)
    await asyncio.sleep(0.1)
    assert _written(pid) == before
    await manager.containers.unpause(api.UnpauseContainerRequest(ref=container_id))
    await manager.containers.pause(api.PauseContainerRequest(ref=container_id))
    await manager.kill(container_id)
    assert await manager.wait(container_id) == 137


def _written(pid: int) -> int:
    """Bytes that a process has written: of what is in its log yet, the shim's pace has a say (proc_pid_io(5))."""
    counts = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(counts["wchar"])


async def test_auto_remove_wakes_who_waits_for_the_removal(manager: ManagerClient) -> None:
    container_id = await manager.create("sh", "-c", "exit 4", auto_remove=True)
    waiting = aiter(manager.containers.wait(api.WaitContainerRequest(ref=container_id, condition="removed")))
    assert (await anext(waiting)).registered
    await manager.start(container_id)
    assert (await anext(waiting)).exit_code == 4
    with pytest.raises(NotFound, match=f"No such container: {container_id}"):
        await manager.inspect(container_id)


async def test_restart_keeps_the_writable_layer(manager: ManagerClient) -> None:
    container_id = await manager.run("sh", "-c", "test -e /kept && echo again; touch /kept; echo kept; exec sleep 99")

    async def kept() -> bool:
        return await manager.output(container_id) == "kept\n"

    await eventually(kept)
    first = await manager.inspect(container_id)
    await manager.containers.restart(api.RestartContainerRequest(ref=container_id, timeout=0))
    second = await manager.inspect(container_id)
    assert second.phase == "running" and second.pid != first.pid

    async def wrote_again() -> bool:
        return await manager.output(container_id) == "kept\nagain\nkept\n"

    await eventually(wrote_again)


async def test_restart_policy(manager: ManagerClient) -> None:
    policy = types.RestartPolicy(name="on-failure", maximum_retry_count=2)
    container_id = await manager.create("sh", "-c", "echo run; exit 1", restart_policy=policy)
    await manager.start(container_id)

    async def has_given_up() -> bool:
        found = await manager.inspect(container_id)
        return found.phase == "exited" and found.restart_count == 2

    await eventually(has_given_up)
    assert await manager.output(container_id) == "run\n" * 3


async def test_volumes_binds_and_tmpfs(manager: ManagerClient, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host\n")
    mounts = [
        types.Mount(type="bind", source=str(tmp_path), target="/bound", read_only=True),
        types.Mount(type="volume", source="vol1", target="/vol"),
        types.Mount(type="tmpfs", target="/scratch", options=["size=1m"]),
    ]
    script = "cat /bound/in; touch /bound/x 2>/dev/null || echo ro; echo kept > /vol/f; df -k /scratch | tail -1"
    code, output = await manager.run_to_end("sh", "-c", script, mounts=mounts)
    lines = output.splitlines()
    assert code == 0
    assert lines[:2] == ["from the host", "ro"]
    assert lines[2].split()[1] == "1024"
    mounts = [types.Mount(type="volume", source="vol1", target="/v")]
    assert await manager.run_to_end("cat", "/v/f", mounts=mounts) == (0, "kept\n")


async def test_missing_bind_source_is_made_only_for_binds(manager: ManagerClient, tmp_path: Path) -> None:
    there = tmp_path / "made"
    mount = types.Mount(type="bind", source=str(there), target="/x", create_source=True)
    assert (await manager.run_to_end("ls", "/x", mounts=[mount]))[0] == 0
    assert there.is_dir()
    with pytest.raises(InvalidArgument, match="bind source path does not exist: /nosuch"):
        await manager.create("true", mounts=[types.Mount(type="bind", source="/nosuch", target="/x")])


async def test_limits_reach_the_cgroup(manager: ManagerClient) -> None:
    resources = types.Resources(memory=64 << 20, pids_limit=17, nano_cpus=500_000_000)
    container_id = await manager.run("sleep", "99", resources=resources)
    pid = (await manager.inspect(container_id)).pid
    found = {}
    lines = await asyncio.to_thread(Path(f"/proc/{pid}/cgroup").read_text)
    for line in lines.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    assert all(path.endswith(container_id) for path in (found["memory"], found["pids"]))
    limit = Path("/sys/fs/cgroup/memory") / found["memory"].lstrip("/") / "memory.limit_in_bytes"
    assert int(limit.read_text()) == 64 << 20
    assert (Path("/sys/fs/cgroup/pids") / found["pids"].lstrip("/") / "pids.max").read_text() == "17\n"


@pytest.mark.skipif(not are_told(), reason="slices are Linux 6.12's")
async def test_the_engine_is_let_in_at_once_and_a_container_is_like_any_process(
    manager: ManagerClient, watched_engine: Engine
) -> None:
    container_id = await manager.run("sleep", "99")
    program = (await manager.inspect(container_id)).pid
    shim = json.loads((watched_engine.instance.container_data(container_id) / "shim.json").read_text())["pid"]
    services = [watched_engine.pid(service) for service in ("supervisor", "manager")]
    assert {slice_of(pid or 0) for pid in (shim, *services)} == {SHORTEST}
    assert slice_of(program) == slice_of(1)


async def test_environment_and_user(manager: ManagerClient) -> None:
    code, output = await manager.run_to_end(
        "sh", "-c", "echo $A-$PATH-$TERM; id -u; pwd", env=["A=b"], user="1234", working_dir="/tmp"
    )
    assert code == 0
    assert output.splitlines()[1:] == ["1234", "/tmp"]
    assert output.startswith("b-/")


async def test_unknown_user_is_an_error_with_dockers_text(manager: ManagerClient) -> None:
    container_id = await manager.create("true", user="nosuch")
    failure = (await manager.start(container_id)).failure
    assert failure is not None
    assert "unable to find user nosuch: no matching entries in passwd file" in failure.message


async def test_network_of_another_container(manager: ManagerClient) -> None:
    first = await manager.run("sleep", "99", network_mode="bridge")
    (address,) = (await manager.inspect(first)).endpoints
    code, output = await manager.run_to_end("cat", "/etc/hosts", network_mode=f"container:{first}")
    assert code == 0
    assert address.address in output
    await manager.stop(first, 0)
    second = await manager.create("true", network_mode=f"container:{first}")
    with pytest.raises(Conflict, match="cannot join network of a non running container"):
        await manager.start(second)


async def test_host_modes(manager: ManagerClient) -> None:
    modes = {"network_mode": "host", "pid_mode": "host", "uts_mode": "host", "ipc_mode": "host"}
    container_id = await manager.run("sleep", "99", **modes)
    pid = (await manager.inspect(container_id)).pid
    for kind in ("net", "pid", "uts", "ipc"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")  # noqa: PTH115
    assert os.readlink(f"/proc/{pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")  # noqa: PTH115


async def test_top(manager: ManagerClient) -> None:
    container_id = await manager.run("sh", "-c", "sleep 98 & exec sleep 99")

    async def lists_both() -> bool:
        answer = await manager.containers.top(api.TopRequest(ref=container_id))
        assert answer.titles == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        return sorted(row.items[7] for row in answer.processes) == ["sleep 98", "sleep 99"]

    await eventually(lists_both)
    answer = await manager.containers.top(api.TopRequest(ref=container_id, ps_args="-o pid,comm"))
    assert answer.titles == ["PID", "COMMAND"]
    with pytest.raises(InvalidArgument):
        await manager.containers.top(api.TopRequest(ref=container_id, ps_args="-o nosuch"))


async def test_exec_detached_and_its_end(manager: ManagerClient) -> None:
    container_id = await manager.run("sleep", "99")
    spec = api.ExecSpec(command=["sh", "-c", "echo $X > /made; exit 6"], env=["X=y"])
    exec_id = (await manager.execs.create(api.CreateExecRequest(ref=container_id, spec=spec))).id
    before = await manager.execs.inspect(api.InspectExecRequest(id=exec_id))
    assert (before.running, before.started, before.exit_code) == (False, False, None)
    await manager.execs.start(api.StartExecRequest(id=exec_id, detach=True))

    async def ended_with_6() -> bool:
        found = await manager.execs.inspect(api.InspectExecRequest(id=exec_id))
        return not found.running and found.exit_code == 6

    await eventually(ended_with_6)
    upper = Path((await manager.inspect(container_id)).upper_dir)
    assert (upper / "made").read_text() == "y\n"
    with pytest.raises(Conflict, match=f"exec command {exec_id} has already run"):
        await manager.execs.start(api.StartExecRequest(id=exec_id, detach=True))


async def test_exec_that_cannot_be_run(manager: ManagerClient) -> None:
    container_id = await manager.run("sleep", "99")
    spec = api.ExecSpec(command=["nosuchcommand"])
    exec_id = (await manager.execs.create(api.CreateExecRequest(ref=container_id, spec=spec))).id
    failure = (await manager.execs.start(api.StartExecRequest(id=exec_id, detach=True))).failure
    assert failure is not None and failure.exit_code == 127
    assert (await manager.execs.inspect(api.InspectExecRequest(id=exec_id))).exit_code == 127


async def test_attached_exec_runs_when_its_stream_comes(manager: ManagerClient) -> None:
    container_id = await manager.run("sleep", "99")
    spec = api.ExecSpec(command=["sh", "-c", "cat; exit 9"], attach_stdin=True, attach_stdout=True)
    exec_id = (await manager.execs.create(api.CreateExecRequest(ref=container_id, spec=spec))).id
    answer = await manager.execs.start(api.StartExecRequest(id=exec_id))
    reader, writer = await asyncio.open_unix_connection(answer.socket)
    writer.write(
        b'{"op":"exec","exec_id":"%s","stdin":true,"stdout":true,"stderr":true,"detach_keys":""}\n' % exec_id.encode()
    )
    assert b'"ok":true' in (await reader.readline()).replace(b" ", b"")
    writer.write(b"ping")
    writer.write_eof()
    assert (await reader.read()) == b"\x01\0\0\0\0\0\0\x04ping"
    writer.close()
    inspected = await manager.execs.inspect(api.InspectExecRequest(id=exec_id))
    assert (inspected.running, inspected.exit_code) == (False, 9)


async def test_events_are_live_and_replayed(manager: ManagerClient) -> None:
    since = time.time_ns()
    heard: asyncio.Queue[api.Event] = asyncio.Queue()

    async def listen() -> None:
        async for event in manager.system.events(
            api.EventsRequest(filters={"type": types.StringList(items=["container"])})
        ):
            await heard.put(event)

    listening = asyncio.create_task(listen())
    assert (await heard.get()).ready
    await manager.run_to_end("true", name="heard")
    live = [await heard.get() for _ in range(4)]
    listening.cancel()
    assert [event.action for event in live] == ["create", "start", "die", "destroy"]
    assert live[2].attributes["exitCode"] == "0"
    replayed = [
        event
        async for event in manager.system.events(api.EventsRequest(since=since, until=time.time_ns()))
        if not event.ready
    ]
    assert [event.sequence for event in replayed if event.type == "container"] == [event.sequence for event in live]


async def test_eight_at_once(manager: ManagerClient) -> None:
    results = await asyncio.gather(
        *(manager.run_to_end("sh", "-c", f"exit {number}", network_mode="bridge") for number in range(8))
    )
    assert [code for code, _ in results] == list(range(8))


async def test_prune_and_list_filters(manager: ManagerClient) -> None:
    kept = await manager.run("sleep", "99", labels={"keep": "1"})
    ended = await manager.run("true", labels={"keep": "0"})
    await manager.wait(ended)
    assert [each.id for each in await manager.list(everything=False)] == [kept]
    assert [each.id for each in await manager.list(label=["keep=0"])] == [ended]
    assert [each.id for each in await manager.list(everything=False, status=["exited"])] == [ended]
    with pytest.raises(InvalidArgument, match="Invalid filter 'nosuch'"):
        await manager.list(nosuch=["1"])
    pruned = await manager.containers.prune(api.PruneContainersRequest())
    assert pruned.ids == [ended]
