"""Create, start, exit, stop, remove: the core on fakes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import AsyncMock

import pytest

from bulkhead.errors import (
    BulkheadError,
    Conflict,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    LaunchFailed,
    NotFound,
    NotModified,
    ResourceExhausted,
    Unavailable,
)
from bulkhead.linux import process
from bulkhead.manager import bundles, stopping
from bulkhead.manager.config import ManagerConfig
from bulkhead.manager.ports import Change, Dirs, Exit
from bulkhead.manager.updating import Update
from bulkhead.model.container import ContainerSpec, Mount, PublishedPort, Resources, RestartPolicy
from bulkhead.model.image import ImageConfig
from bulkhead.model.lifecycle import Phase
from bulkhead.model.network import ProcessNetns
from bulkhead.wire.inflight import QUEUED, RUNNING
from tests.support.descriptors import left_since, open_descriptors
from tests.support.eventually import eventually
from tests.support.fake_snapshots import FakeSnapshots
from tests.support.manager_core import Running, fake_core, new_world, running_core


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Running]:
    async with fake_core(tmp_path) as running:
        yield running


# Create


async def test_created_container_is_merged_with_its_image(core: Running) -> None:
    container = core.get(await core.create(name="/web", labels={"mine": "1"}))
    assert container.phase is Phase.CREATED
    assert (container.name, container.path, container.args) == ("web", "sh", ())
    assert container.spec.labels == {"from": "image", "mine": "1"}
    assert core.world.instance.container_data(container.id).is_dir()
    assert await core.actions() == ["create"]


async def test_nameless_container_gets_a_name_of_two_words(core: Running) -> None:
    container = core.get(await core.create())
    assert "_" in container.name
    assert core.records.index.find(container.name).id == container.id


@pytest.mark.parametrize(
    ("name", "spec", "error", "text"),
    [
        ("", {"image": "nosuch"}, NotFound, "No such image: nosuch:latest"),
        ("a b", {}, InvalidArgument, "Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
        ("a", {}, InvalidArgument, "Invalid container name (a), only"),
        ("", {"image": "empty"}, InvalidArgument, "No command specified"),
        ("", {"entrypoint": ("",), "image": "empty"}, InvalidArgument, "No command specified"),
        ("", {"stop_signal": "FOO"}, InvalidArgument, "Invalid signal: FOO"),
        (
            "",
            {"mounts": (Mount(type="bind", source="/nosuch/dir", target="/x"),)},
            InvalidArgument,
            'invalid mount config for type "bind": bind source path does not exist: /nosuch/dir',
        ),
        (
            "",
            {"mounts": (Mount(type="tmpfs", target="/x"), Mount(type="tmpfs", target="/x/"))},
            InvalidArgument,
            "Duplicate mount point: /x/",
        ),
        (
            "",
            {"mounts": (Mount(type="foo", target="/x"),)},
            InvalidArgument,
            'invalid mount config for type "foo": mount type unknown',
        ),
        ("", {"mounts": (Mount(type="tmpfs", target="x"),)}, InvalidArgument, "mount path must be absolute"),
        ("", {"mounts": (Mount(type="tmpfs", target="/x/.."),)}, InvalidArgument, "destination can't be '/'"),
        ("", {"pid_mode": "container:nosuch"}, InvalidArgument, "No such container: nosuch"),
        ("", {"volumes_from": ("nosuch",)}, InvalidArgument, "No such container: nosuch"),
        (
            "",
            {"network_mode": "container:x", "ports": (PublishedPort(container_port=80),)},
            InvalidArgument,
            "conflicting options: port publishing and the container type network mode",
        ),
    ],
)
async def test_refused_create_leaves_nothing(
    core: Running, name: str, spec: dict[str, object], error: type[Exception], text: str
) -> None:
    core.world.images.known["empty"] = ImageConfig(os="linux", architecture="amd64")
    with pytest.raises(error) as caught:
        await core.create(name=name, **spec)
    assert text in str(caught.value)
    assert len(core.records.index) == 0
    assert await core.actions() == []
    containers = core.world.instance.data / "containers"
    assert not containers.exists() or not list(containers.iterdir())


async def test_taken_name_is_refused_with_dockers_text(core: Running) -> None:
    first = await core.create(name="web")
    with pytest.raises(Conflict) as caught:
        await core.create(name="web")
    assert str(caught.value) == (
        f'Conflict. The container name "/web" is already in use by container "{first}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )


async def test_two_creates_at_once_never_share_a_name(core: Running) -> None:
    results = await asyncio.gather(*(core.create(name="web") for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(each, str) for each in results) == 1
    assert sum(isinstance(each, Conflict) for each in results) == 7


async def test_failed_snapshot_gives_the_name_back(core: Running) -> None:
    core.world.snapshots.failure = Internal("no space")
    with pytest.raises(Internal):
        await core.create(name="web")
    assert list(core.world.snapshots.root.iterdir()) == []
    core.world.snapshots.failure = None
    assert await core.create(name="web")


async def test_create_of_a_client_that_left_is_done_whole(core: Running) -> None:
    task = asyncio.create_task(core.create(name="web"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: len(core.records.index) == 1)
    assert core.records.index.find("web").phase is Phase.CREATED


async def test_volume_of_the_image_becomes_anonymous_and_goes_with_rm_v(core: Running) -> None:
    container = core.get(await core.create(volumes=("/data",)))
    (name,) = container.anonymous_volumes
    place = core.world.instance.data / "volumes" / name / "_data"
    assert place.is_dir()
    assert [(mount.type, mount.source, mount.target) for mount in container.spec.mounts] == [("volume", name, "/data")]
    await core.core.containers.remove(container.id, force=False, volumes=True)
    assert not place.exists()


async def test_volumes_from_takes_mounts_read_only_when_told(core: Running) -> None:
    first = await core.create(name="first", mounts=(Mount(type="volume", source="shared", target="/data"),))
    second = core.get(await core.create(volumes_from=("first:ro",)))
    assert [(mount.source, mount.read_only) for mount in second.spec.mounts] == [("shared", True)]
    assert not second.anonymous_volumes
    assert core.get(first).spec.mounts[0].read_only is False


# Lookup


async def test_lookup_order_is_id_name_prefix(core: Running) -> None:
    first = await core.create()
    named = await core.create(name=first[:12])
    find = core.records.index.find
    assert find(first).id == first
    assert find(first[:12]).id == named, "a name beats a prefix"
    assert find(f"/{first[:12]}").id == named
    assert find(first[:13]).id == first


async def test_unknown_and_ambiguous_references(core: Running) -> None:
    for _ in range(17):
        await core.create()
    digits = [each.id[0] for each in core.records.index]
    doubled = next(digit for digit in digits if digits.count(digit) > 1)
    with pytest.raises(InvalidArgument, match=f"multiple IDs found with provided prefix: {doubled}"):
        core.records.index.find(doubled)
    with pytest.raises(NotFound, match="No such container: nosuch"):
        core.records.index.find("nosuch")
    with pytest.raises(NotFound):
        core.records.index.find("")


# Start and exit


@pytest.mark.parametrize(("told", "limit"), [(0, 77), (-1, 0), (5, 5)])
async def test_a_container_that_names_no_limit_of_processes_has_the_daemons(
    tmp_path: Path, told: int, limit: int
) -> None:
    world = replace(new_world(tmp_path), config=ManagerConfig(pids_limit=77))
    async with running_core(world) as core:
        container_id = await core.create("true", resources=Resources(pids_limit=told))
        assert core.get(container_id).spec.resources.pids_limit == limit


async def test_run_to_the_end(core: Running) -> None:
    container_id = await core.run("true")
    running = core.get(container_id)
    assert running.phase is Phase.RUNNING
    assert running.pid == core.shim(container_id).pid
    assert running.started_at > 0
    core.shim(container_id).exit(7)
    assert await core.ended(container_id) == 7
    ended = core.get(container_id)
    assert (ended.phase, ended.exit_code, ended.pid) == (Phase.EXITED, 7, 0)
    assert ended.finished_at >= ended.started_at
    await core.settled(container_id)
    assert core.world.shims.discarded == [container_id]
    assert await core.actions() == ["create", "start", "die"]


async def test_second_start_is_not_modified(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    with pytest.raises(NotModified):
        await core.core.containers.start(container_id)


async def test_exited_container_starts_again(core: Running) -> None:
    container_id = await core.run("true")
    core.shim(container_id).exit(3)
    await core.ended(container_id)
    await core.core.containers.start(container_id)
    again = core.get(container_id)
    assert (again.phase, again.exit_code) == (Phase.RUNNING, 0)


@pytest.mark.parametrize("step", ["create", "start"])
async def test_command_that_cannot_be_executed(core: Running, step: str) -> None:
    core.world.shims.failures[step] = LaunchFailed("exec: no such file", step="execve", errno=2, exit_code=127)
    container_id = await core.create("/nosuch")
    with pytest.raises(LaunchFailed):
        await core.core.containers.start(container_id)
    container = core.get(container_id)
    assert (container.phase, container.exit_code) == (Phase.CREATED, 127)
    assert container.error == "exec: no such file"
    assert core.world.shims.shims == {}
    assert await core.actions() == ["create"], "a failed start is no event"
    core.world.shims.failures.clear()
    await core.core.containers.start(container_id)
    assert core.get(container_id).error == ""


async def test_failed_start_removes_a_container_with_rm(core: Running) -> None:
    core.world.shims.failures["create"] = LaunchFailed("no", exit_code=126)
    container_id = await core.create("x", auto_remove=True)
    with pytest.raises(LaunchFailed):
        await core.core.containers.start(container_id)
    assert not core.records.index.knows(container_id)
    assert await core.actions() == ["create", "destroy"]


async def test_start_without_a_supervisor_says_so_and_can_be_repeated(core: Running) -> None:
    core.world.shims.supervisor_away = True
    container_id = await core.create("sleep", "9")
    with pytest.raises(Unavailable, match="the supervisor service is not available"):
        await core.core.containers.start(container_id)
    core.world.shims.supervisor_away = False
    await core.core.containers.start(container_id)
    assert core.get(container_id).phase is Phase.RUNNING


@pytest.mark.parametrize("network", ["none", "bridge"])
async def test_a_shim_that_dies_before_the_program_begins_is_replaced(core: Running, network: str) -> None:
    """It may have been launched ahead, and killed long before anybody notices."""
    container_id = await core.create("sleep", "9", network_mode=network)
    starting = await _start_whose_shim_is_asked(core, container_id)
    core.shim(container_id).die()
    core.shim(container_id).gates.pop("create").set()
    await starting
    assert core.get(container_id).phase is Phase.RUNNING
    assert await core.actions() == ["create", "start"]


async def test_a_shim_that_dies_with_what_it_has_parked_is_replaced(core: Running) -> None:
    """It is plugged in then, and all that was made for it has gone with it."""
    core.world.shims.older = True
    container_id = await core.create("sleep", "9", network_mode="bridge")
    starting = await _start_whose_shim_is_asked(core, container_id, "start")
    parked = core.shim(container_id)
    assert parked.phase == "created"
    parked.die()
    parked.gates.pop("start").set()
    await starting
    assert core.shim(container_id) is not parked
    assert core.get(container_id).phase is Phase.RUNNING
    assert await core.actions() == ["create", "start"]


async def test_a_program_that_may_have_begun_when_its_shim_died_is_not_begun_again(core: Running) -> None:
    container_id = await core.create("sleep", "9")
    starting = await _start_whose_shim_is_asked(core, container_id)
    core.shim(container_id).started_at = 1
    core.shim(container_id).die()
    core.shim(container_id).gates.pop("create").set()
    with pytest.raises(Unavailable, match="the connection ended"):
        await starting
    assert core.get(container_id).phase is Phase.CREATED


async def _start_whose_shim_is_asked(core: Running, container_id: str, call: str = "create") -> asyncio.Task[None]:
    """A start that waits for what its shim makes of it."""
    await eventually(lambda: container_id in core.world.shims.shims)
    gate = _Gate()
    core.shim(container_id).gates[call] = gate
    starting = asyncio.create_task(core.core.containers.start(container_id))
    await gate.reached.wait()
    return starting


class _Gate(asyncio.Event):
    def __init__(self) -> None:
        super().__init__()
        self.reached = asyncio.Event()

    async def wait(self) -> Literal[True]:
        self.reached.set()
        return await super().wait()


async def test_unknown_network_is_refused_at_start(core: Running, sleeper: subprocess.Popen[bytes]) -> None:
    core.world.shims.real_process = (sleeper.pid, process.start_time(sleeper.pid) or 0)
    container_id = await core.create(network_mode="nosuchnet")
    with pytest.raises(NotFound, match="network nosuchnet not found"):
        await core.core.containers.start(container_id)
    assert core.get(container_id).exit_code == 128


async def test_bridge_endpoint_is_given_shown_and_taken_back(core: Running) -> None:
    container_id = await core.run("sleep", network_mode="bridge")
    (endpoint,) = core.get(container_id).endpoints
    assert endpoint.address.startswith("10.123.0.")
    hosts = (core.world.instance.container_data(container_id) / "hosts").read_text()
    assert endpoint.address in hosts
    core.shim(container_id).exit(0)
    await core.ended(container_id)
    after = core.get(container_id)
    assert [each.address for each in after.endpoints] == [""] and after.attachments == ()
    assert await core.actions("network") == ["connect", "disconnect"]


async def test_a_container_on_the_default_network_starts_in_a_namespace_that_is_plugged_in(core: Running) -> None:
    container_id = await core.run("sleep", network_mode="bridge")
    shim, (attachment,) = core.shim(container_id), core.get(container_id).attachments
    assert shim.network and core.get(container_id).phase is Phase.RUNNING
    assert attachment.host_interface in core.world.kernel.interfaces
    assert "plug" not in core.world.kernel.calls


async def test_an_older_shim_parks_the_container_which_is_plugged_in_then(core: Running) -> None:
    core.world.shims.older = True
    container_id = await core.run("sleep", network_mode="bridge")
    container, kernel = core.get(container_id), core.world.kernel
    (attachment,), (endpoint,) = container.attachments, container.endpoints
    wire = kernel.wires[ProcessNetns(pid=container.pid, start_time=container.pid_start_time)]
    assert wire.host_interface == attachment.host_interface
    assert [str(each.ip) for each in wire.addresses] == [endpoint.address]
    hosts = (core.world.instance.container_data(container_id) / "hosts").read_text()
    assert endpoint.address in hosts and container.phase is Phase.RUNNING
    assert kernel.silent == {each.host_interface for each in kernel.wires.values()} - {attachment.host_interface}


@pytest.mark.parametrize("method", ["plug_new", "create"])
async def test_what_fails_beside_a_plug_leaves_nothing_of_it(core: Running, method: str) -> None:
    kernel = core.world.kernel
    failures = kernel.failures if method == "plug_new" else core.world.shims.failures
    await core.run("sleep", network_mode="bridge")  # what is made once is made
    descriptors = open_descriptors()
    failures[method] = Internal("out of order")
    container_id = await core.create(network_mode="bridge", ports=(PublishedPort(container_port=80, host_port=8080),))
    with pytest.raises(Internal, match="out of order"):
        await core.core.containers.start(container_id)
    del failures[method]
    (table,) = (table for name, table in kernel.tables.items() if name.startswith("inet"))
    assert not table.elements["published"] and not table.elements["published_any"]
    assert not left_since(descriptors)
    await core.core.containers.start(container_id)  # the port is free
    assert core.get(container_id).phase is Phase.RUNNING


async def test_auto_remove_after_the_exit_is_announced(core: Running) -> None:
    container_id = await core.run("true", auto_remove=True)
    removed = asyncio.create_task(core.ended(container_id, "removed"))
    await asyncio.sleep(0)
    core.shim(container_id).exit(5)
    assert await removed == 5
    assert not core.records.index.knows(container_id)
    assert await core.actions() == ["create", "start", "die", "destroy"]
    await eventually(lambda: not core.world.instance.container_data(container_id).exists())


async def test_next_exit_of_a_stopped_container_waits_for_the_next_run(core: Running) -> None:
    container_id = await core.create("true")
    waiting = asyncio.create_task(core.ended(container_id, "next-exit"))
    await asyncio.sleep(0)
    assert await core.ended(container_id) == 0, "not-running answers at once"
    await core.core.containers.start(container_id)
    core.shim(container_id).exit(9)
    assert await waiting == 9


async def test_wrong_wait_condition(core: Running) -> None:
    with pytest.raises(InvalidArgument, match='invalid condition: "foo"'):
        await core.ended(await core.create(), "foo")


async def test_reads_do_not_wait_for_a_wedged_container(core: Running) -> None:
    container_id = await core.create("true")
    shim = await core.world.shims.ensure(container_id)
    shim.gates["create"] = asyncio.Event()
    starting = asyncio.create_task(core.core.containers.start(container_id))
    await eventually(lambda: "create" in shim.called)
    assert [each.id for each in await core.core.queries.listed(everything=True, limit=0, filters={})] == [container_id]
    shim.gates["create"].set()
    await starting


# Stop, kill, restart, remove


async def test_stop_signals_then_announces_die_before_stop(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    shim = core.shim(container_id)
    await core.core.containers.stop(container_id, "", None)
    assert shim.signals == [(signal.SIGTERM, False)]
    assert core.get(container_id).stopped_by_user
    assert await core.actions() == ["create", "start", "kill", "die", "stop"]


async def test_stop_uses_the_containers_own_signal(core: Running) -> None:
    container_id = await core.run("sleep", "9", stop_signal="SIGQUIT")
    shim = core.shim(container_id)
    await core.core.containers.stop(container_id, "", None)
    assert shim.signals == [(signal.SIGQUIT, False)]


async def test_stop_escalates_to_kill(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    shim = core.shim(container_id)
    shim.ignored_signals = {signal.SIGTERM}
    await core.core.containers.stop(container_id, "", 0)
    assert shim.signals == [(signal.SIGTERM, False), (signal.SIGKILL, False)]
    assert core.get(container_id).exit_code == 137


async def test_patient_stop_can_be_overtaken_by_kill(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    core.shim(container_id).ignored_signals = {signal.SIGTERM}
    stopping = asyncio.create_task(core.core.containers.stop(container_id, "", -1))
    await eventually(lambda: bool(core.shim(container_id).signals))
    await core.core.containers.kill(container_id, "KILL")
    await stopping


async def test_stop_goes_on_when_its_client_has_left(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    shim = core.shim(container_id)
    shim.gates["kill"] = asyncio.Event()
    stopping = asyncio.create_task(core.core.containers.stop(container_id, "", 0))
    await eventually(lambda: "kill" in shim.called)
    stopping.cancel()
    shim.gates["kill"].set()
    assert await core.ended(container_id) == 143


async def test_stop_of_a_stopped_container_is_not_modified(core: Running) -> None:
    with pytest.raises(NotModified):
        await core.core.containers.stop(await core.create(), "", None)


async def test_kill_texts(core: Running) -> None:
    container_id = await core.create(name="web")
    with pytest.raises(Conflict) as caught:
        await core.core.containers.kill("web", "")
    assert str(caught.value) == f"Cannot kill container: web: Container {container_id} is not running"
    with pytest.raises(NotFound, match=r"^Cannot kill container: nosuch: No such container: nosuch$"):
        await core.core.containers.kill("nosuch", "")
    await core.core.containers.start("web")
    with pytest.raises(InvalidArgument, match="Invalid signal: FOO"):
        await core.core.containers.kill("web", "FOO")


async def test_other_signals_are_no_manual_stop(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    core.shim(container_id).ignored_signals = {signal.SIGHUP}
    await core.core.containers.kill(container_id, "HUP")
    assert core.shim(container_id).signals == [(signal.SIGHUP, False)]
    assert not core.get(container_id).stopped_by_user
    assert core.get(container_id).phase is Phase.RUNNING


async def test_restart_is_stop_and_start_without_policy_or_removal(core: Running) -> None:
    container_id = await core.run("sleep", "9", auto_remove=True)
    first = core.get(container_id).pid
    await core.core.containers.restart(container_id, "", None)
    assert core.get(container_id).phase is Phase.RUNNING
    assert core.get(container_id).pid != first
    assert await core.actions() == ["create", "start", "kill", "die", "stop", "start", "restart"]


async def test_what_only_looks_is_announced_too(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    await core.core.containers.stdio(container_id)
    await core.core.containers.stdio(container_id, attach=True)
    await core.core.containers.resize(container_id, 3, 4)

    async def announced() -> bool:
        return await core.actions() == ["create", "start", "attach", "resize"]

    await eventually(announced)  # who only follows the log is not


async def test_a_log_is_followed_where_a_container_runs_and_nowhere_else(core: Running) -> None:
    """A shim for one that has ended meanwhile would never say that the log is complete."""
    paused, ended = [await core.run("sleep", "9") for _ in range(2)]
    await core.core.containers.pause(paused)
    assert (await core.core.containers.stdio(paused)).container.phase is Phase.PAUSED
    core.shim(ended).exit(0)
    await core.ended(ended)
    await core.settled(ended)
    launched = list(core.world.shims.launched)
    with pytest.raises(NotFound, match="is not running"):
        await core.core.containers.stdio(ended)
    assert core.world.shims.launched == launched


async def test_a_log_is_followed_across_a_restart(core: Running) -> None:
    """Who follows asks again: there is no shim until then."""
    container_id = await core.create("false")
    await core.records.commit(Change(update=replace(core.get(container_id), phase=Phase.RESTARTING)))
    with pytest.raises(Unavailable, match="is restarting"):
        await core.core.containers.stdio(container_id)


async def test_forced_removal_wins_over_a_restart_under_way(core: Running) -> None:
    """The end that it brings about is the one that the restart has waited for."""
    container_id = await core.run("sleep", "9")
    shim = core.shim(container_id)
    shim.ignored_signals = {signal.SIGTERM}
    restarting = asyncio.create_task(core.core.containers.restart(container_id, "", -1))
    await eventually(lambda: shim.signals != [])
    await core.core.containers.remove(container_id, force=True, volumes=False)
    with pytest.raises((Conflict, NotFound)):
        await restarting
    with pytest.raises(NotFound):
        core.get(container_id)


async def test_forced_removal_takes_one_whose_start_was_under_way(core: Running) -> None:
    """It does not run yet when the removal comes, and runs when that has its turn."""
    container_id = await core.create("sleep", "9")
    shim = await core.world.shims.ensure(container_id)
    gate = shim.gates["create"] = asyncio.Event()
    starting = asyncio.create_task(core.core.containers.start(container_id))
    actors = core.core.containers.actors
    await eventually(lambda: ("start", RUNNING) in [(each.name, each.phase) for each in actors.in_flight])
    removing = asyncio.create_task(core.core.containers.remove(container_id, force=True, volumes=False))
    await eventually(lambda: QUEUED in [each.phase for each in actors.in_flight])
    gate.set()
    await starting
    await removing
    assert not core.records.index.knows(container_id)


async def test_remove_of_a_running_container(core: Running) -> None:
    container_id = await core.run("sleep", "9", name="web")
    with pytest.raises(Conflict, match=f"You cannot remove a running container {container_id}. Stop the container"):
        await core.core.containers.remove("web", force=False, volumes=False)
    await core.core.containers.remove("web", force=True, volumes=False)
    assert not core.records.index.knows(container_id)
    assert await core.actions() == ["create", "start", "kill", "die", "destroy"]
    assert await core.create(name="web")


async def test_force_remove_of_one_that_removes_itself(core: Running) -> None:
    container_id = await core.run("sleep", "9", auto_remove=True)
    await core.core.containers.remove(container_id, force=True, volumes=False)
    assert not core.records.index.knows(container_id)
    assert (await core.actions()).count("destroy") == 1


async def test_remains_that_cannot_be_ended_make_it_dead_and_removal_can_be_repeated(core: Running) -> None:
    container_id = await core.create()
    core.world.shims.discard_failure = Internal("cannot remove cgroup: busy")
    with pytest.raises(Internal):
        await core.core.containers.remove(container_id, force=False, volumes=False)
    assert core.get(container_id).phase is Phase.DEAD
    core.world.shims.discard_failure = None
    await core.core.containers.remove(container_id, force=False, volumes=False)
    assert not core.records.index.knows(container_id)


async def test_pause_and_unpause(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    await core.core.containers.pause(container_id)
    assert core.get(container_id).phase is Phase.PAUSED
    with pytest.raises(Conflict, match="is already paused"):
        await core.core.containers.pause(container_id)
    with pytest.raises(Conflict, match="cannot start a paused container, try unpause instead"):
        await core.core.containers.start(container_id)
    await core.core.containers.unpause(container_id)
    with pytest.raises(Internal, match=f"Container {container_id} is not paused"):
        await core.core.containers.unpause(container_id)
    assert await core.actions() == ["create", "start", "pause", "unpause"]


@pytest.mark.parametrize("paused", [False, True])
async def test_a_pause_that_a_shim_did_too_late_is_taken_back(
    core: Running, monkeypatch: pytest.MonkeyPatch, paused: bool
) -> None:
    monkeypatch.setattr(stopping, "SETTLE_SECONDS", 0.01)
    container_id = await core.run("sleep", "9")
    shim, change = core.shim(container_id), core.core.containers.pause
    if paused:
        await change(container_id)
        change = core.core.containers.unpause
    before = core.get(container_id).phase
    shim.failures.update(dict.fromkeys(("pause", "resume", "state"), DeadlineExceeded("no answer within 10 s")))
    with pytest.raises(DeadlineExceeded):
        await change(container_id)
    shim.phase = "running" if paused else "paused"
    shim.failures.clear()
    await eventually(lambda: shim.phase == ("paused" if paused else "running"))
    assert core.get(container_id).phase is before


async def test_a_create_that_is_given_up_as_it_is_committed_leaves_all_of_it(core: Running) -> None:
    disk = threading.Event()
    database = core.records._database
    standing = asyncio.create_task(database.read(lambda _: disk.wait(60)))
    await eventually(database._turn.locked)
    spec = ContainerSpec(
        image="busybox", network_mode="none", mounts=(Mount(type="volume", source="kept", target="/k"),)
    )
    creating = asyncio.create_task(core.core.containers.creation.create("web", spec))
    await eventually(lambda: len(database._waiting) == 1)
    creating.cancel()
    asyncio.get_running_loop().call_later(0.01, disk.set)
    with pytest.raises(asyncio.CancelledError):
        await creating
    await standing
    found = core.records.index.find("web")
    assert core.world.instance.container_data(found.id).exists()
    assert (core.world.snapshots.root / found.id).exists()
    assert core.records.volumes.keys() == {"kept"}
    assert core.core.volumes.places.names() == ["kept"]


async def test_a_create_that_is_given_up_while_a_disk_stands_still_does_not_wait_for_it_and_leaves_no_record(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, reached, disk = FakeSnapshots.make, asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def standing(self: FakeSnapshots, container_id: str, dirs: Dirs) -> None:
        loop.call_soon_threadsafe(reached.set)
        disk.wait(60)
        made(self, container_id, dirs)

    monkeypatch.setattr(FakeSnapshots, "make", standing)
    spec = ContainerSpec(image="busybox", network_mode="none")
    creating = asyncio.create_task(core.core.containers.creation.create("web", spec))
    await reached.wait()
    creating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creating
    assert not core.records.index.is_reserved("web")
    disk.set()
    monkeypatch.undo()
    await core.create(name="web")
    assert [each.name for each in core.records.index] == ["web"]
    assert await core.actions() == ["create"]


async def test_rename(core: Running) -> None:
    container_id = await core.create(name="old")
    await core.create(name="taken")
    with pytest.raises(InvalidArgument, match="Neither old nor new names may be empty"):
        await core.core.containers.rename("old", "")
    with pytest.raises(InvalidArgument, match="same name as its current name"):
        await core.core.containers.rename("old", "/old")
    with pytest.raises(Conflict, match='The container name "/taken" is already in use'):
        await core.core.containers.rename("old", "taken")
    await core.core.containers.rename("old", "new")
    assert core.records.index.find("new").id == container_id
    assert not core.records.index.is_reserved("old")
    renamed = [event for event in await core.journal() if event.action == "rename"]
    assert renamed[0].attributes["oldName"] == "/old"


async def test_a_rename_that_is_given_up_as_it_is_committed_leaves_the_new_name(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    container_id = await core.create(name="old")
    commit = core.records.commit

    async def late(*args: Any, **options: Any) -> None:
        await commit(*args, **options)
        raise DeadlineExceeded("it took longer than 30 s")

    monkeypatch.setattr(core.records, "commit", late)
    with pytest.raises(DeadlineExceeded):
        await core.core.containers.rename("old", "new")
    assert core.records.index.find("new").id == container_id
    assert not core.records.index.is_reserved("old")


async def test_full_disk_does_not_keep_a_container_from_being_stopped(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is recorded when there is room again; the restart policy knows that a user wanted it."""
    container_id = await core.run("sleep", "9", restart_policy=RestartPolicy(name="always"))
    shim = core.shim(container_id)
    full = ResourceExhausted("cannot write records: no space left on device")
    commit = AsyncMock(side_effect=[full, full, full])
    monkeypatch.setattr(core.records, "commit", commit)
    stopping = asyncio.create_task(core.core.containers.stop(container_id, "", None))
    await eventually(lambda: commit.await_count >= 2)
    assert shim.signals == [(signal.SIGTERM, False)]
    monkeypatch.undo()
    await stopping
    assert core.get(container_id).phase is Phase.EXITED


