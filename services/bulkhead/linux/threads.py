"""Threads for calls that block, also where the kernel gives no more of them (EAGAIN of clone(2): a pids cgroup, the
machine's limit).
"""

from __future__ import annotations

import errno
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


# Whom nobody has called for so long ends (seconds): its stack, and its part of the interpreter's and the C library's
# memory, are a tenth of a megabyte. One stays, for whoever comes next.
IDLE_SECONDS = 10.0

# What it returns is called when the thread is free again: whoever hears of it finds the thread waiting.
_Work = Callable[[], Callable[[], object] | None]


class _Hand:
    """A thread that waits to be called: by its bell, with its work in the hand."""

    __slots__ = ("bell", "work")

    def __init__(self, work: _Work) -> None:
        self.bell = threading.Lock()
        self.bell.acquire()
        self.work: _Work | None = work


class _Crew:
    """Threads that are ended together, and what waits for one of them to be free."""

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()
        # The last that came to rest is the next to be called: what it needs is still in the caches.
        self.idle: list[_Hand] = []
        self.waiting: deque[_Work] = deque()
        self.dismissed = False


class Hands:
    """Threads that take up work as it comes, as many as there is work at once, `most` at most.

    A pool of the standard library tells by two futures, with locks of their own, what nobody here asks: most of what
    the way to its threads and back costs a service that was idle is that code, which is in no cache then. And its
    threads stay for good, as many as there once was work at a time.
    """

    def __init__(self, most: int, name: str, begin: Callable[[], object] = lambda: None) -> None:
        """`begin` is done first by each thread, and must not raise."""
        self._most, self._name, self._begin = most, name, begin
        # A collection of garbage, which may be where the end of a loop is noticed, comes at any time.
        self._lock = threading.RLock()
        self._crew = _Crew()
        self._started = 0

    @property
    def idle(self) -> int:
        """Threads that wait for work."""
        return len(self._crew.idle)

    def do(self, work: _Work) -> None:
        """Have a thread do `work`, which must not raise. When all are at work and there can be no more, it waits.

        Raises RuntimeError when there is no thread at all.
        """
        with self._lock:
            crew = self._crew
            if crew.idle:
                hand = crew.idle.pop()
                hand.work = work
                hand.bell.release()
            elif len(crew.threads) >= self._most or not self._start(crew, work):
                crew.waiting.append(work)

    def close(self, seconds: float | None) -> bool:
        """End the threads when all is done, or leave those behind that are not ready in time: a disk may stand still.

        Whether all was done. The next work brings new threads.
        """
        threads = self.dismiss()
        until = None if seconds is None else time.monotonic() + seconds
        for thread in threads:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def dismiss(self) -> list[threading.Thread]:
        """Let the threads end when all is done; who they are. Waits for nobody."""
        with self._lock:
            crew, self._crew = self._crew, _Crew()
            crew.dismissed = True
            for hand in crew.idle:
                hand.bell.release()
            return [*crew.threads]

    def _start(self, crew: _Crew, work: _Work) -> bool:
        """False when there can be no more of them. Raises RuntimeError when there is none."""
        self._started += 1
        name = f"{self._name}_{self._started}"
        thread = threading.Thread(target=self._serve, args=(crew, _Hand(work)), name=name, daemon=True)
        crew.threads.add(thread)
        try:
            thread.start()
        except RuntimeError:
            crew.threads.discard(thread)
            if not crew.threads:
                raise
            return False
        return True

    def _serve(self, crew: _Crew, hand: _Hand) -> None:
        self._begin()
        while hand.work is not None:
            tell = hand.work()
            # Not kept until the next comes.
            hand.work = None
            idle = self._is_idle(crew, hand)
            if tell is not None:
                tell()
                tell = None
            if idle:
                self._wait(crew, hand)

    def _is_idle(self, crew: _Crew, hand: _Hand) -> bool:
        """It can be called from now on; otherwise it has work again already, or none for good."""
        with self._lock:
            if crew.waiting:
                hand.work = crew.waiting.popleft()
                return False
            if crew.dismissed:
                return False
            crew.idle.append(hand)
            return True

    def _wait(self, crew: _Crew, hand: _Hand) -> None:
        """Until it has work, or none for good."""
        if not hand.bell.acquire(timeout=IDLE_SECONDS) and not self._leaves(crew, hand):
            hand.bell.acquire()

    def _leaves(self, crew: _Crew, hand: _Hand) -> bool:
        """Unless it is the last, or has been called meanwhile."""
        with self._lock:
            if len(crew.threads) == 1 or hand not in crew.idle:
                return False
            crew.idle.remove(hand)
            crew.threads.discard(threading.current_thread())
            return True


class Threads(ThreadPoolExecutor):
    """A pool for asyncio whose threads are `Hands`: they end when they are idle, and work waits for those that there
    are when there can be no more.

    Raises RuntimeError only when there is none at all.
    """

    def __init__(self, most: int, name: str, begin: Callable[[], object] = lambda: None) -> None:
        super().__init__(max_workers=most)
        self._hands = Hands(most, name, begin)

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As ever."""
        if self._shutdown:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()
        self._hands.do(partial(_answer, future, partial(call, *args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """All that was asked for is done, though nobody may wait for it."""
        self._shutdown = True
        if wait:
            self._hands.close(None)
        else:
            self._hands.dismiss()


def _answer(future: Future[T], call: Callable[[], T]) -> Callable[[], None] | None:
    if not future.set_running_or_notify_cancel():
        return None
    try:
        return partial(future.set_result, call())
    except BaseException as error:  # whatever it is, it belongs to who asked
        return partial(future.set_exception, error)
    finally:
        del future  # or it knew the error, which knows this call


@contextmanager
def refusal() -> Iterator[None]:
    """What Python raises when it cannot start a thread, as the OSError that the kernel meant."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error
