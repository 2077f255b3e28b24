"""docker-init: ends as its program does, passes signals on, reaps orphans."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest

from bulkhead.runtime.init import INIT_PROGRAM

PROGRAM = str(INIT_PROGRAM)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["/bin/sh", "-c", "kill -9 $$"], 128 + signal.SIGKILL),
        (["nosuch"], 127),
        (["/etc"], 126),
        ([], 126),
    ],
)
def test_ends_as_its_program_does(words: list[str], code: int) -> None:
    assert subprocess.run([PROGRAM, "--", *words], capture_output=True, check=False).returncode == code


def test_says_what_cannot_be_executed() -> None:
    done = subprocess.run([PROGRAM, "--", "nosuch"], capture_output=True, text=True, check=False)
    assert done.stderr == "docker-init: exec nosuch failed: No such file or directory\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2])
def test_passes_signals_on(number: signal.Signals) -> None:
    script = f"trap 'exit 3' {number.name[3:]}; echo ready; while :; do sleep 0.02; done"
    # No shell traps what was ignored before it, as it is in tests that are run by nohup.
    command = ["env", "--default-signal", PROGRAM, "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(timeout=30) == 3


def test_program_starts_with_signals_as_they_were() -> None:
    script = "grep -E '^Sig(Blk|Ign)' /proc/self/status"
    plain, under = (
        subprocess.check_output([*before, "sh", "-c", script], restore_signals=True) for before in ([], [PROGRAM, "--"])
    )
    assert plain == under


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="makes a pid namespace")
def test_reaps_orphans() -> None:
    """One that outlives its parent is a child of process 1, and no zombie once it has ended."""
    script = '(sh -c \'echo $$ > "$0"\' "$0" &); while ! [ -s "$0" ]; do :; done; '
    script += 'while [ -d /proc/$(cat "$0") ]; do :; done; echo reaped'
    place = f"/tmp/bh-init-{os.getpid()}"
    command = ["unshare", "--pid", "--fork", "--mount-proc", PROGRAM, "--", "sh", "-c", script, place]
    try:
        assert subprocess.check_output(command, timeout=30) == b"reaped\n"
    finally:
        os.unlink(place)  # noqa: PTH108
