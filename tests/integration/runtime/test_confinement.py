"""What a default container is and may do, seen from inside: Docker's defaults to the letter."""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path

import pytest

from bulkhead.linux import caps
from bulkhead.runtime import defaults
from bulkhead.runtime.rootfs import StdioFds
from tests.support.containers import Box, Config

DEFAULT = f"{caps.mask(defaults.DEFAULT_CAPABILITIES):016x}"


def status(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+):\t(.*)$", text, re.MULTILINE))


def test_capabilities_and_filter(box: Box) -> None:
    found = status(box.run("cat", "/proc/self/status").output)
    assert [found[name] for name in ("CapBnd", "CapPrm", "CapEff")] == [DEFAULT] * 3
    assert [found[name] for name in ("CapInh", "CapAmb")] == ["0" * 16] * 2
    assert (found["Seccomp"], found["Seccomp_filters"], found["NoNewPrivs"]) == ("2", "1", "0")


def test_no_new_privileges(box: Box) -> None:
    found = status(box.run("cat", "/proc/self/status", noNewPrivileges=True).output)
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_signals_and_threads_are_as_at_birth(box: Box) -> None:
    """The caller ignores SIGPIPE and blocks what it likes; a program must not inherit that."""
    found = status(box.run("cat", "/proc/self/status").output)
    assert [found[name] for name in ("SigBlk", "SigIgn")] == ["0" * 16] * 2
    assert found["Umask"] == "0022"


def test_only_the_standard_descriptors_are_open(box: Box) -> None:
    junk = [os.open("/etc", os.O_RDONLY) for _ in range(5)]
    for fd in junk:
        os.set_inheritable(fd, True)
    try:
        names = box.run("sh", "-c", "ls /proc/$$/fd; true").output.split()
    finally:
        for fd in junk:
            os.close(fd)
    assert names == ["0", "1", "2"]


def test_mounts_and_their_options(box: Box) -> None:
    rows = [line.split() for line in box.run("cat", "/proc/self/mountinfo").output.splitlines()]
    options = {row[4]: row[5].split(",") for row in rows}
    hidden = {"nosuid", "nodev", "noexec"}
    assert hidden | {"rw"} <= set(options["/proc"])
    assert hidden | {"ro"} <= set(options["/sys"])
    assert hidden | {"ro"} <= set(options["/sys/fs/cgroup"])
    assert hidden <= set(options["/dev/shm"]) & set(options["/dev/mqueue"])
    assert {"nosuid", "noexec"} <= set(options["/dev/pts"])
    assert "nosuid" in options["/dev"] and "nodev" not in options["/dev"]
    for path in defaults.DEFAULT_READONLY_PATHS:
        if Path(path).exists():
            assert "ro" in options[path], path
    assert all("shared:" not in " ".join(row[6:]) for row in rows)


def test_nothing_of_the_host_is_mounted(box: Box) -> None:
    output = box.run("cat", "/proc/self/mounts").output
    assert not re.search(r" (/oldroot|/mnt|/work)\S* ", output)
    assert len(output.splitlines()) < 45


def test_devices(box: Box) -> None:
    listed = box.run("sh", "-c", "cd /dev; stat -c '%n %F %t:%T %a' full null random tty urandom zero").output
    assert listed.splitlines() == [
        f"{name} character special file {number} 666"
        for name, number in [
            *[("full", "1:7"), ("null", "1:3"), ("random", "1:8")],
            *[("tty", "5:0"), ("urandom", "1:9"), ("zero", "1:5")],
        ]
    ]
    links = box.run(
        "sh", "-c", "cd /dev; for name in fd stdin stdout stderr ptmx core; do readlink $name; done"
    ).output.split()
    core = ["/proc/kcore"] if Path("/proc/kcore").exists() else []  # a link that leads nowhere helps nobody
    assert links == ["/proc/self/fd", *(f"/proc/self/fd/{n}" for n in range(3)), "pts/ptmx", *core]


def test_names_and_loopback(box: Box) -> None:
    def named(config: Config) -> None:
        config["domainname"] = "example"

    output = box.run("sh", "-c", "hostname; cat /proc/sys/kernel/domainname; ip -o addr show lo", edit=named).output
    assert output.splitlines()[:2] == ["box", "example"]
    assert "127.0.0.1/8" in output
    assert os.uname().nodename != "box"


def test_sysctls_are_set_in_the_container_only(box: Box) -> None:
    path = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    before = Path(path).read_text()
    assert box.run("cat", path, "/proc/sys/net/ipv4/ping_group_range").output.split() == ["0", "0", "2147483647"]
    assert Path(path).read_text() == before


def test_the_cgroup_is_its_own_and_read_only(box: Box) -> None:
    script = "cd /sys/fs/cgroup; cat /proc/self/cgroup; for d in *; do touch $d/x 2>&1; done; cat pids/cgroup.procs"
    lines = box.run("sh", "-c", script).output.splitlines()
    assert all(line.endswith(":/") for line in lines if re.match(r"\d+:", line))
    refused = [line for line in lines if line.startswith("touch:")]
    assert refused and all(line.endswith("Read-only file system") for line in refused)
    assert "1" in lines


