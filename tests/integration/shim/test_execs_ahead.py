"""What an exec's process is born with is ready when it starts: it costs the container nothing, and nothing stays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bulkhead.runtime import planned
from bulkhead.wire.gen.bulkhead.shim import v1 as wire
from tests.integration.shim import bundles, real
from tests.integration.shim.harness import Nursery, Shim, children, descriptors, proc, until

pytestmark = real.pytestmark
# What is made ahead is kept for a second, which a busy machine takes before a test has seen it.
real_nursery, root, launch, shim = real.patient_nursery, real.root, real.launch, real.shim
hasty_nursery = real.real_nursery
MOST = 4


async def create(shim: Shim, *args: str, exec_id: str = "e", terminal: bool = False, **options: Any) -> None:
    """As the manager does, which works out what the process comes to."""
    process = bundles.process(*args, terminal=terminal)
    config = json.loads((shim.data_dir / "config.json").read_text())
    worked_out = planned.further_process(config, process)
    assert worked_out is not None
    request = wire.ExecCreateRequest(
        exec_id=exec_id, process=json.dumps(process).encode(), planned=worked_out.pack(), **options
    )
    await shim.client.exec_create(request)


def plans(shim: Shim) -> int:
    """How many processes are ready to be born."""
    return sum("bulkhead-plan" in name for name in descriptors(shim.pid))


async def ready(shim: Shim) -> None:
    await until(lambda: plans(shim) == 1)


async def run(shim: Shim, exec_id: str = "e", **wish: Any) -> dict[int, bytes]:
    stream = await shim.dial(**{"op": "exec", "exec_id": exec_id, "stdin": True, "stdout": True, "stderr": True} | wish)
    stream.writer.write(b"typed\n")
    stream.writer.write_eof()
    said = await stream.output()
    stream.writer.close()
    return said


async def test_it_becomes_the_exec_and_nothing_of_it_stays(shim: Shim) -> None:
    before = os.listdir(f"/proc/{shim.pid}/fd")  # noqa: PTH208
    await create(shim, "sh", "-c", "cat; ls /proc/self/fd; echo err >&2; exit 4", open_stdin=True)
    await ready(shim)
    assert len(children(shim.pid)) == 1, "no process is there yet"
    assert await run(shim) == {1: b"typed\n0\n1\n2\n3\n", 2: b"err\n"}
    assert (await shim.client.wait("e", timeout=20)).exit_code == 4
    await until(lambda: os.listdir(f"/proc/{shim.pid}/fd") == before)  # noqa: PTH208


async def test_it_gets_a_terminal(shim: Shim) -> None:
    await create(shim, "readlink", "/proc/self/fd/0", terminal=True)
    await ready(shim)
    stream = await shim.dial(op="exec", exec_id="e", stdin=True, stdout=True, stderr=True)
    assert await stream.everything() == b"/dev/pts/0\r\n"


async def test_streams_that_nobody_wants_are_the_containers_null(shim: Shim) -> None:
    await create(shim, "sh", "-c", "for n in 0 2; do stat -c %d:%t /proc/self/fd/$n -L; stat -c %d:%t /dev/null; done")
    await ready(shim)
    lines = (await run(shim, stdin=False, stderr=False))[1].split()
    assert lines == [lines[1]] * 4, "not a null device of the host's"


def named(shim: Shim, name: str) -> list[int]:
    """Its children of that name; what has launched one may be reaped meanwhile."""
    found = []
    for pid in children(shim.pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if proc(pid, "comm").strip() == name:
                found.append(pid)
    return found


async def test_it_is_in_every_group(shim: Shim) -> None:
    await create(shim, "cat", open_stdin=True)
    await ready(shim)
    container = (await shim.client.state()).pid
    stream = await shim.dial(op="exec", exec_id="e", stdin=True, stdout=True, stderr=True)
    await until(lambda: len(named(shim, "cat")) == 1)
    (pid,) = named(shim, "cat")
    assert proc(pid, "cgroup") == proc(container, "cgroup")
    stream.writer.write_eof()
    await stream.output()


def install(pid: int, path: str, text: str) -> None:
    """In the container of a process."""
    inside = Path(f"/proc/{pid}/root{path}")
    inside.write_text(text)
    inside.chmod(0o755)


async def test_what_the_container_has_become_meanwhile_counts(shim: Shim) -> None:
    # Nothing inside may have been read or looked up before the start.
    await create(shim, "/tmp/program")
    await ready(shim)
    install((await shim.client.state()).pid, "/tmp/program", "#!/bin/sh\necho fresh\n")
    assert (await run(shim))[1] == b"fresh\n"


async def test_it_goes_when_nobody_starts_the_exec(
    launch: real.Launch, hasty_nursery: Nursery, root: Path, tmp_path: Path
) -> None:
    async with launch(bundles.process("sleep", "60"), spare=hasty_nursery.spare()) as shim:
        await real.begin(shim, root, tmp_path)
        before = os.listdir(f"/proc/{shim.pid}/fd")  # noqa: PTH208
        last = await one_seen(shim)
        await until(lambda: os.listdir(f"/proc/{shim.pid}/fd") == before)  # noqa: PTH208
        assert (await run(shim, last))[1] == b"late\n"


async def one_seen(shim: Shim) -> str:
    """An exec that was seen ready: what is kept for a second only may be gone before a busy machine looks."""
    for exec_id in map(str, range(20)):
        await create(shim, "echo", "late", exec_id=exec_id)
        with contextlib.suppress(TimeoutError):
            await until(lambda: plans(shim) > 0, timeout=1)
            return exec_id
    raise AssertionError("nothing was made ahead")


async def test_it_is_there_for_a_few_execs_only(shim: Shim) -> None:
    for number in range(20):
        await create(shim, "echo", str(number), exec_id=f"e{number}")
    await shim.client.exec_state("e19")
    assert plans(shim) == MOST
    for number in (19, 3, 17):
        assert (await run(shim, f"e{number}"))[1] == f"{number}\n".encode()


async def test_one_that_is_created_again_runs_as_it_was_last(shim: Shim) -> None:
    await create(shim, "echo", "old")
    await ready(shim)
    await create(shim, "echo", "new")
    await shim.client.exec_state("e")
    assert plans(shim) == 1
    assert (await run(shim))[1] == b"new\n"


async def test_it_goes_before_the_containers_end_is_told(shim: Shim) -> None:
    await create(shim, "true")
    await ready(shim)
    await shim.client.kill(signal.SIGKILL)
    assert (await shim.client.wait(timeout=20)).exit_code == 137
    assert plans(shim) == 0


async def test_a_container_can_be_paused_meanwhile(shim: Shim) -> None:
    await create(shim, "echo", "on")
    await ready(shim)
    await shim.client.pause()
    stream = await shim.dial(op="exec", exec_id="e", stdout=True)
    assert not stream.answer["ok"]
    await shim.client.resume()
    assert (await run(shim))[1] == b"on\n"


async def test_a_program_that_is_not_there_is_told_in_the_stream(shim: Shim) -> None:
    await create(shim, "/nowhere")
    await ready(shim)
    assert b"no such file or directory" in (await run(shim))[1]
    assert (await shim.client.wait("e", timeout=20)).exit_code == 127


async def at_rest(shim: Shim) -> list[str]:
    """Its descriptors, without those of clients who have just left."""
    found, before = descriptors(shim.pid), list[str]()
    while found != before:
        await shim.client.state()
        found, before = descriptors(shim.pid), found
    return found


async def test_a_program_that_fails_at_its_very_beginning_is_told_of_in_its_stream(shim: Shim) -> None:
    """Nobody waits for that beginning: its end is looked at."""
    await create(shim, "sh", "-c", "printf '#!/nosuch\\n' > /bad; chmod 755 /bad", exec_id="before")
    await run(shim, "before")
    held = await at_rest(shim)
    await create(shim, "/bad")
    assert (await run(shim))[1] == (
        b"OCI runtime exec failed: exec failed: unable to start container process: "
        b'exec: "/bad": stat /bad: no such file or directory: unknown\r\n'
    )
    assert (await shim.client.wait("e", timeout=20)).exit_code == 127
    await until(lambda: len(children(shim.pid)) == 1)
    await until(lambda: descriptors(shim.pid) == held)


@pytest.mark.parametrize(("script", "code"), [("exit 125", 125), ("exit 127", 127), ("kill -9 $$", 137)])
async def test_a_program_that_ends_like_a_launch_that_fails_has_run(shim: Shim, script: str, code: int) -> None:
    await create(shim, "sh", "-c", f"echo said; {script}")
    assert await run(shim) == {1: b"said\n", 2: b""}
    assert (await shim.client.wait("e", timeout=20)).exit_code == code


async def test_who_asks_for_one_that_has_just_begun_hears_of_its_program(shim: Shim) -> None:
    await create(shim, "sleep", "60")
    await shim.dial(op="exec", exec_id="e", stdin=True, stdout=True, stderr=True)
    found = await shim.client.exec_state("e")
    assert (found.phase, proc(found.pid, "comm")) == ("running", "sleep\n")


async def test_a_pause_does_not_stop_one_on_its_way_to_its_program(shim: Shim) -> None:
    await create(shim, "cat", open_stdin=True)
    stream = await shim.dial(op="exec", exec_id="e", stdin=True, stdout=True, stderr=True)
    await shim.client.pause()
    assert (await shim.client.exec_state("e")).phase == "running"
    await shim.client.resume()
    stream.writer.write(b"typed\n")
    stream.writer.write_eof()
    assert await stream.output() == {1: b"typed\n", 2: b""}


async def test_the_end_of_its_output_is_the_end_of_the_process(shim: Shim) -> None:
    """Who has closed its streams may do so long before it ends, and wakes nobody by that."""
    await create(shim, "sh", "-c", "echo said; exec >&- 2>&-; read line; exit 3", open_stdin=True)
    stream = await shim.dial(op="exec", exec_id="e", stdin=True, stdout=True, stderr=True)
    assert await stream.frame() == (1, b"said\n")
    stream.writer.write(b"typed\n")
    stream.writer.write_eof()
    assert await stream.output() == {1: b"", 2: b""}
    assert (await shim.client.wait("e", timeout=20)).exit_code == 3
