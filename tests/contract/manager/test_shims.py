"""One exam for every `Shims`: the fake that the unit tests use, and real shims under a real supervisor."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bulkhead import failpoints
from bulkhead.ctl.seed import busybox_tree, static_busybox
from bulkhead.errors import BulkheadError, Conflict, LaunchFailed, Unavailable
from bulkhead.manager.adapters.shims import RemoteShim, SupervisedShims
from bulkhead.manager.bundles import Bundles
from bulkhead.manager.config import ManagerConfig
from bulkhead.manager.index import Index
from bulkhead.manager.ports import AskedExec, Bundle, KnownExec, OverlayDirs, Shim, Shims
from bulkhead.manager.sharing import Namespaces
from bulkhead.model.container import Container, ContainerSpec
from bulkhead.model.execs import Exec, ExecSpec
from bulkhead.model.ids import new_id
from bulkhead.model.instance import Instance
from tests.support import leaks
from tests.support.engine import Engine, private_engine
from tests.support.eventually import eventually
from tests.support.fake_shims import FakeShim, FakeShims


@dataclass(slots=True)
class Exam:
    """A `Shims` to be examined, and bundles to feed it with."""

    shims: Shims
    instance: Instance
    rootfs: Path
    places: list[Path] = field(default_factory=list)

    def bundle(self, *command: str) -> tuple[str, Bundle]:
        """A container's id, and the bundle of a run of `command`."""
        container = Container(
            id=new_id(),
            name="x",
            image_id="sha256:1",
            path=command[0],
            args=command[1:],
            spec=ContainerSpec(network_mode="none"),
        )
        index = Index()
        bundles = Bundles(instance=self.instance, config=ManagerConfig(), index=index)
        place = self.instance.data / "snapshots" / "containers" / container.id
        self.places += [place, self.instance.container_data(container.id)]
        for name in ("upper", "work"):
            (place / name).mkdir(parents=True)
        dirs = OverlayDirs(lower=(str(self.rootfs),), upper=str(place / "upper"), work=str(place / "work"))
        return container.id, bundles.write(container, Namespaces(), dirs, {})

    @asynccontextmanager
    async def running(self, *command: str) -> AsyncIterator[tuple[str, Shim]]:
        """A started container."""
        container_id, bundle = self.bundle(*command)
        shim = await self.shims.ensure(container_id)
        created = await shim.create(bundle)
        assert created.pid > 0 and created.start_time > 0
        assert await shim.start() > 0
        try:
            yield container_id, shim
        finally:
            await self.shims.discard(container_id)


@pytest.fixture(scope="module")
def supervised() -> Iterator[Engine]:
    with private_engine() as engine:
        engine.start("supervisor")
        yield engine


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rootfs")
    tree = busybox_tree(static_busybox().read_bytes(), ["sh", "sleep", "true"])
    archive = root / "tree.tar"
    archive.write_bytes(tree.tar())
    assert os.spawnlp(os.P_WAIT, "tar", "tar", "-xf", str(archive), "-C", str(root)) == 0
    archive.unlink()
    return root


@pytest.fixture
async def fake_exam(tmp_path: Path, rootfs: Path) -> AsyncIterator[Exam]:
    instance = Instance(run=tmp_path / "run", data=tmp_path / "data")
    yield Exam(shims=FakeShims(instance), instance=instance, rootfs=rootfs)


@pytest.fixture
def watched(supervised: Engine) -> Iterator[Engine]:
    before = leaks.facts(supervised.instance)
    yield supervised
    left = leaks.left_after(supervised.instance, before)
    assert not left, left


@pytest.fixture
async def real_exam(watched: Engine, rootfs: Path) -> AsyncIterator[Exam]:
    async with SupervisedShims(watched.instance) as shims:
        exam = Exam(shims=shims, instance=watched.instance, rootfs=rootfs)
        yield exam
        for place in exam.places:
            shutil.rmtree(place)


@pytest.fixture(params=["fake", "real"])
def exam(request: pytest.FixtureRequest) -> Any:
    if request.param == "real" and os.geteuid() != 0:
        pytest.skip("makes containers: needs root")
    return request.getfixturevalue(f"{request.param}_exam")


def _end(shim: Shim, code: int) -> None:
    """A real process ends by itself."""
    if isinstance(shim, FakeShim):
        shim.exit(code)


async def test_new_shim_knows_of_nothing(exam: Exam) -> None:
    container_id, _ = exam.bundle("true")
    assert await exam.shims.live(container_id) is None
    shim = await exam.shims.ensure(container_id)
    assert (await shim.state()).phase == "new"
    assert await exam.shims.live(container_id) is not None
    await exam.shims.discard(container_id)
    assert await exam.shims.live(container_id) is None


