from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import Conflict, InvalidArgument, NotFound
from bulkhead.wire.gen.bulkhead.shim import v1 as wire
from tests.integration.shim.conftest import Launch
from tests.integration.shim.harness import Shim, Stream, children, descriptors, script, until


@pytest.fixture
async def shim(launch: Launch) -> AsyncIterator[Shim]:
    async with launch(script("sleep 60")) as shim:
        await shim.create()
        await shim.client.start()
        yield shim


async def register(shim: Shim, exec_id: str, text: str, **options: Any) -> None:
    terminal = options.pop("terminal", False)
    process = {"args": ["/bin/sh", "-c", text], "terminal": terminal, "cwd": "/"}
    await shim.client.exec_create(
        wire.ExecCreateRequest(exec_id=exec_id, process=json.dumps(process).encode(), **options)
    )


async def dial(shim: Shim, exec_id: str, **wish: Any) -> Stream:
    return await shim.dial(**{"op": "exec", "exec_id": exec_id, "stdin": True, "stdout": True, "stderr": True} | wish)


async def test_an_attached_exec(shim: Shim) -> None:
    await register(shim, "e", "cat; echo err >&2; exit 5", open_stdin=True)
    assert (await shim.client.exec_state("e")).phase == "created"
    stream = await dial(shim, "e")
    assert stream.answer == {"ok": True, "tty": False}
    stream.writer.write(b"input\n")
    stream.writer.write_eof()
    assert await stream.output() == {1: b"input\n", 2: b"err\n"}
    assert (await shim.client.wait("e", timeout=20)).exit_code == 5
    state = await shim.client.exec_state("e")
    assert (state.phase, state.exit_code) == ("exited", 5)
    assert not shim.log.read_bytes(), "an exec's output is not the container's log"


async def test_a_detached_exec(shim: Shim, tmp_path: Path) -> None:
    await register(shim, "e", f"readlink /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2 > {tmp_path}/fds; exit 3")
    answer = await shim.client.exec_start("e")
    assert answer.failure is None
    assert answer.pid > 0
    assert (await shim.client.wait("e", timeout=20)).exit_code == 3
    assert (tmp_path / "fds").read_text().split() == ["/dev/null", str(tmp_path / "fds"), "/dev/null"]


async def test_an_exec_with_a_terminal(shim: Shim) -> None:
    await register(shim, "e", "stty size; read x; stty size", open_stdin=True, terminal=True, height=11, width=22)
    stream = await dial(shim, "e")
    assert stream.answer["tty"] is True
    assert await stream.until(b"\r\n") == b"11 22\r\n"
    await shim.client.resize_pty(33, 44, exec_id="e")
    stream.writer.write(b"\n")
    assert (await stream.everything()).endswith(b"33 44\r\n")


async def test_an_exec_that_cannot_run_says_so_in_its_stream(shim: Shim) -> None:
    # As Docker does: the hijacked stream is open by then, so the text is its output.
    await shim.client.exec_create(wire.ExecCreateRequest(exec_id="e", process=b'{"args":["/nosuch"]}'))
    stream = await dial(shim, "e")
    assert stream.answer["ok"] is True
    assert (await stream.output())[1] == b'exec: "/nosuch": no such file or directory\r\n'
    state = await shim.client.exec_state("e")
    assert (state.phase, state.exit_code) == ("exited", 127)
    assert (await shim.client.wait("e", timeout=20)).exit_code == 127


async def test_a_detached_exec_that_cannot_run_is_a_failure(shim: Shim) -> None:
    await shim.client.exec_create(wire.ExecCreateRequest(exec_id="e", process=b'{"args":["/etc"]}'))
    failure = (await shim.client.exec_start("e")).failure
    assert failure is not None
    assert failure.exit_code == 126
    assert (await shim.client.exec_state("e")).exit_code == 126


async def test_an_exec_runs_once(shim: Shim) -> None:
    await register(shim, "e", "read x", open_stdin=True)
    stream = await dial(shim, "e")
    with pytest.raises(Conflict, match="Error: Exec command e is already running"):
        await shim.client.exec_start("e")
    assert (await shim.client.state()).exec_ids == ["e"]
    stream.writer.write_eof()
    await stream.everything()
    await shim.client.wait("e", timeout=20)
    again = await dial(shim, "e")
    assert (again.answer["ok"], again.answer["kind"]) == (False, "Conflict")
    assert again.answer["error"] == "Error: Exec command e has already run"
    assert (await shim.client.state()).exec_ids == []


