"""Threads, where the kernel gives no more of them (EAGAIN of clone(2): a pids cgroup, the machine's limit)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


class Threads(ThreadPoolExecutor):
    """A pool in which work waits for the threads that there are when there can be no more of them.

    Raises RuntimeError only when there is none at all.
    """

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if not self._threads:
                raise


@contextmanager
def refusal() -> Iterator[None]:
    """What Python raises when it cannot start a thread, as the OSError that the kernel meant."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
