"""A program that cleans up after itself: broken off, it is told so and waited for."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Sequence

END_SECONDS = 90.0


def output(command: Sequence[str]) -> str:
    """What it writes to stdout, its stderr heard only when it fails: RuntimeError.

    In a session of its own, so that Ctrl-C reaches it once: by us, who then wait for its end.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        said, complaint = process.communicate()
    except BaseException:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=END_SECONDS)
        process.kill()
        process.wait()
        raise
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: {said}{complaint}")
    return said
