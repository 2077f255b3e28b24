"""The shim's loop: epoll, timers, children. What a callback raises is reported; the loop goes on."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import signal
import time
from collections.abc import Callable

Ready = Callable[[int], None]
Report = Callable[[str, BaseException], None]
# After a callback failed, so that one which fails for ever does not burn a core.
_FAILURE_PAUSE = 0.01
# Fewer timers are not looked through for cancelled ones.
_FEW_TIMERS = 64


class Timer:
    """A callback that is due at a moment of the monotonic clock."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call it; harmless when it was called already."""
        self.callback = None


class Loop:
    """Watches descriptors (level-triggered) and timers until told to stop.

    A callback may be called for an event that is gone by then: all descriptors must be non-blocking. But never for
    one of a descriptor that was closed in the same turn and whose number another has by now.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._ready: dict[int, Ready] = {}
        self._added: set[int] = set()  # in this turn: what was polled before is not about them
        self._timers: list[tuple[float, int, Timer]] = []
        self._most_timers = _FEW_TIMERS
        self._order = itertools.count()
        self._running = False
        # Called after each turn in which something happened.
        self.stirred: Callable[[], None] = _nothing

    def open(self) -> None:
        """Make the epoll descriptor, which a fork would share; nothing else works before."""
        self._epoll: select.epoll = select.epoll(flags=select.EPOLL_CLOEXEC)

    def add(self, fd: int, events: int, callback: Ready) -> None:
        """Watch `fd`; EPOLLERR and EPOLLHUP are always watched."""
        self._epoll.register(fd, events)
        self._ready[fd] = callback
        self._added.add(fd)

    def change(self, fd: int, events: int) -> None:
        """Watch `fd` for other events from now on."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Watch `fd` no longer; call it before the descriptor is closed. Harmless when it is not watched."""
        if self._ready.pop(fd, None) is not None:
            try:  # noqa: SIM105 -- of each exec there are many
                self._epoll.unregister(fd)
            except OSError:
                pass

    def later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back once after `seconds`."""
        if len(self._timers) >= self._most_timers:
            self._drop_cancelled()
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def run(self) -> None:
        """Turn until `stop`."""
        self._running = True
        while self._running:
            self.turn(self._patience())

    def stop(self) -> None:
        """Leave `run` after this turn."""
        self._running = False

    def turn(self, timeout: float) -> None:
        """Wait up to `timeout` seconds (-1: for ever) for something, then call what is due."""
        happened = self._epoll.poll(timeout)
        self._added.clear()
        for fd, events in happened:
            callback = self._ready.get(fd)
            if callback is not None and fd not in self._added:
                self._guarded(callback, events)
        if happened:
            self.stirred()
        if not self._timers:
            return
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                self._guarded(timer.callback)

    def close(self) -> None:
        """Give the epoll descriptor back."""
        self._epoll.close()

    def _drop_cancelled(self) -> None:
        """Most are cancelled long before they are due. Looked for again when there are twice as many as stay."""
        self._timers = [each for each in self._timers if each[2].callback is not None]
        heapq.heapify(self._timers)
        self._most_timers = max(_FEW_TIMERS, 2 * len(self._timers))

    def _patience(self) -> float:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return -1
        return max(0.0, self._timers[0][0] - time.monotonic())

    def _guarded(self, callback: Callable[..., None], *arguments: int) -> None:
        try:
            callback(*arguments)
        except Exception as error:
            self._report("callback failed", error)
            time.sleep(_FAILURE_PAUSE)


class Signals:
    """Who of our children has ended. Those that were announced are reported by pidfd; the rest are
    orphans that came to this subreaper, and are only reaped. Also hears the one signal that a shim obeys."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._watched: dict[int, Callable[[], None]] = {}
        self._called: Callable[[], None] = _nothing
        self._read = -1

    def start(self, called: Callable[[], None]) -> None:
        """Listen for SIGCHLD, and for SIGUSR1, upon which `called` is called; after `prepare`, in the main thread."""
        self._read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self._called = called
        self._loop.add(self._read, select.EPOLLIN, self._woken)

    def stop(self) -> None:
        """Listen no more."""
        write = signal.set_wakeup_fd(-1)
        self._loop.remove(self._read)
        for fd in (self._read, write):
            os.close(fd)

    @staticmethod
    def prepare() -> None:
        """Let the signals be noted. Without handlers the kernel's default never reaches a wakeup descriptor."""
        for number in (signal.SIGCHLD, signal.SIGUSR1):
            signal.signal(number, _noted)

    def watch(self, pid: int, pidfd: int, ended: Callable[[], None]) -> None:
        """Call `ended` once when the process ends; a child of ours is a zombie then, for `ended` to reap."""

        def ready(_events: int = 0) -> None:
            if self._watched.pop(pid, None) is not None:
                self._loop.remove(pidfd)
                ended()

        self._watched[pid] = ready
        self._loop.add(pidfd, select.EPOLLIN, ready)

    def forget(self, pid: int, pidfd: int) -> None:
        """Watch a process no longer."""
        if self._watched.pop(pid, None) is not None:
            self._loop.remove(pidfd)

    def _woken(self, _events: int) -> None:
        try:
            numbers = os.read(self._read, 4096)
        except BlockingIOError:
            return
        self._reap_orphans()
        if signal.SIGUSR1 in numbers:
            self._called()

    def _reap_orphans(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                known = self._watched.get(found.si_pid)
                if known is not None:
                    known()
                else:
                    os.waitpid(found.si_pid, os.WNOHANG)


def _noted(*_: object) -> None:
    """The wakeup descriptor has the signal's number."""


def _nothing() -> None:
    """Nobody has asked to be called."""
