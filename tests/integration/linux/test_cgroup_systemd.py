"""The systemd driver where systemd runs.

Elsewhere this module is run again below a systemd of its own, in namespaces: `tests/v2/systemd.sh` with the
hierarchies of cgroup v1, and with v2, which has no controllers where v1 has them. `make test-v2 V2=--systemd` boots
a machine where it has.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.linux import systemd
from bulkhead.linux.cgroup_mounts import parse_mountinfo
from bulkhead.linux.cgroup_systemd import ScopeGroup
from bulkhead.linux.cgroups import Cgroup
from bulkhead.linux.systemd_properties import parse_scope

needs_systemd = pytest.mark.skipif(
    os.geteuid() != 0 or not systemd.is_running(), reason="needs root and a running systemd"
)
MIB = 1 << 20


@pytest.fixture
def group() -> Iterator[ScopeGroup]:
    made = ScopeGroup(parse_scope(f"bhtest.slice:bh:{secrets.token_hex(4)}", "test"), "test")
    yield made
    made.kill_all()
    made.remove()
    assert not made.exists()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def said(unit: str, name: str) -> str:
    command = ["systemctl", "show", "--property", name, "--value", unit]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_without_systemd_the_reason_is_told() -> None:
    if systemd.is_running():
        pytest.skip("systemd runs here")
    with pytest.raises(OSError, match="systemd not running on this host"):
        ScopeGroup(parse_scope("", "test"), "test").create()


@needs_systemd
def test_a_scope_is_made_joined_and_stopped(group: ScopeGroup, sleeper: subprocess.Popen[bytes]) -> None:
    group.create()
    assert said(group.unit, "ActiveState") == "active" and said(group.unit, "Delegate") == "yes"
    assert group.pids() != []  # who holds it until it has members
    group.add(sleeper.pid)
    group.settled()
    assert group.pids() == [sleeper.pid]
    assert said(group.unit, "ControlGroup") == group.path
    group.kill_all()
    sleeper.wait(60)
    group.remove()
    assert said(group.unit, "ActiveState") == "inactive"


def is_v2() -> bool:
    return parse_mountinfo(Path("/proc/self/mountinfo").read_text()).is_v2


def has(group: ScopeGroup, controller: str) -> bool:
    return not is_v2() or controller in Path(str(group.directory("")), "cgroup.controllers").read_text().split()


@needs_systemd
def test_limits_are_systemds_too(group: ScopeGroup, sleeper: subprocess.Popen[bytes]) -> None:
    group.create()
    group.add(sleeper.pid)
    group.settled()
    if not has(group, "memory"):
        pytest.skip("cgroup v1 has the controllers here")
    group.apply({"memory": {"limit": 64 * MIB}, "pids": {"limit": 20}, "cpu": {"shares": 512, "quota": 50000}})
    v2 = is_v2()
    assert said(group.unit, "MemoryMax" if v2 else "MemoryLimit") == str(64 * MIB)
    assert said(group.unit, "TasksMax") == "20"
    group.update({"memory": {"limit": 128 * MIB, "swap": 128 * MIB}})
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    expected = {
        "memory": ("memory.max" if v2 else "memory.limit_in_bytes", str(128 * MIB)),
        "pids": ("pids.max", "20"),
        "cpu": ("cpu.weight", "59") if v2 else ("cpu.shares", "512"),
    }
    for controller, (file, value) in expected.items():
        assert Path(str(group.directory(controller)), file).read_text().strip() == value


@needs_systemd
def test_another_process_finds_it_by_its_paths(group: ScopeGroup, sleeper: subprocess.Popen[bytes]) -> None:
    group.create()
    group.add(sleeper.pid)
    group.settled()
    again = ScopeGroup.found(group.paths, "test")
    assert (again.unit, again.path, again.pids()) == (group.unit, group.path, [sleeper.pid])
    if not has(group, "pids"):
        pytest.skip("cgroup v1 has the controllers here")
    again.update({"pids": {"limit": 5}})
    assert said(group.unit, "TasksMax") == "5"


@needs_systemd
def test_annotations_reach_the_unit() -> None:
    annotations = {"org.systemd.property.TimeoutStopSec": "uint64 7", "org.systemd.property.CollectMode": "'inactive'"}
    group = ScopeGroup(parse_scope(f":bh:{secrets.token_hex(4)}", "test"), "test", annotations)
    try:
        group.create()
        assert said(group.unit, "TimeoutStopUSec") == "7s"
    finally:
        group.remove()


@needs_systemd
def test_a_property_that_systemd_refuses_leaves_nothing() -> None:
    group = ScopeGroup(parse_scope(":bh:refused", "test"), "test", {"org.systemd.property.Nonsense": "true"})
    with pytest.raises(OSError, match="systemd: "):
        group.create()
    assert said(group.unit, "ActiveState") == "inactive" and not Cgroup(group.path).exists()


@needs_systemd
def test_the_command_runs_containers_in_scopes(tmp_path: Path) -> None:
    """The whole way: run, delete, and no unit left."""
    rootfs = tmp_path / "rootfs" / "bin"
    rootfs.mkdir(parents=True)
    (rootfs / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (rootfs / "busybox").chmod(0o755)
    runtime = [sys.executable, "-m", "bulkhead.runtime.command", "--root", str(tmp_path / "state"), "--systemd-cgroup"]
    subprocess.run([*runtime, "spec"], cwd=tmp_path, check=True)
    config = tmp_path / "config.json"
    text = config.read_text()
    for old, new in (
        ('"sh"', '"/bin/busybox", "cat", "/proc/self/cgroup"'),
        ('"linux": {', '"linux": {"cgroupsPath": "bhtest.slice:bh:run",'),
        ('"terminal": true', '"terminal": false'),
    ):
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    done = subprocess.run([*runtime, "run", "bhrun"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0::/" in done.stdout
    assert said("bh-run.scope", "ActiveState") == "inactive"


@pytest.mark.skipif(
    os.geteuid() != 0 or systemd.is_running() or not Path("/lib/systemd/systemd").exists(),
    reason="needs root, and systemd installed and not running",
)
@pytest.mark.timeout(600)  # each of those has a minute
@pytest.mark.parametrize("layout", ["legacy", "unified"])
def test_all_this_below_a_systemd_of_its_own(layout: str) -> None:
    if layout == "legacy" and not Path("/sys/fs/cgroup/systemd").is_dir():
        pytest.skip("needs cgroup v1 with the hierarchy name=systemd")
    script = Path(__file__).parents[2] / "v2/systemd.sh"
    pytest_here = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "60",
        __file__,
    ]
    command = ["bash", str(script), layout, *pytest_here]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as machine:
        try:
            output, _ = machine.communicate()
        finally:
            machine.terminate()  # who is killed takes no systemd and no cgroup away
            machine.wait(60)
    assert machine.returncode == 0 and " passed" in output, output
