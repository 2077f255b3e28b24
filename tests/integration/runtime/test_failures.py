"""Every step that can fail says which it was and why, and leaves nothing (the box checks that)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bulkhead.errors import Conflict, Internal, InvalidArgument, LaunchFailed
from bulkhead.linux.cgroups import Cgroup, hierarchies
from bulkhead.runtime import defaults
from bulkhead.runtime.rootfs import StdioFds
from tests.support.containers import Box, Config
from tests.support.descriptors import left_since, open_descriptors

PREFIX = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
)


@pytest.mark.parametrize(
    ("program", "text", "code"),
    [
        ("nosuch", 'exec: "nosuch": executable file not found in $PATH: unknown', 127),
        ("/nosuch", 'exec: "/nosuch": stat /nosuch: no such file or directory: unknown', 127),
        ("/etc/passwd/x", 'exec: "/etc/passwd/x": stat /etc/passwd/x: not a directory: unknown', 127),
        ("/etc", 'exec: "/etc": permission denied: unknown', 126),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied: unknown', 126),
        ("", 'exec: "": executable file not found in $PATH: unknown', 127),
    ],
)
def test_programs_that_cannot_be_run(box: Box, program: str, text: str, code: int) -> None:
    """Docker's words at create, before anything is started: clients match them."""
    with pytest.raises(LaunchFailed) as caught:
        box.run(program)
    assert str(caught.value) == PREFIX + text
    assert (caught.value.step, caught.value.exit_code) == ("lookup", code)


def test_a_file_that_is_no_program_fails_at_start(box: Box) -> None:
    (box.image / "bin" / "junk").write_bytes(b"\0\1\2\3")
    (box.image / "bin" / "junk").chmod(0o755)
    with pytest.raises(LaunchFailed) as caught:
        box.run("junk")
    assert (caught.value.step, caught.value.errno, caught.value.exit_code) == ("exec", errno.ENOEXEC, 126)


def test_a_script_without_its_interpreter_fails_at_start(box: Box) -> None:
    (box.image / "bin" / "script").write_text("#!/no/such/sh\n")
    (box.image / "bin" / "script").chmod(0o755)
    with pytest.raises(LaunchFailed) as caught:
        box.run("script")
    assert (caught.value.step, caught.value.errno, caught.value.exit_code) == ("exec", errno.ENOENT, 127)


def test_path_is_searched_for_what_is_executable(box: Box) -> None:
    for name, mode in (("a", 0o644), ("b", 0o755)):
        (box.image / name).mkdir()
        (box.image / name / "tool").write_text("#!/bin/sh\necho $0\n")
        (box.image / name / "tool").chmod(mode)
    assert box.run("tool", env=["PATH=/nosuch:/a:/b"]).output == "/b/tool\n"


def test_without_path_nothing_is_found(box: Box) -> None:
    with pytest.raises(LaunchFailed, match="not found"):
        box.run("true", env=[])


def _mounts(entry: dict[str, object]) -> Callable[[Config], None]:
    return lambda config: config["mounts"].append(entry)


def _linux(**changes: object) -> Callable[[Config], None]:
    return lambda config: config["linux"].update(changes)


STEPS: dict[str, tuple[Callable[[Config], None], str, int]] = {
    "unknown file system": (_mounts({"destination": "/m", "type": "nosuchfs"}), "mount", errno.ENODEV),
    "unknown option": (_mounts({"destination": "/m", "type": "tmpfs", "options": ["foo=1"]}), "mount", errno.EINVAL),
    "missing source": (
        _mounts({"destination": "/m", "type": "bind", "source": "/no/such/dir", "options": ["bind"]}),
        "mount",
        errno.ENOENT,
    ),
    "directory onto file": (
        _mounts({"destination": "/etc/passwd", "type": "bind", "source": "/tmp", "options": ["bind"]}),
        "mount",
        errno.ENOTDIR,
    ),
    "file onto directory": (
        _mounts({"destination": "/tmp", "type": "bind", "source": "/etc/passwd", "options": ["bind"]}),
        "mount",
        errno.ENOTDIR,
    ),
    "inside proc": (
        _mounts({"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"}),
        "mount",
        errno.EPERM,
    ),
    "through a file": (_mounts({"destination": "/etc/passwd/x", "type": "tmpfs"}), "mount", errno.ENOTDIR),
    "device": (
        _linux(devices=[{"path": "/etc/passwd", "type": "c", "major": 1, "minor": 3}]),
        "device",
        errno.EEXIST,
    ),
    "unknown sysctl": (_linux(sysctl={"net.no.such": "1"}), "sysctl", errno.ENOENT),
    "bad sysctl value": (_linux(sysctl={"net.ipv4.ip_forward": "x"}), "sysctl", errno.EINVAL),
    "file as cwd": (lambda config: config["process"].update(cwd="/etc/passwd"), "cwd", errno.ENOTDIR),
}


