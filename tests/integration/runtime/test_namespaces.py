"""Namespaces: new ones, those that exist, inherited ones, users and clocks. The kernel's own links are the judge."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import InvalidArgument, LaunchFailed
from tests.support.containers import Box, Config, namespace, read_terminal

FIRST, COUNT = 100000, 65536


def kinds(config: Config) -> list[dict[str, str]]:
    found: list[dict[str, str]] = config["linux"]["namespaces"]
    return found


def joining(kind: str, path: str) -> Callable[[Config], None]:
    def edit(config: Config) -> None:
        config["linux"]["namespaces"] = [entry for entry in kinds(config) if entry["type"] != kind]
        config["linux"]["namespaces"].append({"type": kind, "path": path})

    return edit


def without(kind: str) -> Callable[[Config], None]:
    def edit(config: Config) -> None:
        config["linux"]["namespaces"] = [entry for entry in kinds(config) if entry["type"] != kind]
        if kind == "network":
            config["linux"]["sysctl"] = {}
        if kind == "uts":
            config["hostname"] = ""

    return edit


def mapped(config: Config) -> None:
    """Root inside is an ordinary user of the host."""
    kinds(config).append({"type": "user"})
    config["linux"]["sysctl"] = {
        "net.ipv4.ip_unprivileged_port_start": "0"
    }  # as Docker leaves it with a user namespace
    line = [{"containerID": 0, "hostID": FIRST, "size": COUNT}]
    config["linux"] |= {"uidMappings": line, "gidMappings": line}


@contextmanager
def holder(*flags: str) -> Iterator[int]:
    """A process in namespaces of its own."""
    with subprocess.Popen(["unshare", *flags, "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


NAMES = {"network": "net", "uts": "uts", "ipc": "ipc", "cgroup": "cgroup", "mount": "mnt", "pid": "pid"}
FLAGS = {"network": "-n", "uts": "-u", "ipc": "-i", "cgroup": "-C"}


@pytest.mark.parametrize("kind", ["network", "uts", "ipc", "cgroup"])
def test_a_namespace_is_joined(box: Box, kind: str) -> None:
    with holder(FLAGS[kind]) as pid:
        wanted = namespace(pid, NAMES[kind])
        assert wanted != namespace("self", NAMES[kind])
        edit = joining(kind, f"/proc/{pid}/ns/{NAMES[kind]}")
        assert box.run("readlink", f"/proc/self/ns/{NAMES[kind]}", edit=edit).output.strip() == wanted


def test_a_mount_namespace_is_joined(box: Box, tmp_path: Path) -> None:
    """The root is entered there, and the mounts are made there."""
    with holder("-m") as pid:
        wanted = namespace(pid, "mnt")
        edit = joining("mount", f"/proc/{pid}/ns/mnt")
        assert box.run("readlink", "/proc/self/ns/mnt", edit=edit).output.strip() == wanted


def test_a_namespace_of_another_kind_is_refused(box: Box) -> None:
    with holder("-n") as pid, pytest.raises(InvalidArgument, match="join ipc namespace"):
        box.run("true", edit=joining("ipc", f"/proc/{pid}/ns/net"))


@pytest.mark.parametrize("kind", ["network", "uts", "ipc", "cgroup", "pid"])
def test_what_is_not_named_is_inherited(box: Box, kind: str) -> None:
    done = box.run("readlink", f"/proc/self/ns/{NAMES[kind]}", edit=without(kind))
    assert done.output.strip() == namespace("self", NAMES[kind])


# ---- users ----


def test_root_inside_is_nobody_outside(box: Box) -> None:
    def edit(config: Config) -> None:
        mapped(config)

    done = box.run_config(
        rooted(box, "sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map; id -u; id -G", edit), rootfs=None
    )
    numbers = done.output.split()
    assert numbers[:6] == ["0", str(FIRST), str(COUNT)] * 2
    assert numbers[6:] == ["0", "0"]


def rooted(box: Box, *rest: Any) -> Config:
    """A config on the image itself: an overlay's upper directory belongs to the host's root."""
    *args, edit = rest
    config = box.config(*args)
    config["root"]["path"] = str(box.image)
    for path in (box.image, *box.image.rglob("*")):
        os.chown(path, FIRST, FIRST, follow_symlinks=False)
    edit(config)
    return config


def test_a_mapped_container_is_confined_as_any_other(box: Box) -> None:
    script = """
        grep CapEff /proc/self/status
        for name in null zero full random urandom tty; do stat -c '%n %t:%T' /dev/$name; done
        echo hidden > /dev/null && cat /proc/keys | wc -c; ls /sys/firmware | wc -l
        touch /proc/sys/kernel/hostname 2>&1 | grep -c 'Read-only'
        readlink /proc/self/ns/user; cat /proc/self/setgroups; hostname; ls -d /dev/pts/ptmx
    """
    done = box.run_config(rooted(box, "sh", "-c", script, mapped), rootfs=None)
    task_output = done.output.splitlines()
    assert not done.warnings
    assert task_output[0].split()[1] == "00000000a80425fb"
    assert [line.split()[1] for line in task_output[1:7]] == ["1:3", "1:5", "1:7", "1:8", "1:9", "5:0"]
    assert task_output[7:10] == ["0", "0", "1"]
    assert task_output[10] != namespace("self", "user")
    assert task_output[11:] == ["allow", "box", "/dev/pts/ptmx"]


def test_files_of_a_mapped_container_belong_to_the_mapped_user(box: Box, tmp_path: Path) -> None:
    """A source that only the host's root can reach is opened by the runtime."""
    volume = tmp_path / "private" / "volume"
    volume.mkdir(parents=True)
    volume.parent.chmod(0o700)
    os.chown(volume, FIRST, FIRST)

    def edit(config: Config) -> None:
        mapped(config)
        config["mounts"].append({"destination": "/v", "type": "bind", "source": str(volume), "options": ["rbind"]})

    done = box.run_config(
        rooted(box, "sh", "-c", "touch /v/mine; chown 5:6 /v/mine; stat -c '%u:%g' /v/mine", edit), rootfs=None
    )
    assert done.output == "5:6\n"
    info = (volume / "mine").stat()
    assert (info.st_uid, info.st_gid) == (FIRST + 5, FIRST + 6)


