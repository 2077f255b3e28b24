"""What of the host can be reached or changed (cve-battery C18-C21, H11)."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.security.engine.conftest import Attack
from tests.support.probe import parse

NOBODY = 65534
OPENED = {"c:1:3", "c:1:5", "c:1:7", "c:136:0"}


@pytest.fixture
def armed(attack: Attack) -> Attack:
    assert attack.pulled().status == 200
    return attack


# ---- C18, H11 ----


def test_no_socket_of_the_engine_is_abstract(armed: Attack) -> None:
    """CVE-2020-15257: whoever is uid 0 in the host's network namespace can call an abstract socket."""
    armed.start("sleep", "600")
    seen = armed.run("cat", "/proc/net/unix", host={"NetworkMode": "host"}).text
    names = [line.split()[7] for line in seen.splitlines()[1:] if len(line.split()) > 7]
    ours = [name for name in names if str(armed.engine.base) in name]
    assert ours  # the control: the container does see the host's sockets
    assert not [name for name in names if name.startswith("@") and ("bulkhead" in name or "shim" in name)]
    assert not [name for name in ours if armed.run("ls", name, host={"NetworkMode": "host"}).status == 0]


def reachable(directory: Path) -> list[str]:
    """What user nobody finds below, by name, by listing or by opening."""
    script = 'find "$0" -mindepth 1 2>/dev/null; for name in bulkhead.db content snapshots containers volumes; do '
    script += 'cat "$0/$name" "$0/$name"/* 2>/dev/null; done'
    command = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "sh", "-c", script]
    return subprocess.run([*command, str(directory)], capture_output=True, text=True, check=False).stdout.splitlines()


def test_nobody_reaches_the_data(armed: Attack) -> None:
    container = armed.start("sleep", "600", Env=["SECRET=x"])
    armed.engine.base.chmod(0o755)  # made by mkdtemp for root alone: what is below must hold by itself
    instance = armed.engine.instance
    assert reachable(instance.data) == []
    assert reachable(instance.run / "containers" / container[:12]) == []
    assert stat.S_IMODE(instance.docker_socket.stat().st_mode) == 0o660
    for place in instance.run.rglob("*.sock"):
        private = stat.S_IMODE(place.parent.stat().st_mode) & 0o077 == 0
        assert private or stat.S_IMODE(place.stat().st_mode) & 0o007 == 0, place
    (armed.engine.base / "open").mkdir(mode=0o755)  # the control: the same search does find what is open
    (armed.engine.base / "open" / "file").write_text("x")
    assert reachable(armed.engine.base / "open") != []


# ---- C19, C20, C21 ----

MOUNTS = (
    "mount -t cgroup -o memory cgroup /tmp",
    "mount -t tmpfs tmpfs /tmp",
    "mount -o remount,rw /sys/fs/cgroup",
    "mount -o remount,rw,bind /sys/fs/cgroup/memory",
    "mount -o remount,rw /proc/sys",
    "mount -o remount,rw /",
    "mount --bind /tmp /proc/sys",
    "umount /proc/sys",
    "umount /proc/timer_list",
    "umount /sys/firmware",
)
WRITES = (
    "/sys/fs/cgroup/memory/release_agent",
    "/sys/fs/cgroup/memory/notify_on_release",
    "/sys/fs/cgroup/memory/cgroup.procs",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "/sys/fs/cgroup/devices/devices.allow",
    "/sys/fs/cgroup/unified/cgroup.procs",
    "/sys/fs/cgroup/unified/cgroup.freeze",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/vm/drop_caches",
    "/proc/sysrq-trigger",
    "/proc/irq/default_smp_affinity",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
)


@pytest.mark.parametrize("options", [{}, {"CgroupnsMode": "host"}], ids=["default", "cgroupns host"])
def test_nothing_of_the_kernel_can_be_changed(armed: Attack, canary: Path, options: dict[str, str]) -> None:
    """By init and by exec; with every capability but no change of masks the same writes still meet EROFS."""
    script = "; ".join([f"{line} 2>/dev/null && echo DONE" for line in MOUNTS])
    writes = "; ".join(f"probe write {path} 1" for path in WRITES if Path(path).exists() or "cgroup" in path)
    container = armed.start("sleep", "600", host=options)
    for found in (
        armed.run("sh", "-c", f"{script}; {writes}", host=options).text,
        armed.exec(container, "sh", "-c", f"{script}; {writes}").text,
    ):
        assert set(found.split()) <= {"EROFS", "EACCES", "EPERM", "ENOENT"}, found
        assert "EROFS" in found
    assert armed.run("probe", "write", "/dev/null", "1").text == "ok\n"


@pytest.mark.parametrize("way", ["init", "exec", "restarted"])
def test_only_harmless_devices_open(armed: Attack, way: str) -> None:
    container = armed.start("probe", "report") if way == "restarted" else armed.start("sleep", "600")
    if way == "init":
        text = armed.run("probe", "report").text
    elif way == "exec":
        text = armed.exec(container, "probe", "report").text
    else:
        armed.engine.api("POST", f"/containers/{container}/wait")
        assert armed.engine.api("POST", f"/containers/{container}/restart").status == 204
        armed.engine.api("POST", f"/containers/{container}/wait")
        text = armed.logs(container)
    opened = {name for name, found in parse(text)["node"].items() if "open=ok" in found}
    assert OPENED - {"c:136:0"} <= opened <= {*OPENED, "c:5:0", "c:5:2"}


def test_a_device_that_is_given_opens_and_no_other(armed: Attack) -> None:
    device = {"PathOnHost": "/dev/kmsg", "PathInContainer": "/dev/given", "CgroupPermissions": "r"}
    given = Path("/dev/kmsg").stat().st_rdev
    name = f"c:{os.major(given)}:{os.minor(given)}"
    found = parse(armed.run("probe", "report", host={"Devices": [device]}).text)
    opened = {node for node, outcome in found["node"].items() if "open=ok" in outcome}
    assert found["dev"]["/dev/given"].split()[1] == name.removeprefix("c:")
    assert opened <= {*OPENED, "c:5:0", "c:5:2", name}


def test_masks_hold_by_every_way(armed: Attack) -> None:
    """Empty, and neither their mode nor what they cover can be got at; privileged containers have none."""
    found = parse(armed.run("probe", "report").text)["path"]
    masked = ["/proc/keys", "/proc/timer_list", "/proc/interrupts", "/proc/1/root/proc/keys"]
    for path in [*masked, "/proc/thread-self/root/proc/timer_list"]:
        assert found[path] == "file read=none write=opens chmod=EROFS", path
    for path in ("/proc/acpi", "/sys/firmware"):
        assert found[path] == "directory entries=none ro=1", path
    for path in ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/sys/fs/cgroup"):
        assert found[path].endswith("ro=1"), path
    bare = armed.run("sh", "-c", "cat /proc/timer_list | head -c 5", host={"Privileged": True})
    assert bare.text == "Timer"


def test_a_user_masks_what_he_likes(armed: Attack) -> None:
    host = {"MaskedPaths": ["/etc/passwd", "/bin/probe", "/tmp"], "ReadonlyPaths": ["/home", "/etc"]}
    found = armed.run(
        "sh", "-c", "cat /etc/passwd; touch /etc/x 2>&1; touch /tmp/x 2>&1; cat /proc/timer_list | wc -l", host=host
    )
    assert found.text.count("Read-only file system") == 2
    assert "root:" not in found.text and not found.text.endswith("\n0\n")
