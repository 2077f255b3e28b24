"""A stage in the container's hands (CAP_SYS_PTRACE) lies on the launch socket, or spoils what later launches need."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.errors import Internal
from bulkhead.nsexec import Launch, ReportKind, spawn
from bulkhead.nsexec.plan import Flag, Plan
from bulkhead.runtime.conversation import Conversation
from bulkhead.runtime.failures import EXEC

FIXED = struct.Struct("=IIiI")
WARNING, PID = 2, 5


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the host that is nobody's business: not our child, as `sh` is between."""
    shell = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True)
    yield shell
    os.killpg(shell.pid, signal.SIGKILL)
    shell.communicate()


def conversation(sent: list[bytes]) -> tuple[Conversation, subprocess.Popen[bytes]]:
    stage = subprocess.Popen(["sleep", "600"])
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for message in sent:
        theirs.send(message)
    theirs.close()
    told = Launch(stage.pid, os.pidfd_open(stage.pid), ours.detach())
    return Conversation(told, EXEC, forks=True), stage


def test_a_forged_pid_kills_nobody_of_the_host(bystander: subprocess.Popen[bytes]) -> None:
    """The runtime kills and reaps the process that the stage names: it must be its own child."""
    assert bystander.stdout is not None
    victim = int(bystander.stdout.readline())
    talk, stage = conversation([FIXED.pack(PID, 0, victim, 0)])
    with pytest.raises(Internal, match="tampered"):
        talk.until_running()
    talk.abandon()
    stage.wait()
    assert Path(f"/proc/{victim}/stat").read_text().split()[2] in "RS"


def test_only_one_pid_is_believed() -> None:
    """With a second the runtime would wait for the first to end, for ever."""
    final = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    talk, stage = conversation([FIXED.pack(PID, 0, child.pid, 0) for child in final])
    stage.kill()
    with pytest.raises(Internal, match="tampered"):
        talk.until_running()
    talk.abandon()
    for child in (*final, stage):
        child.kill()
        child.wait()


def test_an_honest_pid_is_believed() -> None:
    final = subprocess.Popen(["sleep", "600"])
    talk, stage = conversation([FIXED.pack(WARNING, 0, 1, 0), FIXED.pack(PID, 0, final.pid, 0)])
    stage.kill()
    talk.until_running()
    assert talk.launch.pid == final.pid
    talk.abandon()
    stage.wait()
    assert not Path(f"/proc/{final.pid}").exists()  # killed and reaped by the runtime
    final.wait()


def test_the_stage_keeps_its_mode(tmp_path: Path) -> None:
    """One sealed inode serves every launch of a process: without its x bits nothing could start any more."""
    null = os.open("/dev/null", os.O_RDWR)
    plan = Plan(flags=Flag.EXEC | Flag.PARK, argv=("/bin/true",), cwd="/").encode()
    stage = spawn(plan, stdio=(null, null, null))
    try:
        assert stage.receive().kind is ReportKind.READY
        with pytest.raises(PermissionError):
            Path(f"/proc/{stage.pid}/exe").chmod(0)
        with pytest.raises(OSError):
            Path(f"/proc/{stage.pid}/exe").write_bytes(b"")
        copy = tmp_path / "copy"  # the control: an ordinary file takes both
        copy.touch()
        copy.chmod(0)
    finally:
        signal.pidfd_send_signal(stage.pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, stage.pidfd, os.WEXITED)
        stage.close()
        os.close(null)
