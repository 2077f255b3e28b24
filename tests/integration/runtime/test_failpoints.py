"""The core is made to fail everywhere between clone and exec: the error names the step, and nothing is left (`box`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bulkhead import failpoints
from bulkhead.errors import Internal, LaunchFailed
from bulkhead.nsexec._nsexec import FAILPOINTS
from tests.support.containers import Box

STEPS = {
    "nsexec.child.cloned": "clone",
    "nsexec.child.grouped": "cgroup",
    "nsexec.child.arranged": "stage",
    "nsexec.stage.begun": "plan",
    "nsexec.stage.joined": "namespace",
    "nsexec.stage.mounted": "mount",
    "nsexec.stage.pivoted": "pivot",
    "nsexec.stage.confined": "credentials",
    "nsexec.stage.released": "exec",
}
NOT_OF_EXECS = {"nsexec.stage.mounted", "nsexec.stage.pivoted"}
OF_EXECS = [name for name in FAILPOINTS if name not in NOT_OF_EXECS]
REASONS = {"kill": ("died", "canceled"), "error(EIO)": ("input/output error",)}
faults = pytest.mark.parametrize("fault", REASONS)


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(failpoints, "_place", str(tmp_path))
    found = tmp_path / failpoints.TRACE
    found.touch()
    return found


@contextmanager
def failing(text: str) -> Iterator[None]:
    failpoints.set_to(text)
    try:
        yield
    finally:
        failpoints.set_to("")


def told(trace: Path) -> list[tuple[str, str]]:
    return [(line.split()[1], line.split()[2]) for line in trace.read_text().splitlines()]


def names_its_step(failure: BaseException, point: str, fault: str) -> bool:
    step = failure.step if isinstance(failure, LaunchFailed) else str(failure).rpartition("at step ")[2]
    return step == STEPS[point] and any(reason in str(failure) for reason in REASONS[fault])


@faults
@pytest.mark.parametrize("point", FAILPOINTS)
def test_a_container_fails_at_each(box: Box, trace: Path, point: str, fault: str) -> None:
    with failing(f"{point}={fault}"), pytest.raises((LaunchFailed, Internal)) as failure:
        box.create(box.config("true")).start()
    assert names_its_step(failure.value, point, fault), failure.value
    assert told(trace) == [(point, fault.partition("(")[0])]
    assert box.run("true").code == 0


@faults
@pytest.mark.parametrize("point", OF_EXECS)
def test_an_exec_fails_at_each(box: Box, trace: Path, point: str, fault: str) -> None:
    task, config = box.start("sleep", "1000")
    with failing(f"{point}={fault}"), pytest.raises((LaunchFailed, Internal)) as failure:
        box.exec(task, config, "true")
    assert names_its_step(failure.value, point, fault), failure.value
    assert told(trace) == [(point, fault.partition("(")[0])]
    assert task.cgroup.pids() == [task.pid]
    assert box.exec(task, config, "true").code == 0
    box.kill(task)


@pytest.mark.parametrize("fault", ["print", "delay(1)"])
def test_each_is_passed_once_and_in_order(box: Box, trace: Path, fault: str) -> None:
    with failing(";".join(f"{name}={fault}" for name in FAILPOINTS)):
        task, config = box.start("sleep", "1000")
        assert [name for name, _ in told(trace)] == list(FAILPOINTS)
        trace.write_text("")
        assert box.exec(task, config, "true").code == 0
        assert [name for name, _ in told(trace)] == OF_EXECS
    box.kill(task)


def test_launches_are_counted(box: Box, trace: Path) -> None:
    with failing("nsexec.stage.pivoted=1*off->1*error(EIO)"):
        assert box.run("true").code == 0
        with pytest.raises(LaunchFailed, match=r"pivot .*: input/output error"):
            box.run("true")
        assert box.run("true").code == 0