async def test_ensure_gives_the_same_shim_again(exam: Exam) -> None:
    async with exam.running("sleep", "99") as (container_id, shim):
        pid = (await shim.state()).pid
        await exam.shims.forget(container_id)
        again = await exam.shims.ensure(container_id)
        assert (await again.state()).pid == pid


async def test_exit_code_is_told_to_everybody_and_kept_on_disk(exam: Exam) -> None:
    async with exam.running("sh", "-c", "exit 7") as (container_id, shim):
        waiting = [asyncio.create_task(shim.wait()) for _ in range(2)]
        _end(shim, 7)
        assert [(await each).code for each in waiting] == [7, 7]
        assert (await shim.wait()).code == 7, "also afterwards"
        state = await shim.state()
        assert (state.phase, state.exit_code, state.alive) == ("exited", 7, False)
        assert exam.instance.exit_record(container_id).exists()


async def test_kill(exam: Exam) -> None:
    async with exam.running("sleep", "99") as (_, shim):
        state = await shim.state()
        assert state.alive and state.started_at > 0
        await shim.kill(9)
        assert (await shim.wait()).code == 137
        with pytest.raises(BulkheadError):
            await shim.kill(9)


async def test_pause_and_resume(exam: Exam) -> None:
    async with exam.running("sleep", "99") as (_, shim):
        await shim.pause()
        assert (await shim.state()).phase == "paused"
        await shim.resume()
        assert (await shim.state()).phase == "running"
        assert (await shim.state()).pid in await shim.pids()


async def test_second_create_is_refused(exam: Exam) -> None:
    async with exam.running("sleep", "99") as (_, shim):
        _, other = exam.bundle("true")
        with pytest.raises(Conflict):
            await shim.create(other)


async def test_discard_ends_what_runs_and_twice_is_no_error(exam: Exam) -> None:
    async with exam.running("sleep", "99") as (container_id, shim):
        waiting = asyncio.create_task(shim.wait())
        await asyncio.sleep(0)
        await exam.shims.discard(container_id)
        await exam.shims.discard(container_id)
        result = (await asyncio.gather(waiting, return_exceptions=True))[0]
        assert isinstance(result, Unavailable) or result.code == 137  # type: ignore[union-attr]
        assert await exam.shims.live(container_id) is None


def _asked(exec_id: str, process: dict[str, Any]) -> AskedExec:
    record = Exec(id=exec_id, container_id="c", spec=ExecSpec(command=tuple(process["args"])))
    return AskedExec(record=record, process=process, stdin=False, size=(0, 0))


async def test_exec(exam: Exam) -> None:
    async with exam.running("sleep", "99") as (_, shim):
        process = {
            "args": ["sh", "-c", "exit 5"],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        }
        await shim.create_exec(_asked("e1", process))
        assert await shim.start_exec("e1") > 0
        if isinstance(shim, FakeShim):
            shim.exit_exec("e1", 5)
        assert (await shim.wait("e1")).code == 5
        state = await shim.exec_state("e1")
        assert (state.phase, state.exit_code) == ("exited", 5)


