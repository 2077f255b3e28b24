"""A container that is not parked: it waits once, for a word that may be there before it comes to that place."""

from __future__ import annotations

import gc
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bulkhead.errors import LaunchFailed, ResourceExhausted
from bulkhead.nsexec import STEPS, Launch, ReportKind
from bulkhead.runtime import launch, planned
from bulkhead.shim.adapters.runtime_launcher import RuntimeLauncher
from bulkhead.shim.ports import Rootfs, Stdio, Task
from tests.support.containers import BUSYBOX, Box, boxed, wait
from tests.support.descriptors import left_since, open_descriptors

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not BUSYBOX.exists(), reason="containers need root and busybox-static"),
]


_LIMITS = ("memory.max", "memory.limit_in_bytes")


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    gc.collect()  # descriptors of tests before this one are not its own
    yield from boxed(tmp_path)


def _created(box: Box, go: Callable[[Task, int], None], *command: str, memory: int = 0) -> launch.Task:
    config = box.config(*command)
    if memory:
        config["linux"]["resources"] = {"memory": {"limit": memory}}
    rootfs = box.rootfs()
    worked_out = planned.container("going", config, rootfs)
    assert worked_out is not None
    (box.base / "config.json").write_text(json.dumps(config))
    task = RuntimeLauncher().create(
        container_id="going",
        data_dir=str(box.base),
        terminal=False,
        rootfs=Rootfs(lower=rootfs.lower, upper=rootfs.upper, work=rootfs.work, volatile=rootfs.volatile),
        stdio=Stdio(),
        planned=worked_out.pack(),
        begun=lambda _: None,
        go=go,
    )
    assert isinstance(task, launch.Task)
    return task


def _gone(task: launch.Task) -> None:
    task.cgroup.remove()
    task.close()


def test_it_runs_its_program_and_whoever_let_it_go_has_its_root(box: Box) -> None:
    before, roots = open_descriptors(), []
    task = _created(box, lambda _, root: roots.append(root), "/bin/sh", "-c", "echo here > /written; exit 3")
    task.start()
    assert wait(task.pidfd) == 3
    (root,) = roots
    assert Path(f"/proc/self/fd/{root}/written").read_text() == "here\n"
    os.close(root)
    _gone(task)
    assert not left_since(before)


def test_it_is_limited_before_it_is_let_go(box: Box) -> None:
    found: list[int] = []

    def go(task: Task, root: int) -> None:
        os.close(root)
        assert isinstance(task, launch.Task)
        of_memory = Path(str(task.cgroup.directory("memory")))
        found.extend(int(file.read_text()) for file in of_memory.glob("memory.*") if file.name in _LIMITS)

    task = _created(box, go, "/bin/true", memory=64 << 20)
    task.start()
    wait(task.pidfd)
    _gone(task)
    assert found == [64 << 20]


def test_nothing_is_left_of_it_when_it_is_not_to_go(box: Box) -> None:
    before, pids = open_descriptors(), []

    def go(task: Task, root: int) -> None:
        os.close(root)
        pids.append(task.pid)
        raise ResourceExhausted("no room for its record")

    with pytest.raises(ResourceExhausted):
        _created(box, go, "/bin/sh", "-c", "echo ran > /written")
    assert not Path(f"/proc/{pids[0]}").exists()
    assert not (Path(box.rootfs().upper) / "written").exists()
    assert not left_since(before)


def test_what_cannot_be_executed_is_told_by_the_start(box: Box) -> None:
    task = _created(box, lambda _, root: os.close(root), "/bin/nothing-of-that-name")
    with pytest.raises(LaunchFailed, match="no such file"):
        task.start()
    _gone(task)


def test_why_it_cannot_go_on_is_heard_though_it_leaves_without_its_word() -> None:
    """The word is there before the stage comes to that place: one that fails on its way never reads it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stage = Launch(os.getpid(), os.pidfd_open(os.getpid()), ours.detach())
    stage.proceed()
    theirs.send(struct.pack("=IIiI", ReportKind.ERROR, STEPS.index("exec"), 2, 0))
    theirs.close()
    heard = [stage.receive().kind, stage.receive().kind]
    stage.close()
    assert heard == [ReportKind.ERROR, ReportKind.CLOSED]
