"""Ways out of a container that others have shipped (cve-battery C01-C08, C19-C21, C27)."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bulkhead.errors import InvalidArgument, LaunchFailed
from bulkhead.runtime import defaults, launch
from bulkhead.runtime.launch import Task
from bulkhead.runtime.rootfs import StdioFds
from tests.support.containers import Box, Config, ended

F_GET_SEALS = 1034
ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8


@pytest.fixture
def canary(box: Box) -> Iterator[Path]:
    """A host directory outside of every container, and core_pattern: neither may change."""
    directory, pattern = box.base / "canary", Path("/proc/sys/kernel/core_pattern")
    directory.mkdir()
    (directory / "file").write_text("canary")
    before, core = sorted(entry.lstat() for entry in directory.iterdir()), pattern.read_text()
    yield directory
    assert sorted(entry.lstat() for entry in directory.iterdir()) == before
    assert (directory / "file").read_text() == "canary"
    assert pattern.read_text() == core


# ---- C01: the binary that enters (CVE-2019-5736) ----


def test_what_enters_is_a_sealed_copy(box: Box) -> None:
    task = box.create(box.config("true"))
    exe = Path(f"/proc/{task.pid}/exe")
    assert str(exe.readlink()).startswith("/memfd:bulkhead-nsinit")
    with exe.open("rb") as image:
        assert fcntl.fcntl(image.fileno(), F_GET_SEALS) & ALL_SEALS == ALL_SEALS
    libraries = {line.split()[-1] for line in Path(f"/proc/{task.pid}/maps").read_text().splitlines() if "/" in line}
    assert libraries <= {"/memfd:bulkhead-nsinit", "/memfd:bulkhead-plan", "(deleted)"}
    box.kill(task)


def test_an_entry_point_that_runs_its_runner_gets_nothing(box: Box) -> None:
    (box.image / "bin" / "loop").write_text("#!/proc/self/exe\n")
    (box.image / "bin" / "loop").chmod(0o755)
    assert box.run("loop").code == 125


# ---- C02: descriptors and directories (CVE-2024-21626) ----


@pytest.mark.parametrize(
    "target", [*(f"/proc/self/fd/{fd}" for fd in range(3, 9)), "/proc/1/cwd", "/proc/self/root", "/link"]
)
def test_a_working_directory_is_never_a_descriptor(box: Box, target: str) -> None:
    (box.image / "link").symlink_to("/proc/self/fd/7")
    with pytest.raises(LaunchFailed) as caught:
        box.run("pwd", cwd=target)
    assert caught.value.step == "cwd"
    task, config = box.start("sleep", "60")
    with pytest.raises(LaunchFailed) as caught:
        box.exec(task, config, "pwd", cwd=target)
    assert caught.value.step == "cwd"
    box.kill(task)


def test_a_parked_container_holds_only_what_closes_on_exec(box: Box) -> None:
    fd = os.open("/", os.O_RDONLY)
    os.set_inheritable(fd, True)
    task = box.create(box.config("true"))
    for entry in Path(f"/proc/{task.pid}/fdinfo").iterdir():
        if int(entry.name) > 2:
            flags = int(entry.read_text().split("flags:")[1].split()[0], 8)
            assert flags & os.O_CLOEXEC, entry.name
            assert "socket:" in str(Path(f"/proc/{task.pid}/fd/{entry.name}").readlink())
    os.close(fd)
    box.kill(task)


# ---- C04: images and volumes that bring their own /proc and /sys ----


def proc_as_link(image: Path) -> None:
    (image / "proc").symlink_to("/tmp")


def sys_as_link(image: Path) -> None:
    (image / "sys").symlink_to("proc")


def proc_as_file(image: Path) -> None:
    (image / "proc").write_text("")


def proc_dangling(image: Path) -> None:
    (image / "proc").symlink_to("/nowhere")


@pytest.mark.parametrize("plant", [proc_as_link, sys_as_link, proc_as_file, proc_dangling])
def test_proc_and_sys_must_be_ordinary_directories(box: Box, plant: Callable[[Path], None]) -> None:
    plant(box.image)
    with pytest.raises(LaunchFailed) as caught:
        box.run("true")
    assert (caught.value.step, caught.value.errno) == ("mount", errno.ENOTDIR)


def test_no_volume_takes_the_place_of_proc(box: Box) -> None:
    def edit(config: Config) -> None:
        config["mounts"] = [entry for entry in config["mounts"] if entry["destination"] != "/proc"]
        config["mounts"].append({"destination": "/proc", "type": "bind", "source": "/tmp", "options": ["bind"]})

    with pytest.raises(LaunchFailed, match="cannot be mounted because it is inside /proc"):
        box.run("true", edit=edit)


@pytest.mark.parametrize("target", ["/proc/self", "/proc/sys/kernel", "/proc/1/attr", "/p/sys", "/proc/../proc/self"])
def test_no_volume_lies_inside_proc(box: Box, target: str) -> None:
    (box.image / "p").symlink_to("/proc")

    def edit(config: Config) -> None:
        config["mounts"].append({"destination": target, "type": "bind", "source": "/tmp", "options": ["bind"]})

    with pytest.raises(LaunchFailed) as caught:
        box.run("true", edit=edit)
    assert (caught.value.step, caught.value.errno) == ("mount", errno.EPERM)


def test_what_lxcfs_provides_may(box: Box, tmp_path: Path) -> None:
    (tmp_path / "uptime").write_text("1.00 1.00\n")

    def edit(config: Config) -> None:
        source = str(tmp_path / "uptime")
        config["mounts"].append({"destination": "/proc/uptime", "type": "bind", "source": source, "options": ["bind"]})

    assert box.run("cat", "/proc/uptime", edit=edit).output == "1.00 1.00\n"


# ---- C05, C08: a /dev that is the image's or a volume's ----


@pytest.mark.parametrize("kind", ["link", "file", "fifo", "zero"])
def test_masks_do_not_come_from_the_containers_null(box: Box, canary: Path, tmp_path: Path, kind: str) -> None:
    """CVE-2025-31133: a /dev/null that is a link to core_pattern would be bound over a masked path."""
    volume = tmp_path / "dev"
    volume.mkdir()
    null = volume / "null"
    if kind == "link":
        null.symlink_to("/proc/sys/kernel/core_pattern")
    elif kind == "file":
        null.write_text("x")
    elif kind == "fifo":
        os.mkfifo(null)
    else:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 5))

    def edit(config: Config) -> None:
        config["mounts"] = [entry for entry in config["mounts"] if not entry["destination"].startswith("/dev")]
        config["mounts"].append({"destination": "/dev", "type": "bind", "source": str(volume), "options": ["rbind"]})
        config["linux"]["devices"] = []

    with pytest.raises(LaunchFailed) as caught:  # another null is refused, not used
        box.run("sh", "-c", "cat /proc/keys", edit=edit)
    assert caught.value.step in ("device", "stdio")


@pytest.mark.parametrize("name", ["dev", "etc/hosts", "dev/pts", "dev/shm", "dev/mqueue"])
@pytest.mark.parametrize("climb", ["", "../../../../../../../../../.."])
def test_links_of_the_image_stay_inside(box: Box, canary: Path, name: str, climb: str) -> None:
    """CVE-2026-41579: links and nodes were made on the host through an image's /dev."""
    place = box.image / name
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(f"{climb}{canary}")

    def edit(config: Config) -> None:
        config["mounts"].append(
            {"destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["bind"]}
        )

    assert box.run("true", edit=edit).code == 0


def test_a_mask_is_not_reached_through_a_link(box: Box) -> None:
    (box.image / "secret").symlink_to("/etc/passwd")

    def edit(config: Config) -> None:
        config["linux"]["maskedPaths"].append("/secret")

    with pytest.raises(LaunchFailed) as caught:
        box.run("true", edit=edit)
    assert (caught.value.step, caught.value.errno) == ("mask", errno.ELOOP)


def test_paths_can_be_masked_anywhere(box: Box) -> None:
    def edit(config: Config) -> None:
        config["linux"]["maskedPaths"] += ["/etc/passwd", "/home"]
        config["linux"]["readonlyPaths"] += ["/var"]

    done = box.run("sh", "-c", "cat /etc/passwd; ls /home; touch /var/x", edit=edit)
    assert done.output.strip() == "touch: /var/x: Read-only file system"


# ---- C19, C20: cgroup v1 and devices ----


@pytest.mark.parametrize(
    "command",
    [
        "mount -t cgroup -o memory cgroup /tmp",
        "mount -t cgroup2 cgroup /tmp",
        "mount -t tmpfs tmpfs /tmp",
        "mount -o remount,rw /sys/fs/cgroup",
        "mount -o remount,rw /proc/sys",
        "umount /proc/keys",
        "umount /proc/sys",
        "unshare -Urm true",
        "unshare -m true",
    ],
)
def test_mounts_cannot_be_changed(box: Box, command: str) -> None:
    done = box.run("sh", "-c", f"{command} 2>&1")
    assert done.code != 0
    assert "permitted" in done.output or "denied" in done.output


@pytest.mark.parametrize(
    "file", ["memory/release_agent", "memory/notify_on_release", "devices/devices.allow", "memory/cgroup.procs"]
)
def test_cgroup_files_are_not_writable(box: Box, file: str) -> None:
    done = box.run("sh", "-c", f"echo 1 > /sys/fs/cgroup/{file}")
    assert (
        "Read-only" in done.output
        or "nonexistent" in done.output
        or "No such file" in done.output
        or "can't create" in done.output
    )
    assert done.code != 0


@pytest.mark.parametrize(
    ("kind", "major", "minor"),
    [
        ("b", 254, 0),
        ("b", 8, 0),
        ("c", 1, 1),
        ("c", 1, 2),
        ("c", 1, 11),
        ("c", 10, 200),
        ("c", 10, 229),
        ("c", 10, 237),
    ],
)
def test_no_other_device_can_be_made(box: Box, kind: str, major: int, minor: int) -> None:
    done = box.run("sh", "-c", f"mknod /tmp/x {kind} {major} {minor} 2>&1 && cat /tmp/x 2>&1")
    assert done.code != 0 and "not permitted" in done.output


def test_a_device_node_of_the_image_cannot_be_opened(box: Box) -> None:
    os.mknod(box.image / "disk", stat.S_IFBLK | 0o666, os.makedev(254, 0))
    assert "not permitted" in box.run("sh", "-c", "head -c 1 /disk 2>&1").output


def test_exec_has_no_more_devices_than_the_container(box: Box) -> None:
    task, config = box.start("sleep", "60")
    done = box.exec(task, config, "sh", "-c", "mknod /tmp/x c 1 1 2>&1")
    assert "not permitted" in done.output
    box.kill(task)


# ---- C21: masks by other ways ----


@pytest.mark.parametrize(
    "way", ["/proc/1/root/proc/keys", "/proc/self/root/proc/keys", "/proc/thread-self/root/proc/keys"]
)
def test_a_mask_holds_by_every_way(box: Box, way: str) -> None:
    assert box.run("cat", way).output == ""


def test_read_only_paths_are(box: Box) -> None:
    done = box.run(
        "sh",
        "-c",
        "echo x > /proc/sys/kernel/core_pattern; echo x > /proc/sys/kernel/hostname; echo b > /proc/sysrq-trigger",
    )
    assert done.code != 0
    assert "core_pattern: Read-only file system" in done.output
    assert "hostname: Read-only file system" in done.output


# ---- C27: looking at who joins (CVE-2016-9962) ----


def stop(task: Task) -> None:
    """End the watcher, from outside: who makes the file within is killed with the container that ends by it."""
    Path(f"/proc/{task.pid}/root/stop").touch()


def test_whoever_joins_shows_nothing_more_than_the_container_has(armed: Box) -> None:
    """A watcher with CAP_SYS_PTRACE sees every process from its first instant in the pid namespace."""
    held = [*defaults.DEFAULT_CAPABILITIES, "CAP_SYS_PTRACE"]
    sets = {"bounding": held, "effective": held, "permitted": held}
    config = armed.config("probe", "watch", "/stop", capabilities=sets)
    config["linux"]["seccomp"] = defaults.default_seccomp(held)
    read, write = os.pipe()
    task = armed.create(config, StdioFds(stdout=write))
    os.close(write)
    task.start()
    with os.fdopen(read) as output:
        assert output.readline() == "watching\n"
        process = {**config["process"], "args": ["true"]}
        for _ in range(300):
            started = launch.exec_(task=task, config=config, process=process, stdio=StdioFds())
            assert ended(started) == 0
        stop(task)
        found = dict(part.split("=") for part in output.readline().split())
    assert int(found["looks"]) > 100
    assert (found["more_caps"], found["writable"], found["attached"], found["foreign"]) == ("0", "0", "0", "0")
    armed.finish(task)


def test_the_watcher_would_see_it(armed: Box) -> None:
    """The same watcher against a process that does hold more: the test above can fail."""
    held = [*defaults.DEFAULT_CAPABILITIES, "CAP_SYS_PTRACE"]
    sets = {"bounding": held, "effective": held, "permitted": held}
    config = armed.config("probe", "watch", "/stop", capabilities=sets)
    config["linux"]["seccomp"] = defaults.default_seccomp(held)
    read, write = os.pipe()
    task = armed.create(config, StdioFds(stdout=write))
    os.close(write)
    task.start()
    with os.fdopen(read) as output:
        assert output.readline() == "watching\n"
        everything = list(defaults.capabilities(privileged=True))
        wide = {"bounding": everything, "effective": everything, "permitted": everything}
        assert armed.exec(task, config, "sleep", "1", capabilities=wide).code == 0
        stop(task)
        found = dict(part.split("=") for part in output.readline().split())
    assert int(found["more_caps"], 16) != 0
    armed.finish(task)


# ---- C03: a target that is swapped while it is being mounted on ----


SWAP = """
import ctypes, sys
libc = ctypes.CDLL(None)
a, b = sys.argv[1].encode(), sys.argv[2].encode()
print("swapping", flush=True)
while True:
    libc.renameat2(-100, a, -100, b, 2)
"""


def test_a_target_that_is_swapped_never_leads_out(box: Box, canary: Path, tmp_path: Path) -> None:
    """CVE-2021-30465: one container swaps a directory of a shared volume for a link to the host's root."""
    volume = tmp_path / "volume"
    (volume / "d" / "x").mkdir(parents=True)
    (volume / "swap").symlink_to(f"../../../../../../../../../../..{canary}")

    def edit(config: Config) -> None:
        config["mounts"] += [
            {"destination": "/v", "type": "bind", "source": str(volume), "options": ["rbind"]},
            {"destination": "/v/d/x", "type": "tmpfs", "source": "tmpfs", "options": []},
            {"destination": "/v/d/y/z", "type": "tmpfs", "source": "tmpfs", "options": []},
        ]

    swapper = subprocess.Popen([sys.executable, "-c", SWAP, volume / "d", volume / "swap"], stdout=subprocess.PIPE)
    outcomes = set[str]()
    try:
        assert swapper.stdout is not None
        swapper.stdout.readline()
        for _ in range(150):
            try:
                outcomes.add(f"ran {box.run('true', edit=edit).code}")
            except LaunchFailed as error:
                outcomes.add(f"{error.step} {errno.errorcode[error.errno]}")
    finally:
        swapper.kill()
        swapper.communicate()
    assert outcomes, outcomes
    assert not any(outcome.startswith("ran") and outcome != "ran 0" for outcome in outcomes)


def test_a_mount_that_names_the_root_is_refused(box: Box) -> None:
    with pytest.raises(InvalidArgument):
        box.run("true", edit=lambda config: config["mounts"].append({"destination": "/../..", "type": "tmpfs"}))
