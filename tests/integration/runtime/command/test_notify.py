"""sd_notify(3) through the runtime: what a caller that listens is told, and when the verbs return."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.runtime_command import PATIENCE, Runtime

# Says "told" when the socket that its environment names is there.
LOOKS = 'until test -S "$NOTIFY_SOCKET"; do :; done; echo told; exec cat'


@pytest.fixture
def caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listening:
        listening.bind(str(tmp_path / "caller"))
        listening.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "caller"))
        yield listening


def say(pid: int, text: bytes) -> None:
    """As the container's process would: from outside, busybox has no such command."""
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as sending:
        sending.sendto(text, f"/proc/{pid}/root/run/notify/notify.sock")


def test_start_waits_for_readiness_and_passes_it_on(runtime: Runtime, caller: socket.socket) -> None:
    assert runtime.create("ready", runtime.config("sh", "-c", "while :; do sleep 1; done")).status == 0
    pid = runtime.state("ready")["pid"]
    with ThreadPoolExecutor() as pool:
        started = pool.submit(runtime, "start", "ready")
        while not started.done():
            try:
                say(pid, b"STATUS=getting there\nMAINPID=1")
                say(pid, b"STATUS=there\nREADY=1\n")
                break
            except (FileNotFoundError, ConnectionRefusedError):
                continue
        assert started.result(PATIENCE).status == 0
    assert caller.recv(4096) == b"READY=1\nMAINPID=%d\n" % pid
    caller.setblocking(False)
    with pytest.raises(BlockingIOError):
        caller.recv(4096)


def test_start_does_not_outwait_the_process(runtime: Runtime, caller: socket.socket) -> None:
    assert runtime.create("short", runtime.config("true")).status == 0
    assert runtime("start", "short").status == 0
    caller.setblocking(False)
    with pytest.raises(BlockingIOError):
        caller.recv(4096)


def test_in_the_foreground_readiness_goes_on_beside(runtime: Runtime, caller: socket.socket, tmp_path: Path) -> None:
    bundle = runtime.bundle("front", runtime.config("sh", "-c", LOOKS))
    command = [*runtime.command, "--root", str(runtime.root), "run", "--bundle", str(bundle), "front"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as front:
        assert front.stdout is not None
        assert front.stdout.readline() == b"told\n"
        say(runtime.state("front")["pid"], b"READY=1")
        assert caller.recv(4096) == b"READY=1\n"
        front.communicate(timeout=PATIENCE)
    assert front.returncode == 0


def test_nobody_listening_means_no_socket(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    bundle = runtime.bundle("alone", runtime.config("sh", "-c", "echo [$NOTIFY_SOCKET]; ls -d /run/notify"))
    said = runtime("run", "--bundle", bundle, "alone")
    assert said.output == "[]\n", said