async def test_bad_execs_are_refused(shim: Shim) -> None:
    for exec_id, process in (("", b'{"args":["x"]}'), ("e", b"{"), ("e", b"[]"), ("e", b'{"args":[]}'), ("e", b"{}")):
        with pytest.raises(InvalidArgument):
            await shim.client.exec_create(wire.ExecCreateRequest(exec_id=exec_id, process=process))
    with pytest.raises(NotFound, match="No such exec instance: e"):
        await shim.client.exec_start("e")
    await register(shim, "e", "true")
    with pytest.raises(Conflict, match="not running"):
        await shim.client.kill(9, exec_id="e")


async def test_an_exec_that_was_never_started_is_replaced(shim: Shim) -> None:
    """As by a manager whose predecessor died before anybody dialled."""
    await register(shim, "e", "exit 1")
    waiting = asyncio.create_task(shim.client.wait("e", timeout=20))
    await asyncio.sleep(0)
    await register(shim, "e", "read x; exit 2", open_stdin=True)
    stream = await dial(shim, "e")
    # Once it runs, or has run, it is the only one of its name.
    with pytest.raises(Conflict, match="cannot create exec e: it exists"):
        await register(shim, "e", "exit 3")
    stream.writer.write_eof()
    await stream.everything()
    # Who waited for the first hears of the second.
    assert (await waiting).exit_code == (await shim.client.wait("e", timeout=20)).exit_code == 2
    with pytest.raises(Conflict, match="cannot create exec e: it exists"):
        await register(shim, "e", "exit 3")


async def test_who_waits_for_the_beginning_hears_of_it(shim: Shim) -> None:
    """A manager that comes after the one which has registered an exec would not know that its client dials."""
    for exec_id in ("e", "never"):
        await register(shim, exec_id, "read line; exit 4", open_stdin=True)
    begun, never = (asyncio.create_task(shim.client.begun(exec_id)) for exec_id in ("e", "never"))
    await shim.client.state()
    assert not begun.done()
    stream = await dial(shim, "e")
    await begun
    await shim.client.begun("e")
    stream.writer.write(b"\n")
    assert (await shim.client.wait("e", timeout=20)).exit_code == 4
    await shim.client.begun("e")
    assert not never.done()
    never.cancel()


async def test_who_waits_for_a_beginning_that_fails_hears_of_it(shim: Shim) -> None:
    await shim.client.exec_create(wire.ExecCreateRequest(exec_id="e", process=b'{"args": ["/nosuch"], "cwd": "/"}'))
    begun = asyncio.create_task(shim.client.begun("e"))
    await shim.client.state()
    await shim.client.exec_start("e")
    await begun
    assert (await shim.client.exec_state("e")).phase == "exited"


async def test_who_registers_may_wait_for_the_end(shim: Shim) -> None:
    """One answer for a brief exec: when it began and how it ended."""
    text = b'{"args": ["/bin/sh", "-c", "exit 4"], "cwd": "/"}'
    request = wire.ExecCreateRequest(exec_id="e", process=text, lasting=True)
    registering = asyncio.create_task(shim.client.exec_create(request))
    await shim.client.state()
    assert not registering.done()
    before = time.time_ns()
    await (await dial(shim, "e")).output()
    told = await registering
    if told.exited_at:
        assert told.exit_code == 4
    assert before <= told.began_at <= time.time_ns()


async def test_who_registers_is_told_of_one_that_lasts(shim: Shim) -> None:
    text = b'{"args": ["/bin/sh", "-c", "read line"], "cwd": "/"}'
    request = wire.ExecCreateRequest(exec_id="e", process=text, open_stdin=True, lasting=True)
    registering = asyncio.create_task(shim.client.exec_create(request))
    await shim.client.state()
    stream = await dial(shim, "e")
    told = await registering
    assert told.began_at > 0
    assert told.exited_at == 0
    stream.writer.write(b"\n")
    assert (await shim.client.wait("e", timeout=20)).exited_at > 0


