"""A stage that is held up before it executes its program."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.nsexec import Launch, ReportKind

pytestmark = [pytest.mark.root]
SECONDS = 30.0
# Its child is traced by it and stands still, until it is killed.
TRACER = """
import ctypes, os, signal
child = os.fork()
if child == 0:
    ctypes.CDLL(None).ptrace(0, 0, None, None)
    os.kill(os.getpid(), signal.SIGSTOP)
os.close(int(os.environ["STAGE_SOCKET"]))
os.waitpid(child, os.WUNTRACED)
print("stopped", flush=True)
os.waitpid(child, 0)
"""


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def launch_of(stage: int, ours: socket.socket, theirs: socket.socket) -> Launch:
    """The stage alone holds their end from now on."""
    theirs.close()
    return Launch(stage, os.pidfd_open(stage), ours.detach())


@pytest.mark.parametrize(
    ("around", "at_once"), [((), False), (("unshare", "--pid", "--fork"), True)], ids=["host", "container"]
)
def test_a_tracer_of_the_host_has_the_whole_time(
    around: tuple[str, ...], at_once: bool, ends: tuple[socket.socket, socket.socket]
) -> None:
    """One in a container could hold the stage for good: it is killed at a glance."""
    ours, theirs = ends
    with subprocess.Popen(
        [*around, sys.executable, "-c", TRACER],
        stdout=subprocess.PIPE,
        pass_fds=[theirs.fileno()],
        env={**os.environ, "STAGE_SOCKET": str(theirs.fileno())},
    ) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == b"stopped\n"
        # In a container, unshare is between.
        stage = only_child(only_child(tracer.pid) if around else tracer.pid)
        launch = launch_of(stage, ours, theirs)
        begun = time.monotonic()
        launch.limit(SECONDS if at_once else 1.0)
        assert launch.receive().kind == ReportKind.CLOSED
        assert launch.overdue is not at_once
        assert at_once or time.monotonic() - begun >= 1.0
        launch.close()
        assert tracer.wait(SECONDS) == 0


def test_one_stopped_by_a_signal_is_killed_at_a_glance(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    with subprocess.Popen(["sleep", "600"], pass_fds=[theirs.fileno()]) as stage:
        stage.send_signal(signal.SIGSTOP)
        launch = launch_of(stage.pid, ours, theirs)
        launch.limit(SECONDS)
        assert launch.receive().kind == ReportKind.CLOSED
        assert not launch.overdue
        launch.close()
        assert stage.wait(SECONDS) == -signal.SIGKILL
