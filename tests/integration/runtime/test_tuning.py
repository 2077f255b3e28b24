"""Scheduling, memory placement and personality, as the kernel itself tells them afterwards."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from pathlib import Path

import pytest

from bulkhead.errors import DeadlineExceeded, LaunchFailed
from bulkhead.runtime import hooks, launch
from bulkhead.runtime.rootfs import StdioFds
from tests.support.containers import Box, ended, wait

SCHED_GETATTR, IOPRIO_GET = (315, 252) if os.uname().machine == "x86_64" else (275, 31)
ATTRIBUTES = struct.Struct("=IIQiIQQQ")


def kernel(number: int, *arguments: object) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))


def attributes(pid: int) -> tuple[int, int, int, int]:
    """(policy, flags, nice, priority)."""
    room = ctypes.create_string_buffer(ATTRIBUTES.size)
    assert kernel(SCHED_GETATTR, pid, room, ATTRIBUTES.size, 0) == 0
    _, policy, flags, nice, priority, *_ = ATTRIBUTES.unpack(room.raw)
    return policy, flags, nice, priority


def end(process: launch.ExecProcess) -> None:
    signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
    assert ended(process) == 137


def test_a_policy_and_a_nice_value(box: Box) -> None:
    task, _ = box.start("sleep", "600", scheduler={"policy": "SCHED_BATCH", "nice": 7})
    assert attributes(task.pid) == (3, 0, 7, 0)
    box.kill(task)


def test_a_real_time_policy_and_its_flag(box: Box) -> None:
    wanted = {"policy": "SCHED_RR", "priority": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}
    try:
        task, _ = box.start("sleep", "600", scheduler=wanted)
    except LaunchFailed as error:
        assert error.step == "scheduler"
        pytest.skip("this kernel gives the group no real-time budget")
    assert attributes(task.pid) == (2, 1, 0, 5)
    box.kill(task)


def test_an_io_priority(box: Box) -> None:
    task, config = box.start("sleep", "600", ioPriority={"class": "IOPRIO_CLASS_IDLE", "priority": 3})
    assert kernel(IOPRIO_GET, 1, task.pid) == 3 << 13 | 3
    process = {**config["process"], "args": ["sleep", "600"], "ioPriority": None}
    further = launch.exec_(task=task, config=config, process=process, stdio=StdioFds())
    assert kernel(IOPRIO_GET, 1, further.pid) == 3 << 13 | 3  # as the container's own process
    end(further)
    box.kill(task)


def test_a_personality(box: Box) -> None:
    def edit(config: dict[str, object]) -> None:
        config["linux"] |= {"personality": {"domain": "LINUX32"}}  # type: ignore[operator]

    expected = {"x86_64": "i686", "aarch64": "armv8l"}[os.uname().machine]
    assert box.run("busybox", "uname", "-m", edit=edit).output.strip() == expected


def test_a_memory_policy(box: Box) -> None:
    def edit(config: dict[str, object]) -> None:
        config["linux"] |= {"memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}}  # type: ignore[operator]

    if not Path("/proc/self/numa_maps").exists():
        pytest.skip("this kernel knows no memory nodes")
    done = box.run("grep", "-c", "bind=static:0", "/proc/self/numa_maps", edit=edit)
    assert int(done.output) > 0


def test_processors_of_a_further_process(box: Box) -> None:
    task, config = box.start("sleep", "600")
    before = os.sched_getaffinity(0)
    one = min(before)
    process = {
        **config["process"],
        "args": ["sleep", "600"],
        "execCPUAffinity": {"initial": f"{one}", "final": f"{one}"},
    }
    further = launch.exec_(task=task, config=config, process=process, stdio=StdioFds())
    assert os.sched_getaffinity(further.pid) == {one}
    assert os.sched_getaffinity(0) == before
    end(further)
    box.kill(task)


def test_capabilities_that_nobody_knows_are_left_out_with_a_warning(box: Box) -> None:
    held = ["CAP_KILL", "CAP_DREAM"]
    task, _ = box.start("sleep", "600", capabilities=dict.fromkeys(("bounding", "effective", "permitted"), held))
    assert task.warnings == ("capability CAP_DREAM is unknown here and was left out",)
    status = Path(f"/proc/{task.pid}/status").read_text()
    assert f"CapEff:\t{1 << 5:016x}" in status
    box.kill(task)


def test_a_launch_that_takes_too_long_is_ended(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever holds the stage up, its caller gets an answer; here a hook that is slower than the limit."""
    monkeypatch.setattr(hooks, "time_limit", lambda *_: 0.3)
    config = box.config("true")
    config["hooks"] = {"createContainer": [{"path": "/bin/sleep", "args": ["sleep", "600"]}]}
    with pytest.raises(DeadlineExceeded):
        box.create(config)


def test_a_start_that_takes_too_long_is_ended(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    config = box.config("true")
    config["hooks"] = {"startContainer": [{"path": "/bin/sleep", "args": ["sleep", "600"]}]}
    task = box.create(config)
    monkeypatch.setattr(hooks, "time_limit", lambda *_: 0.3)
    with pytest.raises(DeadlineExceeded):
        task.start()
    assert wait(task.pidfd) == 137
    box._running.remove(task)
    task.cgroup.remove()
    task.close()
