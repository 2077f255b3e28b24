"""Network namespaces: made, found, and entered by threads that end there.

Everything raises OSError.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from bulkhead.linux import pidfd, threads

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def enter_netns(netns: int) -> None:
    """Move the calling *thread* into a network namespace. Only for threads that end afterwards."""
    if _libc.setns(netns, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"setns: {os.strerror(error)}")


def new_netns() -> int:
    """A descriptor of a new network namespace, which lives as long as anything refers to it."""

    return _on_thread(leave_for_new_netns)


def leave_for_new_netns() -> int:
    """The same; the calling *thread* moves there. Only for threads that end afterwards."""
    if _libc.unshare(_CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"unshare: {os.strerror(error)}")
    return own_netns()


def own_netns() -> int:
    """A descriptor of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def in_netns(netns: int, body: Callable[[], T]) -> T:
    """What `body` returns or raises when a thread of its own calls it inside `netns`.

    The caller's thread stays where it is. Sockets that `body` opens keep belonging to `netns`.
    """

    def enter() -> T:
        enter_netns(netns)
        return body()

    return _on_thread(enter)


@contextmanager
def netns_of(pid: int, start_time: int | None = None) -> Iterator[int]:
    """The network namespace of a process, open for the block.

    Raises ProcessLookupError when the process is gone or, by `start_time`, another one has its pid.
    """
    try:
        netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None
    try:
        if start_time is not None and pidfd.start_time(pid) != start_time:
            raise ProcessLookupError(f"process {pid} is another one now")
        yield netns
    finally:
        os.close(netns)


def _on_thread(body: Callable[[], T]) -> T:
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(body())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="netns")
    with threads.refusal():
        thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