@pytest.mark.parametrize(("edit", "step", "number"), STEPS.values(), ids=STEPS)
def test_each_step_reports_itself(box: Box, edit: Callable[[Config], None], step: str, number: int) -> None:
    with pytest.raises(LaunchFailed) as caught:
        box.run("true", edit=edit)
    assert (caught.value.step, errno.errorcode[caught.value.errno]) == (step, errno.errorcode[number])


def test_a_kind_mismatch_has_dockers_words(box: Box) -> None:
    with pytest.raises(LaunchFailed, match="Are you trying to mount a directory onto a file") as caught:
        box.run("true", edit=STEPS["directory onto file"][0])
    assert caught.value.exit_code == 127


def test_the_kernels_own_words_are_passed_on(box: Box) -> None:
    with pytest.raises(LaunchFailed, match="foo"):
        box.run("true", edit=STEPS["unknown option"][0])


@pytest.mark.parametrize("part", ["lower", "upper", "work"])
def test_a_missing_layer(box: Box, part: str) -> None:
    rootfs = box.rootfs()
    change = {"lower": ("/no/such/layer",)} if part == "lower" else {part: "/no/such/layer"}
    with pytest.raises(LaunchFailed) as caught:
        box.create(box.config("true"), rootfs=replace(rootfs, **change))
    assert (caught.value.step, caught.value.errno) == ("rootfs", errno.ENOENT)


def test_a_namespace_that_is_none(box: Box) -> None:
    def joined(path: str) -> Callable[[Config], None]:
        return lambda config: config["linux"].update(
            namespaces=[{"type": "mount"}, {"type": "uts"}, {"type": "network", "path": path}], sysctl={}
        )

    for path in ("/no/such", "/etc/passwd", "/proc/self/ns/uts"):
        with pytest.raises(InvalidArgument, match="cannot join network namespace"):
            box.run("true", edit=joined(path))


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": {"limit": "x"}},
        {"cpu": {"period": 1, "quota": 1}},
        {"memory": 5},
        {"unified": {"a": "b"}},
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]},
        {"devices": [{"allow": True, "type": "z"}]},
        {"cpu": {"cpus": "999"}},
    ],
)
def test_resources_that_cannot_be(box: Box, resources: Config) -> None:
    with pytest.raises((InvalidArgument, Internal), match="cannot apply resources"):
        box.run("true", edit=lambda config: config["linux"].update(resources=resources))


def test_a_seccomp_profile_that_cannot_be(box: Box) -> None:
    with pytest.raises(InvalidArgument, match="seccomp"):
        box.run("true", edit=_linux(seccomp={"defaultAction": "SCMP_ACT_FOO"}))


def test_a_cgroup_in_use_is_not_taken(box: Box) -> None:
    task, config = box.start("sleep", "60")
    with pytest.raises(Conflict, match="in use"):
        box.create(config)
    assert task.cgroup.pids() == [task.pid]
    box.kill(task)


def test_the_systemd_driver_is_refused(box: Box) -> None:
    with pytest.raises(InvalidArgument, match="systemd"):
        box.create(box.config("true"), systemd=True)


def test_an_unreadable_standard_descriptor_is_an_error(box: Box) -> None:
    with pytest.raises(LaunchFailed) as caught:
        box.create(box.config("true"), StdioFds(stdin=987))
    assert (caught.value.step, caught.value.errno) == ("descriptors", errno.EBADF)


def test_a_failed_launch_removes_a_cgroup_that_it_made(box: Box) -> None:
    config = box.config("/nosuch")
    with pytest.raises(LaunchFailed):
        box.create(config)
    path = config["linux"]["cgroupsPath"]
    assert not Cgroup(path).exists()
    assert all(Path(root).exists() for root in hierarchies().roots())


def test_a_filter_that_forbids_exec_fails_at_start(box: Box) -> None:
    profile = defaults.default_seccomp(())
    profile["syscalls"] = [
        {**rule, "names": [name for name in rule["names"] if name != "execve"]} for rule in profile["syscalls"]
    ]
    with pytest.raises(LaunchFailed) as caught:
        box.run("true", edit=_linux(seccomp=profile))
    assert (caught.value.step, caught.value.errno, caught.value.exit_code) == ("exec", errno.EPERM, 126)


def test_a_filter_that_forbids_everything_ends_the_launch(box: Box) -> None:
    """Its report and exit_group are refused, too: a trap ends the process, and who waits for its word hears so."""
    with pytest.raises(Internal, match="its stage died"):
        box.run("true", edit=_linux(seccomp={"defaultAction": "SCMP_ACT_ERRNO"}))


def test_many_failures_leave_no_descriptor(box: Box) -> None:
    before = open_descriptors()
    for _ in range(20):
        with pytest.raises(LaunchFailed):
            box.run("/nosuch")
    assert not left_since(before)
