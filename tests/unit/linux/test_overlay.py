"""Who mounts directories again waits for the last mount of them to end, but not for ever."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from bulkhead.linux import overlay


def test_directories_that_nobody_uses_are_not_waited_for(tmp_path: Path) -> None:
    overlay.await_unused(str(tmp_path), 0.0)
    overlay.await_unused(str(tmp_path / "missing"), 0.0)


def test_waiting_for_a_mount_has_a_limit_and_leaves_no_handler(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGALRM)
    lock = overlay.lock_in_use(str(tmp_path))
    try:
        with pytest.raises(TimeoutError):
            overlay.await_unused(str(tmp_path), 0.05)
    finally:
        os.close(lock)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    overlay.await_unused(str(tmp_path), 0.05)


def test_the_end_of_a_mount_ends_the_waiting(tmp_path: Path) -> None:
    lock = overlay.lock_in_use(str(tmp_path))
    unmounting = threading.Timer(0.05, os.close, (lock,))
    unmounting.start()
    overlay.await_unused(str(tmp_path), 30.0)
    unmounting.join()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
