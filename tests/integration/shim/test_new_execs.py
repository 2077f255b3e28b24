"""Execs that a shim creates for who dials it: of the pattern that the manager gave, and he hears of each."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import termios
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from bulkhead.errors import Conflict
from bulkhead.manager.adapters.exec_news import ExecNews
from bulkhead.manager.adapters.shims import remove_group
from bulkhead.manager.ports import KnownExec
from bulkhead.runtime import planned
from bulkhead.shim import new_execs
from bulkhead.wire import ended_execs
from bulkhead.wire.gen.bulkhead.shim import v1 as wire
from tests.integration.shim import bundles, real
from tests.integration.shim.harness import CONTAINER_ID, Shim, Stream, alive
from tests.support.eventually import eventually

_MUCH = 128 << 10
pytestmark = real.pytestmark
real_nursery, root, launch, shim = real.real_nursery, real.root, real.launch, real.shim


def pattern(shim: Shim) -> bytes:
    config = json.loads((shim.data_dir / "config.json").read_text())
    found = planned.further_process(config, bundles.process("anything"))
    assert found is not None
    return found.pack()


class Manager:
    """What he hears."""

    def __init__(self, shim: Shim) -> None:
        self._client = shim.client
        self._news = ExecNews(str(shim.run_dir / "stdio.sock"))
        self._news.dial()
        self.bell = self.ask(pattern(shim))

    def ask(self, text: bytes = b"") -> asyncio.Task[wire.NewExecsResponse]:
        asked = asyncio.create_task(self._client.new_execs(text, timeout=None))
        asked.add_done_callback(lambda done: done.cancelled() or done.exception())
        return asked

    def read(self) -> Sequence[KnownExec]:
        return self._news.read()

    def dial_again(self) -> None:
        self._news.renew()

    def leave(self) -> None:
        self._news.close()


@pytest.fixture
async def manager(shim: Shim) -> AsyncIterator[Manager]:
    """Whose pattern and connection the shim has."""
    manager = Manager(shim)
    await eventually(lambda: may_create(shim))
    await manager.bell
    assert len(manager.read()) == 1
    manager.bell = manager.ask()
    yield manager
    manager.leave()


async def may_create(shim: Shim) -> bool:
    return bool((await create(shim, "true")).answer["ok"])


def spec(*command: str, **more: Any) -> dict[str, Any]:
    streams = {"attach_stdin": True, "attach_stdout": True, "attach_stderr": True}
    return {"command": list(command), **streams, **more}


async def create(shim: Shim, *command: str, **more: Any) -> Stream:
    return await shim.dial(op="new", container=CONTAINER_ID, spec=spec(*command, **more))


async def start(shim: Shim, stream: Stream) -> None:
    """On the connection over which it was created."""
    wish = {"op": "start", "exec_id": stream.answer["exec_id"], "height": 0, "width": 0}
    stream.writer.write(json.dumps(wish).encode() + b"\n")
    assert json.loads(await stream.reader.readline()) == {"ok": True, "tty": False}


async def test_it_runs_and_whoever_has_seen_its_end_finds_that_told(shim: Shim, manager: Manager) -> None:
    stream = await create(shim, "sh", "-c", 'cat; echo "$0" >&2; exit 3', "an argument\u00e9 ")
    assert stream.answer["exec_id"].endswith(CONTAINER_ID[:12])
    (known,) = manager.read()
    assert known.record.id == stream.answer["exec_id"]
    assert (known.began_at, known.exited_at) == (0, 0)
    await start(shim, stream)
    stream.writer.write(b"typed\n")
    stream.writer.write_eof()
    assert await stream.output() == {1: b"typed\n", 2: "an argument\u00e9 \n".encode()}
    (known,) = manager.read()
    record = known.record
    assert (record.id, record.container_id) == (stream.answer["exec_id"], CONTAINER_ID)
    assert record.spec.command[0] == "sh"
    assert record.created_at <= known.began_at
    assert known.exited_at >= known.began_at
    assert known.exit_code == 3
    assert not manager.read()


async def test_how_a_brief_one_went_is_left_for_whoever_has_seen_its_end(shim: Shim, manager: Manager) -> None:
    async def is_left() -> bool:
        """Not of one that a busy machine makes a long one."""
        stream = await create(shim, "sh", "-c", "exit 4")
        await start(shim, stream)
        await stream.output()
        manager.read()
        exec_id = stream.answer["exec_id"]
        line = ended_execs.read(str(shim.run_dir), exec_id)
        told: dict[str, Any] = json.loads(line) if line else {}
        return bool(line) and (told["record"]["id"], told["exit_code"]) == (exec_id, 4)

    await eventually(is_left)


async def test_the_end_of_one_that_lasts_is_told_as_well(shim: Shim, manager: Manager) -> None:
    """He may be asleep when it ends, and the shim dead when he asks."""
    stream = await create(shim, "sh", "-c", "read line; exit 4")
    await start(shim, stream)
    exec_id, told = stream.answer["exec_id"], list[KnownExec]()

    def has_begun() -> bool:
        told.extend(manager.read())
        return any(each.began_at for each in told)

    await eventually(has_begun)
    assert not told[-1].exited_at
    stream.writer.write(b"end\n")
    await stream.output()
    assert [(each.record.id, each.exited_at > 0, each.exit_code) for each in manager.read()] == [(exec_id, True, 4)]
    assert json.loads(ended_execs.read(str(shim.run_dir), exec_id))["exit_code"] == 4


async def test_one_that_never_ran_leaves_nothing(shim: Shim, manager: Manager) -> None:
    stream = await create(shim, "true")
    await shim.client.kill(9)
    await shim.client.wait(timeout=20)
    assert ended_execs.read(str(shim.run_dir), stream.answer["exec_id"]) == b""


async def test_he_who_does_not_read_is_rung_for(shim: Shim, manager: Manager) -> None:
    stream = await create(shim, "sleep", "60")
    await manager.bell
    (known,) = manager.read()
    assert (known.began_at, known.exited_at) == (0, 0)
    bell = manager.ask()
    await start(shim, stream)
    await bell
    (known,) = manager.read()
    assert known.began_at > 0
    assert known.exited_at == 0


async def test_what_was_told_can_be_read_when_the_shim_is_dead(shim: Shim, manager: Manager) -> None:
    stream = await create(shim, "true")
    os.kill(shim.pid, signal.SIGKILL)
    await asyncio.wait([shim.client.closed])
    assert [each.record.id for each in manager.read()] == [stream.answer["exec_id"]]
    remove_group(json.loads((shim.data_dir / "config.json").read_text())["linux"]["cgroupsPath"])


async def test_it_may_be_started_by_another_connection(shim: Shim, manager: Manager) -> None:
    stream = await create(shim, "echo", "hello")
    stream.writer.close()
    other = await shim.dial(op="start", exec_id=stream.answer["exec_id"], height=0, width=0)
    assert await other.output() == {1: b"hello\n", 2: b""}


async def test_without_a_manager_there_is_nobody_to_keep_the_record(shim: Shim) -> None:
    assert (await create(shim, "true")).answer["kind"] == "Conflict"
    manager = Manager(shim)
    await eventually(lambda: may_create(shim))
    manager.leave()
    await eventually(lambda: is_refused(shim))


async def test_a_manager_who_dials_and_asks_for_nothing_allows_nothing(shim: Shim) -> None:
    news = ExecNews(str(shim.run_dir / "stdio.sock"))
    news.dial()
    assert (await create(shim, "true")).answer["kind"] == "Conflict"
    news.close()


async def test_a_manager_on_whom_it_has_hung_up_dials_again(shim: Shim, manager: Manager) -> None:
    """When all is read; and as long as there is somebody at the other end he does not."""
    manager.dial_again()
    one = await create(shim, "true")
    usurper = ExecNews(str(shim.run_dir / "stdio.sock"))
    usurper.dial()
    usurper.close()
    await eventually(lambda: is_refused(shim))
    manager.dial_again()
    assert one.answer["exec_id"] in [each.record.id for each in manager.read()]
    manager.dial_again()
    await eventually(lambda: may_create(shim))
    assert len(manager.read()) == 1


async def is_refused(shim: Shim) -> bool:
    return not (await create(shim, "true")).answer["ok"]


async def test_a_second_manager_takes_the_place_of_the_first(shim: Shim, manager: Manager) -> None:
    other = Manager(shim)
    with pytest.raises(Conflict):
        await manager.bell
    assert await created_for(other, shim)
    manager.leave()
    manager.read()
    assert await created_for(other, shim)
    other.leave()


async def created_for(manager: Manager, shim: Shim) -> bool:
    """Whether he is told of a new one, when he has been admitted."""
    await eventually(lambda: may_create(shim))
    found: list[str] = []

    async def is_told() -> bool:
        stream = await create(shim, "true")
        found.extend(each.record.id for each in manager.read())
        return stream.answer["exec_id"] in found

    await eventually(is_told)
    return True


async def test_a_manager_who_does_not_read_hears_of_no_more(shim: Shim, manager: Manager) -> None:
    answers = [(await create(shim, "true")).answer]
    while answers[-1]["ok"]:
        answers.append((await create(shim, "true")).answer)
    # What was created before may count.
    assert new_execs._MOST_UNREAD <= len(answers) <= new_execs._MOST_UNREAD + 1
    assert answers[-1]["kind"] == "ResourceExhausted"
    assert [each.record.id for each in manager.read()] == [each["exec_id"] for each in answers[:-1]]
    assert await may_create(shim)


async def test_of_whom_the_manager_cannot_be_told_is_not_created(shim: Shim, manager: Manager) -> None:
    """Fewer than he may leave unread, each with as long a record as goes."""
    answers = [(await create(shim, "true", "x" * 16_000)).answer]
    while answers[-1]["ok"]:
        answers.append((await create(shim, "true", "x" * 16_000)).answer)
    assert len(answers) <= new_execs._MOST_UNREAD
    assert answers[-1]["kind"] == "ResourceExhausted"
    kept = [json.loads(each.record)["id"] for each in (await shim.client.state(execs=True)).execs]
    told = [each.record.id for each in manager.read()]
    assert told == [each["exec_id"] for each in answers[:-1]]
    assert set(told) <= set(kept)
    assert len(kept) == len(told) + 1  # the fixture's


async def test_an_end_that_finds_no_room_is_told_when_he_has_read(shim: Shim, manager: Manager) -> None:
    streams = [await create(shim, "true", "x" * 16_000)]
    while streams[-1].answer["ok"]:
        streams.append(await create(shim, "true", "x" * 16_000))
    exec_id = streams[0].answer["exec_id"]
    await start(shim, streams[0])
    await streams[0].output()
    told = {each.record.id: each for each in manager.read()}
    assert told[exec_id].began_at == 0
    # Asking again he is told of it, and rung for.
    await manager.bell
    await manager.ask()
    assert [(each.record.id, each.began_at > 0) for each in manager.read()] == [(exec_id, True)]


@pytest.mark.parametrize(
    "more",
    [
        {"user": "nobody"},
        {"env": ["A=1"]},
        {"working_dir": "/"},
        {"privileged": True},
        {"tty": True},
        {"command": []},
        {"command": ["a\0b"]},
        {"command": [1]},
        {"command": "true"},
        {"command": ["x" * 20_000]},
    ],
)
async def test_what_is_more_than_a_command_is_refused(shim: Shim, manager: Manager, more: dict[str, Any]) -> None:
    answer = (await shim.dial(op="new", container=CONTAINER_ID, spec={**spec("true"), **more})).answer
    assert answer["kind"] in ("InvalidArgument", "Conflict")
    assert (await create(shim, "true")).answer["ok"]


async def test_another_container_and_a_paused_one_are_refused(shim: Shim, manager: Manager) -> None:
    assert (await shim.dial(op="new", container="f" * 64, spec=spec("true"))).answer["kind"] == "Conflict"
    await shim.client.pause()
    assert "paused" in (await create(shim, "true")).answer["error"]
    await shim.client.resume()
    assert (await create(shim, "true")).answer["ok"]


async def test_a_pattern_of_another_version_is_none(shim: Shim, manager: Manager) -> None:
    strange = pattern(shim).replace(b'"version": [1', b'"version": [9')
    bell = manager.ask(strange)
    with pytest.raises(Conflict):
        await manager.bell
    assert (await create(shim, "true")).answer["kind"] == "Conflict"
    bell.cancel()


async def test_what_never_ran_is_told_before_its_containers_end(shim: Shim, manager: Manager) -> None:
    stream = await create(shim, "true")
    await shim.client.kill(9)
    await shim.client.wait(timeout=20)
    (known,) = (each for each in manager.read() if each.record.id == stream.answer["exec_id"])
    assert known.began_at == 0


def _waiting(stream: Stream) -> int:
    told = fcntl.ioctl(stream.writer.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
    return int.from_bytes(told, sys.byteorder)


async def test_whose_exec_can_start_no_more_is_not_kept_waiting_by_a_shim_that_leaves(
    shim: Shim, manager: Manager
) -> None:
    """Who starts it then would not know whether it has begun."""
    unread = await create(shim, "head", "-c", "9000000", "/dev/zero")
    await start(shim, unread)
    # The shim stays for what it could not send.
    cast(asyncio.ReadTransport, unread.writer.transport).pause_reading()
    await eventually(lambda: _waiting(unread) > _MUCH)
    stream = await create(shim, "true")
    await shim.client.kill(9)
    await shim.client.wait()
    leaving = asyncio.create_task(shim.client.shutdown())
    assert await asyncio.wait_for(stream.reader.read(), 20) == b""
    assert alive(shim.pid), "it has not only ended"
    unread.close()
    await leaving
