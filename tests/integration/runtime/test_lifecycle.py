"""A container's life: created, started, ended, adopted; the states in between must be safe to die in."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bulkhead.errors import Conflict, LaunchFailed, NotFound
from bulkhead.linux import pidfd
from bulkhead.linux.cgroups import Cgroup
from bulkhead.nsexec.plan import RootKind
from bulkhead.runtime import launch, translate
from bulkhead.runtime.rootfs import StdioFds
from tests.integration.runtime.test_namespaces import mapped
from tests.support.containers import PATIENCE, Box, Config, namespace, wait
from tests.support.eventually import until
from tests.support.loop_disk import loop_disk


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_codes(box: Box, code: int) -> None:
    assert box.run("sh", "-c", f"exit {code}").code == code


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_signals_are_128_and_their_number(box: Box, number: int) -> None:
    assert box.run("sh", "-c", f"sh -c 'kill -{int(number)} $$'; exit $?").code == 128 + number


def test_output_is_whole(box: Box) -> None:
    assert len(box.run("dd", "if=/dev/zero", "bs=1M", "count=3").output.replace("\0", "")) < 200


def test_created_is_everything_but_exec(box: Box) -> None:
    config = box.config("sh", "-c", "touch /ran")
    rootfs = box.rootfs()
    task = box.create(config, rootfs=rootfs)
    assert task.cgroup.pids() == [task.pid]
    assert Path(f"/proc/{task.pid}/cwd").is_dir()
    assert not Path(rootfs.upper, "ran").exists()
    assert launch.reap(task.pidfd) is None
    task.start()
    assert box.finish(task) == 0
    assert Path(rootfs.upper, "ran").exists()


def test_start_is_for_once(box: Box) -> None:
    task, _ = box.start("sleep", "60")
    with pytest.raises(Conflict, match="already running"):
        task.start()
    box.kill(task)


def test_a_container_killed_before_its_start_cannot_start(box: Box) -> None:
    task = box.create(box.config("true"))
    pidfd.send_signal(task.pidfd, signal.SIGKILL)
    select.select([task.pidfd], [], [], PATIENCE)
    with pytest.raises(Conflict, match="has stopped"):
        task.start()
    assert box.finish(task) == 137


def test_a_created_container_ends_with_its_creator(box: Box) -> None:
    """The launch socket is all that holds it: no orphan waits for ever."""
    task = box.create(box.config("true"))
    fd = os.dup(task.pidfd)
    task.close()
    assert wait(fd) == 125
    os.close(fd)
    box._running.remove(task)
    task.cgroup.remove()


def test_a_copy_of_the_launch_socket_keeps_it(box: Box) -> None:
    task = box.create(box.config("true"))
    assert task.sync_fd is not None
    copy, process = os.dup(task.sync_fd), os.dup(task.pidfd)
    task.close()
    assert not select.select([process], [], [], 0.2)[0]
    os.write(copy, b"g")
    os.close(copy)
    assert wait(process) == 0
    os.close(process)
    box._running.remove(task)
    task.cgroup.remove()


def test_a_failed_start_can_still_be_reaped(box: Box) -> None:
    (box.image / "bin" / "junk").write_bytes(b"\0")
    (box.image / "bin" / "junk").chmod(0o755)
    task = box.create(box.config("junk"))
    with pytest.raises(LaunchFailed):
        task.start()
    status = launch.reap(task.pidfd)
    assert status is not None and status.code in (125, 137)
    box._running.remove(task)
    task.cgroup.remove()
    task.close()


def test_adoption_is_by_pid_and_start_time(box: Box) -> None:
    task, config = box.start("sleep", "60")
    adopted = launch.adopt(container_id="x", pid=task.pid, start_time=task.start_time, config=config)
    assert (adopted.pid, adopted.start_time, adopted.cgroup.path) == (task.pid, task.start_time, task.cgroup.path)
    with pytest.raises(Conflict):
        adopted.start()
    adopted.close()
    with pytest.raises(NotFound):
        launch.adopt(container_id="x", pid=task.pid, start_time=task.start_time + 1, config=config)
    pid = task.pid
    box.kill(task)
    with pytest.raises(NotFound):
        launch.adopt(container_id="x", pid=pid, start_time=task.start_time, config=config)


def test_killing_reaches_every_process(box: Box) -> None:
    read, write = os.pipe()
    task = box.create(
        box.config("sh", "-c", "for i in 1 2 3; do sleep 60 & done; echo ready; wait"), StdioFds(stdout=write)
    )
    os.close(write)
    task.start()
    assert os.read(read, 10) == b"ready\n"
    assert len(task.cgroup.pids()) == 4
    assert box.kill(task) == 137
    assert os.read(read, 10) == b""  # the last holder of the pipe is gone
    os.close(read)


def test_freezing(box: Box) -> None:
    task, config = box.start("sleep", "60")
    task.cgroup.freeze()
    assert task.cgroup.is_frozen()
    with pytest.raises(Conflict, match="paused"):
        box.exec(task, config, "true")
    task.cgroup.thaw()
    assert not task.cgroup.is_frozen()
    assert box.exec(task, config, "true").code == 0
    box.kill(task)


def test_a_volatile_layer_can_be_used_again(box: Box) -> None:
    rootfs = box.rootfs(volatile=True)
    assert box.run_config(box.config("sh", "-c", "echo kept > /file"), rootfs=rootfs).code == 0
    assert box.run_config(box.config("cat", "/file"), rootfs=rootfs).output == "kept\n"


def test_a_root_can_be_a_plain_directory(box: Box) -> None:
    config = box.config("sh", "-c", "echo here > /file")
    config["root"]["path"] = str(box.image)
    done = box.run_config(config, rootfs=None)
    assert done.code == 0
    assert (box.image / "file").read_text() == "here\n"


def test_the_overlay_of_older_kernels(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lowerdir+ (before 6.8) layers go into one page of options, however long their paths."""
    deep = box.base / ("x" * 200) / ("y" * 200)
    layers = []
    for number in range(60):
        layer = deep / f"layer{number}"
        layer.mkdir(parents=True)
        (layer / "name").write_text(f"{number}\n")
        layers.append(str(layer))
    made = translate._root
    monkeypatch.setattr(
        translate, "_root", lambda config, rootfs: replace(made(config, rootfs), kind=RootKind.OVERLAY_CLASSIC)
    )
    rootfs = replace(box.rootfs(), lower=(*layers, str(box.image)))
    done = box.run_config(
        box.config("sh", "-c", "cat /name; ls /proc/self/fd | wc -l; grep -c overlay /proc/mounts"), rootfs=rootfs
    )
    assert done.output.split() == ["0", "4", "1"]


