"""What a set failpoint does to the process that passes it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bulkhead import failpoints

POINT, DISK = "manager.start.plugged", "disk.file.sync"
PASS = f"from bulkhead import failpoints as f; import sys; f.listen(sys.argv[1]); f.hit('{POINT}'); print('past')"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / failpoints.DIRECTORY).mkdir()
    (tmp_path / failpoints.DIRECTORY / failpoints.TRACE).touch()
    handler = signal.getsignal(signal.SIGUSR2)
    yield tmp_path
    failpoints.set_to("")
    signal.signal(signal.SIGUSR2, handler)


def put(run: Path, text: str) -> None:
    (run / failpoints.DIRECTORY / failpoints.SET).write_text(text)


def passed(run: Path, told: str = "") -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, failpoints.VARIABLE: told}
    command = [sys.executable, "-c", PASS, str(run)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=30, check=False)


def test_set_to_nothing_it_does_nothing(run: Path) -> None:
    failpoints.listen(str(run))
    failpoints.hit(POINT)
    failpoints.hit("no such name")


def test_kill_by_environment(run: Path) -> None:
    assert passed(run, f"{POINT}=kill").returncode == -signal.SIGKILL


def test_counts_are_of_all_processes_together(run: Path) -> None:
    put(run, f"{POINT}=1*off->1*kill")
    assert [passed(run).returncode for _ in range(3)] == [0, -signal.SIGKILL, 0]


def test_a_running_process_is_told_by_signal(run: Path) -> None:
    failpoints.listen(str(run))
    put(run, f"{DISK}=error(EIO)")
    failpoints.hit(DISK)
    os.kill(os.getpid(), signal.SIGUSR2)
    with pytest.raises(OSError, match="Input/output error") as caught:
        failpoints.hit(DISK)
    assert caught.value.errno == errno.EIO
    (run / failpoints.DIRECTORY / failpoints.SET).unlink()
    os.kill(os.getpid(), signal.SIGUSR2)
    failpoints.hit(DISK)
    trace = (run / failpoints.DIRECTORY / failpoints.TRACE).read_text().splitlines()
    assert trace == [f"{os.getpid()} {what}" for what in ("- loaded", f"{DISK} error", "- loaded")]


def test_a_failure_in_the_words_of_the_place(run: Path) -> None:
    failpoints.listen(str(run))
    failpoints.set_to(f"{DISK}=error(ENOSPC)")
    with pytest.raises(KeyError, match="No space left"):
        failpoints.hit(DISK, lambda error: KeyError(str(error)))


def test_a_wiped_directory_ends_it(run: Path) -> None:
    failpoints.listen(str(run / "gone"))
    failpoints.set_to(f"{DISK}=1*error(EIO)")
    failpoints.hit(DISK)


def test_what_is_used_up_is_counted_no_further(run: Path) -> None:
    put(run, f"{DISK}=1*off->1*error(EIO)")
    failpoints.listen(str(run))
    failpoints.hit(DISK)
    with pytest.raises(OSError, match="Input/output"):
        failpoints.hit(DISK)
    for _ in range(100):
        failpoints.hit(DISK)
    assert len(list((run / failpoints.DIRECTORY).glob(f"{DISK}.*"))) == 2
