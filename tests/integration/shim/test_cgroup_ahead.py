"""A cgroup that was made before its container was asked for: the container is born in it, or nothing is left of it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bulkhead.linux.cgroup_ahead import GroupAhead
from bulkhead.linux.cgroups import Cgroup
from bulkhead.runtime import launch, planned
from bulkhead.shim.adapters.runtime_launcher import RuntimeLauncher
from bulkhead.shim.identity import Expected
from bulkhead.shim.ports import Rootfs, Stdio
from tests.support.containers import BUSYBOX, Box, Config, boxed, wait
from tests.support.descriptors import left_since, open_descriptors

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not BUSYBOX.exists(), reason="containers need root and busybox-static"),
]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    yield from boxed(tmp_path)


def inodes(group: Cgroup) -> list[int]:
    return [Path(place).stat().st_ino for place in group.paths.values()]


@contextmanager
def expecting(path: str) -> Iterator[tuple[RuntimeLauncher, Cgroup]]:
    """A launcher that expects a container in this cgroup, which it has made; it may hold nothing of that afterwards."""
    before, group = open_descriptors(), Cgroup(path)
    assert not group.exists()
    launcher = RuntimeLauncher()
    launcher.expect(Expected(network_given=True, cgroup=path))
    assert group.exists()
    assert open_descriptors() != before
    yield launcher, group
    assert not group.exists()
    assert not left_since(before)
    with Path("/dev/null").open("rb") as nobody, suppress(OSError, ChildProcessError):
        launcher.reap(nobody.fileno())  # and the forks that have made containers from their configs


def places_of(launcher: RuntimeLauncher, box: Box, config: Config, *, plans: bool = True) -> list[int]:
    """Where a container comes to be, by the inodes; all is gone then. Without `plans` it is made from its config."""
    rootfs = box.rootfs()
    worked_out = planned.container("ahead", config, rootfs)
    assert worked_out is not None
    (box.base / "config.json").write_text(json.dumps(config))
    task = launcher.create(
        container_id="ahead",
        data_dir=str(box.base),
        terminal=False,
        rootfs=Rootfs(lower=rootfs.lower, upper=rootfs.upper, work=rootfs.work, volatile=rootfs.volatile),
        stdio=Stdio(),
        planned=worked_out.pack() if plans else b"",
        begun=lambda _: None,
    )
    assert isinstance(task, launch.Task)
    named = Cgroup(config["linux"]["cgroupsPath"])
    assert task.cgroup.path == named.path
    assert task.pid in named.pids()
    # In each hierarchy, and limited there.
    lines = {line.split(":", 2)[2] for line in Path(f"/proc/{task.pid}/cgroup").read_text().splitlines()}
    assert lines == {named.path}
    found = inodes(named)
    task.cgroup.kill_all()
    wait(task.pidfd)
    task.cgroup.remove()
    task.close()
    return found


@pytest.mark.parametrize("plans", [True, False])
def test_the_container_is_born_in_it(box: Box, plans: bool) -> None:
    config = box.config("/bin/true")
    with expecting(config["linux"]["cgroupsPath"]) as (launcher, group):
        made = inodes(group)
        assert (places_of(launcher, box, config, plans=plans) == made) == plans


def test_it_is_made_again_where_somebody_has_taken_it_away(box: Box) -> None:
    config = box.config("/bin/true")
    with expecting(config["linux"]["cgroupsPath"]) as (launcher, group):
        made = inodes(group)
        group.remove()
        assert places_of(launcher, box, config) != made


def test_a_container_that_names_another_is_in_that(box: Box) -> None:
    with expecting(f"{box.parent}/expected") as (launcher, group):
        made = inodes(group)
        assert places_of(launcher, box, box.config("/bin/true")) != made


def test_nothing_is_left_of_it_when_nobody_comes(box: Box) -> None:
    with expecting(f"{box.parent}/expected") as (launcher, _):
        launcher.dismiss()


def test_somebody_elses_is_left_alone(box: Box) -> None:
    config = box.config("/bin/sleep", "600")
    task = box.create(config)
    before = open_descriptors()
    launcher = RuntimeLauncher()
    launcher.expect(Expected(network_given=True, cgroup=config["linux"]["cgroupsPath"]))
    launcher.dismiss()
    assert task.pid in Cgroup(config["linux"]["cgroupsPath"]).pids()
    assert not left_since(before)


def test_one_that_was_not_made_ahead_is_like_any_other(box: Box) -> None:
    before, group = open_descriptors(), GroupAhead(f"{box.parent}/plain")
    group.create()
    assert Cgroup(f"{box.parent}/plain").exists()
    descriptors = [group.open_unified(), *group.open_tasks()]

    for descriptor in descriptors:
        if descriptor >= 0:
            os.close(descriptor)
    group.remove()
    assert not group.exists()
    assert not left_since(before)
