"""Containers that wait for a FIFO: whoever created them may be gone when they start (runc's create and start)."""

from __future__ import annotations

import json
import os
import select
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from bulkhead.errors import Conflict, InvalidArgument
from bulkhead.runtime import launch
from bulkhead.runtime.rootfs import StdioFds
from tests.support.containers import PATIENCE, Box, Config, ended, namespace

CREATOR = """
import json, sys
from bulkhead.errors import Conflict, InvalidArgument
from bulkhead.runtime import launch
from bulkhead.runtime.rootfs import StdioFds
config, bundle, fifo, preserve, told = json.loads(sys.stdin.read())
task = launch.create(container_id="x", config=config, bundle=bundle, exec_fifo=fifo, preserve_fds=preserve,
                     stdio=StdioFds(stdin=0, stdout=1, stderr=2))
open(told, "w").write(f"{task.pid} {task.start_time}")
"""


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "exec.fifo"
    os.mkfifo(path)
    path.chmod(0o622)
    return path


def created(box: Box, config: Config, fifo: Path, output: Path, *, preserve: int = 0) -> launch.Task:
    """By a process that is gone afterwards."""
    bundle = box.base / "bundle"
    bundle.mkdir(exist_ok=True)
    config["root"]["path"] = "../image"
    with output.open("wb") as file:
        extra = [os.open("/etc/hostname", os.O_RDONLY) for _ in range(preserve)]
        try:
            done = subprocess.run(
                [sys.executable, "-c", PREPARE + CREATOR, *map(str, extra)],
                input=json.dumps([config, str(bundle), str(fifo), preserve, str(bundle / "told")]),
                stdout=file,
                stderr=file,
                text=True,
                check=False,
                pass_fds=extra,
            )
        finally:
            for fd in extra:
                os.close(fd)
    assert done.returncode == 0, output.read_text()
    pid, start = map(int, (bundle / "told").read_text().split())
    return launch.adopt(container_id="x", pid=pid, start_time=start, config=config)


# Descriptors that were passed are moved to 3 and up, where a command has them.
PREPARE = """
import os, sys
for target, source in enumerate(map(int, sys.argv[1:]), 3):
    os.dup2(source, target, inheritable=True)
"""


def let_go(fifo: Path, task: launch.Task) -> bytes:
    """What `start` does: the byte says that the process has left the FIFO behind."""
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert select.select([fd], [], [], PATIENCE)[0], "nobody writes to the FIFO"
        return os.read(fd, 1)
    finally:
        os.close(fd)


def end(task: launch.Task) -> None:
    assert select.select([task.pidfd], [], [], PATIENCE)[0], "the process does not end"
    task.cgroup.remove()
    task.close()


