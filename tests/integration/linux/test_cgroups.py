"""Cgroups for real: v1 as this machine has it, v2 mounted alone in a private mount namespace."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.linux.cgroups import Cgroup, hierarchies

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cgroups need root")
PROJECT = Path(__file__).parents[3]


@pytest.fixture
def group() -> Iterator[Cgroup]:
    parent = Cgroup(f"/bh-test-{secrets.token_hex(4)}")
    yield Cgroup(f"{parent.path}/leaf")
    parent.remove()
    assert not parent.exists()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_made_used_and_removed(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    group.create()
    assert all(Path(root + group.path).is_dir() for root in hierarchies().roots())
    group.add(sleeper.pid)
    assert group.pids() == [sleeper.pid]
    group.kill_all()
    sleeper.wait(10)
    group.remove()
    assert not group.exists()
    group.remove()  # twice is fine


def test_an_empty_group_that_exists_is_taken_over(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    group.create()
    group.create()
    group.add(sleeper.pid)
    with pytest.raises(FileExistsError):
        group.create()


def test_groups_below_are_counted_killed_and_removed(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    group.create()
    below = Cgroup(f"{group.path}/below")
    below.create()
    below.add(sleeper.pid)
    assert group.pids() == [sleeper.pid]
    group.kill_all()
    sleeper.wait(10)
    group.remove()
    assert not below.exists()


def test_freezing(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    group.create()
    group.add(sleeper.pid)
    group.freeze()
    assert group.is_frozen()
    group.thaw()
    assert not group.is_frozen()


def test_killing_what_is_frozen(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    group.create()
    group.add(sleeper.pid)
    group.freeze()
    group.kill_all()
    group.thaw()
    assert sleeper.wait(10) == -9


@pytest.mark.skipif(hierarchies().is_v2, reason="this machine has cgroup v2")
def test_limits_on_v1(group: Cgroup) -> None:
    group.create()
    group.apply(
        {
            "memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 32 << 20},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"},
            "pids": {"limit": 10},
            "devices": [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 1, "access": "r"}],
        }
    )

    def read(controller: str, file: str) -> str:
        return Path(str(group.directory(controller)), file).read_text().strip()

    assert read("memory", "memory.limit_in_bytes") == str(64 << 20)
    assert read("memory", "memory.soft_limit_in_bytes") == str(32 << 20)
    assert [read("cpu", name) for name in ("cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us")] == [
        "512",
        "50000",
        "100000",
    ]
    assert (read("cpuset", "cpuset.cpus"), read("pids", "pids.max")) == ("0", "10")
    assert read("devices", "devices.list") == "c 1:* r"


@pytest.mark.skipif(hierarchies().is_v2, reason="this machine has cgroup v2")
@pytest.mark.parametrize("steps", [((64, 128), (256, 512), (32, 32), (128, 256))])
def test_limits_can_be_raised_and_lowered_on_v1(group: Cgroup, steps: tuple[tuple[int, int], ...]) -> None:
    """memory+swap may never be below memory: the order of the two writes depends on the direction."""
    group.create()
    for limit, swap in steps:
        group.apply({"memory": {"limit": limit << 20, "swap": swap << 20}})
        file = Path(str(group.directory("memory")), "memory.limit_in_bytes")
        assert file.read_text().strip() == str(limit << 20)


def test_a_controller_that_is_not_there_is_named(group: Cgroup) -> None:
    group.create()
    with pytest.raises(OSError, match="rdma"):
        group.apply({"rdma": {"mlx5_1": {"hcaHandles": 3}}})


def test_figures(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    group.create()
    group.add(sleeper.pid)
    stats = group.stats()
    assert stats.cpu.total >= 0
    assert stats.pids is not None and (stats.pids.usage, stats.pids.limit) == (1, None)
    assert stats.memory is not None and stats.memory.memory.usage >= 0
    assert stats.memory.memory.limit is None
    assert group.oom_kills() == 0


@pytest.mark.skipif(hierarchies().is_v2, reason="this machine has cgroup v1")
def test_an_update_that_fails_changes_nothing(group: Cgroup) -> None:
    group.create()
    group.apply({"memory": {"limit": 64 << 20, "swap": 128 << 20}, "pids": {"limit": 10}, "cpu": {"quota": 50000}})
    before = [_file(group, *name) for name in FILES]
    with pytest.raises(OSError):
        group.update(
            {
                "memory": {"limit": 256 << 20, "swap": 512 << 20},
                "pids": {"limit": 99},
                "cpu": {"quota": 70000, "period": 200000, "cpus": "9999"},
            }
        )
    assert [_file(group, *name) for name in FILES] == before
    group.update({"memory": {"limit": 256 << 20, "swap": 512 << 20}, "pids": {"limit": 99}})
    assert _file(group, "pids", "pids.max") == "99"


FILES = (
    *(("memory", name) for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")),
    *(("cpu", name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")),
    *(("pids", "pids.max"), ("cpuset", "cpuset.cpus")),
)


def _file(group: Cgroup, controller: str, name: str) -> str:
    return Path(str(group.directory(controller)), name).read_text().strip()


@pytest.mark.skipif(hierarchies().is_v2, reason="this machine has cgroup v1")
def test_a_period_that_fits_only_the_new_quota(group: Cgroup) -> None:
    """The kernel holds a child's share of time below its parent's at every single write."""
    above = Cgroup(group.path.rpartition("/")[0])
    group.create()
    above.apply({"cpu": {"quota": 50000, "period": 100000}})
    group.apply({"cpu": {"quota": 50000, "period": 100000}})
    group.update({"cpu": {"quota": 5000, "period": 10000, "burst": 1000}})
    assert (_file(group, "cpu", "cpu.cfs_quota_us"), _file(group, "cpu", "cpu.cfs_period_us")) == ("5000", "10000")
    assert _file(group, "cpu", "cpu.cfs_burst_us") == "1000"


@pytest.mark.skipif(hierarchies().is_v2, reason="this machine has cgroup v1")
@pytest.mark.parametrize(("shares", "words"), [(1 << 20, "maximum"), (1, "minimum")])
def test_shares_out_of_range_are_told(group: Cgroup, shares: int, words: str) -> None:
    group.create()
    with pytest.raises(ValueError, match=f"the {words} allowed cpu-shares is"):
        group.apply({"cpu": {"shares": shares}})


HOG = "read go; exec {python} -c 'x = bytearray(1 << 28); import signal; signal.pause()'"


def test_who_is_killed_for_memory_is_counted(group: Cgroup) -> None:
    group.create()
    group.apply({"memory": {"limit": 32 << 20, "swap": 64 << 20}})
    command = ["sh", "-c", HOG.format(python=sys.executable)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as hog:
        group.add(hog.pid)
        hog.communicate(b"go\n", timeout=60)
    assert hog.returncode == -9
    assert group.oom_kills() >= 1
    stats = group.stats()
    assert stats.memory is not None and stats.memory.memory.limit == 32 << 20
    assert stats.memory.memory.failed > 0


def test_a_group_is_found_again_by_its_paths(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    group.create()
    group.add(sleeper.pid)
    again = Cgroup.at(group.paths)
    assert (again.path, again.pids(), again.paths) == (group.path, [sleeper.pid], group.paths)
    group.create(occupied=True)


def test_a_relative_path_is_below_this_process() -> None:
    name = f"bh-test-{secrets.token_hex(4)}"
    group = Cgroup(name)
    try:
        group.create()
        with subprocess.Popen(["sleep", "600"]) as sleeper:
            group.add(sleeper.pid)
            theirs = Path(f"/proc/{sleeper.pid}/cgroup").read_text()
            group.kill_all()
        assert theirs.count(f"/{name}\n") == len(hierarchies().roots())
    finally:
        group.remove()
    assert not group.exists()


# ---- v2 ----

V2 = """
import errno, os, subprocess, sys
from pathlib import Path
if not os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
    subprocess.run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], check=True)
