"""A further process is in everything like the container's own: namespaces, cgroup, confinement."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bulkhead.errors import Conflict, Internal, InvalidArgument, LaunchFailed
from bulkhead.runtime import defaults, launch, planned
from bulkhead.runtime.rootfs import StdioFds
from tests.support.containers import Box, ended, namespace, read_terminal
from tests.support.descriptors import left_since, open_descriptors

PREFIX = "OCI runtime exec failed: exec failed: unable to start container process: "


def test_it_is_confined_like_the_container(box: Box) -> None:
    task, config = box.start("sleep", "60")
    script = "grep -E '^(Cap|Sec|NoNew|SigBlk|SigIgn|Umask)' /proc/self/status; cat /proc/self/cgroup; hostname"
    inside = box.exec(task, config, "sh", "-c", script)
    assert inside.code == 0
    assert inside.output == box.run("sh", "-c", script).output
    box.kill(task)


def test_it_is_in_all_namespaces(box: Box) -> None:
    task, config = box.start("sleep", "60")
    names = ["cgroup", "ipc", "mnt", "net", "pid", "uts"]
    found = box.exec(task, config, "sh", "-c", " ".join(f"readlink /proc/self/ns/{name};" for name in names)).output
    assert found.split() == [namespace(task.pid, name) for name in names]
    box.kill(task)


def test_only_the_standard_descriptors_are_open(box: Box) -> None:
    task, config = box.start("sleep", "60")
    assert box.exec(task, config, "sh", "-c", "ls /proc/$$/fd; true").output.split() == [
        "0",
        "1",
        "2",
    ]
    box.kill(task)


def test_its_pid_is_the_real_one(box: Box) -> None:
    task, config = box.start("sleep", "60")
    process = {**config["process"], "args": ["sleep", "60"]}
    started = launch.exec_(task=task, config=config, process=process, stdio=StdioFds())
    assert started.pid in task.cgroup.pids()
    assert Path(f"/proc/{started.pid}/exe").readlink() == Path("/bin/busybox")
    os.kill(started.pid, 15)
    assert ended(started) == 143
    box.kill(task)


@pytest.mark.parametrize(("user", "uid"), [("bob", 1000), ("77:10", 77), ("", 0), ("root", 0)])
def test_users_by_name(box: Box, user: str, uid: int) -> None:
    task, config = box.start("sleep", "60")
    assert box.exec(task, config, "id", "-u", user={"username": user} if user else {"uid": 0}).output.strip() == str(
        uid
    )
    box.kill(task)


def test_who_does_not_say_is_the_containers_user(box: Box) -> None:
    config = box.config("sleep", "60")
    config["annotations"] = {"org.bulkhead.user": "bob", "org.bulkhead.groups": "staff"}
    task = box.create(config)
    task.start()
    assert box.exec(task, config, "id", "-u", user={}).output.strip() == "1000"
    assert set(box.exec(task, config, "id", "-G", user={}).output.split()) == {"1000", "10", "50"}
    assert box.exec(task, config, "id", "-u", user={"uid": 0}).output.strip() == "0"
    box.kill(task)


def test_what_it_does_not_say_is_the_containers(box: Box) -> None:
    limits = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]
    task, config = box.start("sleep", "60", noNewPrivileges=True, oomScoreAdj=300, rlimits=limits)
    process = {
        "args": ["sh", "-c", "ulimit -n; cat /proc/self/oom_score_adj; grep -E 'NoNewPrivs|CapBnd' /proc/self/status"]
    }
    read, write = os.pipe()
    started = launch.exec_(
        task=task, config=config, process={**process, "cwd": "/", "env": ["PATH=/bin"]}, stdio=StdioFds(stdout=write)
    )
    os.close(write)
    with os.fdopen(read) as output:
        assert output.read().split() == ["100", "300", "CapBnd:", "00000000a80425fb", "NoNewPrivs:", "1"]
    assert ended(started) == 0
    box.kill(task)


def test_privileged_widens_only_this_process(box: Box) -> None:
    task, config = box.start("sleep", "60")
    wide = list(defaults.capabilities(privileged=True))
    sets = {"bounding": wide, "effective": wide, "permitted": wide}
    output = box.exec(task, config, "grep", "Cap", "/proc/self/status", capabilities=sets).output
    ours = re.search(r"CapBnd:\t(\w+)", Path("/proc/self/status").read_text())
    assert ours and f"CapEff:\t{ours[1]}" in output
    assert re.findall(r"Cap(?:Inh|Amb):\t(\w+)", output) == ["0" * 16] * 2
    box.kill(task)


@pytest.mark.parametrize(
    ("program", "text", "code"),
    [
        ("nosuch", 'exec: "nosuch": executable file not found in $PATH: unknown', 127),
        ("/nosuch", 'exec: "/nosuch": stat /nosuch: no such file or directory: unknown', 127),
        ("/etc", 'exec: "/etc": permission denied: unknown', 126),
    ],
)
def test_programs_that_cannot_be_run(box: Box, program: str, text: str, code: int) -> None:
    task, config = box.start("sleep", "60")
    with pytest.raises(LaunchFailed) as caught:
        box.exec(task, config, program)
    assert (str(caught.value), caught.value.exit_code) == (PREFIX + text, code)
    assert task.cgroup.pids() == [task.pid]
    box.kill(task)


def test_failures_after_the_fork_are_reported_too(box: Box) -> None:
    (box.image / "bin" / "junk").write_bytes(b"\0")
    (box.image / "bin" / "junk").chmod(0o755)
    task, config = box.start("sleep", "60")
    with pytest.raises(LaunchFailed) as caught:
        box.exec(task, config, "junk")
    assert (caught.value.step, caught.value.exit_code) == ("exec", 126)
    box.kill(task)


def test_a_missing_directory_is_not_made(box: Box) -> None:
    task, config = box.start("sleep", "60")
    with pytest.raises(LaunchFailed, match=r'chdir to cwd \("/nosuch"\) set in config.json failed') as caught:
        box.exec(task, config, "true", cwd="/nosuch")
    assert caught.value.step == "cwd"
    box.kill(task)


def test_a_stopped_container_takes_none(box: Box) -> None:
    task, config = box.start("true")
    select.select([task.pidfd], [], [], 10)
    with pytest.raises(Conflict, match="has stopped"):
        box.exec(task, config, "true")
    assert box.finish(task) == 0


def test_a_process_that_is_none_is_refused(box: Box) -> None:
    task, config = box.start("sleep", "60")
    wrong: dict[str, Any]
    for wrong in ({"args": []}, {"env": [1]}):
        with pytest.raises(InvalidArgument):
            box.exec(task, config, "true", **wrong)
    with pytest.raises(LaunchFailed, match="Cwd must be an absolute path"):
        box.exec(task, config, "true", cwd="relative")
    box.kill(task)


def test_with_a_terminal(box: Box) -> None:
    task, config = box.start("sleep", "60")
    script = "tty; stty size; test -e /dev/console && echo console; readlink /proc/self/fd/0"
    process = {
        **config["process"],
        "args": ["sh", "-c", script],
        "terminal": True,
        "consoleSize": {"height": 33, "width": 99},
    }
    started = launch.exec_(task=task, config=config, process=process, stdio=StdioFds())
    assert started.console is not None
    output = read_terminal(started.console, started.pidfd)
    os.close(started.console)
    assert output.split() == ["/dev/pts/0", "33", "99", "/dev/pts/0"]
    assert ended(started) == 0
    box.kill(task)


def test_a_filter_that_forbids_forking_still_lets_it_in(box: Box) -> None:
    """The late fork needs calls that such a profile refuses; the filter is loaded after it then."""
    profile = defaults.default_seccomp(())
    refused = {"clone", "fork", "vfork", "setsid"}
    profile["syscalls"] = [
        {**rule, "names": [name for name in rule["names"] if name not in refused]} for rule in profile["syscalls"]
    ]
    config = box.config("sleep", "60")
    config["linux"]["seccomp"] = profile
    task = box.create(config)
    task.start()
    done = box.exec(task, config, "grep", "-E", "Seccomp:|CapEff", "/proc/self/status")
    assert done.output.split() == ["CapEff:", "00000000a80425fb", "Seccomp:", "2"]
    box.kill(task)


def test_many_leave_nothing(box: Box) -> None:
    task, config = box.start("sleep", "60")
    before = open_descriptors()
    for _ in range(50):
        assert box.exec(task, config, "true").code == 0
    assert not left_since(before)
    assert task.cgroup.pids() == [task.pid]
    box.kill(task)


def worked_out(config: dict[str, Any], *args: str) -> planned.Planned:
    found = planned.further_process(config, {**config["process"], "args": list(args)})
    assert found is not None
    return planned.unpack(found.pack())  # type: ignore[return-value]


@contextlib.contextmanager
def held_up(box: Box) -> Iterator[str]:
    """A program that nobody can execute in here: a lease on its file is not given back before."""
    place = box.image / "bin" / "leased"
    place.write_bytes(b"#!/bin/true\n")
    place.chmod(0o755)
    with place.open("rb+") as held:
        # Whoever wants the file is told of by SIGIO, which would end us.
        fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield place.name


def begin(task: launch.Task, config: dict[str, Any], *args: str) -> launch.ExecProcess:
    """Without waiting for its program."""
    found = planned.further_process(config, {**config["process"], "args": list(args)})
    assert found is not None
    return launch.exec_planned(task=task, planned=found, stdio=StdioFds(), settled=False)


def test_its_beginning_need_not_be_waited_for(box: Box) -> None:
    task, config = box.start("sleep", "60")
    with held_up(box) as program:
        running = begin(task, config, program)
    running.settle()
    running.settle()
    assert ended(running) == 0
    box.kill(task)


def test_what_has_failed_meanwhile_is_known_when_it_settles(box: Box) -> None:
    (box.image / "bin" / "junk").write_bytes(b"\0")
    (box.image / "bin" / "junk").chmod(0o755)
    task, config = box.start("sleep", "60")
    running = begin(task, config, "junk")
    with pytest.raises(LaunchFailed) as caught:
        running.settle()
    assert (caught.value.step, caught.value.exit_code) == ("exec", 126)
    os.close(running.pidfd)
    assert task.cgroup.pids() == [task.pid]
    box.kill(task)


def test_one_that_is_killed_on_its_way_was_never_its_program(box: Box) -> None:
    task, config = box.start("sleep", "60")
    with held_up(box) as program:
        running = begin(task, config, program)
        signal.pidfd_send_signal(running.pidfd, signal.SIGKILL)
        assert select.select([running.pidfd], [], [], 20)[0]
    with pytest.raises(Internal, match="its stage died"):
        running.settle()
    os.close(running.pidfd)
    box.kill(task)


def test_the_way_into_its_groups_is_open_until_nobody_may_want_it(box: Box) -> None:
    """Who has made something ready on it may still use it after that."""
    task, config = box.start("sleep", "60")
    looked_up = box.exec(task, config, "cat", "/proc/self/cgroup").output
    before = open_descriptors()
    process = planned.further_process(config, config["process"] | {"args": ["cat", "/proc/self/cgroup"]})
    assert process is not None
    read, write = os.pipe2(os.O_CLOEXEC)
    stdio = StdioFds(stdout=write)
    ready = launch.ReadyExec(task=task, planned=process, stdio=stdio)
    task.rest()
    running = launch.exec_planned(task=task, planned=process, stdio=stdio, ready=ready)
    os.close(write)
    ready.close()
    with os.fdopen(read) as output:
        assert output.read() == looked_up
    assert ended(running) == 0
    assert not left_since(before)
    box.kill(task)


def test_the_way_in_tells_when_those_inside_are_stopped(box: Box) -> None:
    task, _ = box.start("sleep", "60")
    task.entrance()
    for frozen in (True, False, True):
        (task.cgroup.freeze if frozen else task.cgroup.thaw)()
        assert task.is_frozen() is frozen
    task.cgroup.thaw()
    box.kill(task)
    assert not task.is_frozen()
