"""`purge` removes an installation from the machine and can harm nothing else."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead import settings
from bulkhead.ctl import remains
from bulkhead.ctl.purging import purge
from bulkhead.errors import Conflict
from bulkhead.linux.cgroups import Cgroup
from bulkhead.settings import Settings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes cgroups and interfaces: needs root")


@pytest.fixture
def told() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="bh-") as base:
        names = {"BULKHEAD_RUN": f"{base}/run", "BULKHEAD_DATA": f"{base}/data", "BULKHEAD_BRIDGE": f"b{os.getpid()}"}
        told = settings.load(names)
        (told.instance.run / "containers" / "0123456789ab").mkdir(parents=True)
        (told.instance.data / "content").mkdir(parents=True)
        yield told


def cgroup_of(told: Settings) -> Path:
    """A cgroup of this installation in the first hierarchy where one can be made."""
    for root in remains.hierarchies():
        path = root / told.instance.label / "ffff"
        try:
            path.mkdir(parents=True)
        except OSError:
            continue
        return path
    pytest.skip("no cgroup hierarchy that can be written")


def test_everything_is_gone_and_a_second_time_does_nothing(told: Settings) -> None:
    (told.instance.run / "manager.pid").write_text("1\n")
    assert len(list(purge(told))) == 2
    assert not told.instance.run.exists()
    assert not told.instance.data.exists()
    assert list(purge(told)) == []


def test_a_strangers_file_is_kept_and_named(told: Settings) -> None:
    """A data directory that was pointed at somebody's home loses only what is ours."""
    (told.instance.data / "thesis.tex").write_text("x")
    report = list(purge(told))
    assert (told.instance.data / "thesis.tex").exists()
    assert not (told.instance.data / "content").exists()
    assert any("thesis.tex" in line for line in report)


def test_a_symlink_is_refused(told: Settings) -> None:
    elsewhere = told.instance.run.parent / "elsewhere"
    told.instance.data.rename(elsewhere)
    told.instance.data.symlink_to(elsewhere)
    with pytest.raises(Conflict, match="not a plain directory"):
        list(purge(told))
    assert (elsewhere / "content").is_dir()


def test_another_users_directory_is_refused(told: Settings) -> None:
    os.chown(told.instance.data, 12345, 12345)
    with pytest.raises(Conflict, match="belongs to user 12345"):
        list(purge(told))
    assert told.instance.run.is_dir()


def test_links_in_the_tree_are_not_followed(told: Settings) -> None:
    """A container may have made them."""
    outside = told.instance.run.parent / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (told.instance.data / "content" / "link").symlink_to(outside)
    (told.instance.data / "snapshots").symlink_to(outside)
    list(purge(told))
    assert (outside / "kept").exists()


def test_containers_die_and_their_cgroups_go(told: Settings) -> None:
    """With no service alive, the cgroup is what tells a container's processes."""
    cgroup = cgroup_of(told)
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        (cgroup / "cgroup.procs").write_text(str(sleeper.pid))
        assert remains.running_containers(told.instance) == {"ffff"}
        report = list(purge(told))
        assert sleeper.wait(timeout=10) == -9
    assert "1 running container killed" in report
    assert remains.cgroup_parents(told.instance) == []


def test_a_paused_container_dies_too(told: Settings) -> None:
    """In cgroup v1 SIGKILL waits until its processes are thawed."""
    group = Cgroup(f"/{told.instance.label}/eeee")
    group.create()
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        group.add(sleeper.pid)
        group.freeze()
        list(purge(told))
        assert sleeper.wait(timeout=10) == -9
    assert remains.cgroup_parents(told.instance) == []


def test_only_this_installations_bridge_is_removed(told: Settings) -> None:
    bridge, other = told.instance.bridge, f"{told.instance.bridge}o"
    for name in (bridge, other):
        subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    try:
        assert f"interface {bridge} removed" in list(purge(told))
        assert not Path("/sys/class/net", bridge).exists()
        assert Path("/sys/class/net", other).exists()
    finally:
        subprocess.run(["ip", "link", "delete", other], check=True)
