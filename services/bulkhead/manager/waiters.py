"""Who waits for the end of which container.

A waiter is armed at once, synchronously: nothing that happens after `register` is missed. Conditions are Docker's
(engine-api.md 3.5).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from bulkhead.errors import InvalidArgument
from bulkhead.model.container import Container
from bulkhead.model.lifecycle import Phase


class Condition(Enum):
    NOT_RUNNING = "not-running"
    NEXT_EXIT = "next-exit"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What a waiter is told; `error` when the container could not be ended or removed as it should."""

    exit_code: int
    error: str = ""


def parse_condition(text: str) -> Condition:
    """Empty means not-running. Raises InvalidArgument."""
    try:
        return Condition(text or "not-running")
    except ValueError:
        raise InvalidArgument(f'invalid condition: "{text}"') from None


class Waiters:
    """The armed waiters of all containers."""

    def __init__(self) -> None:
        self._exits: dict[str, set[asyncio.Future[Ended]]] = {}
        self._removals: dict[str, set[asyncio.Future[Ended]]] = {}

    @contextlib.contextmanager
    def armed(self, container: Container, condition: Condition) -> Iterator[asyncio.Future[Ended]]:
        """A future that is done when `condition` comes true; disarmed at the end of the block."""
        future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        at_rest = not container.phase.alive and container.phase is not Phase.RESTARTING
        if condition is Condition.NOT_RUNNING and at_rest:
            future.set_result(Ended(exit_code=container.exit_code))
            yield future
            return
        armed = self._removals if condition is Condition.REMOVED else self._exits
        waiting = armed.setdefault(container.id, set())
        waiting.add(future)
        try:
            yield future
        finally:
            waiting.discard(future)
            if not waiting and armed.get(container.id) is waiting:
                del armed[container.id]

    def exited(self, container_id: str, exit_code: int) -> None:
        """Wake who waits for an exit."""
        _wake(self._exits.pop(container_id, ()), Ended(exit_code=exit_code))

    def removed(self, container_id: str, exit_code: int, error: str = "") -> None:
        """Wake everybody who still waits for this container; `error` when its removal failed."""
        ended = Ended(exit_code=exit_code, error=error)
        _wake(self._removals.pop(container_id, ()), ended)
        _wake(self._exits.pop(container_id, ()), ended)


def _wake(waiting: set[asyncio.Future[Ended]] | tuple[()], ended: Ended) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(ended)
