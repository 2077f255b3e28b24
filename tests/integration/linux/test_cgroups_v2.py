"""cgroup v2 with its controllers: where this machine has v1, `make test-v2` runs these in one that has not."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.linux.cgroups import Cgroup, hierarchies

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not hierarchies().is_v2, reason="needs root and cgroup v2")
MIB = 1 << 20


@pytest.fixture
def group() -> Iterator[Cgroup]:
    parent = Cgroup(f"/bh-test-{secrets.token_hex(4)}")
    made = Cgroup(f"{parent.path}/leaf")
    made.create()
    yield made
    parent.remove()
    assert not parent.exists()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def read(group: Cgroup, file: str) -> str:
    return Path(str(group.directory("")), file).read_text().strip()


def test_every_controller_is_enabled_on_the_way_down(group: Cgroup) -> None:
    available = Path(str(hierarchies().unified), "cgroup.controllers").read_text().split()
    assert {"cpu", "memory", "pids", "io"} <= set(available)
    assert read(group, "cgroup.controllers").split() == available


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (
            {"memory": {"limit": 64 * MIB, "swap": 96 * MIB, "reservation": 32 * MIB}},
            {"memory.max": str(64 * MIB), "memory.swap.max": str(32 * MIB), "memory.low": str(32 * MIB)},
        ),
        ({"memory": {"limit": -1}}, {"memory.max": "max", "memory.swap.max": "max"}),
        (
            {"cpu": {"shares": 1024, "quota": 50000, "period": 200000, "burst": 10000}},
            {"cpu.weight": "100", "cpu.max": "50000 200000", "cpu.max.burst": "10000"},
        ),
        ({"cpu": {"idle": 1, "shares": 512}}, {"cpu.idle": "1"}),
        ({"cpu": {"cpus": "0", "mems": "0"}}, {"cpuset.cpus": "0", "cpuset.mems": "0"}),
        ({"pids": {"limit": 0}}, {"pids.max": "1"}),
        ({"pids": {"limit": -1}}, {"pids.max": "max"}),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]}, {"hugetlb.2MB.max": str(4 * MIB)}),
        ({"unified": {"memory.high": str(16 * MIB), "cgroup.max.depth": "3"}}, {"memory.high": str(16 * MIB)}),
    ],
)
def test_the_kernel_takes_what_is_asked(group: Cgroup, resources: dict[str, object], expected: dict[str, str]) -> None:
    group.apply(resources)
    assert {file: read(group, file) for file in expected} == expected


def test_throttles_and_weights_of_a_block_device(group: Cgroup) -> None:
    device = Path("/sys/block/nullb0/dev")
    if not device.exists():
        pytest.skip("null_blk is not loaded")
    major, minor = map(int, device.read_text().split(":"))
    entry = {"major": major, "minor": minor, "rate": 1 << 20}
    group.apply({"blockIO": {"throttleReadBpsDevice": [entry], "throttleWriteIOPSDevice": [{**entry, "rate": 100}]}})
    assert read(group, "io.max") == f"{major}:{minor} rbps=1048576 wbps=max riops=max wiops=100"
    group.update({"blockIO": {"throttleReadBpsDevice": [{**entry, "rate": 0}]}})
    assert read(group, "io.max") == f"{major}:{minor} rbps=max wbps=max riops=max wiops=100"
    group.apply({"blockIO": {"weight": 500}})
    weights = [read(group, name) for name in ("io.bfq.weight", "io.weight") if Path(_file(group, name)).exists()]
    assert weights[0] in ("default 500", "default 4950")


def _file(group: Cgroup, name: str) -> str:
    return f"{group.directory('')}/{name}"


def test_a_missing_controller_is_named(group: Cgroup) -> None:
    below = Cgroup(f"{group.path}/below")
    Path(_file(below, "")).mkdir()
    with pytest.raises(OSError, match="the memory controller is not available"):
        below.apply({"memory": {"limit": MIB}})
    with pytest.raises(OSError, match=r"has no memory\.nonsense"):
        group.apply({"unified": {"memory.nonsense": "1"}})


def test_an_update_that_fails_changes_nothing(group: Cgroup) -> None:
    files = ("memory.max", "memory.swap.max", "cpu.max", "pids.max", "cpu.weight")
    group.apply({"memory": {"limit": 64 * MIB, "swap": 64 * MIB}, "cpu": {"quota": 20000}, "pids": {"limit": 9}})
    before = [read(group, name) for name in files]
    with pytest.raises(OSError):
        group.update(
            {
                "memory": {"limit": 128 * MIB, "swap": -1},
                "cpu": {"quota": 70000, "shares": 2048, "cpus": "9999"},
                "pids": {"limit": 99},
            }
        )
    assert [read(group, name) for name in files] == before
    group.update({"cpu": {"period": 50000}})
    assert read(group, "cpu.max") == "20000 50000"


def test_device_rules_are_replaced_in_a_group_in_use(group: Cgroup) -> None:
    null = {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}
    reads = ["sh", "-c", f"echo $$ > {_file(group, 'cgroup.procs')}; head -c 1 /dev/zero > /dev/null"]
    group.apply_devices({"devices": [{"allow": False, "access": "rwm"}, null]})
    assert subprocess.run(reads, capture_output=True, check=False).returncode != 0
    group.update({"devices": [{"allow": False, "access": "rwm"}, null, {**null, "minor": 5, "access": "r"}]})
    assert subprocess.run(reads, capture_output=True, check=False).returncode == 0


def test_freezing_a_group_that_forks_all_the_time(group: Cgroup) -> None:
    script = f"echo $$ > {_file(group, 'cgroup.procs')}; while :; do /bin/true; done"
    with subprocess.Popen(["sh", "-c", f"echo in; {script}"], stdout=subprocess.PIPE) as forker:
        assert forker.stdout is not None and forker.stdout.readline() == b"in\n"
        while not group.pids():
            os.sched_yield()
        group.freeze()
        assert group.is_frozen()
        group.thaw()
        assert not group.is_frozen()
        group.kill_all()
        assert forker.wait(60) == -9
    while group.pids():  # its last child is there until the host's init has reaped it
        os.sched_yield()


def test_figures(group: Cgroup) -> None:
    group.apply({"memory": {"limit": 512 * MIB}, "pids": {"limit": 50}})
    burn = f"echo $$ > {_file(group, 'cgroup.procs')}; head -c 4000000 /dev/zero | sha256sum; echo; exec sleep 600"
    with subprocess.Popen(["sh", "-c", burn], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() and process.stdout.readline()
        stats = group.stats()
        process.kill()
    assert stats.memory is not None and stats.memory.memory.limit == 512 * MIB and stats.memory.memory.usage > 0
    assert stats.memory.swap is not None and "anon" in stats.memory.detail
    assert stats.pids is not None and (stats.pids.usage, stats.pids.limit) == (1, 50)
    assert stats.cpu.total > 0 and stats.cpu.pressure is not None and "avg10" in stats.cpu.pressure.some
    assert stats.hugetlb["2MB"].usage == 0 and stats.io.pressure is not None


def test_who_is_killed_for_memory_is_counted(group: Cgroup) -> None:
    group.apply({"memory": {"limit": 16 * MIB, "swap": 16 * MIB}})
    hog = f"echo $$ > {_file(group, 'cgroup.procs')}; exec tail /dev/zero"
    assert group.oom_kills() == 0
    assert subprocess.run(["sh", "-c", hog], check=False).returncode == -9
    assert group.oom_kills() == 1


def test_threaded_groups_are_joined_and_killed(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    """Below a threaded group only threaded ones can have members; they list threads, not processes."""
    above = Path(_file(group, ""))
    (above / "cgroup.procs").write_text(str(sleeper.pid))
    below = Cgroup(f"{group.path}/below")
    Path(_file(below, "")).mkdir()
    Path(_file(below, "cgroup.type")).write_text("threaded")
    deeper = Cgroup(f"{below.path}/deeper")
    deeper.create()
    assert read(deeper, "cgroup.type") == "threaded"
    Path(_file(deeper, "cgroup.threads")).write_text(str(sleeper.pid))
    assert deeper.pids() == [sleeper.pid]
    deeper.kill_all()
    assert sleeper.wait(60) == -9


def test_a_delegated_group_is_its_users(group: Cgroup, sleeper: subprocess.Popen[bytes]) -> None:
    """The user may make groups below and move its processes there, and not change its own limit."""
    group.delegate(1234, 1234)
    script = "mkdir {0}/below && echo $$ > {0}/below/cgroup.procs && cat /proc/self/cgroup; echo 9 > {0}/pids.max"
    command = ["setpriv", "--reuid", "1234", "--regid", "1234", "--clear-groups"]
    enter = f"echo $$ > {_file(group, 'cgroup.procs')}; exec {' '.join(command)} sh -c"
    done = subprocess.run(
        ["sh", "-c", f"{enter} '{script.format(group.directory(''))}'"], capture_output=True, text=True, check=False
    )
    assert f"{group.path}/below" in done.stdout, done.stderr
    assert "ermission denied" in done.stderr
    assert read(group, "pids.max") == "max"