def test_a_created_container_outlives_its_creator(box: Box, fifo: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    task = created(box, box.config("sh", "-c", "echo $$; ls /proc/self/fd"), fifo, output)
    assert output.read_bytes() == b""
    assert namespace(task.pid, "pid") != namespace("self", "pid")
    assert let_go(fifo, task) == b"0"
    end(task)
    assert output.read_text().split() == ["1", "0", "1", "2", "3"]  # the last is ls's own


def test_a_container_without_proc_waits_too(box: Box, fifo: Path, tmp_path: Path) -> None:
    """The FIFO is opened through a procfs of the stage's own."""
    output = tmp_path / "output"
    config = box.config("echo", "hello")
    config["mounts"] = [entry for entry in config["mounts"] if not entry["destination"].startswith("/proc")]
    config["linux"]["maskedPaths"] = config["linux"]["readonlyPaths"] = []
    task = created(box, config, fifo, output)
    assert let_go(fifo, task) == b"0"
    end(task)
    assert output.read_text() == "hello\n"


def test_descriptors_are_preserved(box: Box, fifo: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    config = box.config("sh", "-c", "for fd in 3 4 5 6; do test -e /proc/self/fd/$fd && echo $fd; done; cat <&4")
    task = created(box, config, fifo, output, preserve=3)
    assert let_go(fifo, task) == b"0"
    end(task)
    assert output.read_text() == "3\n4\n5\n" + Path("/etc/hostname").read_text()


def test_a_descriptor_that_is_not_open_cannot_be_preserved(box: Box) -> None:
    with pytest.raises(InvalidArgument, match=r"descriptor \d+: it is not open"):
        box.create(box.config("true"), preserve_fds=200)


def test_a_failing_exec_is_told_on_stderr(box: Box, fifo: Path, tmp_path: Path) -> None:
    """Nobody else is left to hear it."""
    (box.image / "bin" / "junk").write_bytes(b"\0\1\2\3")
    (box.image / "bin" / "junk").chmod(0o755)
    box_output = tmp_path / "output"
    config = box.config("sh", "-c", "exec 2>&1")
    config["process"]["args"] = ["/bin/junk"]
    read, write = os.pipe2(os.O_CLOEXEC)
    with os.fdopen(read, "rb") as errors:
        task = box.create(config, StdioFds(stderr=write), exec_fifo=str(fifo))
        os.close(write)
        with pytest.raises(Conflict):
            task.start()
        let_go(fifo, task)
        assert errors.read() == b"exec /bin/junk: exec format error\n"
    assert box.finish(task) == 1
    assert not box_output.exists()


def test_a_parked_container_can_be_killed(box: Box, fifo: Path) -> None:
    task = box.create(box.config("true"), exec_fifo=str(fifo))
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert box.kill(task) == 137


def test_exec_in_an_adopted_container(box: Box, fifo: Path, tmp_path: Path) -> None:
    """The container is another process's child; the exec'd process is ours."""
    config = box.config("sleep", "600")
    task = created(box, config, fifo, tmp_path / "output")
    let_go(fifo, task)
    done = box.exec(task, config, "sh", "-c", "readlink /proc/self/ns/mnt; ls /proc/1")
    assert done.code == 0
    assert done.output.splitlines()[0] == namespace(task.pid, "mnt")
    task.cgroup.kill_all()
    end(task)


def test_no_pivot(box: Box) -> None:
    """For hosts whose root is an initramfs: the root is moved, and no procfs of the host lies beneath it."""
    config = box.config("sh", "-c", "ls /; grep -c ' - proc ' /proc/self/mountinfo; ls /proc | grep -c '^[0-9]'")
    done = box.run_config(config, no_pivot=True)
    assert done.output.split()[-2:] == ["1", "4"] or int(done.output.split()[-1]) <= 4
    assert done.code == 0
    assert "bin" in done.output.split()


def test_without_a_mount_namespace_only_the_root_changes(box: Box) -> None:
    config = box.config("sh", "-c", "ls /; cat /etc/passwd >/dev/null && readlink /proc/self/ns/mnt; id -u")
    config["linux"]["namespaces"] = [{"type": kind} for kind in ("pid", "uts", "ipc")]
    for key in ("maskedPaths", "readonlyPaths", "sysctl"):
        config["linux"].pop(key)
    config["mounts"] = []
    config["root"]["path"] = str(box.image)
    (box.image / "dev").mkdir()
    (box.image / "dev" / "null").touch()
    done = box.run_config(config, rootfs=None)
    assert done.code == 0
    assert done.output.split()[:3] == ["bin", "dev", "etc"]
    assert done.output.split()[-1] == "0"


def test_a_further_process_has_preserved_descriptors(box: Box) -> None:
    task, config = box.start("sleep", "600")
    read, write = os.pipe2(os.O_CLOEXEC)
    process = {**config["process"], "args": ["sh", "-c", "ls /proc/self/fd | wc -l; exit 7"]}
    with os.fdopen(read, "rb") as output:
        started = launch.exec_(task=task, config=config, process=process, stdio=StdioFds(stdout=write, stderr=write))
        os.close(write)
        assert output.read() == b"4\n"
    assert ended(started) == 7
    box.kill(task)
