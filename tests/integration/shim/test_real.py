"""The shim on the engine's own runtime core: real namespaces, real cgroups."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from bulkhead.wire.gen.bulkhead.shim import v1 as wire
from tests.integration.shim import bundles, real
from tests.integration.shim.harness import (
    Nursery,
    alive,
    become,
    children,
    connected,
    gone,
    proc,
    until,
    write_config,
)
from tests.integration.shim.real import Launch, overlay

pytestmark = real.pytestmark
real_nursery, root, launch = real.real_nursery, real.root, real.launch


async def test_launch_to_exit(launch: Launch, root: Path, tmp_path: Path) -> None:
    async with launch(bundles.process("sh", "-c", "echo hi; echo err >&2; echo data > /file; exit 3")) as shim:
        stream = await shim.attach()
        assert (await shim.create(rootfs=overlay(root, tmp_path))).failure is None
        assert (await shim.client.start()).failure is None
        assert (await shim.client.wait(timeout=20)).exit_code == 3
        assert await stream.output() == {1: b"hi\n", 2: b"err\n"}
        assert (shim.logged(), shim.logged("stderr")) == ("hi\n", "err\n")
        assert (tmp_path / "upper/file").read_text() == "data\n"
        assert str(tmp_path) not in proc(os.getpid(), "mountinfo")


async def test_a_container_does_not_wait_for_a_zygote_that_rehearses(
    launch: Launch, real_nursery: Nursery, root: Path, tmp_path: Path
) -> None:
    """Its first spare was forked before, and has all that a shim needs."""
    async with launch(bundles.process("sh", "-c", "echo hi; exit 3"), spare=real_nursery.first) as shim:
        assert (await shim.create(rootfs=overlay(root, tmp_path))).failure is None
        assert (await shim.client.start()).failure is None
        assert (await shim.client.wait(timeout=20)).exit_code == 3
        assert shim.logged() == "hi\n"


async def test_a_container_starts_with_clean_signals_descriptors_and_score(
    launch: Launch, root: Path, tmp_path: Path
) -> None:
    # The shim ignores signals and lowers its score; none of that may be inherited.
    async with launch(bundles.process("sleep", "60")) as shim:
        await shim.create(rootfs=overlay(root, tmp_path))
        await shim.client.start()
        pid = (await shim.client.state()).pid
        status = dict(line.split(":\t") for line in proc(pid, "status").splitlines())
        assert (status["SigIgn"], status["SigBlk"]) == ("0" * 16, "0" * 16)
        assert proc(pid, "oom_score_adj") == "0\n"
        assert len(os.listdir(f"/proc/{pid}/fd")) == 3  # noqa: PTH208
        # Once the child that made it has left.
        await until(lambda: f"\nPPid:\t{shim.pid}\n" in proc(pid, "status"))


@pytest.mark.parametrize(
    ("program", "code", "text"),
    [
        ("nosuch", 127, 'exec: "nosuch": executable file not found in $PATH: unknown'),
        ("/nosuch", 127, 'exec: "/nosuch": stat /nosuch: no such file or directory: unknown'),
        ("/etc", 126, "permission denied: unknown"),
    ],
)
async def test_a_program_that_cannot_run(
    launch: Launch, root: Path, tmp_path: Path, program: str, code: int, text: str
) -> None:
    async with launch(bundles.process(program)) as shim:
        failure = (await shim.create(rootfs=overlay(root, tmp_path))).failure
        assert failure is not None
        assert failure.exit_code == code
        assert failure.message.endswith(text)
        assert (await shim.client.state()).phase == "new"
        await until(lambda: not children(shim.pid))


async def test_a_root_that_cannot_be_mounted(launch: Launch, root: Path, tmp_path: Path) -> None:
    async with launch(bundles.process("true")) as shim:
        wrong = wire.OverlayRootfs(lower=["/nosuch"], upper=str(tmp_path / "u"), work=str(tmp_path / "w"))
        failure = (await shim.create(rootfs=wrong)).failure
        assert failure is not None
        assert failure.exit_code == 128
        await until(lambda: not children(shim.pid))
        # And the same shim can do better.
        assert (await shim.create(rootfs=overlay(root, tmp_path))).failure is None


async def test_a_terminal(launch: Launch, root: Path, tmp_path: Path) -> None:
    async with launch(bundles.process("sh", "-c", "stty size; read x; echo got $x; stty size", terminal=True)) as shim:
        stream = await shim.attach()
        assert stream.answer["tty"] is True
        await shim.create(rootfs=overlay(root, tmp_path), open_stdin=True, height=40, width=120)
        await shim.client.start()
        assert await stream.until(b"\r\n") == b"40 120\r\n"
        await shim.client.resize_pty(24, 80)
        stream.writer.write(b"typed\n")
        assert (await stream.everything()).endswith(b"got typed\r\n24 80\r\n")
        assert (await shim.client.wait(timeout=20)).exit_code == 0


async def test_execs(launch: Launch, root: Path, tmp_path: Path) -> None:
    async with launch(bundles.process("sleep", "60")) as shim:
        await shim.create(rootfs=overlay(root, tmp_path))
        await shim.client.start()
        for number, (arguments, code, output) in enumerate(
            [
                (("sh", "-c", "cat; readlink /proc/1/exe; exit 4"), 4, b"typed\n/bin/busybox\n"),
                (("nosuch",), 127, b"executable file not found in $PATH"),
                (("/etc",), 126, b"permission denied"),
            ]
        ):
            process = json.dumps(bundles.process(*arguments)).encode()
            await shim.client.exec_create(
                wire.ExecCreateRequest(exec_id=f"e{number}", process=process, open_stdin=True)
            )
            stream = await shim.dial(op="exec", exec_id=f"e{number}", stdin=True, stdout=True, stderr=True)
            stream.writer.write(b"typed\n")
            stream.writer.write_eof()
            assert output in (await stream.output())[1]
            assert (await shim.client.wait(f"e{number}", timeout=20)).exit_code == code
        await until(lambda: len(children(shim.pid)) == 1)
        terminal = json.dumps(bundles.process("stty", "size", terminal=True)).encode()
        await shim.client.exec_create(wire.ExecCreateRequest(exec_id="t", process=terminal, height=7, width=9))
        stream = await shim.dial(op="exec", exec_id="t", stdin=True, stdout=True, stderr=True)
        assert await stream.everything() == b"7 9\r\n"


async def test_pause_kill_and_pids(launch: Launch, root: Path, tmp_path: Path) -> None:
    async with launch(bundles.process("sh", "-c", "sleep 60 & echo up; wait")) as shim:
        stream = await shim.attach()
        await shim.create(rootfs=overlay(root, tmp_path))
        await shim.client.start()
        await stream.frame()
        assert len((await shim.client.pids()).pids) == 2
        await shim.client.pause()
        await shim.client.resume()
        await shim.client.pause()
        await shim.client.kill(signal.SIGKILL)
        assert (await shim.client.wait(timeout=20)).exit_code == 137


async def test_without_a_pid_namespace_nobody_is_left(launch: Launch, root: Path, tmp_path: Path) -> None:
    async with launch(bundles.process("sh", "-c", "sleep 600 & sleep 600 & echo $!; exit 2"), host_pid=True) as shim:
        stream = await shim.attach()
        await shim.create(rootfs=overlay(root, tmp_path))
        await shim.client.start()
        left = int((await stream.frame())[1])
        assert (await shim.client.wait(timeout=20)).exit_code == 2
        await gone(left)
        await stream.everything()


async def test_shutdown_of_a_live_container_leaves_nothing(launch: Launch, root: Path, tmp_path: Path) -> None:
    async with launch(bundles.process("sh", "-c", "trap '' TERM; sleep 600")) as shim:
        await shim.create(rootfs=overlay(root, tmp_path))
        await shim.client.start()
        pid = (await shim.client.state()).pid
        await shim.client.shutdown()
        assert not alive(pid)
        assert not shim.run_dir.exists()


async def test_a_killed_shim_ends_a_container_that_was_not_started(
    launch: Launch, real_nursery: Nursery, root: Path, tmp_path: Path
) -> None:
    # The parked process must not wait for a go that nobody can give any more.
    async with launch(bundles.process("sleep", "60")) as shim:
        await shim.create(rootfs=overlay(root, tmp_path))
        pid = (await shim.client.state()).pid
        os.kill(shim.pid, signal.SIGKILL)
        await gone(shim.pid)
        await gone(pid)
        answer = become(real_nursery.spare(), shim.run_dir, shim.data_dir)
        async with connected(shim.run_dir, shim.data_dir, answer["pid"]) as again:
            assert (await asyncio.wait_for(again.client.wait(), 10)).exit_code != 0
            assert (await again.client.state()).phase == "exited"


async def test_a_killed_shim_is_succeeded(launch: Launch, real_nursery: Nursery, root: Path, tmp_path: Path) -> None:
    async with launch(bundles.process("sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep 0.05; done")) as shim:
        stream = await shim.attach()
        await shim.create(rootfs=overlay(root, tmp_path))
        await shim.client.start()
        await stream.frame()
        pid = (await shim.client.state()).pid
        os.kill(shim.pid, signal.SIGKILL)
        await gone(shim.pid)
        answer = become(real_nursery.spare(), shim.run_dir, shim.data_dir)
        async with connected(shim.run_dir, shim.data_dir, answer["pid"]) as again:
            state = await again.client.state()
            assert (state.phase, state.pid) == ("running", pid)
            process = json.dumps(bundles.process("true")).encode()
            await again.client.exec_create(wire.ExecCreateRequest(exec_id="e", process=process))
            assert (await again.client.exec_start("e")).failure is None
            assert (await again.client.wait("e", timeout=20)).exit_code == 0
            await again.client.kill(signal.SIGTERM)
            assert (await again.client.wait(timeout=20)).exit_code == 9


async def test_an_oom_kill_is_noticed(launch: Launch, root: Path, tmp_path: Path) -> None:
    process = bundles.process("sh", "-c", "x=x; while :; do x=$x$x; done")
    async with launch(process) as shim:
        config = json.loads((shim.data_dir / "config.json").read_text())
        config["linux"]["resources"]["memory"] = {"limit": 16 << 20, "swap": 16 << 20}
        write_config(shim.data_dir, config)
        assert (await shim.create(rootfs=overlay(root, tmp_path))).failure is None
        await shim.client.start()
        answer = await shim.client.wait(timeout=20)
        assert (answer.exit_code, answer.oom_killed) == (137, True)
