"""The runtime core in the hands of an ordinary user: one id, no groups, no cgroup."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import BUSYBOX, docker_config, make_image

USER = 54321

RUN = """
import json, os, select, sys
from bulkhead.errors import BulkheadError
from bulkhead.runtime import launch
from bulkhead.runtime.rootfs import StdioFds
from bulkhead.linux import syscall
import ctypes, resource, shutil, signal, subprocess
config, further, user = json.load(sys.stdin)
os.setgroups([])
os.setgid(user)
os.setuid(user)  # only now: the interpreter itself may be root's alone
try:
    task = launch.create(container_id="rootless", config=config, stdio=StdioFds(stdin=0, stdout=1, stderr=2))
    task.start()
    if further:
        process = {**config["process"], "args": further}
        running = launch.exec_(task=task, config=config, process=process, stdio=StdioFds(stdout=1, stderr=2))
        select.select([running.pidfd], [], [], 20)
        launch.reap(running.pidfd)
        signal.pidfd_send_signal(task.pidfd, signal.SIGKILL)
    select.select([task.pidfd], [], [], 20)
    for warning in task.warnings:
        print("warning:", warning, flush=True)
    sys.exit(launch.reap(task.pidfd).code)
except BulkheadError as error:
    print(type(error).__name__, error)
    sys.exit(70)
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    if not BUSYBOX.exists():
        pytest.skip("busybox-static is not installed")
    place = tmp_path / "image"
    make_image(place)
    for path in (place, *place.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == 0 and parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(parent.stat().st_mode | 0o055)
    return place


def config_for(image: Path, *args: str) -> dict[str, Any]:
    config = docker_config("/bh-test-rootless", args)
    config["root"]["path"] = str(image)
    config["linux"]["namespaces"].append({"type": "user"})
    config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": USER, "size": 1}]
    config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": USER, "size": 1}]
    config["linux"]["sysctl"] = {}
    for entry in config["mounts"]:
        entry["options"] = [option for option in entry["options"] if option != "gid=5"]
    return config


def run(config: dict[str, Any], *further: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps([config, list(further), USER]),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def names(place: str) -> set[str]:
    """What the machine has there at this moment."""
    return {path.name for path in Path(place).iterdir()}


def test_an_ordinary_user_runs_a_container(image: Path) -> None:
    done = run(config_for(image, "sh", "-c", "id -u; cat /proc/self/uid_map; echo $$; touch /made; echo x > /dev/null"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == ["0", "0", str(USER), "1", "1"]
    assert (image / "made").stat().st_uid == USER


def test_an_ordinary_user_executes_a_further_process(image: Path) -> None:
    done = run(config_for(image, "sleep", "600"), "sh", "-c", "id -u; ps | grep -c sleep; touch /further")
    assert done.stdout.split()[:1] == ["0"], done.stdout + done.stderr
    assert (image / "further").stat().st_uid == USER
    assert done.returncode == 137


def test_the_cgroup_tree_is_shown_and_cannot_be_written(image: Path) -> None:
    before = names("/sys/fs/cgroup")
    done = run(
        config_for(
            image, "sh", "-c", "ls /sys/fs/cgroup | head -n1; grep -c ' /sys/fs/cgroup[^ ]* rw' /proc/self/mountinfo"
        )
    )
    first, writable = done.stdout.split()[:2]
    assert first in before | names("/sys/fs/cgroup")
    assert writable == "0"


def test_the_network_of_the_user_comes_with_the_hosts_sysfs(image: Path) -> None:
    """Who does not own the network namespace cannot mount a sysfs of it."""
    config = config_for(image, "sh", "-c", "ls /sys/class/net; grep ' /sys ' /proc/self/mountinfo")
    config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "network"]
    before = names("/sys/class/net")
    done = run(config)
    assert done.returncode == 0, done.stdout + done.stderr
    # Those of other tests come and go.
    assert before & names("/sys/class/net") <= set(done.stdout.split())
    assert " /sys ro," in done.stdout


def test_a_group_that_is_not_mapped_is_refused_with_the_reason(image: Path) -> None:
    config = config_for(image, "true")
    config["mounts"][2]["options"].append("gid=5")
    done = run(config)
    assert done.returncode == 70
    assert "cannot specify gid= mount options for unmapped gid" in done.stdout


def test_groups_that_cannot_be_set_are_told(image: Path) -> None:
    config = config_for(image, "true")
    config["process"]["user"]["additionalGids"] = [7]
    done = run(config)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "additional groups are dropped" in done.stdout


def test_limits_need_a_cgroup(image: Path) -> None:
    config = config_for(image, "true")
    config["linux"]["resources"]["pids"] = {"limit": 10}
    done = run(config)
    assert done.returncode == 70
    assert "cannot create cgroup" in done.stdout


def test_without_a_user_namespace_nothing_is_begun(image: Path) -> None:
    config = config_for(image, "true")
    config["linux"]["namespaces"] = [entry for entry in config["linux"]["namespaces"] if entry["type"] != "user"]
    del config["linux"]["uidMappings"], config["linux"]["gidMappings"]
    done = run(config)
    assert done.returncode == 70
    assert "needs a user namespace" in done.stdout


@pytest.mark.skipif(shutil.which("newuidmap") is not None, reason="newuidmap is installed")
def test_more_ids_need_newuidmap(image: Path) -> None:
    config = config_for(image, "true")
    config["linux"]["uidMappings"].append({"containerID": 1, "hostID": 100000, "size": 10})
    done = run(config)
    assert done.returncode == 70
    assert "newuidmap" in done.stdout
