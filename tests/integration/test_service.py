"""The life of a service process: one per pid file, ready when it says so, two-stage stop."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead.service import holder
from tests.support.eventually import until

PROGRAM = """
import asyncio, sys
from contextlib import asynccontextmanager
from bulkhead.errors import Unavailable
from bulkhead.service import run_service

@asynccontextmanager
async def serve(settings):
    print("entering", flush=True)
    if settings.arguments.fail:
        raise Unavailable("cannot serve: told so")
    await asyncio.sleep(settings.arguments.start)
    print("serving", flush=True)
    yield
    print("leaving", flush=True)
    await asyncio.sleep(settings.arguments.drain)
    print("left", flush=True)

def arguments(parser):
    parser.add_argument("--start", type=float, default=0)
    parser.add_argument("--drain", type=float, default=0)
    parser.add_argument("--fail", action="store_true")

sys.exit(run_service("manager", serve, arguments=arguments))
"""

# To be put in its place of "serving": as many threads at once as there are, each with memory of its own.
CROWD = """
import ctypes, threading
libc = ctypes.CDLL(None)
together = threading.Barrier(13)
def hold():
    libc.free(ctypes.c_void_p(libc.malloc(50_000)))
    together.wait()
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
crowd = [threading.Thread(target=hold) for _ in range(12)]
for each in crowd:
    each.start()
together.wait()
told = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, told)
libc.fclose(told)
raise Unavailable("told")
"""


class Service:
    """The program above as a process; its stdout tells where it is."""

    def __init__(self, run: Path, *flags: str) -> None:
        environ = {**os.environ, "BULKHEAD_RUN": str(run), "BULKHEAD_DATA": str(run.parent / "data")}
        command = [sys.executable, "-c", PROGRAM, *flags]
        self.process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def says(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"{word}\n"

    def ends(self) -> int:
        return self.process.wait(timeout=20)


@pytest.fixture
def run() -> Iterator[Path]:
    # Not tmp_path: under xdist that is longer than a run directory may be.
    with tempfile.TemporaryDirectory(prefix="bh-", dir="/tmp") as base:
        yield Path(base, "run")


@pytest.fixture
def service(run: Path) -> Iterator[Service]:
    started = Service(run)
    started.says("entering")
    started.says("serving")
    yield started
    started.process.kill()
    started.process.communicate()


def wait_for_pid(path: Path, pid: int) -> None:
    """The pid is written after serve() was entered, at most a moment after the last word."""
    poll = select.poll()
    for _ in range(500):
        if path.read_text() == f"{pid}\n":
            return
        poll.poll(10)
    raise AssertionError(path.read_text())


def test_a_ready_service_holds_its_pid_file(run: Path, service: Service) -> None:
    wait_for_pid(run / "manager.pid", service.process.pid)
    assert holder(run / "manager.pid") == service.process.pid
    assert run.stat().st_mode & 0o777 == 0o711
    assert (run.parent / "data").stat().st_mode & 0o777 == 0o700


def test_a_second_one_is_refused_and_the_first_not_disturbed(run: Path, service: Service) -> None:
    """Two managers on one directory would be two writers."""
    second = Service(run)
    _, complaint = second.process.communicate(timeout=20)
    assert second.process.returncode == 1
    assert f"is held by pid {service.process.pid}" in complaint
    assert holder(run / "manager.pid") == service.process.pid


def test_a_pid_file_of_the_dead_is_replaced(run: Path, service: Service) -> None:
    """kill -9 leaves the file; its number may belong to anyone by now."""
    service.process.kill()
    service.ends()
    assert (run / "manager.pid").exists()
    assert holder(run / "manager.pid") is None
    again = Service(run)
    again.says("entering")
    again.says("serving")
    wait_for_pid(run / "manager.pid", again.process.pid)
    again.process.terminate()
    again.process.communicate(timeout=20)


def test_a_forked_child_is_not_taken_for_the_service(run: Path) -> None:
    """A shim forked from the supervisor must not keep the supervisor's name alive."""
    program = PROGRAM.replace(
        'print("serving", flush=True)', "import os; os.fork() or os.execlp('sleep', 'sleep', '9')"
    )
    environ = {**os.environ, "BULKHEAD_RUN": str(run), "BULKHEAD_DATA": str(run.parent / "data")}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environ, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"entering\n"
    wait_for_pid(run / "manager.pid", parent.pid)
    parent.kill()
    parent.wait()
    assert holder(run / "manager.pid") is None
    parent.stdout.close()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="tells of glibc's arenas")
def test_threads_have_no_arenas_each_of_its_own(run: Path) -> None:
    """An arena keeps what its threads freed: with one for each of many threads a service grows under load."""
    program = PROGRAM.replace('    print("serving", flush=True)\n', textwrap.indent(CROWD, "    "))
    environ = {**os.environ, "BULKHEAD_RUN": str(run), "BULKHEAD_DATA": str(run.parent / "data")}
    told = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=False)
    assert 1 <= told.stdout.count("<heap nr=") <= 2, told.stderr


def test_the_first_signal_drains(run: Path, service: Service) -> None:
    service.process.terminate()
    service.says("leaving")
    service.says("left")
    assert service.ends() == 0
    assert not (run / "manager.pid").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_leaves_at_once(run: Path, number: signal.Signals) -> None:
    """A drain that never ends must not force the operator to SIGKILL."""
    slow = Service(run, "--drain", "600")
    slow.says("entering")
    slow.says("serving")
    slow.process.send_signal(number)
    slow.says("leaving")
    slow.process.send_signal(number)
    assert slow.ends() == 128 + number
    slow.process.communicate()


def test_a_start_that_hangs_can_be_stopped(run: Path) -> None:
    slow = Service(run, "--start", "600")
    slow.says("entering")
    slow.process.terminate()
    assert slow.ends() == 0
    slow.process.communicate()


def test_a_failed_start_is_one_clear_line(run: Path) -> None:
    failing = Service(run, "--fail")
    _, complaint = failing.process.communicate(timeout=20)
    assert failing.process.returncode == 1
    assert "cannot serve: told so" in complaint.splitlines()[-1]
    assert "Traceback" not in complaint


def test_a_directory_of_others_is_refused(run: Path) -> None:
    """State below a directory that another user could swap would be theirs."""
    if os.geteuid() != 0:
        pytest.skip("gives a directory away: needs root")
    run.mkdir()
    os.chown(run, 12345, 12345)
    refused = Service(run)
    _, complaint = refused.process.communicate(timeout=20)
    assert refused.process.returncode == 1
    assert f"cannot use directory {run}" in complaint


def test_it_tells_what_its_tasks_wait_for(run: Path, service: Service) -> None:
    """A service that hangs can be asked why, and the soak counts what is left behind."""
    service.process.send_signal(signal.SIGUSR1)
    until((run / "manager.stacks").exists)
    head, *rest = (run / "manager.stacks").read_text().splitlines()
    number, word = head.split()
    assert word == "tasks" and int(number) == sum(line.startswith("Stack for <Task") for line in rest) > 1
    assert "    await stop.wait()" in rest
