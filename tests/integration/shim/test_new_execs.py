"""Execs that a shim creates for who dials it: of the pattern that the manager gave, and he hears of each."""

from __future__ import annotations

import asyncio
import fcntl
import json
import sys
import termios
from typing import Any, cast

import pytest

from bulkhead.errors import Conflict
from bulkhead.runtime import planned
from bulkhead.shim import new_execs
from bulkhead.wire.gen.bulkhead.shim import v1 as wire
from bulkhead.wire.ttrpc_client import ShimClient, TtrpcClient
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


async def hear(shim: Shim) -> asyncio.Task[wire.NewExecsResponse]:
    """As the manager, who has been heard when this returns."""
    told = ask(shim, pattern(shim))
    await asyncio.sleep(0)
    await shim.client.new_execs(now=True, timeout=10)
    return told


def ask(shim: Shim, text: bytes = b"") -> asyncio.Task[wire.NewExecsResponse]:
    asked = asyncio.create_task(shim.client.new_execs(text, timeout=None))
    asked.add_done_callback(lambda done: done.cancelled() or done.exception())
    return asked


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


async def test_it_runs_and_the_manager_hears_of_it_once(shim: Shim) -> None:
    told = await hear(shim)
    stream = await create(shim, "sh", "-c", 'cat; echo "$0" >&2; exit 3', "an argument\u00e9 ")
    assert stream.answer["ok"]
    assert stream.answer["exec_id"].endswith(CONTAINER_ID[:12])
    await start(shim, stream)
    stream.writer.write(b"typed\n")
    stream.writer.write_eof()
    assert await stream.output() == {1: b"typed\n", 2: "an argument\u00e9 \n".encode()}
    (known,) = (await told).execs
    while not known.exited_at:  # a machine that is busy makes it a long one
        (known,) = (await shim.client.new_execs(timeout=20)).execs
    record = json.loads(known.record)
    assert (record["id"], record["container_id"]) == (stream.answer["exec_id"], CONTAINER_ID)
    assert record["spec"]["command"][0] == "sh"
    assert record["created_at"] <= known.began_at <= known.exited_at
    assert known.exit_code == 3
    assert (await shim.client.new_execs(now=True, timeout=10)).execs == []


async def test_one_that_is_not_started_is_told_of_and_so_is_what_becomes_of_it(shim: Shim) -> None:
    told = await hear(shim)
    stream = await create(shim, "sleep", "60")
    (known,) = (await told).execs
    assert (known.began_at, known.exited_at) == (0, 0)
    told = ask(shim)
    await start(shim, stream)
    (known,) = (await told).execs
    assert known.began_at > 0
    assert known.exited_at == 0


async def test_it_may_be_started_by_another_connection(shim: Shim) -> None:
    await hear(shim)
    stream = await create(shim, "echo", "hello")
    stream.writer.close()
    other = await shim.dial(op="start", exec_id=stream.answer["exec_id"], height=0, width=0)
    assert await other.output() == {1: b"hello\n", 2: b""}


async def test_without_a_manager_there_is_nobody_to_keep_the_record(shim: Shim) -> None:
    assert (await create(shim, "true")).answer["kind"] == "Conflict"
    async with TtrpcClient(shim.run_dir / "shim.sock") as connection:
        told = asyncio.create_task(ShimClient(connection).new_execs(pattern(shim), timeout=None))
        await asyncio.sleep(0)
        await ShimClient(connection).new_execs(now=True, timeout=10)
        assert (await create(shim, "true")).answer["ok"]
        await told
    await eventually(lambda: is_refused(shim))


async def is_refused(shim: Shim) -> bool:
    return not (await create(shim, "true")).answer["ok"]


async def test_a_second_manager_takes_the_place_of_the_first(shim: Shim) -> None:
    told = await hear(shim)
    other = ask(shim)
    with pytest.raises(Conflict):
        await told
    await create(shim, "true")
    assert len((await other).execs) == 1


async def test_a_manager_who_does_not_ask_again_hears_of_no_more(shim: Shim) -> None:
    told = await hear(shim)
    answers = [(await create(shim, "true")).answer]
    await told
    while answers[-1]["ok"]:
        answers.append((await create(shim, "true")).answer)
    assert len(answers) == new_execs._MOST_UNTOLD + 2
    assert answers[-1]["kind"] == "ResourceExhausted"
    assert len((await shim.client.new_execs(timeout=10)).execs) == new_execs._MOST_UNTOLD


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
async def test_what_is_more_than_a_command_is_refused(shim: Shim, more: dict[str, Any]) -> None:
    await hear(shim)
    answer = (await shim.dial(op="new", container=CONTAINER_ID, spec={**spec("true"), **more})).answer
    assert answer["kind"] in ("InvalidArgument", "Conflict")
    assert (await create(shim, "true")).answer["ok"]


async def test_another_container_and_a_paused_one_are_refused(shim: Shim) -> None:
    await hear(shim)
    assert (await shim.dial(op="new", container="f" * 64, spec=spec("true"))).answer["kind"] == "Conflict"
    await shim.client.pause()
    assert "paused" in (await create(shim, "true")).answer["error"]
    await shim.client.resume()
    assert (await create(shim, "true")).answer["ok"]


async def test_a_pattern_of_another_version_is_none(shim: Shim) -> None:
    strange = pattern(shim).replace(b'"version": [1', b'"version": [9')
    told = ask(shim, strange)
    await asyncio.sleep(0)
    await shim.client.new_execs(now=True, timeout=10)
    assert (await create(shim, "true")).answer["kind"] == "Conflict"
    told.cancel()


async def test_what_never_ran_is_told_before_its_containers_end(shim: Shim) -> None:
    told = await hear(shim)
    stream = await create(shim, "true")
    await shim.client.kill(9)
    await shim.client.wait(timeout=20)
    (known,) = (await told).execs
    assert json.loads(known.record)["id"] == stream.answer["exec_id"]
    assert known.began_at == 0


def _waiting(stream: Stream) -> int:
    told = fcntl.ioctl(stream.writer.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4))
    return int.from_bytes(told, sys.byteorder)


async def test_whose_exec_can_start_no_more_is_not_kept_waiting_by_a_shim_that_leaves(shim: Shim) -> None:
    """Who starts it then would not know whether it has begun."""
    told = await hear(shim)
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
    told.cancel()
