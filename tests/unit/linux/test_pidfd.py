"""Exit statuses and identities of real processes."""

from __future__ import annotations

import os
import select
import signal
import subprocess

import pytest

from bulkhead.linux import pidfd
from bulkhead.linux.pidfd import ExitStatus


def run(script: str) -> tuple[subprocess.Popen[bytes], int]:
    process = subprocess.Popen(["/bin/sh", "-c", script])
    return process, os.pidfd_open(process.pid)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("exit 0", ExitStatus(code=0)),
        ("exit 255", ExitStatus(code=255)),
        ("ulimit -c 0; kill -9 $$", ExitStatus(code=137, signal=9)),
        ("ulimit -c 0; kill -15 $$", ExitStatus(code=143, signal=15)),
    ],
)
def test_how_it_ended(script: str, expected: ExitStatus) -> None:
    process, fd = run(script)
    assert pidfd.wait(fd) == expected
    process.returncode = 0
    os.close(fd)


def test_a_running_process_has_no_status() -> None:
    process, fd = run("exec sleep 600")
    assert pidfd.reap(fd) is None
    assert pidfd.send_signal(fd, signal.SIGKILL)
    assert pidfd.wait(fd).signal == signal.SIGKILL
    assert not pidfd.send_signal(fd, signal.SIGKILL)
    process.returncode = 0
    os.close(fd)


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("ulimit -c 0; kill -9 $$", 137)])
def test_the_kernel_remembers_after_somebody_else_has_reaped(script: str, code: int) -> None:
    process, fd = run(script)
    process.wait()
    select.select([fd], [], [], 5)
    try:
        assert pidfd.reap(fd) == ExitStatus(code=code, signal=code - 128 if code > 128 else 0)
    except ChildProcessError:
        pytest.skip("PIDFD_GET_INFO has no exit codes before Linux 6.15")
    finally:
        os.close(fd)


def test_a_process_that_is_nobodys_child_here_still_runs() -> None:
    fd = os.pidfd_open(1)
    assert pidfd.reap(fd) is None
    os.close(fd)


def test_start_times() -> None:
    process, fd = run("read x")
    assert pidfd.start_time(process.pid) >= pidfd.start_time(os.getpid())
    process.kill()
    process.wait()
    os.close(fd)
    with pytest.raises(ProcessLookupError):
        pidfd.start_time(process.pid)


def test_a_name_with_brackets_does_not_confuse_it() -> None:
    process = subprocess.Popen(
        ["/bin/sh", "-c", "echo ') R 1 (' > /proc/self/comm; echo; read x"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    assert pidfd.start_time(process.pid) >= pidfd.start_time(os.getpid())
    process.communicate(b"\n")
