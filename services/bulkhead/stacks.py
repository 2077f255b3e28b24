"""What every task of a service waits for, written to `<run>/<service>.stacks` upon SIGUSR1 (as dockerd does).

A line `<number> tasks`, then each task with its stack, innermost call last. For whoever asks why something hangs, or
whether tasks are left behind.
"""

from __future__ import annotations

import asyncio
import functools
import io
import signal
from pathlib import Path

import structlog

from bulkhead.linux import atomicfile

_LIMIT = 12  # frames of one task


def tell_upon_signal(path: Path) -> None:
    """Write to `path` whenever SIGUSR1 comes; call it in the running loop."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, functools.partial(_tell, path))


def stacks() -> str:
    """Every task of the running loop."""
    tasks = asyncio.all_tasks()
    told = io.StringIO()
    told.write(f"{len(tasks)} tasks\n")
    for task in sorted(tasks, key=asyncio.Task.get_name):
        told.write("\n")
        task.print_stack(limit=_LIMIT, file=told)
    return told.getvalue()


def _tell(path: Path) -> None:
    try:
        atomicfile.write(path, stacks().encode(), durable=False, alone=True)
    except OSError as error:
        structlog.get_logger().warning("cannot write the tasks", path=str(path), error=str(error))