async def test_who_registers_what_is_forgotten_is_told(shim: Shim) -> None:
    request = wire.ExecCreateRequest(exec_id="e", process=b'{"args": ["true"], "cwd": "/"}', lasting=True)
    registering = asyncio.create_task(shim.client.exec_create(request, timeout=None))
    await shim.client.state()
    for number in range(1024):
        await register(shim, f"other{number}", "true")
    with pytest.raises(Conflict, match="before it ran"):
        await registering


async def test_execs_need_a_running_container(launch: Launch) -> None:
    async with launch(script("sleep 60")) as shim:
        with pytest.raises(Conflict, match="is not running"):
            await register(shim, "e", "true")
        await shim.create()
        with pytest.raises(Conflict, match="is not running"):
            await register(shim, "e", "true")
        await shim.client.start()
        await register(shim, "e", "true")
        await shim.client.pause()
        with pytest.raises(Conflict, match="is paused, unpause the container before exec"):
            await shim.client.exec_start("e")
        await shim.client.kill(signal.SIGKILL)
        await shim.client.wait(timeout=20)
        with pytest.raises(Conflict, match="is not running"):
            await shim.client.exec_start("e")


async def test_who_comes_as_the_shim_leaves_is_told_why_he_is_refused(launch: Launch) -> None:
    """He was in time: a hang-up without a word would be the engine's fault."""
    async with launch(script("sleep 60")) as shim:
        await shim.create()
        await shim.client.start()
        await register(shim, "e", "true")
        await shim.client.kill(signal.SIGKILL)
        await shim.client.wait(timeout=20)
        with stopped(shim.pid):
            leaving = asyncio.ensure_future(shim.client.shutdown())
            await asyncio.sleep(0)
            late = [socket.socket(socket.AF_UNIX) for _ in range(3)]
            for client in late:
                client.connect(str(shim.run_dir / "stdio.sock"))
                client.send(b'{"op":"exec","exec_id":"e"}\n')
        await leaving
        for client in late:
            answer = json.loads(client.recv(1 << 16))
            assert (answer["ok"], answer["kind"], "is not running" in answer["error"]) == (False, "Conflict", True)
            client.close()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_an_exec_is_killed_alone(shim: Shim) -> None:
    await register(shim, "e", "sleep 60")
    await shim.client.exec_start("e")
    await shim.client.kill(signal.SIGTERM, exec_id="e")
    assert (await shim.client.wait("e", timeout=20)).exit_code == 143
    assert (await shim.client.state()).phase == "running"


async def test_a_background_child_does_not_hold_an_exec_stream(shim: Shim) -> None:
    await register(shim, "e", "setsid sleep 30 & echo $!")
    stream = await dial(shim, "e")
    output = await asyncio.wait_for(stream.output(), 8)
    os.kill(int(output[1]), signal.SIGKILL)
    assert (await shim.client.exec_state("e")).exit_code == 0


async def test_many_execs_leave_no_descriptor_zombie_or_entry(shim: Shim) -> None:
    # Health probes run for years (ttrpc 241, moby 46957): whatever is kept per exec must have a bound.
    await until(lambda: len(children(shim.pid)) == 1)
    before = len(descriptors(shim.pid))
    for number in range(150):
        await register(shim, f"e{number}", "exit 0")
        await shim.client.exec_start(f"e{number}")
        await shim.client.wait(f"e{number}", timeout=20)
    await until(lambda: len(descriptors(shim.pid)) == before)
    await until(lambda: len(children(shim.pid)) == 1)
    with pytest.raises(NotFound):
        await shim.client.exec_state("e0")
    assert (await shim.client.exec_state("e149")).exit_code == 0


async def test_orphans_are_reaped(shim: Shim) -> None:
    # The shim is their subreaper: what an exec leaves behind must not stay as zombies.
    await register(shim, "e", "(sleep 0.05 &) ; exit 0")
    await shim.client.exec_start("e")
    await shim.client.wait("e", timeout=20)
    await until(lambda: len(children(shim.pid)) == 1)
