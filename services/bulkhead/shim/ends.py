"""How the processes of a container are ended, and what is heard of their ends."""

from __future__ import annotations

import contextlib
import os
import signal

from bulkhead.linux import process
from bulkhead.shim.ports import Launcher, Task

# A parked process has no exit signal yet: waitid(2) finds it only so.
_WALL = 0x40000000
# The reaper of somebody else's child may come a moment after the pidfd told of its end.
REAP_POLL = 0.02
REAP_TRIES = 150


def kill_everyone(task: Task, number: int) -> None:
    """Send a signal to every process of a cgroup. Raises OSError."""
    if number == signal.SIGKILL:
        task.cgroup.kill_all()
        # Whatever became of its cgroup, the first process must not outlive this.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(task.pidfd, number)
        return
    for pid in task.cgroup.pids():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def end_unwanted(task: Task) -> None:
    """End a task that must not be: it was made, but the fact could not be written. Raises OSError."""
    try:
        with contextlib.suppress(OSError):  # no descriptor may be left to do it with
            task.cgroup.kill_all()
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(task.pidfd, signal.SIGKILL)
            os.waitid(os.P_PIDFD, task.pidfd, os.WEXITED | _WALL)
        task.cgroup.remove()
    finally:
        task.close()


def exit_code(launcher: Launcher, task: Task) -> int | None:
    """None while nobody can tell: an adopted process is another's to reap."""
    try:
        code = launcher.reap(task.pidfd)
    except ChildProcessError:
        code = None
    return process.zombie_exit_code(task.pid) if code is None else code