async def test_an_expected_exec(exam: Exam) -> None:
    async with exam.running("sleep", "99") as (_, shim):
        process = {"args": ["sleep", "99"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
        asked = _asked("e1", process)
        expected = shim.expect_exec(asked)
        assert expected.kept
        expecting = asyncio.create_task(expected.told)
        await asyncio.sleep(0)
        assert (await shim.exec_state("e1")).phase == "created"
        assert not expecting.done()
        await shim.start_exec("e1")
        told = await expecting
        assert told is not None
        assert told.began_at > 0
        assert told.exit_code is None
        with pytest.raises(Conflict):
            await shim.expect_exec(asked).told


async def test_a_shim_tells_of_the_execs_that_it_was_asked_to_expect(exam: Exam) -> None:
    """Whoever asks may be another manager than the one who asked for them."""
    async with exam.running("sleep", "99") as (container_id, shim):
        asked = _asked("e1", {"args": ["sleep", "99"], "cwd": "/", "env": [], "user": {"uid": 0, "gid": 0}})
        telling = asyncio.ensure_future(shim.expect_exec(asked).told)
        await exam.shims.forget(container_id)
        again = await exam.shims.live(container_id)
        assert again is not None
        assert (await again.state()).execs == ()
        assert (await again.state(execs=True)).execs == (KnownExec(record=asked.record),)
        telling.cancel()


async def test_what_a_shim_does_not_keep_is_said(real_exam: Exam) -> None:
    """It is of an earlier release, or stands still with its socket full."""
    container_id, bundle = real_exam.bundle("sleep", "99")
    shim = await real_exam.shims.ensure(container_id)
    await shim.create(bundle)
    record = real_exam.instance.container_data(container_id) / "shim.json"
    pid = json.loads(record.read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    asked = [_asked(f"e{number}", {"args": ["true"], "env": ["A=" + "x" * 100_000]}) for number in range(9)]
    expecting = [shim.expect_exec(each) for each in asked]
    os.kill(pid, signal.SIGCONT)
    assert expecting[0].kept
    assert not expecting[-1].kept
    for each in expecting:
        each.told.close()
    before = {name: value for name, value in json.loads(record.read_text()).items() if name != "keeps_execs"}
    record.write_text(json.dumps(before))
    await real_exam.shims.forget(container_id)
    older = await real_exam.shims.live(container_id)
    assert older is not None
    expected = older.expect_exec(_asked("late", {"args": ["true"]}))
    assert not expected.kept
    expected.told.close()
    await real_exam.shims.discard(container_id)


async def test_command_that_is_not_there(real_exam: Exam) -> None:
    container_id, bundle = real_exam.bundle("/nosuch")
    shim = await real_exam.shims.ensure(container_id)
    with pytest.raises(LaunchFailed) as caught:
        await shim.create(bundle)
        await shim.start()
    assert caught.value.exit_code == 127
    await real_exam.shims.discard(container_id)


async def test_container_without_its_shim_is_ended_by_discard(real_exam: Exam) -> None:
    """A shim that was killed leaves process and cgroup: both go."""
    async with real_exam.running("sleep", "99") as (container_id, shim):
        pid = (await shim.state()).pid
        record = real_exam.instance.container_data(container_id) / "shim.json"
        os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)
        await real_exam.shims.discard(container_id)
        await eventually(lambda: not Path(f"/proc/{pid}").exists())


async def test_nothing_is_left_of_a_shim_whose_exit_was_taken(exam: Exam) -> None:
    async with exam.running("sh", "-c", "exit 7") as (container_id, shim):
        _end(shim, 7)
        assert (await shim.take_exit()).code == 7
        await exam.shims.discard(container_id)
        assert await exam.shims.live(container_id) is None
        assert not exam.instance.container_run(container_id).exists()
        assert exam.instance.exit_record(container_id).exists()


async def test_who_asks_a_shim_that_has_left_hears_that_its_container_has_ended(real_exam: Exam) -> None:
    """Not that nobody is there: he who stops or looks at a container that is just ending has done nothing wrong."""
    async with real_exam.running("sh", "-c", "exit 7") as (_, shim):
        assert isinstance(shim, RemoteShim)
        assert (await shim.take_exit()).code == 7
        await asyncio.wait_for(asyncio.shield(shim.client.closed), 20)
        asked = _asked("e", {"args": ["true"]})
        late = (shim.kill(signal.SIGTERM), shim.pause(), shim.resume(), shim.pids(), shim.create_exec(asked))
        for question in (*late, shim.start_exec("e"), shim.resize(1, 1), shim.serve_names()):
            with pytest.raises(Conflict, match="is not running"):
                await question


async def test_who_asks_a_shim_that_was_killed_hears_that_nobody_is_there(real_exam: Exam) -> None:
    async with real_exam.running("sleep", "60") as (container_id, shim):
        assert isinstance(shim, RemoteShim)
        record = real_exam.instance.container_data(container_id) / "shim.json"
        os.kill(json.loads(record.read_text())["pid"], signal.SIGKILL)
        await asyncio.wait_for(asyncio.shield(shim.client.closed), 20)
        with pytest.raises(Unavailable):
            await shim.kill(signal.SIGTERM)


@pytest.mark.parametrize("point", ["shim.leave.begun", "shim.leave.removed", "shim.leave.cleared"])
async def test_what_a_shim_keeps_that_is_killed_on_its_way_out_is_taken_away(real_exam: Exam, point: str) -> None:
    place = real_exam.instance.run / failpoints.DIRECTORY
    place.mkdir(mode=0o700, exist_ok=True)
    (place / failpoints.SET).write_text(f"{point}=kill")
    try:
        async with real_exam.running("sh", "-c", "exit 7") as (container_id, shim):
            (place / failpoints.SET).unlink()
            assert (await shim.take_exit()).code == 7
            await real_exam.shims.discard(container_id)
            data = real_exam.instance.container_data(container_id)
            assert not real_exam.instance.container_run(container_id).exists()
            assert not (data / "shim.json").exists()
            assert json.loads((data / "exit.json").read_text())["exit_code"] == 7
    finally:
        shutil.rmtree(place)