def test_a_terminal_in_a_user_namespace(box: Box) -> None:
    config = rooted(box, "sh", "-c", "tty; stat -c %u /dev/console", mapped)
    config["process"]["terminal"] = True
    task = box.create(config, rootfs=None)
    task.start()
    assert task.console is not None
    assert read_terminal(task.console, task.pidfd).split() == ["/dev/pts/0", "0"]
    box.finish(task)


def test_a_user_namespace_is_joined(box: Box) -> None:
    first = rooted(box, "sleep", "600", mapped)
    task = box.create(first, rootfs=None)
    task.start()
    wanted = namespace(task.pid, "user")

    def edit(config: Config) -> None:
        kinds(config).append({"type": "user", "path": f"/proc/{task.pid}/ns/user"})
        joining("network", f"/proc/{task.pid}/ns/net")(config)
        config["linux"]["sysctl"] = {}

    done = box.run_config(rooted(box, "sh", "-c", "readlink /proc/self/ns/user; id -u", edit), rootfs=None)
    assert done.output.split() == [wanted, "0"]
    box.kill(task)


def test_exec_in_a_user_namespace(box: Box) -> None:
    """Here the root's own path cannot be reached by the mapped root: nothing of the host may be left on the new one."""
    config = rooted(box, "sleep", "600", mapped)
    task = box.create(config, rootfs=None)
    task.start()
    done = box.exec(
        task, config, "sh", "-c", "readlink /proc/self/ns/user; id -u; touch /tmp/made; stat -c %u /tmp/made"
    )
    assert done.output.split() == [namespace(task.pid, "user"), "0", "0"]
    assert (box.image / "tmp" / "made").stat().st_uid == FIRST
    box.kill(task)


def test_limits_above_our_own_are_set_by_the_parent_or_told(box: Box) -> None:
    config = rooted(box, "sh", "-c", "ulimit -Hc", mapped)
    config["process"]["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    done = box.run_config(config, rootfs=None)
    assert done.output == "0\n"


# ---- clocks ----


def test_clocks_of_a_time_namespace(box: Box) -> None:
    def edit(config: Config) -> None:
        kinds(config).append({"type": "time"})
        config["linux"]["timeOffsets"] = {"monotonic": {"secs": 3600}, "boottime": {"secs": 864000, "nanosecs": 5}}

    before = float(Path("/proc/uptime").read_text().split()[0])
    done = box.run(
        "sh", "-c", "cat /proc/uptime; readlink /proc/self/ns/time; echo $$; cat /proc/self/timens_offsets", edit=edit
    )
    lines = done.output.splitlines()
    assert 864000 <= float(lines[0].split()[0]) - before < 864100
    assert lines[1] != namespace("self", "time")
    assert lines[2] == "1"
    assert [line.split() for line in lines[3:]] == [["monotonic", "3600", "0"], ["boottime", "864000", "5"]]


def test_exec_sees_the_same_clocks(box: Box) -> None:
    def edit(config: Config) -> None:
        kinds(config).append({"type": "time"})
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 864000}}

    config = box.config("sleep", "600")
    edit(config)
    task = box.create(config)
    task.start()
    assert box.exec(task, config, "readlink", "/proc/self/ns/time").output.strip() == namespace(task.pid, "time")
    box.kill(task)


def test_a_clock_that_would_run_backwards_is_refused_by_the_kernel(box: Box) -> None:
    def edit(config: Config) -> None:
        kinds(config).append({"type": "time"})
        config["linux"]["timeOffsets"] = {"boottime": {"secs": -(1 << 40)}}

    with pytest.raises(LaunchFailed, match="time-namespace"):
        box.run("true", edit=edit)