from bulkhead.linux import cgroup_devices
from bulkhead.linux.cgroups import Cgroup, hierarchies
from tests.support.containers import Box
assert hierarchies().is_v2 and not hierarchies().v1
"""

V2_GROUP = (
    V2
    + """
parent = Cgroup("/bh-test-" + os.urandom(4).hex())
group = Cgroup(parent.path + "/leaf")
group.create()
assert group.open_tasks() == []
with subprocess.Popen(["sleep", "600"]) as sleeper:
    group.add(sleeper.pid)
    assert group.pids() == [sleeper.pid]
    group.freeze()
    assert group.is_frozen()
    group.kill_all()
    group.thaw()
    assert sleeper.wait(10) == -9
directory = Path("/sys/fs/cgroup" + group.path)
available = (directory / "cgroup.controllers").read_text().split()
assert set(available) == set(Path("/sys/fs/cgroup/cgroup.controllers").read_text().split())
if "hugetlb" in available:
    size = next(directory.glob("hugetlb.*MB.max")).name.split(".")[1]
    group.apply({"hugepageLimits": [{"pageSize": size, "limit": 0}]})
try:
    group.apply({"rdma": {"x": {"hcaHandles": 1}}})
except OSError as error:
    there = "rdma" in available  # and yet no such device
    assert error.errno == errno.ENODEV if there else "rdma controller is not available" in str(error), error
