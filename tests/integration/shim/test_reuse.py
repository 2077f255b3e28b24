"""What makes a process unfit for another life: anything that it has more or other of than before."""

from __future__ import annotations

import subprocess
import sys

import pytest

# A process that takes its measure, and then has this done to it in its first life.
_PROGRAM = """
import ctypes, os, signal, sys, threading, time
from bulkhead.shim import reuse
CLONE3, SET_NO_NEW_PRIVS = 435, 38
libc = ctypes.CDLL(None)
slate = reuse.Slate()
{}
print(slate.is_clean())
"""


def verdict(what: str) -> str:
    told = subprocess.run([sys.executable, "-c", _PROGRAM.format(what)], capture_output=True, text=True, check=True)
    return told.stdout.strip()


@pytest.mark.parametrize(
    "harmless",
    [
        "pass",
        "os.close(os.open('/dev/null', os.O_RDONLY))",
        "reuse._TRIES = 60_000; threading.Thread(target=time.sleep, args=(.01,)).start()",
        "os.waitpid(os.fork() or os._exit(0), 0)",
        "kept = b'x' * (1 << 20)",
        "kept = b'x' * (16 << 20); slate.weigh()",
    ],
)
def test_what_is_as_before_is_clean(harmless: str) -> None:
    assert verdict(harmless) == "True"


@pytest.mark.parametrize(
    "trace",
    [
        "fd = os.open('/dev/null', os.O_RDONLY)",
        "os.close(0)",
        "ends = os.pipe(); os.dup2(ends[0], 0); [os.close(end) for end in ends]",
        "pid = os.fork() or os._exit(0)",
        "pid = os.fork() or time.sleep(600); os.kill(pid, 9)",
        "libc.syscall(CLONE3, bytes(64), 64) or os._exit(0)",  # with no signal at its end
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "import wave",
        "os.umask(0o777)",
        "os.chdir('/tmp')",
        "os.environ['TRACE'] = 'of a life'",
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])",
        "libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0)",
        "kept = b'x' * (16 << 20)",
        "assert slate.is_clean(); kept = b'x' * (16 << 20)",
        "[slate.is_clean() for _ in range(200)]",
    ],
)
def test_who_bears_a_trace_of_a_life_is_not_clean(trace: str) -> None:
    assert verdict(trace) == "False"
