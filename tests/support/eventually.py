"""Waiting for what no event tells: asked again and again, with a limit."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

SECONDS = 20.0
_PAUSE = 0.005


async def eventually(holds: Callable[[], bool | Awaitable[bool]], seconds: float = SECONDS) -> None:
    """Returns once `holds()` is true; TimeoutError when it is not within `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            answer = holds()
            if (await answer) if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(_PAUSE)


def until(what: Callable[[], bool], seconds: float = 60.0) -> None:
    """The same where there is no loop, of whole engines on busy machines; AssertionError."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(_PAUSE)


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal (proc_pid_status(5)).

    One that comes before its handler means nothing to the first process of a pid namespace.
    """
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool(int(status["SigCgt"], 16) >> (number - 1) & 1)