else:
    raise AssertionError("there is no such device")
null = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
rules = cgroup_devices.parse_rules([{"allow": False, "access": "rwm"}, null])
for _ in range(2):  # the second replaces the first
    cgroup_devices.attach(str(directory), rules)
probe = ["sh", "-c", "echo $$ > %s/cgroup.procs; echo > /dev/null && ! head -c 1 /dev/zero" % directory]
assert subprocess.run(probe, capture_output=True).returncode == 0
cgroup_devices.attach(str(directory), cgroup_devices.parse_rules([{"allow": True, "access": "rwm"}]))
probe = ["sh", "-c", "echo $$ > %s/cgroup.procs; head -c 1 /dev/zero" % directory]
assert subprocess.run(probe, capture_output=True).returncode == 0
assert group.oom_kills() == 0 and group.stats().cpu.total > 0
group.remove()
parent.remove()
assert not parent.exists()
print("done")
"""
)

V2_CONTAINER = (
    V2
    + """
box = Box(Path(sys.argv[1]))
script = '''
cat /proc/self/cgroup /sys/fs/cgroup/cgroup.procs
touch /sys/fs/cgroup/x
mkdir /sys/fs/cgroup/x
mknod /tmp/m c 1 1
grep cgroup /proc/mounts
'''
try:
    print(box.run("sh", "-c", script).output)
    task, config = box.start("sleep", "60")
    assert task.cgroup.pids() == [task.pid]
    assert "0::/" in box.exec(task, config, "cat", "/proc/self/cgroup").output.splitlines()
    assert box.kill(task) == 137
finally:
    box.close()
assert not Path("/sys/fs/cgroup" + box.parent).exists()
"""
)


def alone(script: str, *arguments: object) -> str:
    command = ["unshare", "-m", "--propagation", "private", sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_v2_groups_devices_and_limits() -> None:
    assert alone(V2_GROUP) == "done\n"


def test_containers_on_v2(tmp_path: Path) -> None:
    if not Path("/bin/busybox").exists():
        pytest.skip("busybox-static is not installed")
    lines = alone(V2_CONTAINER, tmp_path / "box").splitlines()
    assert "0::/" in lines and "1" in lines
    assert sum("Read-only file system" in line for line in lines) == 2
    assert any("mknod" in line and "not permitted" in line for line in lines)
    assert any(
        line.startswith("cgroup2 /sys/fs/cgroup cgroup2 ro,") or " /sys/fs/cgroup cgroup2 ro," in line for line in lines
    )
