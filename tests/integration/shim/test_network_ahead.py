"""A network namespace that was made before anybody knew for whom: it is the container's, or nobody's."""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from bulkhead import nsexec
from bulkhead.errors import Internal, InvalidArgument
from bulkhead.linux import pidfd
from bulkhead.linux.netns import new_netns
from bulkhead.nsexec import ReportKind
from bulkhead.runtime import launch, planned
from bulkhead.shim.adapters import runtime_launcher
from bulkhead.shim.adapters.runtime_launcher import RuntimeLauncher
from bulkhead.shim.identity import NOTHING_KNOWN
from bulkhead.shim.ports import Rootfs, Stdio, Task
from tests.support.containers import BUSYBOX, Box, Config, boxed, namespace, wait
from tests.support.descriptors import left_since, open_descriptors

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or not BUSYBOX.exists(), reason="containers need root and busybox-static"),
]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    yield from boxed(tmp_path)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is kept for as long as a busy machine takes for the launch."""
    monkeypatch.setattr(runtime_launcher, "_NETWORK_SECONDS", 600)


@contextmanager
def expecting() -> Iterator[tuple[RuntimeLauncher, str]]:
    """A launcher that expects a container, and the namespace it has made; it may hold nothing of that afterwards."""
    before, home = open_descriptors(), namespace("self", "net")
    launcher = RuntimeLauncher()
    launcher.expect(NOTHING_KNOWN)
    (made,) = Counter(open_descriptors()) - Counter(before)
    assert namespace("self", "net") == home != made
    yield launcher, made
    assert not left_since(before)
    with Path("/dev/null").open("rb") as nobody, suppress(OSError, ChildProcessError):
        launcher.reap(nobody.fileno())  # and the forks that have made containers from their configs


@contextmanager
def made_by_another() -> Iterator[tuple[str, int]]:
    """Path and inode of a network namespace."""
    netns = new_netns()
    try:
        yield f"/proc/{os.getpid()}/fd/{netns}", os.fstat(netns).st_ino
    finally:
        os.close(netns)


def network_of(
    launcher: RuntimeLauncher,
    box: Box,
    config: Config,
    network: tuple[str, int] | None = None,
    *,
    plans: bool = True,
) -> str:
    """In which one a container comes to be; it is gone then. Without `plans` it is made from its config."""
    rootfs = box.rootfs()
    worked_out = planned.container("ahead", config, rootfs)
    assert worked_out is not None
    (box.base / "config.json").write_text(json.dumps(config))
    begun: list[Task] = []
    task = launcher.create(
        container_id="ahead",
        data_dir=str(box.base),
        terminal=False,
        rootfs=Rootfs(lower=rootfs.lower, upper=rootfs.upper, work=rootfs.work, volatile=rootfs.volatile),
        stdio=Stdio(),
        planned=worked_out.pack() if plans else b"",
        network=network,
        begun=begun.append,
    )
    assert isinstance(task, launch.Task)
    assert begun == ([task] if plans else [])
    found = namespace(task.pid, "net")
    task.cgroup.kill_all()
    wait(task.pidfd)
    task.cgroup.remove()
    task.close()
    return found


def test_the_container_is_in_it(box: Box) -> None:
    with expecting() as (launcher, made):
        assert network_of(launcher, box, box.config("/bin/true")) == made


def test_it_serves_one_container(box: Box) -> None:
    with expecting() as (launcher, made):
        network_of(launcher, box, box.config("/bin/true"))
        assert network_of(launcher, box, box.config("/bin/true")) not in (made, namespace("self", "net"))


def test_a_container_that_wants_no_new_one_is_not_in_it(box: Box) -> None:
    config = box.config("/bin/true")
    config["linux"]["namespaces"] = [each for each in config["linux"]["namespaces"] if each["type"] != "network"]
    config["linux"]["sysctl"] = {}
    with expecting() as (launcher, _):
        assert network_of(launcher, box, config) == namespace("self", "net")


def test_it_is_not_kept_until_the_host_has_other_settings(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_launcher, "_NETWORK_SECONDS", 0)
    with expecting() as (launcher, made):
        assert network_of(launcher, box, box.config("/bin/true")) not in (made, namespace("self", "net"))


@pytest.mark.parametrize("plans", [True, False])
def test_one_that_is_given_is_the_containers_and_what_was_expected_nobodys(box: Box, plans: bool) -> None:
    with made_by_another() as (path, inode), expecting() as (launcher, _):
        assert network_of(launcher, box, box.config("/bin/true"), (path, inode), plans=plans) == f"net:[{inode}]"


def test_another_at_the_path_of_one_that_is_given_ends_the_launch(box: Box) -> None:
    with made_by_another() as (path, _), made_by_another() as (_, inode), expecting() as (launcher, _):
        with pytest.raises(Internal, match="another one by now"):
            network_of(launcher, box, box.config("/bin/true"), (path, inode))
        with pytest.raises(Internal, match="cannot take network namespace"):
            network_of(launcher, box, box.config("/bin/true"), ("/proc/self/ns/uts", inode))


@pytest.mark.parametrize("plans", [True, False])
def test_who_would_not_be_in_one_that_is_given_is_not_launched(box: Box, plans: bool) -> None:
    config = box.config("/bin/true")
    config["linux"]["namespaces"] = [each for each in config["linux"]["namespaces"] if each["type"] != "network"]
    config["linux"]["sysctl"] = {}
    with (
        made_by_another() as given,
        expecting() as (launcher, _),
        pytest.raises(InvalidArgument, match="does not take"),
    ):
        network_of(launcher, box, config, given, plans=plans)


def test_who_is_dismissed_holds_nothing() -> None:
    with expecting() as (launcher, _):
        launcher.dismiss()


def test_what_is_no_network_namespace_ends_the_launch() -> None:
    before = open_descriptors()
    with Path("/proc/self/ns/uts").open("rb") as other:
        started = nsexec.spawn(b"", network_fd=other.fileno(), stdio=(0, 1, 2))
    report = started.receive()
    assert (report.kind, report.step, report.errno) == (ReportKind.ERROR, "namespace", errno.EINVAL)
    pidfd.wait(started.pidfd)
    started.close()
    assert not left_since(before)