async def test_disk_that_stands_still_does_not_keep_a_container_from_being_killed(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was that ended it is on record when the disk goes on."""
    container_id = await core.run("sleep", "9", restart_policy=RestartPolicy(name="always"))
    thaws, commit = asyncio.Event(), core.records.commit

    async def commit_late(*args: Any, **options: Any) -> None:
        await thaws.wait()
        await commit(*args, **options)

    monkeypatch.setattr(core.records, "commit", commit_late)
    monkeypatch.setattr(stopping, "MARK_SECONDS", 0.01)
    killing = asyncio.create_task(core.core.containers.kill(container_id, "KILL"))
    shim = core.shim(container_id)
    await eventually(lambda: shim.signals == [(signal.SIGKILL, False)])
    thaws.set()
    await killing
    await eventually(lambda: core.get(container_id).phase is Phase.EXITED)
    assert core.get(container_id).stopped_by_user
    assert [each.action for each in await core.journal() if each.action in ("kill", "die")] == ["kill", "die"]


async def test_signals_wait_for_a_disk_that_stands_still_once_and_not_each_by_itself(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a stop's KILL would come later than its user has said."""
    container_id, other_id = await core.run("sleep", "9"), await core.run("sleep", "9")
    core.shim(container_id).ignored_signals = {signal.SIGUSR1, signal.SIGUSR2}
    thaws, commit = asyncio.Event(), core.records.commit

    async def commit_late(*args: Any, **options: Any) -> None:
        await thaws.wait()
        await commit(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(core.records, "commit", commit_late)
        patch.setattr(stopping, "MARK_SECONDS", 0.01)
        await core.core.containers.kill(container_id, "USR1")
        patch.setattr(stopping, "MARK_SECONDS", 3600.0)
        try:
            async with asyncio.timeout(30):
                await core.core.containers.kill(container_id, "USR2")
                await core.core.containers.kill(other_id, "USR2")
        finally:
            thaws.set()
    assert core.shim(container_id).signals == [(signal.SIGUSR1, False), (signal.SIGUSR2, False)]
    assert core.shim(other_id).signals == [(signal.SIGUSR2, False)]


async def test_nothing_that_stands_in_the_way_keeps_kill_from_a_container(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause whose shim writes to a disk that stands still has the container's turn."""
    container_id, containers = await core.run("sleep", "9"), core.core.containers
    begun, thaws = asyncio.Event(), asyncio.Event()

    async def stands_still() -> None:
        begun.set()
        await thaws.wait()

    monkeypatch.setattr(core.shim(container_id), "pause", stands_still)
    monkeypatch.setattr(stopping, "HURRY_SECONDS", 0.01)
    sent: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    monkeypatch.setattr(stopping, "send_directly", lambda to, number: sent.put_nowait((to.id, number)))
    pausing = asyncio.create_task(containers.pause(container_id))
    await begun.wait()
    ending = asyncio.create_task(containers.kill(container_id, "KILL"))
    assert await asyncio.wait_for(sent.get(), 30) == (container_id, signal.SIGKILL)
    assert not ending.done()
    thaws.set()
    await asyncio.gather(pausing, ending)
    await eventually(lambda: core.get(container_id).phase is Phase.EXITED)


@pytest.mark.parametrize("how", ["kill", "remove"])
async def test_who_ends_a_container_while_the_disk_stands_still_is_told_so(
    core: Running, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    for name in ("MARK_SECONDS", "KILL_SECONDS", "DISK_SECONDS"):
        monkeypatch.setattr(stopping, name, 0.05)
    container_id, containers = await core.run("sleep", "9"), core.core.containers
    disk = threading.Event()
    standing = asyncio.create_task(core.records._database.read(lambda _: disk.wait(60)))
    await asyncio.sleep(0)
    ending = {
        "kill": lambda: containers.kill(container_id, "KILL"),
        "remove": lambda: containers.remove(container_id, force=True, volumes=False),
    }
    try:
        with pytest.raises(Unavailable, match="a disk does not answer"):
            await asyncio.wait_for(ending[how](), 10)
        assert core.world.shims.discarded == []
    finally:
        disk.set()
        await standing
    await eventually(lambda: core.get(container_id).phase is Phase.EXITED)


async def test_file_server_that_is_away_holds_up_only_who_binds_it(
    core: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: threads that others want are not theirs to wait in."""
    comes_back, ensure = threading.Event(), bundles.ensure_bind_source

    def ensure_late(mount: Mount, owner: tuple[int, int] | None = None) -> None:
        if mount.source == "/away":
            comes_back.wait(30)
            raise Internal("cannot look: Host is down")
        ensure(mount, owner)

    monkeypatch.setattr(bundles, "ensure_bind_source", ensure_late)
    away = Mount(type="bind", source="/away", target="/data", create_source=True)
    ids = [await core.create("true", mounts=(away,)) for _ in range(40)]
    held: list[asyncio.Task[Any]] = [asyncio.create_task(core.core.containers.start(each)) for each in ids]
    held += [asyncio.create_task(core.create("true", mounts=(replace(away, create_source=False),))) for _ in range(40)]
    try:
        async with asyncio.timeout(10):
            other = await core.run("sleep", "9")
            await asyncio.to_thread(int)
    finally:
        comes_back.set()
        refused = await asyncio.gather(*held, return_exceptions=True)
    assert core.get(other).phase is Phase.RUNNING
    assert {type(each) for each in refused} == {Internal}


async def test_silent_shim_is_ended_with_its_container_by_a_forced_removal(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    core.shim(container_id).failures["kill"] = DeadlineExceeded("no answer within 5 s")
    await core.core.containers.remove(container_id, force=True, volumes=False)
    assert not core.records.index.knows(container_id)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "99"]) as child:
        yield child
        child.kill()


async def test_process_is_signalled_directly_when_its_shim_is_dead(
    core: Running, sleeper: subprocess.Popen[bytes]
) -> None:
    """`docker kill` needs neither shim nor supervisor."""
    core.world.shims.real_process = (sleeper.pid, process.start_time(sleeper.pid) or 0)
    container_id = await core.run("sleep", "99")
    core.world.shims.supervisor_away = True
    core.shim(container_id).die()
    await core.core.containers.kill(container_id, "USR1")
    assert await asyncio.to_thread(sleeper.wait, 10) == -signal.SIGUSR1


async def test_out_of_memory_is_announced(core: Running) -> None:
    container_id = await core.run("sleep", "9")
    shim = core.shim(container_id)
    shim.exit(137)
    shim.ended = Exit(code=137, at=shim.ended.at if shim.ended else 0, oom_killed=True)
    await core.ended(container_id)
    assert core.get(container_id).oom_killed
    assert await core.actions() == ["create", "start", "oom", "die"]


async def test_failed_removal_is_told_to_who_waits_for_it(core: Running) -> None:
    container_id = await core.run("true", auto_remove=True)
    answers = core.core.containers.wait(container_id, "removed")
    assert await anext(answers) is None
    core.world.shims.discard_failure = Internal("cannot remove cgroup: busy")
    core.shim(container_id).exit(0)
    ended = await anext(answers)
    assert ended is not None and "busy" in ended.error
    assert core.get(container_id).phase is Phase.DEAD


# Restart policy


async def test_policy_restarts_with_growing_delays_until_stopped(core: Running) -> None:
    container_id = await core.run("false", restart_policy=RestartPolicy(name="always"))
    first = core.get(container_id).pid
    core.shim(container_id).exit(1)
    await eventually(lambda: core.get(container_id).phase is Phase.RUNNING and core.get(container_id).pid != first)
    again = core.get(container_id)
    assert (again.restart_count, again.restart_delay_ms) == (1, 100)
    await core.core.containers.stop(container_id, "", None)
    assert core.get(container_id).phase is Phase.EXITED


async def test_stop_of_a_restarting_container_cancels_the_restart(core: Running) -> None:
    container_id = await core.run("false", restart_policy=RestartPolicy(name="always"))
    core.shim(container_id).exit(1)
    await eventually(lambda: core.get(container_id).phase is Phase.RESTARTING)
    await core.core.containers.stop(container_id, "", None)
    assert core.get(container_id).phase is Phase.EXITED
    launched = len(core.world.shims.launched)
    await asyncio.sleep(0.15)
    assert len(core.world.shims.launched) == launched


async def _stop(core: Running, container_id: str) -> None:
    await core.core.containers.stop(container_id, "", None)
    assert core.get(container_id).phase is Phase.EXITED


async def _kill(core: Running, container_id: str) -> None:
    await core.core.containers.kill(container_id, "KILL")
    await eventually(lambda: core.get(container_id).phase is Phase.EXITED)


async def _restart(core: Running, container_id: str) -> None:
    first = core.get(container_id).pid
    await core.core.containers.restart(container_id, "", None)
    assert core.get(container_id).phase is Phase.RUNNING
    assert core.get(container_id).pid != first


async def _remove(core: Running, container_id: str) -> None:
    await core.core.containers.remove(container_id, force=True, volumes=False)
    assert not core.records.index.knows(container_id)


@pytest.mark.parametrize("end", [_stop, _kill, _restart, _remove])
async def test_a_restart_that_is_faster_than_its_cancelling(
    core: Running, end: Callable[[Running, str], Coroutine[None, None, None]]
) -> None:
    """It still waits to be restarted, says the record, but its start is under way."""
    container_id = await core.run("false", restart_policy=RestartPolicy(name="always"))
    gate = core.world.shims.gates["create"] = asyncio.Event()
    core.shim(container_id).exit(1)
    actors = core.core.containers.actors
    await eventually(lambda: ("restart", RUNNING) in [(each.name, each.phase) for each in actors.in_flight])
    assert core.get(container_id).phase is Phase.RESTARTING
    ending = asyncio.create_task(end(core, container_id))
    await eventually(lambda: QUEUED in [each.phase for each in actors.in_flight])
    core.world.shims.gates.clear()
    gate.set()
    await ending


async def test_user_start_forgets_the_policys_history(core: Running) -> None:
    container_id = await core.run("false", restart_policy=RestartPolicy(name="on-failure", maximum_retry_count=1))
    core.shim(container_id).exit(1)
    await eventually(
        lambda: core.get(container_id).restart_count == 1 and core.get(container_id).phase is Phase.RUNNING
    )
    core.shim(container_id).exit(1)
    assert await core.ended(container_id) == 1
    await core.settled(container_id)
    assert core.get(container_id).phase is Phase.EXITED, "one retry was all"
    await core.core.containers.start(container_id)
    assert core.get(container_id).restart_count == 0


async def test_restart_waits_for_a_supervisor_that_is_away(core: Running) -> None:
    container_id = await core.run("false", restart_policy=RestartPolicy(name="always"))
    core.world.shims.supervisor_away = True
    core.shim(container_id).exit(1)
    await eventually(lambda: core.get(container_id).error != "")
    assert core.get(container_id).phase is Phase.RESTARTING
    core.world.shims.supervisor_away = False
    await eventually(lambda: core.get(container_id).phase is Phase.RUNNING)


@pytest.mark.parametrize(
    "lack",
    [
        LaunchFailed("cannot clone: no space left on device", step="clone", errno=errno.ENOSPC),
        ResourceExhausted("cannot write a bundle: no space left on device"),
        Internal("cannot launch the process: its stage died at step mount"),
        LaunchFailed("exec: its stage died", step="exec", errno=errno.ECANCELED),
    ],
)
async def test_restart_waits_for_what_the_machine_lacks(core: Running, lack: BulkheadError) -> None:
    container_id = await core.run("false", restart_policy=RestartPolicy(name="always"))
    core.world.shims.failures["create"] = lack
    core.shim(container_id).exit(1)
    await eventually(lambda: core.get(container_id).error != "")
    assert core.get(container_id).phase is Phase.RESTARTING
    core.world.shims.failures.clear()
    await eventually(lambda: core.get(container_id).phase is Phase.RUNNING)


async def test_a_process_that_is_killed_before_its_program_ends_no_policy(
    core: Running,
) -> None:
    container_id = await core.run("false", restart_policy=RestartPolicy(name="always"))
    core.world.shims.failures["start"] = Conflict("cannot start a container that has stopped")
    core.shim(container_id).exit(1)
    await eventually(lambda: "was ended before its program ran" in core.get(container_id).error)
    assert core.get(container_id).phase is Phase.RESTARTING
    core.world.shims.failures.clear()
    await eventually(lambda: core.get(container_id).phase is Phase.RUNNING)


async def test_a_program_that_is_gone_ends_the_policy(core: Running) -> None:
    container_id = await core.run("false", restart_policy=RestartPolicy(name="always"))
    core.world.shims.failures["create"] = LaunchFailed("exec: no such file", step="execve", errno=2, exit_code=127)
    core.shim(container_id).exit(1)
    await eventually(lambda: core.get(container_id).error != "")
    assert (core.get(container_id).phase, core.get(container_id).exit_code) == (Phase.EXITED, 127)


@pytest.mark.parametrize("alive", [True, False])
async def test_limits_of_a_container_that_is_just_ending(core: Running, alive: bool) -> None:
    """Its group may be gone before its end is on record: then they count from its next start."""

    def refuse(group: str, _limits: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "the kernel has no cpu.shares", group)

    container_id = await core.run("true")
    pid = os.getpid() if alive else 0
    change = replace(core.get(container_id), pid=pid, pid_start_time=process.start_time(os.getpid()) or 0)
    await core.records.commit(Change(update=change))
    updating = replace(core.core.updating, limit=refuse)
    with pytest.raises(Internal, match="Cannot update") if alive else contextlib.nullcontext():
        await updating.update(container_id, Update(resources=Resources(cpu_shares=512)))
    assert core.get(container_id).spec.resources.cpu_shares == (0 if alive else 512)
