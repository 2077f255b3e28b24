"""A limit for a system call that has none of its own: a signal ends it (setitimer(2), signal(7))."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """What waits within this is over after so long: TimeoutError. In the main thread only; one at a time."""
    before = signal.signal(signal.SIGALRM, _ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        # It may ring until it is off.
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, before)


def _ring(*_: object) -> None:
    raise TimeoutError("it took too long")