def test_many_layers_with_long_names(box: Box) -> None:
    deep = box.base / ("x" * 200) / ("y" * 200)
    layers = []
    for number in range(120):
        layer = deep / f"layer{number}"
        layer.mkdir(parents=True)
        (layer / f"name{number}").touch()
        layers.append(str(layer))
    rootfs = replace(box.rootfs(), lower=(*layers, str(box.image)))
    assert box.run_config(box.config("sh", "-c", "ls /name* | wc -l"), rootfs=rootfs).output.strip() == "120"


def test_joined_namespaces(box: Box) -> None:
    """Network, ipc, uts and pid of another container (Docker's --network container:x and its like)."""
    task, _ = box.start("sleep", "60")
    kinds = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}

    def joined(config: Config) -> None:
        config.pop("hostname")
        config["linux"]["sysctl"] = {}
        config["linux"]["namespaces"] = [
            {"type": kind, "path": f"/proc/{task.pid}/ns/{name}"} for kind, name in kinds.items()
        ] + [{"type": "mount"}, {"type": "cgroup"}]

    done = box.run(
        "sh", "-c", "ps; hostname; for n in net ipc uts pid; do readlink /proc/self/ns/$n; done", edit=joined
    )
    assert "sleep 60" in done.output and "\nbox\n" in done.output
    assert done.output.split()[-4:] == [namespace(task.pid, name) for name in kinds.values()]
    box.kill(task)


def test_host_namespaces(box: Box) -> None:
    def host(config: Config) -> None:
        config.pop("hostname")
        config["linux"].update(sysctl={}, namespaces=[{"type": "mount"}])

    done = box.run("sh", "-c", "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done", edit=host)
    assert done.output.split() == [namespace("self", name) for name in ("net", "ipc", "uts", "pid")]


ORPHAN = """
import os, sys
from pathlib import Path
from tests.support.containers import Box
box = Box(Path(sys.argv[1]))
task, config = box.start("sleep", "600")
print(task.pid, task.start_time, config["linux"]["cgroupsPath"], box.parent, flush=True)
os._exit(9)
"""


def test_a_container_outlives_its_parent_and_its_exit_code_is_known(tmp_path: Path) -> None:
    """The kernel keeps it in the pidfd (Linux 6.15) once whoever inherited the process has reaped it."""
    if os.geteuid() != 0:
        pytest.skip("containers need root")
    project = Path(__file__).parents[3]
    command = [sys.executable, "-c", ORPHAN, str(tmp_path / "box")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=project)
    assert done.returncode == 9, done.stderr
    pid, start, path, parent = done.stdout.split()
    config = {"linux": {"cgroupsPath": path}}
    task = launch.adopt(container_id="x", pid=int(pid), start_time=int(start), config=config)
    assert launch.reap(task.pidfd) is None
    assert task.cgroup.pids() == [task.pid]
    task.cgroup.kill_all()
    try:
        assert wait(task.pidfd) == 137
    except NotFound:
        pytest.skip("PIDFD_GET_INFO has no exit codes before Linux 6.15")
    finally:
        task.cgroup.remove()
        task.close()
        Cgroup(parent).remove()


def test_the_root_can_be_held_over_the_end(box: Box) -> None:
    task, _ = box.start("sh", "-c", "echo written > /file; sleep 600")
    fd = task.hold_root()
    until(lambda: _read(fd, "file") == b"written\n")
    box.kill(task)
    assert _read(fd, "file") == b"written\n"
    os.close(fd)


@pytest.mark.parametrize("edit", [lambda _: None, mapped], ids=["plain", "mapped"])
def test_who_holds_the_root_holds_nothing_else(box: Box, tmp_path: Path, edit: Callable[[Config], None]) -> None:
    """A volume's file system is free when the container's end is known."""
    with loop_disk(tmp_path / "volume") as disk:
        config = box.config("sleep", "600")
        config["mounts"].append(
            {"type": "bind", "source": str(disk.place), "destination": "/volume", "options": ["rbind", "rw"]}
        )
        edit(config)
        task = box.create(config)
        fd = task.hold_root()
        task.start()
        disk.unmount()
        assert disk.is_in_use()
        box.kill(task)
        # Others on this machine may have copied the table of mounts meanwhile, for a moment.
        until(lambda: not disk.is_in_use())
        os.close(fd)


def _read(directory: int, name: str) -> bytes:
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return b""
    with os.fdopen(file, "rb") as opened:
        return opened.read()
