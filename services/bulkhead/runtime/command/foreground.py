"""A process attended until it ends: our terminal is its terminal, our signals are its signals.

One poll over four descriptors: the wakeup pipe of signals, the process's pidfd, and, when there is a
terminal, our stdin and the master.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import termios
import tty
from collections.abc import Iterator

from bulkhead.linux import atomicfile, pidfd, pty

_CHUNK = 64 << 10
# Not the process's business: how our children fare, our window (passed on by its size), broken pipes of ours,
# what the kernel sends for our own faults, and what cannot be caught.
_OURS = frozenset(
    {
        *(signal.SIGCHLD, signal.SIGWINCH, signal.SIGPIPE, signal.SIGURG, signal.SIGKILL, signal.SIGSTOP),
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS),
    }
)


def attend(process: int, master: int | None, wakeup: int) -> int:
    """Wait for the process (by pidfd) and relay meanwhile; its exit status. Takes the terminal's master over."""
    # What there is stays: the first collection would look through all modules.
    gc.freeze()
    gc.enable()  # not worth its while in a command that ends at once, as `entry` has it
    with _raw_stdin(master):
        relay = _Relay(process, master, wakeup)
        relay.until_exit()
    return pidfd.wait(process).code


@contextlib.contextmanager
def signals() -> Iterator[int]:
    """A descriptor from which the numbers of signals are read as they come: from before there is a process to
    pass them on to, so that none of them ends this command and leaves that behind."""
    receiving, sending = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in signal.valid_signals() - _OURS | {signal.SIGWINCH}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, lambda _number, _frame: None)
    signal.set_wakeup_fd(sending, warn_on_full_buffer=False)
    try:
        yield receiving
    finally:
        signal.set_wakeup_fd(-1)


@contextlib.contextmanager
def _raw_stdin(master: int | None) -> Iterator[None]:
    """Our terminal passes every key on while the process has one; as it was afterwards."""
    if master is None or not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


class _Relay:
    def __init__(self, process: int, master: int | None, wakeup: int) -> None:
        self._process = process
        self._master = master
        self._wakeup = wakeup
        self._poller = select.poll()
        for fd in (process, wakeup):
            self._poller.register(fd, select.POLLIN)
        if master is not None:
            self._resize()
            for fd in (master, 0):
                self._poller.register(fd, select.POLLIN)

    def until_exit(self) -> None:
        ended = False
        while not ended:
            for fd, _ in self._poller.poll():
                ended = ended or fd == self._process
                self._serve(fd)
        if self._master is not None:
            self._drain(self._master)

    def _serve(self, fd: int) -> None:
        if fd == self._wakeup:
            for number in os.read(fd, 256):
                self._signalled(number)
        elif fd == self._master:
            if not _copy(fd, 1):
                self._poller.unregister(fd)
        elif fd == 0 and self._master is not None and not _copy(0, self._master):
            self._poller.unregister(0)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGWINCH:
            self._resize()
        else:
            pidfd.send_signal(self._process, number)

    def _resize(self) -> None:
        with contextlib.suppress(OSError):
            if self._master is not None and os.isatty(0):
                rows, columns = pty.size(0)
                pty.set_size(self._master, rows, columns)

    def _drain(self, master: int) -> None:
        """What the process still said; others may hold its terminal, so nothing is waited for."""
        os.set_blocking(master, False)
        with contextlib.suppress(BlockingIOError):
            while _copy(master, 1):
                pass


def _copy(source: int, target: int) -> bool:
    """One chunk; False at the end. A terminal that nobody has open any more answers EIO."""
    try:
        chunk = os.read(source, _CHUNK)
    except BlockingIOError:
        raise
    except OSError:
        return False
    if not chunk:
        return False
    with contextlib.suppress(OSError):
        atomicfile.write_all(target, chunk)
    return True