def test_pid_one_alone(box: Box) -> None:
    assert box.run("sh", "-c", "echo $$; ls -d /proc/[0-9]*").output.split()[:2] == ["1", "/proc/1"]


def test_oom_score(box: Box) -> None:
    assert box.run("cat", "/proc/self/oom_score_adj", oomScoreAdj=500).output.strip() == "500"


def test_a_read_only_root_keeps_its_volumes_writable(box: Box) -> None:
    def readonly(config: Config) -> None:
        config["root"]["readonly"] = True
        config["mounts"].append({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": []})

    done = box.run("sh", "-c", "touch /x 2>&1; touch /scratch/y && echo ok; touch /dev/shm/z && echo ok", edit=readonly)
    assert "Read-only file system" in done.output and done.output.count("ok") == 2


def test_writes_go_to_the_upper_layer_only(box: Box) -> None:
    box.run("sh", "-c", "echo changed > /etc/passwd; rm /etc/group")
    assert (box.image / "etc" / "passwd").read_text().startswith("root:")
    assert (box.image / "etc" / "group").exists()


@pytest.mark.parametrize("name", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"])
def test_masked_files_are_empty(box: Box, name: str) -> None:
    if not Path(name).exists():
        pytest.skip(f"{name} is not on this kernel")
    assert box.run("cat", name).output == ""


@pytest.mark.parametrize("name", ["/proc/acpi", "/sys/firmware"])
def test_masked_directories_are_empty(box: Box, name: str) -> None:
    assert box.run("ls", "-A", name).output == ""


def test_a_resource_limit_beyond_ours_is_clamped_with_a_warning(box: Box) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = [
        {"type": "RLIMIT_NOFILE", "soft": hard * 2, "hard": hard * 2},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    done = box.run("sh", "-c", "ulimit -n; ulimit -c", rlimits=limits)
    if done.warnings:  # without CAP_SYS_RESOURCE
        assert done.output.split() == [str(hard), "0"]
        assert "rlimit" in done.warnings[0]
    else:
        assert done.output.split() == [str(hard * 2), "0"]


def test_environment_is_exactly_what_was_asked(box: Box) -> None:
    os.environ["BULKHEAD_SECRET"] = "leak"
    try:
        output = box.run("sh", "-c", "cat /proc/1/environ | sort -z", env=["PATH=/bin", "A=1", "A=2"]).output
    finally:
        del os.environ["BULKHEAD_SECRET"]
    assert output.split("\0") == ["A=1", "A=2", "HOME=/root", "PATH=/bin", ""]


@pytest.mark.parametrize("readonly", [False, True])
def test_a_missing_working_directory_is_made(box: Box, readonly: bool) -> None:
    """Also below a root that the process itself may not write: `docker run --read-only -w /work`."""
    done = box.run("pwd", cwd="/new/deep", edit=lambda config: config["root"].update(readonly=readonly))
    assert done.output.strip() == "/new/deep"


def test_pids_limit_holds(box: Box) -> None:
    def limited(config: Config) -> None:
        config["linux"]["resources"]["pids"] = {"limit": 3}

    done = box.run("sh", "-c", "for i in 1 2 3 4 5; do sleep 60 & done; wait", edit=limited)
    assert "can't fork" in done.output


def test_memory_limit_holds_and_the_kill_is_counted(box: Box) -> None:
    config = box.config("sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1 & wait $!; echo dead $?")
    config["linux"]["resources"]["memory"] = {"limit": 32 << 20, "swap": 32 << 20}
    read, write = os.pipe()
    task = box.create(config, StdioFds(stdout=write, stderr=write))
    os.close(write)
    task.start()
    with os.fdopen(read) as output:
        assert "dead 137" in output.read()
    assert task.cgroup.oom_kills() >= 1
    box.finish(task)


def test_privileged_is_docker_privileged(box: Box) -> None:
    """Every capability that this machine has, nothing masked, every device, writable kernel file systems."""
    everything = list(defaults.capabilities(privileged=True))

    def privileged(config: Config) -> None:
        config["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), everything)
        for entry in config["mounts"]:
            entry["options"] = [option for option in entry["options"] if option != "ro"]
        linux = config["linux"]
        linux.update(maskedPaths=[], readonlyPaths=[], resources={"devices": [{"allow": True, "access": "rwm"}]})
        linux["devices"] = [{"path": "/dev/mem", "type": "c", "major": 1, "minor": 1, "fileMode": 0o640}]
        del linux["seccomp"]

    free = "mount -t tmpfs tmpfs /tmp && mkdir /sys/fs/cgroup/pids/x && mknod /tmp/m c 1 1 && echo free"
    done = box.run("sh", "-c", f"cat /proc/self/status; {free}", edit=privileged)
    found = status(done.output)
    ours = status(Path("/proc/self/status").read_text())
    assert found["CapEff"] == found["CapBnd"] == ours["CapBnd"]
    assert (found["Seccomp"], done.output.splitlines()[-1]) == ("0", "free")
