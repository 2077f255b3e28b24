"""Threads for calls that block, also where the kernel gives no more of them (EAGAIN of clone(2): a pids cgroup, the
machine's limit).
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue


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


class Hands:
    """Threads that take up work as it comes, as many as there is work at once, `most` at most.

    A pool of the standard library tells by two futures, with locks of their own, what nobody here asks: most of what
    the way to its threads and back costs a service that was idle is that code, which is in no cache then.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._lock = threading.Lock()
        # Threads that wait for work, less the work that waits for a thread.
        self._free = 0
        # Those that `_work` is for: who was left behind has the queue of his time.
        self._threads: list[threading.Thread] = []

    def do(self, work: Callable[[], object]) -> None:
        """Have a thread do `work`, which must not raise. When all are at work and there can be no more, it waits.

        Raises RuntimeError when there is no thread at all.
        """
        with self._lock:
            if self._free <= 0 and len(self._threads) < self._most:
                self._start()
            self._free -= 1
            self._work.put(work)

    def close(self, seconds: float) -> bool:
        """End the threads when all is done, or leave those behind that are not ready in time: a disk may stand still.

        Whether all was done. The next work brings new threads.
        """
        until = time.monotonic() + seconds
        with self._lock:
            threads, self._threads = self._threads, []
            work, self._work = self._work, SimpleQueue()
            self._free = 0
        for _ in threads:
            work.put(None)
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _start(self) -> None:
        thread = threading.Thread(
            target=self._run, args=(self._work,), name=f"{self._name}_{len(self._threads)}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
        else:
            self._threads.append(thread)
            self._free += 1

    def _run(self, queue: SimpleQueue[Callable[[], object] | None]) -> None:
        while (work := queue.get()) is not None:
            work()
            # Not kept until the next comes.
            del work
            with self._lock:
                self._free += queue is self._work


@contextmanager
def refusal() -> Iterator[None]:
    """What Python raises when it cannot start a thread, as the OSError that the kernel meant."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
