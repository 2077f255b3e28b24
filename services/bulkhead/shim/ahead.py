"""What a few execs will need, made before they are started: who creates one starts it at once, as a rule.

Their pipes, and what else their process is born with. It is made while the shim has nothing else to do, and leaves the
container alone. An exec for which nothing is ready, or other than it turns out to want, goes the same way: all is made
when it starts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bulkhead.errors import BulkheadError
from bulkhead.shim.container import Container
from bulkhead.shim.loop import Loop, Timer
from bulkhead.shim.ports import Launcher, Ready, Stdio, Task

if TYPE_CHECKING:
    from bulkhead.shim.execs import Exec

# Each has some twenty descriptors.
_MOST = 4
# Who creates an exec and does not start it within a moment may never do so.
_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Made:
    """For one exec: its streams' ends, of which `stdin` says whether that is among them, and the rest."""

    stdin: bool
    stdio: Stdio
    task: Task
    ready: Ready


class Ahead:
    """Those execs, the oldest first."""

    def __init__(self, loop: Loop, container: Container, launcher: Callable[[], Launcher]) -> None:
        self._loop = loop
        self._container = container
        self._launcher = launcher
        self._made: dict[str, tuple[Exec, Made, Timer]] = {}

    def make(self, one: Exec) -> None:
        """For an exec that was not started yet. What goes wrong is told when it starts, if it still does."""
        self.drop(one)
        if not one.planned:
            return
        while len(self._made) >= _MOST:
            self.drop(next(iter(self._made.values()))[0])
        with contextlib.suppress(BulkheadError, OSError):
            made = self._make(one)
            if made is not None:
                self._made[one.exec_id] = one, made, self._loop.later(_SECONDS, lambda: self.drop(one))

    def _make(self, one: Exec) -> Made | None:
        task = self._container.running_task()
        stdio = one.streams.open(tty=one.tty, stdin=one.open_stdin, lasting=True)
        ready = None
        try:
            ready = self._launcher().ready(task=task, planned=one.planned, stdio=stdio)
        finally:
            if ready is None:
                one.streams.abandon()
        return None if ready is None else Made(one.open_stdin, stdio, task, ready)

    def take(self, one: Exec, task: Task, *, stdin: bool, stdout: bool, stderr: bool) -> Made | None:
        """What was made for it, the taker's from now on; None where there is nothing that fits."""
        found = self._made.get(one.exec_id)
        if found is None or found[0] is not one:
            return None
        made = found[1]
        if made.task is not task or not (one.tty or (stdin is made.stdin and stdout and stderr)):
            self.drop(one)
            return None
        self._forget(one)
        return made

    def drop(self, one: Exec) -> None:
        """It is not to be started, or not soon. Harmless when nothing was made for it."""
        found = self._made.get(one.exec_id)
        if found is not None and found[0] is one:
            self._forget(one)
            found[1].ready.close()
            one.streams.abandon()

    def drop_all(self) -> None:
        for one, _, _ in tuple(self._made.values()):
            self.drop(one)

    def _forget(self, one: Exec) -> None:
        self._made.pop(one.exec_id)[2].cancel()
