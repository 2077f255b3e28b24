"""What holds a sitting of benches together: what fails or is broken off costs no more than itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import __main__ as frame
from tests.bench import child, registry_bench, sitting
from tests.bench.sitting import Bench, Sitting

PATIENT = """
import pathlib, sys, time
place = pathlib.Path(sys.argv[1])
try:
    (place / "ready").write_text("ready")
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(0.5)
    (place / "clean").touch()
"""
# A shell without job control has those whom it starts in the background ignore Ctrl-C, and the tests with them.
BREAKS_OFF = """
import signal, sys
from tests.bench import child
signal.signal(signal.SIGINT, signal.default_int_handler)
child.output(sys.argv[1:])
"""


def test_who_is_broken_off_cleans_up_first(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ready")
    command = [sys.executable, "-c", BREAKS_OFF, sys.executable, "-c", PATIENT, str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        assert (tmp_path / "ready").read_text() == "ready"
        process.send_signal(signal.SIGINT)
    assert (tmp_path / "clean").exists()


def test_who_fails_is_heard() -> None:
    with pytest.raises(RuntimeError, match=r"out\nwhy"):
        child.output(["sh", "-c", "echo out; echo why >&2; exit 1"])
    assert child.output(["sh", "-c", "echo out; echo why >&2"]) == "out\n"


def test_rows_that_there_are_not_end_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        frame._options(["--rows", "life,nosuch"])
    assert ended.value.code == 2 and "no rows nosuch: there are life," in capsys.readouterr().err
    assert frame._options(["--rows", "life,cli"]).rows == ["life", "cli"]
    assert frame._options([]).rows == [each.name for each in frame.BENCHES]


@pytest.fixture
def held() -> Iterator[Sitting]:
    with contextlib.ExitStack() as stack:
        yield Sitting(quick=True, peers=True, stack=stack)


def test_a_bench_that_skips_does_not_end_the_sitting(held: Sitting) -> None:
    def skips(_: Sitting) -> None:
        pytest.skip("no such tool")

    assert frame._run(Bench(name="one", about="", run=skips), held) == ["one: Skipped: no such tool"]


def test_a_peer_that_does_not_start_is_told_of_once(held: Sitting, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    @contextlib.contextmanager
    def starts() -> Iterator[str]:
        started.append("bulkhead")
        yield "bulkhead"

    @contextlib.contextmanager
    def fails() -> Iterator[str]:
        raise TimeoutError("the engine did not come up")
        yield

    monkeypatch.setattr(sitting, "bulkhead", starts)
    monkeypatch.setattr(sitting, "dockerd", fails)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert [*map(str, held.engines)] == [*map(str, held.engines)] == ["bulkhead"]
    assert (started, held.failed) == (["bulkhead"], ["dockerd: TimeoutError: the engine did not come up"])


def test_a_crowd_with_one_that_fails_ends() -> None:
    def fails(port: int, path: str, amount: float) -> float:
        raise OSError("the answer broke off")

    with pytest.raises(RuntimeError, match=r"2 of 2 clients failed: OSError\('the answer broke off'\)"):
        registry_bench.crowd(0, 2, fails, "", 1)
    assert registry_bench.crowd(0, 2, lambda port, path, amount: amount, "", 1) > 0
